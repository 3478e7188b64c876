//! A data folder of three segments: what is written into it, and what lives after each of its frames.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::RangeInclusive,
    path::Path,
    sync::Arc,
};

use courser_core::{
    id::{Position, QueueId, Seq},
    message::{Message, MessageId},
    options::{QueueDefinition, QueueOptions},
    record::{
        Attempt, AttemptOutcome, Checkpoint, ChunkChange, ChunkEntry, DeadLetter, Group, Note,
        QueueState, Record,
    },
    time::Timestamp,
};
use courser_store::{
    DiskOptions, DiskStore, FrameNo, Recover, Store as _, StoreError,
    fuzz::{self as store, At},
};
use uuid::Uuid;

/// What stands in FORMAT.
pub const FORMAT: &[u8] = b"courser data folder\nversion 1\n";
/// The last frame. It is torn.
pub const FRAMES: u64 = 13;
/// The index has the log up to here.
pub const UPTO: u64 = 6;
/// By their ids, which begin with 1.
pub const QUEUES: [&str; 4] = ["orders", "copies", "dead", "deleted"];
/// The first frames of the segments.
pub const SEGMENTS: [u64; 3] = [1, 5, 9];

const LIFE: u64 = 0x0123_4567_89ab_cdef;
/// The segment that a file was in an earlier life.
const EARLIER: u64 = 99;
const FRAME_HEADER: usize = 80;

/// What lives: by the name of its queue and its place there.
pub type State = BTreeMap<(&'static str, Seq), Entry>;

/// An entry that lives.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its message.
    pub position: Position,
    /// Failed attempts.
    pub failures: u32,
    /// What is known of them.
    pub note: Option<Note>,
}

/// A message in its frame.
#[derive(Clone, Debug)]
pub struct Body {
    /// Which.
    pub position: u64,
    /// Where in the file.
    pub at: usize,
    /// How long.
    pub length: usize,
}

impl Body {
    /// Where it ends.
    #[must_use]
    pub fn end(&self) -> usize {
        self.at + self.length
    }
}

/// A frame, or the seal.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Its number.
    pub number: u64,
    /// Where in the file.
    pub at: usize,
    /// Bytes of its header and meta part.
    pub head: usize,
    /// Where it ends, padding included.
    pub end: usize,
    /// The last frame that was surely on the disk.
    pub durable: u64,
    /// Its messages.
    pub bodies: Vec<Body>,
}

/// A segment.
#[derive(Clone, Debug, Default)]
pub struct File {
    /// All of it.
    pub bytes: Vec<u8>,
    /// The frames that were written whole.
    pub frames: Vec<Frame>,
    /// What stands behind them.
    pub seal: Option<Frame>,
}

impl File {
    fn new(life: u64, first: u64, weight: Option<u64>) -> Self {
        Self {
            bytes: store::segment_header(life, first, first * 2 - 1, weight),
            ..Self::default()
        }
    }

    fn put(&mut self, group: &Group, at: At) {
        let mut frame = Frame {
            number: at.number,
            at: self.bytes.len(),
            head: 0,
            end: 0,
            durable: at.durable,
            bodies: Vec::new(),
        };
        let bytes = store::write_frame(group, at.number * 2 - 1, at);
        let meta = u32::from_le_bytes(std::array::from_fn(|n| bytes[68 + n]));
        frame.head = FRAME_HEADER + meta as usize;
        let mut start = frame.at + frame.head;
        for message in &group.messages {
            let length = store::write_message(message).len();
            frame.bodies.push(Body {
                position: message.position.0,
                at: start,
                length,
            });
            start += length;
        }
        self.bytes.extend(bytes);
        frame.end = self.bytes.len();
        self.frames.push(frame);
    }

    fn seal(&mut self, at: At) {
        self.seal = Some(Frame {
            number: at.number,
            at: self.bytes.len(),
            head: FRAME_HEADER,
            end: self.bytes.len() + FRAME_HEADER,
            durable: at.durable,
            bodies: Vec::new(),
        });
        self.bytes.extend(store::write_seal(at, at.number * 2 - 1));
    }
}

/// Every second one was written before the one before it was synced.
fn at(life: u64, segment: u64, number: u64) -> At {
    At {
        life,
        segment,
        number,
        durable: (number - 1) & !1,
    }
}

/// All that is written, in its versions.
pub struct Written {
    /// The first segment as it was, and rewritten.
    pub first: [File; 2],
    /// The second one. Its file had an earlier life.
    pub second: File,
    /// The last one, closed in order, and of a broker that was killed while it wrote.
    pub last: [File; 2],
    /// A file that waits to become a segment.
    pub spare: Vec<u8>,
    /// What lives after so many frames.
    pub states: Vec<State>,
    /// Which message each place of a queue ever stood for.
    pub places: BTreeMap<(&'static str, Seq), Position>,
}

impl Written {
    /// Writes all of it.
    #[must_use]
    pub fn new() -> Self {
        let groups: Vec<_> = (1..=FRAMES).map(group).collect();
        let mut states = vec![State::default()];
        let mut places = BTreeMap::new();
        for group in &groups {
            let mut state = states.last().cloned().unwrap_or_default();
            for record in &group.records {
                apply(&mut state, record);
                // What came and went in one frame too.
                let here = state.iter().map(|(place, entry)| (*place, entry.position));
                places.extend(here);
            }
            states.push(state);
        }
        let remains = file(&groups, LIFE, EARLIER, 1..=4).bytes;
        let mut second = file(&groups, LIFE + 5, 5, 5..=8);
        seal(&mut second, LIFE + 5, 5);
        second.bytes.extend_from_slice(&remains[64..64 + 512]);
        let mut closed = file(&groups, LIFE + 9, 9, 9..=12);
        let mut killed = closed.clone();
        seal(&mut closed, LIFE + 9, 9);
        tear(&mut killed, &groups[FRAMES as usize - 1], &remains);
        let mut first = file(&groups, LIFE + 1, 1, 1..=4);
        seal(&mut first, LIFE + 1, 1);
        Self {
            first: [first, rewritten(&groups, &states[UPTO as usize])],
            second,
            last: [closed, killed],
            spare: remains,
            states,
            places,
        }
    }

    /// All files that hold frames.
    pub fn files(&self) -> impl Iterator<Item = &[u8]> {
        let segments = self.first.iter().chain([&self.second]).chain(&self.last);
        let segments = segments.map(|segment| &segment.bytes[..]);
        segments.chain([&self.spare[..]])
    }

    /// Writes the index that belongs to it.
    ///
    /// # Panics
    /// When that is not possible.
    pub fn write_index(&self, folder: &Path) {
        let made = tempfile::tempdir().expect("a folder");
        let log = made.path().join("log");
        fs::create_dir(&log).expect("the folder is ours");
        fs::write(made.path().join("FORMAT"), FORMAT).expect("there is room");
        let files = [&self.first[0], &self.second, &self.last[0]];
        for (number, file) in SEGMENTS.into_iter().zip(files) {
            let path = log.join(store::segment_name(number));
            fs::write(path, &file.bytes).expect("there is room");
        }
        let options = DiskOptions {
            segment_bytes: 4 * 1024,
            ..DiskOptions::default()
        };
        let disk = DiskStore::open(made.path(), options).expect("it is ours");
        disk.recover(&mut Nothing).expect("it is sound");
        disk.checkpoint(&self.checkpoint(), FrameNo(UPTO))
            .expect("there is room");
        drop(disk);
        copy(&made.path().join("index"), folder);
    }

    fn checkpoint(&self) -> Checkpoint {
        let state = &self.states[UPTO as usize];
        let mut chunks = Vec::new();
        let mut queues = Vec::new();
        for definition in (1..=QUEUES.len() as u32).map(definition) {
            let name = QUEUES[definition.id.0 as usize - 1];
            let mut chunk = ChunkChange {
                queue: definition.id,
                number: Seq(0).chunk(),
                entries: Vec::new(),
                notes: Vec::new(),
            };
            for ((queue, seq), entry) in state {
                if *queue == name {
                    chunk.entries.push(chunk_entry(*seq, entry));
                    let note = entry.note.clone().map(Arc::new);
                    chunk.notes.extend(note.map(|note| (*seq, Some(note))));
                }
            }
            chunks.push(chunk);
            queues.push(QueueState {
                definition,
                next_seq: Seq(100),
            });
        }
        Checkpoint {
            queues,
            chunks,
            deleted_queues: Vec::new(),
            next_position: Position(UPTO * 2 + 1),
            next_queue: QueueId(QUEUES.len() as u32 + 1),
        }
    }
}

impl Default for Written {
    fn default() -> Self {
        Self::new()
    }
}

/// Takes what a start gives back, for nobody.
struct Nothing;

impl Recover for Nothing {
    fn queue(&mut self, _: QueueState) {}

    fn chunk(&mut self, _: QueueId, _: courser_core::id::ChunkNo, _: &courser_core::record::Chunk) {
    }

    fn record(&mut self, _: Record, _: &mut courser_store::Pager<'_>) -> Result<(), StoreError> {
        Ok(())
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the folder is ours");
    for entry in fs::read_dir(from).expect("the folder is ours") {
        let path = entry.expect("the folder is ours").path();
        let to = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).expect("there is room");
        }
    }
}

fn file(groups: &[Group], life: u64, segment: u64, frames: RangeInclusive<u64>) -> File {
    let mut file = File::new(life, segment, None);
    for number in frames {
        file.put(&groups[number as usize - 1], at(life, segment, number));
    }
    file
}

/// Behind its last frame. All before it was on the disk by then.
fn seal(file: &mut File, life: u64, first: u64) {
    let last = file.frames.last().map_or(0, |frame| frame.number);
    file.seal(At {
        durable: last,
        ..at(life, first, last + 1)
    });
}

/// Of the last frame only the front is there; behind it lies what an earlier life of the file left.
fn tear(file: &mut File, group: &Group, remains: &[u8]) {
    let whole = file.frames.len();
    let start = file.bytes.len();
    file.put(group, at(LIFE + 9, 9, FRAMES));
    file.frames.truncate(whole);
    let length = file.bytes.len() - start;
    file.bytes.truncate(start + (length - 32) / 16 * 16);
    file.bytes.extend_from_slice(&[0; 32]);
    file.bytes.extend_from_slice(&remains[64..64 + 512]);
}

/// The first segment with what lives in it, and without records.
fn rewritten(groups: &[Group], state: &State) -> File {
    let lives: BTreeSet<_> = state.values().map(|entry| entry.position).collect();
    let mut file = File::new(LIFE + 100, 1, Some(100));
    for number in 1..=4 {
        let all = &groups[number as usize - 1].messages;
        let messages: Vec<_> = all
            .iter()
            .filter(|message| lives.contains(&message.position))
            .cloned()
            .collect();
        if !messages.is_empty() {
            let group = Group {
                messages,
                ..Group::default()
            };
            file.put(&group, at(LIFE + 100, 1, number));
        }
    }
    file.seal(At {
        durable: 4,
        ..at(LIFE + 100, 1, 5)
    });
    file
}

/// Two messages, and what happened to those before them.
fn group(number: u64) -> Group {
    let (orders, copies, dead, deleted) = (QueueId(1), QueueId(2), QueueId(3), QueueId(4));
    let [one, other] = [number * 2 - 1, number * 2];
    let mut records = Vec::new();
    if number == 1 {
        let all = (1..=QUEUES.len() as u32).map(definition);
        records.extend(all.map(|one| Record::QueueDefined(Box::new(one))));
    }
    records.push(Record::Enqueued(orders, entry(one, one)));
    records.push(Record::Enqueued(orders, entry(other, other)));
    if number != 2 {
        records.push(Record::Enqueued(copies, entry(number, other)));
    }
    if matches!(number, 3 | 5 | 8) {
        records.push(Record::Enqueued(deleted, entry(number, one)));
    }
    if number.is_multiple_of(2) {
        let seq = Seq(one - 2);
        records.push(Record::Removed { queue: orders, seq });
    }
    if number == 6 {
        // Nothing lives in the second frame any more.
        let removed = [3, 4].map(Seq);
        records.extend(removed.map(|seq| Record::Removed { queue: orders, seq }));
    }
    if number.is_multiple_of(3) {
        records.push(Record::Failed {
            queue: orders,
            seq: Seq(other),
            ready_at: Timestamp::from_micros(1_000_000),
            attempt: Box::new(attempt(1)),
        });
    }
    let moved = match number {
        4 => Some(6),
        8 => Some(2),
        12 => Some(22),
        _ => None,
    };
    if let Some(position) = moved {
        records.push(Record::Moved {
            from: orders,
            from_seq: Seq(position),
            to: dead,
            entry: entry(number, position),
            note: Box::new(dead_note()),
        });
    }
    if number == 10 {
        records.push(Record::Purged {
            queue: copies,
            before: Seq(6),
            kept: vec![Seq(2)],
        });
    }
    if number == 11 {
        records.push(Record::QueueDeleted { queue: deleted });
    }
    Group {
        messages: [one, other].map(|n| message(n).into()).into(),
        records,
        next_position: Position(number * 2 + 1),
    }
}

fn definition(id: u32) -> QueueDefinition {
    QueueDefinition {
        id: QueueId(id),
        name: QUEUES[id as usize - 1].into(),
        options: QueueOptions::default(),
        created_at: Timestamp::from_micros(1),
        dead_letter_of: None,
        dead_letter_queue: None,
    }
}

fn entry(seq: u64, position: u64) -> ChunkEntry {
    ChunkEntry {
        seq: Seq(seq),
        position: Position(position),
        enqueued_at: Timestamp::from_micros(1_000 * position),
        size: 20,
        failures: 0,
        ready_at: Timestamp::ZERO,
    }
}

fn chunk_entry(seq: Seq, living: &Entry) -> ChunkEntry {
    ChunkEntry {
        failures: living.failures,
        ..entry(seq.0, living.position.0)
    }
}

fn attempt(number: u32) -> Attempt {
    Attempt {
        number,
        consumer: "a consumer".into(),
        delivered_at: Timestamp::from_micros(5),
        ended_at: Timestamp::from_micros(6),
        outcome: AttemptOutcome::Nacked,
        error: "no".into(),
    }
}

fn dead_note() -> Note {
    Note {
        attempts: vec![attempt(1)],
        dead_letter: Some(DeadLetter {
            reason: "rejected".into(),
            description: "it is of no use".into(),
            queue: QUEUES[0].into(),
            at: Timestamp::from_micros(7),
        }),
        redrives: 0,
    }
}

/// The message at a position.
#[must_use]
pub fn message(n: u64) -> Message {
    Message {
        position: Position(n),
        published_at: Timestamp::from_micros(1_000 * n),
        id: MessageId::Uuid(Uuid::from_u128(n.into())),
        topic: "a.b".into(),
        payload: vec![n as u8; 20 + n as usize].into(),
        headers: Vec::new(),
        attributes: None,
    }
}

/// What a record says, in the plainest form.
fn apply(state: &mut State, record: &Record) {
    let name = |queue: QueueId| QUEUES[queue.0 as usize - 1];
    let living = |entry: &ChunkEntry, note| Entry {
        position: entry.position,
        failures: entry.failures,
        note,
    };
    match record {
        Record::QueueDefined(_) => {}
        Record::QueueDeleted { queue } => state.retain(|place, _| place.0 != name(*queue)),
        Record::Enqueued(queue, entry) => {
            state.insert((name(*queue), entry.seq), living(entry, None));
        }
        Record::Removed { queue, seq } => {
            state.remove(&(name(*queue), *seq));
        }
        Record::Failed {
            queue,
            seq,
            attempt,
            ..
        } => {
            if let Some(entry) = state.get_mut(&(name(*queue), *seq)) {
                entry.failures = attempt.number;
                let note = entry.note.get_or_insert_default();
                note.add_attempt(Attempt::clone(attempt));
            }
        }
        Record::Moved {
            from,
            from_seq,
            to,
            entry,
            note,
        } => {
            state.remove(&(name(*from), *from_seq));
            let note = Some(Note::clone(note));
            state.insert((name(*to), entry.seq), living(entry, note));
        }
        Record::Purged {
            queue,
            before,
            kept,
        } => state
            .retain(|(of, seq), _| *of != name(*queue) || *seq >= *before || kept.contains(seq)),
    }
}
