//! A store in memory that keeps to the contract of recovery: an index that checkpoints bring up to
//! date, and the records that came after.

#![allow(dead_code, reason = "each suite uses its part")]

use std::collections::BTreeMap;

use courser_core::{
    broker::Broker,
    id::{ChunkNo, Position, QueueId},
    random::Random,
    record::{Checkpoint, Chunk, ChunkChange, QueueState, Record},
};

#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    queues: BTreeMap<QueueId, QueueState>,
    chunks: BTreeMap<(QueueId, ChunkNo), Chunk>,
    /// What the next recovery replays.
    log: Vec<Record>,
    next_position: Position,
    next_queue: QueueId,
    /// The checkpoint on its way, and how much of the log it covers.
    pending: Option<(Checkpoint, usize)>,
    starts: u64,
}

impl Disk {
    /// Keeps records, which were drained from a broker.
    pub(crate) fn commit(&mut self, records: Vec<Record>, next_position: Position) {
        self.log.extend(records);
        self.next_position = next_position;
    }

    /// Takes a checkpoint that covers all that was committed; nothing of it is in the index yet.
    pub(crate) fn begin(&mut self, checkpoint: Checkpoint) {
        assert!(self.pending.is_none(), "one checkpoint at a time");
        let changed = checkpoint.chunks.iter();
        let mut changed: Vec<_> = changed
            .map(|change| (change.queue, change.number))
            .collect();
        changed.sort_unstable();
        assert!(
            changed.is_sorted_by(|a, b| a < b),
            "a chunk stands in a checkpoint once: the store counts references by it"
        );
        self.pending = Some((checkpoint, self.log.len()));
    }

    /// Brings the checkpoint on its way into the index.
    pub(crate) fn finish(&mut self) {
        let Some((checkpoint, upto)) = self.pending.take() else {
            return;
        };
        self.next_queue = self.next_queue.max(checkpoint.next_queue);
        for id in &checkpoint.deleted_queues {
            self.delete(*id);
        }
        for state in checkpoint.queues {
            self.queues.insert(state.definition.id, state);
        }
        for change in checkpoint.chunks {
            self.change(change);
        }
        self.log.drain(..upto);
    }

    /// Power fails while the checkpoint is on its way: a part of it may be in the index, queues first,
    /// then chunks, then deletions, and the log is replayed from the checkpoint before.
    pub(crate) fn crash(&mut self, random: &mut Random) {
        let Some((checkpoint, _)) = self.pending.take() else {
            return;
        };
        let often = 1 + random.next_u64() % 4;
        let mut happens = || random.next_u64() % 5 < often;
        for state in checkpoint.queues {
            if happens() {
                self.queues.insert(state.definition.id, state);
            } else {
                return;
            }
        }
        let mut all = true;
        for change in checkpoint.chunks {
            if happens() {
                self.change(change);
            } else {
                all = false;
            }
        }
        if !all {
            return;
        }
        for id in checkpoint.deleted_queues {
            if happens() {
                self.queues.remove(&id);
            }
            self.chunks.retain(|(of, _), _| *of != id || !happens());
        }
    }

    /// The same, when the queues and nothing else had come into the index.
    pub(crate) fn crash_after_queues(&mut self) {
        let queues = self.pending.take().map(|(checkpoint, _)| checkpoint.queues);
        for state in queues.into_iter().flatten() {
            self.queues.insert(state.definition.id, state);
        }
    }

    /// Forgets the checkpoint on its way, of which nothing reached the index.
    pub(crate) fn abandon(&mut self) {
        self.pending = None;
    }

    fn delete(&mut self, id: QueueId) {
        self.queues.remove(&id);
        self.chunks.retain(|(of, _), _| *of != id);
    }

    fn change(&mut self, change: ChunkChange) {
        let key = (change.queue, change.number);
        if change.entries.is_empty() {
            self.chunks.remove(&key);
            return;
        }
        let chunk = self.chunks.entry(key).or_default();
        chunk.entries = change.entries;
        let mut notes: BTreeMap<_, _> = std::mem::take(&mut chunk.notes).into_iter().collect();
        for (seq, note) in change.notes {
            match note {
                Some(note) => notes.insert(seq, note),
                None => notes.remove(&seq),
            };
        }
        chunk.notes = notes.into_iter().collect();
    }

    /// A chunk as the index has it.
    pub(crate) fn page(&self, queue: QueueId, number: ChunkNo) -> Option<Chunk> {
        Some(
            self.chunks
                .get(&(queue, number))
                .cloned()
                .unwrap_or_default(),
        )
    }

    /// A broker as it is after a start: queues, chunks without their notes, then the log.
    pub(crate) fn recover(&mut self, seed: u64) -> Broker {
        self.starts += 1;
        let mut broker = Broker::new(0, seed);
        for state in self.queues.values() {
            broker.restore_queue(state.clone());
        }
        for ((queue, number), chunk) in &self.chunks {
            let entries = Chunk {
                entries: chunk.entries.clone(),
                notes: Vec::new(),
            };
            broker.restore_chunk(*queue, *number, &entries);
        }
        for record in &self.log {
            broker.replay(record.clone(), &mut |queue, number| {
                self.page(queue, number)
            });
        }
        let next_position = self.next_position.max(Position(1));
        broker.finish_recovery(self.starts, next_position, self.next_queue.max(QueueId(1)));
        broker
    }

    /// Whether a checkpoint is on its way.
    pub(crate) fn is_busy(&self) -> bool {
        self.pending.is_some()
    }

    /// How many queues and chunks the index holds.
    pub(crate) fn indexed(&self) -> (usize, usize) {
        (self.queues.len(), self.chunks.len())
    }
}
