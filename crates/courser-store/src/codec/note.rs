//! Notes, attempts and dead letters.

use std::sync::Arc;

use courser_core::{
    limits::ATTEMPTS_KEPT,
    record::{Attempt, AttemptOutcome, DeadLetter, Note},
};

use super::{Malformed, Reader, put_bytes, put_varint};

pub(crate) fn put_note(out: &mut Vec<u8>, note: &Note) {
    put_varint(out, u64::from(note.redrives));
    put_varint(out, note.attempts.len() as u64);
    for attempt in &note.attempts {
        put_attempt(out, attempt);
    }
    out.push(u8::from(note.dead_letter.is_some()));
    if let Some(DeadLetter {
        reason,
        description,
        queue,
        at,
    }) = &note.dead_letter
    {
        put_bytes(out, reason.as_bytes());
        put_bytes(out, description.as_bytes());
        put_bytes(out, queue.as_bytes());
        put_varint(out, at.as_micros());
    }
}

pub(crate) fn take_note(reader: &mut Reader<'_>) -> Result<Note, Malformed> {
    let redrives = reader.number()?;
    let count = reader.count()?;
    let mut attempts: Vec<Attempt> = Vec::with_capacity(count.min(ATTEMPTS_KEPT));
    for _ in 0..count {
        let mut attempt = take_attempt(reader)?;
        // Retries mostly come from one consumer: one name in memory for all.
        if let Some(before) = attempts
            .last()
            .filter(|before| before.consumer == attempt.consumer)
        {
            attempt.consumer = Arc::clone(&before.consumer);
        }
        attempts.push(attempt);
    }
    let dead_letter = if reader.bool()? {
        Some(DeadLetter {
            reason: reader.boxed_text()?,
            description: reader.boxed_text()?,
            queue: reader.shared_text()?,
            at: reader.timestamp()?,
        })
    } else {
        None
    };
    Ok(Note {
        attempts,
        dead_letter,
        redrives,
    })
}

pub(crate) fn put_attempt(out: &mut Vec<u8>, attempt: &Attempt) {
    put_varint(out, u64::from(attempt.number));
    put_bytes(out, attempt.consumer.as_bytes());
    put_varint(out, attempt.delivered_at.as_micros());
    put_varint(out, attempt.ended_at.as_micros());
    out.push(match attempt.outcome {
        AttemptOutcome::Nacked => 1,
        AttemptOutcome::Expired => 2,
        AttemptOutcome::Disconnected => 3,
        AttemptOutcome::Rejected => 4,
    });
    put_bytes(out, attempt.error.as_bytes());
}

pub(crate) fn take_attempt(reader: &mut Reader<'_>) -> Result<Attempt, Malformed> {
    Ok(Attempt {
        number: reader.number()?,
        consumer: reader.shared_text()?,
        delivered_at: reader.timestamp()?,
        ended_at: reader.timestamp()?,
        outcome: match reader.byte()? {
            1 => AttemptOutcome::Nacked,
            2 => AttemptOutcome::Expired,
            3 => AttemptOutcome::Disconnected,
            4 => AttemptOutcome::Rejected,
            _ => return Err(Malformed("an attempt ended in an unknown way")),
        },
        error: reader.boxed_text()?,
    })
}
