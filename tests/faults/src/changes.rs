//! A queue that is made, filled, purged, paused, changed and deleted while faults happen, by one client that waits for
//! each answer before it asks for the next step. So behind a fault it is as the last answer left it, or as the step
//! that was not answered would leave it.

use std::{
    iter::once,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context as _, ensure};
use courser_proto::v1::{
    Binding, CreateQueueRequest, DeleteQueueRequest, EntryState, GetQueueRequest, Message,
    PauseQueueRequest, PeekEntriesRequest, PublishRequest, PurgeQueueRequest, QueueOptions,
    ResumeQueueRequest, UpdateQueueRequest, admin_client::AdminClient, broker_client::BrokerClient,
};
use prost_types::FieldMask;
use tokio::time::{Duration, sleep};
use tonic::{Code, Status, transport::Channel};

use crate::{
    broker::Broker,
    history::{BEFORE, History, Known, NEVER, NOW, Stamp},
    letter::Letter,
    random::Random,
};

const QUEUE: &str = "changed";
/// None of the load's.
const PRODUCER: u32 = 8;
/// It is purged or deleted rather than filled further.
const ENTRIES_MAX: usize = 40;
/// Messages of a publish at most, and bytes of each.
const BATCH_MAX: u64 = 4;
const BYTES: std::ops::Range<u64> = 8..3000;
/// Milliseconds between two steps at most.
const PAUSE_MAX: u64 = 8;

/// How the queue is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    max_attempts: u32,
    /// Which topic it is bound to.
    bound: u32,
    is_paused: bool,
    /// Numbers of the messages in it, in their order.
    entries: Vec<u32>,
}

impl Shape {
    fn topic(&self) -> String {
        format!("{QUEUE}.{}", self.bound)
    }

    fn options(&self) -> QueueOptions {
        QueueOptions {
            bindings: vec![Binding {
                pattern: self.topic(),
            }],
            max_attempts: Some(self.max_attempts),
            paused: Some(self.is_paused),
            ..Default::default()
        }
    }
}

/// `after` is how the queue is then, or that there is none.
#[derive(Clone, Debug)]
struct Step {
    asked: Stamp,
    answered: Stamp,
    after: Option<Shape>,
}

/// All that was asked, one after the other. In the beginning there is no queue.
#[derive(Clone, Debug, Default)]
pub(crate) struct Steps {
    steps: Vec<Step>,
    published: u32,
}

impl Steps {
    pub(crate) fn asked(&mut self, asked: Stamp, after: Option<Shape>) {
        self.steps.push(Step {
            asked,
            answered: NEVER,
            after,
        });
    }

    pub(crate) fn answered(&mut self, answered: Stamp) {
        let last = self.steps.last_mut();
        last.expect("it was asked for").answered = answered;
    }

    /// A broker that has just started shows it so: that is on the disk.
    fn found(&mut self, is: Option<Shape>) {
        self.asked(BEFORE, is);
        self.answered(BEFORE);
    }

    fn are_answered(&self) -> bool {
        self.steps.iter().all(|step| step.answered != NEVER)
    }

    /// See [`Known::rebase_at`].
    pub(crate) fn rebase_at(&mut self, cut: Stamp) {
        self.steps.retain(|step| step.asked < cut);
        for step in &mut self.steps {
            step.asked = BEFORE;
            step.answered = if step.answered <= cut { BEFORE } else { NEVER };
        }
    }

    /// What is wrong with it when it is so behind event `cut`.
    fn difference(&self, cut: Stamp, is: Option<&Shape>) -> Option<String> {
        let after = |step: &Step| step.after.clone();
        let surely = self.steps.iter().rposition(|step| step.answered <= cut);
        let must_be = surely.and_then(|at| after(&self.steps[at]));
        let open = &self.steps[surely.map_or(0, |at| at + 1)..];
        let perhaps = open.iter().filter(|step| step.asked < cut).map(after);
        let may_be: Vec<_> = once(must_be).chain(perhaps).collect();
        if may_be.iter().any(|may_be| may_be.as_ref() == is) {
            return None;
        }
        let earlier = &self.steps[..surely.unwrap_or(0)];
        let was_so = is.is_none() || earlier.iter().any(|step| step.after.as_ref() == is);
        let what = if was_so {
            "is as it was once, so what was answered since is lost"
        } else {
            "was never so"
        };
        Some(format!("{QUEUE} {what}: {is:?}, and may be {may_be:?}"))
    }
}

/// Something was asked, and all of it is answered.
pub(crate) fn all_answered(history: &History) -> anyhow::Result<()> {
    let known = history.lock();
    ensure!(known.totals.changed > 0, "nothing was changed");
    ensure!(
        known.steps.are_answered(),
        "a change was refused, or not answered"
    );
    Ok(())
}

/// What is wrong with the queue behind event `cut`, in a broker that has just started.
pub(crate) async fn wrong(
    broker: &Broker,
    known: &Known,
    cut: Stamp,
) -> anyhow::Result<Option<String>> {
    let mut admin = broker.admin().await.context("it does not answer")?;
    let is = look(&mut admin).await?;
    Ok(known.steps.difference(cut, is.as_ref()))
}

/// How it is now.
async fn look(admin: &mut AdminClient<Channel>) -> anyhow::Result<Option<Shape>> {
    let request = GetQueueRequest {
        name: QUEUE.to_owned(),
    };
    let queue = match admin.get_queue(request).await {
        Ok(answer) => answer.into_inner().queue.context("a queue")?,
        Err(status) if status.code() == Code::NotFound => return Ok(None),
        Err(status) => return Err(status.into()),
    };
    let request = PeekEntriesRequest {
        queue: QUEUE.to_owned(),
        limit: 1000,
        ..Default::default()
    };
    let peeked = admin.peek_entries(request).await?.into_inner().entries;
    let mut entries = Vec::new();
    for entry in &peeked {
        let message = entry.message.as_ref().context("a message")?;
        let letter = Letter::read(&message.payload).context("a damaged payload")?;
        let is_ready = entry.state == EntryState::Ready as i32;
        ensure!(
            letter.producer == PRODUCER && is_ready && entry.failures == 0,
            "{QUEUE} holds {letter:?}: {entry:?}"
        );
        entries.push(letter.number);
    }
    let stats = queue.stats.context("figures")?;
    ensure!(
        stats.ready == entries.len() as u64 && stats.delayed + stats.leased == 0,
        "{QUEUE} shows {} entries and counts {stats:?}",
        entries.len()
    );
    let options = queue.options.context("options")?;
    let pattern = options.bindings.first().context("a binding")?;
    let bound = pattern.pattern.rsplit('.').next().context("a topic")?;
    let shape = Shape {
        max_attempts: options.max_attempts.context("attempts")?,
        bound: bound.parse()?,
        is_paused: options.paused.context("paused or not")?,
        entries,
    };
    let same = shape.options();
    ensure!(
        options.bindings == same.bindings,
        "{QUEUE} is bound to {:?}",
        options.bindings
    );
    Ok(Some(shape))
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Create { max_attempts: u32, bound: u32 },
    Publish { count: u32 },
    Pause,
    Resume,
    Attempts(u32),
    Bind(u32),
    Purge { limit: u64 },
    Delete,
}

impl Change {
    fn any(shape: Option<&Shape>, random: &mut Random) -> Self {
        let number = random.within(1..1000) as u32;
        let Some(shape) = shape else {
            return Self::Create {
                max_attempts: number,
                bound: number,
            };
        };
        match random.within(0..12) {
            0..5 if shape.entries.len() < ENTRIES_MAX => Self::Publish {
                count: random.within(1..BATCH_MAX + 1) as u32,
            },
            0..6 => Self::Purge {
                limit: random.within(0..ENTRIES_MAX as u64),
            },
            6 => Self::Purge { limit: 0 },
            7 if shape.is_paused => Self::Resume,
            7 | 8 => Self::Pause,
            9 => Self::Attempts(number),
            10 => Self::Bind(number),
            _ => Self::Delete,
        }
    }

    /// How the queue is afterwards. Messages have numbers from `next` on.
    fn apply(self, shape: Option<&Shape>, next: u32) -> Option<Shape> {
        if let Self::Create {
            max_attempts,
            bound,
        } = self
        {
            return Some(Shape {
                max_attempts,
                bound,
                is_paused: false,
                entries: Vec::new(),
            });
        }
        let mut shape = shape?.clone();
        match self {
            Self::Create { .. } | Self::Delete => return None,
            Self::Publish { count } => shape.entries.extend(next..next + count),
            Self::Pause => shape.is_paused = true,
            Self::Resume => shape.is_paused = false,
            Self::Attempts(max_attempts) => shape.max_attempts = max_attempts,
            Self::Bind(bound) => shape.bound = bound,
            Self::Purge { .. } => drop(shape.entries.drain(..self.purged(&shape))),
        }
        Some(shape)
    }

    /// How many entries it takes away.
    fn purged(self, shape: &Shape) -> usize {
        let all = shape.entries.len();
        match self {
            Self::Purge { limit: 0 } | Self::Delete => all,
            Self::Purge { limit } => all.min(limit as usize),
            _ => 0,
        }
    }
}

/// Who changes the queue. There must be one at a time.
pub(crate) struct Worker {
    admin: AdminClient<Channel>,
    client: BrokerClient<Channel>,
    history: History,
    random: Random,
    shape: Option<Shape>,
}

impl Worker {
    /// Looks how the queue is. `None` when the broker is gone or does not tell.
    pub(crate) async fn begin(broker: &Broker, history: &History, random: Random) -> Option<Self> {
        let mut admin = broker.admin().await?;
        let client = broker.client().await?;
        let shape = match look(&mut admin).await {
            Ok(shape) => shape,
            Err(error) => {
                match error.downcast_ref() {
                    Some(status) => refused(history, status),
                    None => history.violation(format!("{error:#}")),
                }
                return None;
            }
        };
        let mut known = history.lock();
        let difference = known.steps.difference(NOW, shape.as_ref());
        known.violations.extend(difference);
        known.steps.found(shape.clone());
        drop(known);
        Some(Self {
            admin,
            client,
            history: history.clone(),
            random,
            shape,
        })
    }

    /// Step after step, until it is over or the broker is gone or refuses.
    pub(crate) async fn run(mut self, is_over: Arc<AtomicBool>) {
        while !is_over.load(Ordering::Acquire) && self.step().await.is_some() {
            sleep(Duration::from_millis(self.random.within(0..PAUSE_MAX))).await;
        }
    }

    pub(crate) async fn step(&mut self) -> Option<()> {
        let change = Change::any(self.shape.as_ref(), &mut self.random);
        let next = self.history.lock().steps.published;
        let after = change.apply(self.shape.as_ref(), next);
        self.history.changing(after.clone());
        match self.ask(change, next).await {
            Ok(said) => {
                self.history.changed();
                let purged = self.shape.as_ref().map_or(0, |shape| change.purged(shape));
                let wanted = match change {
                    Change::Publish { count } => u64::from(count),
                    _ => purged as u64,
                };
                if said != wanted {
                    let what = format!("{change:?} of {:?} says {said}", self.shape);
                    self.history.violation(what);
                }
                self.shape = after;
                Some(())
            }
            Err(status) => {
                refused(&self.history, &status);
                None
            }
        }
    }

    /// Answers for how many entries it says that they came or went.
    async fn ask(&mut self, change: Change, next: u32) -> Result<u64, Status> {
        let name = QUEUE.to_owned();
        let after = change.apply(self.shape.as_ref(), next);
        let options = after.as_ref().map(Shape::options);
        let admin = &mut self.admin;
        let mask = match change {
            Change::Create { .. } => {
                let created = admin.create_queue(CreateQueueRequest { name, options });
                // One that was there already would be wrong.
                return Ok(u64::from(!created.await?.into_inner().created));
            }
            Change::Publish { count } => return self.publish(count, next).await,
            Change::Pause => {
                admin.pause_queue(PauseQueueRequest { name }).await?;
                return Ok(0);
            }
            Change::Resume => {
                admin.resume_queue(ResumeQueueRequest { name }).await?;
                return Ok(0);
            }
            Change::Purge { limit } => {
                let answer = admin.purge_queue(PurgeQueueRequest { name, limit });
                return Ok(answer.await?.into_inner().purged);
            }
            Change::Delete => {
                let request = DeleteQueueRequest {
                    name,
                    ..Default::default()
                };
                return Ok(admin.delete_queue(request).await?.into_inner().entries);
            }
            Change::Attempts(_) => "max_attempts",
            Change::Bind(_) => "bindings",
        };
        let request = UpdateQueueRequest {
            name,
            options,
            update_mask: Some(FieldMask {
                paths: vec![mask.to_owned()],
            }),
        };
        admin.update_queue(request).await?;
        Ok(0)
    }

    async fn publish(&mut self, count: u32, next: u32) -> Result<u64, Status> {
        // Numbers that were given out are not given out again, whatever comes of them.
        self.history.lock().steps.published += count;
        let topic = self.shape.as_ref().map(Shape::topic).unwrap_or_default();
        let messages = (next..next + count).map(|number| {
            let letter = Letter {
                producer: PRODUCER,
                number,
            };
            Message {
                topic: topic.clone(),
                payload: letter.write(self.random.within(BYTES) as usize),
                ..Default::default()
            }
        });
        let request = PublishRequest {
            messages: messages.collect(),
            ..Default::default()
        };
        let results = self.client.publish(request).await?.into_inner().results;
        Ok(results.iter().map(|result| u64::from(result.queues)).sum())
    }
}

/// The broker is gone, or its disk has failed: whether the last step happened is not known.
fn refused(history: &History, status: &Status) {
    let codes = [
        Code::Unavailable,
        Code::ResourceExhausted,
        Code::Unknown,
        Code::Cancelled,
        Code::Internal,
    ];
    if !codes.contains(&status.code()) {
        history.violation(format!("a change of {QUEUE} was refused: {status:?}"));
    }
}
