//! Answers that the broker writes by hand: prost reads of them what they should say, they are as long as
//! they said, and no byte more than prost would have written.
#![no_main]

use std::{sync::Arc, time::Duration};

use courser_core::{
    error::{LeaseError, PublishError},
    id::{LeaseId, Position},
    record::Note,
};
use courser_engine::request::{Confirm, Delivery, Published, Settled};
use courser_fuzz::{
    Input,
    made::{dead_letter, id, message, number, several, text, time},
};
use courser_server::fuzz::{self as server, Written};
use libfuzzer_sys::fuzz_target;

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

fn delivery(input: &mut Input<'_>) -> Delivery {
    let what = input.byte();
    let dead_letter = (what & 1 != 0).then(|| dead_letter(input));
    let note = Note {
        attempts: Vec::new(),
        dead_letter,
        redrives: 0,
    };
    Delivery {
        lease_id: LeaseId(number(input)),
        attempt: number(input) as u32,
        lease_until: time(input),
        message: message(input).into(),
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
