//! The recording: every event in the order in which it was done, with its data.
//!
//! ```text
//!  0 number u64    8 kind u32    12 flags u32 (1: nothing but zeros, left out)
//! 16 inode  u64   24 offset u64  32 length u64  40 since u64
//! 48 bytes of the path u32       52 bytes of the second path u32
//! 56 path, second path, data
//! ```
//!
//! A write has its number once it is done, and a sync covers what had a number when it began (`since`):
//! what overlaps counts as not covered. The harness reads it: `tests/faults/src/recording.rs`.

use std::{
    ffi::CStr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI32, Ordering},
    },
};

use crate::{
    control,
    raw::{call, setting},
};

pub(crate) const WRITE: u32 = 1;
pub(crate) const SYNC: u32 = 2;
pub(crate) const SYNC_FAILED: u32 = 3;
pub(crate) const CREATE: u32 = 4;
pub(crate) const RENAME: u32 = 5;
pub(crate) const UNLINK: u32 = 6;
pub(crate) const MKDIR: u32 = 7;
pub(crate) const TRUNCATE: u32 = 8;

static OUTPUT: AtomicI32 = AtomicI32::new(-1);
static ORDER: Mutex<()> = Mutex::new(());

/// What happened.
pub(crate) struct Event<'a> {
    pub(crate) kind: u32,
    pub(crate) inode: u64,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    /// Of a sync: the last event before it began.
    pub(crate) since: u64,
    pub(crate) path: &'a [u8],
    pub(crate) second: &'a [u8],
    pub(crate) data: &'a [&'a [u8]],
}

impl Event<'_> {
    pub(crate) const NONE: Event<'static> = Event {
        kind: 0,
        inode: 0,
        offset: 0,
        length: 0,
        since: 0,
        path: &[],
        second: &[],
        data: &[],
    };
}

/// Opens the file to record to, if one is asked for.
pub(crate) fn open() {
    let Some(path) = setting(c"FAULT_RECORD") else {
        return;
    };
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_CLOEXEC;
    let fd = call!(SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, 0o644);
    assert!(fd >= 0, "FAULT_RECORD cannot be opened");
    OUTPUT.store(fd as i32, Ordering::Release);
}

/// Held over a change of names, so that the record has them in the order in which they were made.
pub(crate) fn in_order() -> Order {
    Order(ORDER.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The right to add the next event.
pub(crate) struct Order(#[allow(dead_code, reason = "held")] MutexGuard<'static, ()>);

/// The number of the last event.
pub(crate) fn last() -> u64 {
    control::get().map_or(0, |control| control.events.load(Ordering::Acquire))
}

impl Order {
    /// Writes an event down, and only then counts it: a number that the harness reads is in the record.
    pub(crate) fn add(&self, event: &Event<'_>) {
        let Some(control) = control::get() else {
            return;
        };
        let number = control.events.load(Ordering::Acquire) + 1;
        let fd = OUTPUT.load(Ordering::Acquire);
        if fd >= 0 {
            write(fd, number, event);
        }
        control.events.store(number, Ordering::Release);
    }
}

fn write(fd: i32, number: u64, event: &Event<'_>) {
    let zeros = !event.data.is_empty()
        && event
            .data
            .iter()
            .all(|part| part.iter().all(|byte| *byte == 0));
    let mut head = [0; 56];
    head[0..8].copy_from_slice(&number.to_le_bytes());
    head[8..12].copy_from_slice(&event.kind.to_le_bytes());
    head[12..16].copy_from_slice(&u32::from(zeros).to_le_bytes());
    head[16..24].copy_from_slice(&event.inode.to_le_bytes());
    head[24..32].copy_from_slice(&event.offset.to_le_bytes());
    head[32..40].copy_from_slice(&event.length.to_le_bytes());
    head[40..48].copy_from_slice(&event.since.to_le_bytes());
    head[48..52].copy_from_slice(&(event.path.len() as u32).to_le_bytes());
    head[52..56].copy_from_slice(&(event.second.len() as u32).to_le_bytes());
    put(fd, &head);
    put(fd, event.path);
    put(fd, event.second);
    if !zeros {
        for part in event.data {
            put(fd, part);
        }
    }
}

fn put(fd: i32, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let written = call!(SYS_write, fd, bytes.as_ptr(), bytes.len());
        assert!(written > 0, "the recording cannot be written");
        bytes = &bytes[written as usize..];
    }
}

/// The bytes of a C string.
pub(crate) fn name(path: &CStr) -> &[u8] {
    path.to_bytes()
}
