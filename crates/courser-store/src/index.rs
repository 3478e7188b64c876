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
//! - A crash while sled opens leaves `snap.*.generating`, with which no later open succeeds: they are
//!   removed before.

mod guard;
pub(crate) mod keys;
mod real_sync;
#[cfg(test)]
mod tests;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use courser_core::{
    id::{ChunkNo, Position, QueueId, Seq},
    record::{Chunk, Note, QueueState},
};
use sled::{Batch, IVec};

use self::guard::Sled;
use crate::{
    StoreError,
    codec::{Malformed, Reader, definition, entry, note, put_varint},
    log::sync_folder,
};

/// Operations of a batch.
pub(crate) const BATCH_OPERATIONS: usize = 256;
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
const META_VERSION: u8 = 1;

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

pub(crate) struct Index {
    db: Sled,
    folder: PathBuf,
}

/// Takes a chunk without its notes.
pub(crate) type VisitChunk<'a> = dyn FnMut(QueueId, ChunkNo, &Chunk) + 'a;

impl Index {
    /// Opens the folder, and makes it if it is not there.
    pub(crate) fn open(folder: &Path) -> Result<Self, StoreError> {
        if folder.exists() {
            drop_leftovers(folder)?;
        }
        let config = sled::Config::new()
            .path(folder)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None)
            .segment_size(SEGMENT_BYTES);
        let db = Sled::open(&config, folder)?;
        sync_folder(folder)?;
        let index = Self {
            db,
            folder: folder.to_owned(),
        };
        index.look_for_blobs();
        Ok(index)
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
        let Some(bytes) = self.db.call(|db| db.get(keys::META))? else {
            return Ok(Meta::default());
        };
        decode_meta(&bytes).map_err(|error| self.damaged("meta", error))
    }

    /// Writes meta, after all that it speaks of.
    pub(crate) fn write_meta(&self, meta: Meta) -> Result<(), StoreError> {
        let mut value = vec![META_VERSION];
        for number in [
            meta.epoch,
            meta.upto,
            meta.next_position,
            u64::from(meta.next_queue),
        ] {
            put_varint(&mut value, number);
        }
        let mut batch = Batch::default();
        batch.insert(keys::META, value);
        self.db.call(|db| db.apply_batch(batch))?;
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
        self.db.call(|db| db.flush().map(drop))
    }

    /// Visits all queues.
    pub(crate) fn queues(&self, visit: &mut dyn FnMut(QueueState)) -> Result<(), StoreError> {
        let mut parts = Parts::default();
        for item in self.db.items(|db| db.scan_prefix(keys::QUEUES))? {
            let (key, value) = item?;
            let state = keys::parse_queue(&key)
                .ok_or(Malformed("a key is too short"))
                .and_then(|(_, part)| parts.add(part, &value))
                .and_then(|whole| whole.map(definition::take_state).transpose())
                .map_err(|error| self.damaged("a queue", error))?;
            if let Some(state) = state {
                visit(state);
            }
        }
        Ok(())
    }

    /// Visits all chunks, in the order of queues and chunk numbers.
    pub(crate) fn chunks(&self, visit: &mut VisitChunk<'_>) -> Result<(), StoreError> {
        self.chunks_under(keys::CHUNKS, visit)
    }

    /// Visits all chunks of a queue.
    pub(crate) fn chunks_of(
        &self,
        queue: QueueId,
        visit: &mut VisitChunk<'_>,
    ) -> Result<(), StoreError> {
        self.chunks_under(&keys::of_queue(keys::CHUNKS, queue), visit)
    }

    fn chunks_under(&self, prefix: &[u8], visit: &mut VisitChunk<'_>) -> Result<(), StoreError> {
        let mut chunk = Chunk::default();
        for item in self.db.items(|db| db.scan_prefix(prefix))? {
            let (key, value) = item?;
            let (queue, number) = keys::parse_chunk(&key)
                .ok_or_else(|| self.damaged("a chunk", Malformed("a key is too short")))?;
            chunk.entries.clear();
            entry::take_chunk(&value, number, &mut chunk.entries)
                .map_err(|error| self.damaged("a chunk", error))?;
            visit(queue, number, &chunk);
        }
        Ok(())
    }

    /// The value of a chunk, if there is one.
    pub(crate) fn chunk(
        &self,
        queue: QueueId,
        number: ChunkNo,
    ) -> Result<Option<Chunk>, StoreError> {
        let key = keys::chunk(queue, number);
        let Some(value) = self.db.call(|db| db.get(key))? else {
            return Ok(None);
        };
        let mut chunk = Chunk::default();
        entry::take_chunk(&value, number, &mut chunk.entries)
            .map_err(|error| self.damaged("a chunk", error))?;
        Ok(Some(chunk))
    }

    /// A chunk with its notes; an empty one when there is none.
    pub(crate) fn page(&self, queue: QueueId, number: ChunkNo) -> Result<Chunk, StoreError> {
        let Some(mut chunk) = self.chunk(queue, number)? else {
            return Ok(Chunk::default());
        };
        let mut parts = Parts::default();
        for item in self.db.items(|db| db.range(keys::notes(queue, number)))? {
            let (key, value) = item?;
            let found = take_note_part(&mut parts, &key, &value)
                .map_err(|error| self.damaged("a note", error))?;
            chunk.notes.extend(found);
        }
        Ok(chunk)
    }

    /// A write of many keys, in batches.
    pub(crate) fn writer(&self) -> Writer<'_> {
        Writer {
            index: self,
            batch: Batch::default(),
            operations: 0,
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

fn decode_meta(bytes: &[u8]) -> Result<Meta, Malformed> {
    let mut reader = Reader::new(bytes);
    if reader.byte()? != META_VERSION {
        return Err(Malformed("an unknown version"));
    }
    Ok(Meta {
        epoch: reader.varint()?,
        upto: reader.varint()?,
        next_position: reader.varint()?,
        next_queue: reader.number()?,
    })
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

/// Gathers operations into batches of a bounded size.
pub(crate) struct Writer<'a> {
    index: &'a Index,
    batch: Batch,
    operations: usize,
    /// Batches that were applied.
    batches: usize,
    /// Tests: fail instead of applying a batch after this many.
    pub(crate) stop_after: Option<usize>,
}

impl Writer<'_> {
    pub(crate) fn put_queue(&mut self, state: &QueueState) -> Result<(), StoreError> {
        let mut value = Vec::new();
        definition::put_state(&mut value, state);
        self.put_parts(&keys::of_queue(keys::QUEUES, state.definition.id), &value)
    }

    pub(crate) fn put_chunk(
        &mut self,
        queue: QueueId,
        number: ChunkNo,
        chunk: &[courser_core::record::ChunkEntry],
    ) -> Result<(), StoreError> {
        let mut value = Vec::new();
        entry::put_chunk(&mut value, number, chunk);
        self.insert(keys::chunk(queue, number), value)
    }

    pub(crate) fn put_note(
        &mut self,
        queue: QueueId,
        seq: Seq,
        note: &Note,
    ) -> Result<(), StoreError> {
        let mut value = Vec::new();
        note::put_note(&mut value, note);
        self.put_parts(&keys::note(queue, seq), &value)
    }

    /// Removes everything whose key starts like this.
    pub(crate) fn remove_prefix(&mut self, prefix: &[u8]) -> Result<(), StoreError> {
        for item in self.index.db.items(|db| db.scan_prefix(prefix))? {
            self.remove(&item?.0)?;
        }
        Ok(())
    }

    /// Removes a chunk and all of its notes.
    pub(crate) fn remove_chunk(
        &mut self,
        queue: QueueId,
        number: ChunkNo,
    ) -> Result<(), StoreError> {
        for item in self
            .index
            .db
            .items(|db| db.range(keys::notes(queue, number)))?
        {
            self.remove(&item?.0)?;
        }
        self.remove(&keys::chunk(queue, number))
    }

    pub(crate) fn remove(&mut self, key: &[u8]) -> Result<(), StoreError> {
        self.make_room(1)?;
        self.operations += 1;
        self.batch.remove(key);
        Ok(())
    }

    fn insert(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), StoreError> {
        assert!(
            value.len() <= VALUE_BYTES,
            "a value of {} bytes",
            value.len()
        );
        self.make_room(1)?;
        self.operations += 1;
        self.batch.insert(key, IVec::from(value));
        Ok(())
    }

    /// Writes a value in parts, all of them in one batch.
    fn put_parts(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let count = value.len().div_ceil(PART_BYTES).max(1);
        if count > PARTS {
            return Err(StoreError::Index(format!(
                "a value of {} bytes is too large",
                value.len()
            )));
        }
        self.make_room(count)?;
        let mut first = Vec::with_capacity(1 + value.len().min(PART_BYTES));
        first.push(count as u8);
        first.extend_from_slice(&value[..value.len().min(PART_BYTES)]);
        self.insert(keys::part(key, 0), first)?;
        for (number, part) in (1..).zip(value.chunks(PART_BYTES).skip(1)) {
            self.insert(keys::part(key, number), part.to_vec())?;
        }
        Ok(())
    }

    /// Sees to it that so many operations go into one batch.
    fn make_room(&mut self, operations: usize) -> Result<(), StoreError> {
        if self.operations + operations > BATCH_OPERATIONS {
            self.apply()
        } else {
            Ok(())
        }
    }

    fn apply(&mut self) -> Result<(), StoreError> {
        assert!(
            self.operations <= BATCH_OPERATIONS,
            "a batch of {} operations",
            self.operations
        );
        if self
            .stop_after
            .is_some_and(|stop_after| self.batches >= stop_after)
        {
            return Err(StoreError::Index("told to stop".to_owned()));
        }
        self.operations = 0;
        self.batches += 1;
        let batch = std::mem::take(&mut self.batch);
        self.index.db.call(|db| db.apply_batch(batch))
    }

    /// Applies what is left and makes everything durable.
    pub(crate) fn finish(mut self) -> Result<(), StoreError> {
        if self.operations > 0 {
            self.apply()?;
        }
        self.index.flush()
    }
}

/// The positions that a chunk refers to, with the bytes of each message.
pub(crate) fn references(chunk: &Chunk) -> impl Iterator<Item = (Position, u32)> + '_ {
    chunk
        .entries
        .iter()
        .map(|entry| (entry.position, entry.size))
}
