//! Fields as protobuf lays them out. One that has its default is left out, as prost does it.

use bytes::BufMut;
use courser_core::{message::MessageId, time::Timestamp};
use prost::encoding::encoded_len_varint;
use uuid::Uuid;

/// All our fields have numbers below 16, so a key is one byte.
const KEY_BYTES: usize = 1;

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const LENGTH: u8 = 2;

/// More than the small fields of a message take that stand side by side.
const SMALL_BYTES: usize = 64;

/// Writes small fields, which have at most `SMALL_BYTES` together, through memory of a fixed size: a buffer that
/// may have to grow takes longer over each of them than the field itself.
pub(super) fn write_small(buffer: &mut impl BufMut, write: impl FnOnce(&mut &mut [u8])) {
    let mut space = [0; SMALL_BYTES];
    let mut rest = &mut space[..];
    write(&mut rest);
    let used = SMALL_BYTES - rest.len();
    buffer.put_slice(&space[..used]);
}

fn put_varint(mut value: u64, buffer: &mut impl BufMut) {
    while value >= 0x80 {
        buffer.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    buffer.put_u8(value as u8);
}

/// The bytes of a field of `bytes` bytes, its length included.
pub(super) fn nested_len(bytes: usize) -> usize {
    KEY_BYTES + encoded_len_varint(bytes as u64) + bytes
}

/// Writes the beginning of a field of `bytes` bytes.
pub(super) fn write_nested(number: u8, bytes: usize, buffer: &mut impl BufMut) {
    buffer.put_u8(number << 3 | LENGTH);
    put_varint(bytes as u64, buffer);
}

pub(super) fn bytes_len(value: &[u8]) -> usize {
    if value.is_empty() {
        0
    } else {
        nested_len(value.len())
    }
}

pub(super) fn write_bytes(number: u8, value: &[u8], buffer: &mut impl BufMut) {
    if !value.is_empty() {
        write_small(buffer, |small| write_nested(number, value.len(), small));
        buffer.put_slice(value);
    }
}

pub(super) fn fixed64_len(value: u64) -> usize {
    if value == 0 { 0 } else { KEY_BYTES + 8 }
}

pub(super) fn write_fixed64(number: u8, value: u64, buffer: &mut impl BufMut) {
    if value != 0 {
        buffer.put_u8(number << 3 | FIXED64);
        buffer.put_u64_le(value);
    }
}

pub(super) fn varint_len(value: u64) -> usize {
    if value == 0 {
        0
    } else {
        KEY_BYTES + encoded_len_varint(value)
    }
}

pub(super) fn write_varint(number: u8, value: u64, buffer: &mut impl BufMut) {
    if value != 0 {
        buffer.put_u8(number << 3 | VARINT);
        put_varint(value, buffer);
    }
}

/// Seconds and nanoseconds of a moment.
fn parts(timestamp: Timestamp) -> (u64, u64) {
    let micros = timestamp.as_micros();
    (micros / 1_000_000, micros % 1_000_000 * 1_000)
}

/// The bytes of a google.protobuf.Timestamp field.
pub(super) fn timestamp_len(timestamp: Timestamp) -> usize {
    let (seconds, nanos) = parts(timestamp);
    nested_len(varint_len(seconds) + varint_len(nanos))
}

/// Writes google.protobuf.Timestamp fields of moments that mostly are the same one after the other.
#[derive(Default)]
pub(super) struct Timestamps {
    last: Timestamp,
    /// `last` with its length before it, once it has been written.
    encoded: [u8; TIMESTAMP_BYTES_MAX],
    used: usize,
}

/// A length and two numbers: twice what any moment that is told in microseconds needs.
const TIMESTAMP_BYTES_MAX: usize = 32;

impl Timestamps {
    pub(super) fn write(&mut self, number: u8, timestamp: Timestamp, buffer: &mut impl BufMut) {
        if self.used == 0 || timestamp != self.last {
            self.encode(timestamp);
        }
        buffer.put_u8(number << 3 | LENGTH);
        buffer.put_slice(&self.encoded[..self.used]);
    }

    fn encode(&mut self, timestamp: Timestamp) {
        let (seconds, nanos) = parts(timestamp);
        let mut rest = &mut self.encoded[..];
        put_varint((varint_len(seconds) + varint_len(nanos)) as u64, &mut rest);
        write_varint(1, seconds, &mut rest);
        write_varint(2, nanos, &mut rest);
        self.used = TIMESTAMP_BYTES_MAX - rest.len();
        self.last = timestamp;
    }
}

/// The bytes of the field with the id of a message.
pub(super) fn message_id_len(id: &MessageId) -> usize {
    match id {
        MessageId::Uuid(_) => nested_len(uuid::fmt::Hyphenated::LENGTH),
        MessageId::Given(id) => bytes_len(id.as_bytes()),
    }
}

pub(super) fn write_message_id(number: u8, id: &MessageId, buffer: &mut impl BufMut) {
    match id {
        MessageId::Uuid(uuid) => {
            let mut text = Uuid::encode_buffer();
            let text = uuid.hyphenated().encode_lower(&mut text);
            write_small(buffer, |small| {
                write_nested(number, text.len(), small);
                small.put_slice(text.as_bytes());
            });
        }
        MessageId::Given(id) => write_bytes(number, id.as_bytes(), buffer),
    }
}
