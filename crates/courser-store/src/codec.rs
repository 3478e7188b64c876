//! How values become bytes, on the log and in the index alike.
//!
//! Numbers are LEB128 varints, differences are zigzag, text and bytes carry their length before them.
//! Every decoder is total: it checks bounds, never allocates more than what it was given, and answers
//! [`Malformed`] rather than panic, whatever the disk holds.
//!
//! To change an encoding:
//!
//! 1. give the changed thing a new tag (records) or raise its version byte (index values), or raise
//!    `VERSION` in `log/segment.rs` when the frame itself changes;
//! 2. keep the old reader, and write only the new form;
//! 3. add a test that reads bytes of the old form.

pub(crate) mod definition;
pub(crate) mod entry;
pub(crate) mod message;
pub(crate) mod note;
pub(crate) mod record;

use std::sync::Arc;

use courser_core::time::Timestamp;

/// Bytes that mean nothing to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The difference of two numbers in either direction: small ones are short.
pub(crate) fn put_difference(out: &mut Vec<u8>, value: u64, from: u64) {
    let difference = value.wrapping_sub(from) as i64;
    put_varint(out, ((difference << 1) ^ (difference >> 63)) as u64);
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// What is left to decode.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(crate) fn left(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Malformed> {
        let (&first, rest) = self
            .bytes
            .split_first()
            .ok_or(Malformed("it ends too early"))?;
        self.bytes = rest;
        Ok(first)
    }

    pub(crate) fn take(&mut self, bytes: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self
            .bytes
            .split_at_checked(bytes)
            .ok_or(Malformed("it ends too early"))?;
        self.bytes = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self
            .bytes
            .split_first_chunk::<N>()
            .ok_or(Malformed("it ends too early"))?;
        self.bytes = rest;
        Ok(*taken)
    }

    pub(crate) fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            // Of the tenth byte one bit is left.
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed("a number is too long"))
    }

    pub(crate) fn number(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.varint()?).map_err(|_| Malformed("a number is too large"))
    }

    /// A number of things that take at least a byte each.
    pub(crate) fn count(&mut self) -> Result<usize, Malformed> {
        let count = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
        if count > self.left() {
            Err(Malformed("a count is too large"))
        } else {
            Ok(count)
        }
    }

    pub(crate) fn difference(&mut self, from: u64) -> Result<u64, Malformed> {
        let zigzag = self.varint()?;
        let difference = (zigzag >> 1) ^ (zigzag & 1).wrapping_neg();
        Ok(from.wrapping_add(difference))
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.count()?;
        self.take(length)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed("a text is not UTF-8"))
    }

    pub(crate) fn boxed_text(&mut self) -> Result<Box<str>, Malformed> {
        Ok(self.text()?.into())
    }

    pub(crate) fn shared_text(&mut self) -> Result<Arc<str>, Malformed> {
        Ok(self.text()?.into())
    }

    pub(crate) fn bool(&mut self) -> Result<bool, Malformed> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("a truth value is neither 0 nor 1")),
        }
    }

    pub(crate) fn timestamp(&mut self) -> Result<Timestamp, Malformed> {
        Ok(Timestamp::from_micros(self.varint()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_differences_come_back() {
        for value in [
            0,
            1,
            127,
            128,
            300,
            u64::from(u32::MAX),
            u64::MAX - 1,
            u64::MAX,
        ] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            put_difference(&mut out, value, 1_000);
            put_difference(&mut out, 1_000, value);
            let mut reader = Reader::new(&out);
            assert_eq!(reader.varint(), Ok(value));
            assert_eq!(reader.difference(1_000), Ok(value));
            assert_eq!(reader.difference(value), Ok(1_000));
            assert_eq!(reader.left(), 0);
        }
    }

    #[test]
    fn a_length_beyond_the_end_is_malformed() {
        assert!(Reader::new(&[200, 1, 7]).bytes().is_err());
        assert!(Reader::new(&[0xff; 11]).varint().is_err());
        // The largest number, and one beyond it, which is not another one.
        let mut largest = [0xff; 10];
        largest[9] = 1;
        assert_eq!(Reader::new(&largest).varint(), Ok(u64::MAX));
        largest[9] = 2;
        assert!(Reader::new(&largest).varint().is_err());
        assert!(Reader::new(&[]).byte().is_err());
    }
}
