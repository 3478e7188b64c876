//! The control page: numbers in a file that this process maps and the harness reads and writes.

use std::{
    ptr,
    sync::atomic::{AtomicI64, AtomicPtr, AtomicU64},
};

use crate::raw::{call, setting};

const PAGE: usize = 4096;

/// The page. The harness has the same list: `tests/faults/src/control.rs`.
#[repr(C)]
pub(crate) struct Control {
    /// Events recorded, or that would have been.
    pub(crate) events: AtomicU64,
    /// Calls that the mask and the classes choose.
    pub(crate) matched: AtomicU64,
    /// Which kinds of calls count (`gate::Kind`), and in which part of the folder (`files::Class`).
    pub(crate) kinds: AtomicU64,
    pub(crate) classes: AtomicU64,
    /// The action is taken at so many chosen calls from now, and then at each `every`th; 0 is never.
    pub(crate) countdown: AtomicU64,
    pub(crate) every: AtomicU64,
    pub(crate) action: AtomicU64,
    pub(crate) errno: AtomicU64,
    /// How much longer a call takes, in nanoseconds.
    pub(crate) delay: AtomicU64,
    /// Calls that take longer just now.
    pub(crate) waiting: AtomicU64,
    /// How often it was taken.
    pub(crate) hits: AtomicU64,
    /// Classes whose syncs only pretend.
    pub(crate) lies: AtomicU64,
    /// Added to the wall clock, in nanoseconds.
    pub(crate) clock: AtomicI64,
    /// Calls that change the folder and that no model of ours covers.
    pub(crate) unknown: AtomicU64,
    /// Set once this library runs.
    pub(crate) loaded: AtomicU64,
}

static CONTROL: AtomicPtr<Control> = AtomicPtr::new(ptr::null_mut());

/// The page, once it is mapped.
pub(crate) fn get() -> Option<&'static Control> {
    let page = CONTROL.load(std::sync::atomic::Ordering::Acquire);
    // SAFETY: it is null, or a mapping that is never undone, large enough, and used by atomics only.
    unsafe { page.as_ref() }
}

/// Maps the page that the harness made.
pub(crate) fn open() {
    let Some(path) = setting(c"FAULT_CONTROL") else {
        return;
    };
    let fd = call!(SYS_openat, libc::AT_FDCWD, path.as_ptr(), libc::O_RDWR);
    assert!(fd >= 0, "FAULT_CONTROL cannot be opened");
    // SAFETY: a new mapping, where the kernel wants it.
    let page = unsafe {
        libc::mmap(
            ptr::null_mut(),
            PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            fd as i32,
            0,
        )
    };
    assert!(page != libc::MAP_FAILED, "FAULT_CONTROL cannot be mapped");
    call!(SYS_close, fd);
    CONTROL.store(page.cast(), std::sync::atomic::Ordering::Release);
    if let Some(control) = get() {
        control
            .loaded
            .store(1, std::sync::atomic::Ordering::Release);
    }
}
