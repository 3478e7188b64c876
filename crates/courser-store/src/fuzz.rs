//! What `tests/fuzz` reaches of the inside: thin wrappers around the decoders, built only for it.

use std::{fs::File, path::Path, sync::Arc};

use bytes::Bytes;
use courser_core::{
    id::{ChunkNo, Position, Seq},
    message::{Message, SharedMessage},
    record::{ChunkEntry, Group, Note, QueueState, Record},
};

use crate::{
    StoreError,
    codec::{self, Malformed, Reader},
    disk, index,
    log::{
        Log,
        frame::{self, Body, Builder, Head, Place},
        segment::{self, SegmentHeader},
    },
};

fn sentence(error: Malformed) -> String {
    error.to_string()
}

/// A frame that was read, checksums and all.
#[derive(Debug, PartialEq)]
pub struct Frame {
    /// Its bytes, padding included.
    pub total: usize,
    /// Its number.
    pub number: u64,
    /// The position of its first message.
    pub first: u64,
    /// The position after its last message.
    pub next: u64,
    /// Its messages.
    pub messages: Vec<Message>,
    /// Its records.
    pub records: Vec<Record>,
}

/// Reads the frame that `bytes` begins with, in the steps of a recovery and of a load. `None` is what
/// a recovery takes for no frame.
///
/// # Errors
/// What is wrong with a frame whose checksums are right.
pub fn read_frame(bytes: &[u8]) -> Result<Option<Frame>, String> {
    let Some(head) = Head::parse(bytes) else {
        return Ok(None);
    };
    let Some(bytes) = bytes.get(..head.total as usize) else {
        return Ok(None);
    };
    if !head.is_intact(bytes) || head.seal {
        return Ok(None);
    }
    let mut bodies: Vec<Body> = Vec::new();
    let meta = &bytes[frame::HEADER..head.checked_bytes()];
    let records = frame::records(&head, meta, &mut bodies).map_err(sentence)?;
    let mut messages = Vec::with_capacity(bodies.len());
    for body in &bodies {
        let bytes = &bytes[body.range()];
        if crc32c::crc32c(bytes) != body.checksum {
            return Ok(None);
        }
        messages.push(read_message(bytes, body.position)?);
    }
    Ok(Some(Frame {
        total: head.total as usize,
        number: head.number,
        first: head.first,
        next: head.next,
        messages,
        records,
    }))
}

/// Where a frame is written.
#[derive(Clone, Copy, Debug)]
pub struct At {
    /// The life of its file.
    pub life: u64,
    /// The first frame of its segment.
    pub segment: u64,
    /// Its number.
    pub number: u64,
    /// The last frame that was surely on the disk.
    pub durable: u64,
}

impl At {
    fn place(self) -> Place {
        Place {
            life: self.life,
            segment: self.segment,
            number: self.number,
            durable: self.durable,
            epoch: 1,
        }
    }
}

/// A frame as the log writes it, after `next`.
#[must_use]
pub fn write_frame(group: &Group, next: u64, at: At) -> Vec<u8> {
    let mut builder = Builder::default();
    assert!(builder.encode(group, next), "it fits into a frame");
    builder.finish(at.place());
    let mut out = Vec::new();
    builder.put_into(&group.messages, &mut out);
    out
}

/// What stands behind the last frame of a segment.
#[must_use]
pub fn write_seal(at: At, next: u64) -> Vec<u8> {
    frame::seal(at.place(), next).to_vec()
}

/// The header of a segment that begins with this frame and position. One that was rewritten has a weight.
#[must_use]
pub fn segment_header(life: u64, frame: u64, position: u64, weight: Option<u64>) -> Vec<u8> {
    let header = SegmentHeader {
        life,
        frame,
        position,
        weight,
    };
    header.encode().to_vec()
}

/// The name of the segment that begins with this frame.
#[must_use]
pub fn segment_name(frame: u64) -> String {
    segment::name(frame)
}

/// The frame that the name of a segment says it begins with.
#[must_use]
pub fn segment_number(path: &Path) -> Option<u64> {
    segment::number(path)
}

/// What a recovery and loads found in the folder of a log.
#[derive(Debug, Default)]
pub struct Replayed {
    /// The records of each frame that has any, in order.
    pub groups: Vec<Vec<Record>>,
    /// The last frame.
    pub last_frame: u64,
    /// Bytes that were cut behind it.
    pub torn_bytes: u64,
    /// What a load said of each position that was asked for.
    pub loaded: Vec<Result<Option<SharedMessage>, String>>,
    /// The first damage that a load met, and whether the next start finds it when it looks there again.
    pub met: Option<(String, bool)>,
}

/// Replays the log in a folder after frame `upto`, then loads each of these positions.
///
/// # Errors
/// Why the log is refused.
pub fn replay(folder: &Path, upto: u64, positions: &[Position]) -> Result<Replayed, StoreError> {
    let log = Log::open(folder, 4 * 1024)?;
    let mut found = Replayed::default();
    let replayed = log.replay(upto, 1, 1, &mut |records| {
        found.groups.push(records);
        Ok(())
    })?;
    found.last_frame = replayed.last_frame;
    found.torn_bytes = replayed.torn_bytes;
    for position in positions {
        let loaded = log.load(&[*position]);
        if let Err(error @ StoreError::Damaged { path, offset, .. }) = &loaded
            && found.met.is_none()
        {
            let file = Path::new(path).file_name().and_then(|name| name.to_str());
            let checked = log.check_place(file.unwrap_or_default(), *offset);
            found.met = Some((error.to_string(), checked.is_err()));
        }
        found.loaded.push(
            loaded
                .map(|mut messages| messages.remove(0))
                .map_err(|error| error.to_string()),
        );
    }
    Ok(found)
}

/// Reads the body of a message.
///
/// # Errors
/// What is wrong with it.
pub fn read_message(body: &[u8], position: Position) -> Result<Message, String> {
    codec::message::take(body, position, |range| Bytes::copy_from_slice(&body[range]))
        .map_err(sentence)
}

/// The body of a message.
#[must_use]
pub fn write_message(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    codec::message::put(&mut out, message);
    out
}

/// Reads so many records, and says how many bytes they took.
///
/// # Errors
/// What is wrong with them.
pub fn read_records(bytes: &[u8], count: usize) -> Result<(Vec<Record>, usize), String> {
    let mut reader = Reader::new(bytes);
    let records = codec::record::take_all(&mut reader, count).map_err(sentence)?;
    Ok((records, bytes.len() - reader.left()))
}

/// Records as a frame holds them.
#[must_use]
pub fn write_records(records: &[Record]) -> Vec<u8> {
    let mut out = Vec::new();
    codec::record::put_all(&mut out, records);
    out
}

/// Reads a note.
///
/// # Errors
/// What is wrong with it.
pub fn read_note(bytes: &[u8]) -> Result<Note, String> {
    codec::note::take_note(&mut Reader::new(bytes)).map_err(sentence)
}

/// A note.
#[must_use]
pub fn write_note(note: &Note) -> Vec<u8> {
    let mut out = Vec::new();
    codec::note::put_note(&mut out, note);
    out
}

/// Reads a queue.
///
/// # Errors
/// What is wrong with it.
pub fn read_queue(bytes: &[u8]) -> Result<QueueState, String> {
    codec::definition::take_state(bytes).map_err(sentence)
}

/// A queue.
#[must_use]
pub fn write_queue(state: &QueueState) -> Vec<u8> {
    let mut out = Vec::new();
    codec::definition::put_state(&mut out, state);
    out
}

/// Reads the entries of a chunk.
///
/// # Errors
/// What is wrong with them.
pub fn read_chunk(bytes: &[u8], number: ChunkNo) -> Result<Vec<ChunkEntry>, String> {
    let mut entries = Vec::new();
    codec::entry::take_chunk(bytes, number, &mut entries).map_err(sentence)?;
    Ok(entries)
}

/// The entries of a chunk.
#[must_use]
pub fn write_chunk(number: ChunkNo, entries: &[ChunkEntry]) -> Vec<u8> {
    let mut out = Vec::new();
    codec::entry::put_chunk(&mut out, number, entries);
    out
}

pub use index::fuzz::{
    Key, add_up, is_of_chunk, open_value, read_key, rewrite_holders, rewrite_meta, rewrite_sum,
    seal_value, write_key,
};

/// Notes of a scan, in the order of their keys: put together from their parts.
///
/// # Errors
/// What is wrong with them.
pub fn read_notes(items: &[(Vec<u8>, Vec<u8>)]) -> Result<Vec<(Seq, Arc<Note>)>, String> {
    index::fuzz::take_notes(items).map_err(sentence)
}

/// Reads a note of damage: a file of the log, and where in it.
#[must_use]
pub fn read_mark(text: &str) -> Option<(&str, u64)> {
    disk::fuzz_read_mark(text)
}

/// Takes a data folder, as a start does before anything else.
///
/// # Errors
/// Why it is not ours.
pub fn take_folder(folder: &Path) -> Result<File, StoreError> {
    disk::fuzz_take_folder(folder)
}
