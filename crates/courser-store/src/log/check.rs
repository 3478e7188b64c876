//! What a start looks at beside the frames that it replays: segments that the index is past, and a place at which
//! there was damage. Nothing is changed.

use std::sync::Arc;

use super::{
    Log,
    scan::{Found, Scan},
    segment::Segment,
};
use crate::StoreError;

impl Log {
    /// Looks through the segments that a replay leaves alone, for the index is at frame `upto`: from the first on, as
    /// long as they have no more than `bytes_max` together. Damage is told as `courser verify` tells it.
    pub(crate) fn check_settled(&self, upto: u64, bytes_max: u64) -> Result<(), StoreError> {
        let segments = self.segments();
        let mut bytes = 0;
        for (segment, next) in segments.iter().zip(segments.iter().skip(1)) {
            bytes += segment.length();
            if next.header.frame > upto.saturating_add(1) || bytes > bytes_max {
                break;
            }
            check_all(segment)?;
        }
        Ok(())
    }

    /// Looks again at a place of a file at which there was damage: at the way there from frame to frame, and
    /// at the message that lies there. A place at which the log has nothing any more is well.
    pub(crate) fn check_place(&self, file: &str, offset: u64) -> Result<(), StoreError> {
        let segments = self.segments();
        let is_named = |segment: &Segment| {
            let name = segment.path.file_name();
            name.is_some_and(|name| name == file)
        };
        let Some(at) = segments.iter().position(|segment| is_named(segment)) else {
            return Ok(());
        };
        let segment = &segments[at];
        let is_last = at + 1 == segments.len();
        // A copy in the page cache may be better than what is on the disk.
        let _ = rustix::fs::fadvise(&segment.file, 0, None, rustix::fs::Advice::DontNeed);
        let mut scan = Scan::new(segment);
        while let Some(found) = scan.next()?.filter(|found| found.offset() <= offset) {
            match found {
                Found::Frame(placed) if placed.end() > offset => {
                    return scan.check_message(&placed, offset);
                }
                Found::Frame(_) => {}
                Found::Seal(_) => break,
                // The last one ends anywhere, as in a backup from before.
                Found::End { traces, .. } if is_last && traces <= offset => break,
                Found::Gap { from, why }
                | Found::End {
                    offset: from, why, ..
                } => return Err(segment.damaged(from, why)),
            }
        }
        Ok(())
    }
}

/// All of a finished segment.
fn check_all(segment: &Arc<Segment>) -> Result<(), StoreError> {
    let mut scan = Scan::new(segment);
    while let Some(found) = scan.next()? {
        match found {
            Found::Frame(frame) => scan.check_messages(&frame)?,
            Found::Seal(_) => break,
            Found::Gap { from, why }
            | Found::End {
                offset: from, why, ..
            } => return Err(segment.damaged(from, why)),
        }
    }
    Ok(())
}
