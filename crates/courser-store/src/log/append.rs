//! Appending: the only code that writes to the active segment.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    sync::{Arc, atomic::Ordering},
};

use courser_core::record::Group;

use super::{
    Log,
    active::{Active, Blocks},
    frame::{self, Builder},
    segment::{self, Segment, SegmentHeader},
    sync_folder,
};
use crate::{StoreError, is_full};

/// Frames or bytes in a file that was made in a hurry before a prepared one is worth its bytes.
const BUSY_FRAMES: u64 = 64;
const BUSY_BYTES: u64 = 1024 * 1024;

/// The end of the log.
#[derive(Default)]
pub(crate) struct Writer {
    pub(crate) active: Option<Active>,
    /// The number of the next frame; 0 before the replay.
    pub(crate) next_frame: u64,
    /// No message after this comes before it.
    pub(crate) next_position: u64,
    pub(crate) epoch: u64,
    /// Bytes of frames since the start.
    appended: u64,
    builder: Builder,
    blocks: Blocks,
}

impl Log {
    /// Writes a group as the next frame, and gives back its number.
    pub(crate) fn commit(&self, group: &Group, sync: bool) -> Result<u64, StoreError> {
        let mut writer = self.writer.lock();
        let writer = &mut *writer;
        assert!(
            writer.next_frame > 0,
            "a store is recovered before it is written"
        );
        let next = writer.next_position;
        if let Some(first) = group.messages.first() {
            assert!(
                first.position.0 >= next,
                "positions ascend from group to group"
            );
        }
        if !writer.builder.encode(group, next) {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "the group is over 4 GiB");
            return Err(StoreError::io("write", &self.folder, error));
        }
        let total = writer.builder.total();
        self.make_room(writer, total)?;
        let number = writer.next_frame;
        let active = writer.active.as_mut().expect("there is room in it");
        let (segment, offset) = (Arc::clone(&active.segment), active.offset);
        let builder = &mut writer.builder;
        builder.finish(segment.place(number, self.durable(), writer.epoch));
        let write = || {
            active.write(total, sync, &mut writer.blocks, |out| {
                builder.put_into(&group.messages, out);
            })
        };
        self.with_room(write)
            .map_err(|error| segment.io("write", error))?;
        if sync {
            segment
                .file
                .sync_data()
                .map_err(|error| segment.io("sync", error))?;
            self.durable.fetch_max(number, Ordering::AcqRel);
        }
        segment.add_frame(offset, builder.first(), offset + total);
        writer.next_frame += 1;
        writer.appended += total;
        writer.next_position = builder.next();
        Ok(number)
    }

    /// Makes everything that was appended durable.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        // The lock is not held during the sync, so that an append need not wait for it.
        let (segment, last) = {
            let writer = self.writer.lock();
            let Some(active) = &writer.active else {
                return Ok(());
            };
            (Arc::clone(&active.segment), writer.next_frame - 1)
        };
        if self.durable() < last {
            segment
                .file
                .sync_data()
                .map_err(|error| segment.io("sync", error))?;
            self.durable.fetch_max(last, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Ends the log for now: makes everything durable, and says so by a seal. Without it, nobody could
    /// tell a last frame that rots from one that was never written whole.
    pub(crate) fn close(&self) -> Result<(), StoreError> {
        self.sync()?;
        self.finish_active(&self.writer.lock())?;
        // After a start in which nothing is written nobody would look whether they are wanted.
        self.remove_spares();
        Ok(())
    }

    /// Bytes appended since the start, and the room that the active segment has for more: none when it
    /// was not prepared, for the next one is better.
    pub(crate) fn pace(&self) -> (u64, u64) {
        let writer = self.writer.lock();
        let active = writer.active.as_ref();
        let room = active
            .filter(|active| active.is_prepared(self.segment_bytes))
            .map_or(0, |active| self.segment_bytes.saturating_sub(active.offset));
        (writer.appended, room)
    }

    /// Whether a prepared file would be used soon.
    pub(crate) fn is_busy(&self) -> bool {
        let writer = self.writer.lock();
        writer.active.as_ref().is_some_and(|active| {
            active.is_prepared(self.segment_bytes)
                || active.offset >= self.busy_bytes()
                || writer.next_frame - active.segment.header.frame >= BUSY_FRAMES
        })
    }

    /// The active segment, with room for a frame and a seal behind it.
    fn make_room(&self, writer: &mut Writer, total: u64) -> Result<(), StoreError> {
        let fits = writer.active.as_ref().is_some_and(|active| {
            let capacity = self.segment_bytes.max(active.segment.length());
            let is_best = active.is_prepared(self.segment_bytes) || self.spares.lock().count() == 0;
            let has_room = active.offset + total + frame::HEADER as u64 <= capacity;
            // An empty one takes any frame: its successor would have the same name.
            let is_empty = active.segment.header.frame == writer.next_frame;
            is_empty || (is_best && has_room)
        });
        if fits {
            return Ok(());
        }
        self.go_on_in_another(writer, total)
    }

    /// Finishes the segment in use while it has room, so that its file can be given back: when all its messages are
    /// before this position, and it is one that `goes`.
    pub(crate) fn finish_early(
        &self,
        next_position: u64,
        goes: impl FnOnce(&Segment) -> bool,
    ) -> Result<(), StoreError> {
        let mut writer = self.writer.lock();
        let is_worth_it = writer.active.as_ref().is_some_and(|active| {
            let segment = &*active.segment;
            // An empty one has the name that the next one would have.
            let is_empty = segment.header.frame == writer.next_frame;
            !is_empty && segment.length() >= self.busy_bytes() && goes(segment)
        });
        if is_worth_it && writer.next_position <= next_position {
            self.go_on_in_another(&mut writer, 0)?;
        }
        Ok(())
    }

    /// Writes, and once more when the disk was full and spare files could be given up: a write that is refused has
    /// taken nothing away. Not so a sync, which is not tried again.
    pub(super) fn with_room<T>(&self, mut write: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        match write() {
            Err(error) if is_full(&error) && self.give_up_spares() => write(),
            written => written,
        }
    }

    fn go_on_in_another(&self, writer: &mut Writer, total: u64) -> Result<(), StoreError> {
        self.finish_active(writer)?;
        let segment = self.start_segment(writer, total)?;
        self.segments.write().push(Arc::clone(&segment));
        writer.active = Some(Active::start(segment));
        Ok(())
    }

    /// Bytes with which a segment counts as used.
    fn busy_bytes(&self) -> u64 {
        BUSY_BYTES.min(self.segment_bytes / 2)
    }

    /// Seals and syncs the active segment: of all segments, only the last may end in a torn frame.
    fn finish_active(&self, writer: &Writer) -> Result<(), StoreError> {
        let Some(Active {
            segment, offset, ..
        }) = &writer.active
        else {
            return Ok(());
        };
        let place = segment.place(writer.next_frame, self.durable(), writer.epoch);
        let seal = frame::seal(place, writer.next_position);
        self.with_room(|| segment.file.write_all_at(&seal, *offset))
            .map_err(|error| segment.io("write", error))?;
        segment.set_length(segment.length().max(offset + frame::HEADER as u64));
        segment
            .file
            .sync_data()
            .map_err(|error| segment.io("sync", error))?;
        self.durable
            .fetch_max(writer.next_frame - 1, Ordering::AcqRel);
        Ok(())
    }

    /// Starts the next segment, in a spare file if there is one and the frame fits into it.
    fn start_segment(&self, writer: &Writer, total: u64) -> Result<Arc<Segment>, StoreError> {
        let needed = segment::HEADER + total + frame::HEADER as u64;
        let header = SegmentHeader::new(writer.next_frame, writer.next_position, None);
        let mut spares = self.spares.lock();
        spares.note_start();
        let spare = if needed <= self.segment_bytes {
            spares.take()
        } else {
            None
        };
        drop(spares);
        let (from, is_new) = spare.map_or_else(
            || (self.folder.join("next.tmp"), true),
            |spare| (spare, false),
        );
        let path = self.folder.join(segment::name(header.frame));
        let begin = || {
            let file = File::options()
                .read(true)
                .write(true)
                .create(is_new)
                .truncate(is_new)
                .open(&from)?;
            file.write_all_at(&header.encode(), 0)?;
            Ok(file)
        };
        // Durable before it has its name: a segment without a good header is damaged, not young.
        let file = self
            .with_room(begin)
            .and_then(|file| file.sync_all().map(|()| file))
            .and_then(|file| fs::rename(&from, &path).map(|()| file))
            .map_err(|error| StoreError::io("write", &from, error))?;
        sync_folder(&self.folder)?;
        let length = if is_new {
            segment::HEADER
        } else {
            self.segment_bytes
        };
        Ok(Arc::new(Segment::new(path, file, header, length)))
    }
}
