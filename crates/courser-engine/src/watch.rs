//! Sees to it that connections are served while the thread of one waits for the disk.
//!
//! Of tokio's threads one waits for the network, any of them. When that one carries out a command
//! (`door.rs`) and the disk stops under it, the others sleep, and nobody hears what arrives. So somebody
//! looks on while commands are carried out, and wakes another one when that takes long.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread::{self, Thread},
};

use crate::limits;

/// Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Watch(Arc<State>);

#[derive(Default)]
struct State {
    /// Goes up by one when carrying out begins and when it ends, so it is odd in between.
    steps: AtomicU64,
    sleeps: AtomicBool,
    has_ended: AtomicBool,
    thread: OnceLock<Thread>,
}

/// As long as it lives, something is carried out.
pub(crate) struct Watched<'a>(&'a Watch);

impl Watch {
    /// Names its thread, before anything else is asked of it.
    pub(crate) fn is_run_by(&self, thread: &Thread) {
        // There is one.
        let _ = self.0.thread.set(thread.clone());
    }

    /// To be called by one at a time.
    pub(crate) fn begin(&self) -> Watched<'_> {
        self.0.steps.fetch_add(1, SeqCst);
        if self.0.sleeps.swap(false, SeqCst) {
            self.unpark();
        }
        Watched(self)
    }

    pub(crate) fn end(&self) {
        self.0.has_ended.store(true, SeqCst);
        self.unpark();
    }

    fn unpark(&self) {
        if let Some(thread) = self.0.thread.get() {
            thread.unpark();
        }
    }

    /// What its thread does, until the end: calls `help` as long as one command takes long. While none come it
    /// sleeps.
    pub(crate) fn run(&self, help: impl Fn()) {
        let state = &*self.0;
        let mut seen = 0;
        while !state.has_ended.load(SeqCst) {
            let steps = state.steps.load(SeqCst);
            if steps != seen {
                seen = steps;
                thread::park_timeout(limits::WATCH_INTERVAL);
            } else if seen % 2 == 1 {
                help();
                thread::park_timeout(limits::WATCH_INTERVAL);
            } else {
                state.sleeps.store(true, SeqCst);
                // It may have begun, or ended, before it was said that this sleeps.
                if state.steps.load(SeqCst) == seen && !state.has_ended.load(SeqCst) {
                    thread::park();
                }
                state.sleeps.store(false, SeqCst);
            }
        }
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.0.0.steps.fetch_add(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn help_comes_while_something_takes_long_and_not_otherwise() {
        let watch = Watch::default();
        let (helps, helped) = mpsc::channel();
        let watching = {
            let watch = watch.clone();
            thread::spawn(move || watch.run(|| helps.send(()).unwrap()))
        };
        watch.is_run_by(watching.thread());
        let long = watch.begin();
        helped.recv().unwrap();
        drop(long);
        watch.end();
        watching.join().unwrap();
        // What came before the end was seen is all there is.
        assert!(helped.iter().count() < 100);
    }

    #[test]
    fn it_ends_also_when_it_never_began() {
        for _ in 0..100 {
            let watch = Watch::default();
            let watching = {
                let watch = watch.clone();
                thread::spawn(move || watch.run(|| {}))
            };
            watch.is_run_by(watching.thread());
            watch.end();
            watching.join().unwrap();
        }
    }
}
