//! What a restart keeps, with the index as the last checkpoint left it and the log after that.

use crate::check::check;

#[test]
fn a_restart_gives_back_what_was_leased_without_blame() {
    check(
        "
        queue q max_attempts=2
        publish q a, b, c
        subscribe alice credit=2
        deliver -> alice: a(1), b(1)
        ack alice a
        restart
        counts q -> ready=2 leased=0 consumers=0
        subscribe bob
        deliver -> bob: b(1), c(1)
        ",
    );
}

#[test]
fn attempts_and_delays_outlive_a_restart() {
    check(
        "
        queue q backoff=10s lease=5s
        publish q a, b
        subscribe alice
        deliver -> alice: a(1), b(1)
        1s nack alice a error=one
        restart
        peek q -> a delayed 11s, b ready
        next -> 11s
        history q a -> 1 nacked by alice: one
        checkpoint
        restart
        peek q -> a delayed 11s, b ready
        history q a -> 1 nacked by alice: one
        11s subscribe bob
        deliver -> bob: a(2), b(1)
        ",
    );
}

#[test]
fn a_delay_that_passed_while_the_broker_was_down_is_over() {
    check(
        "
        queue q backoff=10s
        publish q a, b
        subscribe alice
        deliver -> alice: a(1), b(1)
        nack alice a
        nack alice b retry_after=0s
        checkpoint
        60s restart
        next -> never
        peek q -> a ready, b ready
        ",
    );
}

#[test]
fn definitions_outlive_a_restart() {
    check(
        "
        queue q lease=10s bind=t.*
        queue r
        update q lease=20s bind=u
        checkpoint
        delete r -> 0 and 0 dead
        queue s dead_letter=off
        restart
        queue q lease=20s bind=u -> was there
        queue r dead_letter=off -> made
        queue s dead_letter=off -> was there
        publish u a -> 1 in 1, synced
        publish t.x b -> 0 in 0, buffered
        ",
    );
}

#[test]
fn positions_go_on_after_a_restart() {
    check(
        "
        queue q
        publish q a, b
        publish nowhere c
        restart
        publish q d -> 3 in 1, synced
        checkpoint
        restart
        publish q e -> 4 in 1, synced
        peek q -> a ready, b ready, d ready, e ready
        ",
    );
}

#[test]
fn dead_letters_outlive_a_restart_with_their_history() {
    check(
        "
        queue q max_attempts=1
        publish q a, b
        subscribe alice
        deliver -> alice: a(1), b(1)
        nack alice a error=why
        checkpoint
        nack alice b
        restart
        counts q -> ready=0 dead=2
        history q.dlq a -> max_attempts from q: why | 1 nacked by alice: why
        redrive q.dlq -> 2
        checkpoint
        restart
        counts q -> ready=2 dead=0
        history q b -> 1 nacked by alice | redriven 1
        ",
    );
}

#[test]
fn an_ack_that_empties_a_chunk_outlives_the_checkpoint_after_it() {
    check(
        "
        queue q
        publish q 1..300
        subscribe alice credit=255
        deliver -> alice: 1..255(1)
        purge q limit=1 -> 1
        detach alice
        restart
        purge q limit=254 -> 254
        subscribe bob credit=1
        deliver -> bob: 255(1)
        checkpoint -> 2 queues, 2 chunks
        ack bob 255
        checkpoint -> 2 queues, 1 chunks
        restart
        counts q -> ready=44
        ",
    );
}

#[test]
fn a_long_queue_is_delivered_in_order_whatever_memory_holds() {
    check(
        "
        queue q
        publish q 1..2000
        checkpoint
        publish q 2001..3000
        checkpoint
        subscribe alice credit=1500
        deliver -> alice: 1..1500(1)
        checkpoint
        disconnect alice
        checkpoint
        restart
        subscribe bob
        deliver -> bob: 1..1500(2), 1501..3000(1)
        ",
    );
}

#[test]
fn publishing_goes_on_behind_what_the_index_holds() {
    check(
        "
        queue q
        publish q 1..300
        checkpoint
        restart
        publish q 301..600
        restart
        publish q 601..700
        checkpoint
        restart
        subscribe alice
        deliver -> alice: 1..700(1)
        ",
    );
}

#[test]
fn what_happens_while_a_checkpoint_is_on_its_way_is_in_the_next() {
    check(
        "
        queue q
        publish q 1..1000
        subscribe alice credit=300
        checkpoint begin
        deliver -> alice: 1..300(1)
        ack alice 1
        nack alice 2 error=why
        publish q 1001..1100
        checkpoint end
        ack alice 3
        restart
        counts q -> ready=1098 delayed=0
        checkpoint
        restart
        counts q -> ready=1098 delayed=0
        history q 2 -> 1 nacked by alice: why
        ",
    );
}

#[test]
fn a_crash_in_the_middle_of_a_checkpoint_loses_nothing() {
    for _ in 0..20 {
        check(
            "
            queue q max_attempts=2
            publish q 1..1000
            subscribe alice credit=500
            deliver -> alice: 1..500(1)
            ack alice 1
            nack alice 2
            checkpoint
            ack alice 3
            deliver -> alice: 2(2), 501..502(1)
            nack alice 2
            queue r bind=t
            publish t x, y
            checkpoint begin
            publish q 1001..1100
            crash
            counts q -> ready=1097 dead=1
            counts r -> ready=2
            checkpoint
            restart
            counts q -> ready=1097 dead=1
            counts r -> ready=2
            ",
        );
    }
}

#[test]
fn a_chunk_that_a_replay_empties_and_fills_again_is_told_of_once() {
    check(
        "
        queue q lease=30s
        publish q 1..10
        checkpoint -> 2 queues, 1 chunks
        subscribe alice
        deliver -> alice: 1..10(1)
        ack alice 1
        ack alice 2
        ack alice 3
        ack alice 4
        ack alice 5
        ack alice 6
        ack alice 7
        ack alice 8
        ack alice 9
        ack alice 10
        publish q 11..300
        checkpoint begin
        crash after_queues
        counts q -> ready=290
        checkpoint -> 2 queues, 2 chunks
        restart
        counts q -> ready=290
        subscribe alice
        deliver -> alice: 11..300(1)
        ",
    );
}

#[test]
fn what_failed_without_a_delay_is_ready_after_a_restart_whatever_the_clock_says() {
    check(
        "
        queue q lease=30s
        publish q a, b
        subscribe alice
        deliver -> alice: a(1), b(1)
        nack alice a
        nack alice b retry_after=1h
        restart an_hour_earlier
        peek q -> a ready, b delayed 3600s
        ",
    );
}

#[test]
fn queues_that_came_and_went_around_a_crash_leave_nothing_behind() {
    check(
        "
        queue q
        queue r
        publish r a
        checkpoint
        delete r -> 1 and 0 dead
        queue r
        publish r b
        checkpoint begin
        crash
        peek r -> b ready
        delete r -> 1 and 0 dead
        restart
        checkpoint -> 2 queues, 0 chunks
        ",
    );
}

#[test]
fn a_delay_that_passes_while_a_checkpoint_is_on_its_way_is_over_for_good() {
    check(
        "
        queue q backoff=10s
        publish q 1..3000
        subscribe alice
        deliver -> alice: 1..3000(1)
        nack alice 2000
        restart
        checkpoint begin
        10s checkpoint end
        subscribe bob
        deliver -> bob: 1..1999(1), 2000(2), 2001..3000(1)
        ",
    );
}
