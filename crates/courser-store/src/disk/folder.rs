//! The data folder: whether it is ours, and ours alone.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::Path,
};

use fs4::{FileExt, TryLockError};

use super::mark::DAMAGED;
use crate::{StoreError, log::sync_folder};

pub(crate) const LOCK: &str = "LOCK";
pub(crate) const FORMAT: &str = "FORMAT";
const FORMAT_DRAFT: &str = "FORMAT.tmp";
pub(crate) const FORMAT_TEXT: &str = "courser data folder\nversion 1\n";
/// What helps when that is not what it says.
pub(crate) const FORMAT_REMEDY: &str = "if it was written by this version of Courser, write the two lines \
     `courser data folder` and `version 1` into it; otherwise name another folder, or start the \
     version that wrote it";
/// Bytes read of a FORMAT: enough for two lines of a later version.
const FORMAT_BYTES_READ: u64 = 128;
/// What may lie in a folder that is not ours yet: a first start that was cut off, what stays behind when a damaged
/// one is moved away, and the folder that a new file system has.
const MAY_LIE_THERE: [&str; 4] = [LOCK, FORMAT_DRAFT, DAMAGED, "lost+found"];

/// Makes the folder if it is not there, checks that it is ours, and holds it until the file is
/// dropped.
pub(crate) fn take(folder: &Path) -> Result<File, StoreError> {
    make(folder)?;
    let format = folder.join(FORMAT);
    if !exists(&format)? {
        check_is_empty(folder)?;
    }
    let lock = lock(folder)?;
    match read_format(&format) {
        Ok(text) if text == FORMAT_TEXT => {}
        Ok(text) => {
            let first = text.lines().take(2).collect::<Vec<_>>().join(", ");
            let why = format!("its FORMAT says {first:?}; {FORMAT_REMEDY}");
            return Err(foreign(folder, why));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => write_format(folder)?,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            let why = format!("its FORMAT is not a text; {FORMAT_REMEDY}");
            return Err(foreign(folder, why));
        }
        Err(error) => return Err(StoreError::io("read", &format, error)),
    }
    Ok(lock)
}

/// Reads as much of a FORMAT as is needed to know whether it is ours.
pub(crate) fn read_format_bytes(path: &Path) -> io::Result<Vec<u8>> {
    read_start(path, FORMAT_BYTES_READ)
}

/// Reads a small file, and of one that is not small only so many bytes.
pub(super) fn read_start(path: &Path, bytes: u64) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    File::open(path)?.take(bytes).read_to_end(&mut start)?;
    Ok(start)
}

fn read_format(path: &Path) -> io::Result<String> {
    let bytes = read_format_bytes(path)?;
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Makes a folder if it is not there, with those above it, and gives back its path. The name of each is
/// durable: a power cut takes a folder with everything in it otherwise.
pub(super) fn make(folder: &Path) -> Result<std::path::PathBuf, StoreError> {
    if !exists(folder)? {
        let parent = match folder.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => Path::new("/"),
        };
        make(parent)?;
        match fs::create_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(StoreError::io("create", folder, error));
            }
            _ => sync_folder(parent)?,
        }
    }
    Ok(folder.to_owned())
}

fn exists(path: &Path) -> Result<bool, StoreError> {
    path.try_exists()
        .map_err(|error| StoreError::io("open", path, error))
}

fn foreign(folder: &Path, why: String) -> StoreError {
    StoreError::Foreign {
        path: folder.display().to_string(),
        why,
    }
}

fn check_is_empty(folder: &Path) -> Result<(), StoreError> {
    let entries = fs::read_dir(folder).map_err(|error| StoreError::io("read", folder, error))?;
    for entry in entries {
        let entry = entry.map_err(|error| StoreError::io("read", folder, error))?;
        let name = entry.file_name();
        if !MAY_LIE_THERE.iter().any(|may| name == *may) {
            let why = format!("it has no FORMAT, but it holds {}", name.display());
            return Err(foreign(folder, why));
        }
    }
    Ok(())
}

fn lock(folder: &Path) -> Result<File, StoreError> {
    let path = folder.join(LOCK);
    let file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|error| StoreError::io("open", &path, error))?;
    match FileExt::try_lock(&file) {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse {
            path: folder.display().to_string(),
        }),
        Err(TryLockError::Error(error)) => Err(StoreError::io("lock", &path, error)),
    }
}

/// Written last in a new folder and in one piece: a folder with it is complete.
fn write_format(folder: &Path) -> Result<(), StoreError> {
    let draft = folder.join(FORMAT_DRAFT);
    File::create(&draft)
        .and_then(|mut file| {
            file.write_all(FORMAT_TEXT.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&draft, folder.join(FORMAT)))
        .map_err(|error| StoreError::io("write", &draft, error))?;
    sync_folder(folder)
}
