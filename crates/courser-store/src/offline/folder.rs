//! The data folder, opened for reading.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use fs4::{FileExt, TryLockError};
use tempfile::TempDir;

use super::{Damage, Findings};
use crate::{
    StoreError,
    disk::{FORMAT, FORMAT_TEXT, LOCK, read_format_bytes},
    index::Index,
    log::segment::{self, Segment},
};

/// A folder that nobody changes while this lives.
pub(super) struct Folder {
    pub(super) log: PathBuf,
    pub(super) index_path: PathBuf,
    /// By first frame number; without those that could not be opened.
    pub(super) segments: Vec<Arc<Segment>>,
    pub(super) spares: u64,
    /// `None` when there is none, or it cannot be opened.
    pub(super) index: Option<Index>,
    /// The index was opened, or there is none and none is needed.
    pub(super) index_opened: bool,
    /// Goes after the index.
    _copy: Option<TempDir>,
    _lock: Option<File>,
}

impl Folder {
    /// Opens all that can be opened; the rest is told.
    pub(super) fn open(root: &Path, findings: &mut Findings) -> Result<Self, StoreError> {
        let (log, index_path) = (root.join("log"), root.join("index"));
        if !root.is_dir() {
            return Err(foreign(root, "there is no such folder".to_owned()));
        }
        let lock = lock(root)?;
        let is_ours = check_format(root, findings)?;
        if !is_ours && !log.is_dir() {
            let why = "it holds neither a FORMAT nor a log".to_owned();
            return Err(foreign(root, why));
        }
        let mut folder = Self {
            log,
            index_path,
            segments: Vec::new(),
            spares: 0,
            index: None,
            index_opened: false,
            _copy: None,
            _lock: lock,
        };
        folder.open_segments(findings)?;
        let copy = copy_index(root)?;
        match Index::open_copy(&copy.path().join("index")) {
            Ok(index) => {
                folder.index = Some(index);
                folder.index_opened = true;
            }
            // A disk without room for the copy says nothing of the folder.
            Err(error @ StoreError::Full { .. }) => return Err(error),
            Err(error) => folder.tell_index(findings, "the whole index", &reason(&error)),
        }
        folder._copy = Some(copy);
        Ok(folder)
    }

    fn open_segments(&mut self, findings: &mut Findings) -> Result<(), StoreError> {
        let entries = match fs::read_dir(&self.log) {
            Ok(entries) => entries,
            // A first start that was cut off.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(StoreError::io("read", &self.log, error)),
        };
        for entry in entries {
            let path = entry
                .map_err(|error| StoreError::io("read", &self.log, error))?
                .path();
            match path.extension().and_then(|ending| ending.to_str()) {
                Some("seg") => self.segments.extend(open_segment(&path, findings)),
                Some("spare") => self.spares += 1,
                _ => {}
            }
        }
        self.segments.sort_by_key(|segment| segment.header.frame);
        Ok(())
    }

    /// Whether the log still begins with its first frame, and no segment lost records to a rewrite.
    pub(super) fn log_is_whole(&self) -> bool {
        let first = self.segments.first().map(|segment| segment.header.frame);
        first == Some(1) && self.segments.iter().all(|s| s.header.weight.is_none())
    }

    /// Damage of the index. sled does not say where in its file.
    pub(super) fn tell_index(&self, findings: &mut Findings, holds: &str, why: &str) {
        findings.add(Damage {
            path: self.index_path.clone(),
            offset: None,
            holds: holds.to_owned(),
            why: why.to_owned(),
            remedy: crate::remedy(self.log_is_whole()).to_owned(),
        });
    }
}

fn foreign(root: &Path, why: String) -> StoreError {
    StoreError::Foreign {
        path: root.display().to_string(),
        why,
    }
}

/// Why, without the name of the copy.
pub(super) fn reason(error: &StoreError) -> String {
    match error {
        StoreError::IndexDamaged { why, .. } | StoreError::Damaged { why, .. } => why.clone(),
        StoreError::Io { action, source, .. } => format!("cannot {action} it: {source}"),
        other => other.to_string(),
    }
}

/// Keeps brokers away; those who only look do not disturb each other.
fn lock(root: &Path) -> Result<Option<File>, StoreError> {
    let path = root.join(LOCK);
    let file = match File::open(&path) {
        Ok(file) => file,
        // No broker ran here since it was made or copied. One that starts now is not kept away.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io("open", &path, error)),
    };
    match FileExt::try_lock_shared(&file) {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse {
            path: root.display().to_string(),
        }),
        Err(TryLockError::Error(error)) => Err(StoreError::io("lock", &path, error)),
    }
}

/// Whether there is a FORMAT at all.
fn check_format(root: &Path, findings: &mut Findings) -> Result<bool, StoreError> {
    let path = root.join(FORMAT);
    let why = match read_format_bytes(&path) {
        Ok(text) if text == FORMAT_TEXT.as_bytes() => return Ok(true),
        Ok(text) => {
            let first = String::from_utf8_lossy(&text[..text.len().min(64)]).into_owned();
            format!("it says {first:?}")
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => "it is not there".to_owned(),
        Err(error) => return Err(StoreError::io("read", &path, error)),
    };
    let is_there = path.exists();
    if is_there || root.join("log").is_dir() {
        findings.add(Damage {
            path,
            offset: Some(0),
            holds: "which version of the layout the folder has".to_owned(),
            why,
            remedy: crate::disk::FORMAT_REMEDY.to_owned(),
        });
    }
    Ok(is_there)
}

/// Opens a segment. One whose header is damaged is read by what its frames say of it.
fn open_segment(path: &Path, findings: &mut Findings) -> Option<Arc<Segment>> {
    let holds = "the header of a segment";
    let Some(frame) = segment::number(path) else {
        findings.log(path, 0, "a segment", "no segment has such a name");
        return None;
    };
    match Segment::open_to_read(path.to_owned(), frame) {
        Ok(segment) => Some(Arc::new(segment)),
        Err(error) => {
            findings.error(path, holds, &error);
            let segment = Segment::open_by_frames(path.to_owned(), frame);
            segment.ok().flatten().map(Arc::new)
        }
    }
}

/// A copy of the index that sled may write to.
fn copy_index(root: &Path) -> Result<TempDir, StoreError> {
    let temporary = std::env::temp_dir();
    let copy = tempfile::Builder::new()
        .prefix("courser-index-")
        .tempdir()
        .map_err(|error| StoreError::io("create a copy of the index in", &temporary, error))?;
    // As the next start finds it: one that was being made anew steps back.
    let (index, replaced) = (root.join("index"), root.join("index.replaced"));
    let from = if !index.exists() && replaced.exists() {
        replaced
    } else {
        index
    };
    let to = copy.path().join("index");
    fs::create_dir(&to).map_err(|error| StoreError::io("create", &to, error))?;
    if from.exists() {
        copy_folder(&from, &to)?;
    }
    Ok(copy)
}

fn copy_folder(from: &Path, to: &Path) -> Result<(), StoreError> {
    let entries = fs::read_dir(from).map_err(|error| StoreError::io("read", from, error))?;
    for entry in entries {
        let entry = entry.map_err(|error| StoreError::io("read", from, error))?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let kind = entry
            .file_type()
            .map_err(|error| StoreError::io("read", &from, error))?;
        if kind.is_dir() {
            fs::create_dir(&to).map_err(|error| StoreError::io("create", &to, error))?;
            copy_folder(&from, &to)?;
        } else if kind.is_file() {
            fs::copy(&from, &to).map_err(|error| StoreError::io("copy", &from, error))?;
        }
    }
    Ok(())
}
