//! Folders looked at while no broker runs: what is well is not blamed, what is damaged is found, what
//! can be read comes out, and nothing is changed.

use std::{
    collections::BTreeMap,
    fs, iter,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use courser_core::{
    id::{Position, QueueId, Seq},
    message::Message,
    record::{Group, Record},
};
use tempfile::TempDir;

use super::{
    OnDisk, SMALL, copy_folder,
    rot::{closed_folder, files, read_all},
};
use crate::{
    DiskStore, Store, StoreError,
    conformance::{
        Harness,
        fixture::{
            self, checkpoint, definition, fill, group, noise, note, reclaim_all, records, recover,
        },
    },
    log::{
        scan::{Found, Placed, Scan},
        segment::{self, Segment},
    },
    offline::{Damage, LogFigures, Salvaged, Saved, Verified, salvage, verify},
};

fn bytes_of(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let read = |path: PathBuf| (path.clone(), fs::read(path).unwrap());
    files(folder).into_iter().map(read).collect()
}

/// Verifies, and makes sure that nothing was changed.
fn looked_at(folder: &Path) -> Verified {
    let before = bytes_of(folder);
    let found = verify(folder).unwrap();
    assert!(bytes_of(folder) == before, "verify changed something");
    found
}

fn taken_out(folder: &Path) -> (Vec<Saved>, Salvaged) {
    let before = bytes_of(folder);
    let mut saved = Vec::new();
    let done = salvage(folder, &mut |one| {
        saved.push(one);
        Ok(())
    })
    .unwrap();
    assert!(bytes_of(folder) == before, "salvage changed something");
    assert_eq!(done.entries, saved.len() as u64);
    (saved, done)
}

#[track_caller]
fn check_is_well(folder: &Path) -> Verified {
    let found = looked_at(folder);
    assert_eq!((found.damaged, &found.damages[..]), (0, &[][..]));
    found
}

fn messages(saved: &[Saved]) -> BTreeMap<Position, Message> {
    let of = |one: &Saved| (one.message.position, one.message.clone());
    saved.iter().map(of).collect()
}

#[test]
fn a_folder_in_which_everything_happened_is_well() {
    let folder = tempfile::tempdir().unwrap();
    closed_folder(folder.path());
    let found = check_is_well(folder.path());
    assert_eq!(found.torn, None);
    let copy = tempfile::tempdir().unwrap();
    copy_folder(folder.path(), copy.path());
    let expected = read_all(copy.path()).unwrap();
    let entries: u64 = found.queues.iter().map(|queue| queue.entries).sum();
    assert_eq!(entries, expected.entries.len() as u64);
    let (saved, done) = taken_out(folder.path());
    assert_eq!(saved.len(), expected.entries.len());
    assert!(done.damaged == 0 && done.uncertain == 0 && done.without_queue == 0);
    for (position, message) in messages(&saved) {
        assert_eq!(
            expected.messages[&position].as_deref(),
            Some(&message),
            "{position}"
        );
    }
    let notes = saved.iter().filter(|one| one.note.is_some()).count();
    assert_eq!(notes, expected.notes.len());
}

#[test]
fn a_folder_that_was_not_closed_is_well() {
    let mut harness = OnDisk::new();
    let store = harness.open();
    recover(&store);
    let killed = |store: &DiskStore, harness: &OnDisk| {
        let copy = tempfile::tempdir().unwrap();
        copy_folder(&harness.folder(), copy.path());
        fs::remove_file(copy.path().join("LOCK")).unwrap();
        let _ = store;
        check_is_well(copy.path())
    };
    killed(&store, &harness);
    let upto = fill(&store, 1, 1_001);
    assert_eq!(killed(&store, &harness).log.messages, 1_000);
    let half = checkpoint(1_001, 500..1_001);
    assert!(harness.cut_checkpoint(&store, &half, upto, 0));
    killed(&store, &harness);
    let store = harness.reopen(store);
    recover(&store);
    store.checkpoint(&half, upto).unwrap();
    reclaim_all(&store);
    killed(&store, &harness);
    store.commit(&group(1_001..1_003), false).unwrap();
    killed(&store, &harness);
}

#[test]
fn a_folder_in_use_and_one_that_is_not_ours_are_refused() {
    let mut harness = OnDisk::new();
    let store = harness.open();
    let error = verify(&harness.folder()).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    let error = salvage(&harness.folder(), &mut |_| Ok(())).unwrap_err();
    assert!(error.to_string().contains("stop that one first"), "{error}");
    drop(store);
    check_is_well(&harness.folder());
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("letter.txt"), "dear").unwrap();
    for path in [other.path().to_owned(), other.path().join("deeper")] {
        let error = verify(&path).unwrap_err();
        assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
    }
}

const FIRST: &str = "log/00000000000000000001.seg";

/// The frames of a segment.
fn frames(path: &Path, first: u64) -> Vec<Placed> {
    let segment = Segment::open_to_read(path.to_owned(), first).unwrap();
    let mut scan = Scan::new(&Arc::new(segment));
    let next = || scan.next().unwrap();
    iter::from_fn(next)
        .filter_map(|found| match found {
            Found::Frame(frame) => Some(frame),
            _ => None,
        })
        .collect()
}

/// What a power cut leaves of bytes that were not synced: the file was prepared with zeros.
fn zero(path: &Path, range: Range<u64>) {
    let mut bytes = fs::read(path).unwrap();
    bytes[range.start as usize..range.end as usize].fill(0);
    fs::write(path, bytes).unwrap();
}

fn zero_bodies(path: &Path, frame: &Placed) {
    let bodies = frame.offset + frame.head.checked_bytes() as u64;
    zero(path, bodies..frame.end());
}

/// Of a store that was killed, a copy that can be looked at.
fn killed(harness: &OnDisk) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_folder(&harness.folder(), copy.path());
    copy
}

/// A store with a queue in which 100 messages live, the group not synced.
fn with_a_hundred(harness: &mut OnDisk) -> DiskStore {
    let store = harness.open();
    recover(&store);
    let defined = Record::QueueDefined(Box::new(definition(1)));
    store.commit(&records(vec![defined], 1), false).unwrap();
    fill(&store, 1, 101);
    store
}

fn removed(seqs: Range<u64>, next_position: u64) -> Group {
    let queue = QueueId(1);
    let removed = |seq| Record::Removed {
        queue,
        seq: Seq(seq),
    };
    records(seqs.map(removed).collect(), next_position)
}

/// What is told before a start is what is there after it.
#[track_caller]
fn check_start_agrees(folder: &Path) -> Verified {
    let before = check_is_well(folder);
    let (saved, _) = taken_out(folder);
    let store = DiskStore::open(folder, SMALL).unwrap();
    let last = recover(&store).1.last_frame;
    drop(store);
    if let Some(torn) = &before.torn {
        assert_eq!(last.0 + 1, torn.frame);
    }
    let after = check_is_well(folder);
    assert_eq!(after.torn, None);
    assert_eq!(before.queues, after.queues);
    let figures = |log: LogFigures| (log.frames, log.records, log.messages);
    assert_eq!(figures(before.log), figures(after.log));
    assert_eq!(taken_out(folder).0, saved);
    before
}

/// The last frame of this file lacks its last 20 bytes.
fn with_a_torn_end() -> (TempDir, PathBuf, Placed) {
    let mut harness = OnDisk::new();
    let _store = with_a_hundred(&mut harness);
    let copy = killed(&harness);
    let path = copy.path().join(FIRST);
    let last = *frames(&path, 1).last().unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_len(last.end() - 20).unwrap();
    (copy, path, last)
}

#[test]
fn a_torn_end_is_told_and_no_damage() {
    let (copy, path, last) = with_a_torn_end();
    let torn = check_start_agrees(copy.path()).torn.unwrap();
    assert_eq!((torn.path, torn.offset), (path, last.offset));
    assert_eq!(torn.bytes, u64::from(last.head.total) - 20);
}

#[test]
fn the_end_before_a_segment_that_cannot_be_opened_is_not_torn() {
    let (copy, path, last) = with_a_torn_end();
    let later = path.with_file_name(segment::name(last.head.number + 1));
    fs::write(&later, [0; 64]).unwrap();
    let found = looked_at(copy.path());
    assert_eq!(found.torn, None);
    let is_named = |path: &Path| found.damages.iter().any(|damage| damage.path == *path);
    assert!(is_named(&path) && is_named(&later), "{found:?}");
}

#[test]
fn a_frame_that_a_power_cut_left_without_its_bodies_is_a_torn_end() {
    let mut harness = OnDisk::new();
    let store = with_a_hundred(&mut harness);
    store.commit(&group(101..111), false).unwrap();
    // Whole frames, which a start cuts as well: what they settle is not settled.
    store.commit(&removed(1..51, 111), false).unwrap();
    store.commit(&group(111..121), false).unwrap();
    let copy = killed(&harness);
    let path = copy.path().join(FIRST);
    let cut = frames(&path, 1)[2];
    zero_bodies(&path, &cut);
    let (saved, done) = taken_out(copy.path());
    let found = check_start_agrees(copy.path());
    let torn = found.torn.unwrap();
    assert_eq!((torn.offset, torn.frame), (cut.offset, 3));
    assert_eq!((found.queues[0].entries, found.log.messages), (100, 100));
    assert_eq!((saved.len(), done.uncertain, done.unreadable), (100, 0, 0));
    assert_eq!(done.torn, Some(torn));
}

#[test]
fn whatever_sectors_a_power_cut_leaves_a_start_finds_what_was_told() {
    let mut harness = OnDisk::new();
    let store = with_a_hundred(&mut harness);
    store.sync().unwrap();
    for step in 0..3 {
        let from = 101 + step * 5;
        store.commit(&group(from..from + 5), false).unwrap();
        let gone = removed(step * 10 + 1..step * 10 + 6, from + 5);
        store.commit(&gone, false).unwrap();
    }
    let log = harness.folder().join(FIRST);
    let all = frames(&log, 1);
    let (synced, end) = (all[1].end(), all.last().unwrap().end());
    let mut torn = 0;
    for seed in 0..40 {
        let copy = killed(&harness);
        let path = copy.path().join(FIRST);
        let luck = noise(seed, 512);
        for (sector, luck) in (synced.next_multiple_of(512)..end).step_by(512).zip(luck) {
            if luck % 16 == 0 {
                zero(&path, sector..end.min(sector + 512));
            }
        }
        torn += u64::from(check_start_agrees(copy.path()).torn.is_some());
    }
    assert!(torn > 10, "{torn} of 40 were torn");
}

#[test]
fn an_end_that_was_durable_is_no_torn_end() {
    let mut harness = OnDisk::new();
    let store = with_a_hundred(&mut harness);
    let upto = store.commit(&group(101..111), true).unwrap();
    // The index knows it.
    store.checkpoint(&checkpoint(111, 1..111), upto).unwrap();
    let copy = killed(&harness);
    let path = copy.path().join(FIRST);
    let last = *frames(&path, 1).last().unwrap();
    zero(&path, last.offset..last.end());
    let found = looked_at(copy.path());
    assert!(found.damaged > 0 && found.torn.is_none(), "{found:?}");
    let (saved, done) = taken_out(copy.path());
    assert_eq!((saved.len(), done.unreadable), (100, 10));
    assert_eq!(done.uncertain, 100, "frames behind it may be gone too");
    DiskStore::open(copy.path(), SMALL)
        .and_then(|store| store.recover(&mut fixture::Found::default()).map(drop))
        .unwrap_err();
    // A frame behind it knows it; its own records are believed, and so are those of the broken one.
    store.commit(&removed(1..11, 111), true).unwrap();
    let copy = killed(&harness);
    let path = copy.path().join(FIRST);
    zero_bodies(&path, &last);
    let found = looked_at(copy.path());
    assert!(found.damaged > 0 && found.torn.is_none(), "{found:?}");
    let (saved, done) = taken_out(copy.path());
    assert_eq!((saved.len(), done.uncertain, done.unreadable), (90, 0, 10));
}

#[test]
fn a_start_that_is_refused_cuts_nothing_that_can_be_salvaged() {
    let mut harness = OnDisk::new();
    let store = with_a_hundred(&mut harness);
    let upto = store.commit(&group(101..111), true).unwrap();
    store.checkpoint(&checkpoint(111, 1..111), upto).unwrap();
    let copy = killed(&harness);
    let path = copy.path().join(FIRST);
    let last = *frames(&path, 1).last().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    // In the last message, before the padding.
    bytes[last.end() as usize - 20] ^= 1;
    fs::write(&path, &bytes).unwrap();
    DiskStore::open(copy.path(), SMALL)
        .and_then(|store| store.recover(&mut fixture::Found::default()).map(drop))
        .unwrap_err();
    assert!(
        fs::read(&path).unwrap() == bytes,
        "the start changed the log"
    );
    let (saved, done) = taken_out(copy.path());
    assert_eq!((saved.len(), done.unreadable), (109, 1));
}

/// Flips bits all over the files in `part`: whatever keeps a start from going through is found, and
/// what comes out was put in.
fn check_damage_is_found(part: &str, step: usize) {
    let good = tempfile::tempdir().unwrap();
    closed_folder(good.path());
    let copy = tempfile::tempdir().unwrap();
    copy_folder(good.path(), copy.path());
    let expected = read_all(copy.path()).unwrap();
    let (all, _) = taken_out(good.path());
    let (mut found, mut harmless) = (0, 0);
    for file in files(&good.path().join(part)) {
        let bytes = fs::read(&file).unwrap();
        let name = file.strip_prefix(good.path()).unwrap();
        for at in (0..bytes.len()).step_by(step) {
            if bytes[at..].iter().all(|byte| *byte == 0) {
                break;
            }
            let rotten = tempfile::tempdir().unwrap();
            copy_folder(good.path(), rotten.path());
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(rotten.path().join(name), flipped).unwrap();
            let place = format!("byte {at} of {}", name.display());
            let verified = looked_at(rotten.path());
            let (saved, done) = taken_out(rotten.path());
            for (position, message) in messages(&saved) {
                let known = all.iter().find(|one| one.message.position == position);
                assert!(
                    known.is_none_or(|one| one.message == message),
                    "{place}: {position} was altered"
                );
            }
            assert_eq!(done.damaged > 0, verified.damaged > 0, "{place}");
            match read_all(rotten.path()) {
                Ok(read) => {
                    assert_eq!(read.entries, expected.entries, "{place}");
                    harmless += 1;
                }
                Err(error) => {
                    assert!(verified.damaged > 0, "{place}: {error}");
                    let told = &verified.damages[0];
                    assert!(
                        told.path.starts_with(rotten.path()) && !told.remedy.is_empty(),
                        "{told:?}"
                    );
                    if let StoreError::Damaged { path, offset, .. } = &error {
                        let is_it = |damage: &Damage| {
                            damage.path == Path::new(path) && damage.offset == Some(*offset)
                        };
                        let damages = &verified.damages;
                        assert!(damages.iter().any(is_it), "{place}: {error}; {damages:?}");
                    }
                    found += 1;
                }
            }
            if part == "log" {
                // A frame is at most five messages, or a group of records with none.
                let out = messages(&saved);
                let lost = all
                    .iter()
                    .filter(|one| !out.contains_key(&one.message.position))
                    .count();
                assert!(lost <= 5, "{place}: {lost} messages did not come out");
            } else {
                let out = messages(&saved);
                let is_out = |one: &Saved| out.contains_key(&one.message.position);
                assert!(all.iter().all(is_out), "{place}");
            }
        }
    }
    assert!(found > 5, "{found} found, {harmless} harmless");
}

#[test]
fn damage_of_the_log_is_found() {
    check_damage_is_found("log", 1_009);
}

#[test]
fn damage_of_the_index_is_found() {
    check_damage_is_found("index", 709);
}

#[test]
fn a_damaged_format_is_found_and_a_lost_index_too() {
    let folder = tempfile::tempdir().unwrap();
    closed_folder(folder.path());
    let (all, _) = taken_out(folder.path());
    let format = folder.path().join("FORMAT");
    fs::write(&format, "courser data folder\nversion 3\n").unwrap();
    let found = looked_at(folder.path());
    assert_eq!(found.damages[0].path, format);
    let (saved, _) = taken_out(folder.path());
    assert_eq!(saved, all);
    fs::write(&format, "courser data folder\nversion 1\n").unwrap();
    fs::remove_dir_all(folder.path().join("index")).unwrap();
    assert!(looked_at(folder.path()).damaged > 0);
    let (saved, done) = taken_out(folder.path());
    assert!(done.without_queue > 0 || done.uncertain > 0, "{done:?}");
    let out = messages(&saved);
    assert!(
        all.iter()
            .all(|one| out.contains_key(&one.message.position))
    );
}

/// Damages the index so that sled does not open it: only the log is left.
fn rot_index(folder: &Path) {
    let settings = folder.join("index/conf");
    let mut bytes = fs::read(&settings).unwrap();
    bytes[3] ^= 0x10;
    fs::write(settings, bytes).unwrap();
}

#[test]
fn an_index_that_cannot_be_read_leaves_what_the_log_says() {
    let mut harness = OnDisk::new();
    let store = with_a_hundred(&mut harness);
    store.commit(&removed(1..11, 101), true).unwrap();
    let copy = killed(&harness);
    // As on a bad disk: what fails is the read of it, not sled.
    let index = copy.path().join("index");
    fs::remove_dir_all(&index).unwrap();
    fs::write(&index, "no folder").unwrap();
    let found = looked_at(copy.path());
    assert_eq!(found.damages[0].path, index);
    assert!(found.damages[0].remedy.contains("makes it anew"));
    let (saved, done) = taken_out(copy.path());
    assert!(done.index_damaged);
    assert_eq!(
        (saved.len(), done.uncertain, done.without_queue),
        (90, 0, 0)
    );
}

#[test]
fn an_index_that_breaks_off_still_names_its_queues() {
    let mut harness = OnDisk::new();
    let store = harness.open();
    recover(&store);
    let upto = fill(&store, 1, 101);
    let mut kept = checkpoint(101, 1..101);
    let long = |seq| {
        let mut note = note(0);
        let noise = noise(seq, 30_000);
        let description = noise.iter().map(|byte| char::from(byte % 64 + 32));
        note.dead_letter.as_mut().unwrap().description = description.collect();
        (Seq(seq), Some(Arc::new(note)))
    };
    kept.chunks[0].notes = (1..101).map(long).collect();
    store.checkpoint(&kept, upto).unwrap();
    drop(store);
    // The second start leaves a snapshot: what it refers to is read only when it is asked for.
    recover(&DiskStore::open(&harness.folder(), SMALL).unwrap());
    let index = harness.folder().join("index/db");
    let bytes = fs::read(&index).unwrap();
    // Every place but what it looks at when it is opened.
    let (mut named, mut nameless) = (0, 0);
    for at in (0..bytes.len()).step_by(300_007) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        fs::write(&index, flipped).unwrap();
        let (saved, done) = taken_out(&harness.folder());
        let behind = |damage: &Damage| damage.holds == "what comes behind";
        if done.damages.iter().any(behind) {
            assert_eq!(saved.len(), 100, "byte {at}");
            match done.without_queue {
                0 => named += 1,
                100 => nameless += 1,
                some => panic!("byte {at}: {some} of 100 have no queue"),
            }
        }
    }
    // One place may be in the page that holds the name; the next one is far from it.
    assert!(named > 1 && nameless <= 1, "{named} and {nameless}");
}

#[test]
fn what_a_log_with_a_gap_says_is_not_certain() {
    let mut harness = OnDisk::new();
    let store = with_a_hundred(&mut harness);
    fill(&store, 101, 601);
    store.sync().unwrap();
    let copy = killed(&harness);
    rot_index(copy.path());
    let (saved, done) = taken_out(copy.path());
    assert!(done.index_damaged);
    assert_eq!((saved.len(), done.uncertain), (600, 0));
    let log = files(&copy.path().join("log"));
    let mut segments = log
        .iter()
        .filter(|path| path.extension().is_some_and(|e| e == "seg"));
    fs::remove_file(segments.nth(1).unwrap()).unwrap();
    let (saved, done) = taken_out(copy.path());
    assert!(saved.len() < 600);
    assert_eq!(done.uncertain, done.entries);
    let remedy = &looked_at(copy.path()).damages[0].remedy;
    assert!(!remedy.contains("makes it anew"), "{remedy}");
}

#[test]
fn a_segment_without_its_header_may_have_been_rewritten() {
    let mut harness = OnDisk::new();
    let _store = with_a_hundred(&mut harness);
    let copy = killed(&harness);
    rot_index(copy.path());
    zero(&copy.path().join(FIRST), 0..64);
    let (saved, done) = taken_out(copy.path());
    assert_eq!((saved.len(), done.uncertain), (100, 100));
}

#[test]
fn records_of_a_frame_out_of_order_are_lost() {
    let mut harness = OnDisk::new();
    let store = with_a_hundred(&mut harness);
    store.commit(&removed(1..11, 101), true).unwrap();
    let copy = killed(&harness);
    let path = copy.path().join(FIRST);
    let last = *frames(&path, 1).last().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let frame = &mut bytes[last.offset as usize..][..last.head.checked_bytes()];
    frame[48..56].copy_from_slice(&1_u64.to_le_bytes());
    let checksum = crc32c::crc32c(&frame[8..]);
    frame[4..8].copy_from_slice(&checksum.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    assert_eq!(looked_at(copy.path()).damaged, 1);
    let (saved, done) = taken_out(copy.path());
    assert_eq!((done.lost_frames, done.uncertain), (1, saved.len() as u64));
}
