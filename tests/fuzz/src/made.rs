//! Numbers, texts and messages, made of the input of a target.

use courser_core::{
    id::Position,
    message::{Attributes, Message, MessageId},
    record::DeadLetter,
    time::Timestamp,
};
use uuid::Uuid;

use crate::Input;

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
