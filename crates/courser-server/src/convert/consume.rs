//! How queues are consumed: opening, deliveries, settling.

use std::time::Duration;

use courser_core::{
    error::LeaseError,
    id::LeaseId,
    limits::{
        BACKOFF_MAX, CONSUMER_NAME_BYTES_MAX, CREDIT_BYTES_DEFAULT, CREDIT_BYTES_MAX,
        CREDIT_MESSAGES_DEFAULT, CREDIT_MESSAGES_MAX, ERROR_BYTES_KEPT, LEASE_MAX, LEASE_MIN,
        REASON_BYTES_MAX, SETTLE_LEASES_MAX,
    },
    message::Message,
    record::{DeadLetter, Note},
};
use courser_engine::request::{DeadLetterReason, Nack, Open, Settled, Settlement, Verdict};
use courser_proto::v1;

use super::{
    Checked, InvalidField, count_at_most, cut, duration_within, number_or, queue_name_from_proto,
    text_at_most, timestamp_to_proto, too_long,
};
use crate::limits;

const LEASE_RANGE: (Duration, Duration) = (LEASE_MIN, LEASE_MAX);

pub(crate) fn open_from_proto(open: v1::Open) -> Checked<Open> {
    Ok(Open {
        queue: queue_name_from_proto("queue", open.queue)?,
        consumer: text_at_most("consumer", open.consumer, CONSUMER_NAME_BYTES_MAX)?,
        max_messages: number_or(
            "max_messages",
            open.max_messages,
            CREDIT_MESSAGES_MAX,
            CREDIT_MESSAGES_DEFAULT,
        )?,
        max_bytes: number_or(
            "max_bytes",
            open.max_bytes,
            CREDIT_BYTES_MAX,
            CREDIT_BYTES_DEFAULT,
        )?,
        lease: lease_from_proto(open.lease)?,
        auto_ack: open.auto_ack,
        limit: (open.limit > 0).then_some(open.limit),
    })
}

/// What to pull, and how long to wait for it.
pub(crate) fn pull_from_proto(pull: v1::PullRequest) -> Checked<(Open, Duration)> {
    let (max, default) = (limits::PULL_MESSAGES_MAX, limits::PULL_MESSAGES_DEFAULT);
    let bytes_max = limits::PULL_BYTES_MAX;
    let wait = pull.wait.map(|wait| {
        duration_within(
            "wait",
            wait,
            (Duration::ZERO, limits::PULL_WAIT_MAX),
            "0s to 60s",
        )
    });
    let open = Open {
        queue: queue_name_from_proto("queue", pull.queue)?,
        consumer: text_at_most("consumer", pull.consumer, CONSUMER_NAME_BYTES_MAX)?,
        max_messages: number_or("max_messages", pull.max_messages, max, default)?,
        max_bytes: number_or("max_bytes", pull.max_bytes, bytes_max, bytes_max)?,
        lease: lease_from_proto(pull.lease)?,
        auto_ack: pull.auto_ack,
        limit: None,
    };
    Ok((open, wait.transpose()?.unwrap_or_default()))
}

fn lease_from_proto(lease: Option<prost_types::Duration>) -> Checked<Option<Duration>> {
    lease
        .map(|lease| duration_within("lease", lease, LEASE_RANGE, "1s to 12h"))
        .transpose()
}

/// A settlement that cannot be done with any lease, and the sentence why.
pub(crate) type InvalidSettlement = (LeaseId, Box<str>);

/// Settlements, acks first, and those with a field outside its limits, which are refused lease by
/// lease. A lease id may stand in them once.
pub(crate) fn settlements_from_proto(
    settle: v1::Settle,
) -> Checked<(Vec<Settlement>, Vec<InvalidSettlement>)> {
    let count = settle.ack.len()
        + settle.nack.len()
        + settle.release.len()
        + settle.dead_letter.len()
        + settle.extend.len();
    count_at_most("settle", count, SETTLE_LEASES_MAX, "lease ids")?;
    let mut settlements = Vec::with_capacity(count);
    let mut invalid = Vec::new();
    let mut add = |lease_id, verdict: Checked<Verdict>| {
        let lease_id = LeaseId(lease_id);
        match verdict {
            Ok(verdict) => settlements.push(Settlement { lease_id, verdict }),
            Err(error) => invalid.push((lease_id, error.to_string().into_boxed_str())),
        }
    };
    for lease_id in settle.ack {
        add(lease_id, Ok(Verdict::Ack));
    }
    for (index, nack) in settle.nack.into_iter().enumerate() {
        add(nack.lease_id, nack_from_proto(index, nack));
    }
    for lease_id in settle.release {
        add(lease_id, Ok(Verdict::Release));
    }
    for (index, reject) in settle.dead_letter.into_iter().enumerate() {
        add(reject.lease_id, reject_from_proto(index, reject));
    }
    for (index, extend) in settle.extend.into_iter().enumerate() {
        add(extend.lease_id, extend_from_proto(index, extend));
    }
    check_distinct(&settlements, &invalid)?;
    Ok((settlements, invalid))
}

fn nack_from_proto(index: usize, nack: v1::Nack) -> Checked<Verdict> {
    let retry_after = nack.retry_after.map(|wait| {
        let field = format!("settle.nack[{index}].retry_after");
        duration_within(&field, wait, (Duration::ZERO, BACKOFF_MAX), "0s to 24h")
    });
    Ok(Verdict::Nack(Box::new(Nack {
        retry_after: retry_after.transpose()?,
        error: cut(nack.error, ERROR_BYTES_KEPT),
    })))
}

fn reject_from_proto(index: usize, reject: v1::Reject) -> Checked<Verdict> {
    let field = || format!("settle.dead_letter[{index}].reason");
    if reject.reason.is_empty() {
        return Err(InvalidField::new(field(), "must not be empty"));
    }
    if reject.reason.len() > REASON_BYTES_MAX {
        return Err(too_long(&field(), reject.reason.len(), REASON_BYTES_MAX));
    }
    Ok(Verdict::DeadLetter(Box::new(DeadLetterReason {
        reason: reject.reason.into_boxed_str(),
        description: cut(reject.description, ERROR_BYTES_KEPT),
    })))
}

fn extend_from_proto(index: usize, extend: v1::Extend) -> Checked<Verdict> {
    let field = format!("settle.extend[{index}].by");
    let Some(by) = extend.by else {
        return Err(InvalidField::new(field, "must be set: from 1s to 12h"));
    };
    Ok(Verdict::Extend(duration_within(
        &field,
        by,
        LEASE_RANGE,
        "1s to 12h",
    )?))
}

/// Consumers mostly ack in order, so most of the time one look at each is enough.
fn check_distinct(settlements: &[Settlement], invalid: &[InvalidSettlement]) -> Checked<()> {
    if invalid.is_empty() && settlements.is_sorted_by(|a, b| a.lease_id < b.lease_id) {
        return Ok(());
    }
    let settlements = settlements.iter().map(|settlement| settlement.lease_id);
    let invalid = invalid.iter().map(|(lease_id, _)| *lease_id);
    let mut lease_ids: Vec<LeaseId> = settlements.chain(invalid).collect();
    lease_ids.sort_unstable();
    match lease_ids.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(()),
        Some(pair) => Err(InvalidField::new(
            "settle",
            format_args!("must name a lease once, names {} more than once", pair[0]),
        )),
    }
}

pub(crate) fn settled_to_proto(settled: &Settled, invalid: &[InvalidSettlement]) -> v1::Settled {
    v1::Settled {
        ok: settled.ok.iter().map(|lease_id| lease_id.0).collect(),
        refused: refused_to_proto(settled, invalid),
    }
}

/// Those that the engine refused, and those that it never saw.
pub(crate) fn refused_to_proto(
    settled: &Settled,
    invalid: &[InvalidSettlement],
) -> Vec<v1::SettleRefusal> {
    let refused = settled.refused.iter().map(|(lease_id, error)| {
        let outcome = match error {
            LeaseError::Expired => v1::SettleOutcome::Expired,
            LeaseError::Unknown => v1::SettleOutcome::Unknown,
            LeaseError::TooLong { .. } | LeaseError::NoDeadLetterQueue => {
                v1::SettleOutcome::Refused
            }
        };
        refusal_to_proto(*lease_id, outcome, error.to_string())
    });
    let invalid = invalid.iter().map(|(lease_id, sentence)| {
        refusal_to_proto(*lease_id, v1::SettleOutcome::Refused, sentence.to_string())
    });
    refused.chain(invalid).collect()
}

fn refusal_to_proto(
    lease_id: LeaseId,
    outcome: v1::SettleOutcome,
    message: String,
) -> v1::SettleRefusal {
    v1::SettleRefusal {
        lease_id: lease_id.0,
        outcome: outcome.into(),
        message,
    }
}

pub(crate) fn message_to_proto(message: &Message) -> v1::Message {
    let attributes = message.attributes.as_deref().cloned().unwrap_or_default();
    v1::Message {
        id: message.id.to_string(),
        topic: message.topic.to_string(),
        payload: message.payload.clone(),
        headers: message.headers.iter().cloned().collect(),
        content_type: attributes.content_type,
        r#type: attributes.kind,
        source: attributes.source,
        schema_version: attributes.schema_version,
        correlation_id: attributes.correlation_id,
        causation_id: attributes.causation_id,
        traceparent: attributes.traceparent,
        position: message.position.0,
        published_at: Some(timestamp_to_proto(message.published_at)),
    }
}

pub(crate) fn dead_letter_to_proto(note: Option<&Note>) -> Option<v1::DeadLetter> {
    let DeadLetter {
        reason,
        description,
        queue,
        at,
    } = note?.dead_letter.as_ref()?;
    Some(v1::DeadLetter {
        reason: reason.to_string(),
        description: description.to_string(),
        queue: queue.to_string(),
        dead_lettered_at: Some(timestamp_to_proto(*at)),
    })
}
