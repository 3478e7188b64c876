//! A data folder looked at while no broker runs, without a change to it: is it what was written
//! there, and what can still be read?
//!
//! ```text
//!   folder.rs    LOCK, FORMAT, the segments for reading, the index as a copy
//!   end.rs       where the next start cuts the log
//!   survey.rs    every frame, message and record of the log, every value of the index
//!      |   \
//!      |    living.rs    which entries live, by the index and the records after it
//!   verify.rs    all that is wrong, and what it means
//!   salvage.rs   the messages that can be read, one by one
//! ```
//!
//! sled writes when it opens, and what it writes over damage is nobody's to tell. So it is given a
//! copy of `index/` in the folder for temporary files (`TMPDIR`), which goes afterwards.

mod end;
mod folder;
mod living;
mod places;
mod salvage;
mod survey;
mod verify;

use std::path::{Path, PathBuf};

pub use self::{
    salvage::{Salvaged, Saved, Take, salvage},
    verify::{LogFigures, QueueFigures, Verified, verify},
};
use crate::StoreError;

/// Damages that are told one by one; all of them are counted.
const DAMAGES_TOLD: usize = 100;
/// What helps when a file of the log is damaged.
const RESTORE: &str =
    "restore the data folder from a backup, or get out what can be read with `courser salvage`";

/// One place that is not what was written there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Which file, or which folder where it is not known more closely.
    pub path: PathBuf,
    /// Where in it, if that is known.
    pub offset: Option<u64>,
    /// What stands there, or should.
    pub holds: String,
    /// What is wrong.
    pub why: String,
    /// What to do.
    pub remedy: String,
}

/// The end of the log that a crash left: the next start cuts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// Which file.
    pub path: PathBuf,
    /// From where on.
    pub offset: u64,
    /// Bytes that are cut.
    pub bytes: u64,
    /// The frame that should stand there.
    pub frame: u64,
}

/// Damages as they are found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    told: Vec<Damage>,
    count: u64,
}

impl Findings {
    fn add(&mut self, damage: Damage) {
        self.count += 1;
        if self.told.len() < DAMAGES_TOLD {
            self.told.push(damage);
        }
    }

    /// What was told of the index does not say any more that it can be made anew from the log.
    fn make_nothing_anew(&mut self, index: &Path) {
        for damage in self.told.iter_mut().filter(|damage| damage.path == index) {
            damage.remedy = crate::remedy(false).to_owned();
        }
    }

    /// Damage of the log, or around it.
    fn log(&mut self, path: &Path, offset: u64, holds: impl Into<String>, why: impl Into<String>) {
        self.add(Damage {
            path: path.to_owned(),
            offset: Some(offset),
            holds: holds.into(),
            why: why.into(),
            remedy: RESTORE.to_owned(),
        });
    }

    /// Something that could not be opened or read.
    fn error(&mut self, path: &Path, holds: &str, error: &StoreError) {
        let (offset, why) = match error {
            StoreError::Damaged { offset, why, .. } => (Some(*offset), why.clone()),
            StoreError::IndexDamaged { why, .. } => (None, why.clone()),
            other => (None, other.to_string()),
        };
        self.add(Damage {
            path: path.to_owned(),
            offset,
            holds: holds.to_owned(),
            why,
            remedy: RESTORE.to_owned(),
        });
    }
}
