//! Reading messages by position.
//!
//! Positions are taken in ascending order: per segment from an anchor on, hopping from frame header to
//! frame header. Of a frame only header and meta part are read, and of its bodies those that are asked
//! for, neighbours in one go. Small payloads are copied out of the buffers, which are used again;
//! a large body is read into memory of its own and its payload cut out of it, so no message ever holds
//! on to more than about itself. Much of it is read past the page cache, where it is not: it was
//! written past it (`active.rs`).

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use courser_core::{id::Position, message::SharedMessage};

use super::{
    Log,
    frame::{self, Body, Builder, Head},
    segment::{self, BLOCK, FileId, Segment},
    window::Window,
};
use crate::{StoreError, codec};

/// Bytes read at once when hopping over headers: some tens of frames of single small messages.
const HOP_BYTES: usize = 32 * 1024;
/// Bytes of neighbouring bodies read at once.
const RUN_BYTES: usize = 1024 * 1024;
/// Bytes between two bodies that are read rather than skipped.
const GAP_BYTES: usize = 16 * 1024;
/// Neighbours of so many bytes are read past the page cache.
const DIRECT_BYTES: usize = 64 * 1024;
/// A body from this size on has its own memory.
const LARGE_BYTES: usize = 256 * 1024;

/// Buffers, used again by the next call.
pub(crate) struct Scratch {
    headers: Window,
    bodies: Window,
    table: Vec<Body>,
    direct: Direct,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            headers: Window::new(HOP_BYTES),
            bodies: Window::new(0),
            table: Vec::new(),
            direct: Direct::default(),
        }
    }
}

/// A position, and its place in the answer.
type Wanted = (u64, usize);
type Answers = Vec<Option<SharedMessage>>;

impl Log {
    /// Reads messages, in the order asked for; `None` where there is none.
    pub(crate) fn load(&self, positions: &[Position]) -> Result<Answers, StoreError> {
        let mut wanted: Vec<Wanted> = positions
            .iter()
            .enumerate()
            .map(|(place, position)| (position.0, place))
            .collect();
        if !wanted.is_sorted() {
            wanted.sort_unstable();
        }
        let scratch = &mut *self.scratch.lock();
        let answers = self.load_with(scratch, &wanted);
        scratch.direct.close();
        answers
    }

    fn load_with(&self, scratch: &mut Scratch, wanted: &[Wanted]) -> Result<Answers, StoreError> {
        let mut answers = vec![None; wanted.len()];
        let mut rest = wanted;
        while let Some(&(position, _)) = rest.first() {
            let Some((segment, until)) = self.segment_of(position) else {
                rest = &rest[1..];
                continue;
            };
            let is_here = |(position, _): &Wanted| until.is_none_or(|until| *position < until);
            let (here, later) = rest.split_at(rest.partition_point(is_here));
            scratch.headers.reset(HOP_BYTES);
            scratch.bodies.reset(0);
            let loaded = load_from(&segment, here, scratch, &mut answers).and_then(|()| {
                let is_missing = here.iter().any(|&(_, place)| answers[place].is_none());
                if is_missing {
                    check_headers(&segment, scratch)
                } else {
                    Ok(())
                }
            });
            match loaded {
                // Its file belongs to another segment now, or to none: nothing lived in it.
                Err(_) if segment.is_retired() => {}
                other => other?,
            }
            rest = later;
        }
        Ok(answers)
    }

    /// The segment that a position can be in, and the position at which the next one starts.
    fn segment_of(&self, position: u64) -> Option<(Arc<Segment>, Option<u64>)> {
        let segments = self.segments.read();
        // Of several that start at one position, only the last holds messages.
        let after = segments.partition_point(|segment| segment.header.position <= position);
        let segment = segments[..after].last()?;
        let until = segments.get(after).map(|next| next.header.position);
        Some((Arc::clone(segment), until))
    }
}

/// The frame header at an offset, or what is wrong with it.
pub(super) fn head_at(
    segment: &Segment,
    offset: u64,
    window: &mut Window,
) -> Result<Head, StoreError> {
    window
        .get(segment, offset, frame::HEADER)
        .map_err(|error| segment.io("read", error))?
        .and_then(Head::parse)
        .filter(|head| head.life == segment.header.life && head.segment == segment.header.frame)
        // No checksum was looked at: a length that rotted must not become one of the file.
        .filter(|head| offset.saturating_add(u64::from(head.total)) <= segment.length())
        .ok_or_else(|| segment.damaged(offset, "there should be a frame"))
}

/// The number of the frame that follows a finished segment, as its seal says.
pub(super) fn frame_after(segment: &Segment) -> Result<u64, StoreError> {
    let mut window = Window::new(HOP_BYTES);
    let mut offset = segment::HEADER;
    loop {
        let head = head_at(segment, offset, &mut window)?;
        if head.seal {
            return Ok(head.number);
        }
        offset += u64::from(head.total);
    }
}

/// Looks at all frame headers of a segment that was not looked at since it was opened.
fn find_frames(segment: &Segment, window: &mut Window) -> Result<(), StoreError> {
    if segment.is_complete() {
        return Ok(());
    }
    segment.clear_anchors();
    let mut offset = segment::HEADER;
    loop {
        let head = head_at(segment, offset, window)?;
        if head.seal {
            break;
        }
        let end = offset + u64::from(head.total);
        segment.add_frame(offset, head.first, end);
        offset = end;
    }
    segment.set_complete();
    Ok(())
}

/// Looks at all of a segment before it is said that a message is not there. Hopping believes the
/// headers on its way, and one that rotted may lead past a message.
fn check_headers(segment: &Segment, scratch: &mut Scratch) -> Result<(), StoreError> {
    let end = segment.end();
    // What was read before may lack what was appended since.
    scratch.headers.reset(HOP_BYTES);
    let mut offset = segment.checked.load(Ordering::Relaxed);
    while offset < end {
        let head = head_at(segment, offset, &mut scratch.headers)?;
        read_table(segment, offset, &head, scratch)?;
        offset += u64::from(head.total);
    }
    segment.checked.store(offset, Ordering::Relaxed);
    Ok(())
}

fn load_from(
    segment: &Segment,
    wanted: &[Wanted],
    scratch: &mut Scratch,
    answers: &mut Answers,
) -> Result<(), StoreError> {
    find_frames(segment, &mut scratch.headers)?;
    let end = segment.end();
    let mut offset = 0;
    let mut rest = wanted;
    while let Some(&(position, _)) = rest.first() {
        let Some(anchor) = segment.anchor(position) else {
            rest = &rest[1..];
            continue;
        };
        offset = anchor.max(offset);
        if offset >= end {
            return Ok(());
        }
        let head = head_at(segment, offset, &mut scratch.headers)?;
        if position >= head.next {
            offset += u64::from(head.total);
            continue;
        }
        let (here, later) =
            rest.split_at(rest.partition_point(|(position, _)| *position < head.next));
        load_from_frame(segment, offset, &head, here, scratch, answers)?;
        rest = later;
    }
    Ok(())
}

fn load_from_frame(
    segment: &Segment,
    offset: u64,
    head: &Head,
    wanted: &[Wanted],
    scratch: &mut Scratch,
    answers: &mut Answers,
) -> Result<(), StoreError> {
    read_table(segment, offset, head, scratch)?;
    let mut found = Vec::with_capacity(wanted.len());
    for &(position, place) in wanted {
        if let Ok(row) = scratch
            .table
            .binary_search_by_key(&position, |body| body.position.0)
        {
            found.push((scratch.table[row], place));
        }
    }
    let mut run_end = 0;
    for (at, (body, place)) in found.iter().enumerate() {
        let start = offset + body.offset as u64;
        let message = if let Some(bytes) = scratch.headers.held(start, body.length) {
            decode(segment, offset, body, bytes)?
        } else if body.length >= LARGE_BYTES {
            load_large(segment, offset, body, &mut scratch.direct)?
        } else {
            if body.offset + body.length > run_end {
                run_end = end_of_run(&found[at..]);
            }
            let bytes = match scratch.bodies.held(start, body.length) {
                Some(bytes) => bytes,
                None => {
                    let (bodies, length) = (&mut scratch.bodies, run_end - body.offset);
                    let read = if length >= DIRECT_BYTES {
                        bodies.get_direct(segment, &mut scratch.direct, start, length)
                    } else {
                        bodies.get(segment, start, length)
                    };
                    read.map_err(|error| segment.io("read", error))?
                        .ok_or_else(|| segment.damaged(start, "the file ends in a message"))?;
                    scratch
                        .bodies
                        .held(start, body.length)
                        .expect("the run was just read")
                }
            };
            decode(segment, offset, body, bytes)?
        };
        answers[*place] = Some(message);
    }
    Ok(())
}

/// Header and meta part of a frame, checked.
pub(super) fn read_table(
    segment: &Segment,
    offset: u64,
    head: &Head,
    scratch: &mut Scratch,
) -> Result<(), StoreError> {
    let bytes = scratch
        .headers
        .get(segment, offset, head.checked_bytes())
        .map_err(|error| segment.io("read", error))?
        .filter(|bytes| head.is_intact(bytes))
        .ok_or_else(|| segment.damaged(offset, "the checksum of a frame is wrong"))?;
    frame::table(head, &bytes[frame::HEADER..], &mut scratch.table)
        .map_err(|error| segment.damaged(offset, error.0))?;
    Ok(())
}

/// Where the bodies end that are read together with the first one.
fn end_of_run(found: &[(Body, usize)]) -> usize {
    let (first, _) = found[0];
    let mut end = first.offset + first.length;
    for (body, _) in &found[1..] {
        let is_near = body.offset <= end + GAP_BYTES && body.length < LARGE_BYTES;
        if !is_near || body.offset + body.length - first.offset > RUN_BYTES {
            break;
        }
        end = end.max(body.offset + body.length);
    }
    end
}

fn check(segment: &Segment, offset: u64, body: &Body, bytes: &[u8]) -> Result<(), StoreError> {
    if crc32c::crc32c(bytes) == body.checksum {
        return Ok(());
    }
    let why = format!("the checksum of message {} is wrong", body.position);
    Err(segment.damaged(offset + body.offset as u64, &why))
}

fn decode(
    segment: &Segment,
    offset: u64,
    body: &Body,
    bytes: &[u8],
) -> Result<SharedMessage, StoreError> {
    check(segment, offset, body, bytes)?;
    codec::message::take(bytes, body.position, |range| {
        Bytes::copy_from_slice(&bytes[range])
    })
    .map(SharedMessage::from)
    .map_err(|error| segment.damaged(offset + body.offset as u64, error.0))
}

/// The file that was last read from past the page cache.
#[derive(Default)]
pub(super) struct Direct {
    /// Which one; as long as it is open, no other has the same.
    id: Option<FileId>,
    /// `None` where the file system has no such thing.
    file: Option<File>,
}

impl Direct {
    /// Its file may be one that was removed, and takes room until it is closed.
    fn close(&mut self) {
        *self = Self::default();
    }

    /// Reads whole blocks, and what is `needed` of them in any case, if need be the other way; answers how many bytes
    /// it has read.
    pub(super) fn read_all(
        &mut self,
        segment: &Segment,
        into: &mut [u8],
        needed: usize,
        from: u64,
    ) -> io::Result<usize> {
        let read = self.read(segment, into, from);
        if read < needed {
            let rest = &mut into[read..needed];
            segment.file.read_exact_at(rest, from + read as u64)?;
        }
        Ok(read.max(needed))
    }

    /// Reads whole blocks, as many as it can; answers how many bytes these were.
    fn read(&mut self, segment: &Segment, into: &mut [u8], from: u64) -> usize {
        let id = FileId::of(&segment.file).ok();
        if self.id != id {
            self.file = segment.open_direct(File::options().read(true));
            self.id = self.file.as_ref().and(id);
        }
        let Some(file) = &self.file else {
            return 0;
        };
        let mut done = 0;
        while done < into.len() && done.is_multiple_of(BLOCK) {
            match file.read_at(&mut into[done..], from + done as u64) {
                Ok(read @ 1..) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The other way it is read once more, and told if it is not well.
                Ok(0) | Err(_) => break,
            }
        }
        done
    }
}

fn load_large(
    segment: &Segment,
    offset: u64,
    body: &Body,
    direct: &mut Direct,
) -> Result<SharedMessage, StoreError> {
    let start = offset + body.offset as u64;
    if start + body.length as u64 > segment.length() {
        return Err(segment.damaged(start, "the file ends in a message"));
    }
    let before = (start % BLOCK as u64) as usize;
    let (block, needed) = (start - before as u64, before + body.length);
    let whole = needed.next_multiple_of(BLOCK);
    let mut bytes = vec![0; whole + BLOCK];
    let aligned = bytes.as_ptr().align_offset(BLOCK).min(BLOCK);
    direct
        .read_all(segment, &mut bytes[aligned..aligned + whole], needed, block)
        .map_err(|error| segment.io("read", error))?;
    let bytes = Bytes::from(bytes).slice(aligned + before..aligned + needed);
    check(segment, offset, body, &bytes)?;
    codec::message::take(&bytes, body.position, |range| bytes.slice(range))
        .map(SharedMessage::from)
        .map_err(|error| segment.damaged(start, error.0))
}

impl Scratch {
    /// For hopping over headers.
    pub(super) fn headers(&mut self) -> &mut Window {
        &mut self.headers
    }

    /// Copies a body of the frame whose table was read last, if it is there.
    pub(super) fn copy_body(
        &mut self,
        segment: &Segment,
        offset: u64,
        position: Position,
        into: &mut Builder,
    ) -> Result<(), StoreError> {
        let Ok(row) = self
            .table
            .binary_search_by_key(&position, |body| body.position)
        else {
            return Ok(());
        };
        let body = self.table[row];
        let start = offset + body.offset as u64;
        let bytes = match self.headers.held(start, body.length) {
            Some(bytes) => bytes,
            None => self
                .bodies
                .get(segment, start, body.length)
                .map_err(|error| segment.io("read", error))?
                .ok_or_else(|| segment.damaged(start, "the file ends in a message"))?,
        };
        check(segment, offset, &body, bytes)?;
        into.put_body(position, bytes);
        Ok(())
    }
}
