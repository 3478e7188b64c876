//! What a broker counts of its leases and uses of a processor, against what there was to do.

use std::time::Duration;

use anyhow::ensure;
use courser_proto::v1::QueueStats;
use tokio::time::{Instant, sleep};

use crate::broker::Broker;

/// A wait for something that must come, on a machine that is busy.
pub(crate) const COMES_MAX: Duration = Duration::from_secs(20);
/// An idle broker is looked at for so long.
const IDLE: Duration = Duration::from_secs(1);
/// Of a processor, a broker that waits may use one part in so many.
const WAITING_SHARE: u32 = 10;

/// Nothing is left, and each of the leases that were given has ended once. `late` are those that were
/// settled after they had run out: they were counted as run out.
pub(crate) fn all_ended(stats: &QueueStats, delivered: u64, late: u64) -> anyhow::Result<()> {
    ensure!(
        stats.ready + stats.delayed + stats.leased == 0,
        "settled, and still there: {stats:?}"
    );
    let ended = stats.acked_total
        + dead_lettered(stats)
        + stats.expired_total
        + stats.nacked_total
        + stats.released_total
        + stats.disconnected_total
        - late;
    ensure!(
        stats.delivered_total == ended && stats.delivered_total == delivered,
        "{delivered} leases were given, {ended} ended, {late} were settled late, and the figures do not \
         add up: {stats:?}"
    );
    Ok(())
}

/// Moved to the dead-letter queue, for whatever reason.
pub(crate) fn dead_lettered(stats: &QueueStats) -> u64 {
    stats.dead_lettered_total.values().sum()
}

/// A look at the processor time of a broker, from one moment on.
pub(crate) struct Usage {
    began: Instant,
    before: Duration,
}

impl Usage {
    pub(crate) fn begin(broker: &Broker) -> Self {
        Self {
            began: Instant::now(),
            before: broker.processor_time(),
        }
    }

    pub(crate) fn passed(&self) -> Duration {
        self.began.elapsed()
    }

    /// It has only waited since, beside some work.
    pub(crate) fn check(&self, broker: &Broker, work: Duration) -> anyhow::Result<()> {
        let used = broker.processor_time() - self.before;
        let passed = self.passed();
        ensure!(
            used <= passed / WAITING_SHARE + work,
            "it had to wait for {passed:?} beside work for {work:?}, and used {used:?}"
        );
        Ok(())
    }
}

/// A broker with nothing to do does nothing.
pub(crate) async fn idle(broker: &Broker) -> anyhow::Result<()> {
    let usage = Usage::begin(broker);
    sleep(IDLE).await;
    usage.check(broker, Duration::ZERO)
}
