//! System calls by number: calling libc by name would come back to us.

use std::ffi::{c_int, c_long};

/// A system call with whatever arguments it has, as a C `long`; -1 leaves `errno`.
macro_rules! call {
    ($number:ident $(, $argument:expr)*) => {
        // SAFETY: the arguments are those that the program passed to the function of libc that makes
        // this same system call, or our own, which are valid.
        unsafe { libc::syscall(libc::$number $(, $argument)*) }
    };
}
pub(crate) use call;

/// Fails a call as the kernel would.
pub(crate) fn fail(errno: c_int) -> i64 {
    // SAFETY: the pointer is that of this thread, and always valid.
    unsafe { *libc::__errno_location() = errno };
    -1
}

/// kill -9 of this process, from which nothing returns.
pub(crate) fn end() -> ! {
    loop {
        let process = call!(SYS_getpid);
        call!(SYS_kill, process, libc::SIGKILL);
    }
}

/// Waits so many nanoseconds, whatever signals come meanwhile.
pub(crate) fn wait(nanos: u64) {
    const SECOND: u64 = 1_000_000_000;
    let mut left = libc::timespec {
        tv_sec: (nanos / SECOND) as libc::time_t,
        tv_nsec: (nanos % SECOND) as c_long,
    };
    // The kernel leaves there what is left when a signal comes.
    while call!(SYS_nanosleep, &raw const left, &raw mut left) != 0 {}
}

/// A setting from the environment, which lives as long as the process.
pub(crate) fn setting(name: &std::ffi::CStr) -> Option<&'static std::ffi::CStr> {
    // SAFETY: the name ends in a zero; nobody changes the environment of a broker.
    let value = unsafe { libc::getenv(name.as_ptr()) };
    // SAFETY: what is not null is a C string of the environment.
    (!value.is_null()).then(|| unsafe { std::ffi::CStr::from_ptr(value) })
}
