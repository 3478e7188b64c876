//! Many changes, gathered into batches of a bounded size.

use courser_core::{
    id::{ChunkNo, QueueId, Seq},
    record::{ChunkEntry, Note, QueueState},
};

use super::{
    BATCH_CHANGES, Changes, Index, PART_BYTES, PARTS, VALUE_BYTES, keys, sum::CHECK_BYTES,
};
use crate::{
    StoreError,
    codec::{definition, entry, note},
};

/// Gathers operations into batches of a bounded size.
pub(crate) struct Writer<'a> {
    pub(super) index: &'a Index,
    pub(super) changes: Changes,
    /// Batches that were applied.
    pub(super) batches: usize,
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
        chunk: &[ChunkEntry],
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
        for item in self.index.db().items(|db| db.scan_prefix(prefix))? {
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
            .db()
            .items(|db| db.range(keys::notes(queue, number)))?
        {
            self.remove(&item?.0)?;
        }
        self.remove(&keys::chunk(queue, number))
    }

    pub(crate) fn remove(&mut self, key: &[u8]) -> Result<(), StoreError> {
        self.make_room(1)?;
        self.changes.insert(key.to_vec(), None);
        Ok(())
    }

    fn insert(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), StoreError> {
        assert!(
            value.len() <= VALUE_BYTES - CHECK_BYTES,
            "a value of {} bytes",
            value.len()
        );
        self.make_room(1)?;
        self.changes.insert(key, Some(value));
        Ok(())
    }

    /// Writes a value in parts, all of them in one batch.
    pub(super) fn put_parts(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
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

    /// Sees to it that so many changes go into one batch.
    fn make_room(&mut self, changes: usize) -> Result<(), StoreError> {
        if self.changes.len() + changes > BATCH_CHANGES {
            self.apply()
        } else {
            Ok(())
        }
    }

    pub(super) fn apply(&mut self) -> Result<(), StoreError> {
        if self
            .stop_after
            .is_some_and(|stop_after| self.batches >= stop_after)
        {
            return Err(StoreError::Index("told to stop".to_owned()));
        }
        self.batches += 1;
        self.index.apply(std::mem::take(&mut self.changes))
    }

    /// Applies what is left and makes everything durable.
    pub(crate) fn finish(mut self) -> Result<(), StoreError> {
        if !self.changes.is_empty() {
            self.apply()?;
        }
        self.index.flush()
    }
}
