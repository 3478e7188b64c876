//! Makes turns durable. The only writer of the log.
//!
//! One thread, one loop: take a turn, gather what else waits, commit it all as one group, then release
//! what it says, in order. While a group is on its way to the disk, the engine works on the next:
//! groups are small when there is little to do and large under load, and nobody waits on a timer.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender},
    },
    time::Duration,
};

use courser_core::{
    record::{Checkpoint, Group},
    time::Timestamp,
};
use courser_store::{FrameNo, Store, StoreError};
use tokio::sync::mpsc;

use crate::{
    clock::Clock,
    command::Command,
    failure::Failure,
    limits,
    recent::Committed,
    request::CommitStats,
    room::Lookout,
    turn::{Output, Turn},
};

pub(crate) struct Committer {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) turns: Receiver<Turn>,
    pub(crate) checkpoints: Sender<(Checkpoint, FrameNo)>,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) failure: Failure,
    pub(crate) stats: Arc<Mutex<CommitStats>>,
    pub(crate) clock: Clock,
    pub(crate) committed: Committed,
    pub(crate) lookout: Lookout,
    /// The last frame of the log as it was recovered.
    pub(crate) last_frame: FrameNo,
}

impl Committer {
    /// Until the engine ends.
    pub(crate) fn run(mut self) {
        let mut last_frame = self.last_frame;
        // When the sync of what was written without one is due.
        let mut sync_at = None;
        loop {
            let wait = sync_at.map(|at: Timestamp| at.since(self.clock.now()));
            let wait = wait.unwrap_or(Duration::MAX).min(self.lookout.wait());
            let first = match self.turns.recv_timeout(wait) {
                Ok(turn) => turn,
                Err(RecvTimeoutError::Timeout) => {
                    if sync_at.take_if(|at| *at <= self.clock.now()).is_some() {
                        self.note(self.store.sync());
                    }
                    self.lookout.look(self.clock.now());
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let mut gathered = self.gather(first);
            // Work that wants no sync must not put off the one that is due.
            let now = self.clock.now();
            let is_due = sync_at.is_some_and(|at| at <= now);
            if !gathered.is_empty() {
                gathered.sync |= is_due;
                let due = sync_at.unwrap_or(now + limits::BUFFERED_SYNC_INTERVAL);
                sync_at = (!gathered.sync).then_some(due);
            } else if is_due {
                self.note(self.store.sync());
                sync_at = None;
            }
            match self.commit(&gathered, &mut last_frame) {
                Ok(()) => {
                    self.release(std::mem::take(&mut gathered.outputs));
                    self.lookout.note_written(gathered.bytes, self.clock.now());
                }
                Err(()) => self.refuse(std::mem::take(&mut gathered.outputs)),
            }
            if let Some(checkpoint) = gathered.checkpoint
                && self.failure.get().is_none()
                && self.checkpoints.send((checkpoint, last_frame)).is_err()
            {
                self.failure.set(&"the keeper has ended");
            }
        }
        if sync_at.is_some() {
            self.note(self.store.sync());
        }
    }

    /// Takes what else waits, up to a size, or to a checkpoint, which stands between two frames.
    fn gather(&self, first: Turn) -> Gathered {
        let mut gathered = Gathered::new(first);
        while gathered.bytes < limits::GROUP_BYTES_MAX
            && gathered.group.records.len() < limits::GROUP_RECORDS_MAX
            && gathered.checkpoint.is_none()
        {
            let Ok(turn) = self.turns.try_recv() else {
                break;
            };
            gathered.add(turn);
        }
        gathered
    }

    fn commit(&self, gathered: &Gathered, last_frame: &mut FrameNo) -> Result<(), ()> {
        if self.failure.get().is_some() {
            return Err(());
        }
        let group = &gathered.group;
        if gathered.is_empty() {
            return Ok(());
        }
        let before = self.clock.now();
        match self.store.commit(group, gathered.sync) {
            Ok(frame) => {
                *last_frame = frame;
                self.committed.advance(group.next_position);
            }
            Err(error) => {
                self.note(Err(error));
                return Err(());
            }
        }
        let mut stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        stats.duration.record(self.clock.now().since(before));
        stats.groups += 1;
        stats.records += group.records.len() as u64;
        stats.messages += group.messages.len() as u64;
        stats.message_bytes += gathered.bytes as u64;
        Ok(())
    }

    fn release(&self, outputs: Vec<Output>) {
        for output in outputs {
            output.release(&self.commands);
        }
    }

    fn refuse(&self, outputs: Vec<Output>) {
        for output in outputs {
            output.fail();
        }
    }

    fn note(&self, result: Result<(), StoreError>) {
        if let Err(error) = result {
            self.failure.set(&error);
        }
    }
}

/// Turns that become one frame.
struct Gathered {
    group: Group,
    bytes: usize,
    sync: bool,
    outputs: Vec<Output>,
    checkpoint: Option<Checkpoint>,
}

impl Gathered {
    fn new(turn: Turn) -> Self {
        Self {
            group: Group {
                messages: turn.messages,
                records: turn.records,
                next_position: turn.next_position,
            },
            bytes: turn.message_bytes,
            sync: turn.sync,
            outputs: turn.outputs,
            checkpoint: turn.checkpoint,
        }
    }

    /// Nothing is to be written.
    fn is_empty(&self) -> bool {
        self.group.records.is_empty() && self.group.messages.is_empty()
    }

    fn add(&mut self, mut turn: Turn) {
        self.group.messages.append(&mut turn.messages);
        self.group.records.append(&mut turn.records);
        let next = &mut self.group.next_position;
        *next = turn.next_position.max(*next);
        self.bytes += turn.message_bytes;
        self.sync |= turn.sync;
        self.outputs.append(&mut turn.outputs);
        self.checkpoint = turn.checkpoint;
    }
}
