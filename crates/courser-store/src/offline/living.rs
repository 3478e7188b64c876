//! Which entries live: what the index holds, and what the records of the log after it say.
//!
//! Nothing here knows of leases and turns: those are not kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use courser_core::{
    id::{QueueId, Seq},
    options::QueueDefinition,
    record::{Attempt, Chunk, ChunkEntry, Note, Record},
};

use super::places::Places;

/// An entry that lives.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Living {
    pub(super) entry: ChunkEntry,
    pub(super) note: Option<Arc<Note>>,
}

/// What the log says of an entry that the index may hold.
#[derive(Debug)]
enum Change {
    /// It is this.
    Put(Box<Living>),
    /// It failed so often since.
    Failed(Vec<Attempt>),
}

/// What records say, in their order.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) queues: BTreeMap<QueueId, QueueDefinition>,
    deleted: BTreeSet<QueueId>,
    changes: BTreeMap<(QueueId, Seq), Change>,
    gone: BTreeMap<QueueId, Places>,
    purged: BTreeMap<QueueId, Vec<(Seq, Vec<Seq>)>>,
}

impl Changes {
    pub(super) fn apply(&mut self, record: Record) {
        match record {
            Record::QueueDefined(definition) => {
                self.queues.insert(definition.id, *definition);
            }
            Record::QueueDeleted { queue } => {
                self.deleted.insert(queue);
                self.queues.remove(&queue);
                self.forget(queue, |_| true);
            }
            Record::Enqueued(queue, entry) => self.put(queue, Living { entry, note: None }),
            Record::Removed { queue, seq } => self.remove(queue, seq),
            Record::Failed {
                queue,
                seq,
                ready_at,
                attempt,
            } => match self.changes.get_mut(&(queue, seq)) {
                Some(Change::Put(living)) => {
                    living.entry.ready_at = ready_at;
                    living.fail(*attempt);
                }
                Some(Change::Failed(attempts)) => attempts.push(*attempt),
                None => {
                    let failed = Change::Failed(vec![*attempt]);
                    self.changes.insert((queue, seq), failed);
                }
            },
            Record::Moved {
                from,
                from_seq,
                to,
                entry,
                note,
            } => {
                self.remove(from, from_seq);
                let note = Some(Arc::new(*note));
                self.put(to, Living { entry, note });
            }
            Record::Purged {
                queue,
                before,
                kept,
            } => {
                self.forget(queue, |seq| {
                    seq < before && kept.binary_search(&seq).is_err()
                });
                self.purged.entry(queue).or_default().push((before, kept));
            }
        }
    }

    fn put(&mut self, queue: QueueId, living: Living) {
        let seq = living.entry.seq;
        if let Some(gone) = self.gone.get_mut(&queue) {
            gone.remove(seq.0);
        }
        let put = Change::Put(Box::new(living));
        self.changes.insert((queue, seq), put);
    }

    fn remove(&mut self, queue: QueueId, seq: Seq) {
        self.changes.remove(&(queue, seq));
        self.gone.entry(queue).or_default().insert(seq.0);
    }

    fn forget(&mut self, queue: QueueId, is_gone: impl Fn(Seq) -> bool) {
        let all = (queue, Seq(0))..=(queue, Seq(u64::MAX));
        let gone: Vec<_> = self
            .changes
            .range(all)
            .map(|(place, _)| *place)
            .filter(|(_, seq)| is_gone(*seq))
            .collect();
        for place in gone {
            self.changes.remove(&place);
        }
    }

    pub(super) fn is_deleted(&self, queue: QueueId) -> bool {
        self.deleted.contains(&queue)
    }

    fn is_gone(&self, queue: QueueId, seq: Seq) -> bool {
        let is_removed = self
            .gone
            .get(&queue)
            .is_some_and(|gone| gone.contains(seq.0));
        let is_purged = || {
            let mut purges = self.purged.get(&queue).into_iter().flatten();
            purges.any(|(before, kept)| seq < *before && kept.binary_search(&seq).is_err())
        };
        is_removed || self.is_deleted(queue) || is_purged()
    }

    /// What lives of a chunk of the index. What the log says of its entries is taken out.
    pub(super) fn merge(&mut self, queue: QueueId, chunk: Chunk) -> Vec<Living> {
        let mut notes: BTreeMap<_, _> = chunk.notes.into_iter().collect();
        let mut living = Vec::with_capacity(chunk.entries.len());
        for entry in chunk.entries {
            let change = self.changes.remove(&(queue, entry.seq));
            let note = notes.remove(&entry.seq);
            let mut one = Living { entry, note };
            match change {
                // Of the two, the one that knows more: a checkpoint that was cut off is ahead.
                Some(Change::Put(put)) if put.entry.failures >= entry.failures => one = *put,
                Some(Change::Put(_)) => {}
                _ if self.is_gone(queue, entry.seq) => continue,
                Some(Change::Failed(attempts)) => {
                    attempts.into_iter().for_each(|attempt| one.fail(attempt));
                }
                None => {}
            }
            living.push(one);
        }
        living
    }

    /// What lives and was not in the index, in the order of queues and places.
    pub(super) fn rest(&mut self) -> impl Iterator<Item = (QueueId, Living)> + use<> {
        let rest = std::mem::take(&mut self.changes);
        rest.into_iter()
            .filter_map(|((queue, _), change)| match change {
                Change::Put(living) => Some((queue, *living)),
                Change::Failed(_) => None,
            })
    }
}

impl Living {
    fn fail(&mut self, attempt: Attempt) {
        self.entry.failures = self.entry.failures.max(attempt.number);
        let note = self.note.get_or_insert_default();
        Arc::make_mut(note).add_attempt(attempt);
    }
}
