//! Queues apart from what is in them.

use std::time::Duration;

use courser_core::{
    id::{QueueId, Seq},
    name::Pattern,
    options::{Backoff, Durability, QueueDefinition, QueueOptions},
    record::QueueState,
};

use super::{Malformed, Reader, put_bytes, put_varint};

/// The version of a queue's value in the index, its first byte.
const STATE_VERSION: u8 = 1;

pub(crate) fn put_state(out: &mut Vec<u8>, state: &QueueState) {
    out.push(STATE_VERSION);
    put_varint(out, state.next_seq.0);
    put(out, &state.definition);
}

pub(crate) fn take_state(bytes: &[u8]) -> Result<QueueState, Malformed> {
    let mut reader = Reader::new(bytes);
    if reader.byte()? != STATE_VERSION {
        return Err(Malformed("a queue has an unknown version"));
    }
    let next_seq = Seq(reader.varint()?);
    Ok(QueueState {
        definition: take(&mut reader)?,
        next_seq,
    })
}

pub(crate) fn put(out: &mut Vec<u8>, definition: &QueueDefinition) {
    put_varint(out, u64::from(definition.id.0));
    put_bytes(out, definition.name.as_bytes());
    put_options(out, &definition.options);
    put_varint(out, definition.created_at.as_micros());
    put_queue(out, definition.dead_letter_of);
    put_queue(out, definition.dead_letter_queue);
}

pub(crate) fn take(reader: &mut Reader<'_>) -> Result<QueueDefinition, Malformed> {
    Ok(QueueDefinition {
        id: QueueId(reader.number()?),
        name: reader.shared_text()?,
        options: take_options(reader)?,
        created_at: reader.timestamp()?,
        dead_letter_of: take_queue(reader)?,
        dead_letter_queue: take_queue(reader)?,
    })
}

fn put_options(out: &mut Vec<u8>, options: &QueueOptions) {
    put_varint(out, options.bindings.len() as u64);
    for binding in &options.bindings {
        put_bytes(out, binding.as_str().as_bytes());
    }
    put_duration(out, options.lease);
    put_varint(out, u64::from(options.max_attempts));
    put_duration(out, options.backoff.initial);
    put_duration(out, options.backoff.max);
    out.extend_from_slice(&options.backoff.multiplier.to_bits().to_le_bytes());
    out.extend_from_slice(&options.backoff.jitter.to_bits().to_le_bytes());
    out.push(u8::from(options.dead_letter));
    out.push(match options.durability {
        Durability::Synced => 1,
        Durability::Buffered => 2,
    });
    out.push(u8::from(options.paused));
}

fn take_options(reader: &mut Reader<'_>) -> Result<QueueOptions, Malformed> {
    let mut bindings = Vec::new();
    for _ in 0..reader.count()? {
        // It was checked when it was made, and its bytes are under a checksum.
        bindings.push(Pattern::exact(reader.text()?));
    }
    Ok(QueueOptions {
        bindings,
        lease: take_duration(reader)?,
        max_attempts: reader.number()?,
        backoff: Backoff {
            initial: take_duration(reader)?,
            max: take_duration(reader)?,
            multiplier: f64::from_bits(u64::from_le_bytes(reader.array()?)),
            jitter: f64::from_bits(u64::from_le_bytes(reader.array()?)),
        },
        dead_letter: reader.bool()?,
        durability: match reader.byte()? {
            1 => Durability::Synced,
            2 => Durability::Buffered,
            _ => return Err(Malformed("a queue has an unknown durability")),
        },
        paused: reader.bool()?,
    })
}

fn put_duration(out: &mut Vec<u8>, duration: Duration) {
    put_varint(out, duration.as_secs());
    put_varint(out, u64::from(duration.subsec_nanos()));
}

fn take_duration(reader: &mut Reader<'_>) -> Result<Duration, Malformed> {
    let (seconds, nanos) = (reader.varint()?, reader.number()?);
    if nanos >= 1_000_000_000 {
        return Err(Malformed("a duration has too many nanoseconds"));
    }
    Ok(Duration::new(seconds, nanos))
}

/// 0 is none, otherwise the id and one.
fn put_queue(out: &mut Vec<u8>, queue: Option<QueueId>) {
    put_varint(out, queue.map_or(0, |queue| u64::from(queue.0) + 1));
}

fn take_queue(reader: &mut Reader<'_>) -> Result<Option<QueueId>, Malformed> {
    match reader.varint()? {
        0 => Ok(None),
        id => u32::try_from(id - 1)
            .map(|id| Some(QueueId(id)))
            .map_err(|_| Malformed("a number is too large")),
    }
}
