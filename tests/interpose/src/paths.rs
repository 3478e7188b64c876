//! The calls that change names: open, rename, unlink, mkdir.

use std::{
    ffi::{CStr, c_char, c_int},
    sync::atomic::Ordering,
};

use crate::{
    control,
    files::{self, Class, File},
    gate::{self, Gate},
    raw::{self, call},
    record::{self, Event},
};

/// A path of the program.
unsafe fn path<'a>(path: *const c_char) -> &'a CStr {
    // SAFETY: the program passed it to a function of libc that wants a C string, and holds it meanwhile.
    unsafe { CStr::from_ptr(path) }
}

fn open_file(folder: c_int, path: &CStr, flags: c_int, mode: libc::mode_t) -> c_int {
    let open = || call!(SYS_openat, folder, path.as_ptr(), flags, mode) as c_int;
    let Some(class) = files::class(path) else {
        let fd = open();
        // A number that is used again must not be taken for what it was.
        files::clear(fd);
        return fd;
    };
    // Nobody else makes or removes what is opened here: whether it is there is so until it is opened.
    let is_there = call!(SYS_faccessat, libc::AT_FDCWD, path.as_ptr(), libc::F_OK) == 0;
    let creates = flags & libc::O_CREAT != 0 && !is_there;
    let empties = flags & libc::O_TRUNC != 0 && is_there;
    let kind = if creates || empties {
        gate::CREATE
    } else {
        gate::OPEN
    };
    let gate = gate::gate(kind, class);
    if let Gate::Fail(errno) = gate {
        return raw::fail(errno) as c_int;
    }
    let order = record::in_order();
    let fd = open();
    if fd < 0 {
        return fd;
    }
    if flags & (libc::O_DSYNC | libc::O_SYNC) != 0 {
        unknown();
    }
    let (inode, is_folder, _) = files::stat(fd);
    let class = if is_folder {
        class | files::FOLDER
    } else {
        class
    };
    let append = flags & libc::O_APPEND != 0;
    files::set(
        fd,
        File {
            inode,
            class,
            append,
        },
    );
    if creates {
        order.add(&Event {
            kind: record::CREATE,
            inode,
            path: record::name(path),
            ..Event::NONE
        });
    } else if empties {
        order.add(&Event {
            kind: record::TRUNCATE,
            inode,
            ..Event::NONE
        });
    }
    finish(gate);
    fd
}

/// The process ends here when the gate said so.
fn finish(gate: Gate) {
    if matches!(gate, Gate::EndAfter | Gate::EndTorn) {
        raw::end();
    }
}

fn unknown() {
    if let Some(control) = control::get() {
        control.unknown.fetch_add(1, Ordering::AcqRel);
    }
}

/// A change of a name of this class: gate, call, record.
fn change(
    kind: gate::Kind,
    class: Option<Class>,
    run: impl FnOnce() -> i64,
    event: &Event<'_>,
) -> c_int {
    let Some(class) = class else {
        return run() as c_int;
    };
    let gate = gate::gate(kind, class);
    if let Gate::Fail(errno) = gate {
        return raw::fail(errno) as c_int;
    }
    let order = record::in_order();
    let answer = run();
    if answer == 0 {
        order.add(event);
        finish(gate);
    }
    answer as c_int
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn open(name: *const c_char, flags: c_int, mode: libc::mode_t) -> c_int {
    // SAFETY: as the caller promises to libc.
    open_file(libc::AT_FDCWD, unsafe { path(name) }, flags, mode)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn open64(name: *const c_char, flags: c_int, mode: libc::mode_t) -> c_int {
    // SAFETY: as the caller promises to libc.
    open_file(libc::AT_FDCWD, unsafe { path(name) }, flags, mode)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat(
    folder: c_int,
    name: *const c_char,
    flags: c_int,
    mode: libc::mode_t,
) -> c_int {
    // SAFETY: as the caller promises to libc.
    open_file(folder, unsafe { path(name) }, flags, mode)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat64(
    folder: c_int,
    name: *const c_char,
    flags: c_int,
    mode: libc::mode_t,
) -> c_int {
    // SAFETY: as the caller promises to libc.
    open_file(folder, unsafe { path(name) }, flags, mode)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn creat(name: *const c_char, mode: libc::mode_t) -> c_int {
    let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
    // SAFETY: as the caller promises to libc.
    open_file(libc::AT_FDCWD, unsafe { path(name) }, flags, mode)
}

fn rename_path(from: &CStr, to: &CStr, run: impl FnOnce() -> i64) -> c_int {
    let event = Event {
        kind: record::RENAME,
        path: record::name(from),
        second: record::name(to),
        ..Event::NONE
    };
    change(gate::RENAME, files::class(from), run, &event)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    // SAFETY: as the caller promises to libc.
    let (from, to) = unsafe { (path(from), path(to)) };
    rename_path(from, to, || {
        call!(
            SYS_renameat,
            libc::AT_FDCWD,
            from.as_ptr(),
            libc::AT_FDCWD,
            to.as_ptr()
        )
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn renameat(
    from_folder: c_int,
    from: *const c_char,
    to_folder: c_int,
    to: *const c_char,
) -> c_int {
    // SAFETY: as the caller promises to libc.
    unsafe { renameat2(from_folder, from, to_folder, to, 0) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn renameat2(
    from_folder: c_int,
    from: *const c_char,
    to_folder: c_int,
    to: *const c_char,
    flags: std::ffi::c_uint,
) -> c_int {
    // SAFETY: as the caller promises to libc.
    let (from, to) = unsafe { (path(from), path(to)) };
    if flags != 0 && files::class(from).is_some() {
        unknown();
    }
    rename_path(from, to, || {
        call!(
            SYS_renameat2,
            from_folder,
            from.as_ptr(),
            to_folder,
            to.as_ptr(),
            flags
        )
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlink(name: *const c_char) -> c_int {
    // SAFETY: as the caller promises to libc.
    unsafe { unlinkat(libc::AT_FDCWD, name, 0) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmdir(name: *const c_char) -> c_int {
    // SAFETY: as the caller promises to libc.
    unsafe { unlinkat(libc::AT_FDCWD, name, libc::AT_REMOVEDIR) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlinkat(folder: c_int, name: *const c_char, flags: c_int) -> c_int {
    // SAFETY: as the caller promises to libc.
    let name = unsafe { path(name) };
    let event = Event {
        kind: record::UNLINK,
        path: record::name(name),
        ..Event::NONE
    };
    let run = || call!(SYS_unlinkat, folder, name.as_ptr(), flags);
    change(gate::UNLINK, files::class(name), run, &event)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkdir(name: *const c_char, mode: libc::mode_t) -> c_int {
    // SAFETY: as the caller promises to libc.
    let name = unsafe { path(name) };
    let run = || call!(SYS_mkdirat, libc::AT_FDCWD, name.as_ptr(), mode) as c_int;
    let Some(class) = files::class(name) else {
        return run();
    };
    let gate = gate::gate(gate::MKDIR, class);
    if let Gate::Fail(errno) = gate {
        return raw::fail(errno) as c_int;
    }
    let order = record::in_order();
    let answer = run();
    if answer == 0 {
        order.add(&Event {
            kind: record::MKDIR,
            inode: inode(name),
            path: record::name(name),
            ..Event::NONE
        });
        finish(gate);
    }
    answer
}

/// The inode of a folder that is there.
fn inode(name: &CStr) -> u64 {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    let fd = call!(SYS_openat, libc::AT_FDCWD, name.as_ptr(), flags) as c_int;
    let (inode, _, _) = files::stat(fd);
    call!(SYS_close, fd);
    inode
}

/// Not modelled, so that a store that begins to use it is noticed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn link(from: *const c_char, to: *const c_char) -> c_int {
    // SAFETY: as the caller promises to libc.
    let (from, to) = unsafe { (path(from), path(to)) };
    if files::class(to).is_some() {
        unknown();
    }
    call!(
        SYS_linkat,
        libc::AT_FDCWD,
        from.as_ptr(),
        libc::AT_FDCWD,
        to.as_ptr(),
        0
    ) as c_int
}
