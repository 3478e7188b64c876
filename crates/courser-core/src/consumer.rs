//! A consumer of a queue: its credit, and what it holds.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use crate::{
    id::{LeaseId, QueueId},
    limits,
};

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
    /// Something did not fit only because its connection has not taken what it was handed.
    blocked: bool,
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
            leases: VecDeque::new(),
        }
    }

    /// Whether any message may be handed to it now; its size may still be too much.
    pub(crate) fn has_room(&mut self) -> bool {
        let sendable = self.handed - self.taken < limits::UNSENT_MESSAGES_MAX;
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
    pub(crate) fn fits(&mut self, size: u32) -> bool {
        let size = u64::from(size);
        let unsent_bytes = self.handed_bytes - self.taken_bytes;
        let sendable = self.handed - self.taken < limits::UNSENT_MESSAGES_MAX
            && (unsent_bytes == 0 || unsent_bytes + size <= self.options.window_bytes);
        let credit = self.has_credit()
            && (self.held == 0 || self.held_bytes + size <= self.options.max_bytes);
        self.blocked = credit && !sendable;
        sendable && credit
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

    /// Its connection has taken this much in all; answers whether that is news. What is said to be more
    /// than was handed over counts as that.
    pub(crate) fn take(&mut self, messages: u64, bytes: u64) -> bool {
        let before = (self.taken, self.taken_bytes);
        self.taken = messages.clamp(self.taken, self.handed);
        self.taken_bytes = bytes.clamp(self.taken_bytes, self.handed_bytes);
        let is_news = before != (self.taken, self.taken_bytes);
        self.blocked &= !is_news;
        is_news
    }

    pub(crate) fn leases(&self) -> impl Iterator<Item = LeaseId> {
        self.leases.iter().copied()
    }
}
