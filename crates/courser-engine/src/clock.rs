//! The one place that reads clocks.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use courser_core::time::Timestamp;
use tokio::{sync::watch, time::Instant};

/// Wall time at the start, carried on by the monotonic clock: it never goes back, whoever sets the
/// wall clock.
#[derive(Clone, Debug)]
pub struct Clock {
    started_at: Timestamp,
    passed: Passed,
}

/// What has passed since the start.
#[derive(Clone, Debug)]
enum Passed {
    /// On the monotonic clock, since this.
    Since(Instant),
    /// As much as it was told.
    Told(Arc<watch::Sender<Duration>>),
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
            passed: Passed::Since(Instant::now()),
        }
    }

    /// For tests: time passes only by [`Clock::advance`].
    #[must_use]
    pub fn paused() -> Self {
        Self {
            passed: Passed::Told(Arc::default()),
            ..Self::start()
        }
    }

    /// Lets time pass on a paused clock and its clones, which wakes who waits for it. Others go by themselves.
    pub fn advance(&self, by: Duration) {
        if let Passed::Told(passed) = &self.passed {
            passed.send_modify(|passed| *passed += by);
        }
    }

    pub(crate) fn started_at(&self) -> Timestamp {
        self.started_at
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.started_at
            + match &self.passed {
                Passed::Since(origin) => origin.elapsed(),
                Passed::Told(passed) => *passed.borrow(),
            }
    }

    /// Until `at`; a moment that has passed is now.
    pub(crate) async fn sleep_until(&self, at: Timestamp) {
        // Far beyond any lease; keeps the sum in range.
        let wait = at
            .since(self.started_at)
            .min(Duration::from_secs(3600 * 24 * 3650));
        match &self.passed {
            Passed::Since(origin) => tokio::time::sleep_until(*origin + wait).await,
            Passed::Told(passed) => {
                // It cannot end: this holds the other end.
                let _ = passed.subscribe().wait_for(|passed| *passed >= wait).await;
            }
        }
    }
}
