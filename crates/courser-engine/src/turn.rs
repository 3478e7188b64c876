//! What one turn of the engine leaves to be done: facts to be made durable, and what is told to
//! whom once they are.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use courser_core::{
    error::Unavailable,
    id::{ConsumerId, Position},
    message::SharedMessage,
    record::{Checkpoint, Record},
};
use tokio::sync::mpsc;

use crate::{
    command::{Command, Permits, PublishReply},
    door::Door,
    limits,
    request::{Ended, Event, Published},
};

/// One turn.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    pub(crate) messages: Vec<SharedMessage>,
    pub(crate) message_bytes: usize,
    pub(crate) records: Vec<Record>,
    pub(crate) next_position: Position,
    /// The outputs wait for the sync, not only for the write.
    pub(crate) sync: bool,
    pub(crate) outputs: Vec<Output>,
    /// The state after this turn.
    pub(crate) checkpoint: Option<Checkpoint>,
}

impl Turn {
    /// Written and synced about as fast as a thread wakes.
    pub(crate) fn is_little(&self) -> bool {
        self.sync
            && self.checkpoint.is_none()
            && self.message_bytes <= limits::LITTLE_BYTES
            && self.records.len() <= limits::LITTLE_RECORDS
    }

    /// Nobody is held up when it is synced a little later: it says nothing but how leases were settled.
    pub(crate) fn is_patient(&self) -> bool {
        let is_answer = |output: &Output| {
            let Output::Event { event, .. } = output else {
                return false;
            };
            matches!(event, Event::Settled(..) | Event::Refused(..))
        };
        self.messages.is_empty() && self.is_little() && self.outputs.iter().all(is_answer)
    }

    /// Nothing to write and nothing to say.
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
            && self.messages.is_empty()
            && self.outputs.is_empty()
            && self.checkpoint.is_none()
    }
}

/// Something to be told. Dropped unsaid, it ends whoever waits for it.
pub(crate) enum Output {
    Confirm {
        reply: PublishReply,
        results: Vec<Published>,
        permits: Permits,
    },
    Event {
        consumer: ConsumerId,
        events: mpsc::UnboundedSender<Event>,
        event: Event,
        /// Where it is counted as not said.
        unsaid: Option<Unsaid>,
    },
    /// Anything else: called with `true` when the turn is durable, with `false` when it failed.
    Call(Box<dyn FnOnce(bool) + Send>),
}

/// One of the events of a consumer that wait to be said. It is dropped once that is said.
pub(crate) struct Unsaid(Arc<AtomicUsize>);

impl Unsaid {
    pub(crate) fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Unsaid {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Confirm { .. } => "Confirm",
            Self::Event { .. } => "Event",
            Self::Call(_) => "Call",
        })
    }
}

impl Output {
    /// The turn is durable: say it. What nobody takes goes back to the engine through `door`.
    pub(crate) fn release(self, door: &Door) {
        match self {
            Self::Confirm {
                reply,
                results,
                permits,
            } => {
                reply.send(Ok(results));
                drop(permits);
            }
            Self::Event {
                consumer,
                events,
                event,
                unsaid,
            } => {
                let is_sent = events.send(event).is_ok();
                drop(unsaid);
                if !is_sent {
                    // It is told again by the subscription's own end when the inbox is full.
                    let unsent = Vec::new();
                    drop(door.try_send(Command::Unsubscribe { consumer, unsent }));
                }
            }
            Self::Call(call) => call(true),
        }
    }

    /// The turn failed: say that.
    pub(crate) fn fail(self) {
        match self {
            Self::Confirm { reply, permits, .. } => {
                reply.send(Err(Unavailable::StoreFailed.into()));
                drop(permits);
            }
            Self::Event { events, .. } => drop(events.send(Event::Ended(Ended::StoreFailed))),
            Self::Call(call) => call(false),
        }
    }
}

/// What queue requests hear when the store has failed.
pub(crate) fn store_failed() -> courser_core::error::QueueError {
    Unavailable::StoreFailed.into()
}
