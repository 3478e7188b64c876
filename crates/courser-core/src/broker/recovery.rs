//! After a restart: what the store kept becomes the state again. And checkpoints, which are what it
//! keeps.

use rustc_hash::FxHashSet;

use super::Broker;
use crate::{
    id::{ChunkNo, Position, QueueId, Seq},
    lease::Leases,
    queue::{Pager, Queue},
    record::{Checkpoint, Chunk, QueueState, Record},
    time::Timestamp,
};

impl Broker {
    /// A queue of the index.
    pub fn restore_queue(&mut self, state: QueueState) {
        let id = state.definition.id;
        self.queues
            .insert(id, Queue::new(state.definition.clone(), state.next_seq));
        self.apply_definition(state.definition);
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.dirty = false;
            queue.begin_replay();
        }
    }

    /// A chunk of the index; its queue was restored before.
    pub fn restore_chunk(&mut self, queue: QueueId, number: ChunkNo, chunk: &Chunk) {
        let Some(of) = self.queues.get_mut(&queue) else {
            return;
        };
        of.restore_chunk(number, chunk);
        for entry in chunk
            .entries
            .iter()
            .filter(|entry| entry.ready_at > Timestamp::ZERO)
        {
            self.wait_until(entry.ready_at, queue, entry.seq);
        }
    }

    /// A record of the log. Records of queues that are gone say nothing any more: that the queue went
    /// comes later in the log.
    pub fn replay(&mut self, record: Record, pager: &mut Pager<'_>) {
        match record {
            Record::QueueDefined(definition) => {
                // It may be gone from the index already, and told gone later in the log.
                let id = definition.id;
                self.apply_definition(*definition);
                if let Some(queue) = self.queues.get_mut(&id) {
                    queue.begin_replay();
                }
            }
            Record::QueueDeleted { queue } => {
                self.apply_deletion(queue);
                // Also when it is not known: the index may still hold chunks of it.
                self.deleted_queues.insert(queue);
            }
            Record::Enqueued(queue, entry) => {
                if let Some(queue) = self.queues.get_mut(&queue) {
                    queue.replay_entry(&entry, None, pager);
                }
            }
            Record::Removed { queue, seq } => {
                if let Some(queue) = self.queues.get_mut(&queue) {
                    queue.replay_removal(seq, pager);
                }
            }
            Record::Failed {
                queue,
                seq,
                ready_at,
                attempt,
            } => {
                if let Some(of) = self.queues.get_mut(&queue) {
                    of.replay_failure(seq, ready_at, *attempt, pager);
                    self.wait_until(ready_at, queue, seq);
                }
            }
            Record::Moved {
                from,
                from_seq,
                to,
                entry,
                note,
            } => {
                if let Some(queue) = self.queues.get_mut(&from) {
                    queue.replay_removal(from_seq, pager);
                }
                if let Some(queue) = self.queues.get_mut(&to) {
                    queue.replay_entry(&entry, Some(*note), pager);
                }
            }
            Record::Purged {
                queue,
                before,
                kept,
            } => {
                if let Some(queue) = self.queues.get_mut(&queue) {
                    queue.replay_purge(before, &kept, pager);
                }
            }
        }
    }

    /// All was restored and replayed. `epoch` differs from start to start.
    pub fn finish_recovery(&mut self, epoch: u64, next_position: Position, next_queue: QueueId) {
        self.leases = Leases::new(epoch);
        self.next_position = self.next_position.max(next_position);
        self.next_queue = self.next_queue.max(next_queue);
        for queue in self.queues.values_mut() {
            queue.finish_recovery();
        }
        self.records.clear();
        self.ended.clear();
    }

    /// What changed since the last checkpoint, as it is now: goes to the store with the records drained
    /// before this and without those after. The next checkpoint begins after `checkpoint_done`.
    pub fn checkpoint(&mut self) -> Checkpoint {
        self.grown = 0;
        let mut checkpoint = Checkpoint {
            next_position: self.next_position,
            next_queue: self.next_queue,
            deleted_queues: std::mem::take(&mut self.deleted_queues)
                .into_iter()
                .collect(),
            ..Checkpoint::default()
        };
        for (id, queue) in self.queues.iter_mut().filter(|(_, queue)| queue.dirty) {
            let numbers = queue.checkpoint(&mut checkpoint.chunks);
            self.checkpointed
                .extend(numbers.into_iter().map(|number| (*id, number)));
            checkpoint.queues.push(QueueState {
                definition: queue.definition.clone(),
                next_seq: queue.next_seq,
            });
        }
        checkpoint
    }

    /// The checkpoint is in the index: memory may let go of what is not needed soon. Entries whose lease
    /// ran out lately are needed: their consumers may still answer.
    pub fn checkpoint_done(&mut self) {
        let answerable: FxHashSet<_> = self
            .leases
            .ended_entries()
            .filter(|(queue, seq)| {
                self.queues
                    .get(queue)
                    .is_some_and(|of| of.get(*seq).is_some())
            })
            .map(|(queue, seq)| (queue, seq.chunk()))
            .collect();
        let queues = &mut self.queues;
        self.checkpointed.retain(|chunk| {
            queues
                .get_mut(&chunk.0)
                .is_some_and(|queue| queue.unload(chunk.1, answerable.contains(chunk)))
        });
    }

    /// The living entries of a queue by place and message, in order: for tests.
    #[doc(hidden)]
    pub fn entries(&self, queue: &str, pager: &mut Pager<'_>) -> Vec<(Seq, Position)> {
        let peek = crate::stats::Peek {
            state: crate::stats::StateFilter::Any,
            after: Seq(0),
            limit: usize::MAX,
        };
        let views = self.peek(queue, peek, pager).unwrap_or_default();
        views
            .iter()
            .map(|view| (view.entry.seq, view.entry.position))
            .collect()
    }
}
