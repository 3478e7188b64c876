//! A backlog: memory, disk, and how long a start takes with it.

use std::time::Duration;

use courser_process::Memory;
use tokio::time::sleep;

use crate::{
    Context,
    broker::Broker,
    check::{MB, told},
    load::{self, Consumers, PAYLOAD, Policy, To},
    probe::{disk, forget, wait_below},
};

const QUEUE: &str = "backlog";
/// 10 GiB of payloads; in the short form half a GiB.
const COUNT: u64 = 10 * 1024 * 1024;
const SHORT_COUNT: u64 = 512 * 1024;
const RESIDENT: u64 = 400 * MB;
const START: Duration = Duration::from_secs(5);
/// The disk of it, in percent of what is alive.
const DISK_PERCENT: u64 = 115;
/// Beside it, in the short form: the segment in use and spare ones, which half a GiB does not hide.
const SHORT_DISK: u64 = 192 * 1024 * 1024;
/// How long the broker is left alone with it.
const IDLE: Duration = Duration::from_secs(15);
const SHORT_IDLE: Duration = Duration::from_secs(3);

pub(crate) async fn run(context: Context<'_>) -> anyhow::Result<()> {
    let Context {
        args,
        folder,
        checks,
    } = context;
    let (count, more, idle) = if args.short {
        (SHORT_COUNT, SHORT_DISK, SHORT_IDLE)
    } else {
        (COUNT, 0, IDLE)
    };
    let live = count * PAYLOAD;
    let disk_bound = live * DISK_PERCENT / 100 + more;
    let mut resident = |what: &str, memory: Memory| {
        checks.size(&format!("resident {what}"), memory.all, RESIDENT);
        told("  of it anonymous", crate::check::megabytes(memory.own));
    };

    let broker = Broker::start(&args.broker, folder).await?;
    load::create(&broker.client().await?, QUEUE).await?;
    let took = load::fill(&broker.url, &To::One(QUEUE.to_owned()), count).await?;
    told("messages a second while filling", rate(count, took));
    resident("while filling, at most", broker.probe.take_peak());
    let (settled, found) = wait_below(&broker.data, disk_bound, Duration::from_secs(30)).await;
    told(
        "seconds until the disk was below its bound",
        settled.as_secs(),
    );
    sleep(idle).await;
    broker.probe.take_peak();
    sleep(Duration::from_secs(1)).await;
    resident("idle", broker.probe.take_peak());
    let now = disk(&broker.data);
    told(
        "the disk at the end of the filling",
        crate::check::megabytes(found.blocks),
    );
    checks.size("disk, blocks", now.blocks, disk_bound);
    checks.size("disk, lengths of files", now.apparent, disk_bound);

    broker.end().await?;
    let broker = Broker::start(&args.broker, folder).await?;
    checks.time("start after an end", broker.ready_after, START);
    broker.kill()?;
    let broker = Broker::start(&args.broker, folder).await?;
    checks.time("start after kill -9", broker.ready_after, START);
    // Killed in the middle of a load: the log after the last checkpoint is replayed.
    load::fill(&broker.url, &To::One(QUEUE.to_owned()), count / 50).await?;
    broker.kill()?;
    let broker = Broker::start(&args.broker, folder).await?;
    checks.time("start after kill -9 under load", broker.ready_after, START);
    let data = broker.data.clone();
    broker.kill()?;
    forget(&data)?;
    let broker = Broker::start(&args.broker, folder).await?;
    checks.time("start with a cold page cache", broker.ready_after, START);
    let read = broker.probe.read();
    told("  read from the disk for it", crate::check::megabytes(read));
    let mut resident = |what: &str, memory: Memory| {
        checks.size(&format!("resident {what}"), memory.all, RESIDENT);
        told("  of it anonymous", crate::check::megabytes(memory.own));
    };
    sleep(Duration::from_secs(1)).await;
    resident("after a start, at most", broker.probe.take_peak());

    let all = count + count / 50;
    let started = tokio::time::Instant::now();
    let mut consumers = Consumers::of(&broker.url, QUEUE, Policy::Ack).await?;
    consumers.wait_for(all).await?;
    told(
        "messages a second while draining",
        rate(all, started.elapsed()),
    );
    resident("while draining, at most", broker.probe.take_peak());
    checks.holds("came", consumers.received(), consumers.received() == all);
    drop(consumers);
    sleep(idle).await;
    broker.probe.take_peak();
    sleep(Duration::from_secs(1)).await;
    checks.size(
        "resident when drained",
        broker.probe.take_peak().all,
        RESIDENT,
    );
    broker.end().await
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn rate(count: u64, took: Duration) -> String {
    format!("{:.0}", count as f64 / took.as_secs_f64())
}
