//! The wall clock, set by the harness. The monotonic clock is left alone, as by whoever sets a clock.

use std::{ffi::c_int, sync::atomic::Ordering};

use crate::{control, raw::call};

const SECOND: i64 = 1_000_000_000;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> c_int {
    let answer = call!(SYS_clock_gettime, clock, time) as c_int;
    let offset = control::get().map_or(0, |control| control.clock.load(Ordering::Acquire));
    if answer == 0 && offset != 0 && clock == libc::CLOCK_REALTIME {
        // SAFETY: the kernel has just written there.
        let time = unsafe { &mut *time };
        let nanos = time.tv_sec * SECOND + time.tv_nsec + offset;
        time.tv_sec = nanos.div_euclid(SECOND);
        time.tv_nsec = nanos.rem_euclid(SECOND);
    }
    answer
}
