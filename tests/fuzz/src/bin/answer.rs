//! Answers that the broker writes by hand: prost reads of them what they should say, they are as long as
//! they said, and no byte more than prost would have written.
#![no_main]

use std::{sync::Arc, time::Duration};

use courser_core::{
    error::{LeaseError, PublishError},
    id::{LeaseId, Position},
    message::{Attributes, Message, MessageId},
    record::{DeadLetter, Note},
    time::Timestamp,
};
use courser_engine::request::{Confirm, Delivery, Published, Settled};
use courser_fuzz::Input;
use courser_server::fuzz::{self as server, Written};
use libfuzzer_sys::fuzz_target;
use uuid::Uuid;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    match input.byte() % 4 {
        0 => {
            let (written, expected) = server::write_pulled(several(&mut input, delivery));
            check(&written, &expected);
        }
        1 => {
            let (written, expected) = server::write_deliveries(several(&mut input, delivery));
            check(&written, &expected);
        }
        2 => {
            let settled = Settled {
                ok: several(&mut input, |input| LeaseId(number(input))),
                refused: several(&mut input, |input| {
                    (LeaseId(number(input)), lease_error(input))
                }),
            };
            let invalid = several(&mut input, |input| {
                (LeaseId(number(input)), text(input).into())
            });
            let (written, expected) = server::write_settled(settled, invalid);
            check(&written, &expected);
        }
        _ => {
            let (written, expected) = server::write_confirms(several(&mut input, confirm));
            check(&written, &expected);
        }
    }
});

#[track_caller]
fn check<M: prost::Message + Default + PartialEq + std::fmt::Debug>(
    written: &Written,
    expected: &M,
) {
    assert_eq!(written.bytes.len(), written.measured);
    let read = M::decode(&*written.bytes);
    assert_eq!(read.as_ref(), Ok(expected));
    assert_eq!(written.bytes.len(), expected.encoded_len());
}

fn several<T>(input: &mut Input<'_>, one: impl Fn(&mut Input<'_>) -> T) -> Vec<T> {
    let mut all = Vec::new();
    while !input.is_empty() && all.len() < 300 && !input.byte().is_multiple_of(5) {
        all.push(one(input));
    }
    all
}

/// Mostly small, for the length of a number is what matters.
fn number(input: &mut Input<'_>) -> u64 {
    let shift = u32::from(input.byte() % 65);
    input.long().checked_shr(shift).unwrap_or(0)
}

fn text(input: &mut Input<'_>) -> String {
    let length = number(input) % 200;
    String::from_utf8_lossy(input.take(length as usize)).into_owned()
}

fn time(input: &mut Input<'_>) -> Timestamp {
    Timestamp::from_micros(number(input))
}

fn id(input: &mut Input<'_>) -> MessageId {
    if input.byte().is_multiple_of(2) {
        MessageId::Uuid(Uuid::from_u64_pair(number(input), number(input)))
    } else {
        MessageId::Given(text(input).into())
    }
}

fn message(input: &mut Input<'_>) -> Message {
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

fn delivery(input: &mut Input<'_>) -> Delivery {
    let what = input.byte();
    let dead_letter = (what & 1 != 0).then(|| DeadLetter {
        reason: text(input).into(),
        description: text(input).into(),
        queue: text(input).into(),
        at: time(input),
    });
    let note = Note {
        attempts: Vec::new(),
        dead_letter,
        redrives: 0,
    };
    Delivery {
        lease_id: LeaseId(number(input)),
        attempt: number(input) as u32,
        lease_until: time(input),
        message: Arc::new(message(input)),
        note: (what & 2 != 0).then(|| Arc::new(note)),
    }
}

fn lease_error(input: &mut Input<'_>) -> LeaseError {
    match input.byte() % 4 {
        0 => LeaseError::Expired,
        1 => LeaseError::Unknown,
        2 => LeaseError::TooLong {
            left: Duration::from_micros(number(input)),
        },
        _ => LeaseError::NoDeadLetterQueue,
    }
}

fn confirm(input: &mut Input<'_>) -> Confirm {
    let number_of = number(input);
    let result = match input.byte() % 4 {
        0 => Err(PublishError::Unroutable {
            index: number(input) as usize,
            topic: text(input),
        }),
        1 => Err(PublishError::Invalid {
            reason: text(input),
        }),
        _ => Ok(several(input, |input| Published {
            position: Position(number(input)),
            id: id(input),
            queues: number(input) as u32,
        })),
    };
    Confirm {
        number: number_of,
        result,
    }
}
