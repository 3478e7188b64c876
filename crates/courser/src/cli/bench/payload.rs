//! What a message of the bench carries: when it was sent, by which run and producer, and its number.
//!
//! ```text
//! 0        8      10         12        16
//! | nanos  | run  | producer | sequence | filling ...
//! ```

use std::time::SystemTime;

use bytes::{Bytes, BytesMut};

pub(super) const HEADER_BYTES: usize = 16;

/// The beginning of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) sent_nanos: u64,
    pub(super) run: u16,
    pub(super) producer: u16,
    pub(super) sequence: u32,
}

impl Header {
    fn write(self, to: &mut [u8]) {
        to[..8].copy_from_slice(&self.sent_nanos.to_le_bytes());
        to[8..10].copy_from_slice(&self.run.to_le_bytes());
        to[10..12].copy_from_slice(&self.producer.to_le_bytes());
        to[12..16].copy_from_slice(&self.sequence.to_le_bytes());
    }

    /// `None` when this is no payload of a bench.
    pub(super) fn read(payload: &[u8]) -> Option<Self> {
        let (nanos, rest) = payload.split_first_chunk()?;
        let (run, rest) = rest.split_first_chunk()?;
        let (producer, rest) = rest.split_first_chunk()?;
        let (sequence, _filling) = rest.split_first_chunk()?;
        Some(Self {
            sent_nanos: u64::from_le_bytes(*nanos),
            run: u16::from_le_bytes(*run),
            producer: u16::from_le_bytes(*producer),
            sequence: u32::from_le_bytes(*sequence),
        })
    }
}

/// `count` payloads of `size` bytes in one allocation, numbered from `first` on.
pub(super) fn batch(first: Header, count: u64, size: usize) -> impl Iterator<Item = Bytes> {
    let count = usize::try_from(count).expect("a batch has at most 1,000 messages");
    let mut bytes = BytesMut::zeroed(count * size);
    for (payload, offset) in bytes.chunks_exact_mut(size).zip(0_u32..) {
        Header {
            sequence: first.sequence.wrapping_add(offset),
            ..first
        }
        .write(payload);
    }
    let bytes = bytes.freeze();
    (0..count).map(move |index| bytes.slice(index * size..(index + 1) * size))
}

/// The wall clock, because producer and consumer may be different processes.
#[expect(
    clippy::disallowed_methods,
    reason = "a measuring device reads the clock"
)]
pub(super) fn now_nanos() -> u64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// A number that the runs before did not have, almost certainly.
pub(super) fn run_id() -> u16 {
    let nanos = now_nanos();
    // The lowest bits of a clock are often zero; fold all of them together.
    let folded = nanos ^ (nanos >> 16) ^ (nanos >> 32) ^ (nanos >> 48);
    u16::try_from(folded & 0xffff).expect("masked to 16 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_numbered() {
        let first = Header {
            sent_nanos: 7,
            run: 3,
            producer: 2,
            sequence: 10,
        };
        let payloads: Vec<Bytes> = batch(first, 3, 20).collect();
        assert_eq!(payloads.len(), 3);
        assert!(payloads.iter().all(|payload| payload.len() == 20));
        assert_eq!(
            Header::read(&payloads[2]),
            Some(Header {
                sequence: 12,
                ..first
            })
        );
        assert_eq!(Header::read(b"short"), None);
    }
}
