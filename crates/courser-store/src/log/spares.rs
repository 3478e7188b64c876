//! Files that wait to become segments.
//!
//! Writing to blocks that were written before lets a sync skip the file's metadata, which makes it
//! two to three times as fast. So a file is filled with zeros in the background, ahead of the writer,
//! and one in which nothing lives any more is kept. How many: as many as were started between two looks,
//! as they will be needed again; one when none was, but the segment in use is soon full; otherwise none,
//! so that a log at rest takes one file. None at all when the disk has little room.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::{Log, segment::Segment, sync_folder};
use crate::StoreError;

/// Spare files at most: half a gigabyte in segments of the usual size.
const SPARES_MAX: usize = 8;
/// Bytes written or given back at once, and bytes between two syncs: a commit meanwhile waits for few others.
const STEP_BYTES: usize = 1024 * 1024;
pub(super) const SYNC_BYTES: u64 = 4 * 1024 * 1024;

/// Segments started between two looks before the log counts as loaded.
const STARTED_QUIETLY: usize = 2;
/// Looks ahead for which the segment in use must have room, at the pace since the last one.
const LOOKS_AHEAD: u64 = 8;

#[derive(Debug, Default)]
pub(crate) struct Spares {
    files: Vec<PathBuf>,
    /// Makes names that were not used.
    next_name: u64,
    /// Segments started since the last look, and between the two before.
    started: usize,
    started_before: usize,
    /// Bytes that had been appended at the last look.
    appended: u64,
    /// The next segment is started before long.
    soon: bool,
    /// The disk has no room for any.
    is_forbidden: bool,
}

impl Spares {
    /// A spare file was found at open.
    pub(crate) fn found(&mut self, path: PathBuf, segment_bytes: u64) -> Result<(), StoreError> {
        let metadata = fs::metadata(&path).map_err(|error| StoreError::io("open", &path, error))?;
        if metadata.len() == segment_bytes && self.files.len() < SPARES_MAX {
            let name = path.file_stem().and_then(|name| name.to_str());
            let number = name.and_then(|name| name.parse::<u64>().ok()).unwrap_or(0);
            self.next_name = self.next_name.max(number.saturating_add(1));
            self.files.push(path);
            return Ok(());
        }
        fs::remove_file(&path).map_err(|error| StoreError::io("drop", &path, error))
    }

    pub(crate) fn count(&self) -> usize {
        self.files.len()
    }

    pub(crate) fn take(&mut self) -> Option<PathBuf> {
        self.files.pop()
    }

    /// One beyond those that are wanted.
    fn take_surplus(&mut self) -> Option<PathBuf> {
        (self.count() > self.wanted())
            .then(|| self.take())
            .flatten()
    }

    pub(crate) fn note_start(&mut self) {
        self.started += 1;
    }

    /// Takes in how much was appended in all, and how much room the segment in use has.
    fn look(&mut self, appended: u64, room: u64) {
        self.started_before = std::mem::take(&mut self.started);
        let pace = appended - std::mem::replace(&mut self.appended, appended);
        self.soon = room < pace.saturating_mul(LOOKS_AHEAD);
    }

    /// Whether one should be filled with zeros. Under load it should not: that would write every byte
    /// twice, and the next checkpoint will set files free.
    fn is_wanted(&self) -> bool {
        self.files.is_empty() && self.wanted() > 0 && self.started_before <= STARTED_QUIETLY
    }

    fn wanted(&self) -> usize {
        if self.is_forbidden {
            return 0;
        }
        let started = self.started.max(self.started_before);
        started.max(usize::from(self.soon)).min(SPARES_MAX)
    }

    /// The path of one spare more; `None` when there are enough.
    fn room(&mut self, folder: &Path) -> Option<PathBuf> {
        (self.files.len() < self.wanted()).then(|| self.new_name(folder))
    }

    fn new_name(&mut self, folder: &Path) -> PathBuf {
        self.next_name += 1;
        folder.join(format!("{}.spare", self.next_name))
    }
}

impl Log {
    /// Says whether the disk has room for spare files; drops all of them when it has none.
    pub(crate) fn allow_spares(&self, are_allowed: bool) -> Result<(), StoreError> {
        self.spares.lock().is_forbidden = !are_allowed;
        if are_allowed {
            return Ok(());
        }
        self.drop_surplus()
    }

    /// Looks at how fast the log grows, and drops spare files beyond those that are wanted.
    pub(crate) fn trim_spares(&self) -> Result<(), StoreError> {
        let (appended, room) = self.pace();
        self.spares.lock().look(appended, room);
        self.drop_surplus()
    }

    /// The disk is full: whatever waits for reuse goes, and so does what is just being prepared. Answers whether that
    /// made room. None is made until [`allow_spares`](Self::allow_spares) says so again.
    pub(crate) fn give_up_spares(&self) -> bool {
        self.spares.lock().is_forbidden = true;
        // Whoever prepares one hears of that at the next step.
        let mut has_made_room = std::mem::take(&mut *self.room_made.lock());
        has_made_room |= self.remove_spares();
        if has_made_room {
            tracing::warn!("the disk is full, spare files of the log were given up");
        }
        has_made_room
    }

    /// Removes all of them at once, which holds up whoever writes; answers whether there was one.
    pub(super) fn remove_spares(&self) -> bool {
        let files = std::mem::take(&mut self.spares.lock().files);
        let mut is_any_removed = false;
        for path in files {
            is_any_removed |= fs::remove_file(&path).is_ok();
        }
        is_any_removed
    }

    fn drop_surplus(&self) -> Result<(), StoreError> {
        loop {
            // The writer may want one meanwhile.
            let Some(path) = self.spares.lock().take_surplus() else {
                return Ok(());
            };
            self.remove_in_steps(&path)?;
        }
    }

    /// Drops the file of a segment that is off the list.
    pub(crate) fn discard(&self, segment: &Segment) -> Result<(), StoreError> {
        let path = self.spares.lock().new_name(&self.folder);
        fs::rename(&segment.path, &path).map_err(|error| segment.io("rename", error))?;
        // Shorter than it was, it must not be found as a segment after a power cut.
        sync_folder(&self.folder)?;
        self.remove_in_steps(&path)
    }

    fn remove_in_steps(&self, path: &Path) -> Result<(), StoreError> {
        let mut room_made = self.room_made.lock();
        remove_in_steps(path).map_err(|error| StoreError::io("drop", path, error))?;
        *room_made = true;
        Ok(())
    }

    /// Makes a spare file if there is none, one is wanted and the log is in use. A full disk is no reason to stop
    /// here: there is no spare then, and the writer finds out when it has to.
    pub(crate) fn prepare_spare(&self) -> Result<(), StoreError> {
        let is_wanted = self.spares.lock().is_wanted();
        if !is_wanted || !self.is_busy() {
            return Ok(());
        }
        let path = self.folder.join("spare.tmp");
        let mut room_made = self.room_made.lock();
        let goes_on = || !self.spares.lock().is_forbidden;
        if let Err(error) = write_zeros(&path, self.segment_bytes, goes_on) {
            tracing::warn!(path = %path.display(), %error, "cannot prepare a segment");
            *room_made = fs::remove_file(&path).is_ok();
            return Ok(());
        }
        let mut spares = self.spares.lock();
        let spare = spares.new_name(&self.folder);
        fs::rename(&path, &spare).map_err(|error| StoreError::io("rename", &path, error))?;
        sync_folder(&self.folder)?;
        spares.files.push(spare);
        Ok(())
    }

    /// Keeps the file of a segment in which nothing lives for reuse. `false` when there are enough, or
    /// it is far from the usual size; one that was not prepared lacks a few bytes, which are added.
    pub(crate) fn keep(&self, segment: &Segment) -> Result<bool, StoreError> {
        let (bytes, length) = (self.segment_bytes, segment.length());
        if segment.header.weight.is_some() || length > bytes || length < bytes - bytes / 4 {
            return Ok(false);
        }
        let Some(spare) = self.spares.lock().room(&self.folder) else {
            return Ok(false);
        };
        fs::rename(&segment.path, &spare).map_err(|error| segment.io("rename", error))?;
        let zeros = vec![0; usize::try_from(bytes - length).unwrap_or_default()];
        let filled = segment
            .file
            .write_all_at(&zeros, length)
            .and_then(|()| segment.file.sync_all());
        match filled {
            Ok(()) => self.spares.lock().files.push(spare),
            Err(error) => {
                tracing::warn!(path = %spare.display(), %error, "cannot reuse a segment");
                fs::remove_file(&spare).map_err(|error| StoreError::io("drop", &spare, error))?;
            }
        }
        Ok(true)
    }

    /// Bytes of files that wait to become segments.
    pub(crate) fn spare_bytes(&self) -> u64 {
        self.spares.lock().count() as u64 * self.segment_bytes
    }
}

/// Gives a file back bit by bit. The file system takes its blocks back in one transaction for each step, and
/// on some disks tells the disk of them; all at once that holds up whoever writes to the log for 10 to 20 ms.
fn remove_in_steps(path: &Path) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    let mut left = file.metadata()?.len();
    while left > 0 {
        left = left.saturating_sub(STEP_BYTES as u64);
        file.set_len(left)?;
    }
    fs::remove_file(path)
}

fn write_zeros(path: &Path, bytes: u64, goes_on: impl Fn() -> bool) -> io::Result<()> {
    let mut file = File::create(path)?;
    let zeros = vec![0; STEP_BYTES.min(usize::try_from(bytes).unwrap_or(STEP_BYTES))];
    let (mut left, mut unsynced) = (bytes, 0);
    while left > 0 {
        if !goes_on() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let step = left.min(zeros.len() as u64);
        file.write_all(&zeros[..step as usize])?;
        left -= step;
        unsynced += step;
        if unsynced >= SYNC_BYTES {
            file.sync_data()?;
            unsynced = 0;
        }
    }
    file.sync_all()
}
