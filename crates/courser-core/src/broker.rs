//! All queues of a broker, and what is done with them: the one state machine.
//!
//! A `Broker` never reads a clock, touches a disk or wakes a task. Four kinds of method:
//!
//! - getters: `view`, `views`, `peek`
//! - commands: `create_queue`, `publish`, `subscribe`, `settle`, ...
//! - `handle_*`, news of the world: `handle_timeout`, `handle_taken`, `handle_disconnect`
//! - `poll_*` and `drain_*`, what it wants done: `poll_deliveries`, `poll_timeout`, `drain_records`
//!
//! At each turn: `handle_timeout(now)`, then the commands, then `poll_deliveries`, then
//! `drain_records`. `now` never goes back. A command that returns an error changed nothing. Nothing
//! that a command answered may be told to anybody before the records drained after it are durable.
//!
//! What needs entries that only the index holds takes a [`Pager`]; when it cannot read, the
//! broker goes on without, and its owner knows that the store failed.

mod admin;
mod definitions;
mod delivery;
mod publish;
mod recovery;
mod settle;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque},
    sync::Arc,
};

use rustc_hash::FxHashMap;

use crate::{
    consumer::{Consumer, Left, Unsent},
    id::{ChunkNo, ConsumerId, Position, QueueId, Seq},
    lease::Leases,
    limits,
    queue::Queue,
    random::Random,
    record::Record,
    routing::Routing,
    time::Timestamp,
};
pub use crate::{
    consumer::{ConsumerOptions, Progress},
    queue::Pager,
};
pub use admin::{RedriveStep, RedriveTask};
pub use delivery::HandOver;
pub use publish::{Placed, Placement};

/// Everything that a broker knows, but for the bodies of messages.
#[derive(Debug)]
pub struct Broker {
    queues: FxHashMap<QueueId, Queue>,
    names: BTreeMap<Arc<str>, QueueId>,
    routing: Routing,
    consumers: FxHashMap<ConsumerId, Consumer>,
    leases: Leases,
    /// When delayed entries are due, earliest first. An item counts only while its entry waits for
    /// that moment.
    due: BinaryHeap<Reverse<(Timestamp, QueueId, Seq)>>,
    /// Items of `due` at which those that count no more are cleared out.
    due_max: usize,
    /// Queues that may have something to deliver, in turn.
    active: VecDeque<QueueId>,
    next_position: Position,
    next_queue: QueueId,
    next_consumer: ConsumerId,
    random: Random,
    /// Facts to be made durable, in the order in which they became true.
    records: Vec<Record>,
    /// One of the records must be synced before anybody hears of it.
    sync_records: bool,
    /// Messages of which an entry was acked by the one that held it.
    acked: Vec<Position>,
    /// Queues that the index may still have.
    deleted_queues: BTreeSet<QueueId>,
    /// Consumers whose queue was deleted.
    ended: Vec<ConsumerId>,
    /// Consumers for whose connection an entry waits.
    blocked: Vec<ConsumerId>,
    /// Handed over since the last time it was asked, out of queues that had more than credit.
    handed_of_more: usize,
    /// What was handed to all connections and is not known to be taken.
    unsent: Unsent,
    /// What connections still hold of consumers that are gone; part of `unsent`.
    left: FxHashMap<ConsumerId, Left>,
    /// Queues in which a consumer waits for the room of others.
    starved: BTreeSet<QueueId>,
    /// Those from here on are looked at first.
    starved_next: QueueId,
    /// When it is to be looked for connections that take nothing, if room is short.
    stall_look: Timestamp,
    /// Consumers to be ended for that.
    stuck: Vec<ConsumerId>,
    /// Chunks of the checkpoint on its way, and of earlier ones those that memory could not let go of.
    checkpointed: BTreeSet<(QueueId, ChunkNo)>,
    /// Entries that came since the last checkpoint began: what memory may have grown by.
    grown: u64,
}

/// Facts for the store, and whether they must be synced before anybody hears of them.
#[derive(Debug, Default)]
pub struct Drained {
    /// In the order in which they became true.
    pub records: Vec<Record>,
    /// When not, written is enough.
    pub sync: bool,
    /// Messages of which a consumer acked an entry that it held, once for each entry: as many of them as
    /// queues took the message, and nobody wants it any more.
    pub acked: Vec<Position>,
}

impl Broker {
    /// An empty broker. `epoch` differs from start to start; `seed` is for jitter.
    #[must_use]
    pub fn new(epoch: u64, seed: u64) -> Self {
        Self {
            queues: FxHashMap::default(),
            names: BTreeMap::new(),
            routing: Routing::default(),
            consumers: FxHashMap::default(),
            leases: Leases::new(epoch),
            due: BinaryHeap::new(),
            due_max: limits::DUE_CLEARED_AT,
            active: VecDeque::new(),
            next_position: Position(1),
            next_queue: QueueId(1),
            next_consumer: ConsumerId(1),
            random: Random::new(seed),
            records: Vec::new(),
            sync_records: false,
            acked: Vec::new(),
            deleted_queues: BTreeSet::new(),
            ended: Vec::new(),
            blocked: Vec::new(),
            handed_of_more: 0,
            unsent: Unsent::default(),
            left: FxHashMap::default(),
            starved: BTreeSet::new(),
            starved_next: QueueId(0),
            stall_look: Timestamp::ZERO,
            stuck: Vec::new(),
            checkpointed: BTreeSet::new(),
            grown: 0,
        }
    }

    /// The position that the next message gets.
    #[must_use]
    pub fn next_position(&self) -> Position {
        self.next_position
    }

    /// Entries that came since the last checkpoint began.
    #[must_use]
    pub fn grown(&self) -> u64 {
        self.grown
    }

    /// The next moment at which `handle_timeout` has something to do.
    #[must_use]
    pub fn poll_timeout(&mut self) -> Option<Timestamp> {
        while let Some(Reverse((at, queue, seq))) = self.due.peek()
            && !self
                .queues
                .get(queue)
                .is_some_and(|queue| queue.may_wait(*seq, *at))
        {
            self.due.pop();
        }
        let due = self.due.peek().map(|Reverse((at, _, _))| *at);
        let look = self.next_stall_look();
        self.leases
            .poll_timeout()
            .into_iter()
            .chain(due)
            .chain(look)
            .min()
    }

    /// Leases that ran out, delays that have passed: the first few thousand of them; `poll_timeout`
    /// tells whether there are more. `taken` is asked how far a consumer's connection has come with what
    /// was handed to it: that decides whether a lease that ran out was an attempt, and who is in the way
    /// of others (`drain_stuck`). Of whom it knows nothing, the connection was given everything.
    pub fn handle_timeout(
        &mut self,
        now: Timestamp,
        pager: &mut Pager<'_>,
        taken: &mut dyn FnMut(ConsumerId) -> Option<Progress>,
    ) {
        self.look_for_stalls(now, taken);
        let mut left = limits::TIMEOUTS_AT_ONCE;
        while left > 0
            && let Some(lease) = self.leases.next_expired(now)
        {
            left -= 1;
            let consumer = self.leases.get(lease).and_then(|lease| lease.consumer);
            if let Some((consumer, progress)) =
                consumer.and_then(|consumer| Some((consumer, taken(consumer)?)))
            {
                self.handle_taken(consumer, progress.messages, progress.bytes);
            }
            self.expire(lease, now);
        }
        while left > 0
            && let Some(Reverse((at, queue, seq))) = self.due.peek().copied()
            && at <= now
        {
            left -= 1;
            self.due.pop();
            if let Some(of) = self.queues.get_mut(&queue) {
                of.wake(seq, at, pager);
                self.activate(queue);
            }
        }
    }

    /// An entry waits for this moment.
    fn wait_until(&mut self, at: Timestamp, queue: QueueId, seq: Seq) {
        if self.due.len() >= self.due_max {
            let queues = &self.queues;
            self.due.retain(|Reverse((at, queue, seq))| {
                queues
                    .get(queue)
                    .is_some_and(|queue| queue.may_wait(*seq, *at))
            });
            self.due_max = limits::DUE_CLEARED_AT + 2 * self.due.len();
        }
        self.due.push(Reverse((at, queue, seq)));
    }

    /// What became true since the last time.
    #[must_use]
    pub fn drain_records(&mut self) -> Drained {
        Drained {
            records: take_and_make_room(&mut self.records),
            sync: std::mem::take(&mut self.sync_records),
            acked: take_and_make_room(&mut self.acked),
        }
    }

    /// Consumers whose queue was deleted since the last time.
    #[must_use]
    pub fn drain_ended(&mut self) -> Vec<ConsumerId> {
        std::mem::take(&mut self.ended)
    }

    fn activate(&mut self, queue: QueueId) {
        if let Some(of) = self.queues.get_mut(&queue)
            && !of.active
        {
            of.active = true;
            self.active.push_back(queue);
        }
    }

    fn id(&self, name: &str) -> Option<QueueId> {
        self.names.get(name).copied()
    }
}

/// Takes what has gathered; about as much will fit in what remains without being moved as it grows.
fn take_and_make_room<T>(gathered: &mut Vec<T>) -> Vec<T> {
    let room = Vec::with_capacity(gathered.len().min(limits::ROOM_KEPT));
    std::mem::replace(gathered, room)
}
