//! The harness's side of the control page: `tests/interpose/src/control.rs` has the other.
//!
//! The page is a file that the broker maps. Reads and writes of it are coherent with the mapping, for
//! both are the page cache.

use std::{fs::File, os::unix::fs::FileExt as _, path::Path, sync::Arc, time::Duration};

const PAGE: usize = 4096;

/// Kinds of calls, as bits.
pub(crate) const WRITE: u64 = 1;
pub(crate) const SYNC: u64 = 2;
pub(crate) const CREATE: u64 = 4;
pub(crate) const RENAME: u64 = 8;
pub(crate) const UNLINK: u64 = 16;
pub(crate) const MKDIR: u64 = 32;
pub(crate) const TRUNCATE: u64 = 64;
pub(crate) const READ: u64 = 128;
pub(crate) const OPEN: u64 = 256;
/// Everything that changes the folder or makes a change durable.
pub(crate) const CHANGES: u64 = WRITE | SYNC | CREATE | RENAME | UNLINK | MKDIR | TRUNCATE;

/// Parts of the data folder, as bits; `FOLDER` is added for a folder itself.
pub(crate) const ROOT: u64 = 1;
pub(crate) const LOG: u64 = 2;
pub(crate) const INDEX: u64 = 4;
pub(crate) const FOLDER: u64 = 8;
/// A segment of the log that is being rewritten.
pub(crate) const DRAFT: u64 = 16;
pub(crate) const ANYWHERE: u64 = ROOT | LOG | INDEX;

/// What a call that fails says.
pub(crate) const EIO: i32 = 5;
pub(crate) const ENOSPC: i32 = 28;

/// What happens at the chosen call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    KillBefore,
    KillAfter,
    KillTorn,
    FailOnce(i32),
    FailOn(i32),
    Short,
    /// This call takes so much longer, and then each so manieth, or with 0 none.
    Delay(Duration, u64),
}

/// Which call, and what happens there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) kinds: u64,
    pub(crate) classes: u64,
    /// The how manieth from now on.
    pub(crate) call: u64,
    pub(crate) action: Action,
}

#[derive(Clone, Debug)]
pub(crate) struct Control(Arc<File>);

/// Places on the page.
#[derive(Clone, Copy)]
enum At {
    Events = 0,
    Matched,
    Kinds,
    Classes,
    Countdown,
    Every,
    Action,
    Errno,
    Delay,
    Waiting,
    Hits,
    Lies,
    Clock,
    Unknown,
    Loaded,
}

impl Control {
    /// A fresh page, at this path.
    pub(crate) fn create(path: &Path) -> Self {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .unwrap();
        file.write_all_at(&[0; PAGE], 0).unwrap();
        Self(Arc::new(file))
    }

    fn get(&self, at: At) -> u64 {
        let mut bytes = [0; 8];
        self.0.read_exact_at(&mut bytes, at as u64 * 8).unwrap();
        u64::from_le_bytes(bytes)
    }

    fn set(&self, at: At, value: u64) {
        self.0
            .write_all_at(&value.to_le_bytes(), at as u64 * 8)
            .unwrap();
    }

    /// The number of the last event.
    pub(crate) fn events(&self) -> i64 {
        i64::try_from(self.get(At::Events)).unwrap()
    }

    /// Chosen calls so far.
    pub(crate) fn matched(&self) -> u64 {
        self.get(At::Matched)
    }

    /// Counts these calls from now on, and lets nothing happen.
    pub(crate) fn count(&self, kinds: u64, classes: u64) {
        self.set(At::Countdown, 0);
        self.set(At::Action, 0);
        self.set(At::Hits, 0);
        self.set(At::Matched, 0);
        self.set(At::Kinds, kinds);
        self.set(At::Classes, classes);
    }

    pub(crate) fn arm(&self, fault: &Fault) {
        self.count(fault.kinds, fault.classes);
        let (action, every) = match fault.action {
            Action::KillBefore => (1, 0),
            Action::KillAfter => (2, 0),
            Action::KillTorn => (3, 0),
            Action::FailOnce(_) => (4, 0),
            Action::FailOn(_) => (4, 1),
            Action::Short => (5, 0),
            Action::Delay(_, every) => (6, every),
        };
        match fault.action {
            Action::FailOnce(errno) | Action::FailOn(errno) => self.set(At::Errno, errno as u64),
            Action::Delay(delay, _) => self.set(At::Delay, delay.as_nanos() as u64),
            _ => {}
        }
        self.set(At::Every, every);
        self.set(At::Action, action);
        self.set(At::Countdown, fault.call);
    }

    /// How often it happened.
    pub(crate) fn hits(&self) -> u64 {
        self.get(At::Hits)
    }

    /// Calls that take longer just now.
    pub(crate) fn waiting(&self) -> u64 {
        self.get(At::Waiting)
    }

    /// Lets syncs of these classes only pretend.
    pub(crate) fn lie(&self, classes: u64) {
        self.set(At::Lies, classes);
    }

    /// Sets the wall clock of the broker, as nanoseconds from the true time.
    pub(crate) fn set_clock(&self, nanos: i64) {
        self.set(At::Clock, nanos.cast_unsigned());
    }

    /// Calls that are not modelled.
    pub(crate) fn unknown(&self) -> u64 {
        self.get(At::Unknown)
    }

    pub(crate) fn loaded(&self) -> bool {
        self.get(At::Loaded) != 0
    }
}
