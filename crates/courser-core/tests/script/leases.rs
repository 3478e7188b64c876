//! Deliveries, and what becomes of a lease.

use crate::check::check;

#[test]
fn first_deliveries_come_in_publish_order() {
    check(
        "
        queue q
        publish q a, b
        publish q c
        subscribe alice
        deliver -> alice: a(1), b(1), c(1)
        publish q d
        deliver -> alice: d(1)
        ",
    );
}

#[test]
fn an_ack_is_for_good() {
    check(
        "
        queue q lease=30s
        publish q a, b
        subscribe alice
        deliver -> alice: a(1), b(1)
        ack alice a
        counts q -> ready=0 leased=1 acked=1 held=1 processed=1
        29s peek q -> b leased alice 30s
        60s counts q -> acked=1 expired=1 ready=1
        ",
    );
}

#[test]
fn an_expired_lease_returns_the_entry_to_the_front() {
    check(
        "
        queue q lease=30s
        publish q a, b, c
        subscribe alice credit=1
        deliver -> alice: a(1)
        30s deliver -> alice: a(2)
        ack alice a
        deliver -> alice: b(1)
        counts q -> expired=1 acked=1 ready=1 leased=1
        history q b -> nothing
        ",
    );
}

#[test]
fn a_lease_lasts_until_its_last_microsecond() {
    check(
        "
        queue q lease=30s
        publish q a
        subscribe alice
        1s deliver -> alice: a(1)
        next -> 31s
        30999999us counts q -> leased=1
        31s counts q -> leased=0 ready=1
        ",
    );
}

#[test]
fn a_consumer_may_ask_for_its_own_lease() {
    check(
        "
        queue q lease=30s
        publish q a, b
        subscribe alice credit=1 lease=5s
        subscribe bob credit=1
        deliver -> alice: a(1); bob: b(1)
        peek q -> a leased alice 5s, b leased bob 30s
        ",
    );
}

#[test]
fn a_released_entry_goes_back_to_its_old_place_without_blame() {
    check(
        "
        queue q
        publish q a, b, c
        subscribe alice credit=2
        deliver -> alice: a(1), b(1)
        release alice a
        deliver -> alice: a(1)
        release alice b
        release alice a
        deliver -> alice: a(1), b(1)
        counts q -> released=3 nacked=0
        history q a -> nothing
        ",
    );
}

#[test]
fn a_late_ack_is_honoured_while_nobody_else_holds_the_entry() {
    check(
        "
        queue q lease=30s backoff=10s
        publish q a
        subscribe alice
        deliver -> alice: a(1)
        31s counts q -> delayed=1
        ack alice a
        counts q -> delayed=0 ready=0 acked=1 bytes=0
        ack alice a -> error: no such lease
        next -> never
        60s deliver -> nothing
        ",
    );
}

#[test]
fn a_late_ack_is_honoured_also_when_the_entry_is_ready_again() {
    check(
        "
        queue q lease=30s
        publish q a, b
        subscribe alice credit=2
        deliver -> alice: a(1), b(1)
        30s ack alice b
        deliver -> alice: a(2)
        ",
    );
}

#[test]
fn a_late_ack_is_honoured_also_when_memory_let_go_of_the_entry() {
    check(
        "
        queue q lease=30s backoff=10h backoff_max=20h
        publish q 1..3000
        subscribe alice credit=2
        deliver -> alice: 1..2(1)
        ack alice 2
        detach alice
        subscribe bob
        deliver -> bob: 3..3000(1)
        31s counts q -> delayed=2999
        checkpoint
        ack alice 1
        counts q -> delayed=2998
        checkpoint
        ack bob 2000
        counts q -> delayed=2997
        ",
    );
}

#[test]
fn a_late_dead_letter_is_honoured_too() {
    check(
        "
        queue q lease=30s
        publish q a
        subscribe alice
        deliver -> alice: a(1)
        30s reject alice a reason=poison
        history q.dlq a -> poison from q | 1 expired by alice
        reject alice a reason=poison -> error: no such lease
        ",
    );
}

#[test]
fn a_late_answer_is_refused_once_somebody_else_holds_the_entry() {
    check(
        "
        queue q lease=30s
        publish q a
        subscribe alice
        deliver -> alice: a(1)
        30s subscribe bob
        disconnect alice
        deliver -> bob: a(2)
        ack alice a -> error: has ended
        reject alice a -> error: has ended
        ack bob a
        ack alice a -> error: has ended
        ",
    );
}

#[test]
fn a_late_nack_release_or_extend_comes_too_late() {
    check(
        "
        queue q lease=30s
        publish q a
        subscribe alice
        deliver -> alice: a(1)
        31s nack alice a -> error: has ended
        release alice a -> error: has ended
        extend alice a 10s -> error: has ended
        counts q -> ready=1 nacked=0
        ",
    );
}

#[test]
fn a_lease_is_settled_once() {
    check(
        "
        queue q
        publish q a, b, c, d
        subscribe alice
        deliver -> alice: a(1), b(1), c(1), d(1)
        ack alice a
        ack alice a -> error: no such lease
        nack alice b
        ack alice b -> error: no such lease
        release alice c
        ack alice c -> error: no such lease
        reject alice d
        ack alice d -> error: no such lease
        counts q -> ready=2 acked=1 dead=1
        ",
    );
}

#[test]
fn a_lease_that_was_never_issued_is_unknown() {
    check(
        "
        queue q
        ack nobody 0 -> error: no such lease
        ack nobody 281474976710733 -> error: no such lease
        ack nobody 18446744073709551615 -> error: no such lease
        ",
    );
}

#[test]
fn a_lease_of_an_earlier_start_has_ended() {
    check(
        "
        queue q
        publish q a
        subscribe alice
        deliver -> alice: a(1)
        restart
        ack alice a -> error: has ended
        counts q -> ready=1
        ",
    );
}

#[test]
fn an_extension_counts_from_now() {
    check(
        "
        queue q lease=30s
        publish q a
        subscribe alice
        deliver -> alice: a(1)
        20s extend alice a 60s
        next -> 80s
        30s counts q -> leased=1
        40s extend alice a 5s
        next -> 45s
        45s counts q -> leased=0 ready=1 expired=1
        ",
    );
}

#[test]
fn a_lease_lasts_seven_days_at_most() {
    check(
        "
        queue q lease=12h
        publish q a
        subscribe alice
        1h deliver -> alice: a(1)
        12h extend alice a 12h
        23h extend alice a 140h
        160h extend alice a 10h -> error: 32400s are left
        extend alice a 32400s
        168h extend alice a 1h
        169h counts q -> leased=0
        ",
    );
}

#[test]
fn extending_moves_the_deadline_that_time_jumps_to() {
    check(
        "
        queue q lease=30s
        publish q a, b
        subscribe alice
        deliver -> alice: a(1), b(1)
        next -> 30s
        extend alice a 30s
        extend alice a 50s
        ack alice b
        next -> 50s
        ack alice a
        next -> never
        ",
    );
}

#[test]
fn a_lease_keeps_its_deadline_when_the_queue_gets_another() {
    check(
        "
        queue q lease=30s
        publish q a, b
        subscribe alice credit=1
        deliver -> alice: a(1)
        update q lease=10s
        peek q leased -> a leased alice 30s
        ack alice a
        deliver -> alice: b(1)
        peek q leased -> b leased alice 10s
        ",
    );
}
