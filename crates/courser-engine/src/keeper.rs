//! Keeps the store in shape behind the committer: applies checkpoints to the index, and gives back the
//! disk of what is settled. The only writer of the index.

use std::sync::{
    Arc, Mutex, PoisonError,
    mpsc::{Receiver, RecvTimeoutError, TryRecvError},
};

use courser_core::record::Checkpoint;
use courser_store::{FrameNo, Store};

use crate::{
    command::Command, door::Door, failure::Failure, limits, memory, request::CommitStats,
    room::Room,
};

pub(crate) struct Keeper {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) checkpoints: Receiver<(Checkpoint, FrameNo)>,
    pub(crate) room: Room,
    pub(crate) door: Door,
    pub(crate) failure: Failure,
    pub(crate) stats: Arc<Mutex<CommitStats>>,
}

impl Keeper {
    /// Until nobody commits any more.
    pub(crate) fn run(self) {
        let mut next = self.wait(0);
        while let Some((checkpoint, upto)) = next.take() {
            self.apply(&checkpoint, upto);
            // In memory it is as large as the changes of three seconds.
            drop(checkpoint);
            next = self.reclaim().or_else(|| self.wait(limits::RESTS));
        }
    }

    /// The next checkpoint. When none comes, what was kept for a load that is over is given back.
    fn wait(&self, rests: u32) -> Option<(Checkpoint, FrameNo)> {
        for _ in 0..rests {
            match self.checkpoints.recv_timeout(limits::REST_INTERVAL) {
                Ok(next) => return Some(next),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if let Some(next) = self.reclaim() {
                return Some(next);
            }
        }
        if rests > 0 {
            memory::give_back();
        }
        self.checkpoints.recv().ok()
    }

    fn apply(&self, checkpoint: &Checkpoint, upto: FrameNo) {
        if self.failure.get().is_some() {
            return;
        }
        match self.store.checkpoint(checkpoint, upto) {
            Ok(()) => {
                self.count(|stats| stats.checkpoints += 1);
                drop(self.door.try_send(Command::CheckpointDone));
            }
            Err(error) => self.fail(&error),
        }
    }

    /// Step by step, until there is nothing to give back, or the next checkpoint comes.
    fn reclaim(&self) -> Option<(Checkpoint, FrameNo)> {
        while self.failure.get().is_none() {
            let (_, min_free) = self.room.figures();
            match self.store.reclaim(min_free) {
                Ok(step) => {
                    self.count(|stats| {
                        stats.segments_dropped += step.dropped;
                        stats.segments_rewritten += step.rewritten;
                    });
                    if !step.more {
                        return None;
                    }
                }
                Err(error) => self.fail(&error),
            }
            match self.checkpoints.try_recv() {
                Ok(next) => return Some(next),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => {}
            }
        }
        None
    }

    fn count(&self, count: impl FnOnce(&mut CommitStats)) {
        count(&mut self.stats.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn fail(&self, error: &courser_store::StoreError) {
        self.failure.set(error);
    }
}
