//! The disk store: the suite, and what only a disk can suffer.

mod damaged_index;
mod fan_out;
mod offline;
mod refusals;
mod rot;
mod suite;

use std::{
    fs,
    path::{Path, PathBuf},
};

use courser_core::record::Checkpoint;
use tempfile::TempDir;

use super::{DiskOptions, DiskStore};
use crate::{FrameNo, Store, StoreError, conformance::Harness};

/// Small enough that a few hundred messages fill several.
const SEGMENT_BYTES: u64 = 128 * 1024;
const SMALL: DiskOptions = DiskOptions {
    segment_bytes: SEGMENT_BYTES,
    check_bytes: 0,
};

/// Opens stores in folders that go with it.
struct OnDisk {
    folders: Vec<TempDir>,
}

impl OnDisk {
    fn new() -> Self {
        Self {
            folders: Vec::new(),
        }
    }

    fn new_folder(&mut self) -> PathBuf {
        self.folders.push(tempfile::tempdir().unwrap());
        self.folder()
    }

    /// The one that was opened last.
    fn folder(&self) -> PathBuf {
        self.folders.last().unwrap().path().to_owned()
    }
}

impl Harness for OnDisk {
    type Store = DiskStore;

    fn open(&mut self) -> DiskStore {
        DiskStore::open(&self.new_folder(), SMALL).unwrap()
    }

    /// What a killed process leaves is what its files say at that moment: a copy of them.
    fn reopen(&mut self, store: DiskStore) -> DiskStore {
        let old = self.folder();
        let new = self.new_folder();
        copy_folder(&old, &new);
        drop(store);
        DiskStore::open(&new, SMALL).unwrap()
    }

    fn cut_checkpoint(
        &mut self,
        store: &DiskStore,
        checkpoint: &Checkpoint,
        upto: FrameNo,
        steps: usize,
    ) -> bool {
        store.stop_checkpoints_after(steps);
        let error = store.checkpoint(checkpoint, upto).unwrap_err();
        assert!(matches!(error, StoreError::Index(_)), "{error}");
        let error = store.sync().unwrap_err();
        assert!(matches!(error, StoreError::Stopped { .. }), "{error}");
        true
    }

    /// The segment that is written, the one before it, and a spare.
    fn slack(&self) -> u64 {
        3 * SEGMENT_BYTES
    }
}

pub(crate) fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}
