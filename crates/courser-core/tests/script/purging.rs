//! Purging.

use crate::check::check;

#[test]
fn a_purge_takes_all_that_is_not_leased() {
    check(
        "
        queue q
        publish q a:10, b:20, c:30, d:40
        subscribe alice credit=2
        deliver -> alice: a(1), b(1)
        nack alice a retry_after=1h
        deliver -> alice: c(1)
        purge q -> 2
        synced -> synced
        peek q -> b leased alice 30s, c leased alice 30s
        counts q -> ready=0 delayed=0 leased=2 bytes=50 purged=2
        next -> 30s
        ack alice b
        release alice c
        deliver -> alice: c(1)
        ack alice c
        counts q -> bytes=0 acked=2
        ",
    );
}

#[test]
fn a_purge_may_be_limited_and_takes_the_oldest() {
    check(
        "
        queue q
        publish q 1..2000
        subscribe alice credit=1
        deliver -> alice: 1(1)
        purge q limit=3 -> 3
        counts q -> ready=1996 leased=1
        purge q limit=1000 -> 1000
        peek q ready limit=1 -> 1005 ready
        purge q limit=0 -> 0
        synced -> nothing
        purge q -> 996
        purge q -> 0
        publish q x
        ack alice 1
        deliver -> alice: x(1)
        ",
    );
}

#[test]
fn a_purge_takes_what_was_given_back() {
    check(
        "
        queue q
        publish q 1..600
        subscribe alice credit=600
        deliver -> alice: 1..600(1)
        disconnect alice
        counts q -> ready=600
        purge q limit=10 -> 10
        purge q -> 590
        counts q -> ready=0 delayed=0 leased=0 bytes=0
        subscribe bob
        publish q x
        deliver -> bob: x(1)
        ",
    );
}

#[test]
fn a_purge_of_what_memory_does_not_hold_is_as_thorough() {
    check(
        "
        queue q
        publish q 1..3000
        checkpoint -> 2 queues, 12 chunks
        purge q limit=1500 -> 1500
        checkpoint -> 2 queues, 7 chunks
        restart
        counts q -> ready=1500
        purge q -> 1500
        restart
        counts q -> ready=0
        checkpoint
        restart
        counts q -> ready=0
        ",
    );
}

#[test]
fn a_purge_outlives_a_restart_also_when_whole_chunks_were_all_it_took() {
    check(
        "
        queue q
        publish q 1..600
        checkpoint
        purge q limit=255 -> 255
        checkpoint
        restart
        counts q -> ready=345
        peek q limit=1 -> 256 ready
        ",
    );
}

#[test]
fn a_purge_needs_its_queue() {
    check("purge nowhere -> error: no queue \"nowhere\"");
}
