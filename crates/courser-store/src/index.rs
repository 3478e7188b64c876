//! The index: what is alive in every queue, as of the last checkpoint. The only code that knows sled.
//!
//! What we rely on, measured with exactly 0.34.7 (`docs/decisions/0001-real-sync-under-sled.md`,
//! and the tests in `index/tests.rs` hold it to that):
//!
//! - `apply_batch` is atomic within a tree, and all that was applied is on the disk after `flush`,
//!   once `real_sync.rs` makes its sync real. One tree, one writer, no transactions.
//! - Batches of at most [`BATCH_OPERATIONS`]: larger ones leak memory.
//! - Values of at most [`VALUE_BYTES`] and segments of [`SEGMENT_BYTES`]: a page over a quarter of a
//!   segment becomes a blob file, which is never synced. A file in `blobs/` is an alarm.
//! - No flusher thread of its own: it only logs its errors.
//! - It may lose pages to a byte that rots and say nothing: every value has a checksum of ours, and all
//!   of them add up to what every batch says (`sum.rs`).
//! - Its file never shrinks: `anew.rs`.
//! - It panics where it should report: `guard.rs`.
//! - It takes a read that fails while it opens for the end of its log, and goes on with what came before:
//!   its file is read as a whole first, so that a bad disk stops the start instead.
//! - It never syncs its settings (`conf`), and after a power cut that tore them it does not open: they
//!   are synced here.
//! - A crash while sled opens leaves `snap.*.generating`, with which no later open succeeds: they are
//!   removed before.

mod anew;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
mod guard;
pub(crate) mod holders;
mod inspect;
pub(crate) mod keys;
mod real_sync;
mod sum;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use courser_core::{
    id::{ChunkNo, Position, QueueId, Seq},
    record::{Chunk, Note, QueueState},
};
use sled::Batch;

use self::{anew::Form, guard::Sled, sum::Sum};
pub(crate) use self::{holders::Holder, inspect::Inspected, writer::Writer};
use crate::{
    StoreError,
    codec::{Malformed, Reader, definition, entry, note, put_varint},
    lock::{Mutex, RwLock},
    log::sync_folder,
};

/// Operations of a batch.
const BATCH_OPERATIONS: usize = 256;
/// Changes of a batch: beside them it writes what all values add up to.
const BATCH_CHANGES: usize = BATCH_OPERATIONS - 1;
/// Bytes of a value.
pub(crate) const VALUE_BYTES: usize = 16 * 1024;
/// Bytes of a part of a large value.
const PART_BYTES: usize = 8 * 1024;
/// Parts of a large value: all of them fit into one batch.
const PARTS: usize = 128;
/// Bytes of sled's segments.
const SEGMENT_BYTES: usize = 2 * 1024 * 1024;
/// Bytes of pages that sled keeps in memory; the engine keeps what it needs itself.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// The file in which sled keeps everything.
const DATA: &str = "db";
/// Bytes of it read at once.
const READ_BYTES: usize = 1024 * 1024;
/// The file in which sled keeps what it was opened with.
const SETTINGS: &str = "conf";
const META_VERSION: u8 = 2;
/// The values of an index of this version had no checksum. One is made anew at the start.
const META_VERSION_UNSUMMED: u8 = 1;

/// What the index says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    /// How often the store was opened.
    pub(crate) epoch: u64,
    /// The frame up to which the log is applied.
    pub(crate) upto: u64,
    pub(crate) next_position: u64,
    pub(crate) next_queue: u32,
}

/// Keys, and what they are to hold from now on.
type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

pub(crate) struct Index {
    /// Another one once the index was made anew.
    db: RwLock<Arc<Sled>>,
    folder: PathBuf,
    /// What all values add up to.
    sum: Mutex<Sum>,
    /// How much it may take beyond what lives in it; tests have less.
    floor_bytes: u64,
}

/// Takes a chunk without its notes.
pub(crate) type VisitChunk<'a> = dyn FnMut(QueueId, ChunkNo, &Chunk) + 'a;

impl Index {
    /// Opens the folder, and makes it if it is not there. One that takes far more than what lives in
    /// it is made anew. `unused` says that nothing was ever committed to the log beside it.
    pub(crate) fn open(folder: &Path, unused: bool) -> Result<Self, StoreError> {
        let settings = folder.join(SETTINGS);
        if unused && settings.exists() {
            // A first start may have been cut off before it synced this. What is in it is the same in
            // every index of ours, and sled writes it anew.
            fs::remove_file(&settings).map_err(|error| StoreError::io("drop", &settings, error))?;
        }
        Self::open_with_floor(folder, anew::FLOOR_BYTES)
    }

    fn open_with_floor(folder: &Path, floor_bytes: u64) -> Result<Self, StoreError> {
        anew::settle(folder)?;
        drop_leftovers(folder)?;
        read_through(&folder.join(DATA))?;
        let index = Self {
            db: RwLock::new(Arc::new(open_sled(folder, folder)?)),
            folder: folder.to_owned(),
            sum: Mutex::default(),
            floor_bytes,
        };
        index.look_for_blobs();
        let meta = index.db().call(|db| db.get(keys::META))?;
        match meta.as_ref().and_then(|meta| meta.first()) {
            Some(&META_VERSION_UNSUMMED) => {
                tracing::info!(folder = %folder.display(), "the index gets checksums");
                index.make_anew(Form::Unsummed)?;
            }
            Some(_) => *index.sum.lock() = index.kept_sum()?,
            None => {}
        }
        index.make_anew_if_large()?;
        Ok(index)
    }

    fn db(&self) -> Arc<Sled> {
        Arc::clone(&self.db.read())
    }

    /// What all values are to add up to, as the last batch left it.
    fn kept_sum(&self) -> Result<Sum, StoreError> {
        self.db()
            .call(|db| db.get(keys::SUM))?
            .ok_or(Malformed("it is missing"))
            .and_then(|sum| Sum::decode(keys::SUM, &sum))
            .map_err(|error| self.damaged("the sum", error))
    }

    /// Applies changes in one batch, with what all values add up to then.
    fn apply(&self, changes: Changes) -> Result<(), StoreError> {
        assert!(
            changes.len() <= BATCH_CHANGES,
            "a batch of {} changes",
            changes.len()
        );
        let db = self.db();
        let mut kept = self.sum.lock();
        let mut sum = *kept;
        let mut batch = Batch::default();
        for (key, value) in changes {
            if let Some(old) = db.call(|db| db.get(&key))? {
                sum::open(&key, &old).map_err(|error| self.damaged("a value", error))?;
                sum.remove(&key, &old);
            }
            if let Some(mut value) = value {
                sum::seal(&key, &mut value);
                sum.add(&key, &value);
                batch.insert(key, value);
            } else {
                batch.remove(key);
            }
        }
        batch.insert(keys::SUM, sum.encode(keys::SUM));
        db.call(|db| db.apply_batch(batch))?;
        *kept = sum;
        Ok(())
    }

    /// Adds up what the caller has not read, and compares the whole with what it is to be.
    pub(crate) fn check_sum(&self, read: [Sum; 2]) -> Result<(), StoreError> {
        let mut found = Sum::default();
        read.into_iter().for_each(|sum| found.plus(sum));
        for prefix in [keys::META, keys::NOTES] {
            found.plus(self.scan(prefix, "a note", |_, _| Ok(()))?);
        }
        let kept = *self.sum.lock();
        if found == kept {
            return Ok(());
        }
        tracing::debug!(?found, ?kept, "the index does not add up");
        Err(StoreError::index_damaged(
            &self.folder,
            "some of what it held is not there any more",
        ))
    }

    /// Visits all keys that start like this, with their values, and adds them up.
    fn scan(
        &self,
        prefix: &[u8],
        what: &str,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), Malformed>,
    ) -> Result<Sum, StoreError> {
        let mut sum = Sum::default();
        for item in self.db().items(|db| db.scan_prefix(prefix))? {
            let (key, sealed) = item?;
            sum.add(&key, &sealed);
            sum::open(&key, &sealed)
                .and_then(|value| visit(&key, value))
                .map_err(|error| self.damaged(what, error))?;
        }
        Ok(sum)
    }

    /// A value, checked.
    fn get<T>(
        &self,
        key: &[u8],
        what: &str,
        read: impl FnOnce(&[u8]) -> Result<T, Malformed>,
    ) -> Result<Option<T>, StoreError> {
        let Some(sealed) = self.db().call(|db| db.get(key))? else {
            return Ok(None);
        };
        sum::open(key, &sealed)
            .and_then(read)
            .map(Some)
            .map_err(|error| self.damaged(what, error))
    }

    /// A blob is never synced and never given back: with our limits none is made.
    fn look_for_blobs(&self) {
        let blobs = fs::read_dir(self.folder.join("blobs")).map_or(0, Iterator::count);
        if blobs > 0 {
            tracing::warn!(blobs, folder = %self.folder.display(), "the index made blob files");
        }
    }

    fn damaged(&self, what: &str, error: Malformed) -> StoreError {
        StoreError::index_damaged(
            &self.folder,
            &format!("{what} in it is not what was written: {error}"),
        )
    }

    pub(crate) fn meta(&self) -> Result<Meta, StoreError> {
        let meta = self.get(keys::META, "meta", |value| decode_meta(value, META_VERSION))?;
        Ok(meta.unwrap_or_default())
    }

    /// Writes meta, after all that it speaks of.
    pub(crate) fn write_meta(&self, meta: Meta) -> Result<(), StoreError> {
        let value = encode_meta(meta, META_VERSION);
        self.apply(Changes::from([(keys::META.to_vec(), Some(value))]))?;
        self.flush()
    }

    /// Whether a write of meta went through our sync, not through libc's.
    pub(crate) fn check_sync(&self, meta: Meta) -> Result<(), StoreError> {
        let before = real_sync::calls();
        self.write_meta(meta)?;
        if real_sync::calls() > before {
            return Ok(());
        }
        let why =
            "its writes are not synced, as this program was linked without our sync_file_range";
        Err(StoreError::Index(why.to_owned()))
    }

    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        self.db().call(|db| db.flush().map(drop))
    }

    /// Visits all queues, and adds up what they take.
    pub(crate) fn queues(&self, visit: &mut dyn FnMut(QueueState)) -> Result<Sum, StoreError> {
        let mut parts = Parts::default();
        self.scan(keys::QUEUES, "a queue", |key, value| {
            let (_, part) = keys::parse_queue(key).ok_or(Malformed("a key is too short"))?;
            if let Some(whole) = parts.add(part, value)? {
                visit(definition::take_state(whole)?);
            }
            Ok(())
        })
    }

    /// Visits all chunks, in the order of queues and chunk numbers, and adds up what they take.
    pub(crate) fn chunks(&self, visit: &mut VisitChunk<'_>) -> Result<Sum, StoreError> {
        self.chunks_under(keys::CHUNKS, visit)
    }

    /// Visits all chunks of a queue.
    pub(crate) fn chunks_of(
        &self,
        queue: QueueId,
        visit: &mut VisitChunk<'_>,
    ) -> Result<(), StoreError> {
        self.chunks_under(&keys::of_queue(keys::CHUNKS, queue), visit)
            .map(drop)
    }

    fn chunks_under(&self, prefix: &[u8], visit: &mut VisitChunk<'_>) -> Result<Sum, StoreError> {
        let mut chunk = Chunk::default();
        self.scan(prefix, "a chunk", |key, value| {
            let (queue, number) = keys::parse_chunk(key).ok_or(Malformed("a key is too short"))?;
            chunk.entries.clear();
            entry::take_chunk(value, number, &mut chunk.entries)?;
            visit(queue, number, &chunk);
            Ok(())
        })
    }

    /// The value of a chunk, if there is one.
    pub(crate) fn chunk(
        &self,
        queue: QueueId,
        number: ChunkNo,
    ) -> Result<Option<Chunk>, StoreError> {
        self.get(&keys::chunk(queue, number), "a chunk", |value| {
            let mut chunk = Chunk::default();
            entry::take_chunk(value, number, &mut chunk.entries)?;
            Ok(chunk)
        })
    }

    /// A chunk with its notes; an empty one when there is none.
    pub(crate) fn page(&self, queue: QueueId, number: ChunkNo) -> Result<Chunk, StoreError> {
        let Some(mut chunk) = self.chunk(queue, number)? else {
            return Ok(Chunk::default());
        };
        let mut parts = Parts::default();
        for item in self.db().items(|db| db.range(keys::notes(queue, number)))? {
            let (key, sealed) = item?;
            let found = sum::open(&key, &sealed)
                .and_then(|value| take_note_part(&mut parts, &key, value))
                .map_err(|error| self.damaged("a note", error))?;
            chunk.notes.extend(found);
        }
        Ok(chunk)
    }

    /// A write of many keys, in batches.
    pub(crate) fn writer(&self) -> Writer<'_> {
        Writer {
            index: self,
            changes: Changes::new(),
            batches: 0,
            stop_after: None,
        }
    }

    /// Bytes of the folder.
    pub(crate) fn bytes(&self) -> u64 {
        folder_bytes(&self.folder)
    }
}

fn folder_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.filter_map(Result::ok).map(size).sum()
}

/// Reads a file to its end, if it is there: an error of the disk is found before sled opens it.
fn read_through(path: &Path) -> Result<(), StoreError> {
    let read = File::open(path).and_then(|file| {
        let metadata = file.metadata()?;
        // What is no file need not have an end.
        if !metadata.is_file() {
            return Ok(0);
        }
        let file = file.take(metadata.len());
        let mut file = io::BufReader::with_capacity(READ_BYTES, file);
        io::copy(&mut file, &mut io::sink())
    });
    match read {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::io("read", path, error))
        }
        _ => Ok(()),
    }
}

/// Removes the half-made snapshots of an open that crashed.
fn drop_leftovers(folder: &Path) -> Result<(), StoreError> {
    let entries = fs::read_dir(folder).map_err(|error| StoreError::io("read", folder, error))?;
    for entry in entries {
        let path = entry
            .map_err(|error| StoreError::io("read", folder, error))?
            .path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            tracing::warn!(path = %path.display(), "a start was cut off, removed what it left");
            fs::remove_file(&path).map_err(|error| StoreError::io("drop", &path, error))?;
        }
    }
    Ok(())
}

fn encode_meta(meta: Meta, version: u8) -> Vec<u8> {
    let mut value = vec![version];
    for number in [
        meta.epoch,
        meta.upto,
        meta.next_position,
        u64::from(meta.next_queue),
    ] {
        put_varint(&mut value, number);
    }
    value
}

fn decode_meta(bytes: &[u8], version: u8) -> Result<Meta, Malformed> {
    let mut reader = Reader::new(bytes);
    if reader.byte()? != version {
        return Err(Malformed("an unknown version"));
    }
    Ok(Meta {
        epoch: reader.varint()?,
        upto: reader.varint()?,
        next_position: reader.varint()?,
        next_queue: reader.number()?,
    })
}

/// Opens sled. The folder is called `name` in what is said of it.
fn open_sled(folder: &Path, name: &Path) -> Result<Sled, StoreError> {
    let config = sled::Config::new()
        .path(folder)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(None)
        .segment_size(SEGMENT_BYTES);
    let sled = Sled::open(&config, name)?;
    // sled syncs neither the names of its files nor the one that holds its settings, without which no
    // later open succeeds.
    let settings = folder.join(SETTINGS);
    File::open(&settings)
        .and_then(|file| file.sync_all())
        .map_err(|error| StoreError::io("sync", &settings, error))?;
    sync_folder(folder)?;
    Ok(sled)
}

fn take_note_part(
    parts: &mut Parts,
    key: &[u8],
    value: &[u8],
) -> Result<Option<(Seq, Arc<Note>)>, Malformed> {
    let (_, seq, part) = keys::parse_note(key).ok_or(Malformed("a key is too short"))?;
    let Some(whole) = parts.add(part, value)? else {
        return Ok(None);
    };
    Ok(Some((
        seq,
        Arc::new(note::take_note(&mut Reader::new(whole))?),
    )))
}

/// Puts the parts of large values together, as they come from a scan.
#[derive(Default)]
struct Parts {
    whole: Vec<u8>,
    count: u16,
    next: u16,
}

impl Parts {
    /// The whole value, when this was its last part. Parts that an older, longer value left are
    /// skipped.
    fn add(&mut self, part: u16, value: &[u8]) -> Result<Option<&[u8]>, Malformed> {
        let bytes = if part == 0 {
            let (&count, rest) = value.split_first().ok_or(Malformed("it is empty"))?;
            (self.count, self.next) = (u16::from(count), 0);
            self.whole.clear();
            rest
        } else {
            value
        };
        if part >= self.count {
            return Ok(None);
        }
        if part != self.next {
            return Err(Malformed("a part is missing"));
        }
        self.whole.extend_from_slice(bytes);
        self.next += 1;
        Ok((self.next == self.count).then_some(&self.whole))
    }
}

/// The positions that a chunk refers to, with the bytes of each message.
pub(crate) fn references(chunk: &Chunk) -> impl Iterator<Item = (Position, u32)> + '_ {
    chunk
        .entries
        .iter()
        .map(|entry| (entry.position, entry.size))
}
