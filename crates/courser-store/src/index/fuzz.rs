//! What `tests/fuzz` reaches of the index: its keys, and its values with their checksums.

use std::sync::Arc;

use courser_core::{
    id::{ChunkNo, QueueId, Seq},
    record::Note,
};

use super::{
    META_VERSION, Parts, Sum, decode_meta, encode_meta, holders, keys, sum, take_note_part,
};
use crate::codec::Malformed;

/// A key of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// Of a chunk.
    Chunk(QueueId, ChunkNo),
    /// Of a part of a note.
    Note(QueueId, Seq, u16),
    /// Of a part of a queue.
    Queue(QueueId, u16),
}

/// Reads a key.
#[must_use]
pub fn read_key(key: &[u8]) -> Option<Key> {
    keys::parse_chunk(key)
        .map(|(queue, number)| Key::Chunk(queue, number))
        .or_else(|| keys::parse_note(key).map(|(queue, seq, part)| Key::Note(queue, seq, part)))
        .or_else(|| keys::parse_queue(key).map(|(queue, part)| Key::Queue(queue, part)))
}

/// A key.
#[must_use]
pub fn write_key(key: Key) -> Vec<u8> {
    match key {
        Key::Chunk(queue, number) => keys::chunk(queue, number),
        Key::Note(queue, seq, part) => keys::part(&keys::note(queue, seq), part),
        Key::Queue(queue, part) => keys::part(&keys::of_queue(keys::QUEUES, queue), part),
    }
}

/// Whether the key of a note is among those of a chunk.
#[must_use]
pub fn is_of_chunk(queue: QueueId, number: ChunkNo, key: &[u8]) -> bool {
    keys::notes(queue, number).contains(&key.to_vec())
}

/// What a value says, if its checksum is right.
#[must_use]
pub fn open_value(key: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    sum::open(key, sealed).ok().map(<[u8]>::to_vec)
}

/// Puts its checksum behind a value.
pub fn seal_value(key: &[u8], value: &mut Vec<u8>) {
    sum::seal(key, value);
}

/// Reads what the index says of itself, and writes it again.
#[must_use]
pub fn rewrite_meta(bytes: &[u8]) -> Option<Vec<u8>> {
    let meta = decode_meta(bytes, META_VERSION).ok()?;
    Some(encode_meta(meta, META_VERSION))
}

/// Reads which segments hold something that lives, and writes it again.
#[must_use]
pub fn rewrite_holders(bytes: &[u8]) -> Option<Vec<u8>> {
    holders::decode(bytes)
        .ok()
        .map(|list| holders::encode(&list))
}

/// Reads what all values add up to, and writes it again.
#[must_use]
pub fn rewrite_sum(sealed: &[u8]) -> Option<Vec<u8>> {
    let sum = Sum::decode(keys::SUM, sealed).ok()?;
    Some(sum.encode(keys::SUM))
}

/// What these keys and sealed values add up to, after `removed` were taken away from it again.
#[must_use]
pub fn add_up(items: &[(Vec<u8>, Vec<u8>)], removed: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut sum = Sum::default();
    for (key, sealed) in items {
        sum.add(key, sealed);
    }
    for (key, sealed) in removed {
        sum.remove(key, sealed);
    }
    sum.encode(keys::SUM)
}

pub(crate) fn take_notes(items: &[(Vec<u8>, Vec<u8>)]) -> Result<Vec<(Seq, Arc<Note>)>, Malformed> {
    let mut parts = Parts::default();
    let mut notes = Vec::new();
    for (key, value) in items {
        notes.extend(take_note_part(&mut parts, key, value)?);
    }
    Ok(notes)
}
