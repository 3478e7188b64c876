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
    /// The same; those that have taken nothing yet have little all together.
    Sparing,
    /// Each that has taken something before has a small share.
    Reserved,
    /// Nobody has anything.
    Spent,
}

/// How long a connection may take nothing of this much while others wait for its room.
pub(crate) fn patience(bytes: u64) -> Duration {
    limits::UNSENT_TIME_MAX.max(Duration::from_secs(bytes / limits::UNSENT_PACE_BYTES))
}

/// What was handed to the connections of all consumers and is not known to be taken.
#[derive(Debug, Default)]
pub(crate) struct Unsent {
    pub(crate) bytes: u64,
    /// The part of those that had taken nothing yet: what they had when it was last looked, and what they
    /// were handed since.
    pub(crate) new_bytes: u64,
}

impl Unsent {
    pub(crate) fn supply(&self) -> Supply {
        match self.bytes {
            limits::UNSENT_ALL_BYTES_MAX.. => Supply::Spent,
            limits::UNSENT_SPARINGLY_BYTES.. if self.new_bytes < limits::UNSENT_NEW_BYTES_MAX => {
                Supply::Sparing
            }
            limits::UNSENT_SPARINGLY_BYTES.. => Supply::Reserved,
            limits::UNSENT_FREELY_BYTES.. => Supply::Shared,
            _ => Supply::Free,
        }
    }

    /// A consumer is handed this much.
    pub(crate) fn add(&mut self, size: u32, is_new: bool) {
        self.bytes += u64::from(size);
        self.new_bytes += u64::from(size) * u64::from(is_new);
    }
}

/// How far a connection has come with what its consumer was handed.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Taken in all.
    pub messages: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Bytes that were given to it and are not taken.
    pub held_bytes: u64,
    /// It has asked for more, and was given nothing since.
    pub is_asking: bool,
}

impl Progress {
    /// The next step is the broker's: it holds nothing, and waits for more.
    fn waits(self) -> bool {
        self.is_asking && self.held_bytes == 0
    }
}

/// What a connection still holds of a consumer that is gone.
#[derive(Debug, Default)]
pub(crate) struct Left {
    pub(crate) bytes: u64,
    /// Since when none of it was taken, as far as was looked.
    stalled: Option<Timestamp>,
}

impl Left {
    /// It is this much now; answers how much it was.
    pub(crate) fn set(&mut self, bytes: u64) -> u64 {
        let before = std::mem::replace(&mut self.bytes, bytes);
        if before != bytes {
            self.stalled = None;
        }
        before
    }

    pub(crate) fn stalled_since(&mut self, now: Timestamp) -> Timestamp {
        *self.stalled.get_or_insert(now)
    }

    /// Nobody waits for its room any more.
    pub(crate) fn forget_stall(&mut self) {
        self.stalled = None;
    }
}

/// How a consumer wants to be served. All within their limits.
#[derive(Clone, Debug)]
pub struct ConsumerOptions {
    /// For people.
    pub name: Arc<str>,
    /// Unsettled deliveries at most.
    pub max_messages: u32,
    /// Unsettled bytes at most, or with `auto_ack` bytes not taken by its connection; one message that is larger still
    /// comes, alone.
    pub max_bytes: u64,
    /// Instead of the queue's.
    pub lease: Option<Duration>,
    /// Acked as they are handed over.
    pub auto_ack: bool,
    /// Deliveries in all: after so many, none follow.
    pub limit: Option<u64>,
    /// Bytes handed to its connection and not yet taken by it, below which one more message goes.
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
        let (unsent, window) = (self.unsent_bytes(), self.options.window_bytes);
        let fits = match supply {
            // What acks itself has no other bound of its bytes, and an answer that is larger than was asked for may be lost.
            Supply::Free if self.options.auto_ack => {
                unsent < window && unsent + size <= self.options.max_bytes
            }
            Supply::Free => unsent < window,
            Supply::Reserved if self.taken == 0 => return false,
            Supply::Shared | Supply::Sparing | Supply::Reserved => {
                unsent + size <= window.min(limits::UNSENT_SHARE_BYTES)
            }
            Supply::Spent => return false,
        };
        self.handed - self.taken < limits::UNSENT_MESSAGES_MAX && (unsent == 0 || fits)
    }

    /// Bytes handed to its connection and not taken by it.
    pub(crate) fn unsent_bytes(&self) -> u64 {
        self.handed_bytes - self.taken_bytes
    }

    /// Has taken nothing yet.
    pub(crate) fn is_new(&self) -> bool {
        self.taken == 0
    }

    /// Since when its connection has taken nothing of what it was handed, as far as was looked. It is not to
    /// blame for what the broker has not given to it: that may wait for the disk.
    pub(crate) fn stalled_since(
        &mut self,
        now: Timestamp,
        progress: Option<Progress>,
    ) -> Option<Timestamp> {
        if self.handed == self.taken || progress.is_some_and(Progress::waits) {
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
        // When as many are noted as are held, the first is held: looking it up would be a cache miss for each ack.
        while self.leases.len() as u64 > self.held
            && self.leases.front().is_some_and(|lease| !is_held(*lease))
        {
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
