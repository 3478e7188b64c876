//! Facts that became true, as the store keeps them.
//!
//! Replaying a record a second time changes nothing: each says what is, never by how much
//! something changed. So a store may replay records whose effect is partly in its index already, as
//! long as it replays all that came after.
//!
//! Leases, deliveries and releases leave no record: after a restart every entry that was leased is
//! ready again, with the attempts that had failed.

use std::sync::Arc;

use crate::{
    id::{ChunkNo, Position, QueueId, Seq},
    limits::ATTEMPTS_KEPT,
    message::SharedMessage,
    options::QueueDefinition,
    time::Timestamp,
};

/// One fact.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// The queue exists and is defined like this.
    QueueDefined(Box<QueueDefinition>),
    /// The queue is gone, with everything in it.
    QueueDeleted {
        /// Which.
        queue: QueueId,
    },
    /// An entry joined a queue by a publish.
    Enqueued(QueueId, ChunkEntry),
    /// An entry left for good: acked or removed.
    Removed {
        /// Of which queue.
        queue: QueueId,
        /// Which entry.
        seq: Seq,
    },
    /// An attempt at an entry failed.
    Failed {
        /// Of which queue.
        queue: QueueId,
        /// Which entry.
        seq: Seq,
        /// When it is ready again.
        ready_at: Timestamp,
        /// The attempt; its number is the number of failures so far.
        attempt: Box<Attempt>,
    },
    /// An entry went from one queue to the end of another: dead-lettered or redriven.
    Moved {
        /// It left this queue...
        from: QueueId,
        /// ...and this place.
        from_seq: Seq,
        /// It joined this queue.
        to: QueueId,
        /// As this entry.
        entry: ChunkEntry,
        /// What is known of it.
        note: Box<Note>,
    },
    /// All entries of a queue before a place left for good, but for some.
    Purged {
        /// Of which queue.
        queue: QueueId,
        /// Entries before this place are gone...
        before: Seq,
        /// ...except these, in ascending order: they were leased.
        kept: Vec<Seq>,
    },
}

/// One entry of a queue as the store keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkEntry {
    /// Its place.
    pub seq: Seq,
    /// The message it stands for.
    pub position: Position,
    /// When it came into this queue.
    pub enqueued_at: Timestamp,
    /// The message's size in bytes.
    pub size: u32,
    /// Failed attempts.
    pub failures: u32,
    /// Not before this is it delivered; [`Timestamp::ZERO`] is at once.
    pub ready_at: Timestamp,
}

/// What is known of an entry beyond its place: only entries that failed or moved have one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// The last failed attempts, oldest first, at most
    /// [`ATTEMPTS_KEPT`].
    pub attempts: Vec<Attempt>,
    /// Why it is in a dead-letter queue.
    pub dead_letter: Option<DeadLetter>,
    /// How often it was redriven.
    pub redrives: u32,
}

/// One failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// 1 for the first.
    pub number: u32,
    /// The consumer's name.
    pub consumer: Arc<str>,
    /// When the entry was handed over.
    pub delivered_at: Timestamp,
    /// When the attempt was over.
    pub ended_at: Timestamp,
    /// How it ended.
    pub outcome: AttemptOutcome,
    /// What the consumer said of it.
    pub error: Box<str>,
}

/// How a failed attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// The consumer said so.
    Nacked,
    /// The lease ran out.
    Expired,
    /// The consumer went away.
    Disconnected,
    /// The consumer asked for the entry to be dead-lettered.
    Rejected,
}

/// Why an entry is in a dead-letter queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// `max_attempts`, or the consumer's word.
    pub reason: Box<str>,
    /// The consumer's sentence.
    pub description: Box<str>,
    /// The queue it came from.
    pub queue: Arc<str>,
    /// When.
    pub at: Timestamp,
}

/// What is written in one piece: all of it survives a crash, or none.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// Messages that at least one queue took, in ascending position; positions may have gaps.
    pub messages: Vec<SharedMessage>,
    /// What became true, in order.
    pub records: Vec<Record>,
    /// The position that the next message gets.
    pub next_position: Position,
}

/// The state of a queue beside its entries.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueState {
    /// What it is.
    pub definition: QueueDefinition,
    /// The place that its next entry gets.
    pub next_seq: Seq,
}

/// All living entries of a chunk, in ascending order, with the notes of those that have one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chunk {
    /// The entries.
    pub entries: Vec<ChunkEntry>,
    /// In ascending order.
    pub notes: Vec<(Seq, Arc<Note>)>,
}

/// What a checkpoint says of one chunk.
#[derive(Clone, Debug, PartialEq)]
pub struct ChunkChange {
    /// Of which queue.
    pub queue: QueueId,
    /// Which chunk.
    pub number: ChunkNo,
    /// Its living entries, all of them, in ascending order. When there is none, the chunk is gone, and
    /// so are its notes.
    pub entries: Vec<ChunkEntry>,
    /// Notes that are new, changed or (`None`) gone.
    pub notes: Vec<(Seq, Option<Arc<Note>>)>,
}

/// What changed since the checkpoint before: with it, the index says what was true at one moment of
/// the log.
#[derive(Clone, Debug, Default)]
pub struct Checkpoint {
    /// Queues whose definition or next place changed.
    pub queues: Vec<QueueState>,
    /// Chunks that changed.
    pub chunks: Vec<ChunkChange>,
    /// Queues that are gone: everything of theirs goes.
    pub deleted_queues: Vec<QueueId>,
    /// The position that the next message gets.
    pub next_position: Position,
    /// The id that the next queue gets.
    pub next_queue: QueueId,
}

impl Note {
    /// Remembers a failed attempt, once, and at most the last few.
    pub fn add_attempt(&mut self, attempt: Attempt) {
        if self.attempts.contains(&attempt) {
            return;
        }
        if self.attempts.len() >= ATTEMPTS_KEPT {
            self.attempts.remove(0);
        }
        self.attempts.push(attempt);
    }
}
