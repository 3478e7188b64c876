//! Giving disk back: dead segments go, mostly dead ones are rewritten. While the whole takes over a tenth
//! more than what lives, so are those of which a tenth is dead and nothing died lately: what a drained
//! queue leaves between the messages of its neighbours. One that is being consumed is left to that.
//!
//! A segment is dead when all of its frames are applied and no entry of the index refers to it.
//! Nothing is given back before the first checkpoint of this run has finished: a crash may have left
//! chunks of a checkpoint that did not, and by these alone a message that was just moved from one
//! queue to another may look unreferred. The index has a list of the segments that are not dead, by which a start finds out
//! when one is gone.
//!
//! The segment in use is kept as long as there is room. When there is little, it is finished early if it is mostly
//! dead, and goes the same way as the others; and no file waits for reuse.
//!
//! The index is looked after in the same breath: one that takes far more than what lives in it is made
//! anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
};

use courser_core::id::Position;

use super::DiskStore;
use crate::{
    Reclaimed, StoreError,
    index::{Holder, Meta, references},
    log::{Live, frame::BODY_OVERHEAD, segment::Segment},
};

/// Segments dropped in a step.
const DROPS: usize = 8;
/// Segments looked for in one scan of the index, and positions found in one.
const SCAN_SEGMENTS: usize = 64;
const SCAN_POSITIONS: u64 = 1_000_000;

/// Of finished segments, one byte in so many may be dead.
const DEAD_SHARE: u64 = 10;
/// And beside that one in so many of a segment.
const SLACK_SHARE: u64 = 4;

/// With less room than for so many segments none is prepared: for the one that it would be, and for what else grows.
const ROOM_SEGMENTS: u64 = 2;
/// To finish a segment takes a few blocks, which must not be the last.
const FINISH_ROOM: u64 = 1024 * 1024;

/// What the keeper remembers from step to step.
#[derive(Default)]
pub(super) struct Keeping {
    /// As it is on the disk.
    pub(super) meta: Meta,
    /// The segments that the index knows to hold something that lives, when it says so.
    pub(super) holders: Option<Vec<Holder>>,
    /// Whether a checkpoint was finished in this run.
    pub(super) checkpointed: bool,
    /// What lived in segments that are to be rewritten when the index was last scanned. Checkpoints
    /// since then can only have taken from it.
    pending: BTreeMap<u64, Live>,
    /// Segments that could not be rewritten in this run.
    left_alone: BTreeSet<u64>,
}

impl DiskStore {
    pub(super) fn reclaim_step(
        &self,
        keeping: &mut Keeping,
        keep_free: u64,
    ) -> Result<Reclaimed, StoreError> {
        let mut reclaimed = Reclaimed::default();
        let is_short = self.is_short(keep_free);
        self.log.allow_spares(!is_short)?;
        if keeping.checkpointed {
            if is_short && self.disk().is_some_and(|disk| disk.free >= FINISH_ROOM) {
                self.log
                    .finish_early(keeping.meta.next_position, is_mostly_dead)?;
            }
            let segments = self.log.segments();
            let applied = applied(&segments, keeping.meta.upto);
            self.drop_dead(applied, &mut reclaimed)?;
            if reclaimed.dropped == 0 {
                self.rewrite_one(&segments, applied, keeping, &mut reclaimed)?;
            }
        }
        if !reclaimed.more {
            for segment in self.log.segments() {
                let live_bytes = segment.live_bytes.load(Ordering::Relaxed);
                segment.live_bytes_seen.store(live_bytes, Ordering::Relaxed);
            }
            self.log.trim_spares()?;
            self.log.prepare_spare()?;
            self.index.make_anew_if_large()?;
        }
        Ok(reclaimed)
    }

    /// Whether the disk has little more than this.
    pub(super) fn is_short(&self, keep_free: u64) -> bool {
        let room = ROOM_SEGMENTS * self.log.segment_bytes;
        let needed = keep_free.saturating_add(room);
        self.disk().is_some_and(|disk| disk.free < needed)
    }

    fn drop_dead(
        &self,
        applied: &[Arc<Segment>],
        reclaimed: &mut Reclaimed,
    ) -> Result<(), StoreError> {
        let mut dead = applied
            .iter()
            .filter(|s| s.live_entries.load(Ordering::Relaxed) == 0);
        for segment in dead.by_ref().take(DROPS) {
            self.log.drop_segment(segment)?;
            reclaimed.dropped += 1;
        }
        // After drops there may be something to rewrite: the next step looks.
        reclaimed.more = reclaimed.dropped > 0;
        Ok(())
    }

    fn rewrite_one(
        &self,
        segments: &[Arc<Segment>],
        applied: &[Arc<Segment>],
        keeping: &mut Keeping,
        reclaimed: &mut Reclaimed,
    ) -> Result<(), StoreError> {
        let is_loose = is_loose(applied, self.log.segment_bytes / SLACK_SHARE);
        let candidates: Vec<_> = applied
            .iter()
            .filter(|s| {
                is_mostly_dead(s) || is_counted_many_times(s) || is_loose && is_cold_with_gaps(s)
            })
            .filter(|s| !keeping.left_alone.contains(&s.header.frame))
            .collect();
        let Some(first) = candidates.first() else {
            return Ok(());
        };
        let frame = first.header.frame;
        if !keeping.pending.contains_key(&frame) {
            keeping.pending = self.find_live(segments, &candidates)?;
        }
        let live = keeping.pending.remove(&frame).unwrap_or_default();
        // Rewriting one whose messages are in several queues may be worth it where it did not look it.
        let is_worth_it = live.bytes < size(first) / 2 || is_loose && has_gaps(first, live.bytes);
        if !is_worth_it {
            // Most of it lives. Worth another look when half of these entries are gone.
            let live_bytes = first.live_bytes.load(Ordering::Relaxed);
            first.live_bytes_max.store(live_bytes, Ordering::Relaxed);
        } else if self.log.rewrite(first, &live)? {
            reclaimed.rewritten = 1;
        } else {
            keeping.left_alone.insert(frame);
        }
        reclaimed.more = candidates.len() > 1;
        Ok(())
    }

    /// Scans the index for what lives in these segments, in as many as fit.
    fn find_live(
        &self,
        segments: &[Arc<Segment>],
        candidates: &[&Arc<Segment>],
    ) -> Result<BTreeMap<u64, Live>, StoreError> {
        let mut found: BTreeMap<u64, Vec<(Position, u32)>> = BTreeMap::new();
        let mut room = SCAN_POSITIONS;
        for segment in candidates.iter().take(SCAN_SEGMENTS) {
            let entries = segment.live_entries.load(Ordering::Relaxed);
            if entries > room && !found.is_empty() {
                break;
            }
            room = room.saturating_sub(entries);
            found.insert(segment.header.frame, Vec::new());
        }
        self.index.chunks(&mut |_, _, chunk| {
            for (position, size) in references(chunk) {
                if let Some(live) = frame_of(segments, position).and_then(|f| found.get_mut(&f)) {
                    live.push((position, size));
                }
            }
        })?;
        Ok(found
            .into_iter()
            .map(|(frame, entries)| (frame, count_once(entries)))
            .collect())
    }
}

/// The messages that these entries refer to, each of them once.
fn count_once(mut entries: Vec<(Position, u32)>) -> Live {
    entries.sort_unstable();
    entries.dedup_by_key(|(position, _)| *position);
    let bytes = |(_, size): &(_, u32)| u64::from(*size) + BODY_OVERHEAD;
    Live {
        bytes: entries.iter().map(bytes).sum(),
        positions: entries.into_iter().map(|(position, _)| position).collect(),
    }
}

/// The segments whose frames are all applied: the next one starts no later than behind them.
fn applied(segments: &[Arc<Segment>], upto: u64) -> &[Arc<Segment>] {
    let after = segments.partition_point(|segment| segment.header.frame <= upto + 1);
    &segments[..after.saturating_sub(1)]
}

/// The first frame of the segment that a position may be in.
fn frame_of(segments: &[Arc<Segment>], position: Position) -> Option<u64> {
    let after = segments.partition_point(|segment| segment.header.position <= position.0);
    Some(segments[..after].last()?.header.frame)
}

/// What it holds, or what lived when it was last rewritten.
fn size(segment: &Segment) -> u64 {
    segment.header.weight.unwrap_or_else(|| segment.length())
}

/// Whether less than half of it lives.
fn is_mostly_dead(segment: &Segment) -> bool {
    segment.live_bytes.load(Ordering::Relaxed) < size(segment) / 2
}

/// Whether so much of it is dead that it is worth rewriting when the whole is too large.
fn has_gaps(segment: &Segment, live_bytes: u64) -> bool {
    live_bytes < size(segment) - size(segment) / DEAD_SHARE
}

/// Whether it has gaps, and nothing in it died since the last look.
fn is_cold_with_gaps(segment: &Segment) -> bool {
    let live_bytes = segment.live_bytes.load(Ordering::Relaxed);
    has_gaps(segment, live_bytes) && live_bytes == segment.live_bytes_seen.load(Ordering::Relaxed)
}

/// Whether these segments take more than they should for what lives in them.
fn is_loose(segments: &[Arc<Segment>], slack: u64) -> bool {
    let (mut live, mut all) = (0, 0);
    for segment in segments {
        // Messages in several queues count several times.
        live += segment
            .live_bytes
            .load(Ordering::Relaxed)
            .min(segment.length());
        all += segment.length();
    }
    all > live + live / DEAD_SHARE + slack
}

/// Whether its messages are in several queues, which counts their bytes several times, and half of
/// these entries are gone: it may be mostly dead without looking it. Only a scan tells.
fn is_counted_many_times(segment: &Segment) -> bool {
    let [live, max] =
        [&segment.live_bytes, &segment.live_bytes_max].map(|bytes| bytes.load(Ordering::Relaxed));
    max > size(segment) && live < max / 2
}
