//! The load itself: producers and consumers of any system, and the counting of what comes back.

use std::{
    collections::VecDeque,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::{sync::mpsc, task::JoinSet, time::sleep};

use crate::{
    payload::{Header, Payloads},
    shape::{Publish, Shape},
    tally::Tally,
};

/// How often it is looked whether everything came.
const TICK: Duration = Duration::from_millis(2);
/// How long nothing may arrive before the rest counts as missing: longer than any lease here.
const STALL: Duration = Duration::from_secs(45);
/// How long the last acks may take to be answered.
const LAST_ACKS: Duration = Duration::from_secs(10);

/// A broker, as the load sees it.
pub(crate) trait System: Send + Sync + 'static {
    type Producer: Producer;
    type Consumer: Consumer;

    /// Makes what the shape needs: queues, streams, groups.
    fn prepare(&self, shape: &Shape) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Each producer has a connection of its own.
    fn producer(
        &self,
        shape: &Shape,
    ) -> impl Future<Output = anyhow::Result<Self::Producer>> + Send;

    /// Each consumer has a connection of its own.
    fn consumer(
        &self,
        shape: &Shape,
        queue: u16,
        index: u16,
    ) -> impl Future<Output = anyhow::Result<Self::Consumer>> + Send;

    /// Messages that the server still holds as not acked; `None` when it cannot be asked.
    fn left(&self, shape: &Shape) -> impl Future<Output = anyhow::Result<Option<u64>>> + Send;
}

pub(crate) trait Producer: Send + 'static {
    /// Sends messages without waiting for their confirms.
    fn send(&mut self, payloads: Vec<Bytes>) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Waits for confirms, and answers how many messages they confirm. Dropping the future loses
    /// nothing.
    fn confirmed(&mut self) -> impl Future<Output = anyhow::Result<u64>> + Send;

    fn close(self) -> impl Future<Output = anyhow::Result<()>> + Send;
}

pub(crate) trait Consumer: Send + 'static {
    /// Waits a moment for messages, shows each to `seen`, and acks each by itself.
    fn turn(&mut self, seen: &mut Seen) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Acks that the server answers and has not answered yet.
    fn unanswered(&self) -> u64 {
        0
    }

    fn close(self) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// The longest a consumer waits in one turn, so that it hears when the run is over.
pub(crate) const TURN: Duration = Duration::from_millis(50);

/// Messages that belong together: filling and draining are two loads of one run.
#[derive(Debug)]
pub(crate) struct Run {
    id: u16,
    origin: Instant,
    tally: Tally,
    /// Published and confirmed, over all loads of the run.
    published: AtomicU64,
    /// Received for the first time, over all loads of the run.
    received: AtomicU64,
}

impl Run {
    pub(crate) fn new(shape: &Shape) -> Arc<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        Arc::new(Self {
            id: u16::try_from(NEXT.fetch_add(1, Relaxed) % 65_535).expect("below 65,535"),
            origin: Instant::now(),
            tally: Tally::new(shape.queues, shape.producers),
            published: AtomicU64::new(0),
            received: AtomicU64::new(0),
        })
    }

    fn nanos(&self, at: Instant) -> u64 {
        u64::try_from((at - self.origin).as_nanos()).unwrap_or(u64::MAX)
    }
}

/// What a load did.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) published: u64,
    pub(crate) received: u64,
    pub(crate) missing: u64,
    pub(crate) duplicates: u64,
    pub(crate) foreign: u64,
    /// Acks that the server refused or never answered.
    pub(crate) unsettled: u64,
    /// From the first publish to the last confirm.
    pub(crate) publishing: Duration,
    /// From the first publish (or, draining, from the start) to the last ack.
    pub(crate) consuming: Duration,
    /// From the (intended) time of sending to the confirm.
    pub(crate) confirm: Histogram<u64>,
    /// From the (intended) time of sending to the delivery.
    pub(crate) delivery: Histogram<u64>,
}

/// Up to an hour in nanoseconds, to three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000_000, 3).expect("the bounds are valid")
}

/// What one consumer has seen.
#[derive(Debug)]
pub(crate) struct Seen {
    run: Arc<Run>,
    queue: u16,
    now: u64,
    fresh: u64,
    received: u64,
    duplicates: u64,
    foreign: u64,
    pub(crate) unsettled: u64,
    last_ack: Option<Instant>,
    delivery: Histogram<u64>,
}

impl Seen {
    fn new(run: Arc<Run>, queue: u16) -> Self {
        Self {
            run,
            queue,
            now: 0,
            fresh: 0,
            received: 0,
            duplicates: 0,
            foreign: 0,
            unsettled: 0,
            last_ack: None,
            delivery: histogram(),
        }
    }

    /// Messages came: the clock is read once for all that came together.
    pub(crate) fn arrived(&mut self) {
        self.now = self.run.nanos(Instant::now());
    }

    pub(crate) fn message(&mut self, payload: &[u8]) {
        let Some(header) = Header::read(payload).filter(|header| header.run == self.run.id) else {
            self.foreign += 1;
            return;
        };
        if self
            .run
            .tally
            .note(self.queue, header.producer, header.sequence)
        {
            self.fresh += 1;
            self.delivery
                .saturating_record(self.now.saturating_sub(header.nanos).max(1));
        } else {
            self.duplicates += 1;
        }
    }

    /// All acks so far are sent or, where the server answers them, answered.
    pub(crate) fn acked(&mut self) {
        self.acked_at(Instant::now());
    }

    pub(crate) fn acked_at(&mut self, at: Instant) {
        self.last_ack = self.last_ack.max(Some(at));
    }

    fn publish_counts(&mut self) {
        self.received += self.fresh;
        self.run.received.fetch_add(self.fresh, Relaxed);
        self.fresh = 0;
    }
}

/// Runs a load and waits until everything that was published is received and acked.
pub(crate) async fn load<S: System>(
    system: &S,
    shape: &Shape,
    run: &Arc<Run>,
) -> anyhow::Result<Measured> {
    let mut load = Load::open(system, shape, run).await?;
    let started = Instant::now();
    load.start(shape, run, started);
    let produced = load.produced().await?;
    if shape.consumers > 0 {
        load.wait_for_rest(run, u64::from(shape.queues)).await?;
    }
    load.stop.store(true, Relaxed);
    let mut seen = Seen::new(Arc::clone(run), 0);
    while let Some(one) = load.consuming.join_next().await {
        let one = one?.context("a consumer failed")?;
        seen.received += one.received;
        seen.duplicates += one.duplicates;
        seen.foreign += one.foreign;
        seen.unsettled += one.unsettled;
        seen.last_ack = seen.last_ack.max(one.last_ack);
        seen.delivery.add(one.delivery)?;
    }
    let published = run.published.load(Relaxed) * u64::from(shape.queues);
    let missing = if shape.consumers > 0 {
        published.saturating_sub(run.received.load(Relaxed))
    } else {
        0
    };
    Ok(Measured {
        published: produced.messages,
        received: seen.received,
        missing,
        duplicates: seen.duplicates,
        foreign: seen.foreign,
        unsettled: seen.unsettled,
        publishing: produced.last.map_or(Duration::ZERO, |last| last - started),
        consuming: seen.last_ack.map_or(Duration::ZERO, |last| last - started),
        confirm: produced.confirm,
        delivery: seen.delivery,
    })
}

/// Connections that stand and have not begun, and then the tasks.
struct Load<S: System> {
    producers: Vec<S::Producer>,
    consumers: Vec<(u16, S::Consumer)>,
    producing: JoinSet<anyhow::Result<Produced>>,
    consuming: JoinSet<anyhow::Result<Seen>>,
    stop: Arc<AtomicBool>,
}

impl<S: System> Load<S> {
    async fn open(system: &S, shape: &Shape, run: &Run) -> anyhow::Result<Self> {
        let mut load = Self {
            producers: Vec::new(),
            consumers: Vec::new(),
            producing: JoinSet::new(),
            consuming: JoinSet::new(),
            stop: Arc::new(AtomicBool::new(false)),
        };
        for queue in 0..shape.queues {
            for index in 0..shape.consumers {
                let consumer = system.consumer(shape, queue, index).await?;
                load.consumers.push((queue, consumer));
            }
        }
        if !matches!(shape.publish, Publish::Nothing) {
            for _ in 0..shape.producers {
                load.producers.push(system.producer(shape).await?);
            }
        }
        debug_assert!(run.id > 0);
        Ok(load)
    }

    fn start(&mut self, shape: &Shape, run: &Arc<Run>, started: Instant) {
        for (queue, consumer) in self.consumers.drain(..) {
            let seen = Seen::new(Arc::clone(run), queue);
            let stop = Arc::clone(&self.stop);
            self.consuming.spawn(consume(consumer, seen, stop));
        }
        let mut paces = pace(shape, started);
        for (index, producer) in (0..).zip(self.producers.drain(..)) {
            let producing = Producing {
                run: Arc::clone(run),
                shape: shape.clone(),
                index,
                started,
                payloads: Payloads::new(shape.size),
                on_way: VecDeque::new(),
                in_flight: 0,
                sequence: 0,
                produced: Produced::default(),
            };
            match paces.pop() {
                Some(pace) => self.producing.spawn(producing.paced(producer, pace)),
                None => self.producing.spawn(producing.unpaced(producer)),
            };
        }
    }

    /// Waits for all producers, or for the first task that fails.
    async fn produced(&mut self) -> anyhow::Result<Produced> {
        let mut produced = Produced::default();
        loop {
            tokio::select! {
                one = self.producing.join_next() => match one {
                    Some(one) => produced.add(one?.context("a producer failed")?),
                    None => return Ok(produced),
                },
                Some(ended) = self.consuming.join_next() => {
                    ended?.context("a consumer failed")?;
                    bail!("a consumer ended early");
                }
            }
        }
    }

    async fn wait_for_rest(&mut self, run: &Run, queues: u64) -> anyhow::Result<()> {
        let expected = run.published.load(Relaxed) * queues;
        let (mut last, mut last_at) = (0, Instant::now());
        loop {
            let received = run.received.load(Relaxed);
            if received != last {
                (last, last_at) = (received, Instant::now());
            }
            if received >= expected || last_at.elapsed() > STALL {
                return Ok(());
            }
            tokio::select! {
                () = sleep(TICK) => {}
                Some(ended) = self.consuming.join_next() => {
                    ended?.context("a consumer failed")?;
                    bail!("a consumer ended early");
                }
            }
        }
    }
}

async fn consume<C: Consumer>(
    mut consumer: C,
    mut seen: Seen,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<Seen> {
    while !stop.load(Relaxed) {
        consumer.turn(&mut seen).await?;
        seen.publish_counts();
    }
    let until = Instant::now() + LAST_ACKS;
    while consumer.unanswered() > 0 && Instant::now() < until {
        consumer.turn(&mut seen).await?;
        seen.publish_counts();
    }
    seen.unsettled += consumer.unanswered();
    consumer.close().await?;
    Ok(seen)
}

/// What producers did.
#[derive(Debug)]
struct Produced {
    messages: u64,
    last: Option<Instant>,
    confirm: Histogram<u64>,
}

impl Default for Produced {
    fn default() -> Self {
        Self {
            messages: 0,
            last: None,
            confirm: histogram(),
        }
    }
}

impl Produced {
    fn add(&mut self, other: Self) {
        self.messages += other.messages;
        self.last = self.last.max(other.last);
        self.confirm
            .add(other.confirm)
            .expect("the histograms are of one kind");
    }
}

struct Producing {
    run: Arc<Run>,
    shape: Shape,
    index: u16,
    started: Instant,
    payloads: Payloads,
    /// How many messages, and when they were (meant to be) sent.
    on_way: VecDeque<(u64, Instant)>,
    in_flight: u64,
    sequence: u32,
    produced: Produced,
}

impl Producing {
    async fn unpaced<P: Producer>(mut self, mut producer: P) -> anyhow::Result<Produced> {
        let producers = u64::from(self.shape.producers);
        let (mut left, time) = match self.shape.publish {
            Publish::UpTo { messages, time } => (messages / producers, time),
            Publish::For(time) => (u64::MAX, time),
            Publish::Paced { .. } | Publish::Nothing => bail!("this is no load for a producer"),
        };
        let (end, most) = (self.started + time, self.shape.batch());
        loop {
            let now = Instant::now();
            if now >= end {
                left = 0;
            }
            let batch = most.min(left);
            if batch > 0 && self.in_flight + batch <= self.shape.in_flight {
                let intended = vec![now; usize::try_from(batch)?];
                self.send(&mut producer, &intended).await?;
                left -= batch;
            } else if self.on_way.is_empty() {
                producer.close().await?;
                return Ok(self.produced);
            } else {
                let confirmed = producer.confirmed().await?;
                self.take(confirmed)?;
            }
        }
    }

    /// Sends when it is time to, however many are on their way.
    async fn paced<P: Producer>(
        mut self,
        mut producer: P,
        mut pace: mpsc::UnboundedReceiver<Instant>,
    ) -> anyhow::Result<Produced> {
        let most = usize::try_from(self.shape.batch())?;
        let mut open = true;
        while open || !self.on_way.is_empty() {
            tokio::select! {
                biased;
                intended = pace.recv(), if open => match intended {
                    None => open = false,
                    Some(first) => {
                        let mut intended = vec![first];
                        while intended.len() < most && let Ok(next) = pace.try_recv() {
                            intended.push(next);
                        }
                        self.send(&mut producer, &intended).await?;
                    }
                },
                confirmed = producer.confirmed(), if !self.on_way.is_empty() => {
                    self.take(confirmed?)?;
                }
            }
        }
        producer.close().await?;
        Ok(self.produced)
    }

    async fn send<P: Producer>(
        &mut self,
        producer: &mut P,
        intended: &[Instant],
    ) -> anyhow::Result<()> {
        let headers: Vec<_> = (self.sequence..)
            .zip(intended)
            .map(|(sequence, at)| Header {
                nanos: self.run.nanos(*at),
                run: self.run.id,
                producer: self.index,
                sequence,
            })
            .collect();
        self.sequence += u32::try_from(headers.len())?;
        self.in_flight += headers.len() as u64;
        if intended.windows(2).all(|pair| pair[0] == pair[1]) {
            self.on_way.push_back((headers.len() as u64, intended[0]));
        } else {
            self.on_way.extend(intended.iter().map(|at| (1, *at)));
        }
        producer.send(self.payloads.make(&headers)).await
    }

    /// Confirms come in the order of the messages; where a server does not promise that, the oldest
    /// count as confirmed first, which changes no percentile by more than the disorder.
    fn take(&mut self, confirmed: u64) -> anyhow::Result<()> {
        let now = Instant::now();
        let mut rest = confirmed;
        while rest > 0 {
            let Some((messages, sent)) = self.on_way.front_mut() else {
                bail!("more confirms than messages");
            };
            let these = rest.min(*messages);
            let took = u64::try_from((now - *sent).as_nanos()).unwrap_or(u64::MAX);
            self.produced.confirm.saturating_record_n(took, these);
            *messages -= these;
            rest -= these;
            if *messages == 0 {
                self.on_way.pop_front();
            }
        }
        self.in_flight -= confirmed;
        self.produced.messages += confirmed;
        self.produced.last = Some(now);
        self.run.published.fetch_add(confirmed, Relaxed);
        Ok(())
    }
}

/// A thread that says when each message is to be sent, for tokio's timers only know milliseconds.
/// It never waits for anybody: a system that is late has more to do, and its lateness is measured.
fn pace(shape: &Shape, started: Instant) -> Vec<mpsc::UnboundedReceiver<Instant>> {
    let Publish::Paced { per_second, time } = shape.publish else {
        return Vec::new();
    };
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..shape.producers)
        .map(|_| mpsc::unbounded_channel())
        .unzip();
    std::thread::spawn(move || {
        let interval = Duration::from_secs(1) / u32::try_from(per_second).unwrap_or(u32::MAX);
        let count = time.as_nanos() / interval.as_nanos().max(1);
        let mut at = started;
        for sender in senders
            .iter()
            .cycle()
            .take(usize::try_from(count).unwrap_or(0))
        {
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            if sender.send(at).is_err() {
                return;
            }
            at += interval;
        }
    });
    receivers
}
