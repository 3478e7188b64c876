//! A consumer's side of the engine: events come, settlements go.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use courser_core::id::{ConsumerId, LeaseId};
use tokio::sync::{Semaphore, mpsc};

use crate::{
    command::Command,
    limits,
    request::{Event, Settlement},
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
    /// The engine waits to hear of more.
    waited_for: AtomicBool,
}

impl Flow {
    /// Messages and bytes taken so far.
    pub(crate) fn taken(&self) -> (u64, u64) {
        (
            self.0.messages.load(Ordering::SeqCst),
            self.0.bytes.load(Ordering::SeqCst),
        )
    }

    /// Asks to be told when more is taken; answers what was taken so far.
    pub(crate) fn wait(&self) -> (u64, u64) {
        self.0.waited_for.store(true, Ordering::SeqCst);
        self.taken()
    }

    /// A message of `size` bytes will not be handed over after all.
    pub(crate) fn pass_over(&self, size: u32) {
        self.add(1, size.into());
    }

    /// Adds to what was taken; answers whether the engine waits to hear of it.
    fn add(&self, messages: u64, bytes: u64) -> bool {
        self.0.bytes.fetch_add(bytes, Ordering::SeqCst);
        self.0.messages.fetch_add(messages, Ordering::SeqCst);
        self.0.waited_for.swap(false, Ordering::SeqCst)
    }
}

/// Settles over a subscription; cheap to clone.
#[derive(Clone, Debug)]
pub struct Settler {
    consumer: ConsumerId,
    commands: mpsc::Sender<Command>,
    waiting: Arc<Semaphore>,
}

impl Settler {
    /// Settles leases; the result comes as [`Event::Settled`]. Waits while the results of 64 earlier
    /// settles have not been taken. `false` when the broker has ended.
    pub async fn settle(&self, settlements: Vec<Settlement>) -> bool {
        let Ok(permit) = Arc::clone(&self.waiting).acquire_owned().await else {
            return false;
        };
        let consumer = self.consumer;
        self.commands
            .send(Command::SettleOn {
                consumer,
                settlements,
                permit,
            })
            .await
            .is_ok()
    }

    /// Asks for no more deliveries; [`Event::Drained`] comes after the last one. What is held can be
    /// settled as before. `false` when the broker has ended.
    pub async fn drain(&self) -> bool {
        let consumer = self.consumer;
        self.commands
            .send(Command::Drain { consumer })
            .await
            .is_ok()
    }
}

/// A consumer of a queue. When it is dropped, what it holds goes back to the queue.
#[derive(Debug)]
pub struct Subscription {
    settler: Settler,
    events: mpsc::UnboundedReceiver<Event>,
    pub(crate) flow: Flow,
    /// Taken, and never sent to the consumer.
    unsent: Vec<LeaseId>,
    /// The engine knows of the end.
    over: bool,
}

impl Subscription {
    /// That of `consumer`, and where its events go. From here on, dropping it tells the engine of its
    /// end: also when nobody waits for it any more.
    pub(crate) fn new(
        consumer: ConsumerId,
        commands: mpsc::Sender<Command>,
    ) -> (Self, mpsc::UnboundedSender<Event>) {
        let (sender, events) = mpsc::unbounded_channel();
        let waiting = Arc::new(Semaphore::new(limits::SETTLES_WAITING_MAX));
        let subscription = Self {
            settler: Settler {
                consumer,
                commands,
                waiting,
            },
            events,
            flow: Flow::default(),
            unsent: Vec::new(),
            over: false,
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
    /// Deliveries count as sent from here on: hand them to the connection.
    pub fn poll_events(
        &mut self,
        context: &mut Context<'_>,
        events: &mut Vec<Event>,
        limit: usize,
    ) -> Poll<usize> {
        let before = events.len();
        let polled = self.events.poll_recv_many(context, events, limit);
        if polled.is_ready() {
            self.take(&events[before..]);
        }
        polled
    }

    /// The next event; `None` when there will be none.
    pub async fn next(&mut self) -> Option<Event> {
        let event = self.events.recv().await?;
        self.take(std::slice::from_ref(&event));
        Some(event)
    }

    /// The next event, whose deliveries do not count as sent.
    pub(crate) async fn peek(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// Ends the subscription. What it holds goes back to the queue, and of that what the caller took
    /// and never sent without blame.
    pub fn leave(mut self, unsent: Vec<LeaseId>) {
        self.unsent = unsent;
    }

    /// Ends the subscription; what it holds stays leased.
    pub(crate) async fn detach(mut self) {
        let consumer = self.settler.consumer;
        if let Ok(place) = self.settler.commands.reserve().await {
            place.send(Command::Detach { consumer });
        }
        self.over = true;
    }

    /// The engine must hear of it, also when its inbox is full just now.
    fn tell(&self, what: &'static str, command: Command) {
        if let Err(mpsc::error::TrySendError::Full(command)) =
            self.settler.commands.try_send(command)
        {
            let commands = self.settler.commands.clone();
            crate::tasks::spawn(what, async move { drop(commands.send(command).await) });
        }
    }

    fn take(&self, events: &[Event]) {
        let (mut messages, mut bytes) = (0, 0);
        for event in events {
            match event {
                Event::Deliveries(deliveries) => {
                    messages += deliveries.len() as u64;
                    bytes += deliveries
                        .iter()
                        .map(|d| u64::from(d.message.size()))
                        .sum::<u64>();
                }
                Event::Settled(_) => self.settler.waiting.add_permits(1),
                Event::Drained | Event::Ended(_) => {}
            }
        }
        if messages > 0 && self.flow.add(messages, bytes) {
            let consumer = self.settler.consumer;
            self.tell("taken", Command::Taken { consumer });
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let command = Command::Unsubscribe {
            consumer: self.settler.consumer,
            unsent: std::mem::take(&mut self.unsent),
        };
        self.tell("unsubscribe", command);
    }
}
