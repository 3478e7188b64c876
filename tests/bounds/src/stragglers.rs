//! One entry in a hundred stays: held, delayed, or dead-lettered. The others are acked.

use std::time::Duration;

use tokio::time::sleep;

use crate::{
    Context,
    broker::Broker,
    check::{MB, megabytes, told},
    load::{self, Consumers, PAYLOAD, Policy, To},
    probe::{disk, wait_below},
};

const QUEUE: &str = "stragglers";
/// 3 GiB of payloads; in the short form half a GiB.
const COUNT: u64 = 3 * 1024 * 1024;
const SHORT_COUNT: u64 = 512 * 1024;
/// The disk: so many times what is alive, and beside it the segment in use, a spare one and the index.
const TIMES: u64 = 2;
const DISK: u64 = 128 * MB;
const LONGEST: Duration = Duration::from_secs(60);
/// How long the broker is left alone with it.
const REST: Duration = Duration::from_secs(10);
const SHORT_REST: Duration = Duration::from_secs(4);

pub(crate) async fn run(context: Context<'_>) -> anyhow::Result<()> {
    let Context {
        args,
        folder,
        checks,
    } = context;
    let (count, rest) = if args.short {
        (SHORT_COUNT, SHORT_REST)
    } else {
        (COUNT, REST)
    };
    let broker = Broker::start(&args.broker, folder).await?;
    let client = broker.client().await?;
    load::create(&client, QUEUE).await?;
    load::fill(&broker.url, &To::One(QUEUE.to_owned()), count).await?;
    let mut consumers = Consumers::of(&broker.url, QUEUE, Policy::Straggle).await?;
    let held = count.div_ceil(300);
    consumers.wait_for_settled(count, held).await?;
    let kept = count.div_ceil(100);
    let live = broker.live(&[QUEUE, &format!("{QUEUE}.dlq")]).await?;
    checks.holds("bytes alive", megabytes(live), live >= kept * PAYLOAD);
    let bound = live * TIMES + DISK;
    let (took, _) = wait_below(&broker.data, bound, LONGEST).await;
    told("seconds until the disk was below its bound", took.as_secs());
    sleep(rest).await;
    let now = disk(&broker.data);
    checks.size("disk, blocks", now.blocks, bound);
    let log = told_parts(&broker, now.blocks);
    // The segment in use holds none of it to speak of, so what is beside it is what stragglers cost.
    let in_use = active_and_spares(&broker)?;
    checks.size(
        "disk of finished segments",
        log.saturating_sub(in_use),
        TIMES * live,
    );
    let found = client.get_queue(QUEUE).await?.stats.unwrap_or_default();
    told(
        "held, delayed, dead",
        format!("{}, {}, {}", found.leased, found.delayed, found.dead),
    );
    let expected = (held, kept - held - found.dead, found.dead);
    let is_right = (found.leased, found.delayed, found.dead) == expected;
    checks.holds(
        "each in its state",
        found.leased + found.delayed + found.dead,
        is_right,
    );
    drop(consumers);
    broker.end().await?;

    let broker = Broker::start(&args.broker, folder).await?;
    let live = broker.live(&[QUEUE, &format!("{QUEUE}.dlq")]).await?;
    checks.holds(
        "bytes alive after a restart",
        megabytes(live),
        live >= kept * PAYLOAD,
    );
    // A start has a spare file made, which is given up again when nothing needs it.
    let bound = live * TIMES + DISK;
    let (took, _) = wait_below(&broker.data, bound, LONGEST).await;
    told("seconds until it was below its bound", took.as_secs());
    sleep(rest).await;
    let now = disk(&broker.data);
    checks.size("disk after a restart, blocks", now.blocks, bound);
    broker.end().await
}

/// Answers what the log takes.
fn told_parts(broker: &Broker, all: u64) -> u64 {
    let index = disk(&broker.index()).blocks;
    told("  of it the index", megabytes(index));
    all - index
}

/// Blocks of the newest segment and of files that wait to become one.
fn active_and_spares(broker: &Broker) -> anyhow::Result<u64> {
    let (mut spares, mut newest) = (0, (String::new(), 0));
    for entry in std::fs::read_dir(broker.data.join("log"))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let blocks = std::os::unix::fs::MetadataExt::blocks(&entry.metadata()?) * 512;
        if name.ends_with(".seg") {
            newest = newest.max((name, blocks));
        } else {
            spares += blocks;
        }
    }
    Ok(spares + newest.1)
}
