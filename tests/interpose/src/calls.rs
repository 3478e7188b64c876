//! The calls on open files: write, sync, truncate, read, close.

use std::{
    collections::BTreeMap,
    ffi::{c_int, c_void},
    slice,
    sync::{Mutex, PoisonError, atomic::Ordering},
};

use crate::{
    control,
    files::{self, File},
    gate::{self, Gate},
    raw::{self, call},
    record::{self, Event},
};

/// A buffer of the program.
unsafe fn bytes<'a>(data: *const c_void, length: usize) -> &'a [u8] {
    if length == 0 {
        return &[];
    }
    // SAFETY: the program passed it to a function of libc that reads so many bytes there.
    unsafe { slice::from_raw_parts(data.cast(), length) }
}

/// The buffers of a call that has many.
unsafe fn buffers<'a>(list: *const libc::iovec, count: c_int) -> Vec<&'a [u8]> {
    // SAFETY: as the program promises to libc.
    let list = unsafe { slice::from_raw_parts(list, usize::try_from(count).unwrap_or(0)) };
    list.iter()
        // SAFETY: the same.
        .map(|buffer| unsafe { bytes(buffer.iov_base, buffer.iov_len) })
        .collect()
}

/// A write: gate, call, record. `offset` is `None` where the file's own is meant.
fn write_file(
    fd: c_int,
    file: File,
    offset: Option<i64>,
    data: &[&[u8]],
    run: impl FnOnce() -> i64,
) -> isize {
    let gate = gate::gate(gate::WRITE, file.class);
    let at = match offset {
        Some(offset) => offset,
        None if file.append => files::stat(fd).2,
        None => call!(SYS_lseek, fd, 0, libc::SEEK_CUR),
    };
    let written = match gate {
        Gate::Fail(errno) => return raw::fail(errno) as isize,
        Gate::EndTorn | Gate::Short => half(fd, at, data, offset.is_none()),
        Gate::Pass | Gate::EndAfter => run(),
    };
    if written > 0 {
        let mut left = written as usize;
        let parts: Vec<&[u8]> = data
            .iter()
            .map(|part| {
                let (taken, _) = part.split_at(part.len().min(left));
                left -= taken.len();
                taken
            })
            .collect();
        record::in_order().add(&Event {
            kind: record::WRITE,
            inode: file.inode,
            offset: at as u64,
            length: written as u64,
            data: &parts,
            ..Event::NONE
        });
    }
    if matches!(gate, Gate::EndAfter | Gate::EndTorn) {
        raw::end();
    }
    written as isize
}

/// What goes past the page cache goes in sectors.
const SECTOR: usize = 512;

/// Writes half of the first buffer, and says how much that was.
fn half(fd: c_int, at: i64, data: &[&[u8]], moves: bool) -> i64 {
    let first = data
        .iter()
        .find(|part| !part.is_empty())
        .copied()
        .unwrap_or_default();
    let half = first.len().div_ceil(2);
    let is_direct = call!(SYS_fcntl, fd, libc::F_GETFL) & i64::from(libc::O_DIRECT) != 0;
    let length = if is_direct {
        half.next_multiple_of(SECTOR)
    } else {
        half
    };
    let written = call!(SYS_pwrite64, fd, first.as_ptr(), length, at);
    if moves && written > 0 {
        call!(SYS_lseek, fd, at + written, libc::SEEK_SET);
    }
    written
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, data: *const c_void, length: usize) -> isize {
    let run = || call!(SYS_write, fd, data, length);
    match files::get(fd) {
        // SAFETY: as the caller promises to libc.
        Some(file) => write_file(fd, file, None, &[unsafe { bytes(data, length) }], run),
        None => run() as isize,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite(fd: c_int, data: *const c_void, length: usize, at: i64) -> isize {
    let run = || call!(SYS_pwrite64, fd, data, length, at);
    match files::get(fd) {
        // SAFETY: as the caller promises to libc.
        Some(file) => write_file(fd, file, Some(at), &[unsafe { bytes(data, length) }], run),
        None => run() as isize,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(fd: c_int, data: *const c_void, length: usize, at: i64) -> isize {
    // SAFETY: the same contract.
    unsafe { pwrite(fd, data, length, at) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn writev(fd: c_int, list: *const libc::iovec, count: c_int) -> isize {
    let run = || call!(SYS_writev, fd, list, count);
    match files::get(fd) {
        // SAFETY: as the caller promises to libc.
        Some(file) => write_file(fd, file, None, &unsafe { buffers(list, count) }, run),
        None => run() as isize,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwritev(
    fd: c_int,
    list: *const libc::iovec,
    count: c_int,
    at: i64,
) -> isize {
    // The kernel takes the offset in two halves, of which a 64-bit machine uses the first.
    let run = || call!(SYS_pwritev, fd, list, count, at, 0);
    match files::get(fd) {
        // SAFETY: as the caller promises to libc.
        Some(file) => write_file(fd, file, Some(at), &unsafe { buffers(list, count) }, run),
        None => run() as isize,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwritev64(
    fd: c_int,
    list: *const libc::iovec,
    count: c_int,
    at: i64,
) -> isize {
    // SAFETY: the same contract.
    unsafe { pwritev(fd, list, count, at) }
}

/// The flags may ask for a sync, which is not modelled: it is noticed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwritev2(
    fd: c_int,
    list: *const libc::iovec,
    count: c_int,
    at: i64,
    flags: c_int,
) -> isize {
    if files::get(fd).is_some() {
        unknown();
    }
    call!(SYS_pwritev2, fd, list, count, at, 0, flags) as isize
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwritev64v2(
    fd: c_int,
    list: *const libc::iovec,
    count: c_int,
    at: i64,
    flags: c_int,
) -> isize {
    // SAFETY: the same contract.
    unsafe { pwritev2(fd, list, count, at, flags) }
}

fn sync(fd: c_int, run: impl FnOnce() -> i64) -> c_int {
    let Some(file) = files::get(fd) else {
        return run() as c_int;
    };
    let since = record::last();
    let gate = gate::gate(gate::SYNC, file.class);
    let mut event = Event {
        kind: record::SYNC,
        inode: file.inode,
        since,
        ..Event::NONE
    };
    if let Gate::Fail(errno) = gate {
        event.kind = record::SYNC_FAILED;
        record::in_order().add(&event);
        return raw::fail(errno) as c_int;
    }
    let lies = gate::lies(file.class);
    let answer = if lies { 0 } else { run() };
    if answer == 0 && !lies {
        record::in_order().add(&event);
    }
    if matches!(gate, Gate::EndAfter | Gate::EndTorn) {
        raw::end();
    }
    answer as c_int
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    sync(fd, || call!(SYS_fsync, fd))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
    sync(fd, || call!(SYS_fdatasync, fd))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ftruncate(fd: c_int, length: i64) -> c_int {
    let run = || call!(SYS_ftruncate, fd, length) as c_int;
    let Some(file) = files::get(fd) else {
        return run();
    };
    let gate = gate::gate(gate::TRUNCATE, file.class);
    if let Gate::Fail(errno) = gate {
        return raw::fail(errno) as c_int;
    }
    let order = record::in_order();
    let answer = run();
    if answer == 0 {
        order.add(&Event {
            kind: record::TRUNCATE,
            inode: file.inode,
            length: length as u64,
            ..Event::NONE
        });
    }
    if matches!(gate, Gate::EndAfter | Gate::EndTorn) {
        raw::end();
    }
    answer
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ftruncate64(fd: c_int, length: i64) -> c_int {
    // SAFETY: the same contract.
    unsafe { ftruncate(fd, length) }
}

fn unknown() {
    if let Some(control) = control::get() {
        control.unknown.fetch_add(1, Ordering::AcqRel);
    }
}

/// Not modelled, so that a store that begins to use it is noticed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fallocate(fd: c_int, mode: c_int, at: i64, length: i64) -> c_int {
    if files::get(fd).is_some() {
        unknown();
    }
    call!(SYS_fallocate, fd, mode, at, length) as c_int
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn fallocate64(fd: c_int, mode: c_int, at: i64, length: i64) -> c_int {
    // SAFETY: the same contract.
    unsafe { fallocate(fd, mode, at, length) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn copy_file_range(
    from: c_int,
    from_at: *mut i64,
    to: c_int,
    to_at: *mut i64,
    length: usize,
    flags: std::ffi::c_uint,
) -> isize {
    if files::get(to).is_some() {
        unknown();
    }
    call!(SYS_copy_file_range, from, from_at, to, to_at, length, flags) as isize
}

/// How far each file was read from its beginning, by inode.
static KNOWN: Mutex<BTreeMap<u64, u64>> = Mutex::new(BTreeMap::new());

/// A read. What was read before is in the page cache, and cannot fail any more.
fn read_file(fd: c_int, at: Option<i64>, length: usize, run: impl FnOnce() -> i64) -> isize {
    let Some(file) = files::get(fd) else {
        return run() as isize;
    };
    let at = at.unwrap_or_else(|| call!(SYS_lseek, fd, 0, libc::SEEK_CUR)) as u64;
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let upto = known().get(&file.inode).copied().unwrap_or(0);
    let size = files::stat(fd).2 as u64;
    let is_new = at.saturating_add(length as u64).min(size) > upto;
    if is_new && let Gate::Fail(errno) = gate::gate(gate::READ, file.class) {
        return raw::fail(errno) as isize;
    }
    let count = run();
    if count > 0 && at <= upto {
        known().insert(file.inode, upto.max(at + count as u64));
    }
    count as isize
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn read(fd: c_int, into: *mut c_void, length: usize) -> isize {
    read_file(fd, None, length, || call!(SYS_read, fd, into, length))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pread(fd: c_int, into: *mut c_void, length: usize, at: i64) -> isize {
    let run = || call!(SYS_pread64, fd, into, length, at);
    read_file(fd, Some(at), length, run)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pread64(fd: c_int, into: *mut c_void, length: usize, at: i64) -> isize {
    // SAFETY: the same contract.
    unsafe { pread(fd, into, length, at) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn close(fd: c_int) -> c_int {
    files::clear(fd);
    call!(SYS_close, fd) as c_int
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dup(fd: c_int) -> c_int {
    let copy = call!(SYS_dup, fd) as c_int;
    files::copy(fd, copy);
    copy
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dup2(fd: c_int, to: c_int) -> c_int {
    let copy = if fd == to {
        call!(SYS_fcntl, fd, libc::F_GETFD) as c_int
    } else {
        call!(SYS_dup3, fd, to, 0) as c_int
    };
    if copy < 0 {
        return copy;
    }
    files::copy(fd, to);
    to
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dup3(fd: c_int, to: c_int, flags: c_int) -> c_int {
    let copy = call!(SYS_dup3, fd, to, flags) as c_int;
    files::copy(fd, copy);
    copy
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn fcntl(fd: c_int, command: c_int, argument: usize) -> c_int {
    let answer = call!(SYS_fcntl, fd, command, argument) as c_int;
    if answer >= 0 && matches!(command, libc::F_DUPFD | libc::F_DUPFD_CLOEXEC) {
        files::copy(fd, answer);
    }
    answer
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn fcntl64(fd: c_int, command: c_int, argument: usize) -> c_int {
    // SAFETY: the same contract.
    unsafe { fcntl(fd, command, argument) }
}
