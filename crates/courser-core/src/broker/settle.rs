//! Settling: what a consumer says of a lease, and what the world says when it does not.

use std::sync::Arc;

use super::Broker;
use crate::{
    chunk::State,
    error::LeaseError,
    id::{ConsumerId, LeaseId, QueueId, Seq},
    lease::{DeadLetterReason, Lease, Nack, Settlement, Verdict},
    limits,
    options::Durability,
    record::{Attempt, AttemptOutcome, DeadLetter, Note, Record},
    time::Timestamp,
};

/// The reason of entries that failed too often.
pub(crate) const MAX_ATTEMPTS: &str = "max_attempts";

impl Broker {
    /// Settles one lease.
    ///
    /// # Errors
    /// Then nothing changed.
    pub fn settle(&mut self, now: Timestamp, settlement: Settlement) -> Result<(), LeaseError> {
        let id = settlement.lease_id;
        match settlement.verdict {
            // Nearly all are this: it looks for the lease once.
            Verdict::Ack => match self.leases.take(id) {
                Some(lease) => self.ack(&lease, now),
                None => return self.settle_late(now, id, Verdict::Ack),
            },
            verdict if self.leases.get(id).is_none() => return self.settle_late(now, id, verdict),
            Verdict::Release => self.release(id),
            Verdict::Nack(nack) => self.nack(id, &nack, now),
            Verdict::DeadLetter(reason) => return self.reject(id, &reason, now),
            Verdict::Extend(by) => return self.extend(id, by, now),
        }
        Ok(())
    }

    /// An ack or a dead-letter counts as long as nobody else holds the entry.
    fn settle_late(
        &mut self,
        now: Timestamp,
        id: LeaseId,
        verdict: Verdict,
    ) -> Result<(), LeaseError> {
        let error = self.leases.error(id);
        let Some((queue_id, seq)) = self.leases.ended(id) else {
            return Err(error);
        };
        let Some(queue) = self.queues.get_mut(&queue_id) else {
            return Err(error);
        };
        let Some(entry) = queue.get(seq) else {
            return Err(error);
        };
        if matches!(entry.state, State::Leased(_)) {
            return Err(error);
        }
        match verdict {
            Verdict::Ack => {
                queue.remove(seq);
                queue.totals.acked += 1;
                queue.ack_rate.add(now, 1);
                self.activate(queue_id);
                self.record(
                    queue_id,
                    Record::Removed {
                        queue: queue_id,
                        seq,
                    },
                );
            }
            Verdict::DeadLetter(reason) => {
                if queue.definition.dead_letter_queue.is_none() {
                    return Err(LeaseError::NoDeadLetterQueue);
                }
                self.dead_letter(
                    queue_id,
                    seq,
                    None,
                    &reason.reason,
                    &reason.description,
                    now,
                );
            }
            Verdict::Release | Verdict::Nack(_) | Verdict::Extend(_) => return Err(error),
        }
        self.leases.forget_ended(id);
        Ok(())
    }

    /// Forgets the entry for good.
    fn ack(&mut self, lease: &Lease, now: Timestamp) {
        self.give_back_credit(lease);
        let queue = self
            .queues
            .get_mut(&lease.queue)
            .expect("a lease has its queue");
        if let Some(entry) = queue.remove(lease.seq) {
            queue
                .totals
                .end_to_end_time
                .record(now.since(entry.enqueued_at));
            self.acked.push(entry.position);
        }
        queue.totals.acked += 1;
        queue.ack_rate.add(now, 1);
        queue
            .totals
            .processing_time
            .record(now.since(lease.delivered_at));
        self.sync_records |= queue.definition.options.durability == Durability::Synced;
        self.records.push(Record::Removed {
            queue: lease.queue,
            seq: lease.seq,
        });
    }

    fn release(&mut self, id: LeaseId) {
        let Some(lease) = self.leases.take(id) else {
            return;
        };
        self.give_back_credit(&lease);
        self.requeue(&lease);
    }

    fn requeue(&mut self, lease: &Lease) {
        if let Some(queue) = self.queues.get_mut(&lease.queue) {
            queue.requeue(lease.seq);
            queue.totals.released += 1;
            self.activate(lease.queue);
        }
    }

    fn nack(&mut self, id: LeaseId, nack: &Nack, now: Timestamp) {
        let Some(lease) = self.leases.take(id) else {
            return;
        };
        self.give_back_credit(&lease);
        if let Some(queue) = self.queues.get_mut(&lease.queue) {
            queue.totals.nacked += 1;
        }
        self.fail(&lease, AttemptOutcome::Nacked, nack, now);
    }

    fn reject(
        &mut self,
        id: LeaseId,
        reason: &DeadLetterReason,
        now: Timestamp,
    ) -> Result<(), LeaseError> {
        let lease = self.leases.get(id).expect("looked up before");
        let (queue_id, seq) = (lease.queue, lease.seq);
        let queue = &self.queues[&queue_id];
        if queue.definition.dead_letter_queue.is_none() {
            return Err(LeaseError::NoDeadLetterQueue);
        }
        let lease = self.leases.take(id).expect("looked up before");
        self.give_back_credit(&lease);
        let failures = self.queues[&queue_id]
            .get(seq)
            .map_or(0, |entry| entry.failures);
        let error = cut(&reason.description);
        let attempt = attempt(&lease, failures + 1, AttemptOutcome::Rejected, error, now);
        let (reason, description) = (&reason.reason, &reason.description);
        self.dead_letter(queue_id, seq, Some(attempt), reason, description, now);
        Ok(())
    }

    fn extend(
        &mut self,
        id: LeaseId,
        by: std::time::Duration,
        now: Timestamp,
    ) -> Result<(), LeaseError> {
        let lease = self.leases.get(id).expect("looked up before");
        let latest = lease.delivered_at + limits::LEASE_TOTAL_MAX;
        if now + by > latest {
            return Err(LeaseError::TooLong {
                left: latest.since(now),
            });
        }
        self.leases.extend(id, now + by);
        Ok(())
    }

    // ---- when nobody settles

    /// A lease ran out.
    pub(super) fn expire(&mut self, id: LeaseId, now: Timestamp) {
        let Some(lease) = self.leases.end(id) else {
            return;
        };
        let consumer = lease.consumer.and_then(|id| self.consumers.get(&id));
        let unsent = consumer.is_some_and(|consumer| lease.ordinal >= consumer.taken);
        self.give_back_credit(&lease);
        if unsent {
            self.requeue(&lease);
            return;
        }
        if let Some(queue) = self.queues.get_mut(&lease.queue) {
            queue.totals.expired += 1;
        }
        self.fail(&lease, AttemptOutcome::Expired, &Nack::default(), now);
    }

    /// Ends a lease whose delivery its consumer does not get.
    pub(super) fn take_back(&mut self, id: LeaseId) {
        if let Some(lease) = self.leases.end(id) {
            self.give_back_credit(&lease);
            self.requeue(&lease);
        }
    }

    /// A consumer that had taken `taken` deliveries is gone, and with it this lease.
    pub(super) fn give_up(&mut self, id: LeaseId, taken: u64, now: Timestamp) {
        let Some(lease) = self.leases.end(id) else {
            return;
        };
        if lease.ordinal >= taken {
            self.requeue(&lease);
            return;
        }
        if let Some(queue) = self.queues.get_mut(&lease.queue) {
            queue.totals.disconnected += 1;
        }
        self.fail(&lease, AttemptOutcome::Disconnected, &Nack::default(), now);
    }

    /// An attempt failed: again later, or to the dead letters.
    fn fail(&mut self, lease: &Lease, outcome: AttemptOutcome, nack: &Nack, now: Timestamp) {
        let random = self.random.next_f64();
        let Some(queue) = self.queues.get_mut(&lease.queue) else {
            return;
        };
        let Some(entry) = queue.get(lease.seq) else {
            return;
        };
        let failures = entry.failures + 1;
        let options = &queue.definition.options;
        let exhausted = options.max_attempts > 0 && failures >= options.max_attempts;
        let attempt = attempt(lease, failures, outcome, cut(&nack.error), now);
        if exhausted && queue.definition.dead_letter_queue.is_some() {
            self.dead_letter(
                lease.queue,
                lease.seq,
                Some(attempt),
                MAX_ATTEMPTS,
                &nack.error,
                now,
            );
            return;
        }
        let wait = match nack.retry_after {
            Some(wait) if !exhausted => wait,
            _ if exhausted => options.backoff.max,
            // It is given back at once: most who go away do no harm to what they held.
            _ if outcome == AttemptOutcome::Disconnected => std::time::Duration::ZERO,
            _ => options.backoff.wait(failures, random),
        };
        let ready_at = now + wait;
        queue.fail(lease.seq, ready_at, now, attempt.clone());
        if ready_at > now {
            self.wait_until(ready_at, lease.queue, lease.seq);
        }
        let (queue, seq, attempt) = (lease.queue, lease.seq, Box::new(attempt));
        self.record(
            queue,
            Record::Failed {
                queue,
                seq,
                ready_at,
                attempt,
            },
        );
        self.activate(queue);
    }

    /// Moves an entry to the dead-letter queue.
    fn dead_letter(
        &mut self,
        from: QueueId,
        from_seq: Seq,
        attempt: Option<Attempt>,
        reason: &str,
        description: &str,
        now: Timestamp,
    ) {
        let queue = self.queues.get_mut(&from).expect("checked before");
        let Some(to) = queue.definition.dead_letter_queue else {
            return;
        };
        let mut note = queue
            .note(from_seq)
            .map(|note| Note::clone(note))
            .unwrap_or_default();
        if let Some(attempt) = attempt {
            note.add_attempt(attempt);
        }
        note.dead_letter = Some(DeadLetter {
            reason: reason.into(),
            description: cut(description),
            queue: Arc::clone(&queue.definition.name),
            at: now,
        });
        queue.totals.count_dead_letter(reason);
        self.move_entry(from, from_seq, to, note, now);
    }

    /// Moves an entry to the end of another queue; answers whether there was one.
    pub(super) fn move_entry(
        &mut self,
        from: QueueId,
        from_seq: Seq,
        to: QueueId,
        note: Note,
        now: Timestamp,
    ) -> bool {
        if !self.queues.contains_key(&to) {
            return false;
        }
        let Some(entry) = self
            .queues
            .get_mut(&from)
            .and_then(|queue| queue.remove(from_seq))
        else {
            return false;
        };
        let target = self.queues.get_mut(&to).expect("looked up before");
        let entry = target.enqueue(entry.position, now, entry.size, Some(note.clone()));
        self.grown += 1;
        self.activate(from);
        self.activate(to);
        let note = Box::new(note);
        self.record(
            from,
            Record::Moved {
                from,
                from_seq,
                to,
                entry,
                note,
            },
        );
        true
    }

    // ---- small things

    pub(super) fn record(&mut self, queue: QueueId, record: Record) {
        self.sync_records |= self
            .queues
            .get(&queue)
            .is_none_or(|queue| queue.definition.options.durability == Durability::Synced);
        self.records.push(record);
    }

    fn give_back_credit(&mut self, lease: &Lease) {
        if let Some(id) = lease.consumer {
            self.credit(id, lease.size);
        }
        self.activate(lease.queue);
    }

    fn credit(&mut self, id: ConsumerId, size: u32) {
        let leases = &self.leases;
        if let Some(consumer) = self.consumers.get_mut(&id) {
            consumer.give_back(size, |lease| leases.get(lease).is_some());
            self.line_up(id);
        }
    }
}

fn attempt(
    lease: &Lease,
    number: u32,
    outcome: AttemptOutcome,
    error: Box<str>,
    now: Timestamp,
) -> Attempt {
    Attempt {
        number,
        consumer: Arc::clone(&lease.consumer_name),
        delivered_at: lease.delivered_at,
        ended_at: now,
        outcome,
        error,
    }
}

/// At most so many bytes of what a consumer said, on a character's boundary.
fn cut(text: &str) -> Box<str> {
    text[..text.floor_char_boundary(limits::ERROR_BYTES_KEPT)].into()
}
