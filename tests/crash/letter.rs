//! The payloads: each says who sent it and which one it is, and every byte of it can be checked.

use bytes::Bytes;

use crate::random::Random;

/// Which message: the producer, and its number among those of this producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Letter {
    pub(crate) producer: u32,
    pub(crate) number: u32,
}

/// Producer and number.
const HEAD: usize = 8;

impl Letter {
    /// A payload of `bytes` bytes, eight at least.
    pub(crate) fn write(self, bytes: usize) -> Bytes {
        let mut payload = Vec::with_capacity(bytes + 8);
        payload.extend_from_slice(&self.producer.to_le_bytes());
        payload.extend_from_slice(&self.number.to_le_bytes());
        let mut noise = self.noise();
        while payload.len() < bytes {
            payload.extend_from_slice(&noise.next().to_le_bytes());
        }
        payload.truncate(bytes.max(HEAD));
        Bytes::from(payload)
    }

    /// Reads a payload; `None` when any byte of it is not what was written.
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let (head, _) = payload.split_first_chunk::<HEAD>()?;
        let letter = Self {
            producer: u32::from_le_bytes(head[..4].try_into().ok()?),
            number: u32::from_le_bytes(head[4..].try_into().ok()?),
        };
        (letter.write(payload.len()) == payload).then_some(letter)
    }

    fn noise(self) -> Random {
        Random::new((u64::from(self.producer) << 32) | u64::from(self.number))
    }
}
