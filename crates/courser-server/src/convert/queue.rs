//! Queues: their options, how these change, and what is seen of them.

use courser_core::{
    histogram::Histogram,
    limits::NAME_BYTES_MAX,
    name::{DEAD_LETTER_SUFFIX, Pattern},
    options::{Backoff, QueueOptions},
    stats::{ConsumerView, QueueView},
};
use courser_engine::request::Info;
use courser_proto::v1;

use super::{
    Checked, InvalidField, count_at_most, durability_from_proto, durability_to_proto,
    duration_from_proto, duration_to_proto, number_or, queue_name_from_proto, text_at_most,
    timestamp_to_proto,
};
use crate::{ServerOptions, limits};

/// Bytes of the name of a queue, a dead-letter queue's included.
const QUEUE_NAME_BYTES_MAX: usize = NAME_BYTES_MAX + DEAD_LETTER_SUFFIX.len();

/// Options with defaults for what is left out. Ranges are checked apart, for an update checks them
/// together with what is there.
pub(crate) fn queue_options_from_proto(options: &v1::QueueOptions) -> Checked<QueueOptions> {
    let default = QueueOptions::default();
    let dead_letter = options
        .dead_letter
        .and_then(|dead_letter| dead_letter.enabled);
    let lease = options
        .lease
        .map(|lease| duration_from_proto("options.lease", lease));
    Ok(QueueOptions {
        bindings: bindings_from_proto(&options.bindings)?,
        lease: lease.transpose()?.unwrap_or(default.lease),
        max_attempts: options.max_attempts.unwrap_or(default.max_attempts),
        backoff: backoff_from_proto(options.backoff.unwrap_or_default())?,
        dead_letter: dead_letter.unwrap_or(default.dead_letter),
        durability: durability_from_proto("options.durability", options.durability)?,
        paused: options.paused.unwrap_or(default.paused),
    })
}

/// The options of a new queue, all within their limits.
pub(crate) fn new_queue_options_from_proto(
    options: Option<v1::QueueOptions>,
) -> Checked<QueueOptions> {
    let options = queue_options_from_proto(&options.unwrap_or_default())?;
    options
        .check()
        .map_err(|error| InvalidField::new(error.field, error.allowed))?;
    Ok(options)
}

fn bindings_from_proto(bindings: &[v1::Binding]) -> Checked<Vec<Pattern>> {
    let mut patterns = Vec::with_capacity(bindings.len());
    for (index, binding) in bindings.iter().enumerate() {
        let pattern = Pattern::new(&binding.pattern).map_err(|error| {
            InvalidField::new(format!("options.bindings[{index}].pattern"), error)
        })?;
        patterns.push(pattern);
    }
    patterns.sort_unstable();
    patterns.dedup();
    Ok(patterns)
}

fn backoff_from_proto(backoff: v1::Backoff) -> Checked<Backoff> {
    let default = Backoff::default();
    let initial = backoff
        .initial
        .map(|d| duration_from_proto("options.backoff.initial", d));
    let max = backoff
        .max
        .map(|d| duration_from_proto("options.backoff.max", d));
    Ok(Backoff {
        initial: initial.transpose()?.unwrap_or(default.initial),
        max: max.transpose()?.unwrap_or(default.max),
        multiplier: if backoff.multiplier == 0.0 {
            default.multiplier
        } else {
            backoff.multiplier
        },
        jitter: backoff.jitter.unwrap_or(default.jitter),
    })
}

/// An option that an update mask can name.
#[derive(Clone, Copy, Debug)]
enum OptionPath {
    Bindings,
    Lease,
    MaxAttempts,
    Backoff,
    BackoffInitial,
    BackoffMax,
    BackoffMultiplier,
    BackoffJitter,
    DeadLetter,
    Durability,
    Paused,
}

impl OptionPath {
    fn named(path: &str) -> Option<Self> {
        Some(match path {
            "bindings" => Self::Bindings,
            "lease" => Self::Lease,
            "max_attempts" => Self::MaxAttempts,
            "backoff" => Self::Backoff,
            "backoff.initial" => Self::BackoffInitial,
            "backoff.max" => Self::BackoffMax,
            "backoff.multiplier" => Self::BackoffMultiplier,
            "backoff.jitter" => Self::BackoffJitter,
            "dead_letter" | "dead_letter.enabled" => Self::DeadLetter,
            "durability" => Self::Durability,
            "paused" => Self::Paused,
            _ => return None,
        })
    }

    fn copy(self, from: &QueueOptions, to: &mut QueueOptions) {
        match self {
            Self::Bindings => to.bindings.clone_from(&from.bindings),
            Self::Lease => to.lease = from.lease,
            Self::MaxAttempts => to.max_attempts = from.max_attempts,
            Self::Backoff => to.backoff = from.backoff,
            Self::BackoffInitial => to.backoff.initial = from.backoff.initial,
            Self::BackoffMax => to.backoff.max = from.backoff.max,
            Self::BackoffMultiplier => to.backoff.multiplier = from.backoff.multiplier,
            Self::BackoffJitter => to.backoff.jitter = from.backoff.jitter,
            Self::DeadLetter => to.dead_letter = from.dead_letter,
            Self::Durability => to.durability = from.durability,
            Self::Paused => to.paused = from.paused,
        }
    }
}

/// What an update does to the options that are there: those that the mask names are replaced.
pub(crate) fn options_change_from_proto(
    options: Option<v1::QueueOptions>,
    mask: Option<prost_types::FieldMask>,
) -> Checked<impl FnOnce(&mut QueueOptions) + Send + 'static> {
    let mask = mask.unwrap_or_default().paths;
    if mask.is_empty() {
        return Err(InvalidField::new(
            "update_mask",
            "must name at least one option",
        ));
    }
    let mut paths = Vec::with_capacity(mask.len());
    for (index, path) in mask.iter().enumerate() {
        let Some(path) = OptionPath::named(path) else {
            let field = format!("update_mask.paths[{index}]");
            return Err(InvalidField::new(
                field,
                format_args!("names no option: {path:?}"),
            ));
        };
        paths.push(path);
    }
    let given = queue_options_from_proto(&options.unwrap_or_default())?;
    Ok(move |options: &mut QueueOptions| {
        for path in paths {
            path.copy(&given, options);
        }
    })
}

pub(crate) fn queue_to_proto(view: &QueueView) -> v1::Queue {
    let name = |name: &Option<std::sync::Arc<str>>| name.as_deref().unwrap_or_default().to_owned();
    v1::Queue {
        name: view.definition.name.to_string(),
        options: Some(queue_options_to_proto(&view.definition.options)),
        created_at: Some(timestamp_to_proto(view.definition.created_at)),
        dead_letter_of: name(&view.dead_letter_of),
        dead_letter_queue: name(&view.dead_letter_queue),
        stats: Some(queue_stats_to_proto(view)),
    }
}

pub(crate) fn queue_options_to_proto(options: &QueueOptions) -> v1::QueueOptions {
    let bindings = options.bindings.iter();
    v1::QueueOptions {
        bindings: bindings
            .map(|pattern| v1::Binding {
                pattern: pattern.as_str().to_owned(),
            })
            .collect(),
        lease: Some(duration_to_proto(options.lease)),
        max_attempts: Some(options.max_attempts),
        backoff: Some(v1::Backoff {
            initial: Some(duration_to_proto(options.backoff.initial)),
            max: Some(duration_to_proto(options.backoff.max)),
            multiplier: options.backoff.multiplier,
            jitter: Some(options.backoff.jitter),
        }),
        dead_letter: Some(v1::DeadLetterOptions {
            enabled: Some(options.dead_letter),
        }),
        durability: durability_to_proto(options.durability).into(),
        paused: Some(options.paused),
    }
}

fn queue_stats_to_proto(view: &QueueView) -> v1::QueueStats {
    let totals = &view.totals;
    let dead_lettered = totals.dead_lettered.iter();
    v1::QueueStats {
        ready: view.ready,
        delayed: view.delayed,
        leased: view.leased,
        dead: view.dead,
        bytes: view.bytes,
        oldest_ready_age: view.oldest_ready_age.map(duration_to_proto),
        oldest_leased_age: view.oldest_leased_age.map(duration_to_proto),
        published_total: totals.published,
        delivered_total: totals.delivered,
        acked_total: totals.acked,
        nacked_total: totals.nacked,
        released_total: totals.released,
        expired_total: totals.expired,
        disconnected_total: totals.disconnected,
        dead_lettered_total: dead_lettered
            .map(|(reason, n)| (reason.to_string(), *n))
            .collect(),
        purged_total: totals.purged,
        redriven_total: totals.redriven,
        time_in_queue: Some(latency_to_proto(&totals.time_in_queue)),
        processing_time: Some(latency_to_proto(&totals.processing_time)),
        end_to_end_time: Some(latency_to_proto(&totals.end_to_end_time)),
        consumers: view.consumers.iter().map(consumer_to_proto).collect(),
        publish_rate: view.publish_rate,
        ack_rate: view.ack_rate,
    }
}

fn latency_to_proto(times: &Histogram) -> v1::Latency {
    let percentile = |share| times.percentile(share).map(duration_to_proto);
    v1::Latency {
        count: times.count(),
        p50: percentile(0.5),
        p95: percentile(0.95),
        p99: percentile(0.99),
    }
}

fn consumer_to_proto(consumer: &ConsumerView) -> v1::ConsumerStats {
    v1::ConsumerStats {
        consumer: consumer.name.to_string(),
        leased: consumer.leased,
        leased_bytes: consumer.leased_bytes,
        max_messages: consumer.max_messages,
        max_bytes: consumer.max_bytes,
    }
}

/// Which queues to list: those with a prefix, after a name, so many.
pub(crate) fn page_from_proto(
    request: v1::ListQueuesRequest,
) -> Checked<(String, Option<String>, usize)> {
    let max = limits::PAGE_QUEUES_MAX;
    let size = number_or("page_size", request.page_size, max, max)?;
    let prefix = text_at_most("prefix", request.prefix, QUEUE_NAME_BYTES_MAX)?;
    // The token is the last name of the page before: a queue that is deleted in between does no harm.
    let after = text_at_most("page_token", request.page_token, QUEUE_NAME_BYTES_MAX)?;
    Ok((prefix, (!after.is_empty()).then_some(after), size as usize))
}

/// The names of the queues to watch; none is all.
pub(crate) fn watched_from_proto(request: v1::WatchStatsRequest) -> Checked<Vec<String>> {
    count_at_most(
        "queues",
        request.queues.len(),
        limits::WATCH_QUEUES_MAX,
        "names",
    )?;
    let named = request.queues.into_iter().enumerate();
    named
        .map(|(index, name)| queue_name_from_proto(&format!("queues[{index}]"), name))
        .collect()
}

pub(crate) fn server_info_to_proto(
    info: &Info,
    options: &ServerOptions,
) -> v1::GetServerInfoResponse {
    v1::GetServerInfoResponse {
        version: options.version.to_owned(),
        started_at: Some(timestamp_to_proto(info.started_at)),
        queues: info.queues as u64,
        last_position: info.last_position.0,
        log_bytes: info.usage.log_bytes,
        index_bytes: info.usage.index_bytes,
        store_failure: info.failure.clone().unwrap_or_default(),
        max_message_bytes: options.max_message_bytes as u64,
        uptime: Some(duration_to_proto(info.now.since(info.started_at))),
    }
}
