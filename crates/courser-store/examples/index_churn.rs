//! How the folder of the index grows under checkpoints: `docs/decisions/0001-real-sync-under-sled.md` has
//! the figures.
//!
//! `cargo run -p courser-store --features conformance --example index_churn -- FOLDER [CHECKPOINTS] [CHUNKS]`
#![allow(clippy::print_stdout, reason = "it reports to people")]
#![allow(clippy::disallowed_methods, reason = "it measures time")]

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use courser_core::{
    id::{Position, QueueId},
    limits::CHUNK_ENTRIES,
    record::{Checkpoint, ChunkChange},
};
use courser_store::{
    DiskOptions, DiskStore, FrameNo, Store,
    conformance::fixture::{Found, change, entry, state},
};

const MIB: f64 = 1024.0 * 1024.0;

/// A chunk whose entries came from many publishers: their positions lie apart, so it takes some KiB.
fn full(number: u64, turn: u64) -> ChunkChange {
    let of = |n: u64| {
        let seq = number * CHUNK_ENTRIES + n;
        entry(seq, 1 + (seq + turn) * 7_919 % 1_000_003)
    };
    change(1, number, (0..CHUNK_ENTRIES).map(of).collect())
}

fn apply(store: &DiskStore, chunks: Vec<ChunkChange>) {
    let checkpoint = Checkpoint {
        queues: vec![state(1, 1)],
        chunks,
        deleted_queues: Vec::new(),
        next_position: Position(1),
        next_queue: QueueId(2),
    };
    store
        .checkpoint(&checkpoint, FrameNo(0))
        .expect("the checkpoint is finished");
    store.reclaim(0).expect("reclaiming works");
}

fn open(folder: &Path) -> DiskStore {
    let store = DiskStore::open(folder, DiskOptions::default()).expect("the folder opens");
    store
        .recover(&mut Found::default())
        .expect("the store recovers");
    store
}

/// Applies these many checkpoints, and reports now and then.
fn churn(store: &DiskStore, what: &str, checkpoints: u64, of: impl Fn(u64) -> Vec<ChunkChange>) {
    let start = Instant::now();
    for turn in 0..checkpoints {
        apply(store, of(turn));
        if (turn + 1) % (checkpoints / 4).max(1) == 0 {
            println!(
                "{what:<44} checkpoint {:>5} {:>8.1} MiB {:>7.1} s",
                turn + 1,
                store.usage().index_bytes as f64 / MIB,
                start.elapsed().as_secs_f64()
            );
        }
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder: PathBuf = arguments.next().expect("a folder is needed").into();
    let number =
        |text: Option<String>, default| text.map_or(default, |n| n.parse().expect("a number"));
    let checkpoints = number(arguments.next(), 200);
    let chunks = number(arguments.next(), 1_000);

    let store = open(&folder);
    churn(&store, "the same chunks overwritten", checkpoints, |turn| {
        (0..chunks).map(|n| full(n, turn)).collect()
    });
    churn(&store, "a window that moves on", checkpoints, |turn| {
        let gone = (turn * chunks..(turn + 1) * chunks).map(|n| change(1, n, Vec::new()));
        let new = ((turn + 1) * chunks..(turn + 2) * chunks).map(|n| full(n, turn));
        gone.chain(new).collect()
    });
    let first = checkpoints * chunks;
    churn(&store, "a backlog of twenty such windows", 20, |turn| {
        let new = first + (turn + 1) * chunks..first + (turn + 2) * chunks;
        new.map(|n| full(n, turn)).collect()
    });
    churn(&store, "drained", 21, |turn| {
        let gone = first + turn * chunks..first + (turn + 1) * chunks;
        gone.map(|n| change(1, n, Vec::new())).collect()
    });
    churn(
        &store,
        "a small window that moves on",
        checkpoints,
        |turn| {
            let gone = (turn * 10..(turn + 1) * 10).map(|n| change(1, n, Vec::new()));
            let new = ((turn + 1) * 10..(turn + 2) * 10).map(|n| full(n, turn));
            gone.chain(new).collect()
        },
    );
    drop(store);
    let start = Instant::now();
    let store = open(&folder);
    println!(
        "{:<44} {:>25.1} MiB {:>7.1} s",
        "opened again",
        store.usage().index_bytes as f64 / MIB,
        start.elapsed().as_secs_f64()
    );
}
