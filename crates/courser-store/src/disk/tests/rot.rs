//! A byte that rots anywhere in a closed folder: the start is refused, a read is refused, or nothing
//! is missing.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use courser_core::{
    id::{ChunkNo, Position, QueueId, Seq},
    message::SharedMessage,
    record::{Checkpoint, Chunk, ChunkEntry, Group, Note, QueueState, Record},
};
use tempfile::TempDir;

use super::{super::mark::DAMAGED, copy_folder};
use crate::{
    DiskOptions, DiskStore, FrameNo, Pager, Recover, Store, StoreError,
    conformance::fixture::{
        attempt, change, commit, definition, entry, full_message, group, message, note,
        reclaim_all, recover, time,
    },
};

/// So small that a few messages fill a segment, and older ones are looked at when they are read.
const TINY: DiskOptions = DiskOptions {
    segment_bytes: 4 * 1024,
    check_bytes: 0,
};

/// Everything a store keeps, as its records add up.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Everything {
    queues: BTreeMap<QueueId, QueueState>,
    pub(super) entries: BTreeMap<(QueueId, Seq), ChunkEntry>,
    pub(super) notes: BTreeMap<(QueueId, Seq), Note>,
    pub(super) messages: BTreeMap<Position, Option<SharedMessage>>,
    next: (Position, QueueId),
    epoch: u64,
}

fn note_of(chunk: &Chunk, seq: Seq) -> Option<Note> {
    let found = chunk.notes.iter().find(|(of, _)| *of == seq);
    found.map(|(_, note)| Note::clone(note))
}

impl Recover for Everything {
    fn queue(&mut self, state: QueueState) {
        self.queues.insert(state.definition.id, state);
    }

    fn chunk(&mut self, queue: QueueId, _: ChunkNo, chunk: &Chunk) {
        let of = |entry: &ChunkEntry| ((queue, entry.seq), *entry);
        self.entries.extend(chunk.entries.iter().map(of));
    }

    fn record(&mut self, record: Record, page: &mut Pager<'_>) -> Result<(), StoreError> {
        match record {
            Record::Enqueued(queue, entry) => {
                self.entries.insert((queue, entry.seq), entry);
            }
            Record::Removed { queue, seq } => {
                self.entries.remove(&(queue, seq));
            }
            Record::Failed {
                queue,
                seq,
                ready_at,
                attempt,
            } => {
                let before = note_of(&page(queue, seq.chunk())?, seq).unwrap_or_default();
                let note = self.notes.entry((queue, seq)).or_insert(before);
                note.add_attempt(*attempt.clone());
                if let Some(entry) = self.entries.get_mut(&(queue, seq)) {
                    (entry.failures, entry.ready_at) = (attempt.number, ready_at);
                }
            }
            Record::Moved {
                from,
                from_seq,
                to,
                entry,
                note,
            } => {
                self.entries.remove(&(from, from_seq));
                self.entries.insert((to, entry.seq), entry);
                self.notes.insert((to, entry.seq), *note);
            }
            Record::QueueDefined(definition) => {
                let next_seq = Seq(1);
                let id = definition.id;
                let state = QueueState {
                    definition: *definition,
                    next_seq,
                };
                self.queues.entry(id).or_insert(state);
            }
            other => panic!("{other:?} is not in this test"),
        }
        Ok(())
    }
}

/// Opens a folder and reads all there is.
pub(super) fn read_all(folder: &Path) -> Result<Everything, StoreError> {
    let store = DiskStore::open(folder, TINY)?;
    let mut all = Everything::default();
    let recovered = store.recover(&mut all)?;
    all.next = (recovered.next_position, recovered.next_queue);
    all.epoch = recovered.epoch;
    let entries = &all.entries;
    all.notes.retain(|place, _| entries.contains_key(place));
    for &(queue, seq) in all.entries.keys() {
        if let Some(note) = note_of(&store.page(queue, seq.chunk())?, seq) {
            all.notes.entry((queue, seq)).or_insert(note);
        }
    }
    let positions: Vec<_> = all.entries.values().map(|entry| entry.position).collect();
    let messages = store.load(&positions)?;
    all.messages = positions.into_iter().zip(messages).collect();
    Ok(all)
}

/// A store, and what is to be in it.
struct Kept {
    store: DiskStore,
    all: Everything,
    upto: FrameNo,
}

impl Kept {
    fn open(folder: &Path, all: Everything) -> Self {
        let store = DiskStore::open(folder, TINY).unwrap();
        recover(&store);
        Self {
            store,
            all,
            upto: FrameNo(0),
        }
    }

    fn commit(&mut self, positions: std::ops::Range<u64>, records: Vec<Record>, sync: bool) {
        let body = |n: u64| match n % 10 {
            0 => full_message(n),
            _ => message(n, 250),
        };
        let enqueued = |n: u64| Record::Enqueued(QueueId(1), entry(n, n));
        self.all.next.0 = self.all.next.0.max(Position(positions.end));
        let group = Group {
            messages: positions.clone().map(body).collect(),
            records: positions.map(enqueued).chain(records).collect(),
            next_position: self.all.next.0,
        };
        self.upto = self.store.commit(&group, sync).unwrap();
        for record in group.records {
            self.all
                .record(record, &mut |_, _| Ok(Chunk::default()))
                .unwrap();
        }
    }

    fn fill(&mut self, from: u64, to: u64) {
        for start in (from..to).step_by(5) {
            self.commit(start..start + 5, Vec::new(), start % 2 == 0);
        }
    }

    fn checkpoint(&mut self) {
        let mut chunks = Vec::new();
        for queue in [1, 2] {
            let in_chunk = |((of, seq), _): &(&(QueueId, Seq), _)| {
                *of == QueueId(queue) && seq.chunk() == ChunkNo(0)
            };
            let entries = self.all.entries.iter().filter(in_chunk);
            let mut chunk = change(queue, 0, entries.map(|(_, entry)| *entry).collect());
            let alive = |place: &(QueueId, Seq)| self.all.entries.contains_key(place);
            chunk.notes = self
                .all
                .notes
                .iter()
                .filter(|(place, _)| place.0 == QueueId(queue) && alive(place))
                .map(|((_, seq), note)| (*seq, Some(Arc::new(note.clone()))))
                .collect();
            chunks.push(chunk);
        }
        let checkpoint = Checkpoint {
            queues: self.all.queues.values().cloned().collect(),
            chunks,
            deleted_queues: Vec::new(),
            next_position: self.all.next.0,
            next_queue: QueueId(3),
        };
        self.store.checkpoint(&checkpoint, self.upto).unwrap();
        reclaim_all(&self.store);
    }
}

fn removed(seqs: impl Iterator<Item = u64>) -> Vec<Record> {
    let queue = QueueId(1);
    seqs.map(|seq| Record::Removed {
        queue,
        seq: Seq(seq),
    })
    .collect()
}

fn failed(seq: u64, number: u32) -> Record {
    Record::Failed {
        queue: QueueId(1),
        seq: Seq(seq),
        ready_at: time(500),
        attempt: Box::new(attempt(number)),
    }
}

fn moved(seq: u64, to: u64) -> Record {
    Record::Moved {
        from: QueueId(1),
        from_seq: Seq(seq),
        to: QueueId(2),
        entry: entry(to, seq),
        note: Box::new(note(3)),
    }
}

/// A folder in which everything happened that can happen to one, closed.
pub(super) fn closed_folder(folder: &Path) {
    let mut kept = Kept::open(folder, Everything::default());
    let defined = [1, 2].map(|queue| Record::QueueDefined(Box::new(definition(queue))));
    kept.commit(1..1, defined.to_vec(), true);
    kept.fill(1, 61);
    kept.commit(61..61, vec![failed(7, 1), failed(50, 1), moved(9, 1)], true);
    kept.checkpoint();
    // The rest of these goes, and with it most of the log.
    kept.commit(61..61, removed((1..40).filter(|n| *n != 9)), true);
    let mut kept = Kept::open(folder, drop_store(kept));
    kept.fill(61, 151);
    kept.checkpoint();
    kept.commit(151..151, removed(78..101), true);
    kept.checkpoint();
    let mut kept = Kept::open(folder, drop_store(kept));
    kept.commit(151..151, removed(110..111), true);
    kept.commit(
        151..151,
        vec![failed(50, 2), failed(120, 1), moved(130, 2)],
        true,
    );
    kept.checkpoint();
    kept.fill(151, 181);
    kept.commit(181..181, vec![failed(101, 1), moved(102, 3)], false);
    drop_store(kept);
}

fn drop_store(kept: Kept) -> Everything {
    let Kept { store, all, .. } = kept;
    drop(store);
    all
}

/// The files of a folder, with the folders in it.
pub(super) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The segments of the log in a folder, from the first on.
fn segments(folder: &Path) -> Vec<PathBuf> {
    let mut found = files(&folder.join("log"));
    found.retain(|path| path.extension().is_some_and(|ending| ending == "seg"));
    found
}

/// Flips every so many bytes of the files in `part` in turn, each in a folder of its own: which that is, which file, and
/// what it was.
fn each_flip(
    good: &Path,
    part: &str,
    step: usize,
    mut check: impl FnMut(&Path, &Path, usize, &[u8]),
) {
    for file in files(&good.join(part)) {
        let bytes = fs::read(&file).unwrap();
        let name = file.strip_prefix(good).unwrap();
        // A little of what was never written, too.
        let used = bytes
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |at| at + 100);
        for at in (0..used.min(bytes.len())).step_by(step) {
            let rotten = tempfile::tempdir().unwrap();
            copy_folder(good, rotten.path());
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(rotten.path().join(name), flipped).unwrap();
            check(rotten.path(), name, at, &bytes);
        }
    }
}

/// A closed folder, and what is in it.
fn good_folder() -> (TempDir, Everything) {
    let good = tempfile::tempdir().unwrap();
    closed_folder(good.path());
    let copy = tempfile::tempdir().unwrap();
    copy_folder(good.path(), copy.path());
    let expected = read_all(copy.path()).unwrap();
    assert!(expected.entries.len() > 60 && expected.notes.len() > 5 && expected.epoch == 4);
    assert!(expected.messages.values().all(Option::is_some));
    (good, expected)
}

#[track_caller]
fn check_nothing_is_lost(part: &str, step: usize) {
    let (good, expected) = good_folder();
    let (mut refused, mut right, mut marked) = (0, 0, 0);
    each_flip(good.path(), part, step, |rotten, name, at, bytes| {
        // A refused start may have changed something: the next one must not go through on it.
        let refused_before = refused;
        for attempt in 1..=2 {
            match read_all(rotten) {
                Ok(found) => {
                    let found = Everything {
                        epoch: found.epoch + 1 - attempt,
                        ..found
                    };
                    assert_eq!(found, expected, "byte {at} of {}", name.display());
                    right += 1;
                }
                Err(_) => refused += 1,
            }
        }
        if part == "log" && refused > refused_before {
            marked += u32::from(rotten.join(DAMAGED).exists());
            check_refusal(rotten, name, bytes, &expected);
        }
    });
    assert!(
        refused > 10 && right > 0 && (marked > 10) == (part == "log"),
        "{refused} refused, {right} right, {marked} marked"
    );
}

/// Damage of the log that was met once, wherever it was, refuses each start that comes, until the file is what it was.
#[track_caller]
fn check_refusal(folder: &Path, name: &Path, good: &[u8], expected: &Everything) {
    let start = || DiskStore::open(folder, TINY)?.recover(&mut Everything::default());
    let error = start().unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    fs::write(folder.join(name), good).unwrap();
    let found = read_all(folder).unwrap();
    assert_eq!(found.messages, expected.messages);
    assert!(!folder.join(DAMAGED).exists());
}

/// The note of damage is a help, not a lock: one that rotted or is empty stops no start.
#[test]
fn a_mark_that_names_nothing_goes() {
    let folder = tempfile::tempdir().unwrap();
    closed_folder(folder.path());
    let mut texts = ["", "log", "nothing.seg\n100\nwhy\n", "\u{fffd}\n-1\n"]
        .map(String::from)
        .to_vec();
    for segment in segments(folder.path()) {
        let name = segment.file_name().unwrap().display();
        // A frame, a message, behind the end, and a number that was cut.
        texts.extend(
            ["64\n", "400\n", "18446744073709551615\n", "1"].map(|at| format!("{name}\n{at}")),
        );
    }
    assert!(texts.len() > 12);
    for text in texts {
        fs::write(folder.path().join(DAMAGED), &text).unwrap();
        read_all(folder.path()).unwrap();
        assert!(!folder.path().join(DAMAGED).exists(), "{text:?}");
    }
    fs::create_dir(folder.path().join(DAMAGED)).unwrap();
    read_all(folder.path()).unwrap();
}

/// A broker that was killed leaves no seal, and a last frame that rots looks torn. One that was noted is not cut.
#[test]
fn a_noted_frame_is_not_cut_as_torn() {
    let folder = tempfile::tempdir().unwrap();
    let store = DiskStore::open(folder.path(), TINY).unwrap();
    recover(&store);
    for positions in [1..6, 6..11] {
        commit(&store, &group(positions));
    }
    let killed = tempfile::tempdir().unwrap();
    copy_folder(folder.path(), killed.path());
    drop(store);
    let path = &segments(killed.path()).pop().unwrap();
    let mut rotten = fs::read(path).unwrap();
    let used = rotten.iter().rposition(|byte| *byte != 0).unwrap();
    rotten[used - 100] ^= 1;
    fs::write(path, &rotten).unwrap();
    let mark = killed.path().join(DAMAGED);
    let name = path.file_name().unwrap().display();
    fs::write(&mark, format!("{name}\n{}\nwhy\n", used - 200)).unwrap();
    let start = || DiskStore::open(killed.path(), TINY)?.recover(&mut Everything::default());
    let error = start().unwrap_err().to_string();
    assert!(error.contains(DAMAGED), "{error}");
    assert_eq!(fs::read(path).unwrap(), rotten, "it is left as it is");
    // Without the note it is a torn end.
    fs::remove_file(&mark).unwrap();
    assert!(start().unwrap().torn_bytes > 0);
}

#[test]
fn no_byte_of_the_index_rots_unseen() {
    check_nothing_is_lost("index", 47);
}

#[test]
fn no_byte_of_the_log_rots_unseen() {
    check_nothing_is_lost("log", 151);
}

/// What rots in a folder that a start looks through as a whole is found by that start, and not by a read.
#[test]
fn what_a_start_looks_through_rots_unseen_nowhere() {
    let (good, expected) = good_folder();
    let checks = DiskOptions {
        check_bytes: 1024 * 1024,
        ..TINY
    };
    let start = |folder: &Path| {
        let store = DiskStore::open(folder, checks)?;
        store.recover(&mut Everything::default())
    };
    for (part, step) in [("log", 151), ("index", 97)] {
        let (mut refused, mut right) = (0, 0);
        each_flip(good.path(), part, step, |rotten, name, at, _| {
            if start(rotten).is_err() {
                refused += 1;
                return;
            }
            let found = Everything {
                epoch: expected.epoch,
                ..read_all(rotten).unwrap()
            };
            assert_eq!(found, expected, "byte {at} of {}", name.display());
            right += 1;
        });
        assert!(
            refused > 20 && right > 0,
            "{part}: {refused} refused, {right} right"
        );
    }
}

/// What is beyond the bound is left to whoever reads it.
#[test]
fn a_start_looks_through_so_many_bytes_and_no_more() {
    let good = tempfile::tempdir().unwrap();
    closed_folder(good.path());
    let segments = segments(good.path());
    let length = |segment: &PathBuf| fs::metadata(segment).unwrap().len();
    let first_two = length(&segments[0]) + length(&segments[1]);
    for (at, check_bytes, is_found) in [
        (0, first_two, true),
        (1, first_two, true),
        (1, first_two - 1, false),
        (2, first_two, false),
    ] {
        let rotten = tempfile::tempdir().unwrap();
        copy_folder(good.path(), rotten.path());
        let path = rotten
            .path()
            .join(segments[at].strip_prefix(good.path()).unwrap());
        let mut bytes = fs::read(&path).unwrap();
        // In the last message, well before the seal.
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        bytes[used - 200] ^= 1;
        fs::write(&path, bytes).unwrap();
        let options = DiskOptions {
            check_bytes,
            ..TINY
        };
        let store = DiskStore::open(rotten.path(), options).unwrap();
        let started = store.recover(&mut Everything::default());
        assert_eq!(
            started.is_err(),
            is_found,
            "segment {at}, {check_bytes} bytes"
        );
    }
}
