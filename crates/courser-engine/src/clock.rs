//! The one place that reads clocks.

use std::time::{Duration, SystemTime};

use courser_core::time::Timestamp;
use tokio::time::Instant;

/// Wall time at the start, carried on by the monotonic clock: it never goes back, whoever sets the
/// wall clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started_at: Timestamp,
    origin: Instant,
}

impl Clock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the clock that others ask"
    )]
    pub(crate) fn start() -> Self {
        let wall = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let micros = u64::try_from(wall.as_micros()).unwrap_or(0);
        Self {
            started_at: Timestamp::from_micros(micros),
            origin: Instant::now(),
        }
    }

    pub(crate) fn started_at(&self) -> Timestamp {
        self.started_at
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.started_at + self.origin.elapsed()
    }

    /// When `at` will be; a moment that has passed is now.
    pub(crate) fn instant(&self, at: Timestamp) -> Instant {
        // Far beyond any lease; keeps the sum in range.
        let wait = at
            .since(self.started_at)
            .min(Duration::from_secs(3600 * 24 * 3650));
        self.origin + wait
    }
}
