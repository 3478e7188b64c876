//! How often publishes come.

use std::time::Duration;

use courser_core::time::Timestamp;

use crate::limits;

/// The time from one publish to the next, of late.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    last: Option<Timestamp>,
    /// Of the last few; the eighth part of each difference counts.
    mean: Duration,
}

impl Pace {
    /// One has come.
    pub(crate) fn note(&mut self, now: Timestamp) {
        if let Some(last) = self.last.replace(now) {
            // A rest says no more than that it was one.
            let gap = now.since(last).min(2 * limits::JOIN_PACE);
            self.mean = (self.mean * 7 + gap) / 8;
        } else {
            self.mean = 2 * limits::JOIN_PACE;
        }
    }

    /// The next one is to be expected soon.
    pub(crate) fn is_quick(&self, now: Timestamp) -> bool {
        let is_over = |last| now.since(last) > limits::JOIN_PACE;
        self.mean <= limits::JOIN_PACE && self.last.is_some_and(|last| !is_over(last))
    }
}
