//! Who is handed what: credit, fairness, pauses.

use crate::check::check;

#[test]
fn credit_bounds_what_a_consumer_holds() {
    check(
        "
        queue q
        publish q 1..5
        subscribe alice credit=2
        deliver -> alice: 1..2(1)
        deliver -> nothing
        ack alice 1
        deliver -> alice: 3(1)
        nack alice 2
        deliver -> alice: 2(2)
        release alice 2
        deliver -> alice: 2(2)
        reject alice 3
        deliver -> alice: 4(1)
        counts q -> held=2 leased=2 ready=1
        ",
    );
}

#[test]
fn what_is_handed_over_counts_as_of_more_while_credit_holds_up_the_rest() {
    check(
        "
        queue q
        queue r
        publish q 1..5
        publish r 11
        subscribe alice credit=3
        subscribe bob r credit=3
        deliver -> alice: 1..3(1); bob: 11(1)
        of_more -> 3
        of_more -> 0
        ack alice 1
        deliver -> alice: 4(1)
        of_more -> 1
        ack alice 2
        ack alice 3
        deliver -> alice: 5(1)
        of_more -> 0
        ",
    );
}

#[test]
fn what_the_next_turn_goes_on_with_is_not_held_up_by_credit() {
    check(
        "
        queue q
        publish q 1..200
        subscribe alice credit=200
        subscribe bob credit=200
        deliver limit=128 -> alice: 1..64(1), 129..164(1); bob: 65..128(1), 165..200(1)
        of_more -> 0
        ",
    );
}

#[test]
fn what_connections_have_not_taken_is_not_held_up_by_credit() {
    check(
        "
        queue q
        publish q 1..10:200000
        subscribe alice slow credit=10
        deliver -> alice: 1..6(1)
        of_more -> 0
        ",
    );
}

#[test]
fn credit_comes_back_when_a_lease_runs_out() {
    check(
        "
        queue q lease=30s backoff=1h backoff_max=1h
        publish q a, b
        subscribe alice credit=1
        deliver -> alice: a(1)
        30s counts q -> held=0
        deliver -> alice: b(1)
        ",
    );
}

#[test]
fn credit_is_counted_in_bytes_too() {
    check(
        "
        queue q
        publish q a:400, b:400, c:400, d:100
        subscribe alice bytes=1000
        deliver -> alice: a(1), b(1)
        counts q -> held=2 held_bytes=800
        ack alice a
        deliver -> alice: c(1), d(1)
        counts q -> held=3 held_bytes=900
        publish q e:200
        deliver -> nothing
        ack alice d
        deliver -> alice: e(1)
        counts q -> held=3 held_bytes=1000
        ",
    );
}

#[test]
fn a_message_beyond_all_credit_comes_alone() {
    check(
        "
        queue q
        publish q a:10, big:5000, b:10
        subscribe alice bytes=1000
        deliver -> alice: a(1)
        ack alice a
        deliver -> alice: big(1)
        deliver -> nothing
        ack alice big
        deliver -> alice: b(1)
        ",
    );
}

#[test]
fn a_connection_that_takes_nothing_is_handed_a_window_only() {
    check(
        "
        queue q
        publish q 1..10:200000
        subscribe alice slow
        deliver -> alice: 1..6(1)
        blocked -> alice
        blocked -> nobody
        taken alice 5
        deliver -> alice: 7..10(1)
        blocked -> nobody
        ",
    );
}

#[test]
fn the_window_of_a_connection_is_counted_in_messages_too() {
    check(
        "
        queue q
        publish q 1..4096
        subscribe alice slow
        subscribe bob credit=1 slow
        deliver -> alice: 1..64(1), 66..4096(1); bob: 65(1)
        publish q 5001
        deliver -> alice: 5001(1)
        publish q 5002
        deliver -> nothing
        blocked -> alice
        taken alice 4
        deliver -> alice: 5002(1)
        blocked -> nobody
        ",
    );
}

#[test]
fn one_message_goes_beyond_the_window_and_nothing_after_it() {
    check(
        "
        queue q
        publish q a:10, big:3000000, b:10
        subscribe alice slow
        deliver -> alice: a(1), big(1)
        taken alice 1
        deliver -> nothing
        taken alice 2
        deliver -> alice: b(1)
        ",
    );
}

#[test]
fn competing_consumers_share_fairly() {
    check(
        "
        queue q
        subscribe alice
        subscribe bob
        subscribe carol
        publish q 1..6
        deliver -> alice: 1..2(1); bob: 3..4(1); carol: 5..6(1)
        publish q 7..206
        deliver -> alice: 7..70(1), 199..200(1), 205(1); bob: 71..134(1), 201..202(1), 206(1); carol: 135..198(1), 203..204(1)
        ",
    );
}

#[test]
fn a_stalled_consumer_holds_up_nobody() {
    check(
        "
        queue q
        publish q 1..300
        subscribe stalled credit=1
        subscribe alice credit=200
        subscribe slow slow credit=5
        deliver limit=10 -> stalled: 1(1); alice: 2..65(1), 71..206(1); slow: 66..70(1)
        ack alice 2
        deliver -> alice: 207(1)
        ",
    );
}

#[test]
fn a_big_message_that_fits_nobody_now_waits_for_credit_in_its_place() {
    check(
        "
        queue q
        publish q a:10, big:5000, b:10
        subscribe alice bytes=1000
        deliver -> alice: a(1)
        subscribe bob
        deliver -> bob: big(1); alice: b(1)
        ",
    );
}

#[test]
fn what_goes_first_once_the_big_message_is_gone_is_delivered_at_once() {
    check(
        "
        queue q
        publish q big:5000, a:10, c:10, huge:5000, d:10
        subscribe bob credit=1 lease=10s
        subscribe alice bytes=1000 credit=2
        deliver -> bob: big(1); alice: a(1), c(1)
        detach bob
        10s ack alice c
        deliver -> nothing
        ack bob big
        deliver -> nothing
        purge q limit=1 -> 1
        deliver -> alice: d(1)
        ",
    );
}

#[test]
fn a_paused_queue_takes_messages_and_delivers_none() {
    check(
        "
        queue q
        subscribe alice credit=1
        publish q a, b
        deliver -> alice: a(1)
        pause q
        publish q c
        ack alice a
        deliver -> nothing
        subscribe bob
        deliver -> nothing
        counts q -> ready=2 paused=1
        resume q
        deliver -> alice: b(1); bob: c(1)
        ",
    );
}

#[test]
fn in_a_paused_queue_leases_run_out_and_settlements_count() {
    check(
        "
        queue q lease=30s
        subscribe alice
        publish q a, b
        deliver -> alice: a(1), b(1)
        pause q
        nack alice a
        30s peek q -> a ready, b ready
        deliver -> nothing
        ",
    );
}

#[test]
fn auto_ack_settles_as_it_hands_over() {
    check(
        "
        queue q lease=30s
        publish q a:10, b:10
        subscribe alice auto_ack credit=1
        deliver -> alice: a(1), b(1)
        counts q -> ready=0 leased=0 acked=2 delivered=2 bytes=0 held=0
        next -> never
        disconnect alice
        counts q -> ready=0 disconnected=0
        restart
        counts q -> ready=0
        ",
    );
}

#[test]
fn auto_ack_stops_at_the_window_of_the_connection() {
    check(
        "
        queue q
        publish q 1..5000
        subscribe alice auto_ack slow
        deliver -> alice: 1..4096(1)
        counts q -> ready=904 acked=4096
        ",
    );
}

#[test]
fn a_consumer_with_a_limit_is_given_so_many_and_no_more() {
    check(
        "
        queue q lease=30s
        publish q 1..5
        subscribe alice limit=3
        deliver -> alice: 1..3(1)
        ack alice 1
        release alice 2
        deliver -> nothing
        subscribe bob auto_ack limit=1
        deliver -> bob: 2(1)
        counts q -> ready=2 leased=1 acked=2 delivered=4
        ",
    );
}

#[test]
fn a_consumer_that_drains_settles_what_it_holds_and_gets_no_more() {
    check(
        "
        queue q lease=30s
        publish q a, b, c
        subscribe alice credit=2
        deliver -> alice: a(1), b(1)
        drain alice
        ack alice a -> ok
        release alice b -> ok
        deliver -> nothing
        subscribe bob
        deliver -> bob: b(1), c(1)
        disconnect alice
        counts q -> ready=0 leased=2 disconnected=0
        ",
    );
}

#[test]
fn a_consumer_needs_its_queue() {
    check(
        "
        queue q
        subscribe alice nowhere -> error: no queue \"nowhere\"
        subscribe alice q
        counts q -> consumers=1
        disconnect alice
        counts q -> consumers=0
        ",
    );
}

#[test]
fn busy_queues_have_their_turn_one_after_the_other() {
    check(
        "
        queue q
        queue r
        publish q 1..100
        publish r 101..200
        subscribe alice q
        subscribe bob r
        deliver limit=64 -> alice: 1..100(1); bob: 101..200(1)
        ",
    );
}
