//! kill -9 of the real binary under load, again and again.
//!
//! After each kill the broker starts on what is left. What it must keep: every message confirmed is
//! delivered at least once, in every queue it was routed to; no ack that was answered OK is undone; nothing
//! comes that was never sent; a request is there as a whole or not at all; and first deliveries come
//! in the order of publishing. `full.rs` has the same judge for a disk that gets full.
//!
//! `cargo test --test crash -- --ignored --nocapture`, with `COURSER_BIN` for the binary (or a release
//! build), `COURSER_CRASH_ROUNDS` for the number of kills and `COURSER_CRASH_SEED` to repeat a load. The
//! seed repeats what is sent and when it is killed, not how threads take turns.

#![expect(
    clippy::print_stderr,
    reason = "the seed, the closing figures, and what could not be tested"
)]

mod broker;
mod drain;
mod full;
mod history;
mod letter;
mod load;
mod random;

use std::time::Duration;

use courser_proto::v1::{Backoff, Binding, CreateQueueRequest, QueueOptions};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{broker::Broker, history::History, load::Load, random::Random};

const PRODUCERS: u32 = 4;
/// The queues, and how many consumers each has. First deliveries of the second are judged for their order.
const QUEUES: [(&str, usize); 2] = [("work", 3), ("copy", 1)];
/// Clients notice a kill at once; this is for a machine that is busy.
const CLIENTS_END_MAX: Duration = Duration::from_secs(30);

const SMALL: Load = Load {
    batch_max: 20,
    bytes: (8, 3000),
    messages_max: 30_000,
    nack: 8,
    release: 3,
    dead_letter: 1,
    keep: 1,
};

/// Kills in all tests together; two thirds are for small messages.
fn rounds() -> u64 {
    std::env::var("COURSER_CRASH_ROUNDS").map_or(30, |rounds| rounds.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: run by tests/run crash"]
async fn small_messages_survive_kill_9() {
    survive("small messages", SMALL, rounds() - 2 * (rounds() / 6), 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: run by tests/run crash"]
async fn large_messages_survive_kill_9() {
    let large = Load {
        batch_max: 3,
        bytes: (8, 4 << 20),
        messages_max: 60,
        ..SMALL
    };
    survive("large messages", large, rounds() / 6, 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: run by tests/run crash"]
async fn dead_letters_survive_kill_9() {
    let failing = Load {
        nack: 50,
        dead_letter: 15,
        release: 5,
        keep: 0,
        ..SMALL
    };
    survive("dead letters", failing, rounds() / 6, 2).await;
}

/// The test: rounds of load and kill on one folder, then everything is drained and judged.
async fn survive(what: &str, load: Load, rounds: u64, max_attempts: u32) {
    let seed = random::seed();
    eprintln!("{what}: {rounds} rounds, COURSER_CRASH_SEED={seed}");
    let mut random = Random::new(seed);
    let folder = tempfile::tempdir().unwrap();
    let history = History::new(PRODUCERS as usize, &[1]);
    let mut slowest_start = Duration::ZERO;
    for round in 0..rounds {
        let started = Instant::now();
        let mut broker = Broker::start(folder.path(), round).await;
        slowest_start = slowest_start.max(started.elapsed());
        if round == 0 {
            create_queues(&broker, max_attempts).await;
        }
        let mut clients = start_clients(&broker, &history, load, &mut random).await;
        sleep(load_time(&mut random)).await;
        broker.assert_alive();
        broker.kill();
        let ended = timeout(CLIENTS_END_MAX, async {
            while clients.join_next().await.is_some() {}
        });
        assert!(
            ended.await.is_ok(),
            "a client did not notice that the broker is gone"
        );
        if random.percent(30) {
            kill_at_start(folder.path(), round, &mut random).await;
        }
        history.assert_no_violation();
    }
    drain::all(folder.path(), &history, rounds).await;
    history.judge(QUEUES.len());
    let totals = history.totals();
    eprintln!("{what}: {totals:?}, slowest start {slowest_start:?}");
    history.assert_no_violation();
    assert!(
        totals.confirmed > 10 && totals.acked > 10,
        "there was hardly any load: {totals:?}"
    );
}

/// Mostly short, and now and then long enough for checkpoints to come and segments to go.
fn load_time(random: &mut Random) -> Duration {
    let millis = if random.percent(60) {
        100..1500
    } else {
        2500..5500
    };
    Duration::from_millis(random.within(millis))
}

/// Another kill while the broker starts on what the last one left.
async fn kill_at_start(folder: &std::path::Path, round: u64, random: &mut Random) {
    let mut broker = Broker::spawn(folder, 1000 + round);
    sleep(Duration::from_millis(random.within(1..200))).await;
    broker.assert_alive();
    broker.kill();
}

async fn create_queues(broker: &Broker, max_attempts: u32) {
    for (name, _) in QUEUES {
        let now = Some(prost_types::Duration::default());
        let options = QueueOptions {
            bindings: vec![Binding {
                pattern: "work.*".to_owned(),
            }],
            max_attempts: Some(max_attempts),
            backoff: Some(Backoff {
                initial: now,
                max: now,
                ..Default::default()
            }),
            // Longer than any test: leases end by settling and by kills.
            lease: Some(prost_types::Duration {
                seconds: 3600,
                nanos: 0,
            }),
            ..Default::default()
        };
        let request = CreateQueueRequest {
            name: name.to_owned(),
            options: Some(options),
        };
        broker.admin().await.create_queue(request).await.unwrap();
    }
}

async fn start_clients(
    broker: &Broker,
    history: &History,
    load: Load,
    random: &mut Random,
) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    for producer in 0..PRODUCERS {
        let client = broker.connect().await.expect("the broker runs");
        let random = random.fork(u64::from(producer));
        clients.spawn(load::produce(
            client,
            history.clone(),
            load,
            producer,
            random,
        ));
    }
    for (place, (queue, consumers)) in QUEUES.into_iter().enumerate() {
        for number in 0..consumers {
            let client = broker.connect().await.expect("the broker runs");
            let random = random.fork(100 + number as u64);
            clients.spawn(load::consume(
                client,
                history.clone(),
                load,
                queue,
                place,
                random,
            ));
        }
    }
    // Whatever fails for good is taken from the dead-letter queue, by one that settles at random too.
    let client = broker.connect().await.expect("the broker runs");
    let random = random.fork(200);
    clients.spawn(load::consume(
        client,
        history.clone(),
        load,
        "work.dlq",
        0,
        random,
    ));
    clients
}
