//! Reads from the store what the engine is asked for, so that the engine does not wait for that.

use std::sync::{Arc, mpsc::Receiver};

use courser_core::{
    error::QueueError,
    id::{ConsumerId, Position},
    message::SharedMessage,
    stats::EntryView,
};
use courser_store::{Store, Usage};

use crate::{
    command::{Command, Reply},
    door::Door,
    failure::Failure,
    request::Peeked,
    turn::store_failed,
};

/// What to read, and for whom.
pub(crate) enum Load {
    /// For deliveries to a consumer, which wait in the engine.
    Deliveries {
        consumer: ConsumerId,
        positions: Vec<Position>,
    },
    /// What the disk holds, for an answer that lacks it.
    Usage(Box<dyn FnOnce(Usage) + Send>),
    /// For a peek, which is answered from here.
    Peek {
        views: Vec<EntryView>,
        reply: Reply<Result<Vec<Peeked>, QueueError>>,
    },
}

/// Bodies that were asked for, in the order asked for.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) consumer: ConsumerId,
    pub(crate) messages: Vec<Option<SharedMessage>>,
}

pub(crate) struct Loader {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) loads: Receiver<Load>,
    pub(crate) door: Door,
    pub(crate) failure: Failure,
}

impl Loader {
    /// Until the engine ends.
    pub(crate) fn run(self) {
        while let Ok(load) = self.loads.recv() {
            match load {
                Load::Deliveries {
                    consumer,
                    positions,
                } => {
                    let Some(messages) = self.load(&positions) else {
                        continue;
                    };
                    let loaded = Loaded { consumer, messages };
                    drop(self.door.try_send(Command::Loaded(loaded)));
                }
                Load::Usage(answer) => answer(self.store.usage()),
                Load::Peek { views, reply } => {
                    let positions: Vec<_> = views.iter().map(|view| view.entry.position).collect();
                    let peeked = self
                        .load(&positions)
                        .ok_or_else(store_failed)
                        .map(|messages| {
                            let pairs = views.into_iter().zip(messages);
                            pairs
                                .map(|(view, message)| Peeked { view, message })
                                .collect()
                        });
                    drop(reply.send(peeked));
                }
            }
        }
    }

    /// What cannot be read fails the store: a damaged message is never served.
    fn load(&self, positions: &[Position]) -> Option<Vec<Option<SharedMessage>>> {
        match self.store.load(positions) {
            Ok(messages) => Some(messages),
            Err(error) => {
                self.failure.set(&error);
                None
            }
        }
    }
}
