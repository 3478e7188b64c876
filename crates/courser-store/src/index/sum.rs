//! How the index knows that nothing of it changed or went: a checksum in every value, and one sum over
//! all of them.
//!
//! ```text
//! value    what it says, then CRC32C of its key and of what it says
//! s        version:u8  keys  bytes  hash:u64, and its checksum like every value
//! ```
//!
//! sled has checksums of its own, but where one fails at the end of its log it takes what follows for
//! never written, and goes on without. So every batch writes anew what all keys and values add up to;
//! a start adds them up again and compares. The hash is a sum of hashes: a change costs no scan.

use crate::codec::{Malformed, Reader, put_varint};

const VERSION: u8 = 1;
/// Bytes of the checksum behind a value.
pub(super) const CHECK_BYTES: usize = 4;

fn check(key: &[u8], value: &[u8]) -> [u8; CHECK_BYTES] {
    crc32c::crc32c_append(crc32c::crc32c(key), value).to_le_bytes()
}

/// Puts the checksum behind a value.
pub(super) fn seal(key: &[u8], value: &mut Vec<u8>) {
    let check = check(key, value);
    value.extend_from_slice(&check);
}

/// What stands before a checksum that is right.
pub(super) fn open<'a>(key: &[u8], sealed: &'a [u8]) -> Result<&'a [u8], Malformed> {
    sealed
        .split_last_chunk()
        .filter(|(value, found)| **found == check(key, value))
        .map(|(value, _)| value)
        .ok_or(Malformed("its checksum is wrong"))
}

/// What sealed values add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    keys: u64,
    /// Of keys and values.
    pub(super) bytes: u64,
    hash: u64,
}

impl Sum {
    pub(super) fn add(&mut self, key: &[u8], sealed: &[u8]) {
        self.plus(Self::of(key, sealed));
    }

    pub(super) fn remove(&mut self, key: &[u8], sealed: &[u8]) {
        let of = Self::of(key, sealed);
        self.keys = self.keys.wrapping_sub(of.keys);
        self.bytes = self.bytes.wrapping_sub(of.bytes);
        self.hash = self.hash.wrapping_sub(of.hash);
    }

    pub(super) fn plus(&mut self, other: Self) {
        self.keys = self.keys.wrapping_add(other.keys);
        self.bytes = self.bytes.wrapping_add(other.bytes);
        self.hash = self.hash.wrapping_add(other.hash);
    }

    /// Of one value: its checksum is the last of it, and covers its key.
    fn of(key: &[u8], sealed: &[u8]) -> Self {
        let check = sealed.last_chunk::<CHECK_BYTES>().copied();
        let check = u32::from_le_bytes(check.unwrap_or_default());
        Self {
            keys: 1,
            bytes: (key.len() + sealed.len()) as u64,
            hash: mix(u64::from(check) << 32 | sealed.len() as u64),
        }
    }

    pub(super) fn encode(self, key: &[u8]) -> Vec<u8> {
        let mut value = vec![VERSION];
        put_varint(&mut value, self.keys);
        put_varint(&mut value, self.bytes);
        value.extend_from_slice(&self.hash.to_le_bytes());
        seal(key, &mut value);
        value
    }

    pub(super) fn decode(key: &[u8], sealed: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(open(key, sealed)?);
        if reader.byte()? != VERSION {
            return Err(Malformed("an unknown version"));
        }
        Ok(Self {
            keys: reader.varint()?,
            bytes: reader.varint()?,
            hash: u64::from_le_bytes(reader.array()?),
        })
    }
}

/// Spreads a number over 64 bits (the finalizer of splitmix64), so that no two changes cancel out.
fn mix(mut n: u64) -> u64 {
    n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(key: &[u8], value: &[u8]) -> Vec<u8> {
        let mut value = value.to_vec();
        seal(key, &mut value);
        value
    }

    #[test]
    fn a_value_under_another_key_is_not_that_value() {
        let value = sealed(b"a", b"one");
        assert_eq!(open(b"a", &value), Ok(&b"one"[..]));
        assert!(open(b"b", &value).is_err());
        assert!(open(b"a", &value[1..]).is_err());
        assert!(open(b"a", b"").is_err());
    }

    #[test]
    fn a_sum_comes_back_and_tells_what_is_missing() {
        let items = [(b"a", b"one"), (b"b", b"two"), (b"c", b"one")];
        let mut sum = Sum::default();
        for (key, value) in items {
            sum.add(key, &sealed(key, value));
        }
        let kept = sum.encode(b"s");
        assert_eq!(Sum::decode(b"s", &kept), Ok(sum));
        let mut without = sum;
        without.remove(b"b", &sealed(b"b", b"two"));
        assert_ne!(without, sum);
        without.add(b"b", &sealed(b"b", b"owt"));
        assert_ne!(without, sum);
    }
}
