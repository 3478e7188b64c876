//! Decides of each call whether it goes through.

use std::{ffi::c_int, sync::atomic::Ordering};

use crate::{control, files::Class, raw};

/// Kinds of calls, as bits.
pub(crate) type Kind = u64;
pub(crate) const WRITE: Kind = 1;
pub(crate) const SYNC: Kind = 2;
/// An open that makes or empties a file.
pub(crate) const CREATE: Kind = 4;
pub(crate) const RENAME: Kind = 8;
pub(crate) const UNLINK: Kind = 16;
pub(crate) const MKDIR: Kind = 32;
pub(crate) const TRUNCATE: Kind = 64;
pub(crate) const READ: Kind = 128;
/// An open of what is there.
pub(crate) const OPEN: Kind = 256;

const KILL_BEFORE: u64 = 1;
const KILL_AFTER: u64 = 2;
const KILL_TORN: u64 = 3;
const FAIL: u64 = 4;
const SHORT: u64 = 5;
const DELAY: u64 = 6;

/// What becomes of a call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    Pass,
    /// Passes, and the process ends behind it.
    EndAfter,
    /// Half of a write is done, and the process ends.
    EndTorn,
    /// Half of a write is done, and it says so.
    Short,
    Fail(c_int),
}

/// Counts a call, and decides. It is asked before anything is held, so that a call that takes longer
/// holds up nobody else.
pub(crate) fn gate(kind: Kind, class: Class) -> Gate {
    let Some(control) = control::get() else {
        return Gate::Pass;
    };
    let chosen = control.kinds.load(Ordering::Acquire) & kind != 0
        && control.classes.load(Ordering::Acquire) & class != 0;
    if !chosen {
        return Gate::Pass;
    }
    control.matched.fetch_add(1, Ordering::AcqRel);
    let action = control.action.load(Ordering::Acquire);
    let errno = control.errno.load(Ordering::Acquire) as c_int;
    let every = control.every.load(Ordering::Acquire);
    let left =
        control
            .countdown
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| match left {
                0 => None,
                1 => Some(every),
                _ => Some(left - 1),
            });
    if left != Ok(1) {
        return Gate::Pass;
    }
    // Whoever sees the hit sees that it waits.
    if action == DELAY {
        control.waiting.fetch_add(1, Ordering::AcqRel);
    }
    control.hits.fetch_add(1, Ordering::AcqRel);
    match action {
        KILL_BEFORE => raw::end(),
        KILL_AFTER => Gate::EndAfter,
        KILL_TORN if kind == WRITE => Gate::EndTorn,
        KILL_TORN => Gate::EndAfter,
        FAIL => Gate::Fail(errno),
        SHORT if kind == WRITE => Gate::Short,
        DELAY => {
            raw::wait(control.delay.load(Ordering::Acquire));
            control.waiting.fetch_sub(1, Ordering::AcqRel);
            Gate::Pass
        }
        _ => Gate::Pass,
    }
}

/// Whether a sync of this class only pretends.
pub(crate) fn lies(class: Class) -> bool {
    control::get().is_some_and(|control| control.lies.load(Ordering::Acquire) & class == class)
}
