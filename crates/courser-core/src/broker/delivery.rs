//! Handing entries over to consumers: who gets what, and when.

use std::{collections::BTreeSet, sync::Arc};

use rustc_hash::FxHashMap;

use super::{Broker, ConsumerOptions};
use crate::{
    consumer::{Consumer, Left, Progress, Supply, Unsent, patience},
    error::QueueError,
    id::{ConsumerId, LeaseId, Position, QueueId},
    lease::{Lease, Leases},
    limits,
    options::Durability,
    queue::{Pager, Queue, Taken},
    record::{Note, Record},
    time::Timestamp,
};

/// An entry that goes to a consumer.
#[derive(Clone, Debug)]
pub struct HandOver {
    /// To whom.
    pub consumer: ConsumerId,
    /// To settle it with; 0 with auto-ack.
    pub lease_id: LeaseId,
    /// 1 for the first.
    pub attempt: u32,
    /// When the lease runs out.
    pub lease_until: Timestamp,
    /// The message.
    pub position: Position,
    /// Its size in bytes.
    pub size: u32,
    /// What else is known of the entry.
    pub note: Option<Arc<Note>>,
}

impl Broker {
    /// Adds a consumer to a queue.
    ///
    /// # Errors
    /// `NotFound`, `TooManyConsumers`.
    pub fn subscribe(
        &mut self,
        queue: &str,
        options: ConsumerOptions,
    ) -> Result<ConsumerId, QueueError> {
        let id = self.id(queue).ok_or_else(|| QueueError::NotFound {
            name: queue.to_owned(),
        })?;
        let of = self.queues.get_mut(&id).expect("a name has its queue");
        if of.consumers.len() >= limits::CONSUMERS_PER_QUEUE_MAX {
            let (name, max) = (queue.to_owned(), limits::CONSUMERS_PER_QUEUE_MAX);
            return Err(QueueError::TooManyConsumers { name, max });
        }
        let consumer = self.next_consumer;
        self.next_consumer.0 += 1;
        of.consumers.insert(consumer);
        self.consumers.insert(consumer, Consumer::new(id, options));
        self.line_up(consumer);
        self.activate(id);
        Ok(consumer)
    }

    /// A consumer's connection has taken this much in all of what was handed to it; answers whether that
    /// is news.
    pub fn handle_taken(&mut self, consumer: ConsumerId, messages: u64, bytes: u64) -> bool {
        let Some(of) = self.consumers.get_mut(&consumer) else {
            return false;
        };
        let (queue, news) = (of.queue, of.take(messages, bytes));
        if let Some(bytes) = news {
            self.free_room(bytes);
            self.activate(queue);
        }
        news.is_some()
    }

    /// Whether connections hold so much that has not been taken that it matters who takes when.
    #[must_use]
    pub fn is_short_of_room(&self) -> bool {
        self.unsent.supply() > Supply::Free
    }

    /// A consumer is gone, and its connection still holds this much of what it was given: that counts as
    /// before, until it is told to be 0. Answers whether that is news.
    pub fn handle_left(&mut self, consumer: ConsumerId, bytes: u64) -> bool {
        let before = match self.left.get_mut(&consumer) {
            Some(left) => left.set(bytes),
            None if bytes > 0 => self.left.entry(consumer).or_default().set(bytes),
            None => 0,
        };
        if bytes == 0 {
            self.left.remove(&consumer);
        }
        self.unsent.bytes += bytes;
        if before > 0 {
            self.free_room(before);
        }
        before != bytes
    }

    /// Connections hold less: those that waited for the room of others are looked at again.
    pub(super) fn free_room(&mut self, bytes: u64) {
        self.unsent.bytes -= bytes;
        if self.unsent.supply() < Supply::Spent {
            self.wake_starved();
        }
    }

    /// Another one is first each time: the room may be enough for that one only.
    fn wake_starved(&mut self) {
        if self.starved.is_empty() {
            return;
        }
        let mut first = std::mem::take(&mut self.starved);
        let later = first.split_off(&self.starved_next);
        self.starved_next = later
            .first()
            .or(first.first())
            .map_or(QueueId(0), |id| QueueId(id.0 + 1));
        for queue in later.into_iter().chain(first) {
            self.activate(queue);
        }
    }

    /// When it is to be looked for connections that take nothing; none while nobody waits for their room.
    pub(super) fn next_stall_look(&self) -> Option<Timestamp> {
        (self.unsent.supply() >= Supply::Sparing).then_some(self.stall_look)
    }

    /// While others wait for room: those whose connections have taken nothing for too long are to be ended,
    /// those first that have taken nothing for longest, until there is room in plenty: one after the
    /// other would each leave its place to the next that takes nothing.
    pub(super) fn look_for_stalls(
        &mut self,
        now: Timestamp,
        taken: &mut dyn FnMut(ConsumerId) -> Option<Progress>,
    ) {
        if self.next_stall_look().is_none_or(|at| now < at) {
            return;
        }
        self.stall_look = now + limits::UNSENT_LOOK_INTERVAL;
        let mut stalled = self.stalled(now, taken);
        stalled.retain(|(since, _, bytes)| now.since(*since) >= patience(*bytes));
        stalled.sort_unstable();
        let mut remaining = self.unsent.bytes;
        for (_, id, bytes) in stalled {
            if remaining < limits::UNSENT_FREELY_BYTES {
                break;
            }
            remaining -= bytes;
            self.stuck.push(id);
        }
        if remaining < limits::UNSENT_SPARINGLY_BYTES {
            self.consumers.values_mut().for_each(Consumer::forget_stall);
            self.left.values_mut().for_each(Left::forget_stall);
        }
        self.count_new();
    }

    /// Whose connections have taken nothing of what they hold, since when, and how much that is.
    fn stalled(
        &mut self,
        now: Timestamp,
        taken: &mut dyn FnMut(ConsumerId) -> Option<Progress>,
    ) -> Vec<(Timestamp, ConsumerId, u64)> {
        let consumers: Vec<_> = self.consumers.keys().copied().collect();
        let gone: Vec<_> = self.left.keys().copied().collect();
        let mut stalled = Vec::new();
        for id in consumers {
            let progress = taken(id);
            if let Some(progress) = progress {
                self.handle_taken(id, progress.messages, progress.bytes);
            }
            if let Some(of) = self.consumers.get_mut(&id)
                && let Some(since) = of.stalled_since(now, progress)
            {
                stalled.push((since, id, of.unsent_bytes()));
            }
        }
        for id in gone {
            if let Some(progress) = taken(id) {
                self.handle_left(id, progress.held_bytes);
            }
            if let Some(left) = self.left.get_mut(&id) {
                stalled.push((left.stalled_since(now), id, left.bytes));
            }
        }
        stalled
    }

    /// Counts anew what those have that have taken nothing yet, and lets others of them have the rest of
    /// their part.
    fn count_new(&mut self) {
        let new = self.consumers.values().filter(|of| of.is_new());
        let new: u64 = new.map(Consumer::unsent_bytes).sum();
        let left: u64 = self.left.values().map(|left| left.bytes).sum();
        self.unsent.new_bytes = new + left;
        if self.unsent.supply() == Supply::Sparing {
            self.wake_starved();
        }
    }

    /// Consumers to be ended because their connections hold what others wait for, and take none of it.
    #[must_use]
    pub fn drain_stuck(&mut self) -> Vec<ConsumerId> {
        std::mem::take(&mut self.stuck)
    }

    /// The queue and the name of a consumer, for people.
    #[must_use]
    pub fn consumer_names(&self, consumer: ConsumerId) -> Option<(Arc<str>, Arc<str>)> {
        let of = self.consumers.get(&consumer)?;
        let queue = self.queues.get(&of.queue)?;
        Some((
            Arc::clone(&queue.definition.name),
            Arc::clone(&of.options.name),
        ))
    }

    /// Whether an entry waits only for the consumer's connection to take what it was handed.
    #[must_use]
    pub fn is_blocked(&self, consumer: ConsumerId) -> bool {
        self.consumers
            .get(&consumer)
            .is_some_and(Consumer::is_blocked)
    }

    /// Consumers for which, since the last time, an entry waits only for their connection to take what
    /// it was handed.
    #[must_use]
    pub fn drain_blocked(&mut self) -> Vec<ConsumerId> {
        std::mem::take(&mut self.blocked)
    }

    /// How many entries were handed over, since the last time, out of queues that were left with more because no consumer
    /// has credit for it.
    pub fn take_handed_of_more(&mut self) -> usize {
        std::mem::take(&mut self.handed_of_more)
    }

    /// A consumer is gone. What it holds is given back at once: without blame what its connection had
    /// not taken (tell with `handle_taken` first), as a failed attempt the rest. What its connection holds
    /// all the same is told with `handle_left` afterwards.
    pub fn handle_disconnect(&mut self, consumer: ConsumerId, now: Timestamp) {
        let Some(of) = self.consumers.get(&consumer) else {
            return;
        };
        let (queue, taken) = (of.queue, of.taken);
        let leases: Vec<_> = of.leases().collect();
        for lease in leases {
            self.give_up(lease, taken, now);
        }
        self.leave(consumer);
        self.activate(queue);
    }

    /// A consumer's connection takes nothing of what was handed over from the lease `from` on: all that goes back at once, to
    /// its places and without blame.
    pub fn recall(&mut self, consumer: ConsumerId, from: LeaseId) {
        let Some(of) = self.consumers.get(&consumer) else {
            return;
        };
        let leases: Vec<_> = of.leases().filter(|id| *id >= from).collect();
        for lease in leases {
            self.take_back(lease);
        }
    }

    /// Whether this lease has neither been settled nor run out.
    #[must_use]
    pub fn holds(&self, lease: LeaseId) -> bool {
        self.leases.get(lease).is_some()
    }

    /// A consumer wants no more deliveries, and goes on settling what it holds.
    pub fn drain(&mut self, consumer: ConsumerId) {
        if let Some(of) = self.consumers.get_mut(&consumer) {
            of.drain();
        }
    }

    /// A consumer is gone, and what it holds stays leased.
    pub fn detach(&mut self, consumer: ConsumerId) {
        let Some(of) = self.consumers.get(&consumer) else {
            return;
        };
        let leases: Vec<_> = of.leases().collect();
        for lease in leases {
            self.leases.orphan(lease);
        }
        self.leave(consumer);
    }

    /// A consumer that holds nothing any more is forgotten.
    fn leave(&mut self, consumer: ConsumerId) {
        let Some(of) = self.consumers.remove(&consumer) else {
            return;
        };
        self.free_room(of.unsent_bytes());
        if let Some(queue) = self.queues.get_mut(&of.queue) {
            queue.consumers.remove(&consumer);
            if queue.line.len() > 64 + 2 * queue.consumers.len() {
                let consumers = &queue.consumers;
                queue.line.retain(|id| consumers.contains(id));
            }
        }
    }

    /// A consumer may have credit: it stands in its queue's line, once.
    pub(super) fn line_up(&mut self, consumer: ConsumerId) {
        if let Some(of) = self.consumers.get_mut(&consumer)
            && !of.in_line
            && let Some(queue) = self.queues.get_mut(&of.queue)
        {
            of.in_line = true;
            queue.line.push_back(consumer);
        }
    }

    /// Hands over what can be handed over, about `limit` entries; answers whether there is more.
    pub fn poll_deliveries(
        &mut self,
        now: Timestamp,
        limit: usize,
        pager: &mut Pager<'_>,
        out: &mut Vec<HandOver>,
    ) -> bool {
        let end = out.len() + limit;
        while out.len() < end {
            let Some(id) = self.active.pop_front() else {
                return false;
            };
            let Some(queue) = self.queues.get_mut(&id) else {
                continue;
            };
            queue.active = false;
            let before = out.len();
            let mut hand = Hand {
                consumers: &mut self.consumers,
                leases: &mut self.leases,
                records: &mut self.records,
                sync: &mut self.sync_records,
                blocked: &mut self.blocked,
                unsent: &mut self.unsent,
                starved: &mut self.starved,
                now,
            };
            let is_cut_short = hand.serve(queue, end, pager, out);
            if queue.ready() > 0 && queue.line.is_empty() {
                self.handed_of_more += out.len() - before;
            }
            if is_cut_short {
                queue.active = true;
                self.active.push_back(id);
            }
        }
        !self.active.is_empty()
    }
}

/// What handing over touches beside the queue.
struct Hand<'a> {
    consumers: &'a mut FxHashMap<ConsumerId, Consumer>,
    leases: &'a mut Leases,
    records: &'a mut Vec<Record>,
    sync: &'a mut bool,
    blocked: &'a mut Vec<ConsumerId>,
    unsent: &'a mut Unsent,
    starved: &'a mut BTreeSet<QueueId>,
    now: Timestamp,
}

impl Hand<'_> {
    /// Serves the consumers of a queue in turn, each with the same share of what is ready as the turns
    /// begin; answers whether `end` was reached before all was done. Who has no credit leaves the line,
    /// so that a thousand that stall cost the others nothing.
    fn serve(
        &mut self,
        queue: &mut Queue,
        end: usize,
        pager: &mut Pager<'_>,
        out: &mut Vec<HandOver>,
    ) -> bool {
        let (mut idle, mut turns, mut share) = (0, 0, 0);
        while idle < queue.line.len() && queue.ready() > 0 && !queue.definition.options.paused {
            if out.len() >= end {
                return true;
            }
            if turns == 0 {
                turns = queue.line.len();
                let fair = usize::try_from(queue.ready()).unwrap_or(usize::MAX) / turns;
                share = fair.clamp(1, limits::DELIVERY_QUANTUM);
            }
            let Some(id) = queue.line.pop_front() else {
                return false;
            };
            turns -= 1;
            let handed = self.hand_over(queue, id, share, pager, out);
            if let Some(consumer) = self.consumers.get_mut(&id) {
                consumer.in_line = consumer.has_credit();
                queue.line.extend(consumer.in_line.then_some(id));
                idle += usize::from(consumer.in_line);
            }
            if handed > 0 {
                idle = 0;
            }
        }
        false
    }

    /// Hands up to `share` entries to one consumer; answers how many.
    fn hand_over(
        &mut self,
        queue: &mut Queue,
        id: ConsumerId,
        share: usize,
        pager: &mut Pager<'_>,
        out: &mut Vec<HandOver>,
    ) -> usize {
        let Some(consumer) = self.consumers.get_mut(&id) else {
            return 0;
        };
        // Asked before the queue looks for an entry, which costs more.
        if !consumer.has_room(self.unsent.supply()) {
            let is_blocked = consumer.is_blocked();
            self.note_blocked(queue, id, is_blocked);
            return 0;
        }
        let lease = consumer
            .options
            .lease
            .unwrap_or(queue.definition.options.lease);
        let deadline = self.now + lease;
        let mut handed = 0;
        while handed < share && queue.leased < limits::LEASES_PER_QUEUE_MAX as u64 {
            let lease_id = self.leases.next_id();
            let supply = self.unsent.supply();
            let fits = |size| consumer.fits(size, supply);
            let Some(taken) = queue.take_next(lease_id, fits, pager) else {
                break;
            };
            let lease_id = if consumer.options.auto_ack {
                LeaseId(0)
            } else {
                lease_id
            };
            let note = queue.note(taken.seq).cloned();
            // Made where it is to lie, not moved there.
            out.extend(std::iter::once_with(|| HandOver {
                consumer: id,
                lease_id,
                attempt: taken.entry.failures + 1,
                lease_until: deadline,
                position: taken.entry.position,
                size: taken.entry.size,
                note,
            }));
            if consumer.options.auto_ack {
                self.records.push(auto_ack(queue, &taken, self.now));
                *self.sync |= queue.definition.options.durability == Durability::Synced;
            } else {
                self.leases.hold(Lease {
                    queue: queue.definition.id,
                    seq: taken.seq,
                    consumer: Some(id),
                    consumer_name: Arc::clone(&consumer.options.name),
                    delivered_at: self.now,
                    deadline,
                    ordinal: consumer.handed,
                    size: taken.entry.size,
                });
                self.leases.note(&mut queue.leases, queue.leased, lease_id);
            }
            consumer.hand(lease_id, taken.entry.size);
            self.unsent.add(taken.entry.size, consumer.is_new());
            count_delivery(queue, &taken, self.now);
            handed += 1;
        }
        let is_blocked = consumer.is_blocked();
        // While room is short, it matters to the others too when this one takes.
        let is_waited_for = handed > 0 && self.unsent.supply() > Supply::Free;
        if is_blocked || is_waited_for {
            self.note_blocked(queue, id, is_blocked);
        }
        handed
    }

    /// It is to be heard of when this consumer's connection takes more; and when others do, if it waits for
    /// their room.
    fn note_blocked(&mut self, queue: &Queue, id: ConsumerId, is_blocked: bool) {
        let supply = self.unsent.supply();
        if is_blocked && supply >= Supply::Sparing {
            self.starved.insert(queue.definition.id);
        }
        if is_blocked || supply > Supply::Free {
            self.blocked.push(id);
        }
    }
}

fn auto_ack(queue: &mut Queue, taken: &Taken, now: Timestamp) -> Record {
    queue.remove(taken.seq);
    queue.totals.acked += 1;
    queue.ack_rate.add(now, 1);
    queue
        .totals
        .end_to_end_time
        .record(now.since(taken.entry.enqueued_at));
    Record::Removed {
        queue: queue.definition.id,
        seq: taken.seq,
    }
}

fn count_delivery(queue: &mut Queue, taken: &Taken, now: Timestamp) {
    queue.totals.delivered += 1;
    if taken.first && taken.entry.failures == 0 {
        queue
            .totals
            .time_in_queue
            .record(now.since(taken.entry.enqueued_at));
    }
}
