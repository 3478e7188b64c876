//! Publishing: which queues take a message.

use crate::check::check;

#[test]
fn every_message_that_a_queue_takes_gets_the_next_position() {
    check(
        "
        queue q
        publish q a, b -> 1..2 in 1, synced
        publish nowhere c -> 0 in 0, buffered
        publish q d -> 3 in 1, synced
        counts q -> published=3
        ",
    );
}

#[test]
fn one_publish_reaches_every_queue_that_is_bound() {
    check(
        "
        queue orders bind=order.*
        queue audit bind=#
        queue eu bind=#.eu,order.created
        publish order.created a -> 1 in 3, synced
        publish order.created.eu b -> 2 in 2, synced
        publish audit c -> 3 in 1, synced
        peek orders -> a ready
        peek audit -> a ready, b ready, c ready
        peek eu -> a ready, b ready
        ",
    );
}

#[test]
fn a_queue_with_several_matching_bindings_takes_a_message_once() {
    check(
        "
        queue q bind=a.*,a.#,#
        publish a.b a -> 1 in 1, synced
        publish q b -> 2 in 1, synced
        counts q -> ready=2 published=2
        ",
    );
}

#[test]
fn entries_of_a_message_in_several_queues_are_settled_apart() {
    check(
        "
        queue q bind=t
        queue r bind=t
        publish t a
        subscribe alice q
        deliver -> alice: a(1)
        ack alice a
        counts q -> ready=0
        counts r -> ready=1
        ",
    );
}

#[test]
fn mandatory_refuses_what_nobody_would_receive_and_publishes_nothing() {
    check(
        "
        queue q
        publish q a mandatory -> 1 in 1, synced
        publish nowhere b, c mandatory -> error: messages[0] would reach no queue: none is bound to topic \"nowhere\"
        synced -> nothing
        publish q d -> 2 in 1, synced
        ",
    );
}

#[test]
fn a_buffered_queue_asks_for_no_sync() {
    check(
        "
        queue b durability=buffered bind=t
        synced -> synced
        publish b a -> 1 in 1, buffered
        subscribe alice
        deliver -> alice: a(1)
        synced -> nothing
        nack alice a
        synced -> buffered
        deliver -> alice: a(2)
        ack alice a
        synced -> buffered
        queue s bind=t
        publish t b -> 2 in 2, synced
        update b durability=synced
        publish b c -> 3 in 1, synced
        deliver -> alice: b(1), c(1)
        ack alice b
        synced -> synced
        ",
    );
}

#[test]
fn what_leaves_no_fact_behind_needs_no_disk() {
    check(
        "
        queue q
        publish q a
        subscribe alice
        synced -> nothing
        deliver -> alice: a(1)
        synced -> nothing
        extend alice a 60s
        synced -> nothing
        release alice a
        synced -> nothing
        ",
    );
}

#[test]
fn bytes_count_what_waits_whatever_its_state() {
    check(
        "
        queue q
        publish q a:100, b:200, c:300
        counts q -> bytes=600
        subscribe alice
        deliver -> alice: a(1), b(1), c(1)
        counts q -> bytes=600
        ack alice a
        nack alice b retry_after=1h
        counts q -> bytes=500 delayed=1 leased=1
        reject alice c
        counts q -> bytes=200
        counts q.dlq -> bytes=300
        ",
    );
}
