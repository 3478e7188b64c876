//! Folders that the store does not open, and writes that it does not do any more.

use std::{fs, path::Path};

use super::{OnDisk, SMALL, copy_folder};
use crate::{
    DiskStore, FrameNo, Recovered, Store, StoreError,
    conformance::{
        Harness,
        fixture::{Found, checkpoint, fill, group, recover},
    },
    log::Log,
    offline::verify,
};

#[test]
fn a_second_broker_is_refused() {
    let mut harness = OnDisk::new();
    let store = harness.open();
    let error = DiskStore::open(&harness.folder(), SMALL).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    drop(store);
    DiskStore::open(&harness.folder(), SMALL).unwrap();
}

#[test]
fn a_folder_that_is_not_ours_is_refused() {
    let mut harness = OnDisk::new();
    let folder = harness.new_folder();
    fs::write(folder.join("letter.txt"), "dear").unwrap();
    let error = DiskStore::open(&folder, SMALL).unwrap_err();
    assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
    assert!(error.to_string().contains("letter.txt"), "{error}");
    assert_eq!(
        fs::read_dir(&folder).unwrap().count(),
        1,
        "it was left alone"
    );
}

#[test]
fn another_version_is_refused() {
    let mut harness = OnDisk::new();
    let folder = harness.new_folder();
    for text in ["courser data folder\nversion 2\n", "", "something else\n"] {
        fs::write(folder.join("FORMAT"), text).unwrap();
        let error = DiskStore::open(&folder, SMALL).unwrap_err();
        assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
    }
}

#[test]
fn a_format_of_any_length_is_refused_in_a_sentence() {
    let mut harness = OnDisk::new();
    let folder = harness.new_folder();
    let format = fs::File::create(folder.join("FORMAT")).unwrap();
    // It takes no room on the disk, and would not fit into memory.
    format.set_len(1 << 40).unwrap();
    let error = DiskStore::open(&folder, SMALL).unwrap_err();
    assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
    assert!(error.to_string().len() < 2_000);
}

#[test]
fn a_new_file_system_and_a_start_that_was_cut_off_are_taken() {
    let mut harness = OnDisk::new();
    let folder = harness.new_folder();
    fs::create_dir(folder.join("lost+found")).unwrap();
    fs::write(folder.join("LOCK"), "").unwrap();
    fs::write(folder.join("FORMAT.tmp"), "cour").unwrap();
    recover(&DiskStore::open(&folder, SMALL).unwrap());
}

#[test]
fn a_file_in_the_way_is_named() {
    let mut harness = OnDisk::new();
    let folder = harness.new_folder();
    fs::write(folder.join("data"), "a file").unwrap();
    for inside in ["data", "data/deeper"] {
        let error = DiskStore::open(&folder.join(inside), SMALL).unwrap_err();
        assert!(matches!(error, StoreError::Io { .. }), "{error}");
        assert!(error.to_string().contains("data"), "{error}");
    }
    let store = harness.open();
    drop(store);
    let folder = harness.folder();
    fs::remove_dir_all(folder.join("log")).unwrap();
    fs::write(folder.join("log"), "a file").unwrap();
    let error = DiskStore::open(&folder, SMALL).unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
}

#[test]
fn a_lost_log_is_damage() {
    let mut harness = OnDisk::new();
    let store = harness.open();
    recover(&store);
    let upto = fill(&store, 1, 301);
    store.checkpoint(&checkpoint(301, 1..301), upto).unwrap();
    drop(store);
    let folder = harness.folder();
    fs::remove_dir_all(folder.join("log")).unwrap();
    let store = DiskStore::open(&folder, SMALL).unwrap();
    let mut found = Found::default();
    let error = store.recover(&mut found).unwrap_err();
    assert!(matches!(error, StoreError::Missing { .. }), "{error}");
}

/// Opens the folder without one file of its log.
fn recover_without(folder: &Path, number: usize) -> Result<Recovered, StoreError> {
    let copy = tempfile::tempdir().unwrap();
    copy_folder(folder, copy.path());
    let log = Log::open(&copy.path().join("log"), SMALL.segment_bytes).unwrap();
    fs::remove_file(&log.segments()[number].path).unwrap();
    drop(log);
    let store = DiskStore::open(copy.path(), SMALL).unwrap();
    let recovered = store.recover(&mut Found::default());
    drop(store);
    let damages = verify(copy.path()).unwrap().damages;
    assert_eq!(recovered.is_err(), !damages.is_empty(), "{damages:?}");
    if let Err(StoreError::Missing { path }) = &recovered {
        assert!(damages.iter().all(|damage| damage.path == Path::new(path)));
    }
    recovered
}

#[test]
fn a_file_of_the_log_may_be_gone_when_nothing_in_it_lives() {
    let mut harness = OnDisk::new();
    let store = harness.open();
    recover(&store);
    let upto = fill(&store, 1, 601);
    let segments = store.log.segments();
    assert!(segments.len() >= 4, "{}", segments.len());
    let starts_at = |number: usize| segments[number].header.position;
    // All of the second is dead, of the others one message lives.
    let living = |seq: &u64| *seq >= starts_at(2) || *seq == 1;
    store
        .checkpoint(&checkpoint(601, (1..601).filter(living)), upto)
        .unwrap();
    drop(store);
    let folder = harness.folder();
    for number in 0..segments.len() - 1 {
        let recovered = recover_without(&folder, number);
        let is_missing = matches!(recovered, Err(StoreError::Missing { .. }));
        assert_eq!(is_missing, number != 1, "{number}: {recovered:?}");
        assert!(is_missing || recovered.is_ok(), "{recovered:?}");
    }
    // Told with every checkpoint, also by a store that was opened on it.
    let store = DiskStore::open(&folder, SMALL).unwrap();
    recover(&store);
    let nothing = checkpoint(601, 0..0);
    store.checkpoint(&nothing, upto).unwrap();
    drop(store);
    for number in 0..segments.len() - 1 {
        recover_without(&folder, number).unwrap();
    }
}

#[test]
fn nothing_is_written_after_a_failure() {
    let mut harness = OnDisk::new();
    let store = harness.open();
    recover(&store);
    let upto = fill(&store, 1, 101);
    harness.cut_checkpoint(&store, &checkpoint(101, 1..101), upto, 0);
    for error in [
        store
            .commit(&group(101..102), true)
            .map(|_| ())
            .unwrap_err(),
        store
            .checkpoint(&checkpoint(101, 1..101), FrameNo(1))
            .unwrap_err(),
        store.reclaim(0).map(|_| ()).unwrap_err(),
    ] {
        assert!(error.to_string().contains("told to stop"), "{error}");
        assert!(matches!(error, StoreError::Stopped { .. }), "{error}");
    }
    let loaded = store.load(&[courser_core::id::Position(5)]).unwrap();
    assert!(loaded[0].is_some(), "reads go on");
}

#[test]
fn a_rotten_index_is_refused_or_harmless() {
    let mut harness = OnDisk::new();
    let store = harness.open();
    recover(&store);
    let upto = fill(&store, 1, 1_001);
    store
        .checkpoint(&checkpoint(1_001, 1..1_001), upto)
        .unwrap();
    let good = harness.folder();
    let bytes = fs::read(good.join("index/db")).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    for n in 0..20 {
        let folder = harness.new_folder();
        copy_folder(&good, &folder);
        let mut rotten = bytes.clone();
        rotten[used * n / 20] ^= 0x10;
        fs::write(folder.join("index/db"), rotten).unwrap();
        let mut found = Found::default();
        let opened = DiskStore::open(&folder, SMALL).and_then(|store| store.recover(&mut found));
        if opened.is_ok() {
            let in_index: usize = found
                .chunks
                .iter()
                .map(|(_, _, chunk)| chunk.entries.len())
                .sum();
            assert!(
                in_index == 1_000 || found.records.len() == 1_000,
                "byte {}",
                used * n / 20
            );
        }
    }
}
