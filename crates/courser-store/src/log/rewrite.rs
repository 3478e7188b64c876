//! Rewriting a segment with what lives in it: same name, same positions, fewer bytes.
//!
//! ```text
//! 00..17.seg  [f17: a b c] [f18: d e f] [f19: g h]          b and g live
//! 00..17.tmp  [f17: b] [f19: g] [seal]                      written and synced
//! 00..17.seg  <- renamed over it; readers of the old file finish undisturbed
//! ```
//!
//! The frames keep their numbers and lose their records: the index is past them. A crash leaves the
//! old file or the new one.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use courser_core::id::Position;

use super::{
    Log,
    frame::{self, Builder},
    load::{Scratch, head_at, read_table},
    segment::{self, Segment, SegmentHeader},
    spares::SYNC_BYTES,
    sync_folder,
};
use crate::StoreError;

/// What lives in a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Live {
    /// Ascending.
    pub(crate) positions: Vec<Position>,
    /// Of these messages, about, each counted once.
    pub(crate) bytes: u64,
}

impl Log {
    /// Replaces a finished segment by one that holds only what lives.
    ///
    /// `false` when it could not be read or there was no room: it stays as it is.
    pub(crate) fn rewrite(&self, segment: &Arc<Segment>, live: &Live) -> Result<bool, StoreError> {
        let path = segment.path.with_extension("tmp");
        let (file, header, length) = match write_live(segment, live, &path) {
            Ok(written) => written,
            Err(error) => {
                tracing::error!(%error, "cannot rewrite a segment, it stays as it is");
                let _ = fs::remove_file(&path);
                return Ok(false);
            }
        };
        fs::rename(&path, &segment.path).map_err(|error| segment.io("rename", error))?;
        sync_folder(&self.folder)?;
        let new = Segment::reopened(segment.path.clone(), file, header, length);
        let (entries, bytes) = (&segment.live_entries, &segment.live_bytes);
        new.live_entries
            .store(entries.load(Ordering::Relaxed), Ordering::Relaxed);
        new.live_bytes
            .store(bytes.load(Ordering::Relaxed), Ordering::Relaxed);
        new.live_bytes_max
            .store(bytes.load(Ordering::Relaxed), Ordering::Relaxed);
        let new = Arc::new(new);
        for place in self.segments.write().iter_mut() {
            if Arc::ptr_eq(place, segment) {
                *place = Arc::clone(&new);
            }
        }
        Ok(true)
    }
}

fn write_live(
    segment: &Segment,
    live: &Live,
    path: &Path,
) -> Result<(File, SegmentHeader, u64), StoreError> {
    let io = |error| StoreError::io("write", path, error);
    let (frame, position) = (segment.header.frame, segment.header.position);
    let header = SegmentHeader::new(frame, position, Some(live.bytes));
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .map_err(|error| StoreError::io("open", path, error))?;
    file.write_all_at(&header.encode(), 0).map_err(io)?;
    let length = copy_frames(segment, &live.positions, &file, &header, path)?;
    file.sync_all().map_err(io)?;
    Ok((file, header, length))
}

/// Copies what lives, frame by frame, and answers where the new file ends.
fn copy_frames(
    segment: &Segment,
    live: &[Position],
    file: &File,
    header: &SegmentHeader,
    path: &Path,
) -> Result<u64, StoreError> {
    let io = |error| StoreError::io("write", path, error);
    let (mut scratch, mut builder) = (Scratch::default(), Builder::default());
    let mut bytes = Vec::new();
    let (mut from, mut to) = (segment::HEADER, segment::HEADER);
    let (mut rest, mut synced) = (live, to);
    loop {
        let head = head_at(segment, from, scratch.headers())?;
        let place = frame::Place {
            life: header.life,
            segment: header.frame,
            number: head.number,
            durable: head.durable,
            epoch: head.epoch,
        };
        if head.seal {
            file.write_all_at(&frame::seal(place, head.next), to)
                .map_err(io)?;
            return Ok(to + frame::HEADER as u64);
        }
        let (here, later) = rest.split_at(rest.partition_point(|position| position.0 < head.next));
        if !here.is_empty() {
            read_table(segment, from, &head, &mut scratch)?;
            builder.start(head.first);
            for position in here {
                scratch.copy_body(segment, from, *position, &mut builder)?;
            }
            builder.pad();
            builder.finish(place);
            bytes.clear();
            builder.put_into(&[], &mut bytes);
            file.write_all_at(&bytes, to).map_err(io)?;
            to += builder.total();
            if to - synced >= SYNC_BYTES {
                file.sync_data().map_err(io)?;
                synced = to;
            }
        }
        rest = later;
        from += u64::from(head.total);
    }
}
