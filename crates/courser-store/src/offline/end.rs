//! Where the next start cuts the log.
//!
//! Asked before anything in the last segment is believed: what stands behind the cut was never
//! confirmed, so none of it lives, and nothing that it says was settled is settled.

use std::sync::Arc;

use super::Torn;
use crate::{
    StoreError,
    log::{
        frame::Head,
        scan::{Found, Placed, Scan},
        segment::Segment,
    },
};

/// The torn end of the last segment, by the rules of a start (`log/replay.rs`): from a place on at which
/// the next frame does not stand whole, unless an intact frame behind it knows that it was durable, or
/// the index, which has the log up to the frame `upto`, does. Then it is damage.
pub(super) fn torn_end(segment: &Arc<Segment>, upto: u64) -> Result<Option<Torn>, StoreError> {
    if segment.header.weight.is_some() {
        // Whole and sealed before it got its name.
        return Ok(None);
    }
    let torn_at = |offset, frame| Torn {
        path: segment.path.clone(),
        offset,
        bytes: 0,
        frame,
    };
    let mut scan = Scan::new(segment);
    let mut expected = segment.header.frame;
    let mut torn: Option<Torn> = None;
    let mut sealed = false;
    while let Some(found) = scan.next()? {
        match found {
            Found::Gap { from, .. } => {
                torn.get_or_insert_with(|| torn_at(from, expected));
            }
            Found::Frame(frame) | Found::Seal(frame) => {
                let first_lost = torn.as_ref().map_or(expected, |torn| torn.frame);
                if knows_durable(&frame.head, first_lost) {
                    // Something that was durable is missing or damaged: a start refuses, and cuts nothing.
                    return Ok(None);
                }
                if let Some(torn) = &mut torn {
                    torn.reach(frame.end());
                } else if sealed || frame.head.number != expected || !is_whole(&mut scan, &frame)? {
                    let torn = torn.insert(torn_at(frame.offset, expected));
                    torn.reach(frame.end());
                } else if frame.head.seal {
                    sealed = true;
                } else {
                    expected += 1;
                }
            }
            Found::End { offset, traces, .. } => {
                torn.get_or_insert_with(|| torn_at(offset, expected))
                    .reach(traces);
            }
        }
    }
    Ok(torn.filter(|torn| torn.bytes > 0 && torn.frame > upto))
}

/// Whether this frame was written when a frame that should stand before it was on the disk.
pub(super) fn knows_durable(behind: &Head, frame: u64) -> bool {
    behind.number >= frame && behind.durable >= frame
}

/// Whether all messages of the frame that came last are what was written.
fn is_whole(scan: &mut Scan, frame: &Placed) -> Result<bool, StoreError> {
    let bodies = std::mem::take(&mut scan.bodies);
    for body in &bodies {
        if scan.message(frame, body)?.is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Torn {
    /// It is known to go on up to here.
    fn reach(&mut self, end: u64) {
        self.bytes = self.bytes.max(end.saturating_sub(self.offset));
    }
}
