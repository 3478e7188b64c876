//! Giving up on entries, and having them back.

use crate::check::check;

#[test]
fn after_its_last_attempt_an_entry_is_dead_lettered() {
    check(
        "
        queue q max_attempts=2 backoff=1s
        publish q a:100, b:50
        subscribe alice credit=1
        deliver -> alice: a(1)
        nack alice a error=one
        deliver -> alice: b(1)
        1s ack alice b
        deliver -> alice: a(2)
        nack alice a error=two
        synced -> synced
        counts q -> ready=0 delayed=0 leased=0 dead=1 bytes=0 dead.max_attempts=1 nacked=2
        counts q.dlq -> ready=1 bytes=100 published=0 dead_of=q
        history q.dlq a -> max_attempts from q: two | 1 nacked by alice: one, 2 nacked by alice: two
        ",
    );
}

#[test]
fn every_kind_of_failure_counts_towards_the_last() {
    check(
        "
        queue q max_attempts=3 lease=30s
        publish q a
        subscribe alice
        deliver -> alice: a(1)
        30s deliver -> alice: a(2)
        disconnect alice
        subscribe alice
        deliver -> alice: a(3)
        release alice a
        deliver -> alice: a(3)
        nack alice a retry_after=1h
        history q.dlq a -> max_attempts from q | 1 expired by alice, 2 disconnected by alice, 3 nacked by alice
        ",
    );
}

#[test]
fn a_consumer_may_give_up_on_an_entry_at_once() {
    check(
        "
        queue q
        publish q a
        subscribe alice
        deliver -> alice: a(1)
        reject alice a reason=poison description=unreadable
        counts q -> leased=0 dead=1 dead.poison=1 held=0
        history q.dlq a -> poison from q: unreadable | 1 rejected by alice: unreadable
        ",
    );
}

#[test]
fn reasons_beyond_twenty_are_counted_as_other() {
    let mut script = "
        queue q
        publish q 1..25
        subscribe alice
        deliver -> alice: 1..25(1)
        "
    .to_owned();
    for name in 1..=25 {
        script += &format!("reject alice {name} reason=reason{name}\n");
    }
    script += "counts q -> dead.reason1=1 dead.reason20=1 dead.reason21=0 dead.other=5 dead=25\n";
    check(&script);
}

#[test]
fn without_a_dead_letter_queue_an_entry_is_never_dropped() {
    check(
        "
        queue q max_attempts=2 backoff=1s backoff_max=60s dead_letter=off
        publish q a
        subscribe alice
        deliver -> alice: a(1)
        reject alice a -> error: no dead-letter queue
        nack alice a
        1s deliver -> alice: a(2)
        nack alice a retry_after=0s
        next -> 61s
        61s deliver -> alice: a(3)
        nack alice a
        121s deliver -> alice: a(4)
        counts q -> leased=1 dead=0
        counts q.dlq -> error: no queue \"q.dlq\"
        ",
    );
}

#[test]
fn with_no_limit_of_attempts_an_entry_comes_back_again_and_again() {
    let mut script = "
        queue q max_attempts=0
        publish q a
        subscribe alice
        "
    .to_owned();
    for attempt in 1..=50 {
        script += &format!("deliver -> alice: a({attempt})\nnack alice a\n");
    }
    check(&(script + "counts q -> ready=1 dead=0"));
}

#[test]
fn dead_letters_can_be_consumed_like_any_entry() {
    check(
        "
        queue q max_attempts=1
        publish q a, b
        subscribe alice
        deliver -> alice: a(1), b(1)
        nack alice b
        nack alice a
        subscribe carol q.dlq credit=1
        deliver -> carol: b(1)
        counts q.dlq -> leased=1 ready=1
        counts q -> dead=2
        nack carol b retry_after=0s
        history q.dlq b -> max_attempts from q | 1 nacked by alice, 1 nacked by carol
        deliver -> carol: b(2)
        ack carol b
        counts q -> dead=1
        reject carol b -> error: no such lease
        deliver -> carol: a(1)
        reject carol a -> error: no dead-letter queue
        ",
    );
}

const DEAD: &str = "
        queue q max_attempts=1
        publish q a, b, c, d
        subscribe alice
        deliver -> alice: a(1), b(1), c(1), d(1)
        nack alice a error=broken
        reject alice b reason=poison
        nack alice c
        reject alice d reason=poison
        detach alice
        ";

#[track_caller]
fn check_dead(script: &str) {
    check(&(DEAD.to_owned() + script));
}

#[test]
fn redriven_entries_join_the_end_of_their_queue_with_their_history() {
    check_dead(
        "
        publish q e
        redrive q.dlq -> 4
        peek q -> e ready, a ready, b ready, c ready, d ready
        counts q -> ready=5 dead=0
        counts q.dlq -> redriven=4 ready=0 bytes=0
        history q a -> 1 nacked by alice: broken | redriven 1
        subscribe bob
        deliver -> bob: e(1), a(1), b(1), c(1), d(1)
        nack bob a error=again
        history q.dlq a -> max_attempts from q: again | 1 nacked by alice: broken, 1 nacked by bob: again | redriven 1
        redrive q.dlq -> 1
        history q a -> 1 nacked by alice: broken, 1 nacked by bob: again | redriven 2
        ",
    );
}

#[test]
fn a_redrive_may_go_to_another_queue() {
    check_dead(
        "
        queue other
        redrive q.dlq to=other -> 4
        peek other -> a ready, b ready, c ready, d ready
        redrive q.dlq to=nowhere -> error: no queue \"nowhere\"
        redrive q.dlq to=other.dlq -> error: dead letters are not moved to another
        redrive q -> error: \"q\" is not a dead-letter queue
        redrive x.dlq -> error: no queue \"x.dlq\"
        ",
    );
}

#[test]
fn a_redrive_may_be_limited_by_count_entry_and_reason() {
    check_dead(
        "
        redrive q.dlq limit=1 -> 1
        redrive q.dlq reason=poison entries=b,c -> 1
        peek q.dlq -> c ready, d ready
        redrive q.dlq entries=d -> 1
        redrive q.dlq reason=poison -> 0
        redrive q.dlq limit=0 -> 0
        peek q.dlq -> c ready
        peek q -> a ready, b ready, d ready
        ",
    );
}

#[test]
fn a_dry_run_counts_and_moves_nothing() {
    check_dead(
        "
        redrive q.dlq dry_run -> 4
        redrive q.dlq dry_run limit=3 -> 3
        redrive q.dlq dry_run reason=poison -> 2
        synced -> nothing
        counts q.dlq -> ready=4 redriven=0
        ",
    );
}

#[test]
fn a_redrive_leaves_what_is_leased() {
    check_dead(
        "
        subscribe carol q.dlq credit=1
        deliver -> carol: a(1)
        redrive q.dlq -> 3
        peek q.dlq -> a leased carol 30s
        ack carol a
        counts q -> ready=3 dead=0
        ",
    );
}

#[test]
fn a_redrive_takes_delayed_entries_along() {
    check_dead(
        "
        subscribe carol q.dlq credit=1
        deliver -> carol: a(1)
        nack carol a retry_after=1h
        detach carol
        redrive q.dlq entries=a -> 1
        next -> never
        peek q -> a ready
        ",
    );
}

#[test]
fn a_long_redrive_moves_every_entry_once() {
    check(
        "
        queue q max_attempts=1
        publish q 1..5000
        subscribe alice
        deliver -> alice: 1..5000(1)
        disconnect alice
        checkpoint
        redrive q.dlq dry_run -> 5000
        redrive q.dlq reason=none -> 0
        redrive q.dlq entries=4999,2 -> 2
        redrive q.dlq limit=2500 -> 2500
        redrive q.dlq -> 2498
        counts q -> ready=5000 dead=0
        restart
        counts q -> ready=5000 dead=0
        history q 2500 -> 1 disconnected by alice | redriven 1
        ",
    );
}
