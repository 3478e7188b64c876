//! The latest messages, in memory: consumers that keep up never read from the disk.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use courser_core::{id::Position, message::Message, time::Timestamp};

use crate::limits::{IDLE_BYTES, RECENT_MESSAGES_MAX, REST_INTERVAL};

/// The position that comes after the last one in the log: what lies before it can be read from there.
/// Shared by the committer, who moves it, and the engine.
#[derive(Clone, Debug)]
pub(crate) struct Committed(Arc<AtomicU64>);

impl Committed {
    pub(crate) fn new(next: Position) -> Self {
        Self(Arc::new(AtomicU64::new(next.0)))
    }

    /// Everything before `next` is in the log.
    pub(crate) fn advance(&self, next: Position) {
        self.0.fetch_max(next.0, Ordering::Release);
    }

    fn next(&self) -> Position {
        Position(self.0.load(Ordering::Acquire))
    }
}

/// A window over the latest positions, bounded by count and bytes; the oldest go first, whoever needs
/// them, so that no message keeps the buffer alive that it came in. Those that are not in the log yet
/// stay, for nobody else has them: how many these are, the bounds on what is on its way say.
#[derive(Debug)]
pub(crate) struct Recent {
    /// The position of the first item.
    first: Position,
    items: VecDeque<Arc<Message>>,
    bytes: usize,
    bytes_max: usize,
    committed: Committed,
    /// When to look whether anything comes, while something is held.
    rest_at: Option<Timestamp>,
    /// What came since the last such look.
    came: usize,
}

impl Recent {
    pub(crate) fn new(next: Position, bytes_max: usize, committed: Committed) -> Self {
        Self {
            first: next,
            items: VecDeque::new(),
            bytes: 0,
            bytes_max,
            committed,
            rest_at: None,
            came: 0,
        }
    }

    /// Adds the message that comes next.
    pub(crate) fn push(&mut self, message: Arc<Message>) {
        self.bytes += bytes(&message);
        self.came += bytes(&message);
        self.items.push_back(message);
    }

    /// Lets go of what is too much.
    pub(crate) fn trim(&mut self) {
        if self.is_full() {
            let committed = self.committed.next();
            while self.is_full() && self.first < committed {
                self.forget_oldest();
            }
        }
    }

    pub(crate) fn get(&self, position: Position) -> Option<&Arc<Message>> {
        let index = position.0.checked_sub(self.first.0)?;
        self.items.get(usize::try_from(index).ok()?)
    }

    /// When [`rest`](Self::rest) has something to do.
    pub(crate) fn rest_at(&self) -> Option<Timestamp> {
        if self.items.is_empty() {
            None
        } else {
            // Before the first look: at once, to set the time of the next one.
            Some(self.rest_at.unwrap_or(Timestamp::ZERO))
        }
    }

    /// Gives the memory back when nobody was busy for a while.
    pub(crate) fn rest(&mut self, now: Timestamp) {
        if self.items.is_empty() || self.rest_at.is_some_and(|at| now < at) {
            return;
        }
        if self.rest_at.is_some() && self.came < IDLE_BYTES {
            self.clear();
        }
        self.came = 0;
        self.rest_at = (!self.items.is_empty()).then_some(now + REST_INTERVAL);
    }

    fn clear(&mut self) {
        let committed = self.committed.next();
        while self.first < committed && !self.items.is_empty() {
            self.forget_oldest();
        }
        self.items.shrink_to_fit();
    }

    fn is_full(&self) -> bool {
        self.bytes > self.bytes_max || self.items.len() > RECENT_MESSAGES_MAX
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.items.pop_front() {
            self.bytes -= bytes(&oldest);
            self.first.0 += 1;
        }
    }
}

/// What an item takes beside its place: the message and what is around it.
fn bytes(message: &Message) -> usize {
    message.size() as usize + 200
}
