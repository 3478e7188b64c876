//! Entries, each as what differs from the one before it.
//!
//! ```text
//! shape  [seq]  [position]  [enqueued_at]  [size]  [failures  ready_at]
//!  u8     difference from what is expected; absent when its bit in `shape` is set
//! ```
//!
//! In a queue with one publisher most entries take a single byte.

use courser_core::{
    id::{ChunkNo, Position, Seq},
    record::ChunkEntry,
    time::Timestamp,
};

use super::{Malformed, Reader, put_difference, put_varint};

const SEQ_IS_NEXT: u8 = 1;
const POSITION_IS_NEXT: u8 = 2;
const SAME_TIME: u8 = 4;
const SAME_SIZE: u8 = 8;
const NEVER_FAILED: u8 = 16;
const SHAPES: u8 = 32;

/// The entry before, as far as the next one is compared with it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Entries {
    seq: u64,
    position: u64,
    enqueued_at: u64,
    size: u32,
}

impl Entries {
    /// The entry expected first has this place.
    pub(crate) fn starting_at(seq: Seq) -> Self {
        Self {
            seq: seq.0.wrapping_sub(1),
            ..Self::default()
        }
    }

    pub(crate) fn put(&mut self, out: &mut Vec<u8>, entry: &ChunkEntry) {
        let start = out.len();
        let mut shape = 0;
        out.push(0);
        let (seq, position) = (self.seq.wrapping_add(1), self.position.wrapping_add(1));
        let enqueued_at = entry.enqueued_at.as_micros();
        if entry.seq.0 == seq {
            shape |= SEQ_IS_NEXT;
        } else {
            put_difference(out, entry.seq.0, seq);
        }
        if entry.position.0 == position {
            shape |= POSITION_IS_NEXT;
        } else {
            put_difference(out, entry.position.0, position);
        }
        if enqueued_at == self.enqueued_at {
            shape |= SAME_TIME;
        } else {
            put_difference(out, enqueued_at, self.enqueued_at);
        }
        if entry.size == self.size {
            shape |= SAME_SIZE;
        } else {
            put_varint(out, u64::from(entry.size));
        }
        if entry.failures == 0 && entry.ready_at == Timestamp::ZERO {
            shape |= NEVER_FAILED;
        } else {
            put_varint(out, u64::from(entry.failures));
            put_difference(out, entry.ready_at.as_micros(), enqueued_at);
        }
        out[start] = shape;
        self.follow(entry);
    }

    pub(crate) fn take(&mut self, reader: &mut Reader<'_>) -> Result<ChunkEntry, Malformed> {
        let shape = reader.byte()?;
        if shape >= SHAPES {
            return Err(Malformed("an entry has an unknown shape"));
        }
        let has = |bit| shape & bit != 0;
        let (seq, position) = (self.seq.wrapping_add(1), self.position.wrapping_add(1));
        let seq = if has(SEQ_IS_NEXT) {
            seq
        } else {
            reader.difference(seq)?
        };
        let position = if has(POSITION_IS_NEXT) {
            position
        } else {
            reader.difference(position)?
        };
        let enqueued_at = if has(SAME_TIME) {
            self.enqueued_at
        } else {
            reader.difference(self.enqueued_at)?
        };
        let size = if has(SAME_SIZE) {
            self.size
        } else {
            reader.number()?
        };
        let (failures, ready_at) = if has(NEVER_FAILED) {
            (0, 0)
        } else {
            (reader.number()?, reader.difference(enqueued_at)?)
        };
        let entry = ChunkEntry {
            seq: Seq(seq),
            position: Position(position),
            enqueued_at: Timestamp::from_micros(enqueued_at),
            size,
            failures,
            ready_at: Timestamp::from_micros(ready_at),
        };
        self.follow(&entry);
        Ok(entry)
    }

    fn follow(&mut self, entry: &ChunkEntry) {
        *self = Self {
            seq: entry.seq.0,
            position: entry.position.0,
            enqueued_at: entry.enqueued_at.as_micros(),
            size: entry.size,
        };
    }
}

/// The version of a chunk's value, its first byte.
const CHUNK_VERSION: u8 = 1;

/// A chunk's value in the index: its version, then its entries.
pub(crate) fn put_chunk(out: &mut Vec<u8>, number: ChunkNo, entries: &[ChunkEntry]) {
    out.push(CHUNK_VERSION);
    let mut state = Entries::starting_at(number.first());
    for entry in entries {
        state.put(out, entry);
    }
}

pub(crate) fn take_chunk(
    bytes: &[u8],
    number: ChunkNo,
    into: &mut Vec<ChunkEntry>,
) -> Result<(), Malformed> {
    let mut reader = Reader::new(bytes);
    if reader.byte()? != CHUNK_VERSION {
        return Err(Malformed("a chunk has an unknown version"));
    }
    let mut state = Entries::starting_at(number.first());
    while reader.left() > 0 {
        let entry = state.take(&mut reader)?;
        if entry.seq.chunk() != number {
            return Err(Malformed("a chunk holds what is not its own"));
        }
        // So there are no more of them than fit.
        if into.last().is_some_and(|last| last.seq >= entry.seq) {
            return Err(Malformed("the entries of a chunk are not in order"));
        }
        into.push(entry);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use courser_core::limits::CHUNK_ENTRIES;

    use super::*;

    fn entry(seq: u64, position: u64, failures: u32) -> ChunkEntry {
        ChunkEntry {
            seq: Seq(seq),
            position: Position(position),
            enqueued_at: Timestamp::from_micros(1_700_000_000_000_000 + seq * 10),
            size: 1_000 + failures,
            failures,
            ready_at: Timestamp::from_micros(u64::from(failures) * 77),
        }
    }

    #[test]
    fn entries_of_all_shapes_come_back() {
        let entries = [
            entry(257, 9, 0),
            entry(258, 10, 0),
            entry(300, 5, 3),
            entry(511, 99, 0),
        ];
        let mut out = Vec::new();
        put_chunk(&mut out, ChunkNo(1), &entries);
        let mut back = Vec::new();
        assert_eq!(take_chunk(&out, ChunkNo(1), &mut back), Ok(()));
        assert_eq!(back, entries);
    }

    #[test]
    fn the_worst_chunk_stays_below_the_limit_of_a_value() {
        let entries: Vec<_> = (0..CHUNK_ENTRIES)
            .map(|n| {
                let far = if n % 2 == 0 { u64::MAX / 2 } else { 0 };
                ChunkEntry {
                    seq: Seq(CHUNK_ENTRIES + n),
                    position: Position(far),
                    enqueued_at: Timestamp::from_micros(far),
                    size: u32::MAX - n as u32,
                    failures: u32::MAX,
                    ready_at: Timestamp::from_micros(u64::MAX - far),
                }
            })
            .collect();
        let mut out = Vec::new();
        put_chunk(&mut out, ChunkNo(1), &entries);
        assert!(out.len() < 16 * 1024, "{}", out.len());
    }

    #[test]
    fn an_entry_that_comes_twice_or_too_late_is_refused() {
        for seqs in [[257, 257], [258, 257]] {
            let mut out = Vec::new();
            put_chunk(&mut out, ChunkNo(1), &seqs.map(|seq| entry(seq, 9, 0)));
            assert!(take_chunk(&out, ChunkNo(1), &mut Vec::new()).is_err());
        }
    }

    #[test]
    fn a_chunk_that_no_place_lies_in_holds_nothing() {
        for number in [u64::MAX / 256 + 1, u64::MAX] {
            let mut out = Vec::new();
            put_chunk(&mut out, ChunkNo(number), &[entry(257, 9, 0)]);
            assert!(take_chunk(&out, ChunkNo(number), &mut Vec::new()).is_err());
        }
    }

    #[test]
    fn an_entry_of_another_chunk_is_refused() {
        let mut out = Vec::new();
        put_chunk(&mut out, ChunkNo(1), &[entry(257, 9, 0), entry(600, 10, 0)]);
        assert!(take_chunk(&out, ChunkNo(1), &mut Vec::new()).is_err());
        for end in 1..out.len() {
            let _ = take_chunk(&out[..end], ChunkNo(1), &mut Vec::new());
        }
    }
}
