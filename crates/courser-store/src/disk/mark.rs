//! `DAMAGED`: where a running broker met damage. A start does not go through all older segments, so without
//! it a broker would start, and stop again at the same message.
//!
//! ```text
//! 00000000000000000001.seg              a file of the log
//! 4711                                  where in it
//! the checksum of message 7 is wrong    for people
//! ```

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

use super::folder::read_start;
use crate::{
    StoreError,
    log::{Log, sync_folder},
};

pub(super) const DAMAGED: &str = "DAMAGED";
/// More than one that was written whole ever has.
const BYTES_READ: u64 = 1024;

/// Notes damage of the log; the first stays. Where it cannot be written, the damage is found again as it was
/// this time.
pub(super) fn set(folder: &Path, error: &StoreError) {
    let StoreError::Damaged { path, offset, why } = error else {
        return;
    };
    let Some(file) = Path::new(path).file_name() else {
        return;
    };
    let text = format!("{}\n{offset}\n{why}\n", file.display());
    let path = folder.join(DAMAGED);
    if path.exists() {
        return;
    }
    let written = File::create_new(&path)
        .and_then(|mut mark| {
            mark.write_all(text.as_bytes())?;
            mark.sync_all()
        })
        .map_err(|error| StoreError::io("write", &path, error))
        .and_then(|()| sync_folder(folder));
    if let Err(error) = written {
        tracing::warn!(%error, "the next start does not know of the damage");
    }
}

/// Looks again at what was noted: damage that is still there refuses the start, before anything is changed. A
/// note of what is well, for the folder came from a backup, goes; one that cannot be read or removed stops nothing.
pub(super) fn check(folder: &Path, log: &Log) -> Result<(), StoreError> {
    let path = folder.join(DAMAGED);
    let text = match read_start(&path, BYTES_READ) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(%error, "{DAMAGED} cannot be read: nobody looks again at what it names");
            }
            return Ok(());
        }
    };
    if let Some((file, offset)) = parse(&text) {
        log.check_place(file, offset).map_err(name_the_note)?;
    }
    tracing::info!(place = ?text.trim_end(), "what {DAMAGED} names is well: it is removed");
    if let Err(error) = fs::remove_file(&path) {
        tracing::warn!(%error, "{DAMAGED} cannot be removed");
    }
    Ok(())
}

fn name_the_note(error: StoreError) -> StoreError {
    match error {
        StoreError::Damaged { path, offset, why } => StoreError::Damaged {
            path,
            offset,
            why: format!("{why}, as {DAMAGED} says"),
        },
        other => other,
    }
}

/// A file of the log, and where in it.
pub(crate) fn parse(text: &str) -> Option<(&str, u64)> {
    let (file, rest) = text.split_once('\n')?;
    let (offset, _) = rest.split_once('\n')?;
    Some((file, offset.parse().ok()?))
}
