//! Failed attempts: backoff, and who is blamed.

use courser_core::{options::Backoff, random::Random};
use std::time::Duration;

use crate::check::check;

#[test]
fn a_nacked_entry_waits_for_its_backoff_which_doubles() {
    check(
        "
        queue q backoff=1s backoff_max=5s
        publish q a
        subscribe alice
        deliver -> alice: a(1)
        nack alice a error=one
        next -> 1s
        deliver -> nothing
        1s deliver -> alice: a(2)
        nack alice a error=two
        next -> 3s
        3s deliver -> alice: a(3)
        nack alice a
        next -> 7s
        7s deliver -> alice: a(4)
        nack alice a
        next -> 12s
        12s deliver -> alice: a(5)
        history q a -> 1 nacked by alice: one, 2 nacked by alice: two, 3 nacked by alice, 4 nacked by alice
        ",
    );
}

#[test]
fn an_expired_lease_waits_as_a_nack_does() {
    check(
        "
        queue q lease=30s backoff=10s multiplier=3
        publish q a
        subscribe alice
        deliver -> alice: a(1)
        30s counts q -> delayed=1 expired=1
        next -> 40s
        40s deliver -> alice: a(2)
        70s next -> 100s
        ",
    );
}

#[test]
fn retry_after_stands_in_for_the_backoff() {
    check(
        "
        queue q backoff=10s
        publish q a, b
        subscribe alice
        deliver -> alice: a(1), b(1)
        nack alice a retry_after=1h
        nack alice b retry_after=0s
        next -> 3600s
        deliver -> alice: b(2)
        peek q delayed -> a delayed 3600s
        ",
    );
}

#[test]
fn an_entry_that_waited_goes_before_those_that_came_after_it() {
    check(
        "
        queue q backoff=5s
        publish q a, b, c
        subscribe alice credit=1
        deliver -> alice: a(1)
        nack alice a
        deliver -> alice: b(1)
        6s ack alice b
        deliver -> alice: a(2)
        ",
    );
}

#[test]
fn without_backoff_an_entry_is_ready_at_once() {
    check(
        "
        queue q backoff=0s multiplier=10 max_attempts=0
        publish q a
        subscribe alice
        deliver -> alice: a(1)
        nack alice a
        next -> never
        deliver -> alice: a(2)
        ",
    );
}

#[test]
fn jitter_stays_within_its_share() {
    let backoff = Backoff {
        jitter: 0.2,
        ..Backoff::default()
    };
    let mut random = Random::new(3);
    let waits: Vec<_> = (0..1_000)
        .map(|_| backoff.wait(3, random.next_f64()))
        .collect();
    let (least, most) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
    assert!(*least >= Duration::from_millis(3_200) && *least < Duration::from_millis(3_300));
    assert!(*most <= Duration::from_millis(4_800) && *most > Duration::from_millis(4_700));
}

#[test]
fn backoff_is_a_duration_whatever_the_number_of_failures() {
    for initial in [0, 1, 1_000_000] {
        let initial = Duration::from_micros(initial);
        let backoff = Backoff {
            initial,
            multiplier: 10.0,
            jitter: 0.0,
            ..Backoff::default()
        };
        let longest = if initial.is_zero() {
            initial
        } else {
            backoff.max
        };
        for failures in [300, 400, 5_000, u32::MAX] {
            assert_eq!(
                backoff.wait(failures, 0.5),
                longest,
                "{initial:?} after {failures}"
            );
        }
    }
}

#[test]
fn a_consumer_that_goes_gives_back_at_once() {
    check(
        "
        queue q lease=30s backoff=1h backoff_max=1h
        publish q a, b, c
        subscribe alice
        subscribe bob
        deliver -> alice: a(1), c(1); bob: b(1)
        1s disconnect alice
        deliver -> bob: a(2), c(2)
        history q a -> 1 disconnected by alice
        counts q -> disconnected=2 released=0 leased=3 consumers=1
        ",
    );
}

#[test]
fn what_was_never_sent_is_not_an_attempt() {
    check(
        "
        queue q max_attempts=1 backoff=10s
        publish q a, b, c
        subscribe alice slow
        deliver -> alice: a(1), b(1), c(1)
        taken alice 1
        disconnect alice
        counts q -> ready=2 dead=1 disconnected=1 released=2
        history q.dlq a -> max_attempts from q | 1 disconnected by alice
        subscribe bob
        deliver -> bob: b(1), c(1)
        ",
    );
}

#[test]
fn an_expired_lease_that_was_never_sent_is_not_an_attempt() {
    check(
        "
        queue q lease=30s
        publish q a, b
        subscribe alice slow
        deliver -> alice: a(1), b(1)
        taken alice 1
        30s peek q -> a ready, b ready
        history q a -> 1 expired by alice
        history q b -> nothing
        counts q -> expired=1 released=1
        ",
    );
}

#[test]
fn what_a_consumer_that_detached_holds_stays_leased() {
    check(
        "
        queue q lease=30s
        publish q a, b
        subscribe alice credit=1
        deliver -> alice: a(1)
        detach alice
        counts q -> leased=1 ready=1 consumers=0
        ack alice a
        counts q -> leased=0 acked=1
        subscribe bob
        deliver -> bob: b(1)
        detach bob
        30s history q b -> 1 expired by bob
        ",
    );
}

#[test]
fn the_last_twenty_attempts_are_kept_with_512_bytes_of_each_error() {
    let mut script = "
        queue q max_attempts=22
        publish q a
        subscribe alice
        "
    .to_owned();
    for attempt in 1..=22 {
        script += &format!("deliver -> alice: a({attempt})\nnack alice a error=é*300\n");
    }
    let attempts: Vec<_> = (3..=22)
        .map(|attempt| format!("{attempt} nacked by alice: 512 bytes"))
        .collect();
    let history = attempts.join(", ");
    script += &format!("history q.dlq a -> max_attempts from q: 512 bytes | {history}\n");
    check(&script);
}
