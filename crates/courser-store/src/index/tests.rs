//! What we rely on from sled, held to it.

use courser_core::{
    id::{ChunkNo, QueueId},
    limits::CHUNK_ENTRIES,
};
use tempfile::TempDir;

use super::{BATCH_OPERATIONS, Index, Meta, SEGMENT_BYTES, VALUE_BYTES, keys, real_sync};
use crate::conformance::fixture::{entry, state};

fn open(folder: &TempDir) -> Index {
    Index::open(folder.path()).unwrap()
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
        assert!(writer.operations <= BATCH_OPERATIONS);
        assert_eq!(writer.batches, number as usize / BATCH_OPERATIONS);
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
    let blobs = std::fs::read_dir(folder.path().join("blobs")).map_or(0, Iterator::count);
    assert_eq!(blobs, 0);
    for item in index.db.items(|db| db.iter()).unwrap() {
        let (key, value) = item.unwrap();
        assert!(
            value.len() <= VALUE_BYTES,
            "{} bytes under {key:?}",
            value.len()
        );
    }
    drop(index);
    let conf = std::fs::read(folder.path().join("conf")).unwrap();
    let conf = String::from_utf8_lossy(&conf);
    assert!(
        conf.contains(&format!("segment_size: {SEGMENT_BYTES}")),
        "{conf}"
    );
}

#[test]
fn a_start_that_was_cut_off_does_not_stop_the_next() {
    let folder = tempfile::tempdir().unwrap();
    fill(&open(&folder), 1, 10);
    let leftover = folder.path().join("snap.0000000000000C3A.generating");
    std::fs::write(&leftover, "half").unwrap();
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
        .db
        .call(|db| db.insert(keys::chunk(QueueId(1), ChunkNo(5)), b"\x01garbage".to_vec()))
        .unwrap();
    assert!(index.chunk(QueueId(1), ChunkNo(5)).is_err());
    assert!(index.chunks(&mut |_, _, _| {}).is_err());
    index
        .db
        .call(|db| db.insert(keys::META, b"\x09".to_vec()))
        .unwrap();
    assert!(index.meta().is_err());
    index
        .db
        .call(|db| db.insert(b"q12", b"\x09".to_vec()))
        .unwrap();
    assert!(index.queues(&mut |_| {}).is_err());
}
