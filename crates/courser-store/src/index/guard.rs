//! Every call into sled goes through here: what goes wrong in there becomes one of our sentences, and
//! a panic in there becomes an error.
//!
//! sled asserts where it should report: over files that rotted, or on a disk that is full, it panics.
//! A thread of ours must not end by that, nor a lock be held for ever. After a panic sled is not asked
//! again, for nobody knows what it left half done.

use std::{
    cell::Cell,
    io,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::{
        Arc, Once,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use sled::IVec;

use crate::StoreError;

/// How long threads of sled may hold on to a file that their `Db` has let go of.
const LET_GO_MAX: Duration = Duration::from_secs(5);
/// Between two looks whether they still do.
const LET_GO_PAUSE: Duration = Duration::from_millis(5);

/// An open sled.
pub(super) struct Sled {
    /// `None` only while it is dropped.
    db: Option<sled::Db>,
    folder: PathBuf,
    /// It panicked.
    broken: AtomicBool,
}

impl Sled {
    pub(super) fn open(config: &sled::Config, folder: &Path) -> Result<Self, StoreError> {
        let db = caught(|| open_when_free(config))
            .ok_or_else(|| panicked(folder))?
            .map_err(|error| failed(folder, error))?;
        Ok(Self {
            db: Some(db),
            folder: folder.to_owned(),
            broken: AtomicBool::new(false),
        })
    }

    /// Asks sled.
    pub(super) fn call<T>(
        &self,
        call: impl FnOnce(&sled::Db) -> sled::Result<T>,
    ) -> Result<T, StoreError> {
        let db = match &self.db {
            Some(db) if !self.broken.load(Ordering::Acquire) => db,
            _ => return Err(panicked(&self.folder)),
        };
        match caught(|| call(db)) {
            Some(result) => result.map_err(|error| failed(&self.folder, error)),
            None => {
                self.broken.store(true, Ordering::Release);
                Err(panicked(&self.folder))
            }
        }
    }

    /// Keys and values, as `start` finds them.
    pub(super) fn items(
        self: Arc<Self>,
        start: impl FnOnce(&sled::Db) -> sled::Iter,
    ) -> Result<Items, StoreError> {
        let iter = self.call(|db| Ok(start(db)))?;
        Ok(Items { iter, sled: self })
    }
}

impl Drop for Sled {
    fn drop(&mut self) {
        let db = self.db.take();
        caught(|| drop(db));
    }
}

/// Keys and values, each asked for under guard.
pub(super) struct Items {
    /// First, as it holds pages of sled.
    iter: sled::Iter,
    sled: Arc<Sled>,
}

impl Iterator for Items {
    type Item = Result<(IVec, IVec), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let Self { sled, iter } = self;
        sled.call(|_| iter.next().transpose()).transpose()
    }
}

fn panicked(folder: &Path) -> StoreError {
    StoreError::index_damaged(folder, "sled, which keeps it, panicked over it")
}

thread_local! {
    /// Whether this thread is in a call into sled.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Runs a call into sled; `None` when it panicked.
fn caught<T>(call: impl FnOnce() -> T) -> Option<T> {
    hush();
    let before = INSIDE.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(call));
    INSIDE.set(before);
    result.ok()
}

/// Panics in sled and on its threads are told as errors: what the process prints of a panic would name
/// a file and a line of sled's source. Whoever debugs has them in the log.
fn hush() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let is_sleds = thread::current()
                .name()
                .is_some_and(|name| name.starts_with("sled-"));
            if is_sleds || INSIDE.get() {
                tracing::debug!(%info, "sled panicked");
            } else {
                others(info);
            }
        }));
    });
}

/// An error of sled's in our words. Its own sentence goes to the log only: it speaks of sled's inside.
fn failed(folder: &Path, error: sled::Error) -> StoreError {
    tracing::debug!(%error, folder = %folder.display(), "sled failed");
    let why = match error {
        sled::Error::Io(error) => match error.kind() {
            // What sled says of files that end too early, or hold what it did not write.
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => {
                "one of its files ends early"
            }
            _ => return StoreError::io("use", folder, error),
        },
        sled::Error::Unsupported(_) => {
            "its file conf says other settings than those it was made with"
        }
        sled::Error::Corruption { .. } => "what its files hold is not what was written there",
        _ => "sled, which keeps it, cannot go on with it",
    };
    StoreError::index_damaged(folder, why)
}

/// Opens sled. Its lock may still be held by threads of a `Db` that this process has dropped: they end
/// by themselves. By nobody else, for the folder's own `LOCK` is ours.
#[expect(
    clippy::disallowed_methods,
    reason = "at the start, on a thread that may block; sled tells nobody when its threads have ended"
)]
fn open_when_free(config: &sled::Config) -> sled::Result<sled::Db> {
    let mut waited = Duration::ZERO;
    loop {
        match config.open() {
            Err(sled::Error::Io(error))
                if waited < LET_GO_MAX && error.to_string().contains("could not acquire lock") =>
            {
                thread::sleep(LET_GO_PAUSE);
                waited += LET_GO_PAUSE;
            }
            opened => return opened,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> (tempfile::TempDir, Arc<Sled>) {
        let folder = tempfile::tempdir().unwrap();
        let config = sled::Config::new().path(folder.path()).flush_every_ms(None);
        let sled = Sled::open(&config, folder.path()).unwrap();
        (folder, Arc::new(sled))
    }

    #[test]
    fn a_panic_in_sled_is_an_error_and_sled_is_not_asked_again() {
        let (folder, sled) = open();
        let lock = crate::lock::Mutex::new(0);
        let result = {
            let _held = lock.lock();
            sled.call::<()>(|_| panic!("assertion failed: lid >= min_lid"))
        };
        let error = result.unwrap_err().to_string();
        assert!(
            error.contains(&folder.path().display().to_string()),
            "{error}"
        );
        assert!(!error.contains("min_lid"), "{error}");
        *lock.lock() += 1;
        assert!(sled.call(|_| Ok(())).is_err(), "it was asked again");
    }

    #[test]
    fn a_panic_between_two_items_is_an_error() {
        let (_folder, sled) = open();
        sled.call(|db| db.insert("key", "value")).unwrap();
        let mut items = Arc::clone(&sled).items(|db| db.iter()).unwrap();
        sled.call::<()>(|_| panic!("sled")).unwrap_err();
        assert!(items.next().unwrap().is_err());
    }

    #[test]
    fn a_panic_of_ours_is_still_told() {
        hush();
        assert!(panic::catch_unwind(|| panic!("ours")).is_err());
        assert!(!INSIDE.get());
    }

    #[test]
    fn every_fault_of_sled_is_told_in_our_words() {
        let folder = Path::new("/data/index");
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let faults = [
            (sled::Error::Io(full), "the disk of /data/index is full"),
            (
                sled::Error::Io(io::ErrorKind::PermissionDenied.into()),
                "cannot use /data/index: permission denied",
            ),
            (
                sled::Error::Io(io::ErrorKind::UnexpectedEof.into()),
                "/data/index is damaged: one of its files ends early",
            ),
            (
                sled::Error::Unsupported("io buffer size".to_owned()),
                "/data/index is damaged: its file conf",
            ),
            (
                sled::Error::ReportableBug("pid 7".to_owned()),
                "/data/index is damaged: sled",
            ),
        ];
        for (fault, expected) in faults {
            let error = failed(folder, fault).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
