//! What a recovery does with the log: give back the frames after the checkpoint, find the end, cut a
//! torn tail.
//!
//! A frame that is not whole is a torn tail when it is in the last segment and nothing behind it shows
//! that it was once durable: every frame names the last frame that was durable when it was written. So
//! frames that were written after a sync failed to come (a power cut takes blocks in any order) are
//! cut together, and one that rotted in the middle of the log is damage. Behind a seal there is
//! nothing; a segment that is not the last one must have one, and the last one has one after the store
//! was closed.

use std::{
    os::unix::fs::FileExt,
    sync::{Arc, atomic::Ordering},
};

use courser_core::record::Record;

use super::{
    Log,
    active::Active,
    frame::{self, Body, Head},
    segment::{self, Segment},
    window::Window,
};
use crate::StoreError;

/// Bytes read at once.
const AHEAD_BYTES: usize = 1024 * 1024;

/// What a replay found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Replayed {
    /// The position after the last message of the frames looked at; 0 when there were none.
    pub(crate) next_position: u64,
    pub(crate) torn_bytes: u64,
    /// The last frame of the log.
    pub(crate) last_frame: u64,
    /// Of the writer from now on: after all whose frames were seen.
    pub(crate) epoch: u64,
}

/// Takes the records of a frame.
pub(crate) type Visit<'a> = dyn FnMut(Vec<Record>) -> Result<(), StoreError> + 'a;

struct Walk<'a> {
    upto: u64,
    /// The number of the next frame.
    expected: u64,
    window: Window,
    bodies: Vec<Body>,
    visit: &'a mut Visit<'a>,
    replayed: Replayed,
}

/// What stands at an offset.
enum Found {
    Frame(Head),
    Seal(Head),
    /// Not a whole frame of this place.
    Nothing(Broken),
}

/// Why a frame is not whole, and where in it: the same place that `scan.rs` finds.
#[derive(Clone, Copy)]
struct Broken {
    offset: u64,
    why: &'static str,
}

impl Log {
    /// Visits all frames after `upto`, in order, cuts a torn tail, and makes the log ready to be
    /// appended to by the writer of this `epoch`, or of a later one if the log has seen it: an index
    /// that lost its end must not lead to an epoch that was there before.
    pub(crate) fn replay<'a>(
        &self,
        upto: u64,
        next_position: u64,
        epoch: u64,
        visit: &'a mut Visit<'a>,
    ) -> Result<Replayed, StoreError> {
        let segments = self.segments();
        let mut walk = Walk {
            upto,
            expected: upto + 1,
            window: Window::new(AHEAD_BYTES),
            bodies: Vec::new(),
            visit,
            replayed: Replayed {
                epoch,
                ..Replayed::default()
            },
        };
        let mut active = None;
        for (at, segment) in segments.iter().enumerate() {
            match segments.get(at + 1) {
                Some(next) if next.header.frame <= upto + 1 => {}
                next => active = Some(walk.segment(segment, next.is_none(), active.is_none())?),
            }
        }
        // The last segment is never dropped: an index without a log lost it.
        let last = if segments.is_empty() {
            0
        } else {
            walk.expected - 1
        };
        if last < upto {
            let path = segments
                .last()
                .map_or(&self.folder, |segment| &segment.path);
            return Err(StoreError::damaged(path, 0, &ends_early(last, upto)));
        }
        let mut writer = self.writer.lock();
        writer.active = active;
        writer.next_frame = last + 1;
        writer.next_position = next_position.max(walk.replayed.next_position);
        writer.epoch = walk.replayed.epoch;
        // What was replayed is on the disk before anything refers to it.
        if let Some(active) = &writer.active {
            let segment = &active.segment;
            segment
                .file
                .sync_data()
                .map_err(|error| segment.io("sync", error))?;
        }
        self.durable.store(last, Ordering::Release);
        walk.replayed.last_frame = last;
        Ok(walk.replayed)
    }
}

fn ends_early(last: u64, upto: u64) -> String {
    format!("the log ends at frame {last}, but the index was at frame {upto}")
}

impl Walk<'_> {
    /// Visits a segment, and says where it ends.
    fn segment(
        &mut self,
        segment: &Arc<Segment>,
        is_last: bool,
        is_first: bool,
    ) -> Result<Active, StoreError> {
        let first = segment.header.frame;
        if first > self.expected || (!is_first && first < self.expected) {
            let why = if is_first {
                format!(
                    "the log begins with frame {first}, but the index stands at frame {}: the index lost \
                     what it held, or files of the log are gone",
                    self.upto
                )
            } else {
                format!(
                    "frame {} should come here, not frame {first}",
                    self.expected
                )
            };
            return Err(segment.damaged(0, &why));
        }
        self.expected = first;
        segment.clear_anchors();
        self.window.reset(AHEAD_BYTES);
        let mut offset = segment::HEADER;
        self.replayed.next_position = self.replayed.next_position.max(segment.header.position);
        loop {
            match self.find(segment, offset)? {
                Found::Frame(head) => {
                    self.replayed.epoch = self.replayed.epoch.max(head.epoch.saturating_add(1));
                    self.take(segment, offset, &head)?;
                    offset += u64::from(head.total);
                    self.expected += 1;
                }
                Found::Seal(head) => {
                    self.replayed.epoch = self.replayed.epoch.max(head.epoch.saturating_add(1));
                    if is_last {
                        let end = Broken {
                            offset,
                            why: "the log was closed here",
                        };
                        self.check_end(segment, end)?;
                        // It is written over: a frame that a power cut left behind another seal in
                        // its place must not follow the new one.
                        let behind = offset + u64::from(head.total);
                        self.replayed.torn_bytes += self.cut(segment, behind, end)?;
                    }
                    break;
                }
                Found::Nothing(broken) if is_last => {
                    self.check_end(segment, broken)?;
                    self.replayed.torn_bytes += self.cut(segment, offset, broken)?;
                    break;
                }
                Found::Nothing(broken) => return Err(segment.damaged(broken.offset, broken.why)),
            }
        }
        segment.set_complete();
        Active::resume(Arc::clone(segment), offset)
    }

    /// The log may end here only if the index has seen nothing behind it: what is cut is gone, and could
    /// still be salvaged.
    fn check_end(&self, segment: &Segment, end: Broken) -> Result<(), StoreError> {
        if self.expected > self.upto {
            return Ok(());
        }
        let why = ends_early(self.expected - 1, self.upto);
        Err(segment.damaged(end.offset, &format!("{}, and {why}", end.why)))
    }

    /// Looks at the frame at an offset, down to the checksums of its bodies.
    fn find(&mut self, segment: &Segment, offset: u64) -> Result<Found, StoreError> {
        let io = |error| segment.io("read", error);
        let nothing = |why| Ok(Found::Nothing(Broken { offset, why }));
        let bytes = self
            .window
            .get(segment, offset, frame::HEADER)
            .map_err(io)?;
        let Some(head) = bytes.and_then(Head::parse) else {
            return nothing("there should be a frame");
        };
        if head.life != segment.header.life || head.number != self.expected {
            return nothing("the frame belongs elsewhere");
        }
        let Some(bytes) = self
            .window
            .get(segment, offset, head.total as usize)
            .map_err(io)?
        else {
            return nothing("the frame is longer than the file");
        };
        if !head.is_intact(bytes) {
            return nothing("the checksum of the frame is wrong");
        }
        if head.seal {
            return Ok(Found::Seal(head));
        }
        let meta = &bytes[frame::HEADER..head.checked_bytes()];
        frame::table(&head, meta, &mut self.bodies)
            .map_err(|error| segment.damaged(offset, error.0))?;
        let is_good = |body: &Body| crc32c::crc32c(&bytes[body.range()]) == body.checksum;
        Ok(match self.bodies.iter().find(|body| !is_good(body)) {
            Some(body) => Found::Nothing(Broken {
                offset: offset + body.offset as u64,
                why: "the checksum of the message is wrong",
            }),
            None => Found::Frame(head),
        })
    }

    fn take(&mut self, segment: &Segment, offset: u64, head: &Head) -> Result<(), StoreError> {
        segment.add_frame(offset, head.first, offset + u64::from(head.total));
        self.replayed.next_position = self.replayed.next_position.max(head.next);
        if head.number <= self.upto {
            return Ok(());
        }
        if segment.header.weight.is_some() {
            let why = format!(
                "frame {} lost its records when it was rewritten, but the index stands at frame {}: the \
                 index lost what it held",
                head.number, self.upto
            );
            return Err(segment.damaged(offset, &why));
        }
        let records = self
            .window
            .held(offset, head.checked_bytes())
            .ok_or(crate::codec::Malformed("the frame went away"))
            .and_then(|bytes| frame::records(head, &bytes[frame::HEADER..], &mut self.bodies))
            .map_err(|error| segment.damaged(offset, error.0))?;
        (self.visit)(records)
    }

    /// The log ends here: makes sure that what stands behind can never be taken for a frame. Answers
    /// how many bytes of frames were cut.
    fn cut(&mut self, segment: &Segment, offset: u64, broken: Broken) -> Result<u64, StoreError> {
        let mut torn_end = offset;
        let mut at = offset;
        while let Some(found) = self.next_of_this_life(segment, at)? {
            let bytes = self.window.get(segment, found, frame::HEADER);
            let head = bytes
                .map_err(|error| segment.io("read", error))?
                .and_then(Head::parse);
            if let Some(head) = head {
                self.check_was_not_durable(segment, broken, found, &head)?;
                torn_end = torn_end.max(found.saturating_add(u64::from(head.total)));
            }
            torn_end = torn_end.max(found + frame::ALIGN);
            at = found + frame::ALIGN;
        }
        let torn_end = torn_end.min(segment.length());
        if torn_end > offset {
            zero(segment, offset)?;
            let bytes = torn_end - offset;
            tracing::warn!(path = %segment.path.display(), offset, bytes, "cut a torn tail");
            return Ok(bytes);
        }
        Ok(0)
    }

    /// The next aligned place that carries the life of this file.
    fn next_of_this_life(
        &mut self,
        segment: &Segment,
        from: u64,
    ) -> Result<Option<u64>, StoreError> {
        let life = segment.header.life.to_le_bytes();
        let mut at = from;
        loop {
            let left = segment.length().saturating_sub(at);
            let step = left.min(AHEAD_BYTES as u64) & !(frame::ALIGN - 1);
            let bytes = self.window.get(segment, at, step as usize);
            let Some(bytes) = bytes.map_err(|error| segment.io("read", error))? else {
                return Ok(None);
            };
            let found = bytes
                .chunks_exact(frame::ALIGN as usize)
                .position(|c| c[8..] == life);
            match found {
                Some(found) => return Ok(Some(at + found as u64 * frame::ALIGN)),
                None if step == 0 => return Ok(None),
                None => at += step,
            }
        }
    }

    /// An intact frame behind the end that knows frames at the end to be durable: these were lost.
    fn check_was_not_durable(
        &mut self,
        segment: &Segment,
        broken: Broken,
        found: u64,
        head: &Head,
    ) -> Result<(), StoreError> {
        if head.number < self.expected || head.durable < self.expected {
            return Ok(());
        }
        let bytes = self.window.get(segment, found, head.checked_bytes());
        if bytes
            .map_err(|error| segment.io("read", error))?
            .is_some_and(|b| head.is_intact(b))
        {
            let why = format!(
                "{}, and frame {} was durable: frame {}, which follows at byte {found}, knows that",
                broken.why, self.expected, head.number
            );
            return Err(segment.damaged(broken.offset, &why));
        }
        Ok(())
    }
}

/// Overwrites the rest of a segment.
fn zero(segment: &Segment, from: u64) -> Result<(), StoreError> {
    let zeros = vec![0; AHEAD_BYTES];
    let mut at = from;
    while at < segment.length() {
        let step = (segment.length() - at).min(AHEAD_BYTES as u64);
        segment
            .file
            .write_all_at(&zeros[..step as usize], at)
            .map_err(|error| segment.io("write", error))?;
        at += step;
    }
    segment
        .file
        .sync_data()
        .map_err(|error| segment.io("sync", error))
}
