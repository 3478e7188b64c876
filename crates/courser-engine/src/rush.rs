//! Whether consumers that take a lot together are behind.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use courser_core::time::Timestamp;

use crate::limits;

/// Known to those who publish.
#[derive(Clone, Debug, Default)]
pub(crate) struct IsRush(Arc<AtomicBool>);

impl IsRush {
    pub(crate) fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts what is handed over out of queues that have more than credit.
#[derive(Debug, Default)]
pub(crate) struct Rush {
    is_rush: IsRush,
    /// When the count began.
    since: Timestamp,
    count: usize,
    /// There was one when the last count ended.
    was_rush: bool,
}

impl Rush {
    pub(crate) fn new(is_rush: IsRush) -> Self {
        Self {
            is_rush,
            ..Self::default()
        }
    }

    /// So many entries were handed over out of queues that have more than credit.
    pub(crate) fn note(&mut self, entries: usize, now: Timestamp) {
        let passed = now.since(self.since);
        if passed >= limits::RUSH_INTERVAL {
            self.was_rush = passed < 2 * limits::RUSH_INTERVAL && self.is_enough();
            (self.since, self.count) = (now, 0);
        }
        self.count += entries;
        let is_rush = self.was_rush || self.is_enough();
        self.is_rush.0.store(is_rush, Ordering::Relaxed);
    }

    fn is_enough(&self) -> bool {
        self.count >= limits::RUSH_ENTRIES
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_rush_begins_with_enough_entries_within_the_time_and_ends_when_fewer_come() {
        let is_rush = IsRush::default();
        let mut rush = Rush::new(is_rush.clone());
        let begin = Timestamp::ZERO + Duration::from_secs(1);
        let mut note = |intervals_in_tenths: u32, entries| {
            rush.note(
                entries,
                begin + limits::RUSH_INTERVAL * intervals_in_tenths / 10,
            );
            is_rush.get()
        };
        let all = limits::RUSH_ENTRIES;
        assert!(!note(0, all - 1));
        assert!(note(9, 1));
        // What comes next counts anew, and until then what was counted holds.
        assert!(note(10, 0));
        assert!(note(19, 0));
        assert!(!note(20, all - 1));
        // Nobody was at work for a while.
        assert!(note(29, all));
        assert!(note(39, 1));
        assert!(note(48, all));
        assert!(!note(68, 1));
    }
}
