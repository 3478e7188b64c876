//! Makes records durable, and gives them back after a restart.
//!
//! [`Store`] is the seam: the engine knows nothing else of the disk. [`MemoryStore`] forgets
//! everything when its last handle goes; [`DiskStore`] keeps a log of everything (one frame for each
//! group) and an index of what lives (sled). Both pass the same [`conformance`] suite.
#![warn(missing_docs)]

mod codec;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod disk;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod index;
mod lock;
mod log;
mod memory;
pub mod offline;

use std::{
    fmt,
    io::{self, ErrorKind},
    path::Path,
};

use courser_core::{
    id::{ChunkNo, Position, QueueId},
    message::SharedMessage,
    record::{Checkpoint, Chunk, Group, QueueState, Record},
};

pub use disk::{DiskOptions, DiskStore};
pub use memory::MemoryStore;

/// The number of a frame of the log: the first is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FrameNo(pub u64);

/// The durable home of every record. Blocking, on purpose.
///
/// Who calls what: the committer thread `commit` and `sync`, the engine `commit`, one at a time; the
/// keeper thread `checkpoint` and `reclaim`; the loader thread `load`; the engine `page`. Each may run
/// while the others do.
///
/// After `commit`, `sync`, `checkpoint` or `reclaim` has failed once, what is on the disk is unknown:
/// the caller stops writing, and only opening the store anew tells.
pub trait Store: Send + Sync + 'static {
    /// Gives back what was kept, once, before any other call: the queues, then the chunks of the
    /// index, then every record of the log after the last checkpoint, in order.
    ///
    /// # Errors
    /// When the store is damaged, or `into` failed.
    fn recover(&self, into: &mut dyn Recover) -> Result<Recovered, StoreError>;

    /// Writes a group, all or nothing, as the next frame of the log. With `sync` it is durable when
    /// this returns, and so are all groups before it.
    ///
    /// # Errors
    /// When it could not be written or synced.
    fn commit(&self, group: &Group, sync: bool) -> Result<FrameNo, StoreError>;

    /// Makes all groups that were committed so far durable.
    ///
    /// # Errors
    /// When the sync failed.
    fn sync(&self) -> Result<(), StoreError>;

    /// Reads messages, in the order asked for; `None` where there is no such message (any more).
    ///
    /// # Errors
    /// When the disk cannot be read, or a checksum is wrong: a damaged message is never served.
    fn load(&self, positions: &[Position]) -> Result<Vec<Option<SharedMessage>>, StoreError>;

    /// Reads a chunk as the last finished checkpoint left it. A chunk that a running checkpoint changes
    /// may already read as it will be.
    ///
    /// # Errors
    /// When the index cannot be read.
    fn page(&self, queue: QueueId, number: ChunkNo) -> Result<Chunk, StoreError>;

    /// Applies to the index what changed since the checkpoint before, durably. From then on a
    /// recovery replays only frames after `upto`.
    ///
    /// # Errors
    /// When the index could not be written or synced.
    fn checkpoint(&self, checkpoint: &Checkpoint, upto: FrameNo) -> Result<(), StoreError>;

    /// Gives disk back, one bounded step at a time: drops segments in which nothing lives, rewrites
    /// one that is mostly dead. Worth another call while it says `more`. Before the first checkpoint
    /// of this run nothing is dropped. Of the disk `keep_free` bytes are to stay free: while there is little
    /// more, no file waits for reuse, and the end of the log is given back as well when it is mostly dead.
    ///
    /// # Errors
    /// When a file could not be read, written or dropped.
    fn reclaim(&self, keep_free: u64) -> Result<Reclaimed, StoreError>;

    /// What the store takes on the disk.
    fn usage(&self) -> Usage;

    /// How much room the disk has; `None` when there is no disk, or it does not say.
    fn space(&self) -> Option<Space>;
}

/// Takes what [`Store::recover`] gives back.
pub trait Recover {
    /// A queue of the index.
    fn queue(&mut self, state: QueueState);

    /// The living entries of a chunk of the index. Its notes are left out.
    fn chunk(&mut self, queue: QueueId, number: ChunkNo, chunk: &Chunk);

    /// A record of the log. `page` reads a chunk of the index, notes included.
    ///
    /// # Errors
    /// What `page` answered.
    fn record(&mut self, record: Record, page: &mut Pager<'_>) -> Result<(), StoreError>;
}

/// Reads a chunk of the index during a recovery.
pub type Pager<'a> = dyn FnMut(QueueId, ChunkNo) -> Result<Chunk, StoreError> + 'a;

/// What a recovery found beside the queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The position that the next message gets.
    pub next_position: Position,
    /// The id that the next queue gets; those of replayed `QueueDefined` records count.
    pub next_queue: QueueId,
    /// How often this store was opened, this time included. Stored durably before the answer.
    pub epoch: u64,
    /// Records replayed from the log.
    pub replayed: u64,
    /// The last frame of the log: a checkpoint of the state as recovered reaches up to it.
    pub last_frame: FrameNo,
    /// Bytes of a torn tail that were cut.
    pub torn_bytes: u64,
}

/// What a step of [`Store::reclaim`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reclaimed {
    /// Segments dropped or kept for reuse.
    pub dropped: u64,
    /// Segments rewritten.
    pub rewritten: u64,
    /// Another step has something to do.
    pub more: bool,
}

/// What the store takes on the disk, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Segments of the log, spare ones included.
    pub log_bytes: u64,
    /// Segments of the log.
    pub segments: u64,
    /// The folder of the index.
    pub index_bytes: u64,
}

/// Room on the disk that the store is on, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// What may still be written: what the disk has left, and files of the store that wait for reuse.
    pub free: u64,
    /// The whole disk.
    pub total: u64,
}

/// Why the store could not do what it was asked for. For operators; clients are told less.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// A verb: `write`, `sync`, `open`.
        action: &'static str,
        /// Which file or folder.
        path: String,
        /// Its answer.
        source: io::Error,
    },
    /// Another process has the folder open.
    #[error(
        "the data folder {path} is in use by another broker: stop that one first, or name another folder"
    )]
    InUse {
        /// Which folder.
        path: String,
    },
    /// The folder holds something that is not ours, or not of this version.
    #[error("{path} is not a data folder of this broker: {why}")]
    Foreign {
        /// Which folder.
        path: String,
        /// What was found.
        why: String,
    },
    /// What is on the disk is not what was written there.
    #[error(
        "{path} is damaged at byte {offset}: {why}; restore it from a backup, or get out what can be read with `courser salvage` and start in an empty folder"
    )]
    Damaged {
        /// Which file.
        path: String,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        why: String,
    },
    /// A file of the log is not there.
    #[error(
        "{path} is missing, and the index says that messages in it live; restore it from a backup, or get out what can be read with `courser salvage` and start in an empty folder"
    )]
    Missing {
        /// Which file.
        path: String,
    },
    /// The index is not what was written there.
    #[error("the index {path} is damaged: {why}; {}", remedy(*.log_is_whole))]
    IndexDamaged {
        /// Which folder.
        path: String,
        /// What is wrong.
        why: String,
        /// Whether the log still begins with its first frame, so that an index can be made from it.
        log_is_whole: bool,
    },
    /// There is no room left.
    #[error("the disk of {path} is full: make room there, then start the broker again")]
    Full {
        /// Which file or folder was to be written.
        path: String,
    },
    /// The index failed.
    #[error("the index failed: {0}")]
    Index(String),
    /// A write failed before, and what is on the disk is unknown since.
    #[error("the store stopped writing: {reason}")]
    Stopped {
        /// How the first write failed.
        reason: String,
    },
}

/// What to do about a damaged index.
fn remedy(log_is_whole: bool) -> &'static str {
    if log_is_whole {
        "the log beside it still holds everything since its first frame: move the folder of the index \
         away, and the next start makes it anew from the log"
    } else {
        "restore the whole data folder from a backup, or get out what can be read with `courser salvage`. \
         The log beside it holds the messages that live, but no longer all that happened to them, so the \
         index cannot be made anew from it"
    }
}

impl StoreError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.display().to_string();
        if is_full(&source) {
            return Self::Full { path };
        }
        Self::Io {
            action,
            path,
            source,
        }
    }

    /// Until somebody says so, the log is taken not to be whole.
    pub(crate) fn index_damaged(path: &Path, why: &str) -> Self {
        Self::IndexDamaged {
            path: path.display().to_string(),
            why: why.to_owned(),
            log_is_whole: false,
        }
    }

    pub(crate) fn damaged(path: &Path, offset: u64, why: &str) -> Self {
        Self::Damaged {
            path: path.display().to_string(),
            offset,
            why: why.to_owned(),
        }
    }
}

/// Whether the disk, or what may be had of it, is used up.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}

/// The id after the queue that a record defines; 0 when it defines none.
pub(crate) fn next_queue_after(record: &Record) -> QueueId {
    match record {
        Record::QueueDefined(definition) => QueueId(definition.id.0.saturating_add(1)),
        _ => QueueId(0),
    }
}

impl fmt::Display for FrameNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
