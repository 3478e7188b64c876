//! A run of neighbouring entries of one queue, in memory or only counted.
//!
//! A chunk that the index holds unchanged may be let go of: then only its counts stay. Chunks with
//! entries that are leased, or given back and waiting for their turn, stay.

use crate::{
    id::{ChunkNo, LeaseId, Position, Seq},
    record::{self, ChunkEntry},
    time::Timestamp,
};

/// Where an entry of a chunk in memory stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Settled, or never there.
    Gone,
    /// Waiting to be delivered.
    Ready,
    /// Waiting for this moment.
    Delayed(Timestamp),
    /// Held under this lease.
    Leased(LeaseId),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) position: Position,
    pub(crate) enqueued_at: Timestamp,
    pub(crate) size: u32,
    pub(crate) failures: u32,
    pub(crate) state: State,
}

const GONE: Entry = Entry {
    position: Position(0),
    enqueued_at: Timestamp::ZERO,
    size: 0,
    failures: 0,
    state: State::Gone,
};

impl Entry {
    pub(crate) fn from_kept(kept: &ChunkEntry) -> Self {
        let delayed = kept.ready_at > Timestamp::ZERO;
        Self {
            position: kept.position,
            enqueued_at: kept.enqueued_at,
            size: kept.size,
            failures: kept.failures,
            state: if delayed {
                State::Delayed(kept.ready_at)
            } else {
                State::Ready
            },
        }
    }

    /// As the store keeps it: a lease is not kept.
    pub(crate) fn kept(&self, seq: Seq) -> ChunkEntry {
        let ready_at = match self.state {
            State::Delayed(at) => at,
            State::Gone | State::Ready | State::Leased(_) => Timestamp::ZERO,
        };
        ChunkEntry {
            seq,
            position: self.position,
            enqueued_at: self.enqueued_at,
            size: self.size,
            failures: self.failures,
            ready_at,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Chunk {
    /// Entries that are not gone.
    pub(crate) alive: u32,
    pub(crate) delayed: u32,
    /// Of the messages of living entries.
    pub(crate) bytes: u64,
    /// Entries that are leased or given back: they keep the chunk in memory.
    pub(crate) pinned: u32,
    /// When the first ready entry came. Known of chunks that are only counted.
    pub(crate) oldest: Timestamp,
    /// Changed since the last checkpoint began.
    pub(crate) dirty: bool,
    /// The index has it, or will have when the checkpoint on its way is done.
    pub(crate) in_index: bool,
    /// By place; `None` when only the index has them.
    entries: Option<Vec<Entry>>,
}

impl Chunk {
    /// A chunk of which the index holds `kept`.
    pub(crate) fn counted(kept: &record::Chunk) -> Self {
        let mut chunk = Self {
            in_index: true,
            ..Self::default()
        };
        for entry in &kept.entries {
            chunk.count(&Entry::from_kept(entry), 1);
        }
        chunk.oldest = kept
            .entries
            .iter()
            .find(|entry| entry.ready_at == Timestamp::ZERO)
            .map_or(Timestamp::ZERO, |entry| entry.enqueued_at);
        chunk
    }

    pub(crate) fn is_loaded(&self) -> bool {
        self.entries.is_some() || self.alive == 0
    }

    /// Takes in what the index holds of it.
    pub(crate) fn load(&mut self, number: ChunkNo, kept: &record::Chunk) {
        debug_assert_eq!(
            self.alive as usize,
            kept.entries.len(),
            "counts equal the index"
        );
        let places = kept
            .entries
            .last()
            .map_or(0, |last| index(number, last.seq) + 1);
        let mut entries = Vec::with_capacity(places);
        for entry in &kept.entries {
            put(
                &mut entries,
                index(number, entry.seq),
                Entry::from_kept(entry),
            );
        }
        self.entries = Some(entries);
    }

    /// Lets go of the entries, which the index holds.
    pub(crate) fn unload(&mut self) {
        debug_assert!(
            self.in_index && !self.dirty && self.pinned == 0,
            "the index has it all"
        );
        let entries = self.entries.take().unwrap_or_default();
        let ready = entries.iter().find(|entry| entry.state == State::Ready);
        self.oldest = ready.map_or(Timestamp::ZERO, |entry| entry.enqueued_at);
    }

    pub(crate) fn get(&self, number: ChunkNo, seq: Seq) -> Option<&Entry> {
        let entry = self.entries.as_ref()?.get(index(number, seq))?;
        (entry.state != State::Gone).then_some(entry)
    }

    /// Adds an entry, or puts it in the place of what is known of it.
    pub(crate) fn insert(&mut self, number: ChunkNo, seq: Seq, entry: Entry) {
        if self.get(number, seq).is_some() {
            self.remove(number, seq);
        }
        self.count(&entry, 1);
        // Grows with what comes: of thousands of queues, most have a few entries.
        let entries = self.entries.get_or_insert_default();
        put(entries, index(number, seq), entry);
    }

    /// Changes an entry's state and failures.
    pub(crate) fn set(&mut self, number: ChunkNo, seq: Seq, state: State, failures: u32) {
        let Some(mut entry) = self.get(number, seq).copied() else {
            return;
        };
        self.count(&entry, -1);
        (entry.state, entry.failures) = (state, failures);
        self.count(&entry, 1);
        if let Some(entries) = &mut self.entries {
            entries[index(number, seq)] = entry;
        }
    }

    /// Forgets an entry; answers what it was.
    pub(crate) fn remove(&mut self, number: ChunkNo, seq: Seq) -> Option<Entry> {
        let entry = *self.get(number, seq)?;
        self.count(&entry, -1);
        if let Some(entries) = &mut self.entries {
            entries[index(number, seq)] = GONE;
        }
        Some(entry)
    }

    /// The first ready entry at `from` or after it.
    pub(crate) fn next_ready(&self, number: ChunkNo, from: Seq) -> Option<(Seq, &Entry)> {
        let entries = self.entries.as_ref()?;
        let start = if from > number.first() {
            index(number, from)
        } else {
            0
        };
        let offset = entries
            .get(start..)?
            .iter()
            .position(|entry| entry.state == State::Ready)?;
        Some((
            Seq(number.first().0 + (start + offset) as u64),
            &entries[start + offset],
        ))
    }

    /// All living entries in order.
    pub(crate) fn iter(&self, number: ChunkNo) -> impl Iterator<Item = (Seq, &Entry)> {
        let first = number.first().0;
        self.entries
            .iter()
            .flatten()
            .enumerate()
            .filter(|(_, entry)| entry.state != State::Gone)
            .map(move |(offset, entry)| (Seq(first + offset as u64), entry))
    }

    fn count(&mut self, entry: &Entry, by: i32) {
        self.alive = self.alive.wrapping_add_signed(by);
        self.bytes = self
            .bytes
            .wrapping_add_signed(i64::from(entry.size) * i64::from(by));
        if matches!(entry.state, State::Delayed(_)) {
            self.delayed = self.delayed.wrapping_add_signed(by);
        }
    }
}

fn index(number: ChunkNo, seq: Seq) -> usize {
    (seq.0 - number.first().0) as usize
}

fn put(entries: &mut Vec<Entry>, index: usize, entry: Entry) {
    if entries.len() <= index {
        entries.resize(index, GONE);
        entries.push(entry);
    } else {
        entries[index] = entry;
    }
}
