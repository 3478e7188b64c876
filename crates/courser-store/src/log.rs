//! The log: every group in one frame, in files that are written from front to back.
//!
//! ```text
//!   commit --> Writer --> active segment          append.rs, active.rs
//!                |  full: seal, sync, next
//!                v
//!   reclaim: spares (ahead of the writer), dead segments, rewriting     spares.rs, rewrite.rs
//!   load:    position --> segment --> anchor --> frame --> body         load.rs
//!   recover: frames after the checkpoint; a torn tail is cut            replay.rs
//!            and a look at what is older                                check.rs
//! ```
//!
//! One thread writes at a time (the lock of [`Writer`]). Readers take the list of segments for a
//! moment, then hold a segment for themselves: its file may be replaced, recycled or cut short under
//! them, and then what they read does not carry its life.

mod active;
mod append;
mod check;
pub(crate) mod frame;
mod load;
mod replay;
mod rewrite;
pub(crate) mod scan;
pub(crate) mod segment;
mod spares;
#[cfg(test)]
mod tests;
mod window;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
};

pub(crate) use self::rewrite::Live;
use self::{append::Writer, load::Scratch, segment::Segment, spares::Spares};
use crate::{
    StoreError,
    lock::{Mutex, RwLock},
};

pub(crate) struct Log {
    pub(crate) folder: PathBuf,
    pub(crate) segment_bytes: u64,
    writer: Mutex<Writer>,
    /// By first frame number, and so by first position as well. The last one is being written.
    segments: RwLock<Vec<Arc<Segment>>>,
    spares: Mutex<Spares>,
    /// Held while files are prepared or dropped; whether that has made room since the writer last asked.
    room_made: Mutex<bool>,
    /// The last frame that is surely on the disk.
    durable: AtomicU64,
    scratch: Mutex<Scratch>,
}

impl Log {
    /// Opens the folder, which must exist. Nothing may be appended before [`replay`](Self::replay).
    pub(crate) fn open(folder: &Path, segment_bytes: u64) -> Result<Self, StoreError> {
        let mut segments = Vec::new();
        let mut spares = Spares::default();
        let entries =
            fs::read_dir(folder).map_err(|error| StoreError::io("read", folder, error))?;
        for entry in entries {
            let path = entry
                .map_err(|error| StoreError::io("read", folder, error))?
                .path();
            let ending = path.extension().and_then(|ending| ending.to_str());
            match ending {
                Some("seg") => {
                    let Some(frame) = segment::number(&path) else {
                        return Err(StoreError::damaged(&path, 0, "no segment has such a name"));
                    };
                    segments.push(Arc::new(Segment::open(path, frame)?));
                }
                Some("spare") => spares.found(path, segment_bytes)?,
                Some("tmp") => {
                    fs::remove_file(&path).map_err(|error| StoreError::io("drop", &path, error))?;
                }
                _ => tracing::warn!(path = %path.display(), "not a file of the log, left alone"),
            }
        }
        segments.sort_by_key(|segment| segment.header.frame);
        Ok(Self {
            folder: folder.to_owned(),
            segment_bytes,
            writer: Mutex::new(Writer::default()),
            segments: RwLock::new(segments),
            spares: Mutex::new(spares),
            room_made: Mutex::new(false),
            durable: AtomicU64::new(0),
            scratch: Mutex::new(Scratch::default()),
        })
    }

    pub(crate) fn segments(&self) -> Vec<Arc<Segment>> {
        self.segments.read().clone()
    }

    /// The last frame that is surely on the disk.
    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Whether it still begins with its first frame, no segment of it lost records to a rewrite, and none
    /// between two others was dropped.
    pub(crate) fn is_whole(&self) -> bool {
        let segments = self.segments();
        let first = segments.first().map(|segment| segment.header.frame);
        let follows = |pair: &[Arc<Segment>]| {
            load::frame_after(&pair[0]).is_ok_and(|frame| frame == pair[1].header.frame)
        };
        first == Some(1)
            && segments.iter().all(|s| s.header.weight.is_none())
            && segments.windows(2).all(follows)
    }

    /// Bytes of all files, and how many segments there are.
    pub(crate) fn usage(&self) -> (u64, u64) {
        let segments = self.segments.read();
        let bytes: u64 = segments.iter().map(|segment| segment.length()).sum();
        let spare = self.spares.lock().count() as u64 * self.segment_bytes;
        (bytes + spare, segments.len() as u64)
    }

    /// Takes a segment in which nothing lives off the list; its file is kept for reuse or dropped.
    pub(crate) fn drop_segment(&self, segment: &Arc<Segment>) -> Result<(), StoreError> {
        segment.retire();
        self.segments
            .write()
            .retain(|other| !Arc::ptr_eq(other, segment));
        if !self.keep(segment)? {
            self.discard(segment)?;
        }
        sync_folder(&self.folder)
    }
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| StoreError::io("sync", folder, error))
}
