//! The records of a group.
//!
//! Neighbours of one kind and queue are packed into a run:
//!
//! ```text
//! tag      what follows
//! 1        definition                     a queue is defined
//! 2        queue                          a queue is deleted
//! 3        queue  count  entries          a run of enqueued entries (`entry.rs`)
//! 4        queue  count  seqs             a run of removed ones, each the difference from the next
//! 5        queue  seq  ready_at  attempt  failed
//! 6        from  seq  to  entry  note     moved
//! 7        queue  before  count  seqs     purged, but for these
//! ```
//!
//! Entries and removed places go on where the last one of the group was.

use courser_core::{
    id::{QueueId, Seq},
    record::{ChunkEntry, Record},
};

use super::{Malformed, Reader, definition, entry::Entries, note, put_difference, put_varint};

const QUEUE_DEFINED: u8 = 1;
const QUEUE_DELETED: u8 = 2;
const ENQUEUED: u8 = 3;
const REMOVED: u8 = 4;
const FAILED: u8 = 5;
const MOVED: u8 = 6;
const PURGED: u8 = 7;

/// What the next record is compared with.
#[derive(Default)]
struct State {
    entries: Entries,
    removed: u64,
}

pub(crate) fn put_all(out: &mut Vec<u8>, records: &[Record]) {
    let mut state = State::default();
    let mut rest = records;
    while let Some(first) = rest.first() {
        let taken = match first {
            Record::Enqueued(queue, _) => put_enqueued(out, &mut state, *queue, rest),
            Record::Removed { queue, .. } => put_removed(out, &mut state, *queue, rest),
            other => {
                put_one(out, &mut state, other);
                1
            }
        };
        rest = &rest[taken..];
    }
}

fn put_run(out: &mut Vec<u8>, tag: u8, queue: QueueId, count: usize) {
    out.push(tag);
    put_varint(out, u64::from(queue.0));
    put_varint(out, count as u64);
}

fn put_enqueued(out: &mut Vec<u8>, state: &mut State, queue: QueueId, rest: &[Record]) -> usize {
    fn of(record: &Record, queue: QueueId) -> Option<&ChunkEntry> {
        match record {
            Record::Enqueued(of, entry) if *of == queue => Some(entry),
            _ => None,
        }
    }
    let count = rest
        .iter()
        .take_while(|record| of(record, queue).is_some())
        .count();
    put_run(out, ENQUEUED, queue, count);
    for entry in rest.iter().map_while(|record| of(record, queue)) {
        state.entries.put(out, entry);
    }
    count
}

fn put_removed(out: &mut Vec<u8>, state: &mut State, queue: QueueId, rest: &[Record]) -> usize {
    let of = |record: &Record| match record {
        Record::Removed { queue: of, seq } if *of == queue => Some(seq.0),
        _ => None,
    };
    let count = rest
        .iter()
        .take_while(|record| of(record).is_some())
        .count();
    put_run(out, REMOVED, queue, count);
    for seq in rest.iter().map_while(of) {
        put_difference(out, seq, state.removed.wrapping_add(1));
        state.removed = seq;
    }
    count
}

fn put_one(out: &mut Vec<u8>, state: &mut State, record: &Record) {
    match record {
        Record::QueueDefined(definition) => {
            out.push(QUEUE_DEFINED);
            definition::put(out, definition);
        }
        Record::QueueDeleted { queue } => {
            out.push(QUEUE_DELETED);
            put_varint(out, u64::from(queue.0));
        }
        Record::Failed {
            queue,
            seq,
            ready_at,
            attempt,
        } => {
            out.push(FAILED);
            put_varint(out, u64::from(queue.0));
            put_varint(out, seq.0);
            put_varint(out, ready_at.as_micros());
            note::put_attempt(out, attempt);
        }
        Record::Moved {
            from,
            from_seq,
            to,
            entry,
            note,
        } => {
            out.push(MOVED);
            put_varint(out, u64::from(from.0));
            put_varint(out, from_seq.0);
            put_varint(out, u64::from(to.0));
            state.entries.put(out, entry);
            note::put_note(out, note);
        }
        Record::Purged {
            queue,
            before,
            kept,
        } => {
            out.push(PURGED);
            put_varint(out, u64::from(queue.0));
            put_varint(out, before.0);
            put_varint(out, kept.len() as u64);
            let mut last = 0;
            for seq in kept {
                put_difference(out, seq.0, last);
                last = seq.0;
            }
        }
        Record::Enqueued(..) | Record::Removed { .. } => unreachable!("those are put in runs"),
    }
}

/// Every record takes at least a byte, so `count` of them fit into no fewer.
pub(crate) fn take_all(reader: &mut Reader<'_>, count: usize) -> Result<Vec<Record>, Malformed> {
    if count > reader.left() {
        return Err(Malformed("a group has too many records"));
    }
    let mut state = State::default();
    let mut records = Vec::with_capacity(count);
    while records.len() < count {
        let tag = reader.byte()?;
        match tag {
            ENQUEUED | REMOVED => take_run(reader, &mut state, tag, count, &mut records)?,
            _ => records.push(take_one(reader, &mut state, tag)?),
        }
    }
    Ok(records)
}

fn take_run(
    reader: &mut Reader<'_>,
    state: &mut State,
    tag: u8,
    limit: usize,
    records: &mut Vec<Record>,
) -> Result<(), Malformed> {
    let queue = QueueId(reader.number()?);
    let count = reader.count()?;
    if count == 0 || count > limit - records.len() {
        return Err(Malformed("a run of records has a wrong length"));
    }
    for _ in 0..count {
        if tag == ENQUEUED {
            records.push(Record::Enqueued(queue, state.entries.take(reader)?));
        } else {
            state.removed = reader.difference(state.removed.wrapping_add(1))?;
            records.push(Record::Removed {
                queue,
                seq: Seq(state.removed),
            });
        }
    }
    Ok(())
}

fn take_one(reader: &mut Reader<'_>, state: &mut State, tag: u8) -> Result<Record, Malformed> {
    Ok(match tag {
        QUEUE_DEFINED => Record::QueueDefined(Box::new(definition::take(reader)?)),
        QUEUE_DELETED => Record::QueueDeleted {
            queue: QueueId(reader.number()?),
        },
        FAILED => Record::Failed {
            queue: QueueId(reader.number()?),
            seq: Seq(reader.varint()?),
            ready_at: reader.timestamp()?,
            attempt: Box::new(note::take_attempt(reader)?),
        },
        MOVED => Record::Moved {
            from: QueueId(reader.number()?),
            from_seq: Seq(reader.varint()?),
            to: QueueId(reader.number()?),
            entry: state.entries.take(reader)?,
            note: Box::new(note::take_note(reader)?),
        },
        PURGED => {
            let (queue, before) = (QueueId(reader.number()?), Seq(reader.varint()?));
            let count = reader.count()?;
            let mut kept = Vec::with_capacity(count);
            let mut last = 0;
            for _ in 0..count {
                last = reader.difference(last)?;
                kept.push(Seq(last));
            }
            Record::Purged {
                queue,
                before,
                kept,
            }
        }
        _ => return Err(Malformed("a record is of an unknown kind")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::fixture::{entry, noise, note};

    fn records() -> Vec<Record> {
        let queue = QueueId(1);
        let mut records: Vec<_> = (1..20)
            .map(|n| Record::Enqueued(queue, entry(n, n)))
            .collect();
        records.extend(
            (1..20)
                .rev()
                .map(|n| Record::Removed { queue, seq: Seq(n) }),
        );
        let (from_seq, to, note) = (Seq(3), QueueId(2), Box::new(note(2)));
        records.push(Record::Moved {
            from: queue,
            from_seq,
            to,
            entry: entry(1, 3),
            note,
        });
        records
    }

    #[test]
    fn runs_of_records_are_small() {
        let mut out = Vec::new();
        put_all(&mut out, &records()[..38]);
        assert!(out.len() < 200, "{} bytes", out.len());
        assert_eq!(
            take_all(&mut Reader::new(&out), 38),
            Ok(records()[..38].to_vec())
        );
    }

    #[test]
    fn bytes_that_were_tampered_with_never_panic() {
        let mut out = Vec::new();
        put_all(&mut out, &records());
        for at in 0..out.len() {
            for bit in 0..8 {
                let mut tampered = out.clone();
                tampered[at] ^= 1 << bit;
                let _ = take_all(&mut Reader::new(&tampered), records().len());
            }
            assert!(take_all(&mut Reader::new(&out[..at]), records().len()).is_err());
        }
        for seed in 0..2_000 {
            let _ = take_all(&mut Reader::new(&noise(seed, 200)), 100);
        }
    }
}
