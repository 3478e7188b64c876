//! Messages that are in several queues: their space follows the messages, not the entries.

use courser_core::{
    id::{Position, QueueId},
    limits::CHUNK_ENTRIES,
    record::{Checkpoint, ChunkChange},
};

use super::{OnDisk, SEGMENT_BYTES};
use crate::{
    DiskStore, FrameNo, Store,
    conformance::{
        Harness,
        fixture::{change, entry, fill, load_one, message, reclaim_all, recover, state},
    },
};

const END: u64 = 2_001;

/// In each of these queues live the messages of which `lives` says so.
fn apply(store: &DiskStore, queues: u32, upto: FrameNo, lives: impl Fn(u32, u64) -> bool) {
    let mut chunks: Vec<ChunkChange> = Vec::new();
    for queue in 1..=queues {
        for start in (0..END).step_by(CHUNK_ENTRIES as usize) {
            let seqs = start.max(1)..(start + CHUNK_ENTRIES).min(END);
            let living = seqs.filter(|seq| lives(queue, *seq));
            let entries = living.map(|seq| entry(seq, seq)).collect();
            chunks.push(change(queue, start / CHUNK_ENTRIES, entries));
        }
    }
    let checkpoint = Checkpoint {
        queues: (1..=queues).map(|queue| state(queue, END)).collect(),
        chunks,
        deleted_queues: Vec::new(),
        next_position: Position(END),
        next_queue: QueueId(queues + 1),
    };
    store.checkpoint(&checkpoint, upto).unwrap();
    reclaim_all(store);
}

fn filled(harness: &mut OnDisk) -> (DiskStore, FrameNo) {
    let store = harness.open();
    recover(&store);
    let upto = fill(&store, 1, END);
    apply(&store, 4, upto, |_, _| true);
    (store, upto)
}

fn check_every(store: &DiskStore, step: usize) {
    for position in (1..END).step_by(step) {
        assert_eq!(load_one(store, position), message(position, 1_000));
    }
}

#[test]
fn a_fifth_of_the_messages_in_four_queues_is_a_fifth_of_the_space() {
    let mut harness = OnDisk::new();
    let (store, upto) = filled(&mut harness);
    for _ in 0..2 {
        apply(&store, 4, upto, |_, seq| seq % 5 == 1);
    }
    let left = store.usage().log_bytes;
    assert!(left < 500_000 + 3 * SEGMENT_BYTES, "{left} bytes are left");
    check_every(&store, 5);
    // And once more, of a file that was rewritten.
    apply(&store, 4, upto, |_, seq| seq % 20 == 1);
    let left = store.usage().log_bytes;
    assert!(left < 130_000 + 3 * SEGMENT_BYTES, "{left} bytes are left");
    let store = harness.reopen(store);
    recover(&store);
    check_every(&store, 20);
}

#[test]
fn what_lives_in_one_of_four_queues_is_not_written_again() {
    let mut harness = OnDisk::new();
    let (store, upto) = filled(&mut harness);
    for _ in 0..2 {
        apply(&store, 4, upto, |queue, _| queue == 1);
    }
    let is_old =
        |segment: &std::sync::Arc<crate::log::segment::Segment>| segment.header.weight.is_none();
    assert!(store.log.segments().iter().all(is_old));
    // Looking at them once more is not worth a scan until half of them are gone.
    assert!(!store.reclaim(0).unwrap().more);
    check_every(&store, 1);
}
