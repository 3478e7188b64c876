//! A store on a disk: the log and the index put together.
//!
//! ```text
//! data folder
//!   LOCK      held while the broker runs
//!   FORMAT    says that this folder is ours, and of which version
//!   DAMAGED   where a running broker met damage, if it did: the start looks there again
//!   log/      every group, bodies included
//!   index/    what is alive, as of the last checkpoint
//! ```
//!
//! The committer appends to the log, or the engine in its place, one at a time; the keeper does everything else, one
//! thing at a time. The first failure of a write is kept, and all later ones fail with it: what is on the
//! disk is unknown then.

mod checkpoint;
mod folder;
mod mark;
mod reclaim;
#[cfg(test)]
mod tests;

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{OnceLock, atomic::AtomicUsize},
};

use courser_core::{
    id::{ChunkNo, Position, QueueId},
    message::SharedMessage,
    record::{Checkpoint, Chunk, Group},
};

pub(crate) use self::folder::{FORMAT, FORMAT_REMEDY, FORMAT_TEXT, LOCK, read_format_bytes};
use self::reclaim::Keeping;
#[cfg(test)]
pub(crate) use self::tests::copy_folder;
#[cfg(feature = "fuzz")]
pub(crate) use self::{folder::take as fuzz_take_folder, mark::parse as fuzz_read_mark};
use crate::{
    FrameNo, Reclaimed, Recover, Recovered, Space, Store, StoreError, Usage,
    index::{Index, Meta},
    lock::Mutex,
    log::Log,
    next_queue_after,
};

/// What may be chosen of a [`DiskStore`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskOptions {
    /// Bytes of a segment of the log: the unit in which disk is given back, and what a rewrite reads
    /// at once. At least 4 KiB.
    pub segment_bytes: u64,
    /// Bytes of segments with older messages that a start looks through for damage, the oldest first. What it
    /// does not look through is looked at when it is read.
    pub check_bytes: u64,
}

impl Default for DiskOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 * 1024 * 1024,
            check_bytes: 256 * 1024 * 1024,
        }
    }
}

/// Keeps everything in a folder, which it holds alone.
pub struct DiskStore {
    folder: PathBuf,
    check_bytes: u64,
    log: Log,
    index: Index,
    /// What the keeper remembers. Its lock makes checkpoints and reclaims take turns.
    keeping: Mutex<Keeping>,
    /// How the first write failed.
    failed: OnceLock<String>,
    /// Tests: stop a checkpoint after so many batches.
    stop_after: AtomicUsize,
    /// Released when the store goes.
    _lock: File,
}

/// Says of a damaged index whether it can be made anew.
fn advise(error: StoreError, log: &Log) -> StoreError {
    match error {
        StoreError::IndexDamaged { path, why, .. } => StoreError::IndexDamaged {
            path,
            why,
            log_is_whole: log.is_whole(),
        },
        other => other,
    }
}

impl std::fmt::Debug for DiskStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskStore").finish_non_exhaustive()
    }
}

impl DiskStore {
    /// Opens the folder, and makes it if it is not there or empty.
    ///
    /// # Errors
    /// When it cannot be read and written, another broker holds it, it is not a data folder of ours,
    /// or it is damaged.
    pub fn open(folder: &Path, options: DiskOptions) -> Result<Self, StoreError> {
        let lock = folder::take(folder)?;
        let log = folder::make(&folder.join("log"))?;
        let log = Log::open(&log, options.segment_bytes.max(4 * 1024))?;
        let unused = log.segments().is_empty();
        let index =
            Index::open(&folder.join("index"), unused).map_err(|error| advise(error, &log))?;
        Ok(Self {
            folder: folder.to_owned(),
            check_bytes: options.check_bytes,
            log,
            index,
            keeping: Mutex::new(Keeping::default()),
            failed: OnceLock::new(),
            stop_after: AtomicUsize::new(usize::MAX),
            _lock: lock,
        })
    }

    /// Lets the next checkpoints fail once so many batches of the index were applied.
    #[cfg(any(test, feature = "conformance"))]
    pub fn stop_checkpoints_after(&self, batches: usize) {
        self.stop_after
            .store(batches, std::sync::atomic::Ordering::Relaxed);
    }

    /// A write: refused after one failed, and remembered when it fails itself.
    fn write<T>(&self, write: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        if let Some(reason) = self.failed.get() {
            return Err(StoreError::Stopped {
                reason: reason.clone(),
            });
        }
        write()
            .map_err(|error| advise(error, &self.log))
            .inspect_err(|error| {
                let _ = self.failed.set(error.to_string());
            })
    }

    /// What the disk says of itself.
    fn disk(&self) -> Option<Space> {
        let figures = rustix::fs::statvfs(&self.folder).ok()?;
        Some(Space {
            free: figures.f_bavail.saturating_mul(figures.f_frsize),
            total: figures.f_blocks.saturating_mul(figures.f_frsize),
        })
    }

    fn recover_both(&self, into: &mut dyn Recover) -> Result<Recovered, StoreError> {
        let mut keeping = self.keeping.lock();
        mark::check(&self.folder, &self.log)?;
        let mut meta = self.index.meta()?;
        self.log.check_settled(meta.upto, self.check_bytes)?;
        meta.epoch += 1;
        let holders = self.index.holders()?;
        self.check_holders(holders.as_deref().unwrap_or_default())?;
        self.read_index(into)?;
        let recovered = self.replay(into, meta)?;
        meta.epoch = recovered.epoch;
        self.index.check_sync(meta)?;
        keeping.meta = meta;
        keeping.holders = holders;
        Ok(recovered)
    }

    fn replay(&self, into: &mut dyn Recover, meta: Meta) -> Result<Recovered, StoreError> {
        let mut next_queue = QueueId(meta.next_queue.max(1));
        let mut records = 0;
        let mut page = |queue, number| self.index.page(queue, number);
        let replayed = self.log.replay(
            meta.upto,
            meta.next_position.max(1),
            meta.epoch,
            &mut |group| {
                records += group.len() as u64;
                for record in group {
                    next_queue = next_queue.max(next_queue_after(&record));
                    into.record(record, &mut page)?;
                }
                Ok(())
            },
        )?;
        Ok(Recovered {
            next_position: Position(meta.next_position.max(replayed.next_position).max(1)),
            next_queue,
            epoch: replayed.epoch,
            replayed: records,
            last_frame: FrameNo(replayed.last_frame),
            torn_bytes: replayed.torn_bytes,
        })
    }
}

impl Drop for DiskStore {
    fn drop(&mut self) {
        if self.failed.get().is_none()
            && let Err(error) = self.log.close()
        {
            tracing::warn!(%error, "the log was not closed: its end is looked for at the next start");
        }
    }
}

impl Store for DiskStore {
    fn recover(&self, into: &mut dyn Recover) -> Result<Recovered, StoreError> {
        self.recover_both(into)
            .map_err(|error| advise(error, &self.log))
    }

    fn commit(&self, group: &Group, sync: bool) -> Result<FrameNo, StoreError> {
        self.write(|| self.log.commit(group, sync)).map(FrameNo)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.write(|| self.log.sync())
    }

    fn load(&self, positions: &[Position]) -> Result<Vec<Option<SharedMessage>>, StoreError> {
        self.log
            .load(positions)
            .inspect_err(|error| mark::set(&self.folder, error))
    }

    fn page(&self, queue: QueueId, number: ChunkNo) -> Result<Chunk, StoreError> {
        self.index
            .page(queue, number)
            .map_err(|error| advise(error, &self.log))
    }

    fn checkpoint(&self, checkpoint: &Checkpoint, upto: FrameNo) -> Result<(), StoreError> {
        let mut keeping = self.keeping.lock();
        self.write(|| self.apply_checkpoint(&mut keeping, checkpoint, upto.0))
    }

    fn reclaim(&self, keep_free: u64) -> Result<Reclaimed, StoreError> {
        let mut keeping = self.keeping.lock();
        self.write(|| self.reclaim_step(&mut keeping, keep_free))
    }

    fn usage(&self) -> Usage {
        let (log_bytes, segments) = self.log.usage();
        Usage {
            log_bytes,
            segments,
            index_bytes: self.index.bytes(),
        }
    }

    fn space(&self) -> Option<Space> {
        let Space { free, total } = self.disk()?;
        Some(Space {
            free: free + self.log.spare_bytes(),
            total,
        })
    }
}
