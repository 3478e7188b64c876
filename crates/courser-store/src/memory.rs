//! A store in memory: the same meaning as on a disk, for tests and for brokers that may forget.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use courser_core::{
    id::{ChunkNo, Position, QueueId, Seq},
    message::SharedMessage,
    record::{Checkpoint, Chunk, ChunkChange, Group, Note, QueueState, Record},
};
use rustc_hash::FxHashMap;

use crate::{
    FrameNo, Reclaimed, Recover, Recovered, Space, Store, StoreError, Usage, lock::Mutex,
    next_queue_after,
};

/// Forgets everything when its last handle goes.
///
/// A clone is the same store. [`reopened`](Self::reopened) is what a process would find after a
/// crash: the same content, and a recovery that may be called again.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    content: Arc<Mutex<Content>>,
    failing: Arc<AtomicBool>,
}

/// What a disk would hold.
#[derive(Debug, Default)]
struct Content {
    epoch: u64,
    /// Frames after the last checkpoint.
    frames: VecDeque<Frame>,
    last_frame: u64,
    bodies: BTreeMap<Position, SharedMessage>,
    queues: BTreeMap<QueueId, QueueState>,
    chunks: BTreeMap<(QueueId, ChunkNo), Chunk>,
    notes: BTreeMap<(QueueId, Seq), Arc<Note>>,
    /// How many entries of the index refer to a body.
    references: FxHashMap<Position, u32>,
    /// Bodies that nothing may refer to any more: the next reclaim looks.
    loose: Vec<Position>,
    next_position: Position,
    next_queue: QueueId,
}

#[derive(Debug)]
struct Frame {
    number: u64,
    records: Vec<Record>,
    positions: Vec<Position>,
    next_position: Position,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The store as the next process finds it.
    #[must_use]
    pub fn reopened(&self) -> Self {
        Self {
            content: Arc::clone(&self.content),
            failing: Arc::default(),
        }
    }

    /// From now on (or no more) every write fails, as on a disk that is broken.
    pub fn fail_writes(&self, failing: bool) {
        self.failing.store(failing, Ordering::Relaxed);
    }

    fn check_writes(&self, action: &'static str) -> Result<(), StoreError> {
        if self.failing.load(Ordering::Relaxed) {
            let source = std::io::Error::other("the store was told to fail");
            return Err(StoreError::Io {
                action,
                path: "memory".to_owned(),
                source,
            });
        }
        Ok(())
    }
}

impl Store for MemoryStore {
    fn recover(&self, into: &mut dyn Recover) -> Result<Recovered, StoreError> {
        let mut content = self.content.lock();
        content.epoch += 1;
        for state in content.queues.values() {
            into.queue(state.clone());
        }
        for ((queue, number), chunk) in &content.chunks {
            into.chunk(*queue, *number, chunk);
        }
        let mut next_queue = content.next_queue;
        let mut replayed = 0;
        for frame in &content.frames {
            for record in &frame.records {
                next_queue = next_queue.max(next_queue_after(record));
                into.record(record.clone(), &mut |queue, number| {
                    Ok(content.page(queue, number))
                })?;
                replayed += 1;
            }
        }
        let in_log = content
            .frames
            .back()
            .map_or(Position(1), |frame| frame.next_position);
        Ok(Recovered {
            next_position: content.next_position.max(in_log),
            next_queue: next_queue.max(QueueId(1)),
            epoch: content.epoch,
            replayed,
            last_frame: FrameNo(content.last_frame),
            torn_bytes: 0,
        })
    }

    fn commit(&self, group: &Group, _sync: bool) -> Result<FrameNo, StoreError> {
        self.check_writes("write")?;
        let mut content = self.content.lock();
        content.last_frame += 1;
        let number = content.last_frame;
        let positions = group
            .messages
            .iter()
            .map(|message| message.position)
            .collect();
        for message in &group.messages {
            content.bodies.insert(message.position, message.clone());
        }
        let (records, next_position) = (group.records.clone(), group.next_position);
        content.frames.push_back(Frame {
            number,
            records,
            positions,
            next_position,
        });
        Ok(FrameNo(number))
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.check_writes("sync")
    }

    fn load(&self, positions: &[Position]) -> Result<Vec<Option<SharedMessage>>, StoreError> {
        let content = self.content.lock();
        Ok(positions
            .iter()
            .map(|position| content.bodies.get(position).cloned())
            .collect())
    }

    fn page(&self, queue: QueueId, number: ChunkNo) -> Result<Chunk, StoreError> {
        Ok(self.content.lock().page(queue, number))
    }

    fn checkpoint(&self, checkpoint: &Checkpoint, upto: FrameNo) -> Result<(), StoreError> {
        self.check_writes("write")?;
        let mut content = self.content.lock();
        for state in &checkpoint.queues {
            content.queues.insert(state.definition.id, state.clone());
        }
        for change in &checkpoint.chunks {
            content.apply(change);
        }
        for queue in &checkpoint.deleted_queues {
            content.delete_queue(*queue);
        }
        content.next_position = content.next_position.max(checkpoint.next_position);
        content.next_queue = content.next_queue.max(checkpoint.next_queue);
        while content
            .frames
            .front()
            .is_some_and(|frame| frame.number <= upto.0)
        {
            if let Some(frame) = content.frames.pop_front() {
                content.loose.extend(frame.positions);
            }
        }
        Ok(())
    }

    fn reclaim(&self, _keep_free: u64) -> Result<Reclaimed, StoreError> {
        self.check_writes("drop")?;
        let content = &mut *self.content.lock();
        let mut dropped = 0;
        for position in std::mem::take(&mut content.loose) {
            if !content.references.contains_key(&position) {
                dropped += u64::from(content.bodies.remove(&position).is_some());
            }
        }
        Ok(Reclaimed {
            dropped,
            rewritten: 0,
            more: false,
        })
    }

    fn usage(&self) -> Usage {
        let content = self.content.lock();
        let bytes = content
            .bodies
            .values()
            .map(|message| u64::from(message.size()))
            .sum();
        Usage {
            log_bytes: bytes,
            segments: 1,
            index_bytes: 0,
        }
    }

    fn space(&self) -> Option<Space> {
        None
    }
}

impl Content {
    fn page(&self, queue: QueueId, number: ChunkNo) -> Chunk {
        let mut chunk = self
            .chunks
            .get(&(queue, number))
            .cloned()
            .unwrap_or_default();
        if !chunk.entries.is_empty() {
            let places = number.first()..ChunkNo(number.0 + 1).first();
            let notes = self.notes.range((queue, places.start)..(queue, places.end));
            chunk.notes = notes
                .map(|((_, seq), note)| (*seq, Arc::clone(note)))
                .collect();
        }
        chunk
    }

    fn apply(&mut self, change: &ChunkChange) {
        let key = (change.queue, change.number);
        // First the new references, then the old ones: what stays never looks loose.
        for entry in &change.entries {
            *self.references.entry(entry.position).or_default() += 1;
        }
        self.remove_chunk(key);
        if change.entries.is_empty() {
            let places = change.number.first()..ChunkNo(change.number.0 + 1).first();
            let keys: Vec<_> = self
                .notes
                .range((change.queue, places.start)..(change.queue, places.end))
                .map(|(key, _)| *key)
                .collect();
            for key in keys {
                self.notes.remove(&key);
            }
            return;
        }
        let entries = change.entries.clone();
        self.chunks.insert(
            key,
            Chunk {
                entries,
                notes: Vec::new(),
            },
        );
        for (seq, note) in &change.notes {
            match note {
                Some(note) => self.notes.insert((change.queue, *seq), Arc::clone(note)),
                None => self.notes.remove(&(change.queue, *seq)),
            };
        }
    }

    fn remove_chunk(&mut self, key: (QueueId, ChunkNo)) {
        for entry in self.chunks.remove(&key).unwrap_or_default().entries {
            if let Some(count) = self.references.get_mut(&entry.position) {
                *count -= 1;
                if *count == 0 {
                    self.references.remove(&entry.position);
                    self.loose.push(entry.position);
                }
            }
        }
    }

    fn delete_queue(&mut self, queue: QueueId) {
        let chunks = self
            .chunks
            .range((queue, ChunkNo(0))..=(queue, ChunkNo(u64::MAX)));
        let chunks: Vec<_> = chunks.map(|(key, _)| *key).collect();
        for key in chunks {
            self.remove_chunk(key);
        }
        self.notes.retain(|(of, _), _| *of != queue);
        self.queues.remove(&queue);
    }
}
