//! Moving what lives into the index, and counting what refers to each segment on the way.
//!
//! A checkpoint that is cut off leaves some of its chunks in the index and `upto` as it was. That is
//! harmless: the log still holds every record after the old `upto`, and replaying one twice changes
//! nothing.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
};

use courser_core::{
    id::{ChunkNo, Position, QueueId},
    record::{Checkpoint, Chunk, ChunkChange},
};

use super::{DiskStore, reclaim::Keeping};
use crate::{
    Recover, StoreError,
    index::{Holder, Writer, holders::gone, keys, references},
    log::{
        frame::BODY_OVERHEAD,
        segment::{self, Segment},
    },
};

impl DiskStore {
    /// Gives back the queues and chunks of the index, counts the references, and removes chunks whose
    /// queue is gone.
    pub(super) fn read_index(&self, into: &mut dyn Recover) -> Result<(), StoreError> {
        let mut queues = BTreeSet::new();
        let queues_sum = self.index.queues(&mut |state| {
            queues.insert(state.definition.id);
            into.queue(state);
        })?;
        let mut orphans = BTreeSet::new();
        let mut tally = Tally::new(self.log.segments());
        let chunks_sum = self.index.chunks(&mut |queue, number, chunk| {
            if queues.contains(&queue) {
                tally.add(chunk);
                into.chunk(queue, number, chunk);
            } else {
                orphans.insert(queue);
            }
        })?;
        self.index.check_sum([queues_sum, chunks_sum])?;
        if !orphans.is_empty() {
            tracing::warn!(?orphans, "removed what was left of deleted queues");
            let mut writer = self.index.writer();
            for queue in orphans {
                writer.remove_prefix(&keys::of_queue(keys::CHUNKS, queue))?;
                writer.remove_prefix(&keys::of_queue(keys::NOTES, queue))?;
            }
            writer.finish()?;
        }
        Ok(())
    }

    /// Whether all segments are there that hold something that lives.
    pub(super) fn check_holders(&self, holders: &[Holder]) -> Result<(), StoreError> {
        let segments = self.log.segments();
        let Some(gone) = gone(holders, &segments).next() else {
            return Ok(());
        };
        let path = self.log.folder.join(segment::name(gone.frame));
        Err(StoreError::Missing {
            path: path.display().to_string(),
        })
    }

    /// Writes which segments hold something that lives, when that has changed.
    fn note_holders(&self, keeping: &mut Keeping) -> Result<(), StoreError> {
        let segments = self.log.segments();
        let lives = |segment: &&Arc<Segment>| segment.live_entries.load(Ordering::Relaxed) > 0;
        let holders: Vec<_> = segments
            .iter()
            .filter(lives)
            .map(|segment| Holder::from(&segment.header))
            .collect();
        if keeping.holders.as_ref() != Some(&holders) {
            self.index.write_holders(&holders)?;
            keeping.holders = Some(holders);
        }
        Ok(())
    }

    pub(super) fn apply_checkpoint(
        &self,
        keeping: &mut Keeping,
        checkpoint: &Checkpoint,
        upto: u64,
    ) -> Result<(), StoreError> {
        // It grows before anything is given back.
        if self.is_short(0) {
            self.log.allow_spares(false)?;
        }
        // The index must never know of a frame that a power cut can still take from the log.
        if self.log.durable() < upto {
            self.log.sync()?;
        }
        let mut tally = Tally::new(self.log.segments());
        let mut writer = self.index.writer();
        writer.stop_after = Some(self.stop_after.load(Ordering::Relaxed));
        for state in &checkpoint.queues {
            writer.put_queue(state)?;
        }
        for change in &checkpoint.chunks {
            self.apply_change(&mut writer, &mut tally, change)?;
        }
        writer.finish()?;
        self.delete_queues(&mut tally, &checkpoint.deleted_queues)?;
        self.note_holders(keeping)?;
        let meta = &mut keeping.meta;
        meta.upto = meta.upto.max(upto);
        meta.next_position = meta.next_position.max(checkpoint.next_position.0);
        meta.next_queue = meta.next_queue.max(checkpoint.next_queue.0);
        self.index.write_meta(*meta)?;
        keeping.checkpointed = true;
        Ok(())
    }

    fn apply_change(
        &self,
        writer: &mut Writer<'_>,
        tally: &mut Tally,
        change: &ChunkChange,
    ) -> Result<(), StoreError> {
        let (queue, number) = (change.queue, change.number);
        if let Some(before) = self.index.chunk(queue, number)? {
            tally.remove(&before);
        }
        if change.entries.is_empty() {
            return writer.remove_chunk(queue, number);
        }
        for entry in &change.entries {
            tally.count(entry.position, entry.size, true);
        }
        writer.put_chunk(queue, number, &change.entries)?;
        for (seq, note) in &change.notes {
            match note {
                Some(note) => writer.put_note(queue, *seq, note)?,
                None => writer.remove_prefix(&keys::note(queue, *seq))?,
            }
        }
        Ok(())
    }

    /// Removes everything of these queues, the definition last.
    fn delete_queues(&self, tally: &mut Tally, queues: &[QueueId]) -> Result<(), StoreError> {
        if queues.is_empty() {
            return Ok(());
        }
        let mut writer = self.index.writer();
        for queue in queues {
            self.index
                .chunks_of(*queue, &mut |_, _: ChunkNo, chunk| tally.remove(chunk))?;
            for kind in [keys::CHUNKS, keys::NOTES, keys::QUEUES] {
                writer.remove_prefix(&keys::of_queue(kind, *queue))?;
            }
        }
        writer.finish()
    }
}

/// Counts references, segment by segment.
struct Tally {
    segments: Vec<Arc<Segment>>,
    /// The segment of the last position, as neighbours mostly share theirs.
    last: usize,
}

impl Tally {
    fn new(segments: Vec<Arc<Segment>>) -> Self {
        Self { segments, last: 0 }
    }

    fn add(&mut self, chunk: &Chunk) {
        for (position, size) in references(chunk) {
            self.count(position, size, true);
        }
    }

    fn remove(&mut self, chunk: &Chunk) {
        for (position, size) in references(chunk) {
            self.count(position, size, false);
        }
    }

    fn count(&mut self, position: Position, size: u32, is_new: bool) {
        let Some(segment) = self.segment(position) else {
            return;
        };
        let bytes = u64::from(size) + BODY_OVERHEAD;
        if is_new {
            segment.live_entries.fetch_add(1, Ordering::Relaxed);
            let before = segment.live_bytes.fetch_add(bytes, Ordering::Relaxed);
            let live_bytes_max = &segment.live_bytes_max;
            live_bytes_max.fetch_max(before + bytes, Ordering::Relaxed);
        } else {
            segment.live_entries.fetch_sub(1, Ordering::Relaxed);
            segment.live_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    fn segment(&mut self, position: Position) -> Option<&Segment> {
        let starts = |at: usize| self.segments.get(at).map(|segment| segment.header.position);
        let is_here = starts(self.last).is_some_and(|start| start <= position.0)
            && starts(self.last + 1).is_none_or(|next| position.0 < next);
        if !is_here {
            let after = self
                .segments
                .partition_point(|segment| segment.header.position <= position.0);
            self.last = after.checked_sub(1)?;
        }
        self.segments.get(self.last).map(AsRef::as_ref)
    }
}
