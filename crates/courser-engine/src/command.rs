//! Whatever can happen to the engine, as one closed list.

use courser_core::{
    id::{ConsumerId, LeaseId},
    options::QueueOptions,
    stats::{Peek, QueueView},
};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::{
    limits,
    loader::Loaded,
    request::{
        Along, Confirm, Info, Open, Peeked, Publish, PublishError, Published, QueueError, Redrive,
        Redriven, Settled, Settlement, Snapshot,
    },
    subscription::{Cut, Subscription},
};

/// An answer that is awaited by one caller.
pub(crate) type Reply<T> = oneshot::Sender<T>;

/// Something that happened.
#[derive(Debug)]
pub(crate) enum Command {
    Publish(PublishCommand),
    Subscribe {
        open: Open,
        /// Bytes that may wait for its connection.
        window_bytes: u64,
        /// Ends its connection.
        cut: Cut,
        reply: Reply<Result<Subscription, QueueError>>,
    },
    /// A connection that was waited for has taken more of what was handed to it; its flow says how much.
    Taken {
        consumer: ConsumerId,
    },
    /// This lease, or one that began with it, ran out before the connection was given the delivery: it is given none from
    /// this one on, until [`Event::Recalled`](crate::request::Event::Recalled).
    Recall {
        consumer: ConsumerId,
        from: LeaseId,
    },
    /// The consumer wants no more deliveries; [`Event::Drained`] comes after the last.
    Drain {
        consumer: ConsumerId,
    },
    /// The subscription ended from the consumer's side. What was taken and has not gone out is given
    /// back without blame.
    Unsubscribe {
        consumer: ConsumerId,
        unsent: Vec<LeaseId>,
    },
    /// The same, and what it holds stays leased.
    Detach {
        consumer: ConsumerId,
    },
    /// A settle over a subscription; the result goes over its events, with `without_results` only what was refused.
    SettleOn {
        consumer: ConsumerId,
        settlements: Vec<Settlement>,
        without_results: bool,
        permit: OwnedSemaphorePermit,
        along: Along,
    },
    Settle {
        settlements: Vec<Settlement>,
        reply: Reply<Result<Settled, QueueError>>,
    },
    Change(Change),
    Look(Look),
    /// Bodies that the engine had asked the loader for.
    Loaded(Loaded),
    /// The keeper has finished a checkpoint.
    CheckpointDone,
    /// There is too little room on the disk, since just now.
    RoomIsShort,
    /// Stop taking, flush, end.
    Shutdown {
        reply: Reply<()>,
    },
}

impl Command {
    /// It takes a place of the inbox. What the engine has asked for itself does not.
    pub(crate) fn takes_place(&self) -> bool {
        !matches!(
            self,
            Self::Loaded(_) | Self::CheckpointDone | Self::RoomIsShort
        )
    }

    /// Carried out about as fast as a thread wakes.
    pub(crate) fn is_little(&self) -> bool {
        match self {
            Self::Publish(PublishCommand { publish, .. }) => {
                publish.messages.len() <= limits::LITTLE_RECORDS
                    && publish.bytes() <= limits::LITTLE_BYTES
            }
            Self::SettleOn { settlements, .. } | Self::Settle { settlements, .. } => {
                settlements.len() <= limits::LITTLE_RECORDS
            }
            Self::Taken { .. } => true,
            _ => false,
        }
    }
}

/// Something to be changed about a queue, or its entries at large.
#[derive(Debug)]
pub(crate) enum Change {
    Create {
        name: String,
        options: QueueOptions,
        reply: Reply<Result<(QueueView, bool), QueueError>>,
    },
    Update {
        name: String,
        change: OptionsChange,
        reply: Reply<Result<QueueView, QueueError>>,
    },
    Delete {
        name: String,
        if_empty: bool,
        reply: Reply<Result<(u64, u64), QueueError>>,
    },
    Purge {
        name: String,
        limit: Option<u64>,
        reply: Reply<Result<u64, QueueError>>,
    },
    Redrive {
        redrive: Redrive,
        reply: Reply<Result<Redriven, QueueError>>,
    },
}

/// Something to be looked at, which changes nothing. What is seen may be ahead of the disk.
#[derive(Debug)]
pub(crate) enum Look {
    Get {
        name: String,
        reply: Reply<Result<QueueView, QueueError>>,
    },
    List {
        prefix: String,
        after: Option<String>,
        limit: usize,
        reply: Reply<Vec<QueueView>>,
    },
    Peek {
        queue: String,
        peek: Peek,
        reply: Reply<Result<Vec<Peeked>, QueueError>>,
    },
    Snapshot {
        reply: Reply<Snapshot>,
    },
    /// The broker in a few figures.
    Info {
        reply: Reply<Info>,
    },
}

/// Changes the options of a queue in place; a boxed function, for the core does not know field masks.
pub(crate) struct OptionsChange(pub(crate) Box<dyn FnOnce(&mut QueueOptions) + Send>);

impl std::fmt::Debug for OptionsChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OptionsChange")
    }
}

#[derive(Debug)]
pub(crate) struct PublishCommand {
    pub(crate) publish: Publish,
    pub(crate) reply: PublishReply,
    /// The bytes it takes of what may be on its way; given back when it is answered.
    pub(crate) permits: Permits,
}

/// Places in the bounds on what is on its way.
#[derive(Debug)]
pub(crate) struct Permits {
    /// Of the whole broker.
    pub(crate) _broker: OwnedSemaphorePermit,
    /// Of one pipelined publisher.
    pub(crate) _stream: Option<OwnedSemaphorePermit>,
}

/// Where the answer of a publish goes.
#[derive(Debug)]
pub(crate) enum PublishReply {
    Unary(Reply<Result<Vec<Published>, PublishError>>),
    /// Bounded by the stream's permits.
    Stream {
        number: u64,
        confirms: mpsc::UnboundedSender<Confirm>,
    },
}

impl PublishReply {
    /// Answers. Whoever has gone away misses it.
    pub(crate) fn send(self, result: Result<Vec<Published>, PublishError>) {
        match self {
            Self::Unary(reply) => drop(reply.send(result)),
            Self::Stream { number, confirms } => drop(confirms.send(Confirm { number, result })),
        }
    }
}
