//! Folders that the store does not open, and writes that it does not do any more.

use std::fs;

use super::{OnDisk, SMALL};
use crate::{
    DiskStore, FrameNo, Store, StoreError,
    conformance::{
        Harness,
        fixture::{checkpoint, fill, group, recover},
    },
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
    let mut found = crate::conformance::fixture::Found::default();
    let error = store.recover(&mut found).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
}

#[test]
fn a_log_without_its_first_file_is_damage_unless_nothing_in_it_lives() {
    for (lives_from, is_damage) in [(1, true), (200, false)] {
        let mut harness = OnDisk::new();
        let store = harness.open();
        recover(&store);
        let upto = fill(&store, 1, 301);
        let living = checkpoint(301, lives_from..301);
        store.checkpoint(&living, upto).unwrap();
        let first = store.log.segments().remove(0);
        drop(store);
        fs::remove_file(&first.path).unwrap();
        let store = DiskStore::open(&harness.folder(), SMALL).unwrap();
        let mut found = crate::conformance::fixture::Found::default();
        let recovered = store.recover(&mut found);
        if is_damage {
            let error = recovered.unwrap_err();
            assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
            assert!(error.to_string().contains("message 1 lives"), "{error}");
        } else {
            recovered.unwrap();
        }
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
        super::copy_folder(&good, &folder);
        let mut rotten = bytes.clone();
        rotten[used * n / 20] ^= 0x10;
        fs::write(folder.join("index/db"), rotten).unwrap();
        let mut found = crate::conformance::fixture::Found::default();
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
