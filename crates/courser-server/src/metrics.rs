//! The figures of a broker as OpenMetrics text.
//!
//! Each scrape asks the engine for a snapshot and writes it out: nothing is counted here. Names have base
//! units, and `_total` on counters.

mod queues;

use std::{fmt, time::Duration};

use courser_core::histogram::Histogram;
use courser_engine::request::Snapshot;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::Registry,
};

use self::queues::Queues;

/// What the text is.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The text of a snapshot.
pub(crate) fn text(mut snapshot: Snapshot, version: &'static str) -> String {
    let queues = Queues::new(std::mem::take(&mut snapshot.queues));
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Figures {
        queues,
        snapshot,
        version,
    }));
    let mut text = String::new();
    text::encode(&mut text, &registry).expect("a String takes whatever is written");
    text
}

#[derive(Debug)]
struct Figures {
    queues: Queues,
    /// Its queues are taken out.
    snapshot: Snapshot,
    version: &'static str,
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.queues.encode(&mut encoder)?;
        self.encode_commits(&mut encoder)?;
        self.encode_store(&mut encoder)?;
        self.encode_broker(&mut encoder)
    }
}

impl Figures {
    fn encode_commits(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let commits = &self.snapshot.commits;
        let help = "From the first write of a group to the end of its sync";
        let metric = MetricType::Histogram;
        let mut metric =
            encoder.encode_descriptor("courser_commit_duration_seconds", help, None, metric)?;
        encode_histogram(&mut metric, &[&commits.duration], &COMMIT_BOUNDS)?;
        counter(
            encoder,
            "courser_commit_groups",
            "Groups written",
            commits.groups,
        )?;
        counter(
            encoder,
            "courser_commit_records",
            "Records written",
            commits.records,
        )?;
        counter(
            encoder,
            "courser_commit_messages",
            "Messages written",
            commits.messages,
        )?;
        let help = "Bytes of the messages written";
        counter(
            encoder,
            "courser_commit_message_bytes",
            help,
            commits.message_bytes,
        )
    }

    fn encode_store(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (usage, commits) = (&self.snapshot.usage, &self.snapshot.commits);
        gauge(
            encoder,
            "courser_store_log_bytes",
            "Bytes of the log on disk",
            usage.log_bytes,
        )?;
        let help = "Bytes of the index on disk";
        gauge(
            encoder,
            "courser_store_index_bytes",
            help,
            usage.index_bytes,
        )?;
        gauge(
            encoder,
            "courser_store_segments",
            "Segments of the log",
            usage.segments,
        )?;
        let help = "Bytes left on the disk, as seen at the last look";
        gauge(
            encoder,
            "courser_disk_free_bytes",
            help,
            self.snapshot.space.free,
        )?;
        let help = "Bytes that stay free: below this nothing is published";
        gauge(
            encoder,
            "courser_disk_min_free_bytes",
            help,
            self.snapshot.min_free,
        )?;
        let failed = u64::from(self.snapshot.failure.is_some());
        gauge(
            encoder,
            "courser_store_failed",
            "1 when the store takes no more writes",
            failed,
        )?;
        let help = "Checkpoints of the index";
        counter(
            encoder,
            "courser_store_checkpoints",
            help,
            commits.checkpoints,
        )?;
        let help = "Segments dropped or kept for reuse";
        counter(
            encoder,
            "courser_store_segments_dropped",
            help,
            commits.segments_dropped,
        )?;
        let help = "Segments rewritten because most of them was dead";
        counter(
            encoder,
            "courser_store_segments_rewritten",
            help,
            commits.segments_rewritten,
        )
    }

    fn encode_broker(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        gauge(
            encoder,
            "courser_queues",
            "Queues",
            self.queues.count() as u64,
        )?;
        let help = "The last position given out";
        gauge(
            encoder,
            "courser_last_position",
            help,
            self.snapshot.last_position.0,
        )?;
        let uptime = self.snapshot.now.since(self.snapshot.started_at).as_secs();
        gauge(
            encoder,
            "courser_uptime_seconds",
            "How long the broker runs",
            uptime,
        )?;
        let help = "1, with the version of the broker";
        let metric = MetricType::Gauge;
        let mut metric = encoder.encode_descriptor("courser_build_info", help, None, metric)?;
        metric
            .encode_family(&[("version", self.version)])?
            .encode_gauge(&1_u64)
    }
}

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    encode_counter(&mut metric, value)
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    encoder
        .encode_descriptor(name, help, None, MetricType::Gauge)?
        .encode_gauge(&value)
}

fn encode_counter(metric: &mut MetricEncoder<'_>, value: u64) -> fmt::Result {
    metric.encode_counter::<NoLabelSet, u64, f64>(&value, None)
}

/// Ends of the buckets of commits: from a fast disk to one in trouble.
const COMMIT_BOUNDS: [Duration; 14] = [
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(10),
];

/// Several distributions as one.
fn encode_histogram(
    metric: &mut MetricEncoder<'_>,
    parts: &[&Histogram],
    bounds: &[Duration],
) -> fmt::Result {
    let mut buckets = Vec::with_capacity(bounds.len() + 1);
    let mut below = 0;
    for bound in bounds {
        let at_most: u64 = parts.iter().map(|part| part.at_most(*bound)).sum();
        buckets.push((bound.as_secs_f64(), at_most - below));
        below = at_most;
    }
    let count: u64 = parts.iter().map(|part| part.count()).sum();
    buckets.push((f64::INFINITY, count - below));
    let sum: Duration = parts.iter().map(|part| part.sum()).sum();
    metric.encode_histogram::<NoLabelSet>(sum.as_secs_f64(), count, &buckets, None)
}

#[cfg(test)]
mod tests;
