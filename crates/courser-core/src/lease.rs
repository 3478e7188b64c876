//! A consumer's hold on an entry, and what it can say of it.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    sync::Arc,
    time::Duration,
};

use rustc_hash::FxHashMap;

use crate::{
    error::LeaseError,
    id::{ConsumerId, LeaseId, QueueId, Seq},
    limits,
    time::Timestamp,
};

/// What a consumer says of one lease.
#[derive(Clone, Debug, PartialEq)]
pub struct Settlement {
    /// Which lease.
    pub lease_id: LeaseId,
    /// What of it.
    pub verdict: Verdict,
}

/// Ways to settle. All within their limits.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Done: forget the entry.
    Ack,
    /// Give back without blame.
    Release,
    /// Failed.
    Nack(Box<Nack>),
    /// Give up on it.
    DeadLetter(Box<DeadLetterReason>),
    /// Hold it for this long from now.
    Extend(Duration),
}

/// A failure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nack {
    /// Instead of the queue's backoff.
    pub retry_after: Option<Duration>,
    /// What went wrong.
    pub error: Box<str>,
}

/// Why to give up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterReason {
    /// A short word.
    pub reason: Box<str>,
    /// A sentence.
    pub description: Box<str>,
}

/// A lease that is held.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) queue: QueueId,
    pub(crate) seq: Seq,
    /// `None` when it belongs to no connection.
    pub(crate) consumer: Option<ConsumerId>,
    pub(crate) consumer_name: Arc<str>,
    pub(crate) delivered_at: Timestamp,
    pub(crate) deadline: Timestamp,
    /// Which delivery of its consumer it was, from 0.
    pub(crate) ordinal: u64,
    pub(crate) size: u32,
}

/// All leases, with their deadlines.
#[derive(Debug)]
pub(crate) struct Leases {
    held: Held,
    /// An item counts only while its lease is held and ends at that moment.
    deadlines: Deadlines,
    /// Leases that ran out, with the entry they were of: the latest ones, for late answers.
    ended: FxHashMap<LeaseId, (QueueId, Seq)>,
    ended_order: VecDeque<LeaseId>,
    next: LeaseId,
}

/// Bits of a lease id that count leases: 200 days at a million a second. Those above name the start of
/// the broker: one a minute for two years.
const COUNT_BITS: u32 = 44;

impl Leases {
    /// `epoch` differs from start to start, so that a lease id of an earlier one is known as such.
    pub(crate) fn new(epoch: u64) -> Self {
        Self {
            held: Held::new(LeaseId(epoch << COUNT_BITS | 1)),
            deadlines: Deadlines::default(),
            ended: FxHashMap::default(),
            ended_order: VecDeque::new(),
            next: LeaseId(epoch << COUNT_BITS | 1),
        }
    }

    pub(crate) fn next_id(&self) -> LeaseId {
        self.next
    }

    /// Holds a lease under the id that `next_id` gave.
    pub(crate) fn hold(&mut self, lease: Lease) {
        let id = self.next;
        self.next.0 += 1;
        self.push_deadline(lease.deadline, id);
        self.held.push(lease);
    }

    pub(crate) fn get(&self, id: LeaseId) -> Option<&Lease> {
        self.held.get(id)
    }

    pub(crate) fn extend(&mut self, id: LeaseId, deadline: Timestamp) {
        if let Some(lease) = self.held.get_mut(id) {
            lease.deadline = deadline;
            self.push_deadline(deadline, id);
        }
    }

    /// Ends a lease by its holder's word.
    pub(crate) fn take(&mut self, id: LeaseId) -> Option<Lease> {
        self.held.remove(id)
    }

    /// Ends a lease against its holder, who may still answer late.
    pub(crate) fn end(&mut self, id: LeaseId) -> Option<Lease> {
        let lease = self.held.remove(id)?;
        if self.ended_order.len() >= limits::EXPIRED_LEASES_KEPT
            && let Some(oldest) = self.ended_order.pop_front()
        {
            self.ended.remove(&oldest);
        }
        self.ended_order.push_back(id);
        self.ended.insert(id, (lease.queue, lease.seq));
        Some(lease)
    }

    /// The lease belongs to no connection any more.
    pub(crate) fn orphan(&mut self, id: LeaseId) {
        if let Some(lease) = self.held.get_mut(id) {
            lease.consumer = None;
        }
    }

    /// The entry that a lease was of which ran out not long ago.
    pub(crate) fn ended(&self, id: LeaseId) -> Option<(QueueId, Seq)> {
        self.ended.get(&id).copied()
    }

    /// The entries that late answers may still come for.
    pub(crate) fn ended_entries(&self) -> impl Iterator<Item = (QueueId, Seq)> {
        self.ended.values().copied()
    }

    /// A late answer was honoured, there will be no second.
    pub(crate) fn forget_ended(&mut self, id: LeaseId) {
        self.ended.remove(&id);
    }

    /// Why a lease that is not held cannot be settled.
    pub(crate) fn error(&self, id: LeaseId) -> LeaseError {
        // Starts are counted from 1.
        let of_earlier_start = (1..self.next.0 >> COUNT_BITS).contains(&(id.0 >> COUNT_BITS));
        if of_earlier_start || self.ended.contains_key(&id) {
            LeaseError::Expired
        } else {
            LeaseError::Unknown
        }
    }

    /// The next lease whose deadline is not after `now`.
    pub(crate) fn next_expired(&mut self, now: Timestamp) -> Option<LeaseId> {
        self.poll_timeout().filter(|deadline| *deadline <= now)?;
        self.deadlines.pop().map(|(_, id)| id)
    }

    /// The next deadline.
    pub(crate) fn poll_timeout(&mut self) -> Option<Timestamp> {
        while let Some((deadline, id)) = self.deadlines.first() {
            let lease = self.held.get(id);
            if lease.is_some_and(|lease| lease.deadline == deadline) {
                return Some(deadline);
            }
            self.deadlines.pop();
        }
        None
    }

    /// Adds a lease to those of its queue, of which `held` are held; clears out what has ended when that
    /// is most of them.
    pub(crate) fn note(&self, of_queue: &mut VecDeque<LeaseId>, held: u64, id: LeaseId) {
        if of_queue.len() as u64 > 64 + 2 * held {
            of_queue.retain(|id| self.held.get(*id).is_some());
        }
        of_queue.push_back(id);
    }

    /// When the oldest lease of a queue began.
    pub(crate) fn oldest(&self, of_queue: &VecDeque<LeaseId>) -> Option<Timestamp> {
        let mut held = of_queue.iter().filter_map(|id| self.held.get(*id));
        held.next().map(|lease| lease.delivered_at)
    }

    /// Forgets all leases of a queue that is gone.
    pub(crate) fn forget_queue(&mut self, queue: QueueId, of_queue: &VecDeque<LeaseId>) {
        for id in of_queue {
            self.held.remove(*id);
        }
        self.ended.retain(|_, (of, _)| *of != queue);
    }

    fn push_deadline(&mut self, deadline: Timestamp, id: LeaseId) {
        // Settled leases leave their deadlines behind; they are cleared out when they are most.
        if self.deadlines.len() > 1_024 + 2 * self.held.len() {
            let held = &self.held;
            self.deadlines.retain(|deadline, id| {
                held.get(id).is_some_and(|lease| lease.deadline == deadline)
            });
        }
        self.deadlines.push((deadline, id));
    }
}

/// Leases by their ids, which are given in order. Most leases end soon: the latest lie side by side, and only
/// those that outlive them in a map, which costs a cache miss for each look.
#[derive(Debug)]
struct Held {
    /// The id of the first item of `latest`.
    first: LeaseId,
    /// `None` once it has ended.
    latest: VecDeque<Option<Lease>>,
    older: FxHashMap<LeaseId, Lease>,
    held: usize,
}

impl Held {
    /// The first lease will have the id `first`.
    fn new(first: LeaseId) -> Self {
        Self {
            first,
            latest: VecDeque::new(),
            older: FxHashMap::default(),
            held: 0,
        }
    }

    fn len(&self) -> usize {
        self.held
    }

    /// Holds the lease with the next id.
    fn push(&mut self, lease: Lease) {
        if self.latest.len() >= limits::LATEST_LEASES_MAX {
            self.pop_oldest();
        }
        self.latest.push_back(Some(lease));
        self.held += 1;
    }

    fn pop_oldest(&mut self) {
        if let Some(lease) = self.latest.pop_front() {
            if let Some(lease) = lease {
                self.older.insert(self.first, lease);
            }
            self.first.0 += 1;
        }
    }

    fn index(&self, id: LeaseId) -> Option<usize> {
        usize::try_from(id.0.checked_sub(self.first.0)?).ok()
    }

    fn get(&self, id: LeaseId) -> Option<&Lease> {
        match self.index(id) {
            Some(index) => self.latest.get(index)?.as_ref(),
            None => self.older.get(&id),
        }
    }

    fn get_mut(&mut self, id: LeaseId) -> Option<&mut Lease> {
        match self.index(id) {
            Some(index) => self.latest.get_mut(index)?.as_mut(),
            None => self.older.get_mut(&id),
        }
    }

    fn remove(&mut self, id: LeaseId) -> Option<Lease> {
        let lease = match self.index(id) {
            Some(index) => self.latest.get_mut(index)?.take(),
            None => self.older.remove(&id),
        }?;
        self.held -= 1;
        while self.latest.front().is_some_and(Option::is_none) {
            self.pop_oldest();
        }
        Some(lease)
    }
}

/// Deadlines, earliest first. Most leases last equally long, so that most come in order: those cost a
/// step each, and only the others a heap.
#[derive(Debug, Default)]
struct Deadlines {
    in_order: VecDeque<(Timestamp, LeaseId)>,
    others: BinaryHeap<Reverse<(Timestamp, LeaseId)>>,
}

impl Deadlines {
    fn push(&mut self, item: (Timestamp, LeaseId)) {
        if self.in_order.back().is_none_or(|last| *last <= item) {
            self.in_order.push_back(item);
        } else {
            self.others.push(Reverse(item));
        }
    }

    fn first(&self) -> Option<(Timestamp, LeaseId)> {
        let other = self.others.peek().map(|Reverse(item)| *item);
        self.in_order
            .front()
            .copied()
            .into_iter()
            .chain(other)
            .min()
    }

    fn pop(&mut self) -> Option<(Timestamp, LeaseId)> {
        let first = self.first()?;
        if self.in_order.front() == Some(&first) {
            return self.in_order.pop_front();
        }
        self.others.pop().map(|Reverse(item)| item)
    }

    fn len(&self) -> usize {
        self.in_order.len() + self.others.len()
    }

    fn retain(&mut self, mut keep: impl FnMut(Timestamp, LeaseId) -> bool) {
        self.in_order.retain(|(deadline, id)| keep(*deadline, *id));
        self.others
            .retain(|Reverse((deadline, id))| keep(*deadline, *id));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::random::Random;

    fn lease(ordinal: u64) -> Lease {
        Lease {
            queue: QueueId(1),
            seq: Seq(1),
            consumer: None,
            consumer_name: "".into(),
            delivered_at: Timestamp::ZERO,
            deadline: Timestamp::ZERO,
            ordinal,
            size: 0,
        }
    }

    #[test]
    fn leases_are_found_whether_they_are_among_the_latest_or_not() {
        let first = 1 << COUNT_BITS | 1;
        let (mut held, mut expected) = (Held::new(LeaseId(first)), BTreeMap::new());
        let mut random = Random::new(7);
        let ids = 4 * limits::LATEST_LEASES_MAX as u64;
        for ordinal in 0..ids {
            held.push(lease(ordinal));
            expected.insert(first + ordinal, ordinal);
            // Three of four end, most of them soon.
            let back = if random.next_u64().is_multiple_of(8) {
                ordinal
            } else {
                100
            };
            for _ in 0..2 {
                let id = first + ordinal - random.next_u64() % (back.min(ordinal) + 1);
                let removed = held.remove(LeaseId(id)).map(|lease| lease.ordinal);
                assert_eq!(removed, expected.remove(&id), "{id}");
            }
            assert_eq!(held.len(), expected.len());
        }
        assert!(!held.older.is_empty() && held.latest.len() <= limits::LATEST_LEASES_MAX);
        for id in first - 1..=first + ids {
            let ordinal = expected.get(&id).copied();
            assert_eq!(held.get(LeaseId(id)).map(|lease| lease.ordinal), ordinal);
            assert_eq!(
                held.get_mut(LeaseId(id)).map(|lease| lease.ordinal),
                ordinal
            );
        }
        for id in expected.keys() {
            assert!(held.remove(LeaseId(*id)).is_some());
        }
        assert!(held.len() == 0 && held.older.is_empty() && held.latest.is_empty());
    }
}
