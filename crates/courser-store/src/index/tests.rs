//! What we rely on from sled, held to it.

use std::{fs, path::Path, sync::Arc};

use courser_core::{
    id::{ChunkNo, QueueId, Seq},
    limits::CHUNK_ENTRIES,
    record::Chunk,
};
use tempfile::TempDir;

use super::{BATCH_OPERATIONS, Index, Meta, SEGMENT_BYTES, VALUE_BYTES, keys, real_sync, sum};
use crate::{
    StoreError,
    conformance::fixture::{entry, note, state},
    disk::copy_folder,
};

fn open(folder: &TempDir) -> Index {
    Index::open(folder.path(), false).unwrap()
}

fn fill(index: &Index, queue: u32, chunks: u64) {
    let mut writer = index.writer();
    writer
        .put_queue(&state(queue, chunks * CHUNK_ENTRIES))
        .unwrap();
    for number in 0..chunks {
        let seqs = number * CHUNK_ENTRIES..(number + 1) * CHUNK_ENTRIES;
        let entries: Vec<_> = seqs
            .map(|seq| entry(seq, (seq * 7_919) % 1_000_003))
            .collect();
        writer
            .put_chunk(QueueId(queue), ChunkNo(number), &entries)
            .unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn every_flush_is_a_real_sync() {
    let folder = tempfile::tempdir().unwrap();
    let index = open(&folder);
    for epoch in 1..5 {
        let before = real_sync::calls();
        index
            .check_sync(Meta {
                epoch,
                ..Meta::default()
            })
            .unwrap();
        assert!(real_sync::calls() > before);
    }
}

#[test]
fn batches_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let index = open(&folder);
    let mut writer = index.writer();
    for number in 0..2_000_u64 {
        writer
            .put_chunk(QueueId(1), ChunkNo(number), &[entry(number * 256, 1)])
            .unwrap();
        assert!(writer.changes.len() < BATCH_OPERATIONS);
        assert_eq!(writer.batches, number as usize / (BATCH_OPERATIONS - 1));
    }
    writer.finish().unwrap();
}

#[test]
fn no_blob_is_made_and_segments_have_their_size() {
    let folder = tempfile::tempdir().unwrap();
    let index = open(&folder);
    for _ in 0..3 {
        fill(&index, 1, 3_000);
    }
    let blobs = fs::read_dir(folder.path().join("blobs")).map_or(0, Iterator::count);
    assert_eq!(blobs, 0);
    for item in index.db().items(|db| db.iter()).unwrap() {
        let (key, value) = item.unwrap();
        assert!(
            value.len() <= VALUE_BYTES,
            "{} bytes under {key:?}",
            value.len()
        );
    }
    drop(index);
    let conf = fs::read(folder.path().join("conf")).unwrap();
    let conf = String::from_utf8_lossy(&conf);
    assert!(
        conf.contains(&format!("segment_size: {SEGMENT_BYTES}")),
        "{conf}"
    );
}

/// What a power cut during the first start may leave of a file that sled does not sync.
#[test]
fn settings_torn_by_a_first_start_are_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(&folder));
    let settings = folder.path().join(super::SETTINGS);
    let length = fs::read(&settings).unwrap().len();
    fs::write(&settings, vec![0; length]).unwrap();
    assert!(Index::open(folder.path(), false).is_err());
    Index::open(folder.path(), true).unwrap();
}

#[test]
fn a_start_that_was_cut_off_does_not_stop_the_next() {
    let folder = tempfile::tempdir().unwrap();
    fill(&open(&folder), 1, 10);
    let leftover = folder.path().join("snap.0000000000000C3A.generating");
    fs::write(&leftover, "half").unwrap();
    let index = open(&folder);
    assert!(!leftover.exists());
    assert!(index.chunk(QueueId(1), ChunkNo(9)).unwrap().is_some());
}

#[test]
fn garbage_in_a_value_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let index = open(&folder);
    fill(&index, 1, 1);
    index
        .db()
        .call(|db| db.insert(keys::chunk(QueueId(1), ChunkNo(5)), b"\x01garbage".to_vec()))
        .unwrap();
    assert!(index.chunk(QueueId(1), ChunkNo(5)).is_err());
    assert!(index.chunks(&mut |_, _, _| {}).is_err());
    index
        .db()
        .call(|db| db.insert(keys::META, b"\x09".to_vec()))
        .unwrap();
    assert!(index.meta().is_err());
    index
        .db()
        .call(|db| db.insert(b"q12", b"\x09".to_vec()))
        .unwrap();
    assert!(index.queues(&mut |_| {}).is_err());
}

/// Everything in it, as a reader sees it.
fn contents(index: &Index) -> Result<Vec<(QueueId, ChunkNo, Chunk)>, StoreError> {
    let mut found = Vec::new();
    let queues = index.queues(&mut |_| {})?;
    let mut visit = |queue, number, chunk: &Chunk| found.push((queue, number, chunk.clone()));
    let chunks = index.chunks(&mut visit)?;
    index.check_sum([queues, chunks])?;
    Ok(found)
}

/// An index in which most was removed again, with the floor at which it is made anew.
fn grown(folder: &Path, floor: u64) -> Index {
    let index = Index::open_with_floor(folder, floor).unwrap();
    fill(&index, 1, 4_000);
    let mut writer = index.writer();
    for number in 5..4_000 {
        writer.remove_chunk(QueueId(1), ChunkNo(number)).unwrap();
    }
    writer.put_note(QueueId(1), Seq(7), &note(3)).unwrap();
    writer.finish().unwrap();
    index
        .write_meta(Meta {
            epoch: 3,
            upto: 9,
            ..Meta::default()
        })
        .unwrap();
    index
}

const SMALL_FLOOR: u64 = 4 * 1024 * 1024;

#[test]
fn an_index_that_is_mostly_dead_is_made_anew_while_it_is_in_use() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("index");
    let index = grown(&folder, SMALL_FLOOR);
    let (before, expected) = (index.bytes(), contents(&index).unwrap());
    assert!(before > 2 * SMALL_FLOOR, "{before}");
    // A reader in the middle of the old one reads on.
    let mut reading = index.db().items(|db| db.iter()).unwrap();
    reading.next().unwrap().unwrap();
    index.make_anew_if_large().unwrap();
    assert!(index.bytes() <= SMALL_FLOOR, "{}", index.bytes());
    assert_eq!(reading.map(Result::unwrap).count(), 5 + 1 + 1 + 1 + 1 - 1);
    assert_eq!(contents(&index).unwrap(), expected);
    let left: Vec<_> = fs::read_dir(parent.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    fill(&index, 2, 3);
    let expected = contents(&index).unwrap();
    drop(index);
    let index = Index::open_with_floor(&folder, SMALL_FLOOR).unwrap();
    assert_eq!(contents(&index).unwrap(), expected);
    assert_eq!(index.meta().unwrap().upto, 9);
    assert_eq!(index.page(QueueId(1), ChunkNo(0)).unwrap().notes.len(), 1);
}

#[test]
fn an_index_that_is_mostly_dead_is_made_anew_at_the_start() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("index");
    let expected = contents(&grown(&folder, u64::MAX)).unwrap();
    let index = Index::open_with_floor(&folder, SMALL_FLOOR).unwrap();
    assert!(index.bytes() <= SMALL_FLOOR, "{}", index.bytes());
    assert_eq!(contents(&index).unwrap(), expected);
}

/// What each step of making it anew leaves when it is the last one before a power cut.
#[test]
fn a_crash_while_it_is_made_anew_leaves_one_or_the_other() {
    for step in ["copied", "old one aside", "renamed"] {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("index");
        let [old, new] = ["index.replaced", "index.fresh"].map(|name| parent.path().join(name));
        let expected = contents(&grown(&folder, u64::MAX)).unwrap();
        copy_folder(&folder, &new);
        if step == "copied" {
            // Half a copy is worth nothing.
            fs::write(new.join("db"), "half").unwrap();
        } else {
            fs::rename(&folder, &old).unwrap();
            if step == "renamed" {
                fs::rename(&new, &folder).unwrap();
            }
        }
        let index = Index::open(&folder, false).unwrap();
        assert_eq!(contents(&index).unwrap(), expected, "{step}");
        assert!(!old.exists() && !new.exists(), "{step}");
    }
}

#[test]
fn an_index_without_checksums_gets_them() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("index");
    let index = grown(&folder, u64::MAX);
    let expected = contents(&index).unwrap();
    let db = index.db();
    let items = Arc::clone(&db).items(|db| db.iter()).unwrap();
    let items: Vec<_> = items.map(Result::unwrap).collect();
    for (key, sealed) in items {
        let mut value = sum::open(&key, &sealed).unwrap().to_vec();
        if key == keys::META {
            value[0] = 1;
        }
        db.call(|db| db.insert(key, value)).unwrap();
    }
    db.call(|db| db.remove(keys::SUM)).unwrap();
    db.call(|db| db.flush()).unwrap();
    drop((db, index));
    for _ in 0..2 {
        let index = Index::open(&folder, false).unwrap();
        assert_eq!(contents(&index).unwrap(), expected);
        assert_eq!(
            (index.meta().unwrap().epoch, index.meta().unwrap().upto),
            (3, 9)
        );
    }
}

#[test]
fn a_value_that_went_is_missed() {
    let parent = tempfile::tempdir().unwrap();
    for key in [
        keys::chunk(QueueId(1), ChunkNo(3)),
        keys::part(&keys::note(QueueId(1), Seq(7)), 0),
        keys::META.to_vec(),
        keys::SUM.to_vec(),
    ] {
        let folder = parent.path().join(format!("index {key:?}"));
        let index = grown(&folder, u64::MAX);
        index.db().call(|db| db.remove(&key)).unwrap().unwrap();
        index.flush().unwrap();
        drop(index);
        let read = Index::open(&folder, false).and_then(|index| {
            let queues = index.queues(&mut |_| {})?;
            index.check_sum([queues, index.chunks(&mut |_, _, _| {})?])
        });
        let error = read.unwrap_err();
        assert!(matches!(error, StoreError::IndexDamaged { .. }), "{error}");
    }
}

/// A byte that rots in a file of many of sled's segments may take pages with it, and leave those that
/// were written later: sled says nothing then.
#[test]
fn pages_that_rot_away_are_missed() {
    let parent = tempfile::tempdir().unwrap();
    let [good, rotten] = ["good", "rotten"].map(|name| parent.path().join(name));
    let index = grown(&good, u64::MAX);
    fill(&index, 2, 1_000);
    let newest = Meta {
        epoch: 4,
        upto: 10,
        ..Meta::default()
    };
    index.write_meta(newest).unwrap();
    let expected = contents(&index).unwrap();
    drop(index);
    let bytes = fs::read(good.join("db")).unwrap();
    for tenth_of_percent in (100..500).step_by(25) {
        let at = bytes.len() / 1_000 * tenth_of_percent;
        copy_folder(&good, &rotten);
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        fs::write(rotten.join("db"), flipped).unwrap();
        let read = Index::open_with_floor(&rotten, u64::MAX)
            .and_then(|index| Ok((index.meta()?, contents(&index)?)));
        // An index that stands at an earlier frame is whole, and the log has the rest, or misses it.
        if let Ok((meta, found)) = read
            && meta == newest
        {
            assert!(found == expected, "byte {at} took chunks with it");
        }
        fs::remove_dir_all(&rotten).unwrap();
    }
}
