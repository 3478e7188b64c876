//! What the faces ask of the engine, and what it answers, in the words of the core.

use std::{sync::Arc, time::Duration};

use courser_core::{
    error::LeaseError,
    histogram::Histogram,
    id::{LeaseId, Position, Seq},
    message::{MessageId, NewMessage, SharedMessage},
    options::Durability,
    record::Note,
    stats::{EntryView, QueueView},
    time::Timestamp,
};
use courser_store::{Space, Usage};

pub use courser_core::{
    error::{PublishError, QueueError},
    lease::{DeadLetterReason, Nack, Settlement, Verdict},
    stats::Peek,
};

/// Messages to be published, all or nothing. All within their limits.
#[derive(Debug)]
pub struct Publish {
    /// At least one.
    pub messages: Vec<NewMessage>,
    /// Refuse all when one would reach no queue.
    pub mandatory: bool,
    /// When the confirm may leave.
    pub durability: Durability,
    /// Answer without a [`Published`] for each message.
    pub without_results: bool,
}

impl Publish {
    /// What all messages count for.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.messages
            .iter()
            .map(|message| message.size() as usize)
            .sum()
    }
}

impl Publish {
    /// What all messages take in memory.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.messages.iter().map(NewMessage::memory_bytes).sum()
    }
}

/// Where one message went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its number; 0 when no queue took it.
    pub position: Position,
    /// Its name.
    pub id: MessageId,
    /// How many queues took it.
    pub queues: u32,
}

/// The answer to one request of a pipelined publisher.
#[derive(Debug)]
pub struct Confirm {
    /// The number that the client chose.
    pub number: u64,
    /// One for each message.
    pub result: Result<Vec<Published>, PublishError>,
}

/// How a consumer wants to be served. All within their limits.
#[derive(Clone, Debug)]
pub struct Open {
    /// The queue's name.
    pub queue: String,
    /// Its own name, for people.
    pub consumer: String,
    /// Unsettled deliveries at most.
    pub max_messages: u32,
    /// Unsettled bytes at most.
    pub max_bytes: u64,
    /// Instead of the queue's.
    pub lease: Option<Duration>,
    /// Acked as they are handed over.
    pub auto_ack: bool,
    /// Deliveries in all: after so many, none follow.
    pub limit: Option<u64>,
}

/// One hand-over of an entry.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// To settle it with; 0 with auto-ack.
    pub lease_id: LeaseId,
    /// 1 for the first.
    pub attempt: u32,
    /// When the lease runs out.
    pub lease_until: Timestamp,
    /// The message.
    pub message: SharedMessage,
    /// What else is known of the entry.
    pub note: Option<Arc<Note>>,
}

/// The results of a settle: each lease id is in exactly one of the lists.
#[derive(Clone, Debug, Default)]
pub struct Settled {
    /// Done, durably.
    pub ok: Vec<LeaseId>,
    /// Not done.
    pub refused: Vec<(LeaseId, LeaseError)>,
}

/// What a settle takes along: it ends with its results when these are dropped, or at once when there are none.
#[derive(Default)]
pub struct Along(
    #[expect(dead_code, reason = "its end is what counts")] Option<Box<dyn Send + Sync>>,
);

impl Along {
    /// Takes this along.
    pub fn new(along: impl Send + Sync + 'static) -> Self {
        Self(Some(Box::new(along)))
    }
}

impl std::fmt::Debug for Along {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Along")
    }
}

/// Why a subscription ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The queue was deleted.
    QueueDeleted,
    /// The broker is shutting down.
    ShuttingDown,
    /// The store failed; nothing can be settled any more.
    StoreFailed,
}

/// What comes over a subscription, in order.
#[derive(Debug)]
pub enum Event {
    /// Entries to work on.
    Deliveries(Vec<Delivery>),
    /// Results of one settle.
    Settled(Settled, Along),
    /// What was refused of a settle that wanted no results.
    Refused(Vec<(LeaseId, LeaseError)>, Along),
    /// What came before this and was not admitted is back in the queue; what comes now is another hand-over of it.
    /// For [`Subscription::note_recalled`](crate::Subscription::note_recalled).
    Recalled,
    /// There will be no more deliveries: the consumer has asked for that.
    Drained,
    /// The last event.
    Ended(Ended),
}

/// Which dead letters to move where.
#[derive(Clone, Debug, Default)]
pub struct Redrive {
    /// The dead-letter queue.
    pub queue: String,
    /// Another target than the queue of origin.
    pub to: Option<String>,
    /// At most; `None` is all that are there at the start.
    pub limit: Option<u64>,
    /// Only these, unless empty.
    pub entries: Vec<Seq>,
    /// Only those after this one.
    pub after: Seq,
    /// Only with this reason.
    pub reason: Option<String>,
    /// Count only.
    pub dry_run: bool,
}

/// What a redrive did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redriven {
    /// Entries moved, or counted.
    pub moved: u64,
    /// The last one that was looked at.
    pub last: Seq,
}

/// An entry and its message; the message is gone when it was settled in between.
#[derive(Clone, Debug)]
pub struct Peeked {
    /// The entry.
    pub view: EntryView,
    /// Its message.
    pub message: Option<SharedMessage>,
}

/// The broker in a few figures.
#[derive(Clone, Debug)]
pub struct Info {
    /// How many queues there are.
    pub queues: usize,
    /// The last position given out.
    pub last_position: Position,
    /// When the broker started.
    pub started_at: Timestamp,
    /// Now.
    pub now: Timestamp,
    /// What the disk holds.
    pub usage: Usage,
    /// Why the store takes no more writes.
    pub failure: Option<String>,
}

/// The broker at one moment, for metrics.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// All queues, by name.
    pub queues: Vec<QueueView>,
    /// The last position given out.
    pub last_position: Position,
    /// When the broker started.
    pub started_at: Timestamp,
    /// Now.
    pub now: Timestamp,
    /// What the disk holds.
    pub usage: Usage,
    /// How commits went.
    pub commits: CommitStats,
    /// What the disk had left when it was looked at last.
    pub space: Space,
    /// Bytes of it that are to stay free.
    pub min_free: u64,
    /// Why the store takes no more writes.
    pub failure: Option<String>,
}

/// How the commits fared since the start.
#[derive(Clone, Debug, Default)]
pub struct CommitStats {
    /// From the first write of a group to the end of its sync.
    pub duration: Histogram,
    /// Groups written.
    pub groups: u64,
    /// Records in them.
    pub records: u64,
    /// Messages in them.
    pub messages: u64,
    /// Bytes of these messages.
    pub message_bytes: u64,
    /// Checkpoints finished.
    pub checkpoints: u64,
    /// Segments dropped or kept for reuse.
    pub segments_dropped: u64,
    /// Segments rewritten.
    pub segments_rewritten: u64,
}

/// Whether the broker can do its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It can.
    Serving,
    /// The disk is nearly full: nothing is published, all else goes on.
    DiskLow,
    /// The store failed: it reads and counts, and takes nothing. The first reason.
    StoreFailed(String),
    /// It is on its way out.
    ShuttingDown,
}
