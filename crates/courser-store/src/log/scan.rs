//! Looking at a segment without changing it, and going on behind what is damaged.
//!
//! Frames stand at multiples of 16 and say whose they are: the life and the first frame of their
//! segment, under a checksum. So behind a place that is no frame the next one is found by trying
//! every multiple of 16. Nothing is believed that no checksum covers, and no more is in memory than
//! the largest message or meta part of a frame.

use std::sync::Arc;

use bytes::Bytes;
use courser_core::{message::Message, record::Record};

use super::{
    frame::{self, Body, Head},
    segment::{self, Segment},
    window::Window,
};
use crate::{
    StoreError,
    codec::{self, Malformed},
};

/// Bytes read at once.
const AHEAD_BYTES: usize = 1024 * 1024;

/// A frame or a seal whose header and meta part are what was written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed {
    pub(crate) offset: u64,
    pub(crate) head: Head,
}

impl Placed {
    pub(crate) fn end(&self) -> u64 {
        self.offset.saturating_add(u64::from(self.head.total))
    }
}

/// What comes next in a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Found {
    Frame(Placed),
    Seal(Placed),
    /// Damage: a frame or a seal follows behind it.
    Gap {
        from: u64,
        why: &'static str,
    },
    /// No frame follows. Up to `traces` there is something that may have been one.
    End {
        offset: u64,
        traces: u64,
        why: &'static str,
    },
}

impl Found {
    /// Where it stands, or begins.
    pub(crate) fn offset(&self) -> u64 {
        match *self {
            Self::Frame(placed) | Self::Seal(placed) => placed.offset,
            Self::Gap { from, .. } => from,
            Self::End { offset, .. } => offset,
        }
    }
}

/// Goes through a segment from front to back.
pub(crate) struct Scan {
    pub(crate) segment: Arc<Segment>,
    window: Window,
    offset: u64,
    done: bool,
    /// The body table of the frame that came last.
    pub(crate) bodies: Vec<Body>,
}

impl Scan {
    pub(crate) fn new(segment: &Arc<Segment>) -> Self {
        Self::from(segment, segment::HEADER)
    }

    /// From the start of a frame on.
    pub(crate) fn from(segment: &Arc<Segment>, offset: u64) -> Self {
        Self {
            segment: Arc::clone(segment),
            window: Window::new(AHEAD_BYTES),
            offset,
            done: false,
            bodies: Vec::new(),
        }
    }

    /// What comes next; `None` behind the end. A seal is not the end: something may stand behind it.
    pub(crate) fn next(&mut self) -> Result<Option<Found>, StoreError> {
        if self.done {
            return Ok(None);
        }
        let from = self.offset;
        let why = match self.intact(from)? {
            Ok(placed) => return Ok(Some(self.found(placed))),
            Err(why) => why,
        };
        let (next, traces) = self.resynchronise(from)?;
        Ok(Some(match next {
            Some(to) => {
                self.offset = to;
                Found::Gap { from, why }
            }
            None => {
                self.done = true;
                let offset = from;
                Found::End {
                    offset,
                    traces,
                    why,
                }
            }
        }))
    }

    fn found(&mut self, placed: Placed) -> Found {
        self.offset = placed.end();
        if placed.head.seal {
            Found::Seal(placed)
        } else {
            Found::Frame(placed)
        }
    }

    /// The frame or seal at an offset, or why there is none. Its body table is read as well.
    fn intact(&mut self, offset: u64) -> Result<Result<Placed, &'static str>, StoreError> {
        let Self {
            segment,
            window,
            bodies,
            ..
        } = self;
        let io = |error| segment.io("read", error);
        let bytes = window.get(segment, offset, frame::HEADER).map_err(io)?;
        let Some(head) = bytes.and_then(Head::parse) else {
            return Ok(Err("there should be a frame"));
        };
        if head.life != segment.header.life || head.segment != segment.header.frame {
            return Ok(Err("the frame belongs elsewhere"));
        }
        if offset.saturating_add(u64::from(head.total)) > segment.length() {
            return Ok(Err("the frame is longer than the file"));
        }
        let bytes = window
            .get(segment, offset, head.checked_bytes())
            .map_err(io)?;
        let Some(bytes) = bytes.filter(|bytes| head.is_intact(bytes)) else {
            return Ok(Err("the checksum of the frame is wrong"));
        };
        bodies.clear();
        if !head.seal
            && let Err(Malformed(why)) = frame::table(&head, &bytes[frame::HEADER..], bodies)
        {
            return Ok(Err(why));
        }
        Ok(Ok(Placed { offset, head }))
    }

    /// The next intact frame behind a place that is none, and up to where something may have been
    /// one: it carries the life of this file, or, when that is what rotted, its first frame.
    fn resynchronise(&mut self, from: u64) -> Result<(Option<u64>, u64), StoreError> {
        let mut traces = from;
        let mut at = from;
        loop {
            let left = self.segment.length().saturating_sub(at);
            let step = left.min(AHEAD_BYTES as u64) & !(frame::ALIGN - 1);
            if step == 0 {
                return Ok((None, traces));
            }
            for place in self.marked(at, step)? {
                if place > from
                    && let Ok(placed) = self.intact(place)?
                {
                    return Ok((Some(placed.offset), traces.max(place)));
                }
                traces = traces.max(self.trace(place)?);
            }
            at += step;
        }
    }

    /// Places that name this segment, by its life or by its first frame under the word of a frame.
    fn marked(&mut self, at: u64, bytes: u64) -> Result<Vec<u64>, StoreError> {
        let segment = &self.segment;
        let life = segment.header.life.to_le_bytes();
        let first = segment.header.frame.to_le_bytes();
        let io = |error| segment.io("read", error);
        // The second half of a header may lie behind these bytes.
        let wide = bytes + frame::HEADER as u64;
        let wide = wide.min(segment.length() - at);
        let Some(bytes) = self
            .window
            .get(segment, at, wide as usize)
            .map_err(io)?
            .map(|all| (all, bytes as usize))
        else {
            return Ok(Vec::new());
        };
        let (all, within) = bytes;
        let is_ours = |place: usize| {
            let here = &all[place..];
            here.get(8..16) == Some(&life[..])
                || (here.get(16..24) == Some(&first[..]) && Head::parse(here).is_some())
        };
        Ok((0..within)
            .step_by(frame::ALIGN as usize)
            .filter(|place| is_ours(*place))
            .map(|place| at + place as u64)
            .collect())
    }

    /// Where the frame ends that may have stood here.
    fn trace(&mut self, place: u64) -> Result<u64, StoreError> {
        let segment = &self.segment;
        let head = self
            .window
            .get(segment, place, frame::HEADER)
            .map_err(|error| segment.io("read", error))?
            .and_then(Head::parse);
        let bytes = head.map_or(frame::ALIGN, |head| u64::from(head.total));
        Ok(place.saturating_add(bytes).min(segment.length()))
    }

    /// The records of a frame that came from this scan.
    pub(crate) fn records(
        &mut self,
        frame: &Placed,
    ) -> Result<Result<Vec<Record>, Malformed>, StoreError> {
        let segment = &self.segment;
        let bytes = self
            .window
            .get(segment, frame.offset, frame.head.checked_bytes())
            .map_err(|error| segment.io("read", error))?;
        let mut bodies = Vec::new();
        Ok(bytes
            .ok_or(Malformed("the frame went away"))
            .and_then(|bytes| frame::records(&frame.head, &bytes[frame::HEADER..], &mut bodies)))
    }

    /// A message of the frame that came last, or what is wrong with it.
    pub(crate) fn message(
        &mut self,
        frame: &Placed,
        body: &Body,
    ) -> Result<Result<Message, &'static str>, StoreError> {
        let bytes = match self.body(frame, body)? {
            Ok(bytes) => bytes,
            Err(why) => return Ok(Err(why)),
        };
        let payload = |range| Bytes::copy_from_slice(&bytes[range]);
        Ok(codec::message::take(bytes, body.position, payload).map_err(|error| error.0))
    }

    /// The bytes of a message of the frame that came last, if they are what was written.
    fn body(
        &mut self,
        frame: &Placed,
        body: &Body,
    ) -> Result<Result<&[u8], &'static str>, StoreError> {
        let segment = &self.segment;
        let start = frame.offset + body.offset as u64;
        let bytes = self
            .window
            .get(segment, start, body.length)
            .map_err(|error| segment.io("read", error))?
            .filter(|bytes| crc32c::crc32c(bytes) == body.checksum);
        Ok(bytes.ok_or("the checksum of the message is wrong"))
    }

    /// All messages of the frame that came last.
    pub(super) fn check_messages(&mut self, frame: &Placed) -> Result<(), StoreError> {
        let bodies = std::mem::take(&mut self.bodies);
        for body in &bodies {
            if let Err(why) = self.body(frame, body)?.map(drop) {
                let at = frame.offset + body.offset as u64;
                return Err(self.segment.damaged(at, why));
            }
        }
        self.bodies = bodies;
        Ok(())
    }

    /// The message at an offset, if one of the frame that came last is there.
    pub(super) fn check_message(&mut self, frame: &Placed, offset: u64) -> Result<(), StoreError> {
        let holds = |body: &&Body| {
            let start = frame.offset + body.offset as u64;
            (start..start + body.length as u64).contains(&offset)
        };
        let Some(body) = self.bodies.iter().find(holds).copied() else {
            return Ok(());
        };
        self.message(frame, &body)?
            .map(drop)
            .map_err(|why| self.segment.damaged(offset, why))
    }
}

/// The header of the first intact frame that says it is of this segment, whatever its life.
pub(crate) fn first_of(segment: &Segment) -> Result<Option<Head>, StoreError> {
    let mut window = Window::new(AHEAD_BYTES);
    let io = |error| segment.io("read", error);
    let mut at = segment::HEADER;
    while at < segment.length() {
        let head = window
            .get(segment, at, frame::HEADER)
            .map_err(io)?
            .and_then(Head::parse)
            .filter(|head| head.segment == segment.header.frame);
        if let Some(head) = head {
            let bytes = window.get(segment, at, head.checked_bytes()).map_err(io)?;
            if bytes.is_some_and(|bytes| head.is_intact(bytes)) {
                return Ok(Some(head));
            }
        }
        at += frame::ALIGN;
    }
    Ok(None)
}
