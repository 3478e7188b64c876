//! Does the operations, on a broker and on the model, and compares.

use std::time::Duration;

use bytes::Bytes;
use courser_core::{
    broker::{Broker, ConsumerOptions, HandOver, RedriveTask},
    error::QueueError,
    id::{ConsumerId, LeaseId, Position, Seq},
    lease::{Settlement, Verdict},
    message::NewMessage,
    options::QueueOptions,
    random::Random,
    stats::{EntryState, EntryView, Peek, QueueView, StateFilter},
    time::Timestamp,
};

use crate::{
    disk::Disk,
    invent::{Inventor, Operation, Redrive},
    judge::{Consumer, Entry, Model, Queue, State, Totals, dlq},
};

/// Operations of a run.
const OPERATIONS: usize = 500;

/// Tells the seed of a run that fails, however it fails.
struct Seed(u64);

impl Drop for Seed {
    #[expect(clippy::print_stderr, reason = "it is what to replay the failure with")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the run that failed: COURSER_SEED={}", self.0);
        }
    }
}

pub(crate) fn run(seed: u64) {
    let _seed = Seed(seed);
    let mut inventor = Inventor::new(seed);
    let mut runner = Runner::new(seed);
    for step in 0..OPERATIONS {
        let operation = inventor.next(&runner.model);
        runner.step = format!("step {step}, {:.200}", format!("{operation:?}"));
        // Sometimes the power fails before what an operation did is on the disk.
        let lost = inventor.random.next_u64().is_multiple_of(200);
        // No two turns of an engine are at one moment.
        runner.model.now = runner.model.now + Duration::from_micros(1);
        runner.handle_timeout();
        runner.commit();
        let before = lost.then(|| (runner.model.clone(), runner.disk.clone()));
        runner.run(operation);
        if let Some((model, disk)) = before {
            let now = runner.model.now;
            (runner.model, runner.disk) = (model, disk);
            runner.model.now = now;
            runner.restart();
        }
        runner.commit();
        runner.compare_counts();
        if step % 20 == 0 {
            runner.compare_entries();
        }
    }
    runner.restart();
    runner.compare_entries();
}

struct Runner {
    broker: Broker,
    disk: Disk,
    model: Model,
    random: Random,
    step: String,
}

impl Runner {
    fn new(seed: u64) -> Self {
        let mut disk = Disk::default();
        Self {
            broker: disk.recover(seed),
            disk,
            model: Model::new(Timestamp::from_micros(1_000_000_000_000)),
            random: Random::new(seed),
            step: String::new(),
        }
    }

    fn commit(&mut self) {
        let records = self.broker.drain_records().records;
        self.disk.commit(records, self.broker.next_position());
    }

    fn run(&mut self, operation: Operation) {
        match operation {
            Operation::Create(name, options) => self.create(name, options),
            Operation::Update(name, options) => self.update(&name, options),
            Operation::Delete(name, if_empty) => self.delete(&name, if_empty),
            Operation::Publish {
                topic,
                sizes,
                mandatory,
            } => {
                self.publish(&topic, &sizes, mandatory);
            }
            Operation::Subscribe(name, options) => self.subscribe(name, options),
            Operation::Deliver(limit) => self.deliver(limit),
            Operation::Taken(id, count) => self.taken(id, count as usize),
            Operation::Settle(lease_id, verdict) => self.settle(lease_id, verdict),
            Operation::SettleMany(id, count, verdict) => {
                for lease_id in self.model.leases_of(id).into_iter().take(count) {
                    self.settle(lease_id, verdict.clone());
                }
            }
            Operation::Drain(id) => {
                self.broker.drain(id);
                self.model.consumers.get_mut(&id).unwrap().drained = true;
            }
            Operation::Disconnect(id) => {
                self.broker.handle_disconnect(id, self.model.now);
                self.model.disconnect(id);
            }
            Operation::Detach(id) => {
                self.broker.detach(id);
                self.model.detach(id);
            }
            Operation::Wait(duration) => {
                self.model.now = self.model.now + duration;
                self.handle_timeout();
            }
            Operation::Purge(name, limit) => self.purge(&name, limit),
            Operation::Redrive(redrive) => self.redrive(&redrive),
            Operation::CheckpointBegin => {
                if !self.disk.is_busy() {
                    self.disk.begin(self.broker.checkpoint());
                }
            }
            Operation::CheckpointEnd => {
                if self.disk.is_busy() {
                    self.disk.finish();
                    self.broker.checkpoint_done();
                }
            }
            Operation::Restart => self.restart(),
            Operation::Crash => {
                self.disk.crash(&mut self.random);
                self.restart();
            }
        }
    }

    fn handle_timeout(&mut self) {
        let disk = &self.disk;
        let mut pager = |queue, number| disk.page(queue, number);
        let now = self.model.now;
        while self.broker.poll_timeout().is_some_and(|at| at <= now) {
            self.broker.handle_timeout(now, &mut pager, &mut |_| None);
        }
        self.model.handle_timeout();
        if let Some(at) = self.broker.poll_timeout() {
            assert!(
                at > self.model.now,
                "all that was due is done: {}",
                self.step
            );
        }
    }

    fn restart(&mut self) {
        self.disk.abandon();
        self.broker = self.disk.recover(self.random.next_u64());
        self.model.restart();
        self.handle_timeout();
        self.commit();
        self.compare_entries();
    }

    // ---- queues

    fn create(&mut self, name: &str, options: QueueOptions) {
        let result = self
            .broker
            .create_queue(self.model.now, name, options.clone());
        let there = self.model.queues.contains_key(name);
        match result {
            Ok(made) => {
                assert_eq!(made, !there, "{}", self.step);
                if made {
                    self.model.create(name, normal(options, name), None);
                    self.still_jitter(name);
                }
            }
            Err(error) => assert!(
                there && matches!(error, QueueError::Exists { .. }),
                "{error}"
            ),
        }
    }

    fn update(&mut self, name: &str, options: QueueOptions) {
        let Some(queue) = self.model.queues.get(name) else {
            return;
        };
        let options = QueueOptions {
            dead_letter: options.dead_letter && queue.of.is_none(),
            ..normal(options, name)
        };
        let dead = self
            .model
            .queues
            .get(&dlq(name))
            .map_or(0, |dead| dead.entries.len());
        let refused = queue.options.dead_letter && !options.dead_letter && dead > 0;
        let result = self
            .broker
            .update_queue(self.model.now, name, |change| *change = options.clone());
        assert_eq!(result.is_err(), refused, "{result:?} at {}", self.step);
        if !refused {
            self.model.update(name, options);
            self.still_jitter(name);
        }
    }

    /// The model does not know chance.
    fn still_jitter(&mut self, name: &str) {
        let (dlq, now) = (dlq(name), self.model.now);
        if let Some(queue) = self.model.queues.get_mut(&dlq) {
            queue.options.backoff.jitter = 0.0;
            let still = |options: &mut QueueOptions| options.backoff.jitter = 0.0;
            self.broker
                .update_queue(now, &dlq, still)
                .expect("the queue is there");
        }
    }

    fn delete(&mut self, name: &str, if_empty: bool) {
        let result = self.broker.delete_queue(name, if_empty);
        let Some(queue) = self.model.queues.get(name) else {
            return;
        };
        let dead = self
            .model
            .queues
            .get(&dlq(name))
            .map_or(0, |dead| dead.entries.len() as u64);
        let entries = queue.entries.len() as u64;
        let refused = queue.of.is_some() || (if_empty && entries + dead > 0);
        match result {
            Err(_) => assert!(refused, "{}", self.step),
            Ok(gone) => {
                assert!(
                    !refused && gone == (entries, dead),
                    "{gone:?} at {}",
                    self.step
                );
                self.model.delete(&dlq(name));
                self.model.delete(name);
            }
        }
    }

    fn purge(&mut self, name: &str, limit: Option<u64>) {
        let disk = &self.disk;
        let pager = &mut |queue, number| disk.page(queue, number);
        let Ok(purged) = self.broker.purge_queue(name, limit, pager) else {
            return;
        };
        let queue = &self.model.queues[name];
        let free = queue
            .entries
            .iter()
            .filter(|(_, e)| !matches!(e.state, State::Leased(_)));
        let limit = usize::try_from(limit.unwrap_or(u64::MAX)).unwrap();
        let gone: Vec<_> = free.map(|(order, _)| *order).take(limit).collect();
        assert_eq!(purged, gone.len() as u64, "{}", self.step);
        for order in gone {
            self.model.remove(name, order);
        }
        self.model.queue(name).totals.purged += purged;
    }

    fn redrive(&mut self, redrive: &Redrive) {
        let mut task = RedriveTask {
            queue: redrive.queue.clone(),
            to: redrive.to.clone(),
            limit: redrive.limit,
            entries: self.every(redrive),
            reason: redrive.reason.clone(),
            dry_run: redrive.dry_run,
            after: Seq(0),
            before: None,
        };
        let wanted = self.wanted(redrive);
        let to = redrive.to.clone().unwrap_or_else(|| {
            self.model.queues[&redrive.queue]
                .of
                .clone()
                .expect("it keeps dead letters")
        });
        let (mut moved, mut done) = (0, false);
        while !done {
            let disk = &self.disk;
            let pager = &mut |queue, number| disk.page(queue, number);
            let Ok(step) = self.broker.redrive_step(&mut task, self.model.now, pager) else {
                assert!(self.model.queues.get(&to).is_none_or(|to| to.of.is_some()));
                return;
            };
            moved += step.moved;
            done = step.done;
        }
        assert_eq!(moved, wanted.len() as u64, "{}", self.step);
        for order in wanted.into_iter().filter(|_| !redrive.dry_run) {
            let entry = self.model.remove(&redrive.queue, order);
            let mut note = entry.note.unwrap_or_default();
            note.redrives += 1;
            note.dead_letter = None;
            self.model.queue(&redrive.queue).totals.redriven += 1;
            self.model
                .place(&to, entry.position, entry.size, Some(note));
        }
    }

    /// The places that a redrive names.
    fn every(&self, redrive: &Redrive) -> Vec<Seq> {
        let views = self.peek(&redrive.queue);
        let seqs = views.iter().map(|view| view.entry.seq);
        if redrive.every == 0 {
            Vec::new()
        } else {
            seqs.step_by(redrive.every).collect()
        }
    }

    /// The entries that a redrive moves.
    fn wanted(&self, redrive: &Redrive) -> Vec<u64> {
        let entries = &self.model.queues[&redrive.queue].entries;
        let named = entries.iter().step_by(redrive.every.max(1));
        let wanted = named.filter(|(_, entry)| {
            let letter = entry
                .note
                .as_ref()
                .and_then(|note| note.dead_letter.as_ref());
            !matches!(entry.state, State::Leased(_))
                && redrive
                    .reason
                    .as_ref()
                    .is_none_or(|reason| letter.is_some_and(|letter| *letter.reason == **reason))
        });
        let limit = usize::try_from(redrive.limit).unwrap_or(usize::MAX);
        wanted.map(|(order, _)| *order).take(limit).collect()
    }

    // ---- messages

    fn publish(&mut self, topic: &str, sizes: &[u32], mandatory: bool) {
        let messages: Vec<_> = sizes.iter().map(|size| message(topic, *size)).collect();
        let result = self.broker.publish(self.model.now, &messages, mandatory);
        let names: Vec<_> = self
            .model
            .queues
            .iter()
            .filter(|(name, queue)| *name == topic || is_bound(&queue.options, topic))
            .map(|(name, _)| name.clone())
            .collect();
        assert_eq!(
            result.is_err(),
            mandatory && names.is_empty(),
            "{}",
            self.step
        );
        let Ok(placement) = result else { return };
        for (placed, size) in placement.placed.iter().zip(sizes) {
            let next = if names.is_empty() {
                0
            } else {
                self.model.next_position
            };
            assert_eq!(placed.position, Position(next), "{}", self.step);
            assert_eq!(placed.queues as usize, names.len(), "{}", self.step);
            self.model.next_position += u64::from(next > 0);
            for name in &names {
                self.model.place(name, placed.position, *size, None);
                self.model.queue(name).totals.published += 1;
            }
        }
    }

    fn subscribe(&mut self, name: String, options: ConsumerOptions) {
        let result = self.broker.subscribe(&name, options.clone());
        assert_eq!(
            result.is_ok(),
            self.model.queues.contains_key(&name),
            "{}",
            self.step
        );
        let Ok(id) = result else { return };
        let queue = name;
        let consumer = Consumer {
            queue,
            options,
            held: 0,
            held_bytes: 0,
            handed: Vec::new(),
            taken: 0,
            drained: false,
        };
        self.model.consumers.insert(id, consumer);
    }

    fn deliver(&mut self, limit: usize) {
        let mut handed = Vec::new();
        let disk = &self.disk;
        let pager = &mut |queue, number| disk.page(queue, number);
        let more = self
            .broker
            .poll_deliveries(self.model.now, limit, pager, &mut handed);
        for hand_over in &handed {
            self.judge_hand_over(hand_over);
        }
        if !more {
            self.judge_that_nobody_waits();
        }
    }

    fn judge_hand_over(&mut self, hand_over: &HandOver) {
        let id = hand_over.consumer;
        let consumer = &self.model.consumers[&id];
        let queue = consumer.queue.clone();
        let (_, head) = self.model.head(&queue).expect("somebody waits");
        assert_eq!(
            hand_over.position, head.position,
            "the first goes first: {}",
            self.step
        );
        assert_eq!(hand_over.attempt, head.failures + 1, "{}", self.step);
        assert_eq!(hand_over.size, head.size, "{}", self.step);
        assert_eq!(
            hand_over.note.as_deref(),
            head.note.as_ref(),
            "{}",
            self.step
        );
        assert!(
            self.model.fits(id, head.size),
            "{id} has no credit: {}",
            self.step
        );
        assert!(
            !self.model.queues[&queue].options.paused,
            "{queue} is paused: {}",
            self.step
        );
        assert_eq!(hand_over.lease_id == LeaseId(0), consumer.options.auto_ack);
        let until = self.model.hand(id, hand_over.lease_id);
        assert_eq!(hand_over.lease_until, until, "{}", self.step);
    }

    fn judge_that_nobody_waits(&self) {
        for (id, consumer) in &self.model.consumers {
            let paused = self.model.queues[&consumer.queue].options.paused;
            if let Some((_, head)) = self.model.head(&consumer.queue)
                && !paused
            {
                assert!(
                    !self.model.fits(*id, head.size),
                    "{id} waits in vain: {}",
                    self.step
                );
            }
        }
    }

    fn taken(&mut self, id: ConsumerId, count: usize) {
        let consumer = self
            .model
            .consumers
            .get_mut(&id)
            .expect("the consumer is there");
        consumer.taken = (consumer.taken + count * 20).min(consumer.handed.len());
        let bytes = consumer.handed[..consumer.taken]
            .iter()
            .map(|size| u64::from(*size))
            .sum();
        self.broker.handle_taken(id, consumer.taken as u64, bytes);
    }

    fn settle(&mut self, lease_id: LeaseId, verdict: Verdict) {
        let settlement = Settlement { lease_id, verdict };
        let expected = self.model.settle(&settlement);
        let answer = self.broker.settle(self.model.now, settlement);
        assert_eq!(answer, expected, "{}", self.step);
    }

    // ---- comparing

    fn compare_counts(&self) {
        let views = self.broker.views("", None, usize::MAX, self.model.now);
        let names: Vec<_> = views
            .iter()
            .map(|view| view.definition.name.to_string())
            .collect();
        let expected: Vec<_> = self.model.queues.keys().cloned().collect();
        assert_eq!(names, expected, "{}", self.step);
        for (view, (name, queue)) in views.iter().zip(&self.model.queues) {
            self.compare_queue(view, name, queue);
        }
    }

    fn compare_queue(&self, view: &QueueView, name: &str, queue: &Queue) {
        let (entries, ready) = (queue.entries.len() as u64, queue.ready.len() as u64);
        let of = self
            .model
            .leases
            .values()
            .filter(|lease| lease.queue == name);
        let leased = of.count() as u64;
        let dead = self
            .model
            .queues
            .get(&dlq(name))
            .map_or(0, |dead| dead.entries.len() as u64);
        let expected = [ready, entries - ready - leased, leased, queue.bytes, dead];
        let counts = [view.ready, view.delayed, view.leased, view.bytes, view.dead];
        assert_eq!(counts, expected, "counts of {name}: {}", self.step);
        assert_eq!(
            view.definition.options, queue.options,
            "{name}: {}",
            self.step
        );
        let totals = totals(view);
        assert_eq!(totals, queue.totals, "totals of {name}: {}", self.step);
        let alive = view.ready + view.delayed + view.leased;
        let left = totals.acked + totals.purged + totals.dead_lettered + totals.redriven;
        assert_eq!(
            queue.came,
            alive + left,
            "nothing goes silently: {name}, {}",
            self.step
        );
    }

    fn compare_entries(&self) {
        for (name, queue) in &self.model.queues {
            let views = self.peek(name);
            let expected: Vec<_> = queue.entries.values().collect();
            assert_eq!(
                views.len(),
                expected.len(),
                "entries of {name}: {}",
                self.step
            );
            for (view, entry) in views.iter().zip(expected) {
                self.compare_entry(view, entry, name);
            }
        }
    }

    fn compare_entry(&self, view: &EntryView, expected: &Entry, name: &str) {
        let entry = &view.entry;
        assert_eq!(
            (
                entry.position,
                entry.size,
                entry.enqueued_at,
                entry.failures,
                view.note.as_deref()
            ),
            (
                expected.position,
                expected.size,
                expected.enqueued_at,
                expected.failures,
                expected.note.as_ref()
            ),
            "an entry of {name}: {}",
            self.step
        );
        let state = match expected.state {
            State::Ready => EntryState::Ready,
            State::Delayed(at) => EntryState::Delayed(at),
            State::Leased(id) => {
                let lease = &self.model.leases[&id];
                EntryState::Leased {
                    consumer: lease.name.clone(),
                    until: lease.until,
                }
            }
        };
        assert_eq!(
            view.state, state,
            "{} of {name}: {}",
            entry.position, self.step
        );
    }

    /// All entries of a queue.
    fn peek(&self, name: &str) -> Vec<EntryView> {
        let mut all: Vec<EntryView> = Vec::new();
        loop {
            let after = all.last().map_or(Seq(0), |view| view.entry.seq);
            let peek = Peek {
                state: StateFilter::Any,
                after,
                limit: 1_000,
            };
            let pager = &mut |queue, number| self.disk.page(queue, number);
            let views = self
                .broker
                .peek(name, peek, pager)
                .expect("the queue is there");
            if views.is_empty() {
                return all;
            }
            all.extend(views);
        }
    }
}

fn totals(view: &QueueView) -> Totals {
    let totals = &view.totals;
    Totals {
        published: totals.published,
        delivered: totals.delivered,
        acked: totals.acked,
        nacked: totals.nacked,
        released: totals.released,
        expired: totals.expired,
        disconnected: totals.disconnected,
        purged: totals.purged,
        redriven: totals.redriven,
        dead_lettered: totals.dead_lettered.values().sum(),
    }
}

/// Options as a queue keeps them.
fn normal(mut options: QueueOptions, name: &str) -> QueueOptions {
    options.bindings.retain(|pattern| pattern.as_str() != name);
    options.bindings.sort();
    options.bindings.dedup();
    options
}

/// Whether one of the patterns that are invented matches a topic that is.
fn is_bound(options: &QueueOptions, topic: &str) -> bool {
    options
        .bindings
        .iter()
        .any(|pattern| match pattern.as_str() {
            "t.*" | "t.#" => topic.starts_with("t."),
            "*.y" => topic == "t.y",
            "#.x.#" => topic == "t.x",
            exact => topic == exact,
        })
}

/// A message that counts for `size` bytes.
fn message(topic: &str, size: u32) -> NewMessage {
    NewMessage {
        id: None,
        topic: topic.into(),
        payload: Bytes::from(vec![0; size as usize - topic.len()]),
        headers: Vec::new(),
        attributes: None,
    }
}
