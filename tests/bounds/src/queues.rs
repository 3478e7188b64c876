//! Many queues: what they cost when nothing happens, at a start, and under load.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{
    Context,
    broker::Broker,
    check::{MB, megabytes, told},
    load::{self, Consumers, Policy, To},
};

const NAME: &str = "many";
const ONE: &str = "one";
/// With the default options, so each has a dead-letter queue: twice as many in all.
const QUEUES: u64 = 10_000;
const SHORT_QUEUES: u64 = 2_000;
/// Messages in each while memory and the start are looked at: a few.
const BATCHES_EACH: u64 = 1;
/// Messages of one run of the load.
const LOAD: u64 = 640_000;
const SHORT_LOAD: u64 = 128_000;
const RESIDENT: u64 = 200 * MB;
const START: Duration = Duration::from_secs(5);
const RATIO: f64 = 0.7;
const REPETITIONS: usize = 3;
const SHORT_REPETITIONS: usize = 1;
/// Longer than it takes a broker to come to rest.
const IDLE: Duration = Duration::from_secs(15);
const SHORT_IDLE: Duration = Duration::from_secs(2);

pub(crate) async fn run(context: Context<'_>) -> anyhow::Result<()> {
    let Context {
        args,
        folder,
        checks,
    } = context;
    let (queues, messages, repetitions, idle) = if args.short {
        (SHORT_QUEUES, SHORT_LOAD, SHORT_REPETITIONS, SHORT_IDLE)
    } else {
        (QUEUES, LOAD, REPETITIONS, IDLE)
    };
    let broker = Broker::start(&args.broker, folder).await?;
    let client = broker.client().await?;
    let started = Instant::now();
    load::create_many(&client, NAME, queues).await?;
    load::create(&client, ONE).await?;
    told("seconds to create them", started.elapsed().as_secs());
    sleep(idle).await;
    let resident = broker.probe.now();
    checks.size("resident, idle and empty", resident.all, RESIDENT);
    let to = To::Many(NAME.to_owned(), queues);
    load::fill(&broker.url, &to, queues * BATCHES_EACH * load::BATCH).await?;
    sleep(idle).await;
    let resident = broker.probe.now();
    checks.size("resident, idle, 64 entries in each", resident.all, RESIDENT);
    told("  of it anonymous", megabytes(resident.own));
    let asked = Instant::now();
    let (_, page) = broker.page("/metrics").await?;
    told("bytes of /metrics", page.len());
    told("milliseconds to ask for it", asked.elapsed().as_millis());
    drop(page);

    broker.end().await?;
    let broker = Broker::start(&args.broker, folder).await?;
    checks.time("start after an end", broker.ready_after, START);
    broker.kill()?;
    let broker = Broker::start(&args.broker, folder).await?;
    checks.time("start after kill -9", broker.ready_after, START);
    sleep(idle).await;
    let resident = broker.probe.now();
    checks.size("resident after a start, idle", resident.all, RESIDENT);
    told("  of it anonymous", megabytes(resident.own));

    let mut consumers = Consumers::of_many(&broker.url, NAME, queues).await?;
    let waiting = queues * BATCHES_EACH * load::BATCH;
    consumers.wait_for(waiting).await?;
    let mut of_one = Consumers::of(&broker.url, ONE, Policy::Ack).await?;
    let (mut many, mut one) = (Duration::ZERO, Duration::ZERO);
    let (mut due, mut due_of_one) = (waiting, 0);
    for repetition in 0..repetitions {
        let started = Instant::now();
        load::fill(&broker.url, &To::One(ONE.to_owned()), messages).await?;
        due_of_one += messages;
        of_one.wait_for(due_of_one).await?;
        let took_one = started.elapsed();
        let started = Instant::now();
        load::fill(&broker.url, &to, messages).await?;
        due += messages;
        consumers.wait_for(due).await?;
        let took_many = started.elapsed();
        let ratio = took_one.as_secs_f64() / took_many.as_secs_f64();
        told(
            &format!("repetition {repetition}: one queue, all queues"),
            format!(
                "{} and {} messages a second, {ratio:.2}",
                rate(messages, took_one),
                rate(messages, took_many)
            ),
        );
        one += took_one;
        many += took_many;
    }
    let ratio = one.as_secs_f64() / many.as_secs_f64();
    checks.at_least("throughput over all queues to that of one", ratio, RATIO);
    told(
        "resident at the end, with a consumer of each",
        megabytes(broker.probe.now().all),
    );
    drop((consumers, of_one));
    broker.end().await
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn rate(count: u64, took: Duration) -> String {
    format!("{:.0}", count as f64 / took.as_secs_f64())
}
