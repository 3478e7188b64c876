//! One frame of the log: one group, written in one piece.
//!
//! ```text
//!  0  magic      u32   FRAME, or SEAL behind the last frame of a finished segment
//!  4  checksum   u32   CRC32C of everything from byte 8 to the end of the meta part
//!  8  life       u64   of the file: random, so that neither an earlier life of a recycled file nor a
//!                      payload that looks like a frame is ever taken for one
//! 16  segment    u64   the first frame number of the segment
//! 24  number     u64   of this frame
//! 32  durable    u64   the last frame that was surely on the disk when this one was written
//! 40  epoch      u64   of the writer
//! 48  first      u64   position of the first message; `next` when there is none
//! 56  next       u64   position of the next message after this frame
//! 64  total      u32   bytes of the frame, padding included
//! 68  meta       u32   bytes of the meta part
//! 72  messages   u32   how many
//! 76  records    u32   how many
//! 80  meta part        the body table, then the records (`codec/record.rs`)
//!     ...              per message: position (a varint: gap to the one before),
//!     ...              length (a varint), CRC32C of the body (u32)
//!     bodies           `codec/message.rs`, in the order of the table
//!     padding          zeros up to a multiple of 16
//! ```
//!
//! Every byte is under exactly one checksum, and a single body can be read and checked alone.

use std::ops::Range;

use courser_core::{
    id::Position,
    message::SharedMessage,
    record::{Group, Record},
};

use crate::codec::{self, Malformed, Reader, put_varint};

pub(crate) const HEADER: usize = 80;
/// Frames start at multiples of this.
pub(crate) const ALIGN: u64 = 16;
const FRAME: u32 = 0x4d52_4643;
const SEAL: u32 = 0x4c41_4553;
/// Bytes of a message that do not count in its size, about: table, id, time, lengths.
pub(crate) const BODY_OVERHEAD: u64 = 48;

/// The fixed part of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) seal: bool,
    checksum: u32,
    pub(crate) life: u64,
    pub(crate) segment: u64,
    pub(crate) number: u64,
    pub(crate) durable: u64,
    pub(crate) epoch: u64,
    pub(crate) first: u64,
    pub(crate) next: u64,
    pub(crate) total: u32,
    pub(crate) meta: u32,
    pub(crate) messages: u32,
    pub(crate) records: u32,
}

/// Where a frame stands, as its writer knows it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place {
    pub(crate) life: u64,
    pub(crate) segment: u64,
    pub(crate) number: u64,
    pub(crate) durable: u64,
    pub(crate) epoch: u64,
}

/// A message within its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Body {
    pub(crate) position: Position,
    /// From the start of the frame.
    pub(crate) offset: usize,
    pub(crate) length: usize,
    pub(crate) checksum: u32,
}

impl Body {
    pub(crate) fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.length
    }
}

impl Head {
    /// `None` when these bytes are not the start of a frame. Its checksum is not looked at.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.first_chunk::<HEADER>()?;
        let u32_at = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|n| bytes[at + n]));
        let u64_at =
            |at: usize| u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|n| bytes[at + n]));
        let magic = u32_at(0);
        let head = Self {
            seal: magic == SEAL,
            checksum: u32_at(4),
            life: u64_at(8),
            segment: u64_at(16),
            number: u64_at(24),
            durable: u64_at(32),
            epoch: u64_at(40),
            first: u64_at(48),
            next: u64_at(56),
            total: u32_at(64),
            meta: u32_at(68),
            messages: u32_at(72),
            records: u32_at(76),
        };
        let is_whole = (head.meta as usize) + HEADER <= head.total as usize
            && u64::from(head.total).is_multiple_of(ALIGN);
        ((magic == FRAME || magic == SEAL) && is_whole).then_some(head)
    }

    /// Bytes of header and meta part.
    pub(crate) fn checked_bytes(&self) -> usize {
        HEADER + self.meta as usize
    }

    /// Whether header and meta part, which `bytes` starts with, are what was written.
    pub(crate) fn is_intact(&self, bytes: &[u8]) -> bool {
        bytes
            .get(8..self.checked_bytes())
            .is_some_and(|checked| crc32c::crc32c(checked) == self.checksum)
    }

    fn write(&self, out: &mut [u8]) {
        let magic = if self.seal { SEAL } else { FRAME };
        out[0..4].copy_from_slice(&magic.to_le_bytes());
        let numbers = [
            self.life,
            self.segment,
            self.number,
            self.durable,
            self.epoch,
            self.first,
            self.next,
        ];
        for (at, number) in numbers.into_iter().enumerate() {
            out[8 + at * 8..16 + at * 8].copy_from_slice(&number.to_le_bytes());
        }
        for (at, number) in [self.total, self.meta, self.messages, self.records]
            .into_iter()
            .enumerate()
        {
            out[64 + at * 4..68 + at * 4].copy_from_slice(&number.to_le_bytes());
        }
        let checksum = crc32c::crc32c(&out[8..self.checked_bytes()]);
        out[4..8].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// A frame being made, in buffers that are used again and again. Payloads are not in them: they are
/// copied once, when the frame is put together.
#[derive(Default)]
pub(crate) struct Builder {
    /// Header and meta part.
    front: Vec<u8>,
    /// Bodies; of the messages of a group what stands before the payload.
    bodies: Vec<u8>,
    /// Where the part of each message of the group ends in `bodies`; none for bodies that are whole.
    ends: Vec<usize>,
    /// Bytes of all bodies, payloads included.
    body_bytes: usize,
    padding: usize,
    first: u64,
    next: u64,
    last: u64,
    messages: u32,
    records: u32,
}

/// The largest frame: its length is 32 bits, with room for the padding.
const TOTAL_MAX: usize = u32::MAX as usize - 1024;
/// What a buffer may keep between frames.
const BUFFER_KEPT: usize = 8 * 1024 * 1024;

impl Builder {
    /// Starts a frame whose messages come after `next`.
    pub(crate) fn start(&mut self, next: u64) {
        for buffer in [&mut self.front, &mut self.bodies] {
            buffer.clear();
            buffer.shrink_to(BUFFER_KEPT);
        }
        self.ends.clear();
        self.front.resize(HEADER, 0);
        (self.body_bytes, self.padding) = (0, 0);
        (self.first, self.next, self.last) = (next, next, next);
        (self.messages, self.records) = (0, 0);
    }

    /// Encodes a whole group. `false` when it is too large for a frame.
    pub(crate) fn encode(&mut self, group: &Group, next: u64) -> bool {
        self.start(next);
        for message in &group.messages {
            let start = self.bodies.len();
            codec::message::put_head(&mut self.bodies, message);
            self.ends.push(self.bodies.len());
            let head = &self.bodies[start..];
            let checksum = crc32c::crc32c_append(crc32c::crc32c(head), &message.payload);
            let length = head.len() + message.payload.len();
            self.put_row(message.position.0, length, checksum);
        }
        self.next = self.next.max(group.next_position.0);
        codec::record::put_all(&mut self.front, &group.records);
        self.records = u32::try_from(group.records.len()).unwrap_or(u32::MAX);
        self.pad()
    }

    /// Adds a body that is encoded already. Positions ascend.
    pub(crate) fn put_body(&mut self, position: Position, body: &[u8]) {
        self.bodies.extend_from_slice(body);
        self.put_row(position.0, body.len(), crc32c::crc32c(body));
    }

    fn put_row(&mut self, position: u64, length: usize, checksum: u32) {
        if self.messages == 0 {
            self.first = position;
            self.last = position;
        }
        put_varint(&mut self.front, position.saturating_sub(self.last));
        put_varint(&mut self.front, length as u64);
        self.front.extend_from_slice(&checksum.to_le_bytes());
        self.body_bytes += length;
        self.last = position;
        self.next = self.next.max(position.saturating_add(1));
        self.messages += 1;
    }

    /// Ends the frame with its padding.
    pub(crate) fn pad(&mut self) -> bool {
        if self.messages == 0 {
            self.first = self.next;
        }
        let total = self.front.len() + self.body_bytes;
        let padded = total.next_multiple_of(ALIGN as usize);
        self.padding = padded - total;
        padded <= TOTAL_MAX
    }

    pub(crate) fn total(&self) -> u64 {
        (self.front.len() + self.body_bytes + self.padding) as u64
    }

    /// Puts the frame together, behind what is in `out`. `messages` are those of the group that was
    /// encoded; none for bodies that were put in as a whole.
    pub(crate) fn put_into(&self, messages: &[SharedMessage], out: &mut Vec<u8>) {
        out.reserve(self.total() as usize);
        out.extend_from_slice(&self.front);
        if self.ends.is_empty() {
            out.extend_from_slice(&self.bodies);
        }
        let mut start = 0;
        for (end, message) in self.ends.iter().zip(messages) {
            out.extend_from_slice(&self.bodies[start..*end]);
            out.extend_from_slice(&message.payload);
            start = *end;
        }
        out.resize(out.len() + self.padding, 0);
    }

    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Says where the frame stands. After that it can be put together.
    pub(crate) fn finish(&mut self, place: Place) {
        let head = Head {
            seal: false,
            checksum: 0,
            life: place.life,
            segment: place.segment,
            number: place.number,
            durable: place.durable,
            epoch: place.epoch,
            first: self.first,
            next: self.next,
            total: self.total() as u32,
            meta: (self.front.len() - HEADER) as u32,
            messages: self.messages,
            records: self.records,
        };
        head.write(&mut self.front);
    }
}

/// What stands behind the last frame of a finished segment, with the number of the frame that would
/// follow.
pub(crate) fn seal(place: Place, next: u64) -> [u8; HEADER] {
    let mut out = [0; HEADER];
    let head = Head {
        seal: true,
        checksum: 0,
        life: place.life,
        segment: place.segment,
        number: place.number,
        durable: place.durable,
        epoch: place.epoch,
        first: next,
        next,
        total: HEADER as u32,
        meta: 0,
        messages: 0,
        records: 0,
    };
    head.write(&mut out);
    out
}

/// Reads the body table of a frame whose meta part is `meta`, and gives back what follows it.
pub(crate) fn table<'a>(
    head: &Head,
    meta: &'a [u8],
    into: &mut Vec<Body>,
) -> Result<Reader<'a>, Malformed> {
    into.clear();
    let mut reader = Reader::new(meta);
    let mut position = head.first;
    let mut offset = head.checked_bytes();
    for _ in 0..head.messages {
        position = position
            .checked_add(reader.varint()?)
            .ok_or(Malformed("a position is out of range"))?;
        let length = usize::try_from(reader.varint()?).unwrap_or(usize::MAX);
        let checksum = u32::from_le_bytes(reader.array()?);
        let body = Body {
            position: Position(position),
            offset,
            length,
            checksum,
        };
        offset = offset
            .checked_add(length)
            .filter(|end| *end <= head.total as usize)
            .ok_or(Malformed("a message reaches beyond its frame"))?;
        into.push(body);
    }
    Ok(reader)
}

/// Reads the records of a frame whose meta part is `meta`.
pub(crate) fn records(
    head: &Head,
    meta: &[u8],
    bodies: &mut Vec<Body>,
) -> Result<Vec<Record>, Malformed> {
    let mut reader = table(head, meta, bodies)?;
    codec::record::take_all(&mut reader, head.records as usize)
}
