//! `courser bench`: a load that counts what it gets back.
//!
//! Light on purpose, for it shares the machine with the broker: one task for each producer and
//! consumer, batches both ways, nothing allocated for a message but what the client needs. Every
//! message carries when it was sent and its number, so the end of the run tells what is missing and what came
//! twice.

mod consumer;
mod payload;
mod producer;
mod report;
mod tally;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::builder::RangedU64ValueParser;
use courser_client::{Client, Code, QueueOptions};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::{
    runtime::{self, Runtime},
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};

use self::{
    consumer::{Consumed, Consumer},
    payload::HEADER_BYTES,
    producer::{Produced, Producer},
    report::Report,
    tally::Tally,
};
use crate::cli::{
    broker::connect,
    output::{Format, Output},
    queue::Durability,
};

const COUNT_DEFAULT: u64 = 1_000_000;
/// As many as one producer can number.
const COUNT_MAX: u64 = u32::MAX as u64;
/// A week.
const SECONDS_MAX: u64 = 7 * 24 * 3_600;
/// Bytes of a payload: as many as a broker can be configured for.
const SIZE_MAX: u64 = 64 * 1024 * 1024;
/// Bytes of one request that a broker takes, a little less for what is around the payloads.
const BATCH_BYTES_MAX: usize = 15 * 1024 * 1024;
/// How often the progress is looked at.
const TICK: Duration = Duration::from_millis(50);
/// How long nothing may arrive before the rest counts as missing: longer than the default lease.
const STALL: Duration = Duration::from_secs(40);
/// The same when there is no telling how much is to come.
const CONSUME_ONLY_STALL: Duration = Duration::from_secs(5);

/// Measure throughput and latency.
///
/// For latency: --producers 1 --consumers 1 --in-flight 1 --count 10000
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Bench {
    /// How many publish at once.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    producers: u16,
    /// How many consume at once.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    consumers: u16,
    /// Bytes of a payload.
    #[arg(long, default_value_t = 1_024, value_parser = sizes())]
    size: usize,
    /// Messages in all [default: 1000000].
    #[arg(
        long,
        conflicts_with = "seconds",
        value_parser = clap::value_parser!(u64).range(1..=COUNT_MAX)
    )]
    count: Option<u64>,
    /// Publish for so long instead.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=SECONDS_MAX))]
    seconds: Option<u64>,
    /// Messages without a confirm, for each producer.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    in_flight: u64,
    /// Messages of one request, at most: --in-flight is shared out to requests of one size, and none has more
    /// than 16 MiB.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    batch: u64,
    /// Unsettled deliveries of each consumer.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    prefetch: u32,
    /// The queue; created when it is not there, and left there.
    #[arg(long, default_value = "bench")]
    queue: String,
    /// When publishes and settlements are answered.
    #[arg(long, value_enum, default_value = "synced")]
    durability: Durability,
    /// Publish and do not consume.
    #[arg(long)]
    publish_only: bool,
    /// Consume what is there, and do not publish. With --count, so many and no more. When there are fewer,
    /// or none, it ends with exit code 1.
    #[arg(long, conflicts_with_all = ["publish_only", "seconds"])]
    consume_only: bool,
    /// Share one connection rather than have one each.
    #[arg(long)]
    one_connection: bool,
    /// Threads of this command.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
}

fn sizes() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(HEADER_BYTES as u64..=SIZE_MAX)
}

/// What all tasks of a run see.
#[derive(Debug)]
struct Shared {
    bench: Bench,
    /// Tells the messages of this run from what else is in the queue.
    run: u16,
    started: Instant,
    /// Messages confirmed.
    published: AtomicU64,
    /// Messages of this run received for the first time; whatever came with `--consume-only`.
    received: AtomicU64,
    tally: Tally,
}

impl Bench {
    pub(super) fn runtime(&self) -> anyhow::Result<Runtime> {
        let mut builder = if self.threads == 1 {
            runtime::Builder::new_current_thread()
        } else {
            runtime::Builder::new_multi_thread()
        };
        if self.threads > 1 {
            builder.worker_threads(self.threads.into());
        }
        Ok(builder.enable_all().build()?)
    }

    pub(super) async fn run(self, url: &str, format: Format) -> anyhow::Result<()> {
        let client = connect(url).await?;
        self.create_queue(&client).await?;
        let clients = Clients {
            url: url.to_owned(),
            shared: self.one_connection.then_some(client),
        };
        let report = measure(self, &clients).await?;
        let mut output = Output::new(format);
        report.print(&mut output)?;
        output.finish()?;
        match report.complaint() {
            None => Ok(()),
            Some(complaint) => bail!(complaint),
        }
    }

    async fn create_queue(&self, client: &Client) -> anyhow::Result<()> {
        let durability = courser_client::wire::Durability::from(self.durability);
        let options = QueueOptions {
            durability: durability.into(),
            ..QueueOptions::default()
        };
        match client.create_queue(self.queue.clone(), options).await {
            Ok(_) => Ok(()),
            // There with other options: those are what is to be measured then.
            Err(error) if error.code() == Some(Code::AlreadyExists) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// How many messages go into one request: equal parts of what may be in flight, so that all of it is.
    fn batch(&self) -> u64 {
        let fit = (BATCH_BYTES_MAX / self.size).max(1) as u64;
        self.in_flight / self.in_flight.div_ceil(self.batch.min(fit))
    }

    /// How many messages are to be published by the `index`th producer.
    fn quota(&self, index: u16) -> u64 {
        if self.seconds.is_some() {
            return u64::MAX;
        }
        share(self.count.unwrap_or(COUNT_DEFAULT), self.producers, index)
    }

    /// How many messages the `index`th consumer takes, when that is known: the broker hands it no more.
    fn consumer_quota(&self, index: u16) -> Option<u64> {
        let count = self.count.filter(|_| self.consume_only)?;
        Some(share(count, self.consumers, index))
    }

    /// How many messages there will be in all, when that is known.
    fn total(&self) -> Option<u64> {
        match (self.count, self.seconds) {
            (None, None) if !self.consume_only => Some(COUNT_DEFAULT),
            (count, _) => count,
        }
    }
}

/// The share of one of them: all get as much, and the first a little more.
fn share(count: u64, among: u16, index: u16) -> u64 {
    let (among, index) = (u64::from(among), u64::from(index));
    count / among + u64::from(index < count % among)
}

/// Makes connections, or shares one.
struct Clients {
    url: String,
    shared: Option<Client>,
}

impl Clients {
    async fn one(&self) -> anyhow::Result<Client> {
        match &self.shared {
            Some(client) => Ok(client.clone()),
            None => connect(&self.url).await,
        }
    }
}

async fn measure(bench: Bench, clients: &Clients) -> anyhow::Result<Report> {
    let (producers, consumers) = open(&bench, clients).await?;
    let shared = Arc::new(Shared {
        run: payload::run_id(),
        started: Instant::now(),
        published: AtomicU64::new(0),
        received: AtomicU64::new(0),
        tally: Tally::new(bench.producers),
        bench,
    });
    let (stop, stopped) = watch::channel(false);
    let mut consuming = JoinSet::new();
    for consumer in consumers {
        consuming.spawn(consumer.run(Arc::clone(&shared), stopped.clone()));
    }
    let mut producing = JoinSet::new();
    for (index, producer) in (0..).zip(producers) {
        producing.spawn(producer.run(Arc::clone(&shared), index));
    }
    let bar = tokio::spawn(show_progress(Arc::clone(&shared)));
    let produced = join(producing, &mut consuming).await?;
    wait_for_rest(&shared, &mut consuming).await?;
    bar.abort();
    let _ = stop.send(true);
    let mut consumed = Consumed::default();
    while let Some(one) = consuming.join_next().await {
        consumed.add(one??);
    }
    Ok(Report::new(&shared, produced, consumed))
}

async fn open(bench: &Bench, clients: &Clients) -> anyhow::Result<(Vec<Producer>, Vec<Consumer>)> {
    let (mut producers, mut consumers) = (Vec::new(), Vec::new());
    if !bench.publish_only {
        for index in 0..bench.consumers {
            if bench.consumer_quota(index) == Some(0) {
                break;
            }
            consumers.push(Consumer::open(&clients.one().await?, bench, index).await?);
        }
    }
    if !bench.consume_only {
        for _ in 0..bench.producers {
            producers.push(Producer::open(&clients.one().await?).await?);
        }
    }
    Ok((producers, consumers))
}

/// Waits for all producers, or for the first task that fails.
async fn join(
    mut producing: JoinSet<anyhow::Result<Produced>>,
    consuming: &mut JoinSet<anyhow::Result<Consumed>>,
) -> anyhow::Result<Produced> {
    let mut produced = Produced::default();
    loop {
        tokio::select! {
            one = producing.join_next() => match one {
                Some(one) => produced.add(one?.context("a producer failed")?),
                None => return Ok(produced),
            },
            Some(ended) = consuming.join_next() => return Err(ended_early(ended)),
        }
    }
}

/// Waits until everything that was published is received, or nothing arrives any more.
async fn wait_for_rest(
    shared: &Shared,
    consuming: &mut JoinSet<anyhow::Result<Consumed>>,
) -> anyhow::Result<()> {
    if shared.bench.publish_only {
        return Ok(());
    }
    let consume_only = shared.bench.consume_only;
    let published = shared.published.load(Relaxed);
    let expected = if consume_only {
        shared.bench.count.unwrap_or(u64::MAX)
    } else {
        published
    };
    let stall = if consume_only {
        CONSUME_ONLY_STALL
    } else {
        STALL
    };
    let mut ticks = interval(TICK);
    let (mut last, mut last_at) = (0, Instant::now());
    loop {
        let received = shared.received.load(Relaxed);
        if received != last {
            (last, last_at) = (received, Instant::now());
        }
        if received >= expected || last_at.elapsed() > stall {
            return Ok(());
        }
        tokio::select! {
            _ = ticks.tick() => {}
            Some(ended) = consuming.join_next() => return Err(ended_early(ended)),
        }
    }
}

fn ended_early(ended: Result<anyhow::Result<Consumed>, tokio::task::JoinError>) -> anyhow::Error {
    match ended {
        Ok(Ok(_)) => anyhow::anyhow!("a consumer ended early"),
        Ok(Err(error)) => error.context("a consumer failed"),
        Err(error) => error.into(),
    }
}

/// A bar on stderr when that is a terminal.
async fn show_progress(shared: Arc<Shared>) {
    let bar = match shared.bench.total() {
        Some(total) => ProgressBar::new(total),
        None => ProgressBar::no_length(),
    };
    let template = "{bar:30} published {pos}/{len}  {per_sec}  received {msg}";
    let style = ProgressStyle::with_template(template);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let _clears = Clears(bar.clone());
    let mut ticks = interval(Duration::from_millis(200));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        bar.set_position(shared.published.load(Relaxed));
        bar.set_message(shared.received.load(Relaxed).to_string());
    }
}

/// Clears the bar when its task is aborted.
struct Clears(ProgressBar);

impl Drop for Clears {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
