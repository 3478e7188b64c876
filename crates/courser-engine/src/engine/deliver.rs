//! From hand-overs of the core to deliveries with their messages.
//!
//! A message that is not among the recent ones is read by the loader. What comes after it for the same
//! consumer waits, so that the order stays.
//!
//! What is delivered is told when its turn is durable, as everything is. A first delivery of a message that is in the log tells
//! nothing that the log does not know, and does not wait: a consumer that is behind would get one window for each group
//! that its producers fill, and fall further behind. `docs/decisions/0120-not-behind-the-next-group.md`

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use courser_core::{
    broker::{Broker, HandOver, Progress},
    id::{ConsumerId, LeaseId, Position},
    lease::{Settlement, Verdict},
    message::SharedMessage,
    time::Timestamp,
};
use tokio::sync::mpsc;

use super::Engine;
use crate::{
    limits,
    loader::{Load, Loaded},
    request::{Delivery, Ended, Event},
    subscription::{Cut, Flow},
    turn::{Output, Turn, Unsaid},
};

/// Of an entry that was acked as it was handed over.
const NO_LEASE: LeaseId = LeaseId(0);
/// Of an entry that was recalled while its message was being read.
const RECALLED: LeaseId = LeaseId(u64::MAX);

/// Where the deliveries of one consumer go.
#[derive(Debug)]
pub(crate) struct Outlet {
    events: mpsc::UnboundedSender<Event>,
    pub(super) flow: Flow,
    /// Ends its connection.
    cut: Cut,
    /// With their messages, to go out in this turn.
    batch: Vec<Delivery>,
    /// Behind a message that is not in memory, in order.
    waiting: VecDeque<HandOver>,
    /// How many of those the loader is reading.
    loading: usize,
    /// Is to be told once nothing waits.
    draining: bool,
    /// Bytes handed over in all.
    handed_bytes: u64,
    /// The consumer is gone. Its connection holds something of it, and can be cut for that.
    is_left: bool,
    /// Events that wait for a commit and that no delivery may overtake.
    unsaid: Arc<AtomicUsize>,
}

impl Outlet {
    pub(crate) fn new(events: mpsc::UnboundedSender<Event>, flow: Flow, cut: Cut) -> Self {
        Self {
            events,
            flow,
            cut,
            batch: Vec::new(),
            waiting: VecDeque::new(),
            loading: 0,
            draining: false,
            handed_bytes: 0,
            is_left: false,
            unsaid: Arc::default(),
        }
    }

    /// The message of what waited for it is there; answers whether the engine waits to hear that it is not handed over after
    /// all.
    fn complete(&mut self, hand_over: HandOver, message: SharedMessage) -> bool {
        if hand_over.lease_id == RECALLED {
            return self.flow.pass_over(hand_over.size);
        }
        self.batch.push(delivery(hand_over, message));
        false
    }

    /// Sends those of the first deliveries that need not wait for the commit of their turn, unless others wait for an earlier
    /// one: what comes before `committed` is in the log.
    fn send_at_once(&mut self, committed: Position) {
        if self.batch.is_empty() || self.unsaid.load(Ordering::Acquire) > 0 {
            return;
        }
        let is_free = |of: &&Delivery| of.is_as_published() && of.message.position < committed;
        let count = self.batch.iter().take_while(is_free).count();
        if count == 0 {
            return;
        }
        let rest = self.batch.split_off(count);
        let deliveries = std::mem::replace(&mut self.batch, rest);
        // A subscription that is gone tells that itself.
        drop(self.events.send(Event::Deliveries(deliveries)));
    }

    /// An event for the consumer that this is the outlet of, to be said when the turn is durable.
    pub(crate) fn event(&self, consumer: ConsumerId, event: Event) -> Output {
        // Answers to settles and deliveries say nothing of each other.
        let is_counted = !matches!(event, Event::Settled(..) | Event::Refused(..));
        Output::Event {
            consumer,
            events: self.events.clone(),
            event,
            unsaid: is_counted.then(|| Unsaid::new(&self.unsaid)),
        }
    }
}

impl Engine {
    pub(super) fn deliver(&mut self, now: Timestamp, turn: &mut Turn) {
        // What was told in this turn may have ended the shortage: everybody is asked when the next one begins.
        self.was_short &= self.broker.is_short_of_room();
        // First: what their connections hold is no room for others.
        for consumer in self.broker.drain_ended() {
            self.end_deleted(consumer, turn);
        }
        let mut handed = std::mem::take(&mut self.handed);
        self.again |= self.with_pager(|broker, pager| {
            broker.poll_deliveries(now, limits::DELIVERIES_PER_TURN, pager, &mut handed)
        });
        self.note_blocked();
        let mut touched: Vec<ConsumerId> = Vec::new();
        let mut acked = Vec::new();
        let mut rest = handed.drain(..);
        while let Some(first) = rest.as_slice().first() {
            let consumer = first.consumer;
            let same = rest
                .as_slice()
                .iter()
                .take_while(|of| of.consumer == consumer);
            let run = same.count();
            let Some(outlet) = self.outlets.get_mut(&consumer) else {
                rest.by_ref().take(run).for_each(drop);
                continue;
            };
            touched.push(consumer);
            if outlet.waiting.is_empty() {
                outlet.batch.reserve(run);
            }
            for hand_over in rest.by_ref().take(run) {
                outlet.handed_bytes += u64::from(hand_over.size);
                match self.recent.hand_over(hand_over.position) {
                    Some(message) if outlet.waiting.is_empty() => {
                        if hand_over.lease_id == NO_LEASE {
                            acked.push(hand_over.position);
                        }
                        outlet.batch.push(delivery(hand_over, message));
                    }
                    _ => outlet.waiting.push_back(hand_over),
                }
            }
        }
        drop(rest);
        self.handed = handed;
        self.recent.forget_acked(&acked);
        touched.sort_unstable();
        touched.dedup();
        for consumer in touched {
            self.flush(consumer, turn);
        }
    }

    /// Sends what is complete, and asks for what is not.
    fn flush(&mut self, consumer: ConsumerId, turn: &mut Turn) {
        let Some(outlet) = self.outlets.get_mut(&consumer) else {
            return;
        };
        let mut is_waited_for = false;
        while outlet.loading == 0
            && let Some(next) = outlet.waiting.front()
            && let Some(message) = self.recent.hand_over(next.position)
        {
            let hand_over = outlet.waiting.pop_front().expect("looked at above");
            is_waited_for |= outlet.complete(hand_over, message);
        }
        if is_waited_for {
            self.note_taken(consumer);
        }
        let Some(outlet) = self.outlets.get_mut(&consumer) else {
            return;
        };
        if outlet.loading == 0 && !outlet.waiting.is_empty() {
            self.load(consumer);
        }
        let Some(outlet) = self.outlets.get_mut(&consumer) else {
            return;
        };
        outlet.send_at_once(self.recent.committed());
        if !outlet.batch.is_empty() {
            let deliveries = Event::Deliveries(std::mem::take(&mut outlet.batch));
            turn.outputs.push(outlet.event(consumer, deliveries));
        }
        if outlet.draining && outlet.waiting.is_empty() {
            outlet.draining = false;
            turn.outputs.push(outlet.event(consumer, Event::Drained));
        }
    }

    /// Asks the loader for the next messages of a consumer.
    fn load(&mut self, consumer: ConsumerId) {
        let Some(outlet) = self.outlets.get_mut(&consumer) else {
            return;
        };
        let (mut positions, mut bytes) = (Vec::new(), 0);
        for hand_over in &outlet.waiting {
            bytes += u64::from(hand_over.size);
            let known = self.recent.get(hand_over.position).is_some();
            if known || (bytes > limits::LOAD_BYTES_MAX && !positions.is_empty()) {
                break;
            }
            positions.push(hand_over.position);
        }
        outlet.loading = positions.len();
        self.ask_loader(Load::Deliveries {
            consumer,
            positions,
        });
    }

    /// What the loader has read.
    pub(super) fn loaded(&mut self, loaded: Loaded, now: Timestamp, turn: &mut Turn) {
        let Some(outlet) = self.outlets.get_mut(&loaded.consumer) else {
            return;
        };
        outlet.loading = 0;
        let mut is_waited_for = false;
        for message in loaded.messages {
            let Some(hand_over) = outlet.waiting.pop_front() else {
                break;
            };
            match message {
                Some(message) => is_waited_for |= outlet.complete(hand_over, message),
                // Nobody settled it: handed out again, it would not be there either.
                None if self.broker.holds(hand_over.lease_id) => {
                    let position = hand_over.position;
                    let names = self.broker.consumer_names(loaded.consumer);
                    let queue = names.map_or_else(|| "".into(), |(queue, _)| queue);
                    self.failure.set(&format_args!(
                        "message {position} of queue `{queue}` is not in the log, and nobody has settled it: a file of the \
                         log is missing, and `courser verify` says which messages are gone; restore it from a backup, or \
                         get out what can be read with `courser salvage` and start in an empty folder"
                    ));
                    break;
                }
                // Settled while it was being read, by a late answer to an earlier lease: nothing is
                // sent, and nothing is to be waited for.
                None => {
                    tracing::debug!(position = %hand_over.position, "message is gone");
                    is_waited_for |= outlet.flow.pass_over(hand_over.size);
                    release(&mut self.broker, hand_over.lease_id, now);
                }
            }
        }
        if is_waited_for {
            self.note_taken(loaded.consumer);
        }
        self.flush(loaded.consumer, turn);
    }

    // ---- what connections have taken

    /// Entries wait for these consumers' connections: the engine is to be told when they take more.
    fn note_blocked(&mut self) {
        let mut waited_for = self.broker.drain_blocked();
        let is_short = self.broker.is_short_of_room();
        if is_short && !self.was_short {
            // It was not looked until now what those took that nothing waited for.
            waited_for.extend(self.outlets.keys());
        }
        self.was_short = is_short;
        for consumer in waited_for {
            self.again |= self.hear_of(consumer, Flow::wait);
        }
    }

    /// Asks how far a consumer's connection has come, by `ask`, which may ask to be told when it comes further; answers
    /// whether that is news.
    fn hear_of(&mut self, consumer: ConsumerId, ask: impl FnOnce(&Flow) -> Progress) -> bool {
        let Some(outlet) = self.outlets.get(&consumer) else {
            return false;
        };
        let progress = ask(&outlet.flow);
        if !outlet.is_left {
            let Progress {
                messages, bytes, ..
            } = progress;
            return self.broker.handle_taken(consumer, messages, bytes);
        }
        if progress.held_bytes == 0 {
            self.outlets.remove(&consumer);
        }
        self.broker.handle_left(consumer, progress.held_bytes)
    }

    /// Ends the connections of consumers that hold what others wait for, and take none of it.
    pub(super) fn end_stuck(&mut self, now: Timestamp) {
        for consumer in self.broker.drain_stuck() {
            let Some(outlet) = self.outlets.remove(&consumer) else {
                continue;
            };
            if let Some((queue, name)) = self.broker.consumer_names(consumer) {
                let seconds = courser_core::limits::UNSENT_TIME_MAX.as_secs();
                tracing::warn!(
                    %queue,
                    consumer = %name,
                    "a consumer took nothing for {seconds} s while others waited for the memory, its connection is cut"
                );
            } else {
                tracing::warn!(
                    "a connection whose consumer is gone did not take the rest, its connection is cut"
                );
            }
            outlet.cut.give();
            self.broker.handle_disconnect(consumer, now);
            self.broker.handle_left(consumer, 0);
        }
    }

    /// A consumer that waited for its connection has taken more.
    pub(super) fn note_taken(&mut self, consumer: ConsumerId) {
        let is_left = |outlet: &Outlet| outlet.is_left;
        let is_waited_for =
            self.broker.is_short_of_room() || self.outlets.get(&consumer).is_some_and(is_left);
        // Otherwise it is asked to tell again when something waits for it again.
        let ask = if is_waited_for {
            Flow::wait
        } else {
            Flow::taken
        };
        self.hear_of(consumer, ask);
    }

    /// What is on its way to a consumer waited for longer than its lease: from there on all of it goes back, and comes again
    /// in its order.
    pub(super) fn recall(&mut self, consumer: ConsumerId, from: LeaseId, turn: &mut Turn) {
        let Some(outlet) = self.outlets.get_mut(&consumer) else {
            return;
        };
        if outlet.is_left {
            return;
        }
        for hand_over in &mut outlet.waiting {
            hand_over.lease_id = RECALLED;
        }
        self.broker.recall(consumer, from);
        turn.outputs.push(outlet.event(consumer, Event::Recalled));
    }

    /// A consumer wants no more.
    pub(super) fn drain(&mut self, consumer: ConsumerId, turn: &mut Turn) {
        self.broker.drain(consumer);
        if let Some(outlet) = self.outlets.get_mut(&consumer) {
            outlet.draining = true;
            self.flush(consumer, turn);
        }
    }

    /// A consumer is gone, and what it holds stays leased.
    pub(super) fn detach(&mut self, consumer: ConsumerId) {
        if self.outlets.remove(&consumer).is_some() {
            self.broker.detach(consumer);
            self.broker.handle_left(consumer, 0);
        }
    }

    /// A consumer is gone, and what it holds goes back; without blame what it never saw.
    pub(super) fn unsubscribe(
        &mut self,
        consumer: ConsumerId,
        unsent: Vec<LeaseId>,
        now: Timestamp,
    ) {
        let Some(outlet) = self.outlets.get(&consumer) else {
            return;
        };
        if !outlet.is_left {
            self.broker.drain(consumer);
            for lease_id in unsent {
                release(&mut self.broker, lease_id, now);
            }
            let taken = outlet.flow.taken();
            self.broker
                .handle_taken(consumer, taken.messages, taken.bytes);
            self.broker.handle_disconnect(consumer, now);
        }
        self.leave(consumer);
    }

    /// A consumer is gone with its queue, and what it holds is nobody's.
    fn end_deleted(&mut self, consumer: ConsumerId, turn: &mut Turn) {
        let Some(outlet) = self.outlets.get(&consumer) else {
            return;
        };
        let ended = Event::Ended(Ended::QueueDeleted);
        turn.outputs.push(outlet.event(consumer, ended));
        let unread: u64 = outlet.waiting.iter().map(|w| u64::from(w.size)).sum();
        outlet.flow.promise(outlet.handed_bytes - unread);
        self.leave(consumer);
    }

    /// A consumer is gone. What its connection holds all the same stays in memory for as long as its peer
    /// likes: that counts, and is heard of, until it is gone as well.
    fn leave(&mut self, consumer: ConsumerId) {
        if let Some(outlet) = self.outlets.get_mut(&consumer) {
            outlet.is_left = true;
            outlet.waiting = VecDeque::new();
            self.hear_of(consumer, Flow::wait);
        }
    }
}

/// Gives a lease back without blame, unless it has ended already.
fn release(broker: &mut Broker, lease_id: LeaseId, now: Timestamp) {
    let verdict = Verdict::Release;
    drop(broker.settle(now, Settlement { lease_id, verdict }));
}

impl Delivery {
    /// Whether the entry is as its publish made it. What has failed, was moved, or is acked as it is handed over is so by a later
    /// record.
    fn is_as_published(&self) -> bool {
        self.attempt == 1 && self.note.is_none() && self.lease_id != NO_LEASE
    }
}

fn delivery(hand_over: HandOver, message: SharedMessage) -> Delivery {
    Delivery {
        lease_id: hand_over.lease_id,
        attempt: hand_over.attempt,
        lease_until: hand_over.lease_until,
        message,
        note: hand_over.note,
    }
}
