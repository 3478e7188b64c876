//! Entries of queues, as they are peeked at and redriven.

use courser_core::{
    id::Seq,
    limits::{PEEK_ENTRIES_MAX, REASON_BYTES_MAX},
    record::{Attempt, AttemptOutcome},
    stats::{EntryState, StateFilter},
    time::Timestamp,
};
use courser_engine::request::{Peek, Peeked, Redrive};
use courser_proto::v1;

use super::{
    Checked, count_at_most, dead_letter_to_proto, message_to_proto, number_or,
    queue_name_from_proto, text_at_most, timestamp_to_proto, unknown_value,
};
use crate::limits;

/// Which queue to peek into, and at what.
pub(crate) fn peek_from_proto(peek: v1::PeekEntriesRequest) -> Checked<(String, Peek)> {
    let state = match v1::EntryState::try_from(peek.state) {
        Ok(v1::EntryState::Unspecified) => StateFilter::Any,
        Ok(v1::EntryState::Ready) => StateFilter::Ready,
        Ok(v1::EntryState::Delayed) => StateFilter::Delayed,
        Ok(v1::EntryState::Leased) => StateFilter::Leased,
        Err(_) => return Err(unknown_value("state", "EntryState", peek.state)),
    };
    #[expect(clippy::cast_possible_truncation, reason = "it is 1,000")]
    let max = PEEK_ENTRIES_MAX as u32;
    let limit = number_or("limit", peek.limit, max, limits::PEEK_ENTRIES_DEFAULT)? as usize;
    let queue = queue_name_from_proto("queue", peek.queue)?;
    Ok((
        queue,
        Peek {
            state,
            after: Seq(peek.after_entry_id),
            limit,
        },
    ))
}

/// The entries that were still there when their messages were read.
pub(crate) fn peeked_to_proto(peeked: &[Peeked], without_payload: bool) -> Vec<v1::Entry> {
    peeked
        .iter()
        .filter_map(|peeked| entry_to_proto(peeked, without_payload))
        .collect()
}

fn entry_to_proto(peeked: &Peeked, without_payload: bool) -> Option<v1::Entry> {
    let Peeked { view, message } = peeked;
    let mut message = message_to_proto(message.as_deref()?);
    let payload_bytes = message.payload.len() as u64;
    if without_payload {
        message.payload.clear();
    }
    let (state, ready_at, consumer, lease_until) = state_to_proto(&view.state);
    let note = view.note.as_deref();
    Some(v1::Entry {
        entry_id: view.entry.seq.0,
        state: state.into(),
        failures: view.entry.failures,
        enqueued_at: Some(timestamp_to_proto(view.entry.enqueued_at)),
        ready_at: ready_at.map(timestamp_to_proto),
        consumer,
        lease_until: lease_until.map(timestamp_to_proto),
        message: Some(message),
        payload_bytes,
        attempts: note
            .map_or(&[][..], |note| &note.attempts)
            .iter()
            .map(attempt_to_proto)
            .collect(),
        dead_letter: dead_letter_to_proto(note),
        redrives: note.map_or(0, |note| note.redrives),
    })
}

/// The state, when a delayed entry is ready, and who holds a leased one until when.
fn state_to_proto(
    state: &EntryState,
) -> (v1::EntryState, Option<Timestamp>, String, Option<Timestamp>) {
    match state {
        EntryState::Ready => (v1::EntryState::Ready, None, String::new(), None),
        EntryState::Delayed(ready_at) => (
            v1::EntryState::Delayed,
            Some(*ready_at),
            String::new(),
            None,
        ),
        EntryState::Leased { consumer, until } => (
            v1::EntryState::Leased,
            None,
            consumer.to_string(),
            Some(*until),
        ),
    }
}

fn attempt_to_proto(attempt: &Attempt) -> v1::Attempt {
    let outcome = match attempt.outcome {
        AttemptOutcome::Nacked => v1::AttemptOutcome::Nacked,
        AttemptOutcome::Expired => v1::AttemptOutcome::Expired,
        AttemptOutcome::Disconnected => v1::AttemptOutcome::Disconnected,
        AttemptOutcome::Rejected => v1::AttemptOutcome::Rejected,
    };
    v1::Attempt {
        number: attempt.number,
        consumer: attempt.consumer.to_string(),
        delivered_at: Some(timestamp_to_proto(attempt.delivered_at)),
        ended_at: Some(timestamp_to_proto(attempt.ended_at)),
        outcome: outcome.into(),
        error: attempt.error.to_string(),
    }
}

pub(crate) fn redrive_from_proto(redrive: v1::RedriveEntriesRequest) -> Checked<Redrive> {
    let to = (!redrive.to.is_empty()).then(|| queue_name_from_proto("to", redrive.to));
    let entries = redrive.entry_ids;
    count_at_most(
        "entry_ids",
        entries.len(),
        limits::REDRIVE_ENTRIES_MAX,
        "entries",
    )?;
    let reason = text_at_most("reason", redrive.reason, REASON_BYTES_MAX)?;
    Ok(Redrive {
        queue: queue_name_from_proto("queue", redrive.queue)?,
        to: to.transpose()?,
        limit: (redrive.limit > 0).then_some(redrive.limit),
        entries: entries.into_iter().map(Seq).collect(),
        after: Seq(redrive.after_entry_id),
        reason: (!reason.is_empty()).then_some(reason),
        dry_run: redrive.dry_run,
    })
}
