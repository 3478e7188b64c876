//! Which file descriptors are files of the data folder.

use std::{
    ffi::{CStr, c_int},
    mem::MaybeUninit,
    sync::{
        OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use crate::{
    control,
    raw::{call, setting},
};

/// Descriptors beyond are not followed: files of the store are opened before there are so many.
const DESCRIPTORS: usize = 16_384;

/// A part of the data folder, as a bit.
pub(crate) type Class = u64;
pub(crate) const ROOT: Class = 1;
pub(crate) const LOG: Class = 2;
pub(crate) const INDEX: Class = 4;
/// Added to the part when a folder is synced.
pub(crate) const FOLDER: Class = 8;
/// Added for a segment of the log that is being rewritten.
pub(crate) const DRAFT: Class = 16;

const APPEND: u32 = 1 << 16;

/// An open file of the data folder.
#[derive(Clone, Copy)]
pub(crate) struct File {
    pub(crate) inode: u64,
    pub(crate) class: Class,
    pub(crate) append: bool,
}

struct Slot {
    /// 0 is none of ours; else the class and flags.
    about: AtomicU32,
    inode: AtomicU64,
}

static SLOTS: [Slot; DESCRIPTORS] = [const {
    Slot {
        about: AtomicU32::new(0),
        inode: AtomicU64::new(0),
    }
}; DESCRIPTORS];

/// The class of a path below the data folder.
pub(crate) fn class(path: &CStr) -> Option<Class> {
    static FOLDER_PATH: OnceLock<Option<&'static CStr>> = OnceLock::new();
    let folder = (*FOLDER_PATH.get_or_init(|| setting(c"FAULT_FOLDER")))?;
    control::get()?;
    let rest = path.to_bytes().strip_prefix(folder.to_bytes())?;
    match rest {
        [] => Some(ROOT),
        [b'/', inside @ ..] if inside.starts_with(b"log/0") && inside.ends_with(b".tmp") => {
            Some(LOG | DRAFT)
        }
        [b'/', inside @ ..] if inside.starts_with(b"log") => Some(LOG),
        [b'/', inside @ ..] if inside.starts_with(b"index") => Some(INDEX),
        [b'/', ..] => Some(ROOT),
        _ => None,
    }
}

/// What a descriptor is, if it is one of ours.
pub(crate) fn get(fd: c_int) -> Option<File> {
    let slot = SLOTS.get(usize::try_from(fd).ok()?)?;
    let about = slot.about.load(Ordering::Acquire);
    (about != 0).then(|| File {
        inode: slot.inode.load(Ordering::Acquire),
        class: u64::from(about & !APPEND),
        append: about & APPEND != 0,
    })
}

pub(crate) fn set(fd: c_int, file: File) {
    let Some(slot) = usize::try_from(fd).ok().and_then(|fd| SLOTS.get(fd)) else {
        if let Some(control) = control::get() {
            control.unknown.fetch_add(1, Ordering::AcqRel);
        }
        return;
    };
    slot.inode.store(file.inode, Ordering::Release);
    let append = if file.append { APPEND } else { 0 };
    slot.about
        .store(file.class as u32 | append, Ordering::Release);
}

pub(crate) fn clear(fd: c_int) {
    if let Some(slot) = usize::try_from(fd).ok().and_then(|fd| SLOTS.get(fd)) {
        slot.about.store(0, Ordering::Release);
    }
}

/// A second descriptor of the same file.
pub(crate) fn copy(from: c_int, to: c_int) {
    match get(from) {
        Some(file) => set(to, file),
        None => clear(to),
    }
}

/// What the kernel says of an open file: its inode, whether it is a folder, its size.
pub(crate) fn stat(fd: c_int) -> (u64, bool, i64) {
    let mut stat = MaybeUninit::<libc::stat>::zeroed();
    call!(SYS_fstat, fd, stat.as_mut_ptr());
    // SAFETY: all zeros is a valid value, and the kernel writes nothing else than one.
    let stat = unsafe { stat.assume_init() };
    let is_folder = stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
    (stat.st_ino, is_folder, stat.st_size)
}
