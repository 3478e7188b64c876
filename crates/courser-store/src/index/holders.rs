//! Which segments of the log hold something that lives.
//!
//! ```text
//! ms  part:u16    version:u8, then of each segment, by what it is beyond the one before: frame  position
//! ```
//!
//! Every checkpoint writes this list when it has changed, and no segment is given back before a checkpoint has left it out.
//! So a start knows when a file is gone whose messages live, without reading any of them.

use std::sync::Arc;

use super::{Index, PART_BYTES, PARTS, Parts, keys};
use crate::{
    StoreError,
    codec::{Malformed, Reader, put_varint},
    log::segment::{Segment, SegmentHeader},
};

const VERSION: u8 = 1;
/// Bytes of the list. It ends where it is full: with the 130,000th segment or later, behind 8 TB of the log.
const BYTES_MAX: usize = PARTS * PART_BYTES;
/// Bytes of two numbers.
const NUMBERS_BYTES_MAX: usize = 2 * 10;

/// A segment with something that lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    /// Its first frame, which is its name.
    pub(crate) frame: u64,
    /// No message in it is before this position.
    pub(crate) position: u64,
}

impl From<&SegmentHeader> for Holder {
    fn from(header: &SegmentHeader) -> Self {
        Self {
            frame: header.frame,
            position: header.position,
        }
    }
}

/// Those whose segment is not among these, which are by frame.
pub(crate) fn gone<'a>(
    holders: &'a [Holder],
    segments: &'a [Arc<Segment>],
) -> impl Iterator<Item = &'a Holder> {
    let frame = |segment: &Arc<Segment>| segment.header.frame;
    holders
        .iter()
        .filter(move |holder| segments.binary_search_by_key(&holder.frame, frame).is_err())
}

impl Index {
    /// The segments that hold something that lives, as of the last checkpoint, by frame. `None` when no checkpoint has
    /// written that.
    pub(crate) fn holders(&self) -> Result<Option<Vec<Holder>>, StoreError> {
        let mut parts = Parts::default();
        let mut holders = None;
        self.scan(keys::HOLDERS, "the list of segments", |key, value| {
            if let Some(found) = take_part(&mut parts, key, value)? {
                holders = Some(found);
            }
            Ok(())
        })?;
        Ok(holders)
    }

    /// Writes which segments hold something that lives. Whoever writes meta afterwards makes it durable.
    pub(crate) fn write_holders(&self, holders: &[Holder]) -> Result<(), StoreError> {
        let mut writer = self.writer();
        writer.put_parts(keys::HOLDERS, &encode(holders))?;
        writer.apply()
    }
}

/// The list, when this was its last part.
pub(super) fn take_part(
    parts: &mut Parts,
    key: &[u8],
    value: &[u8],
) -> Result<Option<Vec<Holder>>, Malformed> {
    let part = keys::parse_holders(key).ok_or(Malformed("a key is too short"))?;
    parts.add(part, value)?.map(decode).transpose()
}

pub(super) fn encode(holders: &[Holder]) -> Vec<u8> {
    let mut value = vec![VERSION];
    let (mut frame, mut position) = (0, 0);
    for holder in holders {
        if value.len() + NUMBERS_BYTES_MAX > BYTES_MAX {
            break;
        }
        put_varint(&mut value, holder.frame - frame);
        put_varint(&mut value, holder.position - position);
        Holder { frame, position } = *holder;
    }
    value
}

pub(super) fn decode(bytes: &[u8]) -> Result<Vec<Holder>, Malformed> {
    let mut reader = Reader::new(bytes);
    if reader.byte()? != VERSION {
        return Err(Malformed("an unknown version"));
    }
    let mut holders = Vec::new();
    let (mut frame, mut position) = (0_u64, 0_u64);
    while reader.left() > 0 {
        let beyond = reader.varint()?;
        if beyond == 0 {
            return Err(Malformed("a segment stands there twice"));
        }
        let sums = (
            frame.checked_add(beyond),
            position.checked_add(reader.varint()?),
        );
        let (Some(next_frame), Some(next_position)) = sums else {
            return Err(Malformed("a number is too large"));
        };
        (frame, position) = (next_frame, next_position);
        holders.push(Holder { frame, position });
    }
    Ok(holders)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(frame: u64, position: u64) -> Holder {
        Holder { frame, position }
    }

    #[test]
    fn a_list_comes_back() {
        let lists: [&[Holder]; 3] = [
            &[],
            &[holder(1, 1)],
            &[holder(1, 1), holder(70_000, 1), holder(70_001, u64::MAX)],
        ];
        for list in lists {
            assert_eq!(decode(&encode(list)).as_deref(), Ok(list));
        }
        assert!(decode(&[VERSION, 1, 1, 0, 1]).is_err(), "the same twice");
        assert!(decode(&[VERSION, 2, 1, 1]).is_err(), "half of one");
        assert!(decode(&[VERSION + 1]).is_err(), "of a later version");
    }

    #[test]
    fn a_list_that_is_too_long_ends_before() {
        // As many frames and messages as fit into a segment of the default size.
        let list: Vec<_> = (1..=150_000).map(|n| holder(n << 20, n << 20)).collect();
        let value = encode(&list);
        assert!(value.len() <= BYTES_MAX);
        let kept = decode(&value).unwrap();
        assert!(kept.len() > 130_000, "{}", kept.len());
        assert_eq!(kept, list[..kept.len()]);
    }
}
