//! What a run measured.

use std::{io, time::Duration};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::{Bench, Shared, consumer::Consumed, producer::Produced};
use crate::cli::{
    output::{Format, Output, Table},
    value::{count, number},
};

/// Up to an hour in nanoseconds, to three digits: 0.1 % of what is measured.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000_000, 3).expect("the bounds are valid")
}

pub(super) struct Report {
    bench: Bench,
    produced: Produced,
    consumed: Consumed,
}

impl Report {
    pub(super) fn new(shared: &Shared, produced: Produced, consumed: Consumed) -> Self {
        Self {
            bench: shared.bench.clone(),
            produced,
            consumed,
        }
    }

    /// Messages that were confirmed and never came.
    pub(super) fn missing(&self) -> u64 {
        if self.bench.publish_only || self.bench.consume_only {
            return 0;
        }
        self.produced
            .messages
            .saturating_sub(self.consumed.messages)
    }

    /// What is wrong with the outcome.
    pub(super) fn complaint(&self) -> Option<String> {
        let missing = self.missing();
        if missing > 0 {
            let messages = count(missing, "message was", "messages were");
            return Some(format!("{messages} confirmed and never received"));
        }
        if !self.bench.consume_only {
            return None;
        }
        let (queue, wanted) = (&self.bench.queue, self.bench.count);
        match (self.consumed.messages + self.consumed.foreign, wanted) {
            (0, _) => Some(format!("queue {queue:?} had no message to give")),
            (came, Some(wanted)) if came < wanted => {
                let (came, wanted) = (number(came), count(wanted, "message", "messages"));
                Some(format!(
                    "queue {queue:?} had only {came} of {wanted} to give"
                ))
            }
            _ => None,
        }
    }

    pub(super) fn print(&self, output: &mut Output) -> io::Result<()> {
        match output.format {
            Format::Table => self.table(output),
            Format::Json | Format::Ndjson => output.json(&self.json()),
        }
    }

    fn table(&self, output: &mut Output) -> io::Result<()> {
        let mut facts = Vec::new();
        let Self {
            bench,
            produced,
            consumed,
        } = self;
        if !bench.consume_only {
            facts.push((
                "published",
                rate_line(produced.messages, self.published_bytes(), produced.took),
            ));
        }
        if !bench.publish_only {
            facts.push((
                "end to end",
                rate_line(consumed.messages, consumed.bytes, consumed.took),
            ));
        }
        if !bench.consume_only {
            facts.push(("confirm", latency_line(&produced.confirm)));
        }
        if !bench.publish_only {
            facts.push(("delivery", latency_line(&consumed.end_to_end)));
            let checks = format!(
                "{} missing, {}, {} not settled, {} foreign",
                number(self.missing()),
                count(consumed.duplicates, "duplicate", "duplicates"),
                number(consumed.unsettled),
                number(consumed.foreign),
            );
            facts.push(("checked", checks));
        }
        output.table(&Table::facts(facts))
    }

    fn published_bytes(&self) -> u64 {
        self.produced.messages * self.bench.size as u64
    }

    fn json(&self) -> Value {
        let Self {
            bench,
            produced,
            consumed,
        } = self;
        let publish_rate = rate(produced.messages, produced.took);
        let end_to_end_rate = rate(consumed.messages, consumed.took);
        json!({
            "producers": bench.producers,
            "consumers": bench.consumers,
            "size": bench.size,
            "in_flight": bench.in_flight,
            "batch": bench.batch(),
            "prefetch": bench.prefetch,
            "durability": format!("{:?}", bench.durability).to_lowercase(),
            "published": produced.messages,
            "received": consumed.messages,
            "missing": self.missing(),
            "duplicates": consumed.duplicates,
            "unsettled": consumed.unsettled,
            "foreign": consumed.foreign,
            "publish_seconds": produced.took.as_secs_f64(),
            "publish_per_second": publish_rate,
            "publish_megabytes_per_second": rate(self.published_bytes(), produced.took) / 1e6,
            "end_to_end_seconds": consumed.took.as_secs_f64(),
            "end_to_end_per_second": end_to_end_rate,
            "end_to_end_megabytes_per_second": rate(consumed.bytes, consumed.took) / 1e6,
            "confirm_milliseconds": latency_json(&produced.confirm),
            "end_to_end_milliseconds": latency_json(&consumed.end_to_end),
        })
    }
}

#[allow(
    clippy::cast_precision_loss,
    reason = "a run has far fewer than 2^52 messages"
)]
fn rate(messages: u64, took: Duration) -> f64 {
    if took.is_zero() {
        0.0
    } else {
        messages as f64 / took.as_secs_f64()
    }
}

fn rate_line(messages: u64, bytes: u64, took: Duration) -> String {
    format!(
        "{} in {:.2} s: {:.0} msg/s, {:.1} MB/s",
        count(messages, "message", "messages"),
        took.as_secs_f64(),
        rate(messages, took),
        rate(bytes, took) / 1e6
    )
}

fn latency_line(histogram: &Histogram<u64>) -> String {
    let [p50, p95, p99, max] = percentiles(histogram);
    format!("p50 {p50:.3} ms  p95 {p95:.3} ms  p99 {p99:.3} ms  max {max:.3} ms")
}

fn latency_json(histogram: &Histogram<u64>) -> Value {
    let [p50, p95, p99, max] = percentiles(histogram);
    json!({ "p50": p50, "p95": p95, "p99": p99, "max": max })
}

/// p50, p95, p99 and the maximum in milliseconds.
#[allow(
    clippy::cast_precision_loss,
    reason = "an hour in nanoseconds is below 2^52"
)]
fn percentiles(histogram: &Histogram<u64>) -> [f64; 4] {
    [0.5, 0.95, 0.99, 1.0].map(|quantile| histogram.value_at_quantile(quantile) as f64 / 1e6)
}
