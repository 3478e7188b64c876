//! Queues and entries, for people and for programs.

use std::{io, time::Duration};

use courser_client::{from_wire_duration, wire};

use crate::cli::{
    output::{Format, Output, Table, utf8_or_base64},
    value::{age, count, number, size},
};

/// Characters of a payload or an error that fit a table.
const PREVIEW_CHARS: usize = 48;

/// All queues with their figures.
pub(in crate::cli) fn print_queues(output: &mut Output, queues: &[wire::Queue]) -> io::Result<()> {
    if output.format != Format::Table {
        return output.list("queues", queues);
    }
    let mut table = Table::new(&[
        "NAME",
        ">READY",
        ">DELAYED",
        ">LEASED",
        ">DEAD",
        ">OLDEST",
        ">IN/S",
        ">ACK/S",
        ">CONSUMERS",
        "",
    ]);
    for queue in queues {
        let stats = queue.stats.clone().unwrap_or_default();
        let paused = queue
            .options
            .as_ref()
            .is_some_and(|options| options.paused == Some(true));
        table.row([
            queue.name.clone(),
            number(stats.ready),
            number(stats.delayed),
            number(stats.leased),
            if queue.dead_letter_of.is_empty() {
                number(stats.dead)
            } else {
                "-".to_owned()
            },
            maybe_age(stats.oldest_ready_age.as_ref()),
            format!("{:.0}", stats.publish_rate),
            format!("{:.0}", stats.ack_rate),
            stats.consumers.len().to_string(),
            if paused {
                "paused".to_owned()
            } else {
                String::new()
            },
        ]);
    }
    output.table(&table)
}

/// A queue with everything that is known of it.
pub(super) fn print_queue(output: &mut Output, queue: &wire::Queue) -> io::Result<()> {
    if output.format != Format::Table {
        return output.message(queue);
    }
    let stats = queue.stats.clone().unwrap_or_default();
    let mut facts = vec![("queue", queue.name.clone())];
    if queue.dead_letter_of.is_empty() {
        facts.push(("dead letters", or_none(&queue.dead_letter_queue)));
    } else {
        facts.push(("dead letters of", queue.dead_letter_of.clone()));
    }
    facts.extend(option_facts(queue.options.clone().unwrap_or_default()));
    facts.extend(stats_facts(&stats));
    output.table(&Table::facts(facts))?;
    if stats.consumers.is_empty() {
        return Ok(());
    }
    output.line("")?;
    let mut table = Table::new(&["CONSUMER", ">LEASED", ">BYTES", ">CREDIT"]);
    for consumer in &stats.consumers {
        table.row([
            or_none(&consumer.consumer),
            number(consumer.leased),
            size(consumer.leased_bytes),
            number(consumer.max_messages.into()),
        ]);
    }
    output.table(&table)
}

fn option_facts(options: wire::QueueOptions) -> Vec<(&'static str, String)> {
    let durability = options.durability();
    let patterns: Vec<_> = options
        .bindings
        .into_iter()
        .map(|binding| binding.pattern)
        .collect();
    let attempts = match options.max_attempts {
        Some(0) => "no limit".to_owned(),
        attempts => attempts.unwrap_or_default().to_string(),
    };
    let backoff = options.backoff.unwrap_or_default();
    let backoff = format!(
        "{} up to {}",
        maybe_age(backoff.initial.as_ref()),
        maybe_age(backoff.max.as_ref())
    );
    vec![
        ("bindings", or_none(&patterns.join("  "))),
        ("lease", maybe_age(options.lease.as_ref())),
        ("max attempts", attempts),
        ("backoff", backoff),
        (
            "durability",
            durability
                .as_str_name()
                .trim_start_matches("DURABILITY_")
                .to_lowercase(),
        ),
        (
            "paused",
            if options.paused == Some(true) {
                "yes"
            } else {
                "no"
            }
            .to_owned(),
        ),
    ]
}

fn stats_facts(stats: &wire::QueueStats) -> Vec<(&'static str, String)> {
    let with_age = |count: u64, oldest: Option<&prost_types::Duration>| match oldest {
        Some(oldest) => format!(
            "{}, the oldest for {}",
            number(count),
            age(from_wire_duration(oldest))
        ),
        None => number(count),
    };
    vec![
        (
            "ready",
            with_age(stats.ready, stats.oldest_ready_age.as_ref()),
        ),
        ("delayed", number(stats.delayed)),
        (
            "leased",
            with_age(stats.leased, stats.oldest_leased_age.as_ref()),
        ),
        ("dead", number(stats.dead)),
        ("bytes", size(stats.bytes)),
        (
            "published",
            format!(
                "{} ({:.0}/s)",
                number(stats.published_total),
                stats.publish_rate
            ),
        ),
        ("delivered", number(stats.delivered_total)),
        (
            "acked",
            format!("{} ({:.0}/s)", number(stats.acked_total), stats.ack_rate),
        ),
        ("nacked", number(stats.nacked_total)),
        ("expired", number(stats.expired_total)),
        ("disconnected", number(stats.disconnected_total)),
        ("time in queue", latency(stats.time_in_queue.as_ref())),
        ("processing", latency(stats.processing_time.as_ref())),
        ("end to end", latency(stats.end_to_end_time.as_ref())),
    ]
}

fn latency(latency: Option<&wire::Latency>) -> String {
    let Some(latency) = latency.filter(|latency| latency.count > 0) else {
        return "-".to_owned();
    };
    let show = |percentile: &Option<prost_types::Duration>| {
        let duration = percentile
            .as_ref()
            .map(from_wire_duration)
            .unwrap_or_default();
        if duration < Duration::from_secs(1) {
            format!("{:.2}ms", duration.as_secs_f64() * 1_000.0)
        } else {
            age(duration)
        }
    };
    format!(
        "p50 {}  p95 {}  p99 {}",
        show(&latency.p50),
        show(&latency.p95),
        show(&latency.p99)
    )
}

/// Entries as `peek` shows them.
pub(in crate::cli) fn print_entries(
    output: &mut Output,
    entries: &[wire::Entry],
) -> io::Result<()> {
    if output.format != Format::Table {
        return output.list("entries", entries);
    }
    if entries.is_empty() {
        return output.line("nothing there");
    }
    let mut table = Table::new(&[
        ">ENTRY",
        "STATE",
        ">FAILURES",
        "TOPIC",
        "MESSAGE",
        ">BYTES",
        "PAYLOAD",
        "CONSUMER",
    ]);
    for entry in entries {
        let message = entry.message.clone().unwrap_or_default();
        table.row([
            entry.entry_id.to_string(),
            entry
                .state()
                .as_str_name()
                .trim_start_matches("ENTRY_STATE_")
                .to_lowercase(),
            entry.failures.to_string(),
            message.topic,
            message.id,
            size(entry.payload_bytes),
            payload(&message.payload),
            entry.consumer.clone(),
        ]);
    }
    output.table(&table)
}

pub(super) fn print_deleted(
    output: &mut Output,
    name: &str,
    deleted: &wire::DeleteQueueResponse,
) -> io::Result<()> {
    if output.format != Format::Table {
        return output.message(deleted);
    }
    let gone = match (deleted.entries, deleted.dead_letters) {
        (0, 0) => "it was empty".to_owned(),
        (some, 0) => format!("{} went with it", entries(some)),
        (some, dead) => format!(
            "{} and {} went with it",
            entries(some),
            count(dead, "dead letter", "dead letters")
        ),
    };
    output.line(&format!("deleted queue {name}: {gone}"))
}

fn entries(number: u64) -> String {
    count(number, "entry", "entries")
}

pub(in crate::cli) fn print_purged(output: &mut Output, purged: u64) -> io::Result<()> {
    match output.format {
        Format::Table => output.line(&format!("removed {}", entries(purged))),
        Format::Json | Format::Ndjson => output.json(&serde_json::json!({ "purged": purged })),
    }
}

fn maybe_age(duration: Option<&prost_types::Duration>) -> String {
    duration.map_or_else(
        || "-".to_owned(),
        |duration| age(from_wire_duration(duration)),
    )
}

fn or_none(text: &str) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        text.to_owned()
    }
}

/// The beginning of a payload; one that is no text says so.
fn payload(bytes: &[u8]) -> String {
    match utf8_or_base64(bytes) {
        ("", text) => preview(&text),
        (_, base64) => format!("base64: {}", preview(&base64)),
    }
}

/// The beginning of a text, in one line.
pub(in crate::cli) fn preview(text: &str) -> String {
    let mut preview: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(PREVIEW_CHARS)
        .collect();
    if text.chars().nth(PREVIEW_CHARS).is_some() {
        preview.push('…');
    }
    preview
}
