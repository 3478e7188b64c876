//! Events a second over the last ten seconds.

use crate::time::Timestamp;

const SECONDS: u64 = 10;

/// Counts events by the second, for as long as they matter.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rate {
    slots: [u32; SECONDS as usize + 1],
    /// The second that was counted last.
    second: u64,
}

impl Rate {
    pub(crate) fn add(&mut self, now: Timestamp, events: u32) {
        self.advance(now);
        let slot = &mut self.slots[(self.second % (SECONDS + 1)) as usize];
        *slot = slot.saturating_add(events);
    }

    /// Over the last ten seconds that are complete.
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    pub(crate) fn per_second(&self, now: Timestamp) -> f64 {
        let mut rate = self.clone();
        rate.advance(now);
        let current = rate.slots[(rate.second % (SECONDS + 1)) as usize];
        let all: u64 = rate.slots.iter().map(|slot| u64::from(*slot)).sum();
        (all - u64::from(current)) as f64 / SECONDS as f64
    }

    fn advance(&mut self, now: Timestamp) {
        let second = now.as_micros() / 1_000_000;
        if second <= self.second {
            return;
        }
        let passed = second - self.second;
        if passed > SECONDS {
            self.slots = Default::default();
        } else {
            for at in self.second + 1..=second {
                self.slots[(at % (SECONDS + 1)) as usize] = 0;
            }
        }
        self.second = second;
    }
}
