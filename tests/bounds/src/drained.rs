//! A backlog that is drained: the disk comes back online, and no publish waits for it.

use std::time::Duration;

use anyhow::ensure;
use tokio::time::{Instant, sleep};

use crate::{
    Context,
    broker::Broker,
    check::{Checks, MB, megabytes, told},
    load::{self, Consumers, PAYLOAD, Paced, Policy, To},
    probe::{disk, wait_below},
};

const QUEUE: &str = "drained";
/// Published to at a pace, and not consumed.
const PACED: &str = "paced";
const PACE: u64 = 200;
/// Two that share their segments.
const NEIGHBOURS: &str = "neighbour";
/// 4 GiB of payloads; in the short form half a GiB.
const COUNT: u64 = 4 * 1024 * 1024;
const SHORT_COUNT: u64 = 512 * 1024;
/// The disk of what is alive, in percent, and what is beside it.
const DISK_PERCENT: u64 = 120;
const DISK: u64 = 128 * MB;
const WITHIN: Duration = Duration::from_secs(10);
/// The longest that a publish may wait for disk that is given back.
const WAIT: Duration = Duration::from_millis(50);
/// Without anything given back.
const CONTROL: Duration = Duration::from_secs(15);
const SHORT_CONTROL: Duration = Duration::from_secs(3);
/// Longer than it takes until a checkpoint has what was published.
const SETTLED: Duration = Duration::from_secs(6);
/// What is watched after the bound was reached.
const AFTER: Duration = Duration::from_secs(10);

pub(crate) async fn run(context: Context<'_>) -> anyhow::Result<()> {
    let Context {
        args,
        folder,
        checks,
    } = context;
    let (count, control) = if args.short {
        (SHORT_COUNT, SHORT_CONTROL)
    } else {
        (COUNT, CONTROL)
    };
    let broker = Broker::start(&args.broker, folder).await?;
    let client = broker.client().await?;
    load::create(&client, QUEUE).await?;
    load::create(&client, PACED).await?;

    // The same publisher twice: with a purge, which is all reclaim and no load, and with a drain.
    let both = [How::Purge, How::Drain];
    for &how in if args.short { &both[1..] } else { &both[..] } {
        load::fill(&broker.url, &To::One(QUEUE.to_owned()), count).await?;
        sleep(SETTLED).await;
        let before = Work::of(&broker).await?;
        let paced = Paced::start(&broker.url, PACED, PACE).await?;
        sleep(control).await;
        let quiet = paced.take();
        told(&format!("{how:?}: waits before"), quiet.text());
        match how {
            How::Purge => {
                let purged = client.purge_queue(QUEUE, 0).await?;
                ensure!(purged == count, "{purged} of {count} were purged");
            }
            How::Drain => {
                let mut consumers = Consumers::of(&broker.url, QUEUE, Policy::Ack).await?;
                consumers.wait_for(count).await?;
                told("Drain: waits while draining", paced.take().text());
            }
        }
        let started = Instant::now();
        let live = broker.live(&[PACED]).await? + WITHIN.as_secs() * PACE * PAYLOAD;
        let bound = live * DISK_PERCENT / 100 + DISK;
        told(
            &format!("{how:?}: disk at the end"),
            megabytes(disk(&broker.data).blocks),
        );
        let (took, _) = wait_below(&broker.data, bound, 6 * WITHIN).await;
        let waits = paced.take();
        checks.time(&format!("{how:?}: disk back after"), took, WITHIN);
        let after = if args.short { Duration::ZERO } else { AFTER };
        sleep(after.saturating_sub(started.elapsed())).await;
        let now = disk(&broker.data);
        checks.size(&format!("{how:?}: disk, blocks"), now.blocks, bound);
        told(
            &format!("{how:?}: of it the index"),
            megabytes(disk(&broker.index()).blocks),
        );
        let after = paced.take();
        ensure!(paced.is_well(), "the paced publisher ended");
        told(
            &format!("{how:?}: waits while it was given back"),
            waits.text(),
        );
        told(&format!("{how:?}: waits after that"), after.text());
        let worst = waits.worst().max(after.worst());
        // What the machine made it wait without any of this is not the fault of it.
        let extra = worst.saturating_sub(quiet.worst());
        checks.time(
            &format!("{how:?}: worst wait more than before"),
            extra,
            WAIT,
        );
        told(
            &format!("{how:?}: done meanwhile"),
            Work::of(&broker).await?.since(before),
        );
        drop(paced);
    }
    neighbour(&broker, checks, count / 4).await?;
    // Nobody publishes: what is left stays as small.
    client.purge_queue(PACED, 0).await?;
    let (took, now) = wait_below(&broker.data, DISK, 3 * WITHIN).await;
    checks.time("idle and empty: disk back after", took, WITHIN);
    checks.size("idle and empty: disk, blocks", now.blocks, DISK);
    broker.end().await
}

/// Two queues whose messages lie in turn in the same segments: one is drained, the other one stays.
async fn neighbour(broker: &Broker, checks: &mut Checks, each: u64) -> anyhow::Result<()> {
    let client = broker.client().await?;
    load::create_many(&client, NEIGHBOURS, 2).await?;
    let to = To::Many(NEIGHBOURS.to_owned(), 2);
    load::fill(&broker.url, &to, 2 * each).await?;
    sleep(SETTLED).await;
    let paced = Paced::start(&broker.url, PACED, PACE).await?;
    let [goes, stays] = [0, 1].map(|number| load::numbered(NEIGHBOURS, number));
    let mut consumers = Consumers::of(&broker.url, &goes, Policy::Ack).await?;
    consumers.wait_for(each).await?;
    told("Neighbour: waits while draining", paced.take().text());
    let live = broker.live(&[PACED, &stays]).await? + WITHIN.as_secs() * PACE * PAYLOAD;
    let bound = live * DISK_PERCENT / 100 + DISK;
    told(
        "Neighbour: disk at the end",
        megabytes(disk(&broker.data).blocks),
    );
    let (took, now) = wait_below(&broker.data, bound, 3 * WITHIN).await;
    checks.time("Neighbour: disk back after", took, WITHIN);
    checks.size("Neighbour: disk, blocks", now.blocks, bound);
    told("Neighbour: waits meanwhile", paced.take().text());
    drop(paced);
    client.purge_queue(stays, 0).await?;
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Purge,
    Drain,
}

/// What the store has done for its disk.
#[derive(Clone, Copy, Debug)]
struct Work {
    dropped: f64,
    rewritten: f64,
}

impl Work {
    async fn of(broker: &Broker) -> anyhow::Result<Self> {
        Ok(Self {
            dropped: broker
                .metric("courser_store_segments_dropped_total")
                .await?,
            rewritten: broker
                .metric("courser_store_segments_rewritten_total")
                .await?,
        })
    }

    fn since(self, before: Self) -> String {
        format!(
            "{} segments dropped, {} rewritten",
            self.dropped - before.dropped,
            self.rewritten - before.rewritten
        )
    }
}
