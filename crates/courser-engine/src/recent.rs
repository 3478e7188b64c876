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
/// Moved by who commits, read by the engine.
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

/// A window over the latest positions, bounded by count and bytes. A message that all its queues have
/// acked goes at once: its memory is taken again while the processor still has it in its cache. Of the
/// others the oldest go first, whoever needs them, so that no message keeps the buffer alive that it came
/// in. Those that are not in the log yet stay, for nobody else has them: how many these are, the bounds on
/// what is on its way say.
#[derive(Debug)]
pub(crate) struct Recent {
    /// The position of the first item.
    first: Position,
    items: VecDeque<Item>,
    bytes: usize,
    bytes_max: usize,
    committed: Committed,
    /// When to look whether anything comes, while something is held.
    rest_at: Option<Timestamp>,
    /// What came since the last such look.
    came: usize,
}

#[derive(Debug)]
struct Item {
    /// `None` once all have acked it.
    message: Option<Arc<Message>>,
    /// Queues that have not acked it.
    queues: u32,
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

    /// Adds the message that comes next, which so many queues took.
    pub(crate) fn push(&mut self, message: Arc<Message>, queues: u32) {
        self.bytes += bytes(&message);
        self.came += bytes(&message);
        let message = Some(message);
        self.items.push_back(Item { message, queues });
    }

    /// Lets go of what nobody wants any more: for each of these, one queue has acked it.
    pub(crate) fn forget_acked(&mut self, acked: &[Position]) {
        for position in acked {
            let item = self.index(*position).and_then(|at| self.items.get_mut(at));
            let Some(item) = item else { continue };
            item.queues = item.queues.saturating_sub(1);
            if item.queues == 0
                && let Some(message) = item.message.take()
            {
                self.bytes -= bytes(&message);
            }
        }
        while self
            .items
            .front()
            .is_some_and(|item| item.message.is_none())
        {
            self.forget_oldest();
        }
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
        self.items.get(self.index(position)?)?.message.as_ref()
    }

    fn index(&self, position: Position) -> Option<usize> {
        usize::try_from(position.0.checked_sub(self.first.0)?).ok()
    }

    /// When [`rest`](Self::rest) has something to do.
    pub(crate) fn rest_at(&self) -> Option<Timestamp> {
        // Before the first look: at once, to set the time of the next one.
        let first = (!self.items.is_empty()).then_some(Timestamp::ZERO);
        self.rest_at.or(first)
    }

    /// Gives the memory back when nobody was busy for a while.
    pub(crate) fn rest(&mut self, now: Timestamp) {
        if self.rest_at.is_some_and(|at| now < at) {
            return;
        }
        if self.rest_at.is_some() && (self.came < IDLE_BYTES || self.items.is_empty()) {
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
            self.bytes -= oldest.message.as_deref().map_or(0, bytes);
            self.first.0 += 1;
        }
    }
}

/// What an item takes beside its place: the message and what is around it.
fn bytes(message: &Message) -> usize {
    message.size() as usize + 200
}

#[cfg(test)]
mod tests {
    use courser_core::message::MessageId;

    use super::*;

    fn message(position: u64) -> Arc<Message> {
        Arc::new(Message {
            position: Position(position),
            published_at: Timestamp::ZERO,
            id: MessageId::Given("".into()),
            topic: "topic".into(),
            payload: vec![0; 100].into(),
            headers: Vec::new(),
            attributes: None,
        })
    }

    /// Messages 1 to `count`, each taken by `queues` queues, all in the log.
    fn recent(count: u64, queues: u32, bytes_max: usize) -> Recent {
        let committed = Committed::new(Position(count + 1));
        let mut recent = Recent::new(Position(1), bytes_max, committed);
        for position in 1..=count {
            recent.push(message(position), queues);
        }
        recent
    }

    fn held(recent: &Recent) -> Vec<u64> {
        let positions = 0..100;
        positions
            .filter(|position| recent.get(Position(*position)).is_some())
            .collect()
    }

    #[test]
    fn a_message_stays_until_each_of_its_queues_has_acked_it() {
        let mut recent = recent(4, 2, 1_000_000);
        recent.forget_acked(&[Position(3), Position(1), Position(2)]);
        assert_eq!(held(&recent), [1, 2, 3, 4]);
        recent.forget_acked(&[Position(3)]);
        assert_eq!(held(&recent), [1, 2, 4]);
        recent.forget_acked(&[Position(2), Position(1)]);
        assert_eq!(held(&recent), [4]);
        // Those before and behind what is held say nothing of it.
        recent.forget_acked(&[Position(1), Position(1), Position(99)]);
        recent.forget_acked(&[Position(4), Position(4)]);
        assert_eq!((held(&recent), recent.bytes), (vec![], 0));
        recent.push(message(5), 1);
        assert_eq!(held(&recent), [5]);
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many_bytes_whoever_needs_them() {
        let each = bytes(&message(1));
        let mut recent = recent(10, 1, 4 * each);
        recent.forget_acked(&[Position(8)]);
        recent.trim();
        assert_eq!(held(&recent), [6, 7, 9, 10]);
        assert_eq!(recent.bytes, 4 * each);
    }
}
