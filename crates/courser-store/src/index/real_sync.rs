//! Makes sled's `flush` reach the disk, which takes unsafe code.
//!
//! sled 0.34.7 ends a flush with `sync_file_range`, which neither writes metadata nor flushes the
//! disk's cache: it survives `kill -9`, not a power cut. The C symbol is defined here once more, and
//! the linker takes a program's own symbols before those of libc; so every sync of sled is an
//! `fdatasync`, its own ordering included. `docs/decisions/0001-real-sync-under-sled.md` has the
//! alternatives.
#![allow(
    unsafe_code,
    reason = "a C symbol is defined and a C function called, here only"
)]
#![allow(unreachable_pub, reason = "the linker reaches it")]

use std::{
    ffi::c_int,
    sync::atomic::{AtomicU64, Ordering},
};

static CALLS: AtomicU64 = AtomicU64::new(0);

/// How many times sled synced through this file. A recovery checks that it grows: in a program in
/// which the symbol did not make it through the linker, the store refuses to start.
pub(crate) fn calls() -> u64 {
    CALLS.load(Ordering::Relaxed)
}

/// Takes the place of libc's function: syncs the whole file, and really.
///
/// # Safety
/// Safe to call with any numbers, like the function whose place it takes.
// SAFETY: the name is libc's on purpose, and the signature is that of libc on 64-bit Linux.
#[unsafe(no_mangle)]
pub extern "C" fn sync_file_range(
    fd: c_int,
    _offset: i64,
    _bytes: i64,
    _flags: std::ffi::c_uint,
) -> c_int {
    CALLS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: any file descriptor may be passed; a bad one is an error, which sled sees in `errno`.
    unsafe { libc::fdatasync(fd) }
}
