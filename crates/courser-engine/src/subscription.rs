//! A consumer's side of the engine: events come, settlements go.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use courser_core::{
    broker::Progress,
    id::{ConsumerId, LeaseId},
};
use tokio::sync::{Semaphore, mpsc};

use crate::{
    clock::Clock,
    command::Command,
    door::Door,
    limits,
    request::{Along, Delivery, Event, Settlement},
};

/// How much of what was handed to a consumer's connection the connection has taken.
///
/// A delivery counts as sent, and so as an attempt when the consumer goes away, once the connection
/// took it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flow(Arc<FlowCounts>);

#[derive(Debug, Default)]
struct FlowCounts {
    messages: AtomicU64,
    bytes: AtomicU64,
    /// Bytes that were given to the connection, taken or not.
    given_bytes: AtomicU64,
    /// Bytes that may still be given to it, with those before: of a consumer whose queue is gone, while
    /// its subscription is there. 0 otherwise.
    promised_bytes: AtomicU64,
    /// The connection has asked for more, and was given nothing since.
    asking: Arc<AtomicBool>,
    /// The subscription is gone: nothing more is given to the connection.
    ended: AtomicBool,
    /// The engine waits to hear of more.
    waited_for: AtomicBool,
}

impl Flow {
    /// How far the connection has come.
    pub(crate) fn taken(&self) -> Progress {
        let counts = &*self.0;
        // What is taken was given before: asked for first, it is never the larger of the two.
        let messages = counts.messages.load(Ordering::SeqCst);
        let bytes = counts.bytes.load(Ordering::SeqCst);
        let is_asking = counts.asking.load(Ordering::SeqCst);
        let mut given = counts.given_bytes.load(Ordering::SeqCst);
        if !counts.ended.load(Ordering::SeqCst) {
            given = given.max(counts.promised_bytes.load(Ordering::SeqCst));
        }
        Progress {
            messages,
            bytes,
            held_bytes: given.saturating_sub(bytes),
            is_asking,
        }
    }

    /// Asks to be told when more is taken; answers what was taken so far.
    pub(crate) fn wait(&self) -> Progress {
        self.0.waited_for.store(true, Ordering::SeqCst);
        self.taken()
    }

    /// A message of `size` bytes will not be handed over after all; answers whether the engine waits to
    /// hear of it.
    pub(crate) fn pass_over(&self, size: u32) -> bool {
        self.give(size.into());
        self.add(1, size.into())
    }

    /// The queue is gone; what was sent to the subscription until then, `bytes` in all, is there.
    pub(crate) fn promise(&self, bytes: u64) {
        self.0.promised_bytes.store(bytes, Ordering::SeqCst);
    }

    fn give(&self, bytes: u64) {
        self.0.given_bytes.fetch_add(bytes, Ordering::SeqCst);
    }

    /// Adds to what was taken; answers whether the engine waits to hear of it.
    fn add(&self, messages: u64, bytes: u64) -> bool {
        self.0.bytes.fetch_add(bytes, Ordering::SeqCst);
        self.0.messages.fetch_add(messages, Ordering::SeqCst);
        self.0.waited_for.swap(false, Ordering::SeqCst)
    }
}

/// Deliveries on their way through a connection: with its end, the connection has taken them.
///
/// Whoever hands deliveries to a connection keeps this with their bytes, and lets go of both at once.
#[derive(Debug)]
pub struct Unsent {
    flow: Flow,
    consumer: ConsumerId,
    door: Door,
    messages: u64,
    bytes: u64,
}

impl Drop for Unsent {
    fn drop(&mut self) {
        if self.messages > 0 && self.flow.add(self.messages, self.bytes) {
            let consumer = self.consumer;
            self.door.tell("taken", Command::Taken { consumer });
        }
    }
}

/// How the engine ends the connection of a consumer that holds what others need, and takes none of it.
#[derive(Clone, Default)]
pub struct Cut(Option<Arc<dyn Fn() + Send + Sync>>);

impl Cut {
    /// Ends it by `cut`.
    pub fn new(cut: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(cut)))
    }

    pub(crate) fn give(&self) {
        if let Some(cut) = &self.0 {
            cut();
        }
    }
}

impl std::fmt::Debug for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cut")
    }
}

/// Settles over a subscription; cheap to clone.
#[derive(Clone, Debug)]
pub struct Settler {
    consumer: ConsumerId,
    door: Door,
    waiting: Arc<Semaphore>,
}

impl Settler {
    /// Settles leases; the result comes as [`Event::Settled`]. Waits while the results of 64 earlier
    /// settles have not been taken. `false` when the broker has ended.
    pub async fn settle(&self, settlements: Vec<Settlement>) -> bool {
        self.settle_with(settlements, false, Along::default()).await
    }

    /// As [`settle`](Self::settle), and only what is refused comes, as [`Event::Refused`]. The result of a later settle says
    /// that this one is durable as well.
    pub async fn settle_without_results(&self, settlements: Vec<Settlement>) -> bool {
        self.settle_with(settlements, true, Along::default()).await
    }

    /// The one or the other, with something that goes along until the results are dropped.
    pub async fn settle_with(
        &self,
        settlements: Vec<Settlement>,
        without_results: bool,
        along: Along,
    ) -> bool {
        let Ok(permit) = Arc::clone(&self.waiting).acquire_owned().await else {
            return false;
        };
        let command = Command::SettleOn {
            consumer: self.consumer,
            settlements,
            without_results,
            permit,
            along,
        };
        self.door.bring(command).await
    }

    /// Asks for no more deliveries; [`Event::Drained`] comes after the last one. What is held can be
    /// settled as before. `false` when the broker has ended.
    pub async fn drain(&self) -> bool {
        let consumer = self.consumer;
        self.door.send(Command::Drain { consumer }).await
    }
}

/// A consumer of a queue. When it is dropped, what it holds goes back to the queue.
#[derive(Debug)]
pub struct Subscription {
    settler: Settler,
    events: mpsc::UnboundedReceiver<Event>,
    pub(crate) flow: Flow,
    /// That of the leases.
    clock: Clock,
    /// What came too late, and behind it, until the engine has said that it knows.
    late: Option<Unsent>,
    /// Taken, and never sent to the consumer.
    unsent: Vec<LeaseId>,
    /// What it holds stays leased when it is dropped.
    keeps: bool,
}

impl Subscription {
    /// That of `consumer`, and where its events go. From here on, dropping it tells the engine of its
    /// end: also when nobody waits for it any more.
    pub(crate) fn new(
        consumer: ConsumerId,
        door: Door,
        clock: Clock,
    ) -> (Self, mpsc::UnboundedSender<Event>) {
        let (sender, events) = mpsc::unbounded_channel();
        let waiting = Arc::new(Semaphore::new(limits::SETTLES_WAITING_MAX));
        let subscription = Self {
            settler: Settler {
                consumer,
                door,
                waiting,
            },
            events,
            flow: Flow::default(),
            clock,
            late: None,
            unsent: Vec::new(),
            keeps: false,
        };
        (subscription, sender)
    }

    /// To settle what this subscription delivers.
    #[must_use]
    pub fn settler(&self) -> Settler {
        self.settler.clone()
    }

    /// The next events, up to `limit`, appended to `events`; 0 when there will be none.
    ///
    /// Deliveries count as sent once what [`Self::admit`] answers for them is dropped.
    pub fn poll_events(
        &mut self,
        context: &mut Context<'_>,
        events: &mut Vec<Event>,
        limit: usize,
    ) -> Poll<usize> {
        let before = events.len();
        let polled = self.events.poll_recv_many(context, events, limit);
        if polled.is_ready() {
            self.note_answers(&events[before..]);
        }
        polled
    }

    /// For `deliveries` of it, which are about to be handed to its connection. `None` when the connection is not to have them,
    /// for one has waited for longer than its lease, for the disk or for the connection: they go back without blame
    /// then, and so does what was handed over behind them, so that all comes again in its order.
    #[must_use]
    pub fn admit(&mut self, deliveries: &[Delivery]) -> Option<Unsent> {
        let mut these = self.unsent(deliveries);
        if let Some(late) = &mut self.late {
            late.messages += std::mem::take(&mut these.messages);
            late.bytes += these.bytes;
            return None;
        }
        if !self.recall_late(deliveries) {
            return Some(these);
        }
        // They count as taken once they are back in the queue: before, that would be a reason for blame.
        self.late = Some(these);
        None
    }

    /// Has everything handed over from these `deliveries` on go back, if one of them has waited for longer than its lease;
    /// answers whether.
    pub(crate) fn recall_late(&self, deliveries: &[Delivery]) -> bool {
        let now = self.clock.now();
        let is_late = |of: &Delivery| of.lease_id.0 != 0 && of.lease_until <= now;
        let Some(first) = deliveries
            .first()
            .filter(|_| deliveries.iter().any(is_late))
        else {
            return false;
        };
        let command = Command::Recall {
            consumer: self.settler.consumer,
            from: first.lease_id,
        };
        self.settler.door.tell("recall", command);
        true
    }

    /// [`Event::Recalled`] has come.
    pub fn note_recalled(&mut self) {
        self.late = None;
    }

    /// Given to the connection, and not taken yet.
    fn unsent(&self, deliveries: &[Delivery]) -> Unsent {
        let sizes = deliveries.iter().map(|d| u64::from(d.message.size()));
        let bytes = sizes.sum();
        self.flow.give(bytes);
        Unsent {
            flow: self.flow.clone(),
            consumer: self.settler.consumer,
            door: self.settler.door.clone(),
            messages: deliveries.len() as u64,
            bytes,
        }
    }

    /// To be set while its connection asks for more and there is none, and cleared with all that it is
    /// given: while it asks, and has taken what it was given before, nothing that it lacks is its own fault.
    #[must_use]
    pub fn asking(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.flow.0.asking)
    }

    /// The next event but [`Event::Recalled`], whose deliveries count as sent; `None` when there will be none.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            let event = self.events.recv().await?;
            self.note_answers(std::slice::from_ref(&event));
            match &event {
                Event::Recalled => self.note_recalled(),
                Event::Deliveries(deliveries) => {
                    if self.admit(deliveries).is_some() {
                        return Some(event);
                    }
                }
                _ => return Some(event),
            }
        }
    }

    /// The next event, whose deliveries do not count as sent.
    pub(crate) async fn peek(&mut self) -> Option<Event> {
        poll_fn(|context| {
            let polled = self.events.poll_recv(context);
            let asking = &self.flow.0.asking;
            asking.store(polled.is_pending(), Ordering::SeqCst);
            polled
        })
        .await
    }

    /// Ends the subscription. What it holds goes back to the queue, and of that what the caller took
    /// and never sent without blame.
    pub fn leave(mut self, unsent: Vec<LeaseId>) {
        self.unsent = unsent;
    }

    /// From now on, what it holds stays leased when it is dropped.
    pub(crate) fn keep_leases(&mut self) {
        self.keeps = true;
    }

    fn note_answers(&self, events: &[Event]) {
        for event in events {
            if matches!(event, Event::Settled(..) | Event::Refused(..)) {
                self.settler.waiting.add_permits(1);
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let consumer = self.settler.consumer;
        self.flow.0.ended.store(true, Ordering::SeqCst);
        let command = if self.keeps {
            Command::Detach { consumer }
        } else {
            Command::Unsubscribe {
                consumer,
                unsent: std::mem::take(&mut self.unsent),
            }
        };
        self.settler.door.tell("unsubscribe", command);
    }
}
