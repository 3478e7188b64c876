//! The reference: what a broker is, said as plainly as possible, and what its calls must answer.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use courser_core::{
    broker::ConsumerOptions,
    error::LeaseError,
    id::{ConsumerId, LeaseId, Position},
    lease::{DeadLetterReason, Nack, Settlement, Verdict},
    limits,
    options::QueueOptions,
    record::{Attempt, AttemptOutcome, DeadLetter, Note},
    time::Timestamp,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Ready,
    Delayed(Timestamp),
    Leased(LeaseId),
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) position: Position,
    pub(crate) size: u32,
    pub(crate) enqueued_at: Timestamp,
    pub(crate) failures: u32,
    pub(crate) state: State,
    pub(crate) note: Option<Note>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) published: u64,
    pub(crate) delivered: u64,
    pub(crate) acked: u64,
    pub(crate) nacked: u64,
    pub(crate) released: u64,
    pub(crate) expired: u64,
    pub(crate) disconnected: u64,
    pub(crate) purged: u64,
    pub(crate) redriven: u64,
    pub(crate) dead_lettered: u64,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Queue {
    pub(crate) options: QueueOptions,
    /// The queue whose dead letters it keeps.
    pub(crate) of: Option<String>,
    /// By the order in which they came.
    pub(crate) entries: BTreeMap<u64, Entry>,
    pub(crate) ready: BTreeSet<u64>,
    /// Moments at which an entry may be ready again.
    due: BTreeSet<(Timestamp, u64)>,
    pub(crate) bytes: u64,
    pub(crate) totals: Totals,
    /// Entries that came, or were there at the start.
    pub(crate) came: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Consumer {
    pub(crate) queue: String,
    pub(crate) options: ConsumerOptions,
    pub(crate) held: u64,
    pub(crate) held_bytes: u64,
    /// The sizes of what it was handed.
    pub(crate) handed: Vec<u32>,
    pub(crate) taken: usize,
    pub(crate) drained: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) queue: String,
    pub(crate) order: u64,
    pub(crate) consumer: Option<ConsumerId>,
    pub(crate) name: std::sync::Arc<str>,
    pub(crate) delivered_at: Timestamp,
    pub(crate) until: Timestamp,
    ordinal: usize,
    size: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) now: Timestamp,
    pub(crate) queues: BTreeMap<String, Queue>,
    pub(crate) consumers: BTreeMap<ConsumerId, Consumer>,
    pub(crate) leases: BTreeMap<LeaseId, Lease>,
    /// Leases that ended against their holder, who may still answer.
    pub(crate) ended: BTreeMap<LeaseId, (String, u64)>,
    ended_order: VecDeque<LeaseId>,
    /// Some leases that are over.
    pub(crate) settled: Vec<LeaseId>,
    pub(crate) epoch: u64,
    pub(crate) next_position: u64,
    next_order: u64,
}

impl Model {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            now,
            queues: BTreeMap::new(),
            consumers: BTreeMap::new(),
            leases: BTreeMap::new(),
            ended: BTreeMap::new(),
            ended_order: VecDeque::new(),
            settled: Vec::new(),
            epoch: 1,
            next_position: 1,
            next_order: 1,
        }
    }

    // ---- queues

    pub(crate) fn create(&mut self, name: &str, options: QueueOptions, of: Option<&str>) {
        if options.dead_letter {
            self.create(&dlq(name), QueueOptions::for_dead_letters(), Some(name));
        }
        let of = of.map(str::to_owned);
        self.queues.insert(
            name.to_owned(),
            Queue {
                options,
                of,
                ..Queue::default()
            },
        );
    }

    pub(crate) fn update(&mut self, name: &str, options: QueueOptions) {
        let had = self.queues[name].options.dead_letter;
        match (had, options.dead_letter) {
            (true, false) => self.delete(&dlq(name)),
            (false, true) => self.create(&dlq(name), QueueOptions::for_dead_letters(), Some(name)),
            _ => {}
        }
        self.queue(name).options = options;
    }

    pub(crate) fn delete(&mut self, name: &str) {
        self.queues.remove(name);
        self.consumers.retain(|_, consumer| consumer.queue != name);
        self.leases.retain(|_, lease| lease.queue != name);
        self.ended.retain(|_, (queue, _)| queue != name);
    }

    pub(crate) fn queue(&mut self, name: &str) -> &mut Queue {
        self.queues.get_mut(name).expect("the queue is there")
    }

    // ---- entries

    pub(crate) fn place(&mut self, name: &str, position: Position, size: u32, note: Option<Note>) {
        let (now, order) = (self.now, self.next_order);
        self.next_order += 1;
        let queue = self.queue(name);
        let state = State::Ready;
        let entry = Entry {
            position,
            size,
            enqueued_at: now,
            failures: 0,
            state,
            note,
        };
        queue.entries.insert(order, entry);
        queue.ready.insert(order);
        queue.bytes += u64::from(size);
        queue.came += 1;
    }

    pub(crate) fn remove(&mut self, name: &str, order: u64) -> Entry {
        let queue = self.queue(name);
        queue.ready.remove(&order);
        let entry = queue.entries.remove(&order).expect("the entry is there");
        queue.bytes -= u64::from(entry.size);
        entry
    }

    fn set(&mut self, name: &str, order: u64, state: State) {
        let queue = self.queue(name);
        queue
            .entries
            .get_mut(&order)
            .expect("the entry is there")
            .state = state;
        queue.ready.remove(&order);
        match state {
            State::Ready => queue.ready.insert(order),
            State::Delayed(at) => queue.due.insert((at, order)),
            State::Leased(_) => false,
        };
    }

    // ---- deliveries

    /// Who goes next: always the one that came first.
    pub(crate) fn head(&self, name: &str) -> Option<(u64, &Entry)> {
        let queue = &self.queues[name];
        let order = *queue.ready.first()?;
        Some((order, &queue.entries[&order]))
    }

    pub(crate) fn fits(&self, id: ConsumerId, size: u32) -> bool {
        let (consumer, size) = (&self.consumers[&id], u64::from(size));
        let unsent = &consumer.handed[consumer.taken..];
        let unsent_bytes: u64 = unsent.iter().map(|size| u64::from(*size)).sum();
        let handed = consumer.handed.len() as u64;
        consumer.held < u64::from(consumer.options.max_messages)
            && !consumer.drained
            && consumer.options.limit.is_none_or(|limit| handed < limit)
            && (consumer.held == 0 || consumer.held_bytes + size <= consumer.options.max_bytes)
            && (unsent.len() as u64) < limits::UNSENT_MESSAGES_MAX
            && unsent_bytes < consumer.options.window_bytes
            && (unsent_bytes == 0
                || !consumer.options.auto_ack
                || unsent_bytes + size <= consumer.options.max_bytes)
    }

    /// The head of the consumer's queue is handed to it; answers until when.
    pub(crate) fn hand(&mut self, id: ConsumerId, lease_id: LeaseId) -> Timestamp {
        let now = self.now;
        let consumer = self.consumers.get_mut(&id).expect("the consumer is there");
        let name = consumer.queue.clone();
        let queue = self.queues.get_mut(&name).expect("the queue is there");
        let order = *queue.ready.first().expect("there is a head");
        let size = queue.entries[&order].size;
        let until = now + consumer.options.lease.unwrap_or(queue.options.lease);
        queue.totals.delivered += 1;
        consumer.handed.push(size);
        if consumer.options.auto_ack {
            queue.totals.acked += 1;
            self.remove(&name, order);
            return until;
        }
        consumer.held += 1;
        consumer.held_bytes += u64::from(size);
        let lease = Lease {
            queue: name.clone(),
            order,
            consumer: Some(id),
            name: consumer.options.name.clone(),
            delivered_at: now,
            until,
            ordinal: consumer.handed.len() - 1,
            size,
        };
        assert!(
            self.leases.insert(lease_id, lease).is_none(),
            "a lease id is given once"
        );
        self.set(&name, order, State::Leased(lease_id));
        until
    }

    // ---- settling

    pub(crate) fn settle(&mut self, settlement: &Settlement) -> Result<(), LeaseError> {
        let id = settlement.lease_id;
        let Some(lease) = self.leases.get(&id).cloned() else {
            return self.settle_late(id, &settlement.verdict);
        };
        let (name, now) = (lease.queue.clone(), self.now);
        match &settlement.verdict {
            Verdict::Extend(by) => {
                let latest = lease.delivered_at + limits::LEASE_TOTAL_MAX;
                if now + *by > latest {
                    return Err(LeaseError::TooLong {
                        left: latest.since(now),
                    });
                }
                self.leases.get_mut(&id).unwrap().until = now + *by;
                return Ok(());
            }
            Verdict::DeadLetter(_) if !self.queues[&name].options.dead_letter => {
                return Err(LeaseError::NoDeadLetterQueue);
            }
            _ => {}
        }
        self.over(id);
        self.settled.push(id);
        let totals = &mut self.queue(&name).totals;
        match &settlement.verdict {
            Verdict::Ack => {
                totals.acked += 1;
                self.remove(&name, lease.order);
            }
            Verdict::Release => {
                totals.released += 1;
                self.set(&name, lease.order, State::Ready);
            }
            Verdict::Nack(nack) => {
                totals.nacked += 1;
                self.fail(&lease, AttemptOutcome::Nacked, nack);
            }
            Verdict::DeadLetter(why) => self.reject(&lease, why),
            Verdict::Extend(_) => {}
        }
        Ok(())
    }

    fn settle_late(&mut self, id: LeaseId, verdict: &Verdict) -> Result<(), LeaseError> {
        let Some((name, order)) = self.ended.get(&id).cloned() else {
            let earlier = (1..self.epoch).contains(&(id.0 >> 44));
            return Err(if earlier {
                LeaseError::Expired
            } else {
                LeaseError::Unknown
            });
        };
        let queue = self.queue(&name);
        let free =
            matches!(queue.entries.get(&order), Some(e) if !matches!(e.state, State::Leased(_)));
        match verdict {
            Verdict::Ack if free => {
                queue.totals.acked += 1;
                self.remove(&name, order);
            }
            Verdict::DeadLetter(_) if free && !queue.options.dead_letter => {
                return Err(LeaseError::NoDeadLetterQueue);
            }
            Verdict::DeadLetter(why) if free => {
                self.dead_letter(&name, order, None, &why.reason, &why.description);
            }
            _ => return Err(LeaseError::Expired),
        }
        self.ended.remove(&id);
        self.settled.push(id);
        Ok(())
    }

    /// The lease is over, and its consumer's credit comes back.
    fn over(&mut self, id: LeaseId) -> Lease {
        let lease = self.leases.remove(&id).expect("the lease is held");
        if let Some(consumer) = lease.consumer.and_then(|id| self.consumers.get_mut(&id)) {
            consumer.held -= 1;
            consumer.held_bytes -= u64::from(lease.size);
        }
        lease
    }

    /// The lease ends against its holder: as a failure, unless it was never sent.
    fn end(&mut self, id: LeaseId, outcome: AttemptOutcome) {
        let lease = self.over(id);
        if self.ended_order.len() >= limits::EXPIRED_LEASES_KEPT {
            let oldest = self.ended_order.pop_front().unwrap();
            self.ended.remove(&oldest);
        }
        self.ended_order.push_back(id);
        self.ended.insert(id, (lease.queue.clone(), lease.order));
        let consumer = lease.consumer.and_then(|id| self.consumers.get(&id));
        let unsent = consumer.is_some_and(|consumer| lease.ordinal >= consumer.taken);
        let totals = &mut self.queue(&lease.queue).totals;
        if unsent {
            totals.released += 1;
            return self.set(&lease.queue, lease.order, State::Ready);
        }
        match outcome {
            AttemptOutcome::Expired => totals.expired += 1,
            _ => totals.disconnected += 1,
        }
        self.fail(&lease, outcome, &Nack::default());
    }

    fn fail(&mut self, lease: &Lease, outcome: AttemptOutcome, nack: &Nack) {
        let now = self.now;
        let entry = &self.queues[&lease.queue].entries[&lease.order];
        let failures = entry.failures + 1;
        let attempt = attempt(lease, failures, outcome, &nack.error, now);
        let options = &self.queues[&lease.queue].options;
        let last = options.max_attempts > 0 && failures >= options.max_attempts;
        if last && options.dead_letter {
            let (name, order) = (&lease.queue, lease.order);
            return self.dead_letter(name, order, Some(attempt), "max_attempts", &nack.error);
        }
        let backoff = &options.backoff;
        let grown = backoff.initial * 2_u32.pow(failures.min(20) - 1);
        let wait = match nack.retry_after {
            _ if last => backoff.max,
            Some(wait) => wait,
            None if outcome == AttemptOutcome::Disconnected => Duration::ZERO,
            None => grown.min(backoff.max),
        };
        let entry = self
            .queue(&lease.queue)
            .entries
            .get_mut(&lease.order)
            .unwrap();
        entry.failures = failures;
        remember(entry.note.get_or_insert_default(), attempt);
        let state = if wait > Duration::ZERO {
            State::Delayed(now + wait)
        } else {
            State::Ready
        };
        self.set(&lease.queue, lease.order, state);
    }

    fn reject(&mut self, lease: &Lease, why: &DeadLetterReason) {
        let failures = self.queues[&lease.queue].entries[&lease.order].failures;
        let text = &why.description;
        let attempt = attempt(
            lease,
            failures + 1,
            AttemptOutcome::Rejected,
            text,
            self.now,
        );
        self.dead_letter(&lease.queue, lease.order, Some(attempt), &why.reason, text);
    }

    fn dead_letter(
        &mut self,
        name: &str,
        order: u64,
        attempt: Option<Attempt>,
        reason: &str,
        description: &str,
    ) {
        let entry = self.remove(name, order);
        let mut note = entry.note.unwrap_or_default();
        if let Some(attempt) = attempt {
            remember(&mut note, attempt);
        }
        note.dead_letter = Some(DeadLetter {
            reason: reason.into(),
            description: description.into(),
            queue: name.into(),
            at: self.now,
        });
        self.queue(name).totals.dead_lettered += 1;
        self.place(&dlq(name), entry.position, entry.size, Some(note));
    }

    // ---- news of the world

    pub(crate) fn handle_timeout(&mut self) {
        let now = self.now;
        let mut over: Vec<_> = self
            .leases
            .iter()
            .map(|(id, lease)| (lease.until, *id))
            .collect();
        over.retain(|(until, _)| *until <= now);
        over.sort_unstable();
        for (_, id) in over {
            self.end(id, AttemptOutcome::Expired);
        }
        for queue in self.queues.values_mut() {
            while let Some((at, order)) = queue.due.first().copied().filter(|(at, _)| *at <= now) {
                queue.due.pop_first();
                if let Some(entry) = queue.entries.get_mut(&order)
                    && entry.state == State::Delayed(at)
                {
                    entry.state = State::Ready;
                    queue.ready.insert(order);
                }
            }
        }
    }

    pub(crate) fn disconnect(&mut self, id: ConsumerId) {
        for lease in self.leases_of(id) {
            self.end(lease, AttemptOutcome::Disconnected);
        }
        self.consumers.remove(&id);
    }

    pub(crate) fn detach(&mut self, id: ConsumerId) {
        for lease in self.leases_of(id) {
            self.leases.get_mut(&lease).unwrap().consumer = None;
        }
        self.consumers.remove(&id);
    }

    /// Oldest first.
    pub(crate) fn leases_of(&self, id: ConsumerId) -> Vec<LeaseId> {
        let of = |lease: &&LeaseId| self.leases[*lease].consumer == Some(id);
        self.leases.keys().filter(of).copied().collect()
    }

    /// Leases and consumers are gone; nothing else.
    pub(crate) fn restart(&mut self) {
        self.epoch += 1;
        self.settled = self
            .leases
            .keys()
            .chain(self.ended.keys())
            .copied()
            .take(50)
            .collect();
        self.leases.clear();
        self.ended.clear();
        self.ended_order.clear();
        self.consumers.clear();
        for queue in self.queues.values_mut() {
            queue.totals = Totals::default();
            queue.came = queue.entries.len() as u64;
            for (order, entry) in &mut queue.entries {
                if matches!(entry.state, State::Leased(_)) {
                    entry.state = State::Ready;
                    queue.ready.insert(*order);
                }
            }
        }
    }
}

pub(crate) fn dlq(name: &str) -> String {
    format!("{name}.dlq")
}

fn attempt(
    lease: &Lease,
    number: u32,
    outcome: AttemptOutcome,
    error: &str,
    ended_at: Timestamp,
) -> Attempt {
    Attempt {
        number,
        consumer: lease.name.clone(),
        delivered_at: lease.delivered_at,
        ended_at,
        outcome,
        error: error.into(),
    }
}

fn remember(note: &mut Note, attempt: Attempt) {
    note.attempts.push(attempt);
    let kept = note.attempts.len().min(20);
    note.attempts.drain(..note.attempts.len() - kept);
}
