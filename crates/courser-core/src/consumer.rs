//! A consumer of a queue: its credit, and what it holds.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use crate::{
    id::{LeaseId, QueueId},
    limits,
    time::Timestamp,
};

/// How freely messages are handed to connections, by what all connections together have not taken. Whoever
/// takes is served before who does not: the last part of the room is for those that have taken before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Supply {
    /// Each has its own bound.
    Free,
    /// Each has a small share.
    Shared,
    /// Each that has taken something before has a small share.
    Reserved,
    /// Nobody has anything.
    Spent,
}

impl Supply {
    pub(crate) fn at(unsent_bytes: u64) -> Self {
        match unsent_bytes {
            limits::UNSENT_ALL_BYTES_MAX.. => Self::Spent,
            limits::UNSENT_SPARINGLY_BYTES.. => Self::Reserved,
            limits::UNSENT_FREELY_BYTES.. => Self::Shared,
            _ => Self::Free,
        }
    }
}

/// How a consumer wants to be served. All within their limits.
#[derive(Clone, Debug)]
pub struct ConsumerOptions {
    /// For people.
    pub name: Arc<str>,
    /// Unsettled deliveries at most.
    pub max_messages: u32,
    /// Unsettled bytes at most; one message that is larger still comes, alone.
    pub max_bytes: u64,
    /// Instead of the queue's.
    pub lease: Option<Duration>,
    /// Acked as they are handed over.
    pub auto_ack: bool,
    /// Deliveries in all: after so many, none follow.
    pub limit: Option<u64>,
    /// Bytes handed to its connection and not yet taken by it; one message that is larger still goes.
    pub window_bytes: u64,
}

#[derive(Debug)]
pub(crate) struct Consumer {
    pub(crate) queue: QueueId,
    pub(crate) options: ConsumerOptions,
    pub(crate) held: u64,
    pub(crate) held_bytes: u64,
    /// Handed over in all.
    pub(crate) handed: u64,
    handed_bytes: u64,
    /// Taken by its connection in all.
    pub(crate) taken: u64,
    taken_bytes: u64,
    /// Stands in its queue's line.
    pub(crate) in_line: bool,
    /// Wants no more.
    drained: bool,
    /// Something did not fit only because its connection, or others, have not taken what they were handed.
    blocked: bool,
    /// What had been taken when it was looked at, and since when no more was.
    stalled: Option<(u64, Timestamp)>,
    /// What it was given, oldest first; some of it may be settled.
    leases: VecDeque<LeaseId>,
}

impl Consumer {
    pub(crate) fn new(queue: QueueId, options: ConsumerOptions) -> Self {
        Self {
            queue,
            options,
            held: 0,
            held_bytes: 0,
            handed: 0,
            handed_bytes: 0,
            taken: 0,
            taken_bytes: 0,
            in_line: false,
            drained: false,
            blocked: false,
            stalled: None,
            leases: VecDeque::new(),
        }
    }

    /// Whether any message may be handed to it now; its size may still be too much.
    pub(crate) fn has_room(&mut self, supply: Supply) -> bool {
        let sendable = self.may_be_sent(supply, 0);
        let credit = self.has_credit();
        self.blocked = credit && !sendable;
        sendable && credit
    }

    /// Whether one more message is within what it asked for, unless its size is too much.
    pub(crate) fn has_credit(&self) -> bool {
        self.held < u64::from(self.options.max_messages)
            && !self.drained
            && self.options.limit.is_none_or(|limit| self.handed < limit)
    }

    /// Wants no more, and keeps what it holds.
    pub(crate) fn drain(&mut self) {
        self.drained = true;
    }

    /// Whether a message of `size` bytes may be handed to it now.
    pub(crate) fn fits(&mut self, size: u32, supply: Supply) -> bool {
        let size = u64::from(size);
        let sendable = self.may_be_sent(supply, size);
        let credit = self.has_credit()
            && (self.held == 0 || self.held_bytes + size <= self.options.max_bytes);
        self.blocked = credit && !sendable;
        sendable && credit
    }

    /// Whether its connection may be handed `size` bytes more.
    fn may_be_sent(&self, supply: Supply, size: u64) -> bool {
        let window = match supply {
            Supply::Free => self.options.window_bytes,
            Supply::Reserved if self.taken == 0 => return false,
            Supply::Shared | Supply::Reserved => {
                self.options.window_bytes.min(limits::UNSENT_SHARE_BYTES)
            }
            Supply::Spent => return false,
        };
        let unsent = self.unsent_bytes();
        self.handed - self.taken < limits::UNSENT_MESSAGES_MAX
            && (unsent == 0 || unsent + size <= window)
    }

    /// Bytes handed to its connection and not taken by it.
    pub(crate) fn unsent_bytes(&self) -> u64 {
        self.handed_bytes - self.taken_bytes
    }

    /// Since when its connection has taken nothing of what it was handed, as far as was looked.
    pub(crate) fn stalled_since(&mut self, now: Timestamp) -> Option<Timestamp> {
        if self.handed == self.taken {
            self.stalled = None;
            return None;
        }
        let since = match self.stalled {
            Some((taken, since)) if taken == self.taken => since,
            _ => now,
        };
        self.stalled = Some((self.taken, since));
        Some(since)
    }

    /// Nobody waits for its room any more.
    pub(crate) fn forget_stall(&mut self) {
        self.stalled = None;
    }

    /// Whether an entry waits for its connection to take what it was handed.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked
    }

    pub(crate) fn hand(&mut self, lease: LeaseId, size: u32) {
        self.handed += 1;
        self.handed_bytes += u64::from(size);
        if !self.options.auto_ack {
            self.held += 1;
            self.held_bytes += u64::from(size);
            self.leases.push_back(lease);
        }
    }

    /// A lease of it has ended. `is_held` tells of the others.
    pub(crate) fn give_back(&mut self, size: u32, is_held: impl Fn(LeaseId) -> bool) {
        self.held -= 1;
        self.held_bytes -= u64::from(size);
        while self.leases.front().is_some_and(|lease| !is_held(*lease)) {
            self.leases.pop_front();
        }
        if self.leases.len() as u64 > 64 + 2 * self.held {
            self.leases.retain(|lease| is_held(*lease));
        }
    }

    /// Its connection has taken this much in all; answers how many bytes of that are news, if any of it is.
    /// What is said to be more than was handed over counts as that.
    pub(crate) fn take(&mut self, messages: u64, bytes: u64) -> Option<u64> {
        let before = (self.taken, self.taken_bytes);
        self.taken = messages.clamp(self.taken, self.handed);
        self.taken_bytes = bytes.clamp(self.taken_bytes, self.handed_bytes);
        let is_news = before != (self.taken, self.taken_bytes);
        self.blocked &= !is_news;
        is_news.then(|| self.taken_bytes - before.1)
    }

    pub(crate) fn leases(&self) -> impl Iterator<Item = LeaseId> {
        self.leases.iter().copied()
    }
}
