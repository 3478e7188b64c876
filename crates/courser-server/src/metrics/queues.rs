//! The figures of queues. Each has labels of its own, up to a number of queues; the rest is summed up.

use std::{collections::BTreeMap, fmt, slice, time::Duration};

use courser_core::{
    histogram::Histogram,
    limits::REASONS_COUNTED_MAX,
    stats::{QueueView, Totals},
};
use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType};

use super::{encode_counter, encode_histogram};
use crate::limits;

/// The label of what is summed up. A queue that is called so is summed up with the rest.
const OTHER: &str = "_other";

/// Ends of the buckets of times: from a consumer that waits to one that comes once an hour.
const BOUNDS: [Duration; 17] = [
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_secs(60),
    Duration::from_secs(300),
    Duration::from_secs(900),
    Duration::from_secs(3_600),
];

type Count = fn(&QueueView) -> u64;

const GAUGES: [(&str, &str, Count); 6] = [
    (
        "courser_queue_ready",
        "Entries waiting to be delivered",
        |v| v.ready,
    ),
    (
        "courser_queue_delayed",
        "Entries waiting for their backoff to pass",
        |v| v.delayed,
    ),
    ("courser_queue_leased", "Entries held by consumers", |v| {
        v.leased
    }),
    (
        "courser_queue_dead",
        "Entries in the dead-letter queue of the queue",
        |v| v.dead,
    ),
    (
        "courser_queue_bytes",
        "Bytes of the messages of all entries",
        |v| v.bytes,
    ),
    ("courser_queue_consumers", "Consumers", |v| {
        v.consumers.len() as u64
    }),
];

type Age = fn(&QueueView) -> Option<Duration>;

const AGES: [(&str, &str, Age); 2] = [
    (
        "courser_queue_oldest_ready_age_seconds",
        "How long the oldest ready entry has been in the queue, 0 when none is ready",
        |v| v.oldest_ready_age,
    ),
    (
        "courser_queue_oldest_leased_age_seconds",
        "How long ago the oldest lease that is held began, 0 when none is",
        |v| v.oldest_leased_age,
    ),
];

type Total = fn(&Totals) -> u64;

const COUNTERS: [(&str, &str, Total); 9] = [
    (
        "courser_queue_published",
        "Entries that came by a publish",
        |t| t.published,
    ),
    ("courser_queue_delivered", "Hand-overs to consumers", |t| {
        t.delivered
    }),
    ("courser_queue_acked", "Settled with ack", |t| t.acked),
    ("courser_queue_nacked", "Settled with nack", |t| t.nacked),
    ("courser_queue_released", "Given back without blame", |t| {
        t.released
    }),
    ("courser_queue_expired", "Leases that ran out", |t| {
        t.expired
    }),
    (
        "courser_queue_disconnected",
        "Leases whose consumer disconnected",
        |t| t.disconnected,
    ),
    ("courser_queue_purged", "Removed by a purge", |t| t.purged),
    ("courser_queue_redriven", "Moved out by a redrive", |t| {
        t.redriven
    }),
];

type Times = fn(&Totals) -> &Histogram;

const HISTOGRAMS: [(&str, &str, Times); 3] = [
    (
        "courser_queue_time_in_queue_seconds",
        "From the moment an entry became ready for the first time to its first delivery",
        |t| &t.time_in_queue,
    ),
    (
        "courser_queue_processing_time_seconds",
        "From delivery to ack",
        |t| &t.processing_time,
    ),
    (
        "courser_queue_end_to_end_time_seconds",
        "From publish to ack",
        |t| &t.end_to_end_time,
    ),
];

/// All queues, those with labels of their own first.
#[derive(Debug)]
pub(super) struct Queues {
    views: Vec<QueueView>,
    /// How many have labels of their own.
    own: usize,
}

/// What has labels of its own: one queue, or the rest.
type Row<'a> = (&'a str, &'a [QueueView]);

impl Queues {
    pub(super) fn new(mut views: Vec<QueueView>) -> Self {
        views.sort_by_key(|view| &*view.definition.name == OTHER);
        let named = views
            .iter()
            .take_while(|view| &*view.definition.name != OTHER)
            .count();
        Self {
            views,
            own: named.min(limits::METRICS_QUEUES_MAX),
        }
    }

    pub(super) fn count(&self) -> usize {
        self.views.len()
    }

    fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        let (own, rest) = self.views.split_at(self.own);
        let own = own
            .iter()
            .map(|view| (&*view.definition.name, slice::from_ref(view)));
        own.chain((!rest.is_empty()).then_some((OTHER, rest)))
    }

    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, count) in GAUGES {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (queue, views) in self.rows() {
                let value: u64 = views.iter().map(count).sum();
                metric
                    .encode_family(&[("queue", queue)])?
                    .encode_gauge(&value)?;
            }
        }
        for (name, help, age) in AGES {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (queue, views) in self.rows() {
                let oldest = views.iter().filter_map(age).max().unwrap_or_default();
                let value = oldest.as_secs_f64();
                metric
                    .encode_family(&[("queue", queue)])?
                    .encode_gauge(&value)?;
            }
        }
        self.encode_counters(encoder)?;
        self.encode_dead_lettered(encoder)?;
        self.encode_times(encoder)
    }

    fn encode_counters(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, total) in COUNTERS {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (queue, views) in self.rows() {
                let value = views.iter().map(|view| total(&view.totals)).sum();
                encode_counter(&mut metric.encode_family(&[("queue", queue)])?, value)?;
            }
        }
        Ok(())
    }

    fn encode_dead_lettered(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (name, help) = (
            "courser_queue_dead_lettered",
            "Moved to the dead-letter queue",
        );
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (queue, views) in self.rows() {
            for (reason, value) in reasons(views) {
                let labels = [("queue", queue), ("reason", reason)];
                encode_counter(&mut metric.encode_family(&labels)?, value)?;
            }
        }
        Ok(())
    }

    /// Queues without a single time are left out: they are most of the text, and say nothing.
    fn encode_times(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, times) in HISTOGRAMS {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
            for (queue, views) in self.rows() {
                let parts: Vec<_> = views.iter().map(|view| times(&view.totals)).collect();
                if parts.iter().any(|part| part.count() > 0) {
                    let labels = [("queue", queue)];
                    encode_histogram(&mut metric.encode_family(&labels)?, &parts, &BOUNDS)?;
                }
            }
        }
        Ok(())
    }
}

/// Dead letters by reason, with the bound on reasons that a queue has.
fn reasons(views: &[QueueView]) -> BTreeMap<&str, u64> {
    let mut reasons = BTreeMap::<&str, u64>::new();
    for (reason, count) in views.iter().flat_map(|view| &view.totals.dead_lettered) {
        let known = reasons.contains_key(&**reason) || reasons.len() < REASONS_COUNTED_MAX;
        *reasons
            .entry(if known { reason } else { "other" })
            .or_default() += count;
    }
    reasons
}
