//! Queues come, change and go.

use courser_core::{broker::Broker, error::QueueError, limits, options::QueueOptions};

use crate::check::{START, check};

#[test]
fn creating_a_queue_again_is_fine() {
    check(
        "
        queue q lease=30s bind=b.*,a.* -> made
        queue q lease=30s bind=a.*,b.*,a.*,q -> was there
        synced -> nothing
        queue q lease=30s bind=a.*,b.* paused -> was there
        counts q -> paused=0
        ",
    );
}

#[test]
fn creating_a_queue_with_other_options_names_what_differs() {
    check(
        "
        queue q lease=30s max_attempts=3
        queue q lease=40s max_attempts=3 -> error: queue \"q\" exists with other options: lease is 30s, not 40s
        queue q lease=40s max_attempts=4 -> error: lease is 30s, not 40s; max_attempts is 3, not 4
        queue q bind=x max_attempts=3 -> error: bindings is [], not [\"x\"]
        queue q durability=buffered dead_letter=off max_attempts=3 -> error: dead_letter.enabled is true, not false; durability is Synced, not Buffered
        ",
    );
}

#[test]
fn options_outside_their_limits_are_refused_by_name() {
    check(
        "
        queue q lease=999ms -> error: options.lease must be from 1s to 12h
        queue q lease=13h -> error: options.lease
        queue q max_attempts=1001 -> error: options.max_attempts must be from 0 to 1000
        queue q backoff=25h backoff_max=25h -> error: options.backoff.initial must be from 0s to 24h
        queue q backoff=2s backoff_max=1s -> error: options.backoff.max must be from backoff.initial to 24h
        queue q multiplier=0.5 -> error: options.backoff.multiplier must be from 1 to 10
        queue q multiplier=NaN -> error: options.backoff.multiplier
        queue q jitter=1.1 -> error: options.backoff.jitter must be from 0 to 1
        counts q -> error: no queue \"q\"
        queue q lease=1s
        update q lease=13h -> error: options.lease
        counts q.dlq -> ready=0
        ",
    );
}

#[test]
fn a_queue_has_its_dead_letter_queue_from_the_start() {
    check(
        "
        queue q
        counts q.dlq -> ready=0 dead_of=q
        queue q.dlq -> error: \"q.dlq\" is the dead-letter queue of \"q\": it was made with its queue
        queue r dead_letter=off
        counts r.dlq -> error: no queue
        publish q.dlq a -> 1 in 1, synced
        ",
    );
}

#[test]
fn the_name_of_a_dead_letter_queue_may_be_taken_or_too_long() {
    let name = "n".repeat(252);
    check(&format!(
        "
        queue q.dlq dead_letter=off
        queue q -> error: the name \"q.dlq\" is taken
        counts q -> error: no queue
        queue {name} -> error: name must have at most 251 bytes
        queue {name} dead_letter=off -> made
        update {name} dead_letter=on -> error: name must have at most 251 bytes
        "
    ));
}

#[test]
fn bindings_change_live() {
    check(
        "
        queue q bind=a.*,b.*
        publish a.x a -> 1 in 1, synced
        update q bind=b.*,c.#
        publish a.x b -> 0 in 0, buffered
        publish c c -> 2 in 1, synced
        publish q d -> 3 in 1, synced
        update q bind=
        publish c e -> 0 in 0, buffered
        publish q f -> 4 in 1, synced
        peek q -> a ready, c ready, d ready, f ready
        ",
    );
}

#[test]
fn a_binding_goes_without_those_that_mean_the_same() {
    check(
        "
        queue q bind=a.#,a.#.#
        update q bind=a.#
        publish a.b a -> 1 in 1, synced
        update q bind=a.#.#
        publish a.b b -> 2 in 1, synced
        ",
    );
}

#[test]
fn an_update_that_changes_nothing_leaves_no_fact() {
    check(
        "
        queue q lease=30s
        update q lease=30s
        synced -> nothing
        update nowhere lease=30s -> error: no queue \"nowhere\"
        ",
    );
}

#[test]
fn dead_letters_can_be_switched_off_once_there_are_none() {
    check(
        "
        queue q max_attempts=1
        publish q a, b
        subscribe alice credit=1
        deliver -> alice: a(1)
        nack alice a
        update q dead_letter=off -> error: it holds 0 entries, and 1 dead letters
        subscribe carol q.dlq
        deliver -> alice: b(1); carol: a(1)
        update q dead_letter=off -> error: 1 dead letters
        ack carol a
        update q dead_letter=off
        ended -> carol
        counts q.dlq -> error: no queue
        nack alice b
        counts q -> delayed=1
        update q dead_letter=on
        counts q.dlq -> ready=0 dead_of=q
        ",
    );
}

#[test]
fn a_dead_letter_queue_has_options_of_its_own_and_no_dead_letters() {
    check(
        "
        queue q
        update q.dlq lease=10s max_attempts=3
        update q.dlq dead_letter=on -> error: it has none of its own
        delete q.dlq -> error: it goes when its queue is deleted
        ",
    );
}

#[test]
fn deleting_a_queue_ends_its_consumers_and_its_leases() {
    check(
        "
        queue q lease=30s bind=t max_attempts=1
        publish q a, b, c
        subscribe alice credit=2
        subscribe carol q.dlq
        deliver -> alice: a(1), b(1)
        nack alice a
        deliver -> alice: c(1); carol: a(1)
        delete q -> 2 and 1 dead
        ended -> carol, alice
        ended -> nobody
        ack alice b -> error: no such lease
        ack carol a -> error: no such lease
        next -> never
        publish t d -> 0 in 0, buffered
        publish q d -> 0 in 0, buffered
        counts q -> error: no queue \"q\"
        delete q -> error: no queue \"q\"
        subscribe alice q -> error: no queue \"q\"
        40s deliver -> nothing
        ",
    );
}

#[test]
fn a_queue_may_be_deleted_only_if_empty() {
    check(
        "
        queue q
        publish q a
        delete q if_empty -> error: queue \"q\" is not empty: it holds 1 entries, and 0 dead letters
        subscribe alice
        deliver -> alice: a(1)
        reject alice a
        delete q if_empty -> error: it holds 0 entries, and 1 dead letters
        purge q.dlq -> 1
        delete q if_empty -> 0 and 0 dead
        ended -> alice
        ",
    );
}

#[test]
fn a_queue_made_anew_has_nothing_of_the_old_one() {
    check(
        "
        queue q lease=30s
        publish q a
        subscribe alice
        deliver -> alice: a(1)
        delete q -> 1 and 0 dead
        queue q lease=40s -> made
        counts q -> ready=0 leased=0 consumers=0 published=0
        ack alice a -> error: no such lease
        publish q b
        restart
        peek q -> b ready
        ",
    );
}

#[test]
fn a_broker_has_so_many_queues_and_no_more() {
    let mut broker = Broker::new(1, 1);
    let options = |dead_letter| QueueOptions {
        dead_letter,
        ..QueueOptions::default()
    };
    for number in 1..limits::QUEUES_MAX {
        let name = format!("q{number}");
        assert_eq!(broker.create_queue(START, &name, options(false)), Ok(true));
    }
    let refused = Err(QueueError::TooManyQueues {
        max: limits::QUEUES_MAX,
    });
    assert_eq!(broker.create_queue(START, "two", options(true)), refused);
    assert_eq!(broker.create_queue(START, "one", options(false)), Ok(true));
    assert_eq!(broker.create_queue(START, "more", options(false)), refused);
    let switched_on = broker.update_queue(START, "one", |options| options.dead_letter = true);
    assert_eq!(switched_on, refused.map(|_| ()));
    assert_eq!(broker.create_queue(START, "q1", options(false)), Ok(false));
}
