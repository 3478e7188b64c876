//! What the store costs: commits with a sync, draining, checkpoints, reclaiming, and opening again.
//!
//! `cargo run --release -p courser-store --features conformance --example store_bench -- FOLDER [GROUPS] [unsynced]`
#![allow(clippy::print_stdout, reason = "it reports to people")]
#![allow(clippy::disallowed_methods, reason = "it measures time")]

use std::{path::PathBuf, time::Instant};

use courser_core::{
    id::{Position, QueueId, Seq},
    message::{Message, SharedMessage},
    record::{Checkpoint, Group, Record},
};
use courser_store::{
    DiskOptions, DiskStore, FrameNo, Store,
    conformance::fixture::{Found, checkpoint, entry, message},
};

const GROUP: u64 = 256;

/// User and system CPU of this process, in seconds.
fn cpu() -> [f64; 2] {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("this runs on Linux");
    let fields: Vec<_> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split(' ')
        .collect();
    [12, 13].map(|at| fields[at].parse::<f64>().unwrap_or_default() / 100.0)
}

struct Watch(Instant, [f64; 2]);

impl Watch {
    fn start() -> Self {
        Self(Instant::now(), cpu())
    }

    fn report(&self, what: &str, messages: u64) {
        let (seconds, after) = (self.0.elapsed().as_secs_f64(), cpu());
        let n = messages as f64;
        let micros = |at: usize| (after[at] - self.1[at]) * 1e6 / n;
        println!(
            "{what:<34} {seconds:>7.2} s {:>9.0} messages/s, CPU a message: {:>6.3} us user, {:>6.3} us system",
            n / seconds,
            micros(0),
            micros(1),
        );
    }
}

/// Groups of messages of 1 KiB, each an entry of a queue, and as many removed that came before.
fn groups() -> Vec<Group> {
    let templates: Vec<_> = (0..GROUP).map(|n| message(n, 1_024)).collect();
    let of = |first: u64| {
        let place = |(n, template): (u64, &SharedMessage)| {
            let mut message = Message::clone(template);
            message.position = Position(first + n);
            message.into()
        };
        let enqueued = |n| Record::Enqueued(QueueId(1), entry(first + n, first + n));
        let removed = |n| Record::Removed {
            queue: QueueId(1),
            seq: Seq(first + n),
        };
        Group {
            messages: (0..).zip(&templates).map(place).collect(),
            records: (0..GROUP)
                .map(enqueued)
                .chain((0..GROUP).map(removed))
                .collect(),
            next_position: Position(first + GROUP),
        }
    };
    (0..16).map(|n| of(1 + n * GROUP)).collect()
}

/// The same groups again at later positions.
fn shift(groups: &mut [Group], by: u64) {
    for group in groups {
        for message in &mut group.messages {
            let mut later = Message::clone(message);
            later.position.0 += by;
            *message = later.into();
        }
        group.next_position.0 += by;
    }
}

fn commit_all(store: &DiskStore, count: u64, sync: bool) -> FrameNo {
    let mut groups = groups();
    let mut last = FrameNo(0);
    let watch = Watch::start();
    for round in 0..count / 16 {
        if round > 0 {
            shift(&mut groups, 16 * GROUP);
        }
        for group in &groups {
            last = store.commit(group, sync).expect("it commits");
        }
        if round % 16 == 15 {
            store.reclaim(0).expect("it reclaims");
        }
    }
    watch.report("commit, 256 x 1 KiB a group", count * GROUP);
    last
}

fn main() {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().expect("a folder"));
    let count = args
        .next()
        .and_then(|count| count.parse().ok())
        .unwrap_or(4_096_u64)
        / 16
        * 16;
    let watch = Watch::start();
    let store = DiskStore::open(&folder, DiskOptions::default()).expect("it opens");
    store.recover(&mut Found::default()).expect("it recovers");
    watch.report("open, empty", 1);

    let last = commit_all(&store, count, !args.any(|arg| arg == "unsynced"));
    let messages = count * GROUP;

    let watch = Watch::start();
    for start in (1..=messages).step_by(512) {
        let positions: Vec<_> = (start..start + 512).map(Position).collect();
        let loaded = store.load(&positions).expect("it loads");
        assert!(loaded.iter().take(256).all(Option::is_some));
    }
    watch.report("load, 512 at once", messages);

    let watch = Watch::start();
    let all = checkpoint(messages + 1, 1..messages + 1);
    watch.report("(making a checkpoint)", messages);
    let watch = Watch::start();
    store.checkpoint(&all, last).expect("it checkpoints");
    watch.report("checkpoint of all entries", messages);
    drop(store);

    let watch = Watch::start();
    let store = DiskStore::open(&folder, DiskOptions::default()).expect("it opens");
    store.recover(&mut Found::default()).expect("it recovers");
    watch.report("open, all entries in the index", messages);

    let stragglers = checkpoint(messages + 1, (1..=messages).step_by(100));
    let watch = Watch::start();
    store.checkpoint(&stragglers, last).expect("it checkpoints");
    watch.report("checkpoint of 1 in 100", messages);
    let watch = Watch::start();
    while store.reclaim(0).expect("it reclaims").more {}
    watch.report("reclaim, 1 in 100 lives", messages);
    println!("{:?}", store.usage());
    store
        .checkpoint(
            &Checkpoint {
                ..checkpoint(messages + 1, 0..0)
            },
            last,
        )
        .expect("checkpoint");
    while store.reclaim(0).expect("it reclaims").more {}
    println!("{:?}", store.usage());
}
