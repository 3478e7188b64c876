//! What can be seen of a queue.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    histogram::Histogram,
    id::Seq,
    limits,
    options::QueueDefinition,
    record::{ChunkEntry, Note},
    time::Timestamp,
};

/// What was counted since the broker started.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Entries that came by a publish.
    pub published: u64,
    /// Hand-overs to consumers.
    pub delivered: u64,
    /// Settled with ack, or handed over with auto-ack.
    pub acked: u64,
    /// Settled with nack.
    pub nacked: u64,
    /// Given back without blame, by the consumer or because it was never sent.
    pub released: u64,
    /// Leases that ran out.
    pub expired: u64,
    /// Leases whose consumer went away.
    pub disconnected: u64,
    /// Moved to the dead-letter queue, by reason.
    pub dead_lettered: BTreeMap<Box<str>, u64>,
    /// Removed by a purge.
    pub purged: u64,
    /// Moved out by a redrive.
    pub redriven: u64,
    /// From enqueue to the first delivery.
    pub time_in_queue: Histogram,
    /// From delivery to ack.
    pub processing_time: Histogram,
    /// From enqueue to ack.
    pub end_to_end_time: Histogram,
}

impl Totals {
    /// Counts a dead-lettering, with a bound on how many reasons are told apart.
    pub fn count_dead_letter(&mut self, reason: &str) {
        if let Some(count) = self.dead_lettered.get_mut(reason) {
            *count += 1;
            return;
        }
        let known = self.dead_lettered.len() < limits::REASONS_COUNTED_MAX;
        let reason = if known { reason } else { "other" };
        *self.dead_lettered.entry(reason.into()).or_default() += 1;
    }
}

/// A queue at one moment.
#[derive(Clone, Debug)]
pub struct QueueView {
    /// What it is.
    pub definition: QueueDefinition,
    /// The name of the queue whose dead letters it keeps.
    pub dead_letter_of: Option<Arc<str>>,
    /// The name of its dead-letter queue.
    pub dead_letter_queue: Option<Arc<str>>,
    /// Waiting to be delivered.
    pub ready: u64,
    /// Waiting for their backoff to pass.
    pub delayed: u64,
    /// Held by consumers.
    pub leased: u64,
    /// In its dead-letter queue.
    pub dead: u64,
    /// Of the messages of all entries.
    pub bytes: u64,
    /// How long the oldest ready entry has been here.
    pub oldest_ready_age: Option<Duration>,
    /// How long ago the oldest lease began.
    pub oldest_leased_age: Option<Duration>,
    /// Since the start.
    pub totals: Totals,
    /// Who consumes.
    pub consumers: Vec<ConsumerView>,
    /// Messages a second over the last 10 seconds.
    pub publish_rate: f64,
    /// Acks a second over the last 10 seconds.
    pub ack_rate: f64,
}

/// A consumer at one moment.
#[derive(Clone, Debug)]
pub struct ConsumerView {
    /// Its name.
    pub name: Arc<str>,
    /// What it holds.
    pub leased: u64,
    /// The bytes of that.
    pub leased_bytes: u64,
    /// What it may hold.
    pub max_messages: u32,
    /// The bytes of that.
    pub max_bytes: u64,
}

/// Which of its states an entry is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryState {
    /// Waiting to be delivered.
    Ready,
    /// Waiting for its backoff to pass, until then.
    Delayed(Timestamp),
    /// Held.
    Leased {
        /// The name of who holds it.
        consumer: Arc<str>,
        /// Until when.
        until: Timestamp,
    },
}

/// An entry at one moment.
#[derive(Clone, Debug)]
pub struct EntryView {
    /// The entry.
    pub entry: ChunkEntry,
    /// Its state.
    pub state: EntryState,
    /// What else is known of it.
    pub note: Option<Arc<Note>>,
}

/// Which entries a peek shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateFilter {
    /// All.
    Any,
    /// Only ready ones.
    Ready,
    /// Only delayed ones.
    Delayed,
    /// Only leased ones.
    Leased,
}

/// What to show of a queue.
#[derive(Clone, Copy, Debug)]
pub struct Peek {
    /// Which entries.
    pub state: StateFilter,
    /// Entries after this place.
    pub after: Seq,
    /// At most this many.
    pub limit: usize,
}
