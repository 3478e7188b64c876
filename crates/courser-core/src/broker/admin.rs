//! Looking at queues and their entries, purging, redriving.

use std::{ops::Bound, sync::Arc};

use rustc_hash::FxHashMap;

use super::Broker;
use crate::{
    chunk::{Entry, State},
    error::QueueError,
    id::{ChunkNo, QueueId, Seq},
    limits,
    queue::{Pager, Queue},
    record::{Note, Record},
    stats::{ConsumerView, EntryState, EntryView, Peek, QueueView, StateFilter},
    time::Timestamp,
};

/// A redrive that is under way: where it stands.
#[derive(Clone, Debug)]
pub struct RedriveTask {
    /// The dead-letter queue.
    pub queue: String,
    /// Another target than the queue of origin.
    pub to: Option<String>,
    /// How many more to move at most.
    pub limit: u64,
    /// Only these, unless empty. In ascending order.
    pub entries: Vec<Seq>,
    /// Only with this reason.
    pub reason: Option<String>,
    /// Count only.
    pub dry_run: bool,
    /// Where to go on.
    pub after: Seq,
    /// Entries from here on came later.
    pub before: Option<Seq>,
}

impl RedriveTask {
    /// The next place to look at.
    fn next(&self) -> Option<Seq> {
        match self.entries.partition_point(|seq| *seq <= self.after) {
            _ if self.entries.is_empty() => Some(Seq(self.after.0 + 1)),
            at => self.entries.get(at).copied(),
        }
    }

    fn wants(&self, seq: Seq, entry: &Entry, note: Option<&Note>) -> bool {
        let letter = note.and_then(|note| note.dead_letter.as_ref());
        !matches!(entry.state, State::Leased(_))
            && (self.entries.is_empty() || self.entries.binary_search(&seq).is_ok())
            && self
                .reason
                .as_deref()
                .is_none_or(|reason| letter.is_some_and(|letter| &*letter.reason == reason))
    }
}

/// What a step of a redrive did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedriveStep {
    /// Entries moved, or counted.
    pub moved: u64,
    /// There is nothing more to do.
    pub done: bool,
}

impl Broker {
    /// One queue as it is now.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn view(&self, name: &str, now: Timestamp) -> Result<QueueView, QueueError> {
        let id = self.find(name)?;
        Ok(self.view_of(&self.queues[&id], now))
    }

    /// Queues by name as they are now: those that start with `prefix` and come after `after`, at most
    /// `limit`.
    #[must_use]
    pub fn views(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        now: Timestamp,
    ) -> Vec<QueueView> {
        let from = after.map_or(prefix, |after| after.max(prefix));
        self.names
            .range::<str, _>((Bound::Included(from), Bound::Unbounded))
            .take_while(|(name, _)| name.starts_with(prefix))
            .filter(|(name, _)| after != Some(name))
            .take(limit)
            .map(|(_, id)| self.view_of(&self.queues[id], now))
            .collect()
    }

    /// How many queues there are.
    #[must_use]
    pub fn queue_count(&self) -> usize {
        self.queues.len()
    }

    fn view_of(&self, queue: &Queue, now: Timestamp) -> QueueView {
        let definition = queue.definition.clone();
        let other = |id: Option<QueueId>| id.and_then(|id| self.queues.get(&id));
        let name = |queue: &Queue| Arc::clone(&queue.definition.name);
        let dead_letters = other(definition.dead_letter_queue);
        QueueView {
            dead_letter_of: other(definition.dead_letter_of).map(name),
            dead_letter_queue: dead_letters.map(name),
            ready: queue.ready(),
            delayed: queue.delayed,
            leased: queue.leased,
            dead: dead_letters.map_or(0, |queue| queue.alive),
            bytes: queue.bytes,
            oldest_ready_age: queue.oldest_ready().map(|at| now.since(at)),
            oldest_leased_age: self.leases.oldest(&queue.leases).map(|at| now.since(at)),
            totals: queue.totals.clone(),
            consumers: self.consumer_views(queue),
            publish_rate: queue.publish_rate.per_second(now),
            ack_rate: queue.ack_rate.per_second(now),
            definition,
        }
    }

    fn consumer_views(&self, queue: &Queue) -> Vec<ConsumerView> {
        let ids = queue.consumers.iter();
        ids.filter_map(|id| self.consumers.get(id))
            .map(|consumer| ConsumerView {
                name: Arc::clone(&consumer.options.name),
                leased: consumer.held,
                leased_bytes: consumer.held_bytes,
                max_messages: consumer.options.max_messages,
                max_bytes: consumer.options.max_bytes,
            })
            .collect()
    }

    /// Entries in queue order. Changes nothing.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn peek(
        &self,
        queue: &str,
        peek: Peek,
        pager: &mut Pager<'_>,
    ) -> Result<Vec<EntryView>, QueueError> {
        let id = self.find(queue)?;
        let queue = &self.queues[&id];
        let (mut views, mut bytes) = (Vec::new(), 0_u64);
        for (number, chunk) in queue.chunks_from(peek.after.chunk()) {
            let worth = match peek.state {
                StateFilter::Any => true,
                StateFilter::Leased => chunk.pinned > 0,
                StateFilter::Delayed => chunk.delayed > 0,
                StateFilter::Ready => chunk.alive > chunk.delayed,
            };
            if !worth {
                continue;
            }
            for (seq, entry, note) in self.entries_of(queue, number, pager) {
                let state = self.state_of(&entry);
                if seq <= peek.after || !passes(peek.state, &state) {
                    continue;
                }
                bytes += u64::from(entry.size);
                let full = bytes > limits::PEEK_BYTES_MAX && !views.is_empty();
                if views.len() >= peek.limit || full {
                    return Ok(views);
                }
                views.push(EntryView {
                    entry: entry.kept(seq),
                    state,
                    note,
                });
            }
        }
        Ok(views)
    }

    /// The living entries of a chunk, from memory or read for this once.
    fn entries_of(
        &self,
        queue: &Queue,
        number: ChunkNo,
        pager: &mut Pager<'_>,
    ) -> Vec<(Seq, Entry, Option<Arc<Note>>)> {
        let loaded = queue
            .chunks_from(number)
            .next()
            .filter(|(_, chunk)| chunk.is_loaded());
        if let Some((_, chunk)) = loaded {
            return chunk
                .iter(number)
                .map(|(s, e)| (s, *e, queue.note(s).cloned()))
                .collect();
        }
        let Some(kept) = pager(queue.definition.id, number) else {
            return Vec::new();
        };
        let notes: FxHashMap<_, _> = kept.notes.into_iter().collect();
        kept.entries
            .iter()
            .map(|e| (e.seq, Entry::from_kept(e), notes.get(&e.seq).cloned()))
            .collect()
    }

    fn state_of(&self, entry: &Entry) -> EntryState {
        match entry.state {
            State::Delayed(at) => EntryState::Delayed(at),
            State::Leased(id) => self.leases.get(id).map_or(EntryState::Ready, |lease| {
                let consumer = Arc::clone(&lease.consumer_name);
                EntryState::Leased {
                    consumer,
                    until: lease.deadline,
                }
            }),
            State::Ready | State::Gone => EntryState::Ready,
        }
    }

    /// Removes ready and delayed entries, oldest first; answers how many.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn purge_queue(
        &mut self,
        name: &str,
        limit: Option<u64>,
        pager: &mut Pager<'_>,
    ) -> Result<u64, QueueError> {
        let id = self.find(name)?;
        let queue = self.queues.get_mut(&id).expect("a name has its queue");
        let (purged, before, kept) = queue.purge(limit.unwrap_or(u64::MAX), pager);
        queue.totals.purged += purged;
        if purged > 0 {
            // What goes first now may fit where what went first before did not.
            self.activate(id);
            self.record(
                id,
                Record::Purged {
                    queue: id,
                    before,
                    kept,
                },
            );
        }
        Ok(purged)
    }

    /// Moves the next few dead letters back.
    ///
    /// # Errors
    /// `NotFound`, `NotDeadLetterQueue`, `IsDeadLetterQueue` (the target).
    pub fn redrive_step(
        &mut self,
        task: &mut RedriveTask,
        now: Timestamp,
        pager: &mut Pager<'_>,
    ) -> Result<RedriveStep, QueueError> {
        let (from, to) = self.redrive_ends(task)?;
        task.before.get_or_insert(self.queues[&from].next_seq);
        let (picked, all_seen) = self.pick(from, task, pager);
        let mut moved = 0;
        for seq in picked {
            moved += u64::from(task.dry_run || self.redrive_entry(from, seq, to, now, pager));
        }
        task.limit -= moved.min(task.limit);
        let done = all_seen || task.limit == 0;
        Ok(RedriveStep { moved, done })
    }

    fn redrive_ends(&self, task: &RedriveTask) -> Result<(QueueId, QueueId), QueueError> {
        let from = self.find(&task.queue)?;
        let origin = self.queues[&from].definition.dead_letter_of;
        let origin = origin.ok_or_else(|| QueueError::NotDeadLetterQueue {
            name: task.queue.clone(),
        })?;
        let to = task.to.as_ref().map_or(Ok(origin), |to| self.find(to))?;
        let target = self.queues.get(&to).ok_or(QueueError::NotFound {
            name: String::new(),
        })?;
        self.refuse_dead_letters(&target.definition, "dead letters are not moved to another")?;
        Ok((from, to))
    }

    /// The next entries to be moved, which are not leased, and whether there are no more. The task goes
    /// on after what was looked at, which is bounded, whatever was found.
    fn pick(
        &self,
        from: QueueId,
        task: &mut RedriveTask,
        pager: &mut Pager<'_>,
    ) -> (Vec<Seq>, bool) {
        let queue = &self.queues[&from];
        let most = limits::REDRIVE_STEP.min(usize::try_from(task.limit).unwrap_or(usize::MAX));
        let end = task.before.unwrap_or(queue.next_seq);
        let mut picked = Vec::new();
        for _ in 0..limits::REDRIVE_CHUNKS {
            let Some(next) = task.next().filter(|next| *next < end) else {
                return (picked, true);
            };
            let Some((number, _)) = queue.chunks_from(next.chunk()).next() else {
                return (picked, true);
            };
            if number.first() >= end {
                return (picked, true);
            }
            for (seq, entry, note) in self.entries_of(queue, number, pager) {
                if picked.len() >= most {
                    return (picked, false);
                }
                if seq > task.after && seq < end && task.wants(seq, &entry, note.as_deref()) {
                    picked.push(seq);
                    task.after = seq;
                }
            }
            task.after = Seq(ChunkNo(number.0 + 1).first().min(end).0 - 1);
        }
        (picked, false)
    }

    fn redrive_entry(
        &mut self,
        from: QueueId,
        seq: Seq,
        to: QueueId,
        now: Timestamp,
        pager: &mut Pager<'_>,
    ) -> bool {
        let Some(queue) = self.queues.get_mut(&from) else {
            return false;
        };
        if queue.fetch(seq, pager).is_none() {
            return false;
        }
        let mut note = queue
            .note(seq)
            .map(|note| Note::clone(note))
            .unwrap_or_default();
        note.redrives += 1;
        note.dead_letter = None;
        let moved = self.move_entry(from, seq, to, note, now);
        if moved && let Some(queue) = self.queues.get_mut(&from) {
            queue.totals.redriven += 1;
        }
        moved
    }
}

fn passes(filter: StateFilter, state: &EntryState) -> bool {
    match filter {
        StateFilter::Any => true,
        StateFilter::Ready => *state == EntryState::Ready,
        StateFilter::Delayed => matches!(state, EntryState::Delayed(_)),
        StateFilter::Leased => matches!(state, EntryState::Leased { .. }),
    }
}
