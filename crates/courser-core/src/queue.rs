//! One queue: what waits, what a consumer holds, and what was given back.
//!
//! ```text
//!              publish             deliver              ack
//!   (nothing) --------->  ready  ----------->  leased  ----->  gone
//!                         ^   ^                 |   |
//!             time passed |   | release,        |   | last attempt failed, or rejected
//!                         |   | expired unsent  |   v
//!                        delayed <--------------+   dead: an entry of the dead-letter queue
//!                               nack, expired, disconnected
//! ```
//!
//! Entries are numbered by their place. `cursor` is the first place that was not offered to a consumer
//! yet; those before it which are ready again stand in `requeued` and go first. Entries lie in chunks;
//! a chunk far ahead of the cursor is only counted here, and its entries are paged in from the index
//! when the cursor comes to it. So memory does not grow with the backlog.
//!
//! A queue knows nothing of leases and consumers: the [`Broker`](crate::broker::Broker) does.

mod purge;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use crate::{
    chunk::{Chunk, Entry, State},
    id::{ChunkNo, ConsumerId, LeaseId, Position, Seq},
    limits,
    options::QueueDefinition,
    rate::Rate,
    record::{self, Attempt, ChunkChange, ChunkEntry, Note},
    stats::Totals,
    time::Timestamp,
};

/// Reads a chunk as the last finished checkpoint left it. `None` when it cannot be read: then what
/// needs it does not happen.
pub type Pager<'a> = dyn FnMut(crate::id::QueueId, ChunkNo) -> Option<record::Chunk> + 'a;

#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) definition: QueueDefinition,
    chunks: BTreeMap<ChunkNo, Chunk>,
    pub(crate) next_seq: Seq,
    cursor: Seq,
    /// Before the cursor, and ready again.
    requeued: BTreeSet<Seq>,
    /// Of entries in memory.
    notes: BTreeMap<Seq, Arc<Note>>,
    changed_notes: BTreeSet<Seq>,
    pub(crate) alive: u64,
    pub(crate) delayed: u64,
    pub(crate) leased: u64,
    /// Leases by when they began; some of them may have ended.
    pub(crate) leases: VecDeque<LeaseId>,
    pub(crate) bytes: u64,
    pub(crate) consumers: BTreeSet<ConsumerId>,
    /// Those that may have credit: whose turn it is stands first. Who left is passed over.
    pub(crate) line: VecDeque<ConsumerId>,
    /// Stands in the broker's list of queues that may have something to deliver.
    pub(crate) active: bool,
    /// The log is being replayed: what is empty may be filled again, so it stays until the end.
    replaying: bool,
    /// Its definition or next place changed since the last checkpoint began.
    pub(crate) dirty: bool,
    dirty_chunks: Vec<ChunkNo>,
    /// Chunks that the index has and nothing lives in any more.
    gone_chunks: Vec<ChunkNo>,
    pub(crate) totals: Totals,
    pub(crate) publish_rate: Rate,
    pub(crate) ack_rate: Rate,
}

/// An entry that was taken to be delivered.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) seq: Seq,
    pub(crate) entry: Entry,
    /// Never offered before since the broker started.
    pub(crate) first: bool,
}

impl Queue {
    pub(crate) fn new(definition: QueueDefinition, next_seq: Seq) -> Self {
        Self {
            definition,
            chunks: BTreeMap::new(),
            next_seq,
            cursor: Seq(1),
            requeued: BTreeSet::new(),
            notes: BTreeMap::new(),
            changed_notes: BTreeSet::new(),
            alive: 0,
            delayed: 0,
            leased: 0,
            leases: VecDeque::new(),
            bytes: 0,
            consumers: BTreeSet::new(),
            line: VecDeque::new(),
            active: false,
            replaying: false,
            dirty: true,
            dirty_chunks: Vec::new(),
            gone_chunks: Vec::new(),
            totals: Totals::default(),
            publish_rate: Rate::default(),
            ack_rate: Rate::default(),
        }
    }

    pub(crate) fn ready(&self) -> u64 {
        self.alive - self.delayed - self.leased
    }

    // ---- entries come

    /// Adds an entry at the end.
    pub(crate) fn enqueue(
        &mut self,
        position: Position,
        now: Timestamp,
        size: u32,
        note: Option<Note>,
    ) -> ChunkEntry {
        let seq = self.next_seq;
        let entry = ChunkEntry {
            seq,
            position,
            enqueued_at: now,
            size,
            failures: 0,
            ready_at: Timestamp::ZERO,
        };
        self.put(&entry);
        if let Some(note) = note {
            self.set_note(seq, note);
        }
        entry
    }

    /// Puts an entry at its place; also when it is known already. What is told of it comes later in the
    /// log.
    pub(crate) fn replay_entry(
        &mut self,
        kept: &ChunkEntry,
        note: Option<Note>,
        pager: &mut Pager<'_>,
    ) {
        if self.chunks.contains_key(&kept.seq.chunk())
            && self.load(kept.seq.chunk(), pager).is_none()
        {
            return;
        }
        self.put(kept);
        match note {
            Some(note) => self.set_note(kept.seq, note),
            None if self.notes.remove(&kept.seq).is_some() => {
                self.changed_notes.insert(kept.seq);
            }
            None => {}
        }
    }

    fn put(&mut self, kept: &ChunkEntry) {
        let number = kept.seq.chunk();
        if kept.seq >= self.next_seq {
            self.next_seq = Seq(kept.seq.0 + 1);
            self.drop_empty_tail(number);
        }
        let chunk = self.chunks.entry(number).or_default();
        let (alive, delayed, bytes) = (chunk.alive, chunk.delayed, chunk.bytes);
        chunk.insert(number, kept.seq, Entry::from_kept(kept));
        self.alive += u64::from(chunk.alive - alive);
        self.delayed = self.delayed + u64::from(chunk.delayed) - u64::from(delayed);
        self.bytes = self.bytes + chunk.bytes - bytes;
        if !chunk.dirty {
            self.mark_dirty(number);
        }
    }

    /// The last chunk stays when it is empty, until the next one begins.
    fn drop_empty_tail(&mut self, new_tail: ChunkNo) {
        if !self.replaying
            && let Some((number, chunk)) = self.chunks.last_key_value()
            && *number < new_tail
            && chunk.alive == 0
        {
            let number = *number;
            self.drop_chunk(number);
        }
    }

    /// Counts a chunk of the index.
    pub(crate) fn restore_chunk(&mut self, number: ChunkNo, kept: &record::Chunk) {
        let chunk = Chunk::counted(kept);
        self.alive += u64::from(chunk.alive);
        self.delayed += u64::from(chunk.delayed);
        self.bytes += chunk.bytes;
        if let Some(last) = kept.entries.last() {
            self.next_seq = self.next_seq.max(Seq(last.seq.0 + 1));
        }
        self.chunks.insert(number, chunk);
    }

    // ---- entries are looked at

    pub(crate) fn get(&self, seq: Seq) -> Option<&Entry> {
        self.chunks.get(&seq.chunk())?.get(seq.chunk(), seq)
    }

    /// The entry, paged in when it must be.
    pub(crate) fn fetch(&mut self, seq: Seq, pager: &mut Pager<'_>) -> Option<Entry> {
        self.load(seq.chunk(), pager)?;
        self.get(seq).copied()
    }

    pub(crate) fn note(&self, seq: Seq) -> Option<&Arc<Note>> {
        if self.notes.is_empty() {
            None
        } else {
            self.notes.get(&seq)
        }
    }

    /// Makes sure that a chunk is in memory; `None` when there is none, or it cannot be read.
    fn load(&mut self, number: ChunkNo, pager: &mut Pager<'_>) -> Option<&mut Chunk> {
        let chunk = self.chunks.get_mut(&number)?;
        if !chunk.is_loaded() {
            let kept = pager(self.definition.id, number)?;
            chunk.load(number, &kept);
            for (seq, note) in kept.notes {
                self.notes.entry(seq).or_insert(note);
            }
        }
        Some(chunk)
    }

    /// When the oldest ready entry came.
    pub(crate) fn oldest_ready(&self) -> Option<Timestamp> {
        if self.ready() == 0 {
            return None;
        }
        let requeued = self
            .requeued
            .first()
            .and_then(|seq| self.get(*seq))
            .map(|e| e.enqueued_at);
        let ahead = self
            .chunks
            .range(self.cursor.chunk()..)
            .filter(|(_, chunk)| chunk.alive > chunk.delayed)
            .find_map(|(number, chunk)| {
                if chunk.is_loaded() {
                    chunk
                        .next_ready(*number, self.cursor)
                        .map(|(_, entry)| entry.enqueued_at)
                } else {
                    Some(chunk.oldest)
                }
            });
        requeued.into_iter().chain(ahead).min()
    }

    /// The numbers of chunks from `from` on that may hold entries a peek looks for.
    pub(crate) fn chunks_from(&self, from: ChunkNo) -> impl Iterator<Item = (ChunkNo, &Chunk)> {
        self.chunks
            .range(from..)
            .map(|(number, chunk)| (*number, chunk))
    }

    // ---- entries go out and come back

    /// Leases the next ready entry, unless it does not fit.
    pub(crate) fn take_next(
        &mut self,
        lease: LeaseId,
        mut fits: impl FnMut(u32) -> bool,
        pager: &mut Pager<'_>,
    ) -> Option<Taken> {
        let first = self.requeued.is_empty();
        let seq = match self.requeued.first() {
            Some(seq) => *seq,
            None => self.advance(pager)?,
        };
        let number = seq.chunk();
        let chunk = self
            .chunks
            .get_mut(&number)
            .expect("a ready entry has its chunk in memory");
        let entry = *chunk
            .get(number, seq)
            .expect("a ready entry is in its chunk");
        if !fits(entry.size) {
            return None;
        }
        chunk.set(number, seq, State::Leased(lease), entry.failures);
        if first {
            chunk.pinned += 1;
            self.cursor = Seq(seq.0 + 1);
        } else {
            self.requeued.pop_first();
        }
        self.leased += 1;
        Some(Taken { seq, entry, first })
    }

    /// Moves the cursor to the next entry that is ready.
    fn advance(&mut self, pager: &mut Pager<'_>) -> Option<Seq> {
        if self.ready() == 0 {
            return None;
        }
        // Nearly always the next one lies in the same chunk.
        let here = self.cursor.chunk();
        let chunk = self.chunks.get(&here);
        if let Some((seq, _)) = chunk.and_then(|chunk| chunk.next_ready(here, self.cursor)) {
            self.cursor = seq;
            return Some(seq);
        }
        loop {
            let number = self
                .chunks
                .range(self.cursor.chunk()..)
                .next()
                .map(|(n, _)| *n)?;
            self.cursor = self.cursor.max(number.first());
            let cursor = self.cursor;
            let nothing = self
                .chunks
                .get(&number)
                .is_some_and(|c| c.alive == c.delayed);
            if !nothing && let Some((seq, _)) = self.load(number, pager)?.next_ready(number, cursor)
            {
                self.cursor = seq;
                return Some(seq);
            }
            let end = ChunkNo(number.0 + 1).first();
            self.cursor = end.min(self.next_seq);
            if self.cursor == self.next_seq {
                return None;
            }
        }
    }

    /// A leased entry is ready again, at its old place.
    pub(crate) fn requeue(&mut self, seq: Seq) {
        let number = seq.chunk();
        let Some(chunk) = self.chunks.get_mut(&number) else {
            return;
        };
        let Some(entry) = chunk.get(number, seq).copied() else {
            return;
        };
        chunk.set(number, seq, State::Ready, entry.failures);
        self.requeued.insert(seq);
        self.leased -= 1;
    }

    /// A leased entry failed: it waits until `ready_at`, or is ready again when that is not after
    /// `now`.
    pub(crate) fn fail(&mut self, seq: Seq, ready_at: Timestamp, now: Timestamp, attempt: Attempt) {
        let number = seq.chunk();
        let Some(chunk) = self.chunks.get_mut(&number) else {
            return;
        };
        self.leased -= 1;
        if ready_at > now {
            chunk.set(number, seq, State::Delayed(ready_at), attempt.number);
            chunk.pinned -= 1;
            self.delayed += 1;
        } else {
            chunk.set(number, seq, State::Ready, attempt.number);
            self.requeued.insert(seq);
        }
        self.add_attempt(seq, attempt);
        self.mark_dirty(number);
    }

    /// A failure that the log tells of.
    pub(crate) fn replay_failure(
        &mut self,
        seq: Seq,
        ready_at: Timestamp,
        attempt: Attempt,
        pager: &mut Pager<'_>,
    ) {
        let number = seq.chunk();
        let Some(chunk) = self.load(number, pager) else {
            return;
        };
        let delayed = chunk.delayed;
        if chunk.get(number, seq).is_none() {
            return;
        }
        // As when it happened: what did not wait then does not wait now, whatever the clock says.
        let state = if ready_at > attempt.ended_at {
            State::Delayed(ready_at)
        } else {
            State::Ready
        };
        chunk.set(number, seq, state, attempt.number);
        let now_delayed = chunk.delayed;
        self.delayed = self.delayed + u64::from(now_delayed) - u64::from(delayed);
        self.add_attempt(seq, attempt);
        self.mark_dirty(number);
    }

    /// Whether an entry waits for this moment, as far as memory knows.
    pub(crate) fn may_wait(&self, seq: Seq, due: Timestamp) -> bool {
        match self.chunks.get(&seq.chunk()) {
            None => false,
            Some(chunk) if !chunk.is_loaded() => true,
            Some(_) => self
                .get(seq)
                .is_some_and(|entry| entry.state == State::Delayed(due)),
        }
    }

    /// A delayed entry's time has come; nothing when it is not delayed until then any more.
    pub(crate) fn wake(&mut self, seq: Seq, due: Timestamp, pager: &mut Pager<'_>) {
        let number = seq.chunk();
        let cursor = self.cursor;
        let Some(chunk) = self.load(number, pager) else {
            return;
        };
        let Some(entry) = chunk.get(number, seq).copied() else {
            return;
        };
        if entry.state != State::Delayed(due) {
            return;
        }
        chunk.set(number, seq, State::Ready, entry.failures);
        if seq < cursor {
            chunk.pinned += 1;
            self.requeued.insert(seq);
        }
        self.delayed -= 1;
        self.mark_dirty(number);
    }

    /// An entry is gone for good; answers what it was.
    pub(crate) fn remove(&mut self, seq: Seq) -> Option<Entry> {
        let number = seq.chunk();
        let chunk = self.chunks.get_mut(&number)?;
        let entry = chunk.remove(number, seq)?;
        match entry.state {
            State::Leased(_) => {
                self.leased -= 1;
                chunk.pinned -= 1;
            }
            State::Delayed(_) => self.delayed -= 1,
            State::Ready if self.requeued.remove(&seq) => chunk.pinned -= 1,
            State::Ready | State::Gone => {}
        }
        self.alive -= 1;
        self.bytes -= u64::from(entry.size);
        let known = chunk.alive > 0 && chunk.dirty;
        if !self.notes.is_empty() && self.notes.remove(&seq).is_some() {
            self.changed_notes.insert(seq);
        }
        if !known {
            self.shrink(number);
        }
        Some(entry)
    }

    /// An entry that the log says is gone.
    pub(crate) fn replay_removal(&mut self, seq: Seq, pager: &mut Pager<'_>) {
        if self.load(seq.chunk(), pager).is_some() {
            self.remove(seq);
        }
    }

    /// Records of the log follow, of which the index may know the end already: a checkpoint that did
    /// not finish leaves some of its changes there.
    pub(crate) fn begin_replay(&mut self) {
        self.replaying = true;
    }

    /// The chunk that the next entry goes into must be in memory: when the index has begun it, the
    /// next entry begins a new one. What is empty now stays so.
    pub(crate) fn finish_recovery(&mut self) {
        self.replaying = false;
        let tail = self.next_seq.chunk();
        if self
            .chunks
            .get(&tail)
            .is_some_and(|chunk| !chunk.is_loaded())
        {
            self.next_seq = ChunkNo(tail.0 + 1).first();
            self.dirty = true;
        }
        let tail = self.next_seq.chunk();
        let empty = self.chunks.iter().filter(|(_, chunk)| chunk.alive == 0);
        let empty: Vec<_> = empty.map(|(number, _)| *number).collect();
        for number in empty.into_iter().filter(|number| *number != tail) {
            self.drop_chunk(number);
        }
    }

    /// Drops the chunk when nothing lives in it and nothing will come.
    fn shrink(&mut self, number: ChunkNo) {
        let empty = self
            .chunks
            .get(&number)
            .is_some_and(|chunk| chunk.alive == 0);
        if empty && number != self.next_seq.chunk() && !self.replaying {
            self.drop_chunk(number);
        } else {
            self.mark_dirty(number);
        }
    }

    fn drop_chunk(&mut self, number: ChunkNo) {
        if let Some(chunk) = self.chunks.remove(&number)
            && chunk.in_index
        {
            self.gone_chunks.push(number);
            self.dirty = true;
        }
        self.forget_notes(number);
    }

    fn forget_notes(&mut self, number: ChunkNo) {
        let range = number.first()..ChunkNo(number.0 + 1).first();
        while let Some(seq) = self.notes.range(range.clone()).next().map(|(seq, _)| *seq) {
            self.notes.remove(&seq);
        }
        while let Some(seq) = self.changed_notes.range(range.clone()).next().copied() {
            self.changed_notes.remove(&seq);
        }
    }

    // ---- what is known of an entry

    pub(crate) fn set_note(&mut self, seq: Seq, note: Note) {
        self.notes.insert(seq, Arc::new(note));
        self.changed_notes.insert(seq);
    }

    fn add_attempt(&mut self, seq: Seq, attempt: Attempt) {
        let note = Arc::make_mut(self.notes.entry(seq).or_default());
        note.add_attempt(attempt);
        self.changed_notes.insert(seq);
    }

    // ---- checkpoints

    fn mark_dirty(&mut self, number: ChunkNo) {
        self.dirty = true;
        if let Some(chunk) = self.chunks.get_mut(&number)
            && !chunk.dirty
        {
            chunk.dirty = true;
            self.dirty_chunks.push(number);
        }
    }

    /// What changed since the last time, with the chunks that the index will hold.
    pub(crate) fn checkpoint(&mut self, changes: &mut Vec<ChunkChange>) -> Vec<ChunkNo> {
        self.dirty = false;
        let queue = self.definition.id;
        for number in std::mem::take(&mut self.gone_chunks) {
            changes.push(ChunkChange {
                queue,
                number,
                entries: Vec::new(),
                notes: Vec::new(),
            });
        }
        let mut kept = Vec::new();
        for number in std::mem::take(&mut self.dirty_chunks) {
            // One that was dropped, or stands here twice.
            let Some(chunk) = self.chunks.get_mut(&number).filter(|chunk| chunk.dirty) else {
                continue;
            };
            chunk.dirty = false;
            let was_in_index = std::mem::replace(&mut chunk.in_index, chunk.alive > 0);
            if chunk.alive == 0 && !was_in_index {
                self.forget_notes(number);
                continue;
            }
            let entries = chunk
                .iter(number)
                .map(|(seq, entry)| entry.kept(seq))
                .collect();
            let notes = self.take_changed_notes(number);
            changes.push(ChunkChange {
                queue,
                number,
                entries,
                notes,
            });
            kept.push(number);
        }
        kept
    }

    fn take_changed_notes(&mut self, number: ChunkNo) -> Vec<(Seq, Option<Arc<Note>>)> {
        if self.changed_notes.is_empty() {
            return Vec::new();
        }
        let range = number.first()..ChunkNo(number.0 + 1).first();
        let changed: Vec<_> = self.changed_notes.range(range).copied().collect();
        changed
            .into_iter()
            .map(|seq| {
                self.changed_notes.remove(&seq);
                (seq, self.notes.get(&seq).cloned())
            })
            .collect()
    }

    /// Lets go of a chunk that the index holds, unless it is needed soon; answers whether to look at it
    /// again after the next checkpoint.
    pub(crate) fn unload(&mut self, number: ChunkNo, answerable: bool) -> bool {
        let tail = self.next_seq.chunk();
        let window = if self.consumers.is_empty() {
            0
        } else {
            limits::WINDOW_CHUNKS
        };
        let soon = self.cursor.chunk()..ChunkNo(self.cursor.chunk().0 + window);
        let Some(chunk) = self.chunks.get_mut(&number) else {
            return false;
        };
        if !chunk.in_index || chunk.dirty {
            return false;
        }
        if answerable || chunk.pinned > 0 || number == tail || soon.contains(&number) {
            return true;
        }
        chunk.unload();
        self.forget_notes(number);
        false
    }
}
