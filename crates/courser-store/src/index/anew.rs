//! Making the index anew: what lives moves to a fresh folder, which takes the place of the old one.
//!
//! ```text
//! index/            index.fresh/   what lives is copied, and synced
//! index.replaced/   index.fresh/   the old one steps aside; a crash here: it steps back
//! index.replaced/   index/         the new one has its name
//!                   index/         the old one goes
//! ```
//!
//! sled's file follows what is alive up, but never down: `docs/decisions/0001-real-sync-under-sled.md`. The
//! keeper is the only writer, so nothing changes meanwhile; whoever reads goes on in the old files.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use sled::Batch;

use super::{
    BATCH_CHANGES, Index, META_VERSION, META_VERSION_UNSUMMED, decode_meta, encode_meta, keys,
    open_sled,
    sum::{self, Sum},
};
use crate::{StoreError, codec::Malformed, log::sync_folder};

/// Made anew when it takes this much more than [`LIVE_TIMES`] what lives in it: sled needs several
/// times as much under steady load, and a small folder is not worth the work.
pub(super) const FLOOR_BYTES: u64 = 32 * 1024 * 1024;
const LIVE_TIMES: u64 = 4;

/// How the values of an index lie in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As we write them.
    Summed,
    /// Without checksums, as the first version had them.
    Unsummed,
}

/// The old one and the new one, while one takes the place of the other. No names that somebody would
/// give a folder of theirs.
fn beside(folder: &Path) -> (PathBuf, PathBuf) {
    (
        folder.with_extension("replaced"),
        folder.with_extension("fresh"),
    )
}

/// Ends what a crash cut off, and makes the folder if there is none. One that has the name is complete;
/// when there is none, the old one is.
pub(super) fn settle(folder: &Path) -> Result<(), StoreError> {
    let (old, new) = beside(folder);
    if !folder.exists() && old.exists() {
        tracing::warn!(folder = %folder.display(), "making the index anew was cut off");
        rename(&old, folder)?;
    }
    remove(&old)?;
    remove(&new)?;
    if !folder.exists() {
        fs::create_dir(folder).map_err(|error| StoreError::io("create", folder, error))?;
        sync_parent(folder)?;
    }
    Ok(())
}

impl Index {
    /// Makes it anew when most of its files is not alive. A full disk is no reason to stop here.
    pub(crate) fn make_anew_if_large(&self) -> Result<(), StoreError> {
        let (before, live) = (self.bytes(), self.sum.lock().bytes);
        if before
            <= self
                .floor_bytes
                .saturating_add(live.saturating_mul(LIVE_TIMES))
        {
            return Ok(());
        }
        match self.make_anew(Form::Summed) {
            Ok(()) => {
                let after = self.bytes();
                tracing::info!(before, after, live, "the index was made anew");
                Ok(())
            }
            Err(StoreError::Full { path }) => {
                tracing::warn!(path, "there is no room to make the index anew");
                remove(&beside(&self.folder).1)
            }
            Err(error) => Err(error),
        }
    }

    /// Copies what lives to a fresh folder, which takes the place of this one.
    pub(super) fn make_anew(&self, form: Form) -> Result<(), StoreError> {
        let mut kept = self.sum.lock();
        let (old, new) = beside(&self.folder);
        remove(&new)?;
        let fresh = open_sled(&new, &self.folder)?;
        let sum = self.copy_to(&fresh, form)?;
        if form == Form::Summed && sum != *kept {
            return Err(StoreError::index_damaged(
                &self.folder,
                "some of what it held is not there any more",
            ));
        }
        fresh.call(|db| db.flush().map(drop))?;
        sync_folder(&new)?;
        rename(&self.folder, &old)?;
        rename(&new, &self.folder)?;
        *self.db.write() = Arc::new(fresh);
        *kept = sum;
        remove(&old)
    }

    /// Copies every value, and answers what they add up to.
    fn copy_to(&self, fresh: &super::guard::Sled, form: Form) -> Result<Sum, StoreError> {
        let mut sum = Sum::default();
        let mut batch = Batch::default();
        let mut changes = 0;
        for item in self.db().items(|db| db.iter())? {
            let (key, value) = item?;
            if key == keys::SUM {
                continue;
            }
            let sealed = match form {
                Form::Summed => sum::open(&key, &value).map(|_| value.to_vec()),
                Form::Unsummed => seal_unsummed(&key, &value),
            };
            let sealed = sealed.map_err(|error| self.damaged("a value", error))?;
            sum.add(&key, &sealed);
            batch.insert(key, sealed);
            changes += 1;
            if changes == BATCH_CHANGES {
                let full = std::mem::take(&mut batch);
                fresh.call(|db| db.apply_batch(full))?;
                changes = 0;
            }
        }
        batch.insert(keys::SUM, sum.encode(keys::SUM));
        fresh.call(|db| db.apply_batch(batch))?;
        Ok(sum)
    }
}

/// A value of the first version as it is written now.
fn seal_unsummed(key: &[u8], value: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut sealed = if key == keys::META {
        encode_meta(decode_meta(value, META_VERSION_UNSUMMED)?, META_VERSION)
    } else {
        value.to_vec()
    };
    sum::seal(key, &mut sealed);
    Ok(sealed)
}

/// Gives a folder another name, durably.
fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(|error| StoreError::io("rename", from, error))?;
    sync_parent(to)
}

/// Removes a folder with what is in it, if it is there.
fn remove(folder: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(folder) {
        Ok(()) => sync_parent(folder),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StoreError::io("drop", folder, error)),
    }
}

fn sync_parent(path: &Path) -> Result<(), StoreError> {
    match path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        Some(parent) => sync_folder(parent),
        None => File::open(".")
            .and_then(|folder| folder.sync_all())
            .map_err(|error| StoreError::io("sync", path, error)),
    }
}
