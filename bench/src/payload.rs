//! What a message carries: when it was meant to be sent, by which run and producer, and its number.
//!
//! ```text
//! 0        8      10         12        16
//! | nanos  | run  | producer | sequence | noise ...
//! ```

use bytes::{Bytes, BytesMut};

pub(crate) const HEADER_BYTES: usize = 16;

/// The beginning of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) nanos: u64,
    pub(crate) run: u16,
    pub(crate) producer: u16,
    pub(crate) sequence: u32,
}

impl Header {
    /// `None` when this is no payload of ours.
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let (nanos, rest) = payload.split_first_chunk()?;
        let (run, rest) = rest.split_first_chunk()?;
        let (producer, rest) = rest.split_first_chunk()?;
        let (sequence, _noise) = rest.split_first_chunk()?;
        Some(Self {
            nanos: u64::from_le_bytes(*nanos),
            run: u16::from_le_bytes(*run),
            producer: u16::from_le_bytes(*producer),
            sequence: u32::from_le_bytes(*sequence),
        })
    }

    fn write(self, to: &mut [u8]) {
        to[..8].copy_from_slice(&self.nanos.to_le_bytes());
        to[8..10].copy_from_slice(&self.run.to_le_bytes());
        to[10..12].copy_from_slice(&self.producer.to_le_bytes());
        to[12..16].copy_from_slice(&self.sequence.to_le_bytes());
    }
}

/// Makes payloads of one size. What follows the header does not compress, so that a server that
/// compresses gains nothing here that it would not gain with anybody's data.
#[derive(Debug)]
pub(crate) struct Payloads {
    noise: Vec<u8>,
}

impl Payloads {
    pub(crate) fn new(size: usize) -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut noise = Vec::with_capacity(size + 8);
        while noise.len() < size.max(HEADER_BYTES) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            noise.extend_from_slice(&state.to_le_bytes());
        }
        noise.truncate(size.max(HEADER_BYTES));
        Self { noise }
    }

    /// The payloads of `headers`, in one allocation.
    pub(crate) fn make(&self, headers: &[Header]) -> Vec<Bytes> {
        let size = self.noise.len();
        let mut bytes = BytesMut::with_capacity(headers.len() * size);
        for (index, header) in headers.iter().enumerate() {
            bytes.extend_from_slice(&self.noise);
            header.write(&mut bytes[index * size..]);
        }
        let bytes = bytes.freeze();
        (0..headers.len())
            .map(|index| bytes.slice(index * size..(index + 1) * size))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let header = Header {
            nanos: 7,
            run: 3,
            producer: 2,
            sequence: 10,
        };
        let next = Header {
            sequence: 11,
            ..header
        };
        let payloads = Payloads::new(100).make(&[header, next]);
        assert!(payloads.iter().all(|payload| payload.len() == 100));
        assert_eq!(Header::read(&payloads[1]), Some(next));
        assert_eq!(Header::read(b"short"), None);
    }
}
