//! Checkpoints: the index says what was true at one moment, and the log goes on from there.

use std::{sync::Arc, time::Duration};

use courser_core::{
    id::{ChunkNo, Position, QueueId, Seq},
    name::Pattern,
    record::{Attempt, Checkpoint, Chunk, Note, QueueState, Record},
};

use super::{
    Harness,
    fixture::{
        Found, attempt, change, checkpoint, commit, definition, entry, fill, load_one, message,
        note, reclaim_all, records, recover, state,
    },
};
use crate::{FrameNo, Store};

fn apply(store: &impl Store, checkpoint: &Checkpoint, upto: FrameNo) {
    store
        .checkpoint(checkpoint, upto)
        .expect("the checkpoint is finished");
}

fn page(store: &impl Store, queue: u32, number: u64) -> Chunk {
    store
        .page(QueueId(queue), ChunkNo(number))
        .expect("paging works")
}

/// What a recovery replayed, the checkpoint after it covers: the next recovery does not replay it.
pub fn a_checkpoint_after_a_recovery_covers_what_was_replayed(harness: &mut impl Harness) {
    let store = harness.open();
    recover(&store);
    fill(&store, 1, 301);
    let store = harness.reopen(store);
    let (_, recovered) = recover(&store);
    assert!(recovered.replayed > 0);
    apply(&store, &checkpoint(301, 1..301), recovered.last_frame);
    let store = harness.reopen(store);
    let (_, again) = recover(&store);
    assert_eq!(
        (again.replayed, again.last_frame),
        (0, recovered.last_frame)
    );
}

/// Queues and chunks come from the index, the rest from the log.
pub fn replays_only_what_came_after_the_checkpoint(harness: &mut impl Harness) {
    let store = harness.open();
    recover(&store);
    let upto = fill(&store, 1, 601);
    fill(&store, 601, 701);
    apply(&store, &checkpoint(601, 301..601), upto);
    let removed = Record::Removed {
        queue: QueueId(1),
        seq: Seq(400),
    };
    commit(&store, &records(vec![removed.clone()], 701));

    let store = harness.reopen(store);
    let (found, recovered) = recover(&store);
    assert_eq!(found.queues, [state(1, 601)]);
    let seqs: Vec<_> = found
        .chunks
        .iter()
        .flat_map(|(_, _, chunk)| &chunk.entries)
        .collect();
    assert_eq!(
        seqs,
        (301..601)
            .map(|seq| entry(seq, seq))
            .collect::<Vec<_>>()
            .iter()
            .collect::<Vec<_>>()
    );
    let numbers: Vec<_> = found.chunks.iter().map(|(_, number, _)| number.0).collect();
    assert_eq!(numbers, [1, 2]);
    assert_eq!(found.records.len(), 101);
    assert_eq!(
        found.records[0],
        Record::Enqueued(QueueId(1), entry(601, 601))
    );
    assert_eq!(found.records[100], removed);
    assert_eq!(
        (recovered.replayed, recovered.next_position),
        (101, Position(701))
    );
    assert_eq!(recovered.next_queue, QueueId(2));
}

/// Entries with all their fields, and notes: new, changed and gone.
pub fn pages_what_was_checkpointed(harness: &mut impl Harness) {
    let store = harness.open();
    recover(&store);
    let upto = fill(&store, 1, 301);
    let mut failed = entry(9, 9);
    (failed.failures, failed.ready_at) = (2, super::fixture::time(1_000));
    let mut first = change(
        1,
        0,
        vec![entry(3, 3), entry(8, 8), failed, entry(255, 255)],
    );
    first.notes = [3, 8, 9]
        .map(|seq| (Seq(seq), Some(Arc::new(note(seq as u32)))))
        .to_vec();
    let second = change(1, 1, vec![entry(256, 256), entry(257, 257)]);
    let chunks = vec![first.clone(), second.clone()];
    apply(
        &store,
        &Checkpoint {
            chunks,
            ..checkpoint(301, 0..0)
        },
        upto,
    );

    let mut expected = Chunk {
        entries: first.entries.clone(),
        notes: Vec::new(),
    };
    expected.notes = [3, 8, 9]
        .map(|seq| (Seq(seq), Arc::new(note(seq as u32))))
        .to_vec();
    assert_eq!(page(&store, 1, 0), expected);
    assert_eq!(page(&store, 1, 1).entries, second.entries);
    assert_eq!(
        (page(&store, 1, 2), page(&store, 2, 0)),
        (Chunk::default(), Chunk::default())
    );

    first.entries.retain(|entry| entry.seq != Seq(3));
    first.notes = vec![(Seq(3), None), (Seq(9), Some(Arc::new(note(1))))];
    let chunks = vec![first.clone()];
    apply(
        &store,
        &Checkpoint {
            chunks,
            ..Checkpoint::default()
        },
        upto,
    );
    let expected = Chunk {
        entries: first.entries,
        notes: vec![(Seq(8), Arc::new(note(8))), (Seq(9), Arc::new(note(1)))],
    };
    let store = harness.reopen(store);
    let (found, recovered) = recover(&store);
    assert_eq!(page(&store, 1, 0), expected);
    assert_eq!(page(&store, 1, 1).entries, second.entries);
    assert_eq!(
        (recovered.replayed, recovered.next_position),
        (0, Position(301))
    );
    assert_eq!(found.queues, [state(1, 301)]);
}

/// The longest that the limits allow.
pub fn keeps_the_largest_notes_and_definitions(harness: &mut impl Harness) {
    let store = harness.open();
    recover(&store);
    let mut large = definition(1);
    let binding = |n: usize| Pattern::exact(&format!("{n:04}.{}", "x".repeat(250)));
    large.options.bindings = (0..1_000).map(binding).collect();
    large.options.lease = Duration::new(77, 123_456_789);
    let attempt = |number| Attempt {
        consumer: "c".repeat(256).into(),
        error: "e".repeat(512).into(),
        ..attempt(number)
    };
    let note = Arc::new(Note {
        attempts: (1..=20).map(attempt).collect(),
        ..note(0)
    });
    let mut chunk = change(1, 0, (1..=255).map(|seq| entry(seq, seq)).collect());
    chunk.notes = (1..=255)
        .map(|seq| (Seq(seq), Some(Arc::clone(&note))))
        .collect();
    let upto = fill(&store, 1, 256);
    let queues = vec![QueueState {
        definition: large,
        next_seq: Seq(256),
    }];
    let chunks = vec![chunk];
    apply(
        &store,
        &Checkpoint {
            queues: queues.clone(),
            chunks,
            ..checkpoint(256, 0..0)
        },
        upto,
    );

    let store = harness.reopen(store);
    assert_eq!(recover(&store).0.queues, queues);
    let notes = page(&store, 1, 0).notes;
    assert_eq!(notes.len(), 255);
    assert!(notes.iter().all(|(_, found)| *found == note));

    // Shorter values leave nothing of the longer ones.
    let mut chunk = change(1, 0, vec![entry(1, 1)]);
    let short = Arc::new(super::fixture::note(1));
    chunk.notes = (1..=255)
        .map(|n| (Seq(n), (n == 1).then(|| Arc::clone(&short))))
        .collect();
    let queues = vec![state(1, 256)];
    apply(
        &store,
        &Checkpoint {
            queues,
            chunks: vec![chunk],
            ..Checkpoint::default()
        },
        upto,
    );
    let store = harness.reopen(store);
    assert_eq!(recover(&store).0.queues, [state(1, 256)]);
    assert_eq!(page(&store, 1, 0).notes, [(Seq(1), short)]);
}

/// Also when it comes again later.
pub fn a_chunk_without_entries_takes_its_notes_along(harness: &mut impl Harness) {
    let store = harness.open();
    recover(&store);
    let upto = fill(&store, 1, 301);
    let mut cp = checkpoint(301, 1..301);
    cp.chunks[0].notes = vec![(Seq(7), Some(Arc::new(note(2))))];
    cp.chunks[1].notes = vec![(Seq(256), Some(Arc::new(note(3))))];
    apply(&store, &cp, upto);
    let chunks = vec![change(1, 0, Vec::new())];
    apply(
        &store,
        &Checkpoint {
            chunks,
            ..Checkpoint::default()
        },
        upto,
    );
    assert_eq!(page(&store, 1, 0), Chunk::default());
    let chunks = vec![change(1, 0, vec![entry(7, 7)])];
    apply(
        &store,
        &Checkpoint {
            chunks,
            ..Checkpoint::default()
        },
        upto,
    );
    let store = harness.reopen(store);
    recover(&store);
    assert_eq!(
        page(&store, 1, 0),
        Chunk {
            entries: vec![entry(7, 7)],
            notes: Vec::new()
        }
    );
    assert_eq!(page(&store, 1, 1).notes, [(Seq(256), Arc::new(note(3)))]);
}

/// Chunks, notes and definition; the other queues keep theirs.
pub fn a_deleted_queue_takes_everything_along(harness: &mut impl Harness) {
    let store = harness.open();
    recover(&store);
    let upto = fill(&store, 1, 1_001);
    let mut cp = checkpoint(1_001, 1..1_001);
    cp.queues.push(state(256, 5));
    let mut other = change(256, 0, vec![entry(4, 4)]);
    other.notes = vec![(Seq(4), Some(Arc::new(note(1))))];
    cp.chunks[0].notes = vec![(Seq(7), Some(Arc::new(note(2))))];
    cp.chunks.push(other);
    apply(&store, &cp, upto);
    let deleted = vec![QueueId(1)];
    apply(
        &store,
        &Checkpoint {
            deleted_queues: deleted,
            ..Checkpoint::default()
        },
        upto,
    );
    assert_eq!(page(&store, 1, 0), Chunk::default());

    let store = harness.reopen(store);
    let (found, _) = recover(&store);
    let entries = vec![entry(4, 4)];
    let chunk = Chunk {
        entries,
        notes: Vec::new(),
    };
    let queues = vec![state(256, 5)];
    let chunks = vec![(QueueId(256), ChunkNo(0), chunk)];
    assert_eq!(
        found,
        Found {
            queues,
            chunks,
            records: Vec::new()
        }
    );
    assert_eq!(page(&store, 256, 0).notes, [(Seq(4), Arc::new(note(1)))]);
    assert_eq!(load_one(&store, 4), message(4, 1_000));
}

/// Wherever it was cut, the log still says everything after the checkpoint before.
pub fn a_cut_checkpoint_loses_nothing(harness: &mut impl Harness) {
    for steps in 0..3 {
        let store = harness.open();
        recover(&store);
        let before = fill(&store, 1, 601);
        let chunks = (0..700).map(|n| change(2, n, vec![entry(n * 256 + 1, n % 600 + 1)]));
        let mut first = checkpoint(601, 1..601);
        first.queues.push(state(2, 1_000_000));
        first.chunks.extend(chunks);
        apply(&store, &first, before);
        let upto = fill(&store, 601, 801);
        let emptied = (0..700).map(|n| change(2, n, Vec::new()));
        let mut second = checkpoint(801, 301..801);
        second.chunks.extend(emptied);
        harness.cut_checkpoint(&store, &second, upto, steps);

        let store = harness.reopen(store);
        let (found, recovered) = recover(&store);
        assert_eq!(recovered.replayed, 200);
        assert_eq!(
            found.records[0],
            Record::Enqueued(QueueId(1), entry(601, 601))
        );
        for number in 0..3 {
            let entries = page(&store, 1, number).entries;
            let old: Vec<_> = of_chunk(number, 1, 601);
            let new: Vec<_> = of_chunk(number, 301, 801);
            assert!(
                entries == old || entries == new,
                "chunk {number} is a mixture"
            );
        }
        apply(&store, &second, upto);
        let store = harness.reopen(store);
        let (found, recovered) = recover(&store);
        assert_eq!((recovered.replayed, found.chunks.len()), (0, 3));
    }
}

fn of_chunk(number: u64, from: u64, to: u64) -> Vec<courser_core::record::ChunkEntry> {
    let seqs = from.max(number * 256)..to.min((number + 1) * 256);
    seqs.map(|seq| entry(seq, seq)).collect()
}

/// Of its old queue the index says already that it is gone, of its new one not yet that it came.
pub fn a_message_moved_in_a_cut_checkpoint_is_not_reclaimed(harness: &mut impl Harness) {
    let store = harness.open();
    recover(&store);
    let before = fill(&store, 1, 3_001);
    let mut first = checkpoint(3_001, 5..6);
    first.queues.push(state(2, 1));
    apply(&store, &first, before);
    let moved = Record::Moved {
        from: QueueId(1),
        from_seq: Seq(5),
        to: QueueId(2),
        entry: entry(1, 5),
        note: Box::new(note(1)),
    };
    let upto = commit(&store, &records(vec![moved.clone()], 3_001));
    let mut second = checkpoint(3_001, 0..0);
    second.chunks = vec![change(1, 0, Vec::new())];
    second
        .chunks
        .extend((0..600).map(|n| change(3, n, Vec::new())));
    second.chunks.push(change(2, 0, vec![entry(1, 5)]));
    harness.cut_checkpoint(&store, &second, upto, 1);

    let store = harness.reopen(store);
    assert_eq!(recover(&store).0.records, [moved]);
    reclaim_all(&store);
    assert_eq!(load_one(&store, 5), message(5, 1_000));
    apply(&store, &second, upto);
    reclaim_all(&store);
    assert_eq!(load_one(&store, 5), message(5, 1_000));
    let gone = store.load(&[Position(6)]).expect("loading works");
    assert_eq!(gone, [None]);
}
