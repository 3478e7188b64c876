//! Folders looked at while no broker runs: what is well is not blamed, what is damaged is found, what
//! can be read comes out, and nothing is changed.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use courser_core::{id::Position, message::Message};

use super::{
    OnDisk, SMALL, copy_folder,
    rot::{closed_folder, files, read_all},
};
use crate::{
    DiskStore, Store, StoreError,
    conformance::{
        Harness,
        fixture::{checkpoint, fill, group, recover},
    },
    offline::{Salvaged, Saved, Verified, salvage, verify},
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
    crate::conformance::fixture::reclaim_all(&store);
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

#[test]
fn a_torn_end_is_told_and_no_damage() {
    let mut harness = OnDisk::new();
    let store = harness.open();
    recover(&store);
    fill(&store, 1, 101);
    let copy = tempfile::tempdir().unwrap();
    copy_folder(&harness.folder(), copy.path());
    let path = copy.path().join("log/00000000000000000001.seg");
    let length = fs::metadata(&path).unwrap().len();
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(length - 20)
        .unwrap();
    let torn = check_is_well(copy.path()).torn.unwrap();
    assert_eq!(torn.path, path);
    assert!(
        torn.bytes > 0 && torn.offset + torn.bytes <= length,
        "{torn:?}"
    );
    let recovered = recover(&DiskStore::open(copy.path(), SMALL).unwrap()).1;
    assert_eq!(recovered.last_frame.0 + 1, torn.frame);
    assert_eq!(check_is_well(copy.path()).torn, None);
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
