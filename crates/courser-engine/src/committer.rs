//! Makes turns durable. The only writer of the log.
//!
//! One thread, one loop: take a turn, gather what else waits, commit it all as one group, then release
//! what it says, in order. While a group is on its way to the disk, the engine works on the next:
//! groups are small when there is little to do and large under load, and nobody waits on a timer.
//!
//! A little turn the engine commits itself when this thread has nothing, which saves waking it: the sync takes no
//! longer than that. What waits behind it is as little. `docs/decisions/0060-little-turns.md`.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender},
    },
    time::Duration,
};

use courser_core::{
    record::{Checkpoint, Group},
    time::Timestamp,
};
use courser_store::{FrameNo, Store, StoreError};

use crate::{
    clock::Clock,
    command::Command,
    door::Door,
    failure::Failure,
    limits,
    recent::Committed,
    request::CommitStats,
    room::Lookout,
    turn::{Output, Turn},
};

pub(crate) struct Committer {
    pub(crate) turns: Receiver<Turn>,
    pub(crate) commits: Arc<Commits>,
}

/// What is written to the log, and by whom: the committer's thread, or for the little that comes when it has nothing the
/// engine itself.
pub(crate) struct Commits {
    log: Mutex<Log>,
    /// Turns that the committer has and is not done with.
    under_way: AtomicUsize,
    /// The last group that was synced was on the disk at once.
    is_quick: AtomicBool,
}

/// The only way to the log.
pub(crate) struct Log {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) checkpoints: Sender<(Checkpoint, FrameNo)>,
    pub(crate) door: Door,
    pub(crate) failure: Failure,
    pub(crate) stats: Arc<Mutex<CommitStats>>,
    pub(crate) clock: Clock,
    pub(crate) committed: Committed,
    pub(crate) lookout: Lookout,
    /// The last frame of the log.
    pub(crate) last_frame: FrameNo,
    /// When the sync of what was written without one is due.
    pub(crate) sync_at: Option<Timestamp>,
}

impl Commits {
    pub(crate) fn new(log: Log) -> Self {
        Self {
            log: Mutex::new(log),
            under_way: AtomicUsize::new(0),
            is_quick: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The committer is told of a turn.
    pub(crate) fn note_sent(&self) {
        self.under_way.fetch_add(1, Ordering::Relaxed);
    }

    /// Nothing is before it, and the disk is quick.
    pub(crate) fn would_commit_alone(&self) -> bool {
        self.is_quick.load(Ordering::Relaxed) && self.under_way.load(Ordering::Acquire) == 0
    }

    /// Commits a turn here and now, if it is little, nothing is before it, and the disk is quick.
    pub(crate) fn commit_alone(&self, turn: Turn) -> Alone {
        if !turn.is_little() || !self.would_commit_alone() {
            return Alone::NotNow(turn);
        }
        let Ok(mut log) = self.log.try_lock() else {
            return Alone::NotNow(turn);
        };
        if log.failure.get().is_some() || log.lookout.is_low() {
            return Alone::NotNow(turn);
        }
        self.perform(&mut log, Gathered::new(turn));
        Alone::Done {
            is_slow: !self.is_quick.load(Ordering::Relaxed),
            is_low: log.lookout.is_low(),
        }
    }

    fn perform(&self, log: &mut Log, gathered: Gathered) {
        if let Some(took) = log.perform(gathered) {
            self.is_quick
                .store(took <= limits::QUICK_COMMIT, Ordering::Relaxed);
        }
    }
}

/// What became of a turn that the engine would commit itself.
pub(crate) enum Alone {
    /// It is committed, and what it says is said.
    Done {
        /// It took long.
        is_slow: bool,
        /// There is too little room on the disk now.
        is_low: bool,
    },
    /// The committer is to do it.
    NotNow(Turn),
}

impl Committer {
    /// Until the engine ends.
    pub(crate) fn run(self) {
        let commits = &self.commits;
        loop {
            let wait = commits.lock().wait();
            let first = match self.turns.recv_timeout(wait) {
                Ok(turn) => turn,
                Err(RecvTimeoutError::Timeout) => {
                    commits.lock().look();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let gathered = self.gather(first);
            let turns = gathered.turns;
            commits.perform(&mut commits.lock(), gathered);
            commits.under_way.fetch_sub(turns, Ordering::Release);
        }
        commits.lock().end();
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
}

impl Log {
    /// How long nothing is to be done unless a turn comes.
    fn wait(&self) -> Duration {
        let wait = self.sync_at.map(|at| at.since(self.clock.now()));
        wait.unwrap_or(Duration::MAX).min(self.lookout.wait())
    }

    /// No turn has come.
    fn look(&mut self) {
        let now = self.clock.now();
        if self.sync_at.take_if(|at| *at <= now).is_some() {
            self.note(self.store.sync());
        }
        let is_short = self.lookout.look(self.clock.now());
        self.note_room(is_short);
    }

    /// Has what can be given back given back, if there is too little room since just now.
    fn note_room(&self, is_short: bool) {
        if is_short {
            drop(self.door.try_send(Command::RoomIsShort));
        }
    }

    fn end(&mut self) {
        if self.sync_at.is_some() {
            self.note(self.store.sync());
        }
    }

    /// Writes what there is to write, and says what there is to say; answers how long the sync of a group took.
    fn perform(&mut self, mut gathered: Gathered) -> Option<Duration> {
        // Work that wants no sync must not put off the one that is due.
        let now = self.clock.now();
        let is_due = self.sync_at.is_some_and(|at| at <= now);
        if !gathered.is_empty() {
            gathered.sync |= is_due;
            let due = self.sync_at.unwrap_or(now + limits::BUFFERED_SYNC_INTERVAL);
            self.sync_at = (!gathered.sync).then_some(due);
        } else if is_due {
            self.note(self.store.sync());
            self.sync_at = None;
        }
        let outputs = std::mem::take(&mut gathered.outputs);
        let committed = self.commit(&gathered);
        let took = committed.unwrap_or_default().filter(|_| gathered.sync);
        match committed {
            Ok(_) => {
                for output in outputs {
                    output.release(&self.door);
                }
                let is_short = self.lookout.note_written(gathered.bytes, self.clock.now());
                self.note_room(is_short);
            }
            Err(()) => outputs.into_iter().for_each(Output::fail),
        }
        if let Some(checkpoint) = gathered.checkpoint
            && self.failure.get().is_none()
            && self
                .checkpoints
                .send((checkpoint, self.last_frame))
                .is_err()
        {
            self.failure.set(&"the keeper has ended");
        }
        took
    }

    /// Answers how long it took, if there was anything.
    fn commit(&mut self, gathered: &Gathered) -> Result<Option<Duration>, ()> {
        if self.failure.get().is_some() {
            return Err(());
        }
        let group = &gathered.group;
        if gathered.is_empty() {
            return Ok(None);
        }
        let before = self.clock.now();
        match self.store.commit(group, gathered.sync) {
            Ok(frame) => {
                self.last_frame = frame;
                self.committed.advance(group.next_position);
            }
            Err(error) => {
                self.note(Err(error));
                return Err(());
            }
        }
        let took = self.clock.now().since(before);
        let mut stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        stats.duration.record(took);
        stats.groups += 1;
        stats.records += group.records.len() as u64;
        stats.messages += group.messages.len() as u64;
        stats.message_bytes += gathered.bytes as u64;
        Ok(Some(took))
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
    /// How many it was made of.
    turns: usize,
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
            turns: 1,
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
        self.turns += 1;
    }
}
