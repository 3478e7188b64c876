//! The engine thread: the only owner of broker state.
//!
//! One loop, in turns: take the commands that wait, apply them to the core with one `now`, hand out
//! what can be delivered, and pass what became true and what is to be said to the committer. It wakes
//! for commands, for the next deadline of the core, and when a checkpoint is due.
//!
//! There is one seat, and who sits in it makes the turn: this thread, or for a little command that comes when
//! there is nothing else to do the thread that brings it (`door.rs`).

mod admin;
mod apply;
mod deliver;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    future::ready,
    sync::{
        Arc, Mutex,
        mpsc::{Sender, SyncSender, TrySendError},
    },
    thread::JoinHandle,
    time::Duration,
};

use courser_core::{
    broker::{Broker, HandOver, RedriveTask},
    id::{ChunkNo, ConsumerId, QueueId},
    random::Random,
    record::Chunk,
    time::Timestamp,
};
use courser_store::Store;
use rustc_hash::FxHashMap;
use tokio::sync::watch;

use crate::{
    clock::Clock,
    command::{Command, PublishCommand, Reply},
    committer::{Alone, Commits},
    door::{self, Door},
    failure::Failure,
    inbox::Inbox,
    limits,
    loader::Load,
    pace::Pace,
    recent::Recent,
    request::{CommitStats, Ended, Event, Health, QueueError, Redriven},
    room::Room,
    rush::Rush,
    turn::Turn,
    watch::Watch,
};
use deliver::Outlet;

pub(crate) struct Engine {
    pub(crate) broker: Broker,
    pub(crate) door: Door,
    pub(crate) turns: SyncSender<Turn>,
    pub(crate) commits: Arc<Commits>,
    pub(crate) loads: Sender<Load>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) failure: Failure,
    pub(crate) health: Arc<watch::Sender<Health>>,
    pub(crate) room: Room,
    pub(crate) clock: Clock,
    pub(crate) random: Random,
    pub(crate) recent: Recent,
    pub(crate) stats: Arc<Mutex<CommitStats>>,
    /// Where what is delivered goes.
    pub(crate) outlets: FxHashMap<ConsumerId, Outlet>,
    /// Empty between turns, and kept so that it need not grow in each.
    pub(crate) handed: Vec<HandOver>,
    /// Room for what is on its way to consumers was short when it was last looked.
    pub(crate) was_short: bool,
    /// Taken from the inbox and not applied yet; bounded by the permits that they hold.
    pub(crate) publishes: VecDeque<PublishCommand>,
    pub(crate) redrives: VecDeque<RedriveJob>,
    pub(crate) progress: Progress,
    /// The next turn follows at once.
    pub(crate) again: bool,
    /// Commands that came while the disk held it up. Time passes for leases only after these: what is said in them was
    /// said in time.
    pub(crate) behind: usize,
    /// The next turn begins with this: settles that wait for a publish, to be synced with it.
    pub(crate) joining: Turn,
    /// When they wait no longer.
    pub(crate) joins_until: Option<Timestamp>,
    pub(crate) pace: Pace,
    pub(crate) rush: Rush,
    /// When its thread wakes by itself.
    pub(crate) wakes_at: Option<Timestamp>,
    /// Who waits for the end.
    pub(crate) shutdown: Vec<Reply<()>>,
}

/// A redrive under way.
pub(crate) struct RedriveJob {
    pub(crate) task: RedriveTask,
    pub(crate) moved: u64,
    pub(crate) reply: Reply<Result<Redriven, QueueError>>,
}

/// What happened since the last checkpoint began.
#[derive(Default)]
pub(crate) struct Progress {
    bytes: u64,
    records: u64,
    /// When the first change after it came.
    changed_at: Option<Timestamp>,
    /// A checkpoint is on its way to the index.
    pub(crate) under_way: bool,
    /// One has begun since the start.
    has_begun: bool,
}

impl Progress {
    /// From a change to the checkpoint that brings it into the index. The first one is early: with it begins
    /// that the log is looked after, which has better files for a load than what a start makes in a hurry.
    fn interval(&self) -> Duration {
        if self.has_begun {
            limits::CHECKPOINT_INTERVAL
        } else {
            limits::FIRST_CHECKPOINT_INTERVAL
        }
    }

    /// There is too little room on the disk: a checkpoint is due also when nothing has changed, for behind it the keeper
    /// gives back what it can.
    pub(crate) fn note_shortage(&mut self, now: Timestamp) {
        self.changed_at.get_or_insert(now);
    }

    /// The log held records that the index does not: a checkpoint is due, so that the next start is
    /// quicker.
    pub(crate) fn note_replay(&mut self, now: Timestamp) {
        self.changed_at = Some(now);
        self.records = limits::CHECKPOINT_RECORDS;
    }
}

impl Engine {
    /// What its thread does, until shutdown. `threads` are those that end when this one lets go of them.
    /// `None` when it was cut short: somebody in the seat has panicked.
    pub(crate) async fn run(door: &Door, threads: Vec<JoinHandle<()>>) -> Option<()> {
        let mut commands = Vec::with_capacity(limits::COMMANDS_PER_TURN);
        let (seat, inbox) = (&*door.seat, &*door.inbox);
        let (clock, failure) = {
            let seat = door::take(seat)?;
            let engine = seat.as_ref()?;
            (engine.clock.clone(), engine.failure.clone())
        };
        while !inbox.has_ended() {
            let deadline = {
                let mut seat = door::take(seat)?;
                let engine = seat.as_mut()?;
                inbox.take(&mut commands, limits::COMMANDS_PER_TURN);
                if !commands.is_empty() || engine.is_due() {
                    engine.turn(&mut commands);
                }
                engine.sleep()
            };
            // Asked after it has left the seat: whoever found it taken relies on that.
            let is_awaited = !inbox.is_at_rest();
            tokio::select! {
                biased;
                () = failure.happens() => door::take(seat)?.as_mut()?.end_all(Ended::StoreFailed),
                () = ready(()), if is_awaited => {}
                () = inbox.wake.notified() => {}
                () = sleep_until(&clock, deadline) => {}
            }
        }
        let mut engine = door::take(seat)?.take()?;
        while !engine.publishes.is_empty() {
            engine.turn(&mut commands);
        }
        engine.end(threads);
        Some(())
    }

    fn is_due(&mut self) -> bool {
        let now = self.clock.now();
        self.deadline().is_some_and(|at| at <= now)
    }

    /// Notes when its thread is to wake.
    fn sleep(&mut self) -> Option<Timestamp> {
        self.wakes_at = self.deadline();
        self.wakes_at
    }

    /// A turn with what waits in the inbox, by the thread that brings it; `false` when this is more than a little, or
    /// there is something else to do.
    pub(crate) fn carry_out(&mut self, watch: &Watch) -> bool {
        if !self.may_carry_out() {
            return false;
        }
        let door = self.door.clone();
        let mut commands = Vec::new();
        door.inbox
            .take_little(&mut commands, limits::LITTLE_WAITING);
        if commands.is_empty() {
            return false;
        }
        let _tell = TellOfPanic(&door.inbox);
        let watched = watch.begin();
        self.turn(&mut commands);
        drop(watched);
        let deadline = self.deadline();
        if deadline.is_some_and(|at| self.wakes_at.is_none_or(|wakes| at < wakes)) {
            door.inbox.wake.notify_one();
        }
        true
    }

    /// Nothing is to be done that may be much, which is the engine's own work.
    fn may_carry_out(&mut self) -> bool {
        !self.again
            && self.behind == 0
            && self.publishes.is_empty()
            && self.shutdown.is_empty()
            && self.commits.would_commit_alone()
            && !self.is_due()
    }

    /// When the next turn is due without a command.
    fn deadline(&mut self) -> Option<Timestamp> {
        if self.again {
            return Some(Timestamp::ZERO);
        }
        let checkpoint = self
            .progress
            .changed_at
            .map(|at| at + self.progress.interval());
        let may_begin = !self.progress.under_way && self.failure.get().is_none();
        let checkpoint = checkpoint.filter(|_| may_begin);
        checkpoint
            .into_iter()
            .chain(self.broker.poll_timeout())
            .chain(self.recent.rest_at())
            .chain(self.joins_until)
            .min()
    }

    fn turn(&mut self, commands: &mut Vec<Command>) {
        let now = self.clock.now();
        let mut turn = std::mem::take(&mut self.joining);
        self.again = false;
        self.recent.trim();
        self.recent.rest(now);
        if self.behind == 0 {
            self.pass_time(now);
        }
        self.behind = self.behind.saturating_sub(commands.len());
        for command in commands.drain(..) {
            self.apply(command, now, &mut turn);
        }
        self.publish_waiting(now, &mut turn);
        self.step_redrive(now, &mut turn);
        self.deliver(now, &mut turn);
        self.rush.note(self.broker.take_handed_of_more(), now);
        self.submit(turn, now);
    }

    fn pass_time(&mut self, now: Timestamp) {
        if self.broker.poll_timeout().is_some_and(|at| at <= now) {
            let outlets = std::mem::take(&mut self.outlets);
            let mut taken = |consumer| outlets.get(&consumer).map(|outlet| outlet.flow.taken());
            self.with_pager(|broker, pager| broker.handle_timeout(now, pager, &mut taken));
            self.outlets = outlets;
            self.end_stuck(now);
        }
    }

    /// Passes on what became true and what is to be said.
    fn submit(&mut self, mut turn: Turn, now: Timestamp) {
        let drained = self.broker.drain_records();
        self.recent.forget_acked(&drained.acked);
        if !drained.records.is_empty() {
            self.progress.changed_at.get_or_insert(now);
        }
        self.progress.records += drained.records.len() as u64;
        self.progress.bytes += turn.message_bytes as u64;
        turn.records.extend(drained.records);
        turn.sync |= drained.sync;
        turn.next_position = self.broker.next_position();
        if !turn.messages.is_empty() {
            self.pace.note(now);
        }
        if self.checkpoint_is_due(now) {
            self.begin_checkpoint(&mut turn);
        }
        if turn.is_empty() {
            return;
        }
        let is_last = !self.again && self.door.inbox.has_little(limits::LITTLE_WAITING);
        if is_last && self.may_join(&turn, now) {
            self.joining = turn;
            return;
        }
        self.joins_until = None;
        // Whether anything waits behind it.
        if !is_last {
            return self.hand_on(turn);
        }
        match self.commits.commit_alone(turn) {
            Alone::NotNow(turn) => self.hand_on(turn),
            Alone::Done { is_slow, is_low } => {
                if is_slow {
                    self.behind = self.door.inbox.len();
                }
                if is_low {
                    // The committer looks again and again until there is room; it sleeps.
                    self.hand_on(Turn::default());
                }
            }
        }
    }

    /// Whether this turn waits for the next publish, to be synced with it.
    fn may_join(&mut self, turn: &Turn, now: Timestamp) -> bool {
        if !turn.is_patient() || !self.commits.would_commit_alone() {
            return false;
        }
        let until = match self.joins_until {
            Some(until) => until,
            None if self.pace.is_quick(now) => now + limits::JOIN_WAIT,
            None => return false,
        };
        self.joins_until = Some(until);
        now < until
    }

    fn hand_on(&mut self, turn: Turn) {
        self.commits.note_sent();
        let sent = match self.turns.try_send(turn) {
            Err(TrySendError::Full(turn)) => {
                let sent = self.turns.send(turn);
                self.behind = self.door.inbox.len();
                sent.is_ok()
            }
            sent => sent.is_ok(),
        };
        if !sent {
            self.failure.set(&"the committer has ended");
        }
    }

    fn checkpoint_is_due(&self, now: Timestamp) -> bool {
        let progress = &self.progress;
        let Some(changed_at) = progress.changed_at else {
            return false;
        };
        !progress.under_way
            && self.failure.get().is_none()
            && (now.since(changed_at) >= progress.interval()
                || progress.bytes >= limits::CHECKPOINT_BYTES
                || progress.records >= limits::CHECKPOINT_RECORDS
                || self.broker.grown() >= limits::CHECKPOINT_ENTRIES)
    }

    fn begin_checkpoint(&mut self, turn: &mut Turn) {
        self.progress = Progress {
            under_way: true,
            has_begun: true,
            ..Progress::default()
        };
        turn.checkpoint = Some(self.broker.checkpoint());
    }

    /// Has bodies read.
    pub(crate) fn ask_loader(&self, load: Load) {
        if self.loads.send(load).is_err() {
            self.failure.set(&"the loader has ended");
        }
    }

    /// Runs something of the core that may need entries which only the index holds.
    pub(crate) fn with_pager<T>(
        &mut self,
        run: impl FnOnce(&mut Broker, &mut dyn FnMut(QueueId, ChunkNo) -> Option<Chunk>) -> T,
    ) -> T {
        let (store, failure) = (&self.store, &self.failure);
        let mut pager = |queue, number| match store.page(queue, number) {
            Ok(chunk) => Some(chunk),
            Err(error) => {
                failure.set(&error);
                None
            }
        };
        run(&mut self.broker, &mut pager)
    }

    /// Ends every subscription.
    fn end_all(&mut self, ended: Ended) {
        if let (Ended::StoreFailed, Some(reason)) = (ended, self.failure.get()) {
            self.health
                .send_replace(Health::StoreFailed(reason.to_owned()));
        }
        let mut turn = std::mem::take(&mut self.joining);
        self.joins_until = None;
        let consumers: Vec<_> = self.outlets.keys().copied().collect();
        for consumer in consumers {
            // What it holds stays as it is: nothing more of that can be made durable.
            self.broker.detach(consumer);
            self.end_outlet(consumer, ended, &mut turn);
        }
        self.commits.note_sent();
        drop(self.turns.send(turn));
    }

    pub(crate) fn end_outlet(&mut self, consumer: ConsumerId, ended: Ended, turn: &mut Turn) {
        if let Some(outlet) = self.outlets.remove(&consumer) {
            turn.outputs
                .push(outlet.event(consumer, Event::Ended(ended)));
        }
    }

    /// Everybody is told, everything is flushed, all threads have ended.
    fn end(mut self, threads: Vec<JoinHandle<()>>) {
        self.end_all(Ended::ShuttingDown);
        if self.failure.get().is_none() {
            let checkpoint = Some(self.broker.checkpoint());
            self.commits.note_sent();
            drop(self.turns.send(Turn {
                checkpoint,
                ..Turn::default()
            }));
        }
        // With the way to the log goes what the keeper waits for.
        drop((self.turns, self.loads, self.commits));
        if let Some(watch) = &self.door.watch {
            watch.end();
        }
        for thread in threads {
            drop(thread.join());
        }
        // The last one that holds the store: its folder is free before anybody hears of the end.
        drop(self.store);
        for reply in self.shutdown {
            let _ = reply.send(());
        }
    }
}

/// Its thread must hear that somebody panicked in its seat.
struct TellOfPanic<'a>(&'a Inbox);

impl Drop for TellOfPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.wake.notify_one();
        }
    }
}

async fn sleep_until(clock: &Clock, deadline: Option<Timestamp>) {
    match deadline {
        Some(at) => clock.sleep_until(at).await,
        None => std::future::pending().await,
    }
}
