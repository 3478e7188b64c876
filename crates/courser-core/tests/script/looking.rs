//! Looking at queues: peeks, counts, the next timeout.

use crate::check::check;

#[test]
fn a_peek_shows_every_state_and_changes_nothing() {
    check(
        "
        queue q
        publish q a, b, c
        subscribe alice credit=2
        deliver -> alice: a(1), b(1)
        nack alice a retry_after=1h
        pause q
        peek q -> a delayed 3600s, b leased alice 30s, c ready
        synced -> nothing
        peek q ready -> c ready
        peek q delayed -> a delayed 3600s
        peek q leased -> b leased alice 30s
        counts q -> ready=1 delayed=1 leased=1 delivered=2
        peek nowhere -> error: no queue \"nowhere\"
        ",
    );
}

#[test]
fn a_peek_goes_on_after_an_entry() {
    check(
        "
        queue q
        publish q 1..1000
        peek q limit=3 -> 1..3 ready
        peek q after=3 limit=300 -> 4..303 ready
        peek q after=999 -> 1000 ready
        peek q after=1000 -> nothing
        peek q limit=0 -> nothing
        ",
    );
}

#[test]
fn a_peek_reads_what_memory_does_not_hold() {
    check(
        "
        queue q backoff=1h backoff_max=1h
        publish q 1..3000
        subscribe alice credit=2
        deliver -> alice: 1..2(1)
        nack alice 2 error=why
        nack alice 1
        checkpoint
        peek q after=2500 limit=2 -> 2501..2502 ready
        peek q delayed -> 1..2 delayed 3600s
        history q 2 -> 1 nacked by alice: why
        restart
        peek q after=2500 limit=2 -> 2501..2502 ready
        peek q delayed -> 1..2 delayed 3600s
        history q 2 -> 1 nacked by alice: why
        ",
    );
}

#[test]
fn a_peek_is_bounded_by_bytes_too() {
    check(
        "
        queue q
        publish q 1..5:6000000
        peek q -> 1..2 ready
        peek q after=2 -> 3..4 ready
        publish q big:20000000, c
        peek q after=5 -> big ready
        ",
    );
}

#[test]
fn counts_follow_an_entry_through_its_states() {
    check(
        "
        queue q backoff=10s lease=30s
        publish q a
        counts q -> ready=1 delayed=0 leased=0 published=1 delivered=0 waited=0
        subscribe alice
        deliver -> alice: a(1)
        counts q -> ready=0 delayed=0 leased=1 delivered=1 waited=1 held=1
        nack alice a
        counts q -> ready=0 delayed=1 leased=0 nacked=1 held=0
        10s counts q -> ready=1 delayed=0 leased=0
        deliver -> alice: a(2)
        counts q -> leased=1 delivered=2 waited=1
        ack alice a
        counts q -> ready=0 delayed=0 leased=0 acked=1 processed=1
        ",
    );
}

#[test]
fn the_oldest_ready_entry_has_an_age() {
    check(
        "
        queue q
        counts q -> oldest_ready=none oldest_leased=none
        publish q a
        10s publish q b
        15s counts q -> oldest_ready=15s
        subscribe alice credit=1
        deliver -> alice: a(1)
        20s counts q -> oldest_ready=10s oldest_leased=5s
        release alice a
        counts q -> oldest_ready=20s oldest_leased=none
        ",
    );
}

#[test]
fn delayed_entries_out_of_memory_are_not_the_oldest_that_are_ready() {
    check(
        "
        queue q backoff=1h backoff_max=1h
        publish q 1..3000
        subscribe alice
        deliver -> alice: 1..3000(1)
        detach alice
        100s publish q x
        checkpoint
        restart
        110s counts q -> ready=1 delayed=3000 oldest_ready=10s
        ",
    );
}

#[test]
fn the_next_timeout_is_the_moment_at_which_something_happens() {
    check(
        "
        queue q lease=30s backoff=5s
        next -> never
        publish q a, b, c
        next -> never
        subscribe alice credit=1
        deliver -> alice: a(1)
        next -> 30s
        nack alice a
        next -> 5s
        1s deliver -> alice: b(1)
        next -> 5s
        5s next -> 31s
        ack alice b
        next -> never
        deliver -> alice: a(2)
        reject alice a
        next -> never
        ",
    );
}

#[test]
fn what_is_gone_wakes_nobody() {
    check(
        "
        queue q
        publish q a, b, c
        subscribe alice
        deliver -> alice: a(1), b(1), c(1)
        nack alice a retry_after=1h
        nack alice b retry_after=2h
        purge q limit=1 -> 1
        next -> 30s
        ack alice c
        next -> 7200s
        purge q -> 1
        next -> never
        ",
    );
}
