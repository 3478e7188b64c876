//! Numbers, texts and messages, made of the input of a target.

use std::sync::Arc;

use courser_core::{
    id::{Position, Seq},
    message::{Attributes, Message, MessageId},
    record::{Attempt, AttemptOutcome, DeadLetter, Note},
    time::Timestamp,
};
use courser_store::offline::Saved;
use uuid::Uuid;

use crate::Input;

/// The largest payload that a broker takes unless it is told otherwise.
pub const PAYLOAD_BYTES_MAX: usize = courser_core::limits::PAYLOAD_BYTES_DEFAULT;

/// As many as the input says.
pub fn several<T>(input: &mut Input<'_>, one: impl Fn(&mut Input<'_>) -> T) -> Vec<T> {
    let mut all = Vec::new();
    while !input.is_empty() && all.len() < 300 && !input.byte().is_multiple_of(5) {
        all.push(one(input));
    }
    all
}

/// A number. Mostly small, for the length of a number is what matters.
pub fn number(input: &mut Input<'_>) -> u64 {
    let shift = u32::from(input.byte() % 65);
    input.long().checked_shr(shift).unwrap_or(0)
}

/// A short text.
pub fn text(input: &mut Input<'_>) -> String {
    let length = number(input) % 200;
    String::from_utf8_lossy(input.take(length as usize)).into_owned()
}

/// A moment.
pub fn time(input: &mut Input<'_>) -> Timestamp {
    Timestamp::from_micros(number(input))
}

/// The name of a message.
pub fn id(input: &mut Input<'_>) -> MessageId {
    if input.byte().is_multiple_of(2) {
        MessageId::Uuid(Uuid::from_u64_pair(number(input), number(input)))
    } else {
        MessageId::Given(text(input).into())
    }
}

/// A message, which may be beyond some limits.
pub fn message(input: &mut Input<'_>) -> Message {
    let what = input.byte();
    let attributes = (what & 1 != 0).then(|| {
        Box::new(Attributes {
            content_type: text(input),
            kind: text(input),
            source: text(input),
            schema_version: text(input),
            correlation_id: text(input),
            causation_id: text(input),
            traceparent: text(input),
        })
    });
    let mut headers = Vec::new();
    if what & 2 != 0 {
        headers = several(input, |input| (text(input), text(input)));
        // Their keys are distinct, and there are not too many.
        headers.sort();
        headers.dedup_by(|one, other| one.0 == other.0);
    }
    Message {
        position: Position(number(input)),
        published_at: time(input),
        id: id(input),
        topic: text(input).into(),
        payload: text(input).into_bytes().into(),
        headers,
        attributes,
    }
}

/// Why an entry is dead.
pub fn dead_letter(input: &mut Input<'_>) -> DeadLetter {
    DeadLetter {
        reason: text(input).into(),
        description: text(input).into(),
        queue: text(input).into(),
        at: time(input),
    }
}

/// What a salvage finds.
pub fn saved(input: &mut Input<'_>) -> Saved {
    let what = input.byte();
    let length = usize::from(input.byte());
    let payload = input.take(length).to_vec().into();
    let made = message(input);
    let mut message = Message { payload, ..made };
    // As many headers as there may be, which are too many for an input.
    if what & 1 != 0 {
        let keys = (0..100).map(|number| (format!("key {number:02}"), String::new()));
        message.headers = keys.collect();
    }
    if what & 2 != 0 {
        message.topic = "a.topic".into();
    }
    let note = (what & 4 != 0).then(|| Note {
        attempts: several(input, attempt),
        dead_letter: (what & 8 != 0).then(|| dead_letter(input)),
        redrives: 0,
    });
    Saved {
        queue: match what >> 4 {
            0..4 => None,
            4..8 => Some("a.queue".to_owned()),
            8..10 => Some(message.topic.to_string()),
            _ => Some(text(input)),
        },
        seq: Seq(number(input)),
        failures: number(input) as u32,
        note: note.map(Arc::new),
        certain: what & 8 != 0,
        message,
    }
}

fn attempt(input: &mut Input<'_>) -> Attempt {
    let outcomes = [
        AttemptOutcome::Nacked,
        AttemptOutcome::Expired,
        AttemptOutcome::Disconnected,
        AttemptOutcome::Rejected,
    ];
    Attempt {
        number: number(input) as u32,
        consumer: text(input).into(),
        delivered_at: time(input),
        ended_at: time(input),
        outcome: outcomes[usize::from(input.byte() % 4)],
        error: text(input).into(),
    }
}
