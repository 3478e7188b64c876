//! Getting out what can be read.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use courser_core::{
    id::{Position, QueueId, Seq},
    message::Message,
    record::Note,
};

use super::{
    Damage, Torn,
    living::Living,
    places::Places,
    survey::{Anchor, Survey, Trust},
    verify::names,
};
use crate::{
    StoreError,
    log::{
        scan::{Found, Placed, Scan},
        segment::Segment,
    },
};

/// A message that lives, as far as is known, in one of its queues.
#[derive(Clone, Debug, PartialEq)]
pub struct Saved {
    /// `None` when nothing that is left says which one.
    pub queue: Option<String>,
    /// Its place in the queue; 0 when that is not known.
    pub seq: Seq,
    /// Failed attempts.
    pub failures: u32,
    /// What is known of it when it failed or moved.
    pub note: Option<Arc<Note>>,
    /// Whether it is known that it lives. What says that it was settled may be lost.
    pub certain: bool,
    /// The message.
    pub message: Message,
}

/// What came out, and what did not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// Entries that came out.
    pub entries: u64,
    /// Of these, entries of which it is not known whether they were settled.
    pub uncertain: u64,
    /// Of these, messages whose queue is not known.
    pub without_queue: u64,
    /// Entries that live and whose message cannot be read.
    pub unreadable: u64,
    /// The index could not be used, or not all of it.
    pub index_damaged: bool,
    /// The end that a crash left. Nobody ever learned of what stands there, so it does not come out.
    pub torn: Option<Torn>,
    /// Frames whose records are lost.
    pub lost_frames: u64,
    /// The first hundred damages.
    pub damages: Vec<Damage>,
    /// How many there are.
    pub damaged: u64,
}

/// Takes what came out.
pub type Take<'a> = dyn FnMut(Saved) -> Result<(), StoreError> + 'a;

/// Reads whatever can be read out of a folder that no broker uses, queue by queue in the order of
/// their entries. Nothing in it is changed.
///
/// # Errors
/// When it is no data folder, a broker uses it, or `take` failed. Damage is no error.
pub fn salvage(root: &Path, take: &mut Take<'_>) -> Result<Salvaged, StoreError> {
    let mut survey = Survey::of(root)?;
    let names = names(&survey);
    let mut changes = std::mem::take(&mut survey.changes);
    let index_damaged = survey.trust == Trust::Log;
    let mut mentioned = std::mem::take(&mut survey.mentioned);
    let mut output = Output {
        reader: Reader::new(&survey.folder.segments, &survey.anchors),
        names,
        certain: survey.is_certain(),
        index_damaged,
        unread: Places::default(),
        take,
        done: Salvaged::default(),
    };
    if let Some(index) = &survey.folder.index {
        let read = index.readable_chunks(&mut |id, _, chunk| {
            for entry in &chunk.entries {
                mentioned.insert(entry.position.0);
            }
            changes
                .merge(id, chunk)
                .into_iter()
                .try_for_each(|living| output.give(id, living))
        });
        match read {
            // It was told when it was looked at.
            Err(StoreError::IndexDamaged { .. }) => {}
            other => other?,
        }
    }
    for (id, living) in changes.rest() {
        output.give(id, living)?;
    }
    if index_damaged {
        output.give_unmentioned(&survey, &mentioned)?;
    }
    Ok(Salvaged {
        index_damaged,
        torn: survey.torn,
        lost_frames: survey.lost_frames,
        damages: survey.findings.told,
        damaged: survey.findings.count,
        ..output.done
    })
}

struct Output<'a, 'b> {
    reader: Reader<'a>,
    names: BTreeMap<QueueId, String>,
    certain: bool,
    index_damaged: bool,
    /// Messages that live and are not where they should be.
    unread: Places,
    take: &'a mut Take<'b>,
    done: Salvaged,
}

impl Output<'_, '_> {
    fn give(&mut self, id: QueueId, living: Living) -> Result<(), StoreError> {
        let queue = self.names.get(&id).cloned();
        if queue.is_none() && !self.index_damaged {
            // Left of a queue that was being deleted.
            return Ok(());
        }
        let Some(message) = self.reader.read(living.entry.position)? else {
            self.done.unreadable += 1;
            self.unread.insert(living.entry.position.0);
            return Ok(());
        };
        self.hand_out(Saved {
            queue,
            seq: living.entry.seq,
            failures: living.entry.failures,
            note: living.note,
            certain: self.certain,
            message,
        })
    }

    /// Messages of which nothing that is left says where they belong, and those in frames that come after
    /// a later one: a disk wrote one of the two to a wrong place.
    fn give_unmentioned(&mut self, survey: &Survey, mentioned: &Places) -> Result<(), StoreError> {
        let torn = survey.torn.as_ref();
        for segment in &survey.folder.segments {
            let cut = torn.filter(|torn| torn.path == segment.path);
            let end = cut.map_or(u64::MAX, |torn| torn.offset);
            let mut scan = Scan::new(segment);
            // What ends a segment early was told when it was looked at.
            while let Ok(Some(found)) = scan.next()
                && found.offset() < end
            {
                let Found::Frame(frame) = found else {
                    continue;
                };
                let bodies = std::mem::take(&mut scan.bodies);
                for body in &bodies {
                    let position = body.position.0;
                    if mentioned.contains(position) && !self.unread.contains(position) {
                        continue;
                    }
                    let Ok(Ok(message)) = scan.message(&frame, body) else {
                        continue;
                    };
                    self.hand_out(Saved {
                        queue: None,
                        seq: Seq(0),
                        failures: 0,
                        note: None,
                        certain: false,
                        message,
                    })?;
                }
                scan.bodies = bodies;
            }
        }
        Ok(())
    }

    fn hand_out(&mut self, saved: Saved) -> Result<(), StoreError> {
        self.done.entries += 1;
        self.done.uncertain += u64::from(!saved.certain);
        self.done.without_queue += u64::from(saved.queue.is_none());
        (self.take)(saved)
    }
}

/// Finds messages by position, in any order; neighbours are found without a search.
struct Reader<'a> {
    segments: &'a [Arc<Segment>],
    anchors: &'a [Anchor],
    /// The segment that is read, and its frame that came last.
    at: Option<(usize, Scan, Option<Placed>)>,
}

impl<'a> Reader<'a> {
    fn new(segments: &'a [Arc<Segment>], anchors: &'a [Anchor]) -> Self {
        Self {
            segments,
            anchors,
            at: None,
        }
    }

    /// `None` when it cannot be read.
    fn read(&mut self, position: Position) -> Result<Option<Message>, StoreError> {
        let after = self
            .anchors
            .partition_point(|anchor| anchor.first <= position.0);
        let Some(anchor) = after.checked_sub(1).map(|at| self.anchors[at]) else {
            return Ok(None);
        };
        let goes_on = self.at.as_ref().is_some_and(|(segment, _, frame)| {
            *segment == anchor.segment
                && frame.is_some_and(|frame| {
                    frame.offset >= anchor.offset && frame.head.first <= position.0
                })
        });
        if !goes_on {
            let scan = Scan::from(&self.segments[anchor.segment], anchor.offset);
            self.at = Some((anchor.segment, scan, None));
        }
        let Some((_, scan, last)) = &mut self.at else {
            return Ok(None);
        };
        loop {
            if let Some(frame) = last
                && position.0 < frame.head.next
            {
                let frame = *frame;
                return Ok(message_of(scan, &frame, position));
            }
            match scan.next() {
                Ok(Some(Found::Frame(frame))) => *last = Some(frame),
                Ok(Some(Found::Gap { .. } | Found::Seal(_) | Found::End { .. })) => {}
                // What cannot be read was told when it was looked at.
                Ok(None) | Err(_) => {
                    self.at = None;
                    return Ok(None);
                }
            }
        }
    }
}

fn message_of(scan: &mut Scan, frame: &Placed, position: Position) -> Option<Message> {
    let row = scan
        .bodies
        .binary_search_by_key(&position, |body| body.position)
        .ok()?;
    let body = scan.bodies[row];
    scan.message(frame, &body).ok()?.ok()
}

#[cfg(test)]
mod tests {
    use std::{fs, ops::Range};

    use courser_core::record::{Group, Record};

    use super::*;
    use crate::{
        conformance::fixture,
        disk::{FORMAT, FORMAT_TEXT},
        log::{
            frame::{Builder, Place},
            segment::{self, SegmentHeader},
        },
    };

    /// Appends a frame, and says where it stands.
    fn put(log: &mut Vec<u8>, number: u64, bytes: usize, records: Vec<Record>) -> Range<usize> {
        let start = log.len();
        let group = Group {
            messages: vec![fixture::message(number, bytes)],
            records,
            next_position: Position(number + 1),
        };
        let mut builder = Builder::default();
        assert!(builder.encode(&group, number));
        builder.finish(Place {
            life: 7,
            segment: 1,
            number,
            durable: number - 1,
            epoch: 1,
        });
        builder.put_into(&group.messages, log);
        start..log.len()
    }

    #[test]
    fn a_message_behind_a_later_frame_comes_out() {
        let folder = tempfile::tempdir().unwrap();
        let header = SegmentHeader {
            life: 7,
            frame: 1,
            position: 1,
            weight: None,
        };
        let mut log = header.encode().to_vec();
        let enqueued = |seq, position| Record::Enqueued(QueueId(1), fixture::entry(seq, position));
        let first = put(&mut log, 1, 500, vec![enqueued(1, 1)]);
        put(&mut log, 2, 100, vec![enqueued(2, 2)]);
        // The second message once more, as after a redrive.
        let last = put(&mut log, 3, 100, vec![enqueued(3, 2), enqueued(4, 3)]);
        log.copy_within(last, first.start);
        fs::create_dir(folder.path().join("log")).unwrap();
        fs::write(folder.path().join("log").join(segment::name(1)), log).unwrap();
        fs::write(folder.path().join(FORMAT), FORMAT_TEXT).unwrap();
        fs::write(folder.path().join("index"), "no folder").unwrap();
        let mut saved = Vec::new();
        let done = salvage(folder.path(), &mut |one| {
            saved.push((one.seq.0, one.message.position.0));
            Ok(())
        })
        .unwrap();
        assert_eq!(saved, [(4, 3), (0, 2)]);
        // The first frame was durable, as the last one knows: a start refuses.
        assert_eq!((done.unreadable, done.torn), (1, None));
    }
}
