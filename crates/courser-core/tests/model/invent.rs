//! Thinks of what to do next.

use std::time::Duration;

use courser_core::{
    broker::ConsumerOptions,
    id::{ConsumerId, LeaseId},
    lease::{DeadLetterReason, Nack, Verdict},
    limits,
    name::Pattern,
    options::{Backoff, QueueOptions},
    random::Random,
};

use crate::judge::Model;

#[derive(Debug)]
pub(crate) enum Operation {
    Create(&'static str, QueueOptions),
    Update(String, QueueOptions),
    Delete(String, bool),
    Publish {
        topic: String,
        sizes: Vec<u32>,
        mandatory: bool,
    },
    Subscribe(String, ConsumerOptions),
    Deliver(usize),
    Taken(ConsumerId, u64),
    Settle(LeaseId, Verdict),
    /// The oldest leases of a consumer.
    SettleMany(ConsumerId, usize, Verdict),
    Drain(ConsumerId),
    Disconnect(ConsumerId),
    Detach(ConsumerId),
    Wait(Duration),
    Purge(String, Option<u64>),
    Redrive(Redrive),
    CheckpointBegin,
    CheckpointEnd,
    Restart,
    /// A power cut in the middle of a checkpoint.
    Crash,
}

#[derive(Debug)]
pub(crate) struct Redrive {
    pub(crate) queue: String,
    pub(crate) to: Option<String>,
    pub(crate) limit: u64,
    /// Only every so manieth entry, unless 0.
    pub(crate) every: usize,
    pub(crate) reason: Option<String>,
    pub(crate) dry_run: bool,
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const TOPICS: [&str; 7] = ["a", "b", "c", "d", "t.x", "t.y", "nowhere"];
const PATTERNS: [&str; 6] = ["t.*", "t.#", "t.x", "*.y", "#.x.#", "a"];

/// Invents operations, of which some kinds are more likely with one seed than with another.
pub(crate) struct Inventor {
    pub(crate) random: Random,
    /// Messages of a publish at most.
    bulk: u64,
    /// How likely it is that something begins anew, in a thousand.
    restarts: u64,
    credit: u64,
}

impl Inventor {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        Self {
            bulk: [3, 40, 700][(random.next_u64() % 3) as usize],
            restarts: [2, 20, 80][(random.next_u64() % 3) as usize],
            credit: [3, 100, 3_000][(random.next_u64() % 3) as usize],
            random,
        }
    }

    fn below(&mut self, end: u64) -> u64 {
        self.random.next_u64() % end
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        if of.is_empty() {
            None
        } else {
            Some(of[self.below(of.len() as u64) as usize])
        }
    }

    pub(crate) fn next(&mut self, model: &Model) -> Operation {
        if self.below(1_000) < self.restarts {
            return if self.one_in(2) {
                Operation::Crash
            } else {
                Operation::Restart
            };
        }
        match self.below(100) {
            0..4 => Operation::Create(self.pick(&NAMES).unwrap(), self.options()),
            4..6 => Operation::Update(self.queue(model), self.options()),
            6 => Operation::Delete(self.queue(model), self.one_in(2)),
            7..25 => self.publish(),
            25..32 => self.subscribe(model),
            32..50 => Operation::Deliver(self.pick(&[1, 10, 5_000]).unwrap()),
            50..53 => self.with_consumer(model, |this, id| Operation::Taken(id, this.below(50))),
            53..63 => self.settle(model),
            63 => self.with_consumer(model, |_, id| Operation::Drain(id)),
            64..75 => self.with_consumer(model, |this, id| {
                let count = this.below(this.credit + 1) as usize;
                Operation::SettleMany(id, count, this.verdict())
            }),
            75..78 => self.with_consumer(model, |_, id| Operation::Disconnect(id)),
            78 => self.with_consumer(model, |_, id| Operation::Detach(id)),
            79..87 => Operation::Wait(self.wait()),
            87..89 => {
                let limit = self.below(self.bulk * 3);
                Operation::Purge(self.queue(model), (!self.one_in(4)).then_some(limit))
            }
            89..92 => self.redrive(model),
            92..96 => Operation::CheckpointBegin,
            _ => Operation::CheckpointEnd,
        }
    }

    fn queue(&mut self, model: &Model) -> String {
        let names: Vec<_> = model.queues.keys().map(String::as_str).collect();
        self.pick(&names).unwrap_or("nowhere").to_owned()
    }

    fn with_consumer(
        &mut self,
        model: &Model,
        then: impl FnOnce(&mut Self, ConsumerId) -> Operation,
    ) -> Operation {
        let ids: Vec<_> = model.consumers.keys().copied().collect();
        match self.pick(&ids) {
            Some(id) => then(self, id),
            None => self.subscribe(model),
        }
    }

    fn options(&mut self) -> QueueOptions {
        let initial = self
            .pick(&[0, 0, 500, 20_000])
            .map(Duration::from_millis)
            .unwrap();
        let bindings =
            (0..self.below(3)).map(|_| Pattern::new(self.pick(&PATTERNS).unwrap()).unwrap());
        QueueOptions {
            bindings: bindings.collect(),
            lease: Duration::from_secs(self.pick(&[1, 10, 60]).unwrap()),
            max_attempts: self.pick(&[0, 1, 2, 3, 25]).unwrap(),
            backoff: Backoff {
                initial,
                max: Duration::from_secs(60),
                multiplier: 2.0,
                jitter: 0.0,
            },
            dead_letter: !self.one_in(4),
            paused: self.one_in(10),
            ..QueueOptions::default()
        }
    }

    fn publish(&mut self) -> Operation {
        let count = 1 + self.below(self.bulk);
        let large = self.one_in(20);
        Operation::Publish {
            topic: self.pick(&TOPICS).unwrap().to_owned(),
            sizes: (0..count)
                .map(|_| {
                    if large {
                        300_000
                    } else {
                        10 + self.below(90) as u32
                    }
                })
                .collect(),
            mandatory: self.one_in(4),
        }
    }

    fn subscribe(&mut self, model: &Model) -> Operation {
        let options = ConsumerOptions {
            name: self.pick(&["alice", "bob", "carol"]).unwrap().into(),
            max_messages: 1 + self.below(self.credit) as u32,
            max_bytes: self.pick(&[50, 5_000, 100_000_000]).unwrap(),
            lease: if self.one_in(3) {
                Some(Duration::from_secs(5))
            } else {
                None
            },
            auto_ack: self.one_in(12),
            limit: self.one_in(8).then(|| 1 + self.below(50)),
            window_bytes: self.pick(&[100, limits::UNSENT_BYTES_MAX]).unwrap(),
        };
        Operation::Subscribe(self.queue(model), options)
    }

    /// Mostly a lease that is held; sometimes one that was.
    fn settle(&mut self, model: &Model) -> Operation {
        let leases: Vec<_> = match self.below(8) {
            0..5 => model.leases.keys().copied().collect(),
            5..7 => model.ended.keys().copied().collect(),
            _ => model.settled.clone(),
        };
        let lease = self.pick(&leases).unwrap_or(LeaseId(self.below(9)));
        Operation::Settle(lease, self.verdict())
    }

    fn verdict(&mut self) -> Verdict {
        match self.below(10) {
            0..5 => Verdict::Ack,
            5 => Verdict::Release,
            6..8 => {
                let retry_after = self
                    .pick(&[None, None, Some(0), Some(7), Some(3_600)])
                    .flatten();
                Verdict::Nack(Box::new(Nack {
                    retry_after: retry_after.map(Duration::from_secs),
                    error: self.pick(&["", "no", "not yet"]).unwrap().into(),
                }))
            }
            8 => Verdict::DeadLetter(Box::new(DeadLetterReason {
                reason: self.pick(&["poison", "old"]).unwrap().into(),
                description: "a sentence".into(),
            })),
            _ => Verdict::Extend(Duration::from_secs(self.pick(&[0, 30, 1_000_000]).unwrap())),
        }
    }

    fn wait(&mut self) -> Duration {
        Duration::from_millis(
            self.pick(&[1, 400, 3_000, 12_000, 100_000, 4_000_000])
                .unwrap(),
        )
    }

    fn redrive(&mut self, model: &Model) -> Operation {
        let dead: Vec<_> = model
            .queues
            .iter()
            .filter(|(_, queue)| queue.of.is_some())
            .collect();
        let Some((queue, _)) = self.pick(&dead) else {
            return self.publish();
        };
        Operation::Redrive(Redrive {
            queue: queue.clone(),
            to: if self.one_in(4) {
                Some(self.queue(model))
            } else {
                None
            },
            limit: if self.one_in(2) {
                self.below(self.bulk * 2)
            } else {
                u64::MAX
            },
            every: self.pick(&[0, 0, 0, 3]).unwrap(),
            reason: self
                .pick(&[None, None, Some("poison")])
                .flatten()
                .map(str::to_owned),
            dry_run: self.one_in(5),
        })
    }
}
