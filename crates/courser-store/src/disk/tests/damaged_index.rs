//! What is said of an index that cannot be read, and what helps.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use courser_core::record::Chunk;

use super::{OnDisk, SMALL};
use crate::{
    DiskStore, Store, StoreError,
    conformance::{
        Harness,
        fixture::{Found, checkpoint, fill, reclaim_all, recover},
    },
};

/// A closed folder with a checkpoint in its index. `spent`: the log has given its first frames back.
fn closed_folder(harness: &mut OnDisk, spent: bool) -> PathBuf {
    let store = harness.open();
    recover(&store);
    let upto = fill(&store, 1, 601);
    let living = if spent { 501 } else { 1 };
    store
        .checkpoint(&checkpoint(601, living..601), upto)
        .unwrap();
    reclaim_all(&store);
    drop(store);
    let folder = harness.folder();
    // The second start leaves a snapshot of the first one's pages.
    recover(&DiskStore::open(&folder, SMALL).unwrap());
    folder
}

fn open_and_recover(folder: &Path) -> Result<Found, StoreError> {
    let mut found = Found::default();
    DiskStore::open(folder, SMALL)?.recover(&mut found)?;
    Ok(found)
}

/// Damages a closed folder, and expects a refusal that names the index in our words.
#[track_caller]
fn check_is_refused(damage: impl Fn(&Path)) {
    for spent in [false, true] {
        let mut harness = OnDisk::new();
        let folder = closed_folder(&mut harness, spent);
        let index = folder.join("index");
        damage(&index);
        let error = open_and_recover(&folder).map(|_| ()).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, StoreError::IndexDamaged { .. }), "{text}");
        let start = format!("the index {} is damaged: ", index.display());
        assert!(text.starts_with(&start), "{text}");
        for inside in ["backtrace", "offset", "panicked at", ".rs", "lsn", "lid"] {
            assert!(!text.contains(inside), "{text}");
        }
        if spent {
            assert!(text.contains("restore the whole data folder"), "{text}");
        } else {
            assert!(text.contains("move the folder of the index away"), "{text}");
            fs::rename(&index, folder.join("index.away")).unwrap();
            let found = open_and_recover(&folder).unwrap();
            assert_eq!(found.records.len(), 600, "it was not made anew");
        }
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

fn snapshot(index: &Path) -> PathBuf {
    fs::read_dir(index)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_str().unwrap().contains("/snap."))
        .unwrap()
}

#[test]
fn a_rotten_page_is_told() {
    check_is_refused(|index| flip(&index.join("db"), 600));
}

#[test]
fn a_rotten_snapshot_is_told() {
    check_is_refused(|index| flip(&snapshot(index), 30));
}

#[test]
fn a_foreign_snapshot_is_told() {
    check_is_refused(|index| fs::write(snapshot(index), "dear").unwrap());
}

#[test]
fn a_rotten_configuration_is_told() {
    check_is_refused(|index| flip(&index.join("conf"), 3));
}

#[test]
fn other_settings_are_told() {
    check_is_refused(|index| {
        let conf = fs::read(index.join("conf")).unwrap();
        let other = String::from_utf8_lossy(&conf).replace("2097152", "4194304");
        fs::write(index.join("conf"), other).unwrap();
    });
}

#[test]
fn a_file_in_place_of_the_index_is_told() {
    let mut harness = OnDisk::new();
    let folder = closed_folder(&mut harness, true);
    fs::remove_dir_all(folder.join("index")).unwrap();
    fs::write(folder.join("index"), "dear").unwrap();
    let error = open_and_recover(&folder)
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("index") && error.contains("directory"),
        "{error}"
    );
}

#[test]
fn a_folder_in_place_of_its_file_is_told() {
    let mut harness = OnDisk::new();
    let folder = closed_folder(&mut harness, true);
    let file = folder.join("index/db");
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let error = open_and_recover(&folder)
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("index") && error.contains("directory"),
        "{error}"
    );
}

#[test]
fn a_full_disk_is_told_at_the_start() {
    let mut harness = OnDisk::new();
    let folder = harness.new_folder();
    fs::create_dir(folder.join("index")).unwrap();
    fs::write(folder.join("FORMAT"), "courser data folder\nversion 1\n").unwrap();
    // Reads as empty, and takes no byte.
    symlink("/dev/full", folder.join("index/db")).unwrap();
    let error = open_and_recover(&folder).map(|_| ()).unwrap_err();
    let expected = format!("the disk of {} is full", folder.join("index").display());
    assert!(error.to_string().starts_with(&expected), "{error}");
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
}

#[test]
fn a_full_disk_is_told_by_the_log() {
    let mut harness = OnDisk::new();
    let store = harness.open();
    recover(&store);
    let next = harness.folder().join("log/next.tmp");
    symlink("/dev/full", &next).unwrap();
    let group = crate::conformance::fixture::group(1..3);
    let error = store.commit(&group, true).unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("the disk of {} is full", next.display())),
        "{error}"
    );
}

/// sled takes a file that it cannot read for one that is new.
#[test]
fn an_index_that_lost_everything_is_told_or_made_anew() {
    let damages: [fn(&Path); 5] = [
        |index| fs::write(index.join("db"), "dear").unwrap(),
        |index| fs::write(index.join("db"), vec![7; 3 << 20]).unwrap(),
        |index| fs::write(index.join("db"), "").unwrap(),
        |index| {
            let bytes = fs::read(index.join("db")).unwrap();
            fs::write(index.join("db"), &bytes[..700]).unwrap();
        },
        |index| fs::remove_dir_all(index).unwrap(),
    ];
    for (nth, damage) in damages.into_iter().enumerate() {
        for (spent, snapped) in [(false, true), (true, true), (false, false), (true, false)] {
            let mut harness = OnDisk::new();
            let folder = closed_folder(&mut harness, spent);
            let index = folder.join("index");
            if !snapped {
                fs::remove_file(snapshot(&index)).unwrap();
            }
            damage(&index);
            for _ in 0..2 {
                let case = format!("damage {nth}, spent {spent}, snapshot {snapped}");
                match open_and_recover(&folder) {
                    Ok(found) => {
                        let of = |chunk: &(_, _, Chunk)| chunk.2.entries.len();
                        let in_index: usize = found.chunks.iter().map(of).sum();
                        let all = if spent { 100 } else { 600 };
                        assert!(
                            in_index == all || (found.records.len() == 600 && !spent),
                            "{case}: {in_index} and {}",
                            found.records.len()
                        );
                    }
                    Err(error) => {
                        let text = error.to_string();
                        assert!(text.contains("index"), "{case}: {text}");
                        assert!(!text.contains("backtrace"), "{case}: {text}");
                        assert!(text.contains("restore") || !spent, "{case}: {text}");
                    }
                }
            }
        }
    }
}
