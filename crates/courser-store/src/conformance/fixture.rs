//! Messages, entries and groups to test stores with.

use std::time::Duration;

use bytes::Bytes;
use courser_core::{
    id::{ChunkNo, Position, QueueId, Seq},
    limits::CHUNK_ENTRIES,
    message::{Attributes, Message, MessageId, SharedMessage},
    name::Pattern,
    options::{Durability, QueueDefinition, QueueOptions},
    record::{
        Attempt, AttemptOutcome, Checkpoint, Chunk, ChunkChange, ChunkEntry, DeadLetter, Group,
        Note, QueueState, Record,
    },
    time::Timestamp,
};
use uuid::Uuid;

use crate::{FrameNo, Pager, Recover, Recovered, Store, StoreError};

/// Everything that a recovery gave back.
#[derive(Debug, Default, PartialEq)]
pub struct Found {
    /// The queues.
    pub queues: Vec<QueueState>,
    /// The chunks of the index.
    pub chunks: Vec<(QueueId, ChunkNo, Chunk)>,
    /// The records of the log.
    pub records: Vec<Record>,
}

impl Recover for Found {
    fn queue(&mut self, state: QueueState) {
        self.queues.push(state);
    }

    fn chunk(&mut self, queue: QueueId, number: ChunkNo, chunk: &Chunk) {
        assert!(chunk.notes.is_empty(), "a recovery leaves notes out");
        self.chunks.push((queue, number, chunk.clone()));
    }

    fn record(&mut self, record: Record, page: &mut Pager<'_>) -> Result<(), StoreError> {
        // Paging works at any moment of the replay.
        if let Record::Failed { queue, seq, .. } = &record {
            page(*queue, seq.chunk())?;
        }
        self.records.push(record);
        Ok(())
    }
}

/// Recovers a store.
pub fn recover(store: &impl Store) -> (Found, Recovered) {
    let mut found = Found::default();
    let recovered = store.recover(&mut found).expect("the store recovers");
    (found, recovered)
}

/// A moment.
#[must_use]
pub fn time(second: u64) -> Timestamp {
    Timestamp::from_micros(1_767_225_600_000_000 + second * 1_000_000)
}

/// Bytes that do not compress and are never the same twice.
#[must_use]
pub fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(bytes);
    out
}

/// A message as most are.
#[must_use]
pub fn message(position: u64, bytes: usize) -> SharedMessage {
    SharedMessage::from(Message {
        position: Position(position),
        published_at: time(position),
        id: MessageId::Uuid(Uuid::from_u128(u128::from(position))),
        topic: "order.created".into(),
        payload: Bytes::from(noise(position, bytes)),
        headers: Vec::new(),
        attributes: None,
    })
}

/// A message that has everything a message can have.
#[must_use]
pub fn full_message(position: u64) -> SharedMessage {
    let header = |n: u64| (format!("key-{n}"), format!("value-{n}"));
    SharedMessage::from(Message {
        id: MessageId::Given("order-17/created".into()),
        headers: (0..10).map(header).collect(),
        attributes: Some(Box::new(Attributes {
            content_type: "application/json".into(),
            kind: "order.created".into(),
            source: "shop".into(),
            schema_version: "2".into(),
            correlation_id: "order-17".into(),
            causation_id: "cart-3".into(),
            traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into(),
        })),
        ..Message::clone(&message(position, 300))
    })
}

/// An entry that never failed.
#[must_use]
pub fn entry(seq: u64, position: u64) -> ChunkEntry {
    ChunkEntry {
        seq: Seq(seq),
        position: Position(position),
        enqueued_at: time(position),
        size: 1_013,
        failures: 0,
        ready_at: Timestamp::ZERO,
    }
}

/// A queue with options that are not the defaults.
#[must_use]
pub fn definition(queue: u32) -> QueueDefinition {
    QueueDefinition {
        id: QueueId(queue),
        name: format!("queue-{queue}").into(),
        options: QueueOptions {
            bindings: vec![Pattern::exact("order.*"), Pattern::exact("payment.#")],
            lease: Duration::from_millis(1_500),
            durability: Durability::Buffered,
            paused: queue.is_multiple_of(2),
            ..QueueOptions::default()
        },
        created_at: time(u64::from(queue)),
        dead_letter_of: None,
        dead_letter_queue: Some(QueueId(queue + 1)),
    }
}

/// A queue at a place.
#[must_use]
pub fn state(queue: u32, next_seq: u64) -> QueueState {
    QueueState {
        definition: definition(queue),
        next_seq: Seq(next_seq),
    }
}

/// A failed attempt.
#[must_use]
pub fn attempt(number: u32) -> Attempt {
    Attempt {
        number,
        consumer: "billing-1".into(),
        delivered_at: time(10),
        ended_at: time(11),
        outcome: match number % 4 {
            0 => AttemptOutcome::Nacked,
            1 => AttemptOutcome::Expired,
            2 => AttemptOutcome::Disconnected,
            _ => AttemptOutcome::Rejected,
        },
        error: format!("attempt {number} failed").into(),
    }
}

/// A note with this many attempts, of a dead letter.
#[must_use]
pub fn note(attempts: u32) -> Note {
    Note {
        attempts: (1..=attempts).map(attempt).collect(),
        dead_letter: Some(DeadLetter {
            reason: "max_attempts".into(),
            description: "the card was declined".into(),
            queue: "billing".into(),
            at: time(12),
        }),
        redrives: attempts / 2,
    }
}

/// Messages of 1,000 bytes at these positions, each an entry of queue 1 with its position as place.
#[must_use]
pub fn group(positions: impl Iterator<Item = u64>) -> Group {
    let messages: Vec<_> = positions.map(|position| message(position, 1_000)).collect();
    let of = |message: &SharedMessage| {
        Record::Enqueued(QueueId(1), entry(message.position.0, message.position.0))
    };
    let next = messages.last().map_or(1, |message| message.position.0 + 1);
    Group {
        records: messages.iter().map(of).collect(),
        messages,
        next_position: Position(next),
    }
}

/// A group without messages.
#[must_use]
pub fn records(records: Vec<Record>, next_position: u64) -> Group {
    Group {
        messages: Vec::new(),
        records,
        next_position: Position(next_position),
    }
}

/// A checkpoint after which exactly these entries live in queue 1, of those before place `end`.
#[must_use]
pub fn checkpoint(end: u64, living: impl Iterator<Item = u64>) -> Checkpoint {
    let mut chunks: Vec<ChunkChange> = (0..=Seq(end - 1).chunk().0)
        .map(|number| change(1, number, Vec::new()))
        .collect();
    for seq in living {
        chunks[(seq / CHUNK_ENTRIES) as usize]
            .entries
            .push(entry(seq, seq));
    }
    Checkpoint {
        queues: vec![state(1, end)],
        chunks,
        deleted_queues: Vec::new(),
        next_position: Position(end),
        next_queue: QueueId(2),
    }
}

/// What a checkpoint says of one chunk, without notes.
#[must_use]
pub fn change(queue: u32, number: u64, entries: Vec<ChunkEntry>) -> ChunkChange {
    ChunkChange {
        queue: QueueId(queue),
        number: ChunkNo(number),
        entries,
        notes: Vec::new(),
    }
}

/// Commits, with a sync, and must succeed.
pub fn commit(store: &impl Store, group: &Group) -> FrameNo {
    store.commit(group, true).expect("the group is committed")
}

/// Commits positions `from..to` in groups of a hundred, without a sync. Answers the last frame.
pub fn fill(store: &impl Store, from: u64, to: u64) -> FrameNo {
    let mut frame = FrameNo(0);
    for start in (from..to).step_by(100) {
        let group = group(start..(start + 100).min(to));
        frame = store.commit(&group, false).expect("the group is committed");
    }
    frame
}

/// Reclaims until there is nothing more to do, on a disk with enough room.
pub fn reclaim_all(store: &impl Store) {
    reclaim_with(store, 0);
}

/// The same on a disk of which so much is to stay free.
pub fn reclaim_with(store: &impl Store, keep_free: u64) {
    let step = || store.reclaim(keep_free).expect("reclaiming works");
    let steps = std::iter::from_fn(|| step().more.then_some(()))
        .take(10_000)
        .count();
    assert!(steps < 10_000, "reclaiming never ends");
}

/// Loads a message that must be there.
#[track_caller]
pub fn load_one(store: &impl Store, position: u64) -> SharedMessage {
    let mut loaded = store.load(&[Position(position)]).expect("loading works");
    loaded
        .pop()
        .flatten()
        .unwrap_or_else(|| panic!("there is no message {position}"))
}
