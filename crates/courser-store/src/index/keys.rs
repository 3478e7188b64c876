//! The keys of the index: one tree, a letter first, numbers big-endian so that they sort.
//!
//! ```text
//! m                              meta: version, epoch, upto, next position, next queue
//! ms  part:u16                   the segments that hold something that lives (`holders.rs`), in parts
//! q  queue:u32  part:u16         a queue and its next place (`codec/definition.rs`), in parts
//! c  queue:u32  chunk:u64        the living entries of a chunk (`codec/entry.rs`)
//! n  queue:u32  seq:u64  part:u16   what is known of an entry (`codec/note.rs`), in parts
//! s                              what all other values add up to (`sum.rs`)
//! ```
//!
//! A value that may be large lies in parts; the first byte of part 0 says how many there are.

use std::ops::Range;

use courser_core::id::{ChunkNo, QueueId, Seq};

pub(crate) const META: &[u8] = b"m";
/// Begins like meta, for it is a part of what the index says of itself.
pub(crate) const HOLDERS: &[u8] = b"ms";
pub(crate) const QUEUES: &[u8] = b"q";
pub(crate) const CHUNKS: &[u8] = b"c";
pub(crate) const NOTES: &[u8] = b"n";
pub(crate) const SUM: &[u8] = b"s";

/// Everything of one kind and queue.
pub(crate) fn of_queue(kind: &[u8], queue: QueueId) -> Vec<u8> {
    let mut key = Vec::with_capacity(16);
    key.extend_from_slice(kind);
    key.extend_from_slice(&queue.0.to_be_bytes());
    key
}

pub(crate) fn chunk(queue: QueueId, number: ChunkNo) -> Vec<u8> {
    let mut key = of_queue(CHUNKS, queue);
    key.extend_from_slice(&number.0.to_be_bytes());
    key
}

/// A note, without its part.
pub(crate) fn note(queue: QueueId, seq: Seq) -> Vec<u8> {
    let mut key = of_queue(NOTES, queue);
    key.extend_from_slice(&seq.0.to_be_bytes());
    key
}

/// All notes of a chunk.
pub(crate) fn notes(queue: QueueId, number: ChunkNo) -> Range<Vec<u8>> {
    let next = ChunkNo(number.0.saturating_add(1));
    let mut end = note(queue, next.first());
    if next.first().chunk() != next {
        // Behind the last place: its parts are longer than it, and end in 16 bits.
        end.extend_from_slice(&[0xff; 3]);
    }
    note(queue, number.first())..end
}

pub(crate) fn part(key: &[u8], part: u16) -> Vec<u8> {
    [key, &part.to_be_bytes()].concat()
}

/// Part of the list of segments.
pub(crate) fn parse_holders(key: &[u8]) -> Option<u16> {
    let part = key.strip_prefix(HOLDERS)?;
    Some(u16::from_be_bytes(part.try_into().ok()?))
}

/// Queue and chunk number of a chunk's key.
pub(crate) fn parse_chunk(key: &[u8]) -> Option<(QueueId, ChunkNo)> {
    let (queue, number) = key.strip_prefix(CHUNKS)?.split_first_chunk::<4>()?;
    let number = ChunkNo(u64::from_be_bytes(number.try_into().ok()?));
    // Behind a certain chunk there are no more places.
    let has_places = number.first().chunk() == number;
    has_places.then_some((QueueId(u32::from_be_bytes(*queue)), number))
}

/// Queue and part of a queue's key.
pub(crate) fn parse_queue(key: &[u8]) -> Option<(QueueId, u16)> {
    let (queue, part) = key.strip_prefix(QUEUES)?.split_first_chunk::<4>()?;
    let part = u16::from_be_bytes(part.try_into().ok()?);
    Some((QueueId(u32::from_be_bytes(*queue)), part))
}

/// Place and part of a note's key.
pub(crate) fn parse_note(key: &[u8]) -> Option<(QueueId, Seq, u16)> {
    let (queue, rest) = key.strip_prefix(NOTES)?.split_first_chunk::<4>()?;
    let (seq, part) = rest.split_first_chunk::<8>()?;
    let part = u16::from_be_bytes(part.try_into().ok()?);
    Some((
        QueueId(u32::from_be_bytes(*queue)),
        Seq(u64::from_be_bytes(*seq)),
        part,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back_and_sort_by_their_numbers() {
        let chunk = chunk(QueueId(3), ChunkNo(9));
        assert_eq!(parse_chunk(&chunk), Some((QueueId(3), ChunkNo(9))));
        assert!(super::chunk(QueueId(3), ChunkNo(255)) < super::chunk(QueueId(3), ChunkNo(256)));
        let note = part(&note(QueueId(3), Seq(300)), 1);
        assert_eq!(parse_note(&note), Some((QueueId(3), Seq(300), 1)));
        assert!(notes(QueueId(3), ChunkNo(1)).contains(&note));
        assert!(!notes(QueueId(3), ChunkNo(0)).contains(&note));
        let last = part(&super::note(QueueId(3), Seq(u64::MAX)), u16::MAX);
        assert!(notes(QueueId(3), Seq(u64::MAX).chunk()).contains(&last));
        let none = super::chunk(QueueId(3), ChunkNo(u64::MAX / 256 + 1));
        assert_eq!(parse_chunk(&none), None, "no place lies in it");
        let queue = part(&of_queue(QUEUES, QueueId(3)), 2);
        assert_eq!(parse_queue(&queue), Some((QueueId(3), 2)));
        assert_eq!(parse_holders(&part(HOLDERS, 3)), Some(3));
        assert_eq!(parse_holders(META), None);
        assert_eq!(
            (parse_chunk(b"c"), parse_queue(b"x"), parse_note(b"n1")),
            (None, None, None)
        );
    }
}
