//! The data folder, opened for reading.

use std::{
    fs::{self, File},
    io::{self, Write as _},
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

/// What the copy of the index is called in its folder.
const COPY: &str = "index";
/// Bytes of it read at once.
const COPY_BYTES: usize = 1024 * 1024;

/// A folder that nobody changes while this lives.
pub(super) struct Folder {
    pub(super) log: PathBuf,
    pub(super) index_path: PathBuf,
    /// By first frame number; without those that could not be opened.
    pub(super) segments: Vec<Arc<Segment>>,
    pub(super) spares: u64,
    /// A segment could not be opened.
    pub(super) lacks_segments: bool,
    /// First frame of the last one that could not be opened, as its name says.
    last_unopened: Option<u64>,
    /// A segment was opened by what its frames say. Whether it was rewritten nobody knows.
    has_headless: bool,
    /// `None` when there is none, or it cannot be opened.
    pub(super) index: Option<Index>,
    /// The index was opened, or there is none and none is needed.
    pub(super) index_opened: bool,
    /// Goes after the index.
    copy: Option<TempDir>,
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
            lacks_segments: false,
            last_unopened: None,
            has_headless: false,
            index: None,
            index_opened: false,
            copy: None,
            _lock: lock,
        };
        folder.open_segments(findings)?;
        let holds = "the whole index";
        let copy = match copy_index(root) {
            Ok(copy) => folder.copy.insert(copy).path().join(COPY),
            // The log may have all that is in it, or most.
            Err(CopyError::Unreadable(error)) => {
                folder.tell_index(findings, holds, &reason(&error));
                return Ok(folder);
            }
            Err(CopyError::Failed(error)) => return Err(error),
        };
        match Index::open_copy(&copy) {
            Ok(index) => {
                folder.index = Some(index);
                folder.index_opened = true;
            }
            // A disk without room for the copy says nothing of the folder.
            Err(error @ StoreError::Full { .. }) => return Err(error),
            Err(error) => folder.tell_index(findings, holds, &reason(&error)),
        }
        Ok(folder)
    }

    /// Opens the copy of the index once more.
    pub(super) fn reopen_index(&mut self) {
        // First, as sled opens a folder once.
        self.index = None;
        let copy = self.copy.as_ref().map(|copy| copy.path().join(COPY));
        self.index = copy.and_then(|copy| Index::open_copy(&copy).ok());
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
                Some("seg") => self.open_segment(&path, findings),
                Some("spare") => self.spares += 1,
                _ => {}
            }
        }
        self.segments.sort_by_key(|segment| segment.header.frame);
        Ok(())
    }

    /// Opens a segment. One whose header is damaged is read by what its frames say of it.
    fn open_segment(&mut self, path: &Path, findings: &mut Findings) {
        let Some(frame) = segment::number(path) else {
            findings.log(path, 0, "a segment", "no segment has such a name");
            self.lacks_segments = true;
            return;
        };
        let segment = match Segment::open_to_read(path.to_owned(), frame) {
            Ok(segment) => Some(segment),
            Err(error) => {
                findings.error(path, "the header of a segment", &error);
                self.has_headless = true;
                let segment = Segment::open_by_frames(path.to_owned(), frame);
                segment.ok().flatten()
            }
        };
        if segment.is_none() {
            self.lacks_segments = true;
            self.last_unopened = self.last_unopened.max(Some(frame));
        }
        self.segments.extend(segment.map(Arc::new));
    }

    /// Whether this is the last segment there is: one that cannot be opened is there, too.
    pub(super) fn is_last(&self, segment: &Segment) -> bool {
        let opened = self.segments.last().map(|last| last.header.frame);
        opened.max(self.last_unopened) == Some(segment.header.frame)
    }

    /// Whether the log still begins with its first frame, and no segment lost records to a rewrite.
    /// Whether segments between are gone says the survey.
    pub(super) fn log_is_whole(&self) -> bool {
        let first = self.segments.first().map(|segment| segment.header.frame);
        let is_rewritten = |segment: &Arc<Segment>| segment.header.weight.is_some();
        first == Some(1) && !self.has_headless && !self.segments.iter().any(is_rewritten)
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

/// Why there is no copy of the index.
enum CopyError {
    /// The index cannot be read.
    Unreadable(StoreError),
    /// The copy cannot be written.
    Failed(StoreError),
}

impl CopyError {
    fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> Self {
        |error| Self::Unreadable(StoreError::io("read", path, error))
    }

    fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Failed(StoreError::io(action, path, error))
    }
}

/// A copy of the index that sled may write to, as [`COPY`] in a folder of its own.
fn copy_index(root: &Path) -> Result<TempDir, CopyError> {
    let copy = tempfile::Builder::new()
        .prefix("courser-index-")
        .tempdir()
        .map_err(CopyError::failed(
            "create a copy of the index in",
            &std::env::temp_dir(),
        ))?;
    // As the next start finds it: one that was being made anew steps back.
    let (index, replaced) = (root.join("index"), root.join("index.replaced"));
    let from = if !index.exists() && replaced.exists() {
        replaced
    } else {
        index
    };
    let to = copy.path().join(COPY);
    fs::create_dir(&to).map_err(CopyError::failed("create", &to))?;
    if from.exists() {
        copy_folder(&from, &to)?;
    }
    Ok(copy)
}

fn copy_folder(from: &Path, to: &Path) -> Result<(), CopyError> {
    for entry in fs::read_dir(from).map_err(CopyError::unreadable(from))? {
        let entry = entry.map_err(CopyError::unreadable(from))?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().map_err(CopyError::unreadable(&from))?;
        if kind.is_dir() {
            fs::create_dir(&to).map_err(CopyError::failed("create", &to))?;
            copy_folder(&from, &to)?;
        } else if kind.is_file() {
            let mut file = File::open(&from).map_err(CopyError::unreadable(&from))?;
            copy_file(&mut file, &from, &to)?;
        }
    }
    Ok(())
}

/// Not `fs::copy`, which does not say on which side it failed.
fn copy_file(file: &mut impl io::Read, from: &Path, to: &Path) -> Result<(), CopyError> {
    let mut copy = File::create(to).map_err(CopyError::failed("create", to))?;
    let mut bytes = vec![0; COPY_BYTES];
    loop {
        let read = match file.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(CopyError::unreadable(from)(error)),
        };
        copy.write_all(&bytes[..read])
            .map_err(CopyError::failed("write", to))?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with a bad sector behind its first bytes.
    struct BadDisk(usize);

    impl io::Read for BadDisk {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            match std::mem::take(&mut self.0) {
                0 => Err(io::Error::from_raw_os_error(5)),
                bytes => Ok(bytes.min(out.len())),
            }
        }
    }

    #[test]
    fn what_cannot_be_read_is_told_from_what_cannot_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (Path::new("index/db"), folder.path().join("db"));
        let copied = copy_file(&mut BadDisk(4096), from, &to);
        assert!(matches!(copied, Err(CopyError::Unreadable(_))));
        let copied = copy_file(&mut BadDisk(4096), from, &to.join("deeper"));
        assert!(matches!(copied, Err(CopyError::Failed(_))));
    }
}
