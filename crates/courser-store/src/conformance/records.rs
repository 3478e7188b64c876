//! Groups: what is committed comes back, all of it, in order.

use bytes::Bytes;
use courser_core::{
    id::{Position, QueueId, Seq},
    message::{Message, SharedMessage},
    record::{Group, Record},
};

use super::{
    Harness,
    fixture::{
        attempt, commit, definition, entry, fill, full_message, group, load_one, message, noise,
        note, records, recover, time,
    },
};
use crate::Store;

/// A new store holds nothing, counts from 1, and counts its openings.
pub fn an_empty_store_is_empty(harness: &mut impl Harness) {
    let mut store = harness.open();
    for epoch in 1..=3 {
        let (found, recovered) = recover(&store);
        assert!(found.queues.is_empty() && found.chunks.is_empty() && found.records.is_empty());
        assert_eq!(
            (recovered.next_position, recovered.next_queue),
            (Position(1), QueueId(1))
        );
        assert_eq!(
            (recovered.epoch, recovered.replayed, recovered.torn_bytes),
            (epoch, 0, 0)
        );
        store = harness.reopen(store);
    }
}

fn every_kind() -> Vec<Record> {
    let queue = QueueId(1);
    let failed = |seq: u64, number| Record::Failed {
        queue,
        seq: Seq(seq),
        ready_at: time(99),
        attempt: Box::new(attempt(number)),
    };
    let late = courser_core::record::ChunkEntry {
        failures: 3,
        ready_at: time(80),
        ..entry(9, 4)
    };
    vec![
        Record::QueueDefined(Box::new(definition(1))),
        Record::QueueDefined(Box::new(definition(7))),
        Record::Enqueued(queue, entry(1, 1)),
        Record::Enqueued(queue, entry(2, 2)),
        Record::Enqueued(QueueId(7), entry(1, 2)),
        Record::Enqueued(queue, entry(3, 3)),
        Record::Enqueued(queue, late),
        Record::Removed { queue, seq: Seq(3) },
        Record::Removed { queue, seq: Seq(1) },
        Record::Removed {
            queue: QueueId(7),
            seq: Seq(1),
        },
        failed(2, 1),
        failed(2, 2),
        Record::Moved {
            from: queue,
            from_seq: Seq(2),
            to: QueueId(7),
            entry: entry(5, 2),
            note: Box::new(note(5)),
        },
        Record::Purged {
            queue,
            before: Seq(1_000),
            kept: vec![Seq(9), Seq(17), Seq(900)],
        },
        Record::Purged {
            queue,
            before: Seq(1_000),
            kept: Vec::new(),
        },
        Record::QueueDeleted { queue: QueueId(7) },
    ]
}

/// Records of every kind, in one group and in many.
pub fn gives_back_every_record_in_order(harness: &mut impl Harness) {
    let store = harness.open();
    recover(&store);
    let messages: Vec<_> = (1..=4).map(|position| message(position, 10)).collect();
    let first = Group {
        messages,
        records: every_kind(),
        next_position: Position(5),
    };
    assert_eq!(commit(&store, &first).0, 1);
    for record in every_kind() {
        commit(&store, &records(vec![record], 5));
    }
    commit(&store, &records(Vec::new(), 5));

    let store = harness.reopen(store);
    let (found, recovered) = recover(&store);
    assert_eq!(found.records, [every_kind(), every_kind()].concat());
    assert_eq!(recovered.replayed, 2 * every_kind().len() as u64);
    assert_eq!(
        (recovered.next_position, recovered.next_queue),
        (Position(5), QueueId(8))
    );
    let next = commit(&store, &records(Vec::new(), 5));
    assert_eq!(next.0, every_kind().len() as u64 + 3);
}

/// A killed process loses no group that was written: only a machine that goes down may take those
/// that were not synced.
pub fn gives_back_groups_that_were_not_synced(harness: &mut impl Harness) {
    let store = harness.open();
    recover(&store);
    fill(&store, 1, 501);
    let store = harness.reopen(store);
    let (found, _) = recover(&store);
    assert_eq!(found.records.len(), 500);
    store.sync().expect("syncing works");
    fill(&store, 501, 601);
    let store = harness.reopen(store);
    let (found, recovered) = recover(&store);
    assert_eq!(found.records.len(), 600);
    assert_eq!(recovered.next_position, Position(601));
}

/// Positions may have gaps, also at the end of a group, and none is given twice.
pub fn counts_on_from_where_it_was(harness: &mut impl Harness) {
    let store = harness.open();
    recover(&store);
    commit(
        &store,
        &Group {
            next_position: Position(40),
            ..group([3, 5, 9].into_iter())
        },
    );
    let store = harness.reopen(store);
    assert_eq!(recover(&store).1.next_position, Position(40));
    commit(&store, &group([50].into_iter()));
    assert_eq!(load_one(&store, 5), message(5, 1_000));
    let store = harness.reopen(store);
    assert_eq!(recover(&store).1.next_position, Position(51));
    let loaded = store.load(&[Position(9), Position(10), Position(40), Position(50)]);
    let there: Vec<_> = loaded
        .expect("loading works")
        .iter()
        .map(Option::is_some)
        .collect();
    assert_eq!(there, [true, false, false, true]);
}

/// With everything and with nothing in it.
pub fn loads_messages_of_every_shape(harness: &mut impl Harness) {
    let store = harness.open();
    recover(&store);
    let messages = vec![
        full_message(1),
        message(2, 0),
        message(3, 1),
        message(4, 300_000),
        message(5, 100),
        full_message(6),
        message(7, 1_000_000),
    ];
    let group = Group {
        messages: messages.clone(),
        records: vec![],
        next_position: Position(8),
    };
    commit(&store, &group);
    let all: Vec<_> = (1..=7).map(Position).collect();
    let expected: Vec<_> = messages.into_iter().map(Some).collect();
    assert_eq!(store.load(&all).expect("loading works"), expected);
    let store = harness.reopen(store);
    recover(&store);
    assert_eq!(store.load(&all).expect("loading works"), expected);
}

/// The answer has the order of the question; what is not there is `None`.
pub fn loads_in_any_order(harness: &mut impl Harness) {
    let store = harness.open();
    recover(&store);
    fill(&store, 1, 1_001);
    let asked = [900, 1, 1_000, 1_001, 5, 5, 0, 77, u64::MAX, 901];
    let loaded = store.load(&asked.map(Position)).expect("loading works");
    for (asked, message) in asked.into_iter().zip(&loaded) {
        let expected = (1..=1_000)
            .contains(&asked)
            .then(|| super::fixture::message(asked, 1_000));
        assert_eq!(*message, expected, "message {asked}");
    }
    let shuffled: Vec<_> = (0..1_000)
        .map(|n| Position((n * 617) % 1_000 + 1))
        .collect();
    let loaded = store.load(&shuffled).expect("loading works");
    for (position, message) in shuffled.iter().zip(loaded) {
        assert_eq!(message.map(|message| message.position), Some(*position));
    }
    assert_eq!(store.load(&[]).expect("loading works"), []);
}

/// Old messages and new ones, over all of its files.
pub fn loads_what_was_committed_before_a_restart(harness: &mut impl Harness) {
    let store = harness.open();
    recover(&store);
    fill(&store, 1, 2_001);
    let store = harness.reopen(store);
    recover(&store);
    fill(&store, 2_001, 3_001);
    let all: Vec<_> = (1..=3_000).map(Position).collect();
    for (position, loaded) in (1..).zip(store.load(&all).expect("loading works")) {
        assert_eq!(loaded, Some(message(position, 1_000)));
    }
}

/// 64 MiB in one message, between small ones.
pub fn keeps_messages_larger_than_a_segment(harness: &mut impl Harness) {
    let large = |position: u64| {
        let payload = Bytes::from(noise(position, 64 * 1024 * 1024));
        SharedMessage::from(Message {
            payload,
            ..Message::clone(&message(position, 0))
        })
    };
    let store = harness.open();
    recover(&store);
    fill(&store, 1, 11);
    let messages = vec![message(11, 10), large(12), message(13, 10)];
    commit(
        &store,
        &Group {
            messages,
            records: vec![],
            next_position: Position(14),
        },
    );
    fill(&store, 14, 24);
    assert!(load_one(&store, 12) == large(12));
    let store = harness.reopen(store);
    recover(&store);
    assert!(load_one(&store, 12) == large(12));
    assert_eq!(load_one(&store, 11), message(11, 10));
    assert_eq!(load_one(&store, 13), message(13, 10));
    assert_eq!(load_one(&store, 23), message(23, 1_000));
}
