//! What can be refused, one small family for each kind of request. Each sentence is told to clients.

use std::time::Duration;

use crate::options::OptionError;

/// Why a lease was not settled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// It ran out, was given back by a disconnect, or is of before the broker's last start.
    #[error("the lease has ended, the entry may be with another consumer")]
    Expired,
    /// Settled before, ended long ago, or never issued.
    #[error("there is no such lease: it was settled before, ended long ago, or was never issued")]
    Unknown,
    /// An extension would make it last longer than any lease may.
    #[error("the lease cannot be extended: at most 7 days after the delivery, {left:?} are left")]
    TooLong {
        /// How much longer it may last.
        left: Duration,
    },
    /// The queue has no dead-letter queue.
    #[error("the queue has no dead-letter queue: dead_letter.enabled is false")]
    NoDeadLetterQueue,
}

/// Why the broker takes nothing now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// It is on its way out.
    #[error("the broker is shutting down")]
    ShuttingDown,
    /// Its store failed, and only a restart repairs that.
    #[error(
        "the store of the broker has failed, its log and /readyz say why: it takes no more writes until it is restarted"
    )]
    StoreFailed,
}

/// Why a publish was refused. Nothing of it was published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// `mandatory`, and nobody would have received this message.
    #[error("messages[{index}] would reach no queue: none is bound to topic {topic:?}")]
    Unroutable {
        /// Which message of the request.
        index: usize,
        /// Its topic.
        topic: String,
    },
    /// The disk is nearly full.
    #[error(
        "the disk has {free} bytes left, and {min_free} are to stay free: nothing is published until there \
         is room; consumers go on"
    )]
    DiskLow {
        /// Bytes left.
        free: u64,
        /// Bytes that are to stay free.
        min_free: u64,
    },
    /// A field is outside its limits.
    #[error("{reason}")]
    Invalid {
        /// The path of the field and what is allowed, as a sentence.
        reason: String,
    },
    /// The broker takes nothing now.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Why a request about a queue was refused. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// No such queue.
    #[error("there is no queue {name:?}")]
    NotFound {
        /// The name asked for.
        name: String,
    },
    /// There is one of this name with other options.
    #[error("queue {name:?} exists with other options: {}", differences.join("; "))]
    Exists {
        /// The name asked for.
        name: String,
        /// Each option that differs, with both values.
        differences: Vec<String>,
    },
    /// An option is outside its limits.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// As many queues as there may be.
    #[error("there are {max} queues already, no more are allowed")]
    TooManyQueues {
        /// The limit.
        max: usize,
    },
    /// As many consumers as a queue may have.
    #[error("queue {name:?} has {max} consumers already, no more are allowed")]
    TooManyConsumers {
        /// The queue.
        name: String,
        /// The limit.
        max: usize,
    },
    /// It is a dead-letter queue, and this is not done with one.
    #[error("{name:?} is the dead-letter queue of {of:?}: {why}")]
    IsDeadLetterQueue {
        /// The dead-letter queue.
        name: String,
        /// Whose.
        of: String,
        /// What to do instead.
        why: &'static str,
    },
    /// It is not a dead-letter queue, and only those can be redriven.
    #[error("{name:?} is not a dead-letter queue")]
    NotDeadLetterQueue {
        /// The queue.
        name: String,
    },
    /// It was to be empty.
    #[error(
        "queue {name:?} is not empty: it holds {entries} entries, and {dead_letters} dead letters"
    )]
    NotEmpty {
        /// The queue.
        name: String,
        /// In the queue.
        entries: u64,
        /// In its dead-letter queue.
        dead_letters: u64,
    },
    /// Another queue has the name that the dead-letter queue would get.
    #[error("the name {name:?} is taken")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// The broker takes nothing now.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}
