//! Publishers and consumers: as fast as they can, or at a pace.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use courser_client::{
    Client, ConsumerOptions, DeliveryView, Message, QueueOptions, Received, Subscription,
    to_wire_duration,
    wire::{Nack, PublishRequest, PublishStreamRequest, Reject, Settle, Settled},
};
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval, timeout},
};

/// Bytes of every payload.
pub(crate) const PAYLOAD: u64 = 1024;
const PRODUCERS: u64 = 4;
const CONSUMERS: u64 = 4;
/// Messages of a producer without a confirm, and of one request.
const IN_FLIGHT: u64 = 500;
pub(crate) const BATCH: u64 = 64;
/// Deliveries that a consumer may hold: the most that there is, for some are kept.
const CREDIT: u32 = 10_000;
/// How long nothing may come before what is missing is missing.
const STALL: Duration = Duration::from_secs(40);
/// How long what is kept is kept.
const KEPT: Duration = Duration::from_secs(12 * 3600);

/// Where the messages go.
#[derive(Clone, Debug)]
pub(crate) enum To {
    One(String),
    /// A batch to each in turn: `name-0`, `name-1`, ...
    Many(String, u64),
}

impl To {
    fn topic(&self, batch: u64) -> String {
        match self {
            Self::One(name) => name.clone(),
            Self::Many(name, count) => numbered(name, batch % count),
        }
    }
}

pub(crate) fn numbered(name: &str, number: u64) -> String {
    format!("{name}-{number}")
}

pub(crate) async fn create(client: &Client, name: &str) -> anyhow::Result<()> {
    client.create_queue(name, QueueOptions::default()).await?;
    Ok(())
}

/// Creates `name-0` to `name-(count - 1)`.
pub(crate) async fn create_many(client: &Client, name: &str, count: u64) -> anyhow::Result<()> {
    let mut making = JoinSet::new();
    for lane in 0..32 {
        let (client, name) = (client.clone(), name.to_owned());
        making.spawn(async move {
            for number in (lane..count).step_by(32) {
                create(&client, &numbered(&name, number)).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(made) = making.join_next().await {
        made??;
    }
    Ok(())
}

/// A payload that carries its number in its first eight bytes.
fn payload(number: u64) -> Bytes {
    let mut bytes = vec![0; PAYLOAD as usize];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    // Anything but zeros, in case the disk packs these.
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for word in bytes[8..].chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
    bytes.into()
}

fn number_of(delivery: DeliveryView<'_>) -> Option<u64> {
    let number = delivery.payload().first_chunk()?;
    Some(u64::from_le_bytes(*number))
}

/// Publishes messages 0 to `count` as fast as the broker confirms them.
pub(crate) async fn fill(url: &str, to: &To, count: u64) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let mut producing = JoinSet::new();
    for _ in 0..PRODUCERS {
        let client = Client::connect(url).await?;
        producing.spawn(produce(client, to.clone(), count, Arc::clone(&next)));
    }
    while let Some(one) = producing.join_next().await {
        one??;
    }
    Ok(started.elapsed())
}

async fn produce(client: Client, to: To, count: u64, next: Arc<AtomicU64>) -> anyhow::Result<()> {
    let (sender, mut confirms) = client.publish_stream().await?;
    let mut on_way: VecDeque<u64> = VecDeque::new();
    let mut number = 0;
    loop {
        while on_way.iter().sum::<u64>() + BATCH <= IN_FLIGHT {
            let first = next.fetch_add(BATCH, Relaxed);
            let last = (first + BATCH).min(count);
            if first >= last {
                break;
            }
            number += 1;
            let topic = to.topic(first / BATCH);
            let messages = (first..last).map(|number| Message {
                topic: topic.clone(),
                payload: payload(number),
                ..Message::default()
            });
            let request = PublishStreamRequest {
                number,
                messages: messages.collect(),
                mandatory: true,
                ..PublishStreamRequest::default()
            };
            sender.send(request).await?;
            on_way.push_back(last - first);
        }
        if on_way.is_empty() {
            return Ok(());
        }
        let confirmed = timeout(STALL, confirms.next()).await??;
        for confirm in confirmed.context("the publish stream ended")? {
            if let Some(error) = confirm.error {
                bail!("refused: {}", error.message);
            }
            on_way.pop_front();
        }
    }
}

/// What is done with every message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// All are acked.
    Ack,
    /// One in a hundred stays: in turn it is held, delayed, dead-lettered.
    Straggle,
    /// One in a hundred fails once and comes again at once.
    Nack,
}

impl Policy {
    fn settle(self, delivery: DeliveryView<'_>, settle: &mut Settle) {
        let lease_id = delivery.lease_id();
        let number = number_of(delivery).unwrap_or(0);
        let is_one = number.is_multiple_of(100);
        match self {
            Self::Straggle if is_one => match number / 100 % 3 {
                0 => {}
                1 => settle.nack.push(Nack {
                    lease_id,
                    retry_after: Some(to_wire_duration(KEPT)),
                    error: "later".to_owned(),
                }),
                _ => settle.dead_letter.push(Reject {
                    lease_id,
                    reason: "bounds".to_owned(),
                    ..Reject::default()
                }),
            },
            Self::Nack if is_one && delivery.attempt() == 1 => settle.nack.push(Nack {
                lease_id,
                retry_after: Some(to_wire_duration(Duration::ZERO)),
                error: "once more".to_owned(),
            }),
            _ => settle.ack.push(lease_id),
        }
    }
}

/// Consumers that run until dropped.
#[derive(Debug)]
pub(crate) struct Consumers {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<anyhow::Result<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    received: AtomicU64,
    settled: AtomicU64,
    refused: AtomicU64,
    broken: AtomicBool,
}

impl Consumers {
    /// Four consumers of one queue.
    pub(crate) async fn of(url: &str, queue: &str, policy: Policy) -> anyhow::Result<Self> {
        let mut consumers = Self::none();
        for _ in 0..CONSUMERS {
            let client = Client::connect(url).await?;
            consumers.add(&client, queue, CREDIT, policy).await?;
        }
        Ok(consumers)
    }

    /// One consumer of each of `name-0`, `name-1`, ..., over four connections.
    pub(crate) async fn of_many(url: &str, name: &str, count: u64) -> anyhow::Result<Self> {
        let mut consumers = Self::none();
        let mut clients = Vec::new();
        // A connection carries a few hundred streams at once.
        for _ in 0..count.div_ceil(100).max(CONSUMERS) {
            clients.push(Client::connect(url).await?);
        }
        for number in 0..count {
            let client = &clients[number as usize % clients.len()];
            let queue = numbered(name, number);
            consumers.add(client, &queue, 1_000, Policy::Ack).await?;
        }
        Ok(consumers)
    }

    fn none() -> Self {
        Self {
            shared: Arc::default(),
            tasks: Vec::new(),
        }
    }

    async fn add(
        &mut self,
        client: &Client,
        queue: &str,
        credit: u32,
        policy: Policy,
    ) -> anyhow::Result<()> {
        let options = ConsumerOptions {
            queue: queue.to_owned(),
            consumer: "bounds".to_owned(),
            max_messages: credit,
            max_bytes: 64 * 1024 * 1024,
            lease: Some(KEPT),
            ..ConsumerOptions::default()
        };
        let subscription = client.subscribe(options).await?;
        let shared = Arc::clone(&self.shared);
        self.tasks.push(tokio::spawn(async move {
            let consumed = consume(subscription, policy, &shared).await;
            shared.broken.store(true, Relaxed);
            consumed
        }));
        Ok(())
    }

    /// Deliveries so far.
    pub(crate) fn received(&self) -> u64 {
        self.shared.received.load(Relaxed)
    }

    /// Waits until so many deliveries came, and all that was said of them was answered with OK.
    pub(crate) async fn wait_for(&mut self, count: u64) -> anyhow::Result<()> {
        self.wait_for_settled(count, 0).await
    }

    /// The same with some that nothing is said of.
    pub(crate) async fn wait_for_settled(&mut self, count: u64, kept: u64) -> anyhow::Result<()> {
        let shared = Arc::clone(&self.shared);
        let mut ticks = interval(Duration::from_millis(5));
        let (mut last, mut last_at) = (0, Instant::now());
        loop {
            ticks.tick().await;
            let settled = shared.settled.load(Relaxed);
            if settled + kept >= count {
                break;
            }
            if settled != last {
                (last, last_at) = (settled, Instant::now());
            }
            if shared.broken.load(Relaxed) {
                for task in &mut self.tasks {
                    if task.is_finished() {
                        task.await??;
                    }
                }
                bail!("a consumer ended");
            }
            ensure!(
                last_at.elapsed() < STALL,
                "{settled} of {count} were settled, {kept} are kept, {} came",
                shared.received.load(Relaxed)
            );
        }
        let refused = shared.refused.load(Relaxed);
        ensure!(refused == 0, "{refused} settlements were refused");
        Ok(())
    }
}

impl Drop for Consumers {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn consume(
    mut subscription: Subscription,
    policy: Policy,
    shared: &Shared,
) -> anyhow::Result<()> {
    let settles = subscription.settles();
    loop {
        match subscription.next().await? {
            Some(Received::Deliveries(batch)) => {
                shared.received.fetch_add(batch.len() as u64, Relaxed);
                let mut settle = Settle::default();
                for delivery in batch.iter() {
                    policy.settle(delivery, &mut settle);
                }
                settles.send(settle)?;
            }
            Some(Received::Settled(Settled { ok, refused })) => {
                shared.settled.fetch_add(ok.len() as u64, Relaxed);
                shared.refused.fetch_add(refused.len() as u64, Relaxed);
            }
            Some(Received::Drained) => {}
            None => bail!("the broker ended the subscription"),
        }
    }
}

/// How long publishes waited for their confirms.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waits(Vec<Duration>);

impl Waits {
    pub(crate) fn worst(&self) -> Duration {
        self.0.iter().max().copied().unwrap_or_default()
    }

    pub(crate) fn text(&self) -> String {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = |share: usize| {
            let wait = sorted.get(sorted.len() * share / 1000);
            crate::check::milliseconds(wait.copied().unwrap_or_default())
        };
        format!(
            "{} publishes, p50 {}, p99 {}, p99.9 {}, worst {}",
            sorted.len(),
            at(500),
            at(990),
            at(999),
            crate::check::milliseconds(self.worst())
        )
    }
}

/// One publisher with one message on its way, at a pace.
#[derive(Debug)]
pub(crate) struct Paced {
    waits: Arc<std::sync::Mutex<Vec<Duration>>>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Paced {
    pub(crate) async fn start(url: &str, topic: &str, per_second: u64) -> anyhow::Result<Self> {
        let client = Client::connect(url).await?;
        let waits = Arc::new(std::sync::Mutex::new(Vec::new()));
        let (kept, topic) = (Arc::clone(&waits), topic.to_owned());
        let mut number = 0;
        let task = tokio::spawn(async move {
            let mut ticks = interval(Duration::from_micros(1_000_000 / per_second));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let message = Message {
                    topic: topic.clone(),
                    payload: payload(number),
                    ..Message::default()
                };
                let request = PublishRequest {
                    messages: vec![message],
                    mandatory: true,
                    ..PublishRequest::default()
                };
                let before = Instant::now();
                client.publish(request).await?;
                let wait = before.elapsed();
                number += 1;
                if let Ok(mut waits) = kept.lock() {
                    waits.push(wait);
                }
            }
        });
        Ok(Self { waits, task })
    }

    /// The waits since the last time this was asked.
    pub(crate) fn take(&self) -> Waits {
        let taken = self
            .waits
            .lock()
            .map(|mut waits| std::mem::take(&mut *waits));
        Waits(taken.unwrap_or_default())
    }

    pub(crate) fn is_well(&self) -> bool {
        !self.task.is_finished()
    }
}

impl Drop for Paced {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Publishes at a rate for a while, in requests of what is due every 10 ms, whatever happens; answers
/// how many were confirmed.
pub(crate) async fn pace(
    url: &str,
    topic: &str,
    per_second: u64,
    during: Duration,
) -> anyhow::Result<u64> {
    let client = Client::connect(url).await?;
    let (sender, mut confirms) = client.publish_stream().await?;
    let confirmed = tokio::spawn(async move {
        let mut confirmed = 0;
        while let Some(batch) = confirms.next().await? {
            for confirm in batch {
                if let Some(error) = confirm.error {
                    bail!("refused: {}", error.message);
                }
                confirmed += confirm.results.len() as u64;
            }
        }
        Ok(confirmed)
    });
    let started = Instant::now();
    let mut ticks = interval(Duration::from_millis(10));
    let (mut sent, mut number) = (0, 0);
    while started.elapsed() < during {
        ticks.tick().await;
        let due = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX) * per_second;
        let due = (due / 1_000).min(sent + 1_000);
        if due > sent {
            number += 1;
            let messages = (sent..due).map(|number| Message {
                topic: topic.to_owned(),
                payload: payload(number),
                ..Message::default()
            });
            let request = PublishStreamRequest {
                number,
                messages: messages.collect(),
                mandatory: true,
                ..PublishStreamRequest::default()
            };
            sender.send(request).await?;
            sent = due;
        }
    }
    drop(sender);
    let confirmed = confirmed.await??;
    ensure!(confirmed == sent, "{confirmed} of {sent} were confirmed");
    Ok(confirmed)
}
