//! The latest messages, in memory: consumers that keep up never read from the disk.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use courser_core::{
    id::Position,
    message::{Message, SharedMessage},
    time::Timestamp,
};

use crate::limits::{IDLE_BYTES, LEFT_BEHIND_BYTES_MAX, RECENT_MESSAGES_MAX, REST_INTERVAL};

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

/// A window over the latest positions, bounded by count and bytes. Messages that came together share their memory,
/// the buffer that they came in above all, and go together: when all their queues have acked all of
/// them, so that their memory is taken again while the processor still has it in its cache. Until then they count as a
/// whole, however few are left. Beyond the bounds the oldest go first, whoever needs them. Those that are not
/// in the log yet stay, for nobody else has them: how many these are, the bounds on what is on its way say.
///
/// What is gone from here may still be kept by a delivery that its connection does not take, together with all that it
/// came with: that is counted apart, and while it is much, deliveries get memory of their own.
#[derive(Debug)]
pub(crate) struct Recent {
    /// The position of the first item.
    first: Position,
    items: VecDeque<Item>,
    /// The messages that came together, from the first item's on.
    runs: VecDeque<Run>,
    /// The number of the first of these, as items know it.
    first_run: u32,
    /// What all runs take of which a message is held.
    bytes: usize,
    bytes_max: usize,
    committed: Committed,
    /// When to look whether anything comes, while something is held.
    rest_at: Option<Timestamp>,
    /// What came since the last such look.
    came: usize,
    /// What is gone from here and was still kept when it was last looked.
    left_behind: Vec<LeftBehind>,
    /// What that takes.
    left_behind_bytes: usize,
    /// It is looked again when there are so many.
    left_behind_look: usize,
    /// So much of it is not too much.
    left_behind_max: usize,
}

/// Messages that came together and are gone from here.
#[derive(Debug)]
struct LeftBehind {
    memory: Weak<[Message]>,
    bytes: usize,
}

#[derive(Debug)]
struct Item {
    /// `None` once all have acked it.
    message: Option<SharedMessage>,
    /// Queues that have not acked it.
    queues: u32,
    /// With which it came. Numbers come again after the largest.
    run: u32,
}

/// Messages that came together.
#[derive(Debug)]
struct Run {
    /// How many of them are held.
    held: u32,
    /// What all of them take.
    bytes: usize,
}

impl Recent {
    pub(crate) fn new(next: Position, bytes_max: usize, committed: Committed) -> Self {
        Self {
            first: next,
            items: VecDeque::new(),
            runs: VecDeque::new(),
            first_run: 0,
            bytes: 0,
            bytes_max,
            committed,
            rest_at: None,
            came: 0,
            left_behind: Vec::new(),
            left_behind_bytes: 0,
            left_behind_look: 0,
            left_behind_max: LEFT_BEHIND_BYTES_MAX,
        }
    }

    /// Adds the messages that come next, which came together, and how many queues took each.
    pub(crate) fn push(&mut self, together: impl Iterator<Item = (SharedMessage, u32)>) {
        let number = self.first_run.wrapping_add(self.runs.len() as u32);
        let mut run = Run { held: 0, bytes: 0 };
        for (message, queues) in together {
            run.held += 1;
            run.bytes += message.memory_bytes();
            self.items.push_back(Item {
                message: Some(message),
                queues,
                run: number,
            });
        }
        if run.held > 0 {
            self.bytes += run.bytes;
            self.came += run.bytes;
            self.runs.push_back(run);
        }
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
                let run = item.run;
                self.let_go_of_one(run, message);
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
        if self.keeps_much_behind() && self.left_behind.len() >= self.left_behind_look {
            self.look_behind();
        }
    }

    /// A message to hand over.
    pub(crate) fn hand_over(&self, position: Position) -> Option<SharedMessage> {
        let message = self.get(position)?;
        Some(if message.keeps_others() && self.keeps_much_behind() {
            message.apart()
        } else {
            message.clone()
        })
    }

    fn keeps_much_behind(&self) -> bool {
        self.left_behind_bytes > self.left_behind_max
    }

    /// Forgets what nobody keeps any more.
    fn look_behind(&mut self) {
        self.left_behind.retain(|of| of.memory.strong_count() > 0);
        self.left_behind.shrink_to(2 * self.left_behind.len());
        self.left_behind_bytes = self.left_behind.iter().map(|of| of.bytes).sum();
        self.left_behind_look = 2 * self.left_behind.len();
    }

    /// What comes before this position is in the log.
    pub(crate) fn committed(&self) -> Position {
        self.committed.next()
    }

    pub(crate) fn get(&self, position: Position) -> Option<&SharedMessage> {
        self.items.get(self.index(position)?)?.message.as_ref()
    }

    fn index(&self, position: Position) -> Option<usize> {
        usize::try_from(position.0.checked_sub(self.first.0)?).ok()
    }

    /// When [`rest`](Self::rest) has something to do.
    pub(crate) fn rest_at(&self) -> Option<Timestamp> {
        // Before the first look: at once, to set its time.
        self.rest_at
            .or(self.keeps_anything().then_some(Timestamp::ZERO))
    }

    fn keeps_anything(&self) -> bool {
        !self.items.is_empty() || !self.left_behind.is_empty()
    }

    /// Gives the memory back when nobody was busy for a while.
    pub(crate) fn rest(&mut self, now: Timestamp) {
        if self.rest_at.is_some_and(|at| now < at) {
            return;
        }
        if self.rest_at.is_some() {
            if self.came < IDLE_BYTES || self.items.is_empty() {
                self.clear();
            }
            self.look_behind();
        }
        self.came = 0;
        self.rest_at = self.keeps_anything().then_some(now + REST_INTERVAL);
    }

    fn clear(&mut self) {
        let committed = self.committed.next();
        while self.first < committed && !self.items.is_empty() {
            self.forget_oldest();
        }
        self.items.shrink_to_fit();
        self.runs.shrink_to_fit();
    }

    fn is_full(&self) -> bool {
        self.bytes > self.bytes_max || self.items.len() > RECENT_MESSAGES_MAX
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.items.pop_front() {
            self.first.0 += 1;
            if let Some(message) = oldest.message {
                self.let_go_of_one(oldest.run, message);
            }
        }
    }

    /// This message of this run is not held any more.
    fn let_go_of_one(&mut self, run: u32, message: SharedMessage) {
        let at = run.wrapping_sub(self.first_run) as usize;
        if let Some(run) = self.runs.get_mut(at) {
            run.held -= 1;
            if run.held == 0 {
                self.bytes -= run.bytes;
                if message.keeps_others() {
                    let (memory, bytes) = (message.memory(), run.bytes);
                    drop(message);
                    self.leave_behind(LeftBehind { memory, bytes });
                }
            }
        }
        while self.runs.front().is_some_and(|run| run.held == 0) {
            self.runs.pop_front();
            self.first_run = self.first_run.wrapping_add(1);
        }
    }

    /// Counts what is gone from here, if somebody keeps it.
    fn leave_behind(&mut self, of: LeftBehind) {
        if of.memory.strong_count() > 0 {
            self.left_behind_bytes += of.bytes;
            self.left_behind.push(of);
        }
    }
}

#[cfg(test)]
mod tests {
    use courser_core::message::MessageId;

    use super::*;

    fn message(position: u64) -> SharedMessage {
        SharedMessage::from(Message {
            position: Position(position),
            published_at: Timestamp::ZERO,
            id: MessageId::Given("".into()),
            topic: "topic".into(),
            payload: vec![0; 100].into(),
            headers: Vec::new(),
            attributes: None,
        })
    }

    /// Messages 1 to `count`, so many of them together, each taken by `queues` queues, all in the log.
    fn recent(count: u64, together: usize, queues: u32, bytes_max: usize) -> Recent {
        let committed = Committed::new(Position(count + 1));
        let mut recent = Recent::new(Position(1), bytes_max, committed);
        let messages: Vec<_> = (1..=count).map(message).collect();
        for together in messages.chunks(together) {
            recent.push(together.iter().map(|message| (message.clone(), queues)));
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
        let mut recent = recent(4, 1, 2, 1_000_000);
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
        recent.push([(message(5), 1)].into_iter());
        assert_eq!(held(&recent), [5]);
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many_bytes_whoever_needs_them() {
        let each = message(1).memory_bytes();
        let mut recent = recent(10, 1, 1, 4 * each);
        recent.forget_acked(&[Position(8)]);
        recent.trim();
        assert_eq!(held(&recent), [6, 7, 9, 10]);
        assert_eq!(recent.bytes, 4 * each);
    }

    #[test]
    fn those_that_came_together_count_until_none_of_them_is_held() {
        let each = message(1).memory_bytes();
        let mut recent = recent(9, 3, 1, 6 * each);
        recent.forget_acked(&[Position(5), Position(4), Position(1), Position(3)]);
        assert_eq!(
            (held(&recent), recent.bytes),
            (vec![2, 6, 7, 8, 9], 9 * each)
        );
        // One goes, and with it what it came in.
        recent.trim();
        assert_eq!((held(&recent), recent.bytes), (vec![6, 7, 8, 9], 6 * each));
        recent.forget_acked(&[Position(8), Position(6)]);
        assert_eq!((held(&recent), recent.bytes), (vec![7, 9], 3 * each));
        recent.push([(message(10), 1), (message(11), 1)].into_iter());
        assert_eq!(
            (held(&recent), recent.bytes),
            (vec![7, 9, 10, 11], 5 * each)
        );
        recent.forget_acked(&[7, 9, 10, 11].map(Position));
        assert_eq!(
            (held(&recent), recent.bytes, recent.runs.len()),
            (vec![], 0, 0)
        );
    }

    #[test]
    fn numbers_of_what_came_together_come_again() {
        let mut recent = recent(0, 1, 1, 1_000);
        recent.first_run = u32::MAX;
        for position in 1..=3 {
            recent.push([(message(position), 1)].into_iter());
        }
        recent.forget_acked(&[Position(2), Position(3)]);
        assert_eq!(
            (held(&recent), recent.bytes),
            (vec![1], message(1).memory_bytes())
        );
        recent.forget_acked(&[Position(1)]);
        assert_eq!((recent.bytes, recent.first_run), (0, 2));
    }

    /// Messages 1 to `count`, so many of them together, all in the log, of which so many bytes may be left behind.
    fn recent_together(count: u64, together: usize, left_behind_max: usize) -> Recent {
        let mut recent = recent(0, 1, 1, 1_000_000);
        recent.left_behind_max = left_behind_max;
        let positions: Vec<_> = (1..=count).collect();
        for positions in positions.chunks(together) {
            let messages = positions
                .iter()
                .map(|position| Message::clone(&message(*position)));
            let together = SharedMessage::all(messages.collect());
            recent.push(together.map(|message| (message, 1)));
        }
        recent
    }

    #[test]
    fn what_a_delivery_keeps_of_what_is_gone_counts_until_it_is_gone_too() {
        let each = message(1).memory_bytes();
        let mut recent = recent_together(7, 3, 1_000_000);
        let kept = recent.hand_over(Position(2)).unwrap();
        let alone = recent.hand_over(Position(7)).unwrap();
        recent.forget_acked(&[1, 3, 4, 5, 6, 7].map(Position));
        assert_eq!(recent.left_behind_bytes, 0);
        recent.forget_acked(&[Position(2)]);
        // It keeps what it came with; one that came alone keeps nothing.
        assert_eq!((recent.bytes, recent.left_behind_bytes), (0, 3 * each));
        recent.look_behind();
        assert_eq!(recent.left_behind_bytes, 3 * each);
        drop((kept, alone));
        recent.look_behind();
        assert_eq!((recent.left_behind_bytes, recent.left_behind.len()), (0, 0));
    }

    #[test]
    fn deliveries_keep_nothing_else_while_much_is_kept() {
        let each = message(1).memory_bytes();
        let mut recent = recent_together(9, 3, 3 * each);
        let shares = |recent: &Recent, position| {
            let handed = recent.hand_over(Position(position)).unwrap();
            assert_eq!(handed, *recent.get(Position(position)).unwrap());
            handed.keeps_others()
        };
        let kept = [1, 4].map(|position| recent.hand_over(Position(position)).unwrap());
        recent.forget_acked(&[1, 2, 3].map(Position));
        recent.trim();
        assert!(shares(&recent, 7));
        recent.forget_acked(&[4, 5, 6].map(Position));
        recent.trim();
        assert!(!shares(&recent, 7));
        // A look is worth it when there is more to look at, or after a while.
        drop(kept);
        recent.trim();
        assert!(!shares(&recent, 8));
        let first = Timestamp::ZERO;
        for (now, is_looked) in [(first, false), (first + REST_INTERVAL, true)] {
            recent.rest(now);
            assert_eq!(shares(&recent, 8), is_looked);
        }
    }

    #[test]
    fn what_is_kept_is_looked_at_also_when_nothing_is_held_any_more() {
        let mut recent = recent_together(3, 3, 1_000_000);
        let kept = recent.hand_over(Position(1)).unwrap();
        recent.forget_acked(&[1, 2, 3].map(Position));
        recent.rest(recent.rest_at().unwrap());
        assert!(recent.left_behind_bytes > 0);
        drop(kept);
        recent.rest(recent.rest_at().unwrap());
        assert_eq!((recent.left_behind_bytes, recent.rest_at()), (0, None));
    }
}
