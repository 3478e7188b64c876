//! Goes through all of a folder once: what is wrong with it, and where everything is.
//!
//! The rules of the log are those of a start (`log/replay.rs`), but nothing ends at the first damage,
//! and segments that a start leaves alone, for the index is past them, are looked at as well. Where a
//! start cuts the log (`end.rs`) everything ends: nobody ever learned of what stands behind.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use courser_core::record::Record;

use super::{
    Damage, Findings, RESTORE, Torn,
    end::{knows_durable, torn_end},
    folder::{Folder, reason},
    living::Changes,
    places::Places,
    verify::LogFigures,
};
use crate::{
    StoreError,
    index::{Holder, Inspected, Meta, holders::gone},
    log::{
        scan::{Found, Placed, Scan},
        segment::{self, Segment},
    },
};

/// Bytes between two places that a search for a message may begin at.
const ANCHOR_BYTES: u64 = 64 * 1024;

/// A frame that a search for a message may begin at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Anchor {
    pub(super) first: u64,
    pub(super) segment: usize,
    pub(super) offset: u64,
}

/// How much of the index to believe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// It adds up: the records after it say the rest.
    Index,
    /// It is damaged: all records that are there are asked.
    Log,
}

/// A folder, and what was found in it.
pub(super) struct Survey {
    pub(super) folder: Folder,
    pub(super) findings: Findings,
    pub(super) index: Inspected,
    pub(super) trust: Trust,
    pub(super) meta: Meta,
    pub(super) changes: Changes,
    /// Messages that can be read.
    pub(super) readable: Places,
    /// Messages that a record puts into a queue; only with [`Trust::Log`].
    pub(super) mentioned: Places,
    pub(super) anchors: Vec<Anchor>,
    pub(super) log: LogFigures,
    pub(super) torn: Option<Torn>,
    /// Frames whose records nobody knows, and which a start would replay.
    pub(super) lost_frames: u64,
    /// Records may be missing of which nobody knows how many frames they were in.
    is_short: bool,
    expected: u64,
    next_position: u64,
    /// Where the last frame ends.
    end: u64,
}

/// A place without a frame, and others behind it.
#[derive(Clone, Copy, Debug)]
struct Break {
    offset: u64,
    why: &'static str,
}

/// Where a segment stands in the log.
#[derive(Clone, Copy, Debug)]
struct Standing {
    number: usize,
    is_last: bool,
    /// A start goes through it.
    is_walked: bool,
}

impl Survey {
    pub(super) fn of(root: &Path) -> Result<Self, StoreError> {
        let mut findings = Findings::default();
        let mut folder = Folder::open(root, &mut findings)?;
        let (index, mut is_whole) = inspect(&mut folder, &mut findings);
        let meta = index.meta.unwrap_or_default();
        if is_whole && let Some(why) = lost_its_end(&folder.segments, meta.upto) {
            folder.tell_index(&mut findings, "all that it held", &why);
            is_whole = false;
        }
        let mut survey = Self {
            folder,
            findings,
            index,
            trust: if is_whole { Trust::Index } else { Trust::Log },
            meta,
            changes: Changes::default(),
            readable: Places::default(),
            mentioned: Places::default(),
            anchors: Vec::new(),
            log: LogFigures::default(),
            torn: None,
            lost_frames: 0,
            is_short: false,
            expected: 0,
            next_position: 0,
            end: 0,
        };
        survey.is_short = survey.folder.lacks_segments;
        let before = survey.findings.count;
        survey.check_holders();
        survey.go_through();
        let is_log_sound = survey.findings.count == before && !survey.is_short;
        if !is_log_sound {
            survey.findings.make_nothing_anew(&survey.folder.index_path);
        }
        Ok(survey)
    }

    /// Whether all segments are there that hold something that lives.
    fn check_holders(&mut self) {
        for holder in gone(&self.index.holders, &self.folder.segments) {
            let path = self.folder.log.join(segment::name(holder.frame));
            // What is there and cannot be opened was told.
            if !path.exists() {
                self.findings.add(Damage {
                    path,
                    offset: None,
                    holds: "messages that live".to_owned(),
                    why: "the file is missing".to_owned(),
                    remedy: RESTORE.to_owned(),
                });
            }
        }
    }

    /// The file in which a message is, or was: that may be one that is not there. The folder of the log where none can be.
    pub(super) fn file_of(&self, position: u64) -> PathBuf {
        let (segments, holders) = (&self.folder.segments, &self.index.holders);
        let header = |segment: &Arc<Segment>| Holder::from(&segment.header);
        let found = [
            segments[..segments.partition_point(|one| one.header.position <= position)]
                .last()
                .map(header),
            holders[..holders.partition_point(|one| one.position <= position)]
                .last()
                .copied(),
        ];
        let found = found.into_iter().flatten().max_by_key(|one| one.position);
        let log = &self.folder.log;
        found.map_or_else(|| log.clone(), |one| log.join(segment::name(one.frame)))
    }

    /// Whether all is known that happened to what lives.
    pub(super) fn is_certain(&self) -> bool {
        let is_told = match self.trust {
            Trust::Index => true,
            Trust::Log => self.folder.log_is_whole(),
        };
        is_told && self.lost_frames == 0 && !self.is_short
    }

    /// Frames up to this one are in the index.
    fn upto(&self) -> u64 {
        match self.trust {
            Trust::Index => self.meta.upto,
            Trust::Log => 0,
        }
    }

    fn go_through(&mut self) {
        let segments = self.folder.segments.clone();
        self.log.segments = segments.len() as u64;
        self.log.spares = self.folder.spares;
        let mut is_first = true;
        for (number, segment) in segments.iter().enumerate() {
            let next = segments.get(number + 1);
            let upto = self.upto();
            let standing = Standing {
                number,
                is_last: self.folder.is_last(segment),
                is_walked: next.is_none_or(|next| next.header.frame > upto.saturating_add(1)),
            };
            self.log.bytes += segment.length();
            self.check_start(segment, standing, is_first);
            is_first &= !standing.is_walked;
            if let Err(error) = self.segment(segment, standing) {
                let path = segment.path.clone();
                self.findings.error(&path, "frames from here on", &error);
                self.lost_frames += u64::from(standing.is_walked);
            }
        }
        self.check_end();
    }

    /// Whether the segment follows the one before.
    fn check_start(&mut self, segment: &Segment, standing: Standing, is_first_walked: bool) {
        let first = segment.header.frame;
        let (upto, expected) = (self.upto(), self.expected);
        let is_continued = match self.trust {
            _ if !standing.is_walked => first >= expected,
            Trust::Index if is_first_walked => first <= upto + 1 && first >= expected,
            // Segments in which nothing lived are gone, and nobody knows which.
            Trust::Log => first >= expected,
            Trust::Index => first == expected,
        };
        if self.trust == Trust::Log && standing.number > 0 && first != expected {
            self.is_short = true;
        }
        if !is_continued {
            let why = format!(
                "it begins with frame {first}, and frame {} should come here",
                expected.max(if is_first_walked { upto + 1 } else { 0 })
            );
            let holds = "the first frame of a segment";
            self.findings.log(&segment.path, 24, holds, why);
            self.lost_frames += first.saturating_sub(expected.max(upto + 1));
        }
        self.expected = first;
    }

    fn segment(&mut self, segment: &Arc<Segment>, standing: Standing) -> Result<(), StoreError> {
        if standing.is_last {
            // A read that fails is told below.
            self.torn = torn_end(segment, self.meta.upto).unwrap_or_default();
        }
        let cut = self.torn.as_ref().map(|torn| (torn.offset, torn.frame));
        let mut scan = Scan::new(segment);
        let mut broken: Option<Break> = None;
        let mut sealed = false;
        while let Some(found) = scan.next()? {
            if let Some((offset, frame)) = cut
                && found.offset() >= offset
            {
                self.end_break(segment, standing, broken.take(), frame);
                self.expected = frame;
                break;
            }
            match found {
                Found::Frame(frame) | Found::Seal(frame) if sealed => {
                    // A power cut may leave these; the next frame is written over the seal.
                    if standing.is_last && knows_durable(&frame.head, self.expected) {
                        let why = format!("frame {} stands behind the end", frame.head.number);
                        let holds = "the end of the log";
                        self.findings.log(&segment.path, frame.offset, holds, why);
                    }
                }
                Found::Frame(frame) | Found::Seal(frame) => {
                    self.end_break(segment, standing, broken.take(), frame.head.number);
                    if frame.head.seal {
                        sealed = true;
                        self.check_number(segment, standing, &frame);
                    } else {
                        self.frame(&mut scan, standing, &frame)?;
                    }
                }
                Found::Gap { from, why } => broken = Some(Break { offset: from, why }),
                Found::End { offset, why, .. } => {
                    self.end = offset;
                    if !standing.is_last && !sealed {
                        // The next segment says how many frames these were.
                        let holds = format!("frame {}, or the seal of the segment", self.expected);
                        self.findings.log(&segment.path, offset, holds, why);
                    }
                }
            }
        }
        Ok(())
    }

    /// A frame with this number follows a place that is none.
    fn end_break(
        &mut self,
        segment: &Segment,
        standing: Standing,
        broken: Option<Break>,
        behind: u64,
    ) {
        let Some(Break { offset, why }) = broken else {
            return;
        };
        let first = self.expected;
        let last = behind.saturating_sub(1).max(first);
        let holds = if last > first {
            format!("frames {first} to {last}")
        } else {
            format!("frame {first}")
        };
        self.findings.log(&segment.path, offset, holds, why);
        if standing.is_walked {
            self.lost_frames += last + 1 - first;
        }
        self.expected = first.max(behind);
    }

    /// Whether this frame may stand here.
    fn check_number(&mut self, segment: &Segment, standing: Standing, frame: &Placed) -> bool {
        let (number, expected) = (frame.head.number, self.expected);
        let may_skip = segment.header.weight.is_some();
        if number == expected || (may_skip && number > expected) {
            return true;
        }
        let why = format!("frame {expected} should come here");
        let holds = format!("frame {number}");
        self.findings.log(&segment.path, frame.offset, holds, why);
        if standing.is_walked {
            self.lost_frames += number.saturating_sub(expected).max(1);
        }
        number > expected
    }

    fn frame(
        &mut self,
        scan: &mut Scan,
        standing: Standing,
        frame: &Placed,
    ) -> Result<(), StoreError> {
        let segment = Arc::clone(&scan.segment);
        let (offset, head) = (frame.offset, frame.head);
        if !self.check_number(&segment, standing, frame) {
            return Ok(());
        }
        self.expected = head.number.saturating_add(1);
        if head.first < self.next_position || head.next < head.first {
            let holds = format!("frame {}", head.number);
            let why = "its positions do not come after those before";
            self.findings.log(&segment.path, offset, holds, why);
            self.lost_frames += u64::from(standing.is_walked);
            return Ok(());
        }
        self.next_position = head.next;
        self.log.frames += 1;
        self.note_anchor(standing.number, frame);
        self.records(scan, standing, frame)?;
        self.messages(scan, frame)
    }

    fn note_anchor(&mut self, segment: usize, frame: &Placed) {
        let is_far = self.anchors.last().is_none_or(|last| {
            last.segment != segment || frame.offset.saturating_sub(last.offset) >= ANCHOR_BYTES
        });
        if is_far {
            self.anchors.push(Anchor {
                first: frame.head.first,
                segment,
                offset: frame.offset,
            });
        }
    }

    fn records(
        &mut self,
        scan: &mut Scan,
        standing: Standing,
        frame: &Placed,
    ) -> Result<(), StoreError> {
        let path = scan.segment.path.clone();
        let holds = format!("records of frame {}", frame.head.number);
        let is_new = frame.head.number > self.upto();
        match scan.records(frame)? {
            Ok(records) => {
                self.log.records += records.len() as u64;
                if scan.segment.header.weight.is_some() {
                    if is_new && self.trust == Trust::Index {
                        let why = "they went when the segment was rewritten, but the index has not seen them";
                        self.findings.log(&path, frame.offset, holds, why);
                        self.lost_frames += 1;
                    }
                } else if is_new {
                    records.into_iter().for_each(|record| self.record(record));
                }
            }
            Err(error) => {
                self.findings.log(&path, frame.offset, holds, error.0);
                self.lost_frames += u64::from(standing.is_walked);
            }
        }
        Ok(())
    }

    fn record(&mut self, record: Record) {
        if self.trust == Trust::Log
            && let Record::Enqueued(_, entry) | Record::Moved { entry, .. } = &record
        {
            self.mentioned.insert(entry.position.0);
        }
        self.changes.apply(record);
    }

    /// Looks at all messages of a frame.
    fn messages(&mut self, scan: &mut Scan, frame: &Placed) -> Result<(), StoreError> {
        let bodies = std::mem::take(&mut scan.bodies);
        for body in &bodies {
            let position = body.position.0;
            match scan.message(frame, body)? {
                Ok(_) => {
                    self.log.messages += 1;
                    self.readable.insert(position);
                }
                Err(why) => {
                    let holds = format!("message {position} in frame {}", frame.head.number);
                    let at = frame.offset + body.offset as u64;
                    self.findings.log(&scan.segment.path, at, holds, why);
                }
            }
        }
        scan.bodies = bodies;
        Ok(())
    }

    /// Whether the log reaches as far as the index knows.
    fn check_end(&mut self) {
        let last = self.expected.saturating_sub(1);
        if last < self.meta.upto {
            let path = self.folder.segments.last();
            let path = path.map_or_else(|| self.folder.log.clone(), |last| last.path.clone());
            let why = format!(
                "the log ends at frame {last}, but the index was at frame {}",
                self.meta.upto
            );
            self.findings
                .log(&path, self.end, "the end of the log", why);
            self.is_short = true;
        }
    }
}

/// Whether the index stands before what the log has given back: then it lost what it held, or there
/// is another one in its place.
fn lost_its_end(segments: &[Arc<Segment>], upto: u64) -> Option<String> {
    let after = segments.partition_point(|segment| segment.header.frame <= upto + 1);
    let walked = &segments[after.saturating_sub(1)..];
    let first = walked.first()?.header.frame;
    let is_spent = first > upto + 1 || walked.iter().any(|s| s.header.weight.is_some());
    is_spent.then(|| {
        format!("it stands at frame {upto}, and the log has given back records that come after it")
    })
}

/// Reads all of the index; and whether it is what was written there.
fn inspect(folder: &mut Folder, findings: &mut Findings) -> (Inspected, bool) {
    let mut inspected = Inspected::default();
    let Some(index) = &folder.index else {
        return (inspected, folder.index_opened);
    };
    let mut told = Vec::new();
    if let Err(error) = index.inspect(&mut inspected, &mut |what| told.push(what)) {
        told.push(format!("what comes behind: {}", reason(&error)));
        // What comes before can be read once more, but sled is not asked again after a panic.
        folder.reopen_index();
    }
    let is_whole = told.is_empty();
    for what in told {
        let (holds, why) = what.rsplit_once(": ").unwrap_or((&what, RESTORE));
        folder.tell_index(findings, holds, why);
    }
    (inspected, is_whole)
}
