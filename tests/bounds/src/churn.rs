//! Queues and entries that come and go: the folder of the index stays in proportion to what lives in it.

use tokio::time::{Duration, sleep};

use crate::{
    Context,
    broker::Broker,
    check::{MB, megabytes, told},
    load::{self, Consumers, To},
    probe::{disk, wait_below},
};

/// Rounds: each makes queues, fills them with a backlog that a checkpoint moves to the index, and takes
/// both away.
const ROUNDS: u64 = 12;
const SHORT_ROUNDS: u64 = 2;
const QUEUES: u64 = 400;
/// Entries of a round.
const ENTRIES: u64 = 400_000;
const SHORT_ENTRIES: u64 = 100_000;
/// Stays all the time.
const KEPT: &str = "kept";
const KEPT_ENTRIES: u64 = 100_000;
/// Bytes of the index for an entry, and for a queue with its dead-letter queue.
const ENTRY_BYTES: u64 = 20;
const QUEUE_BYTES: u64 = 500;
/// What sled takes beside, and how many times what lives: `docs/decisions/0001-real-sync-under-sled.md`.
const FLOOR: u64 = 64 * MB;
const TIMES: u64 = 8;
/// Longer than two checkpoints.
const CHECKPOINTS: Duration = Duration::from_secs(8);

pub(crate) async fn run(context: Context<'_>) -> anyhow::Result<()> {
    let Context {
        args,
        folder,
        checks,
    } = context;
    let (rounds, entries) = if args.short {
        (SHORT_ROUNDS, SHORT_ENTRIES)
    } else {
        (ROUNDS, ENTRIES)
    };
    let broker = Broker::start(&args.broker, folder).await?;
    let client = broker.client().await?;
    load::create(&client, KEPT).await?;
    load::fill(&broker.url, &To::One(KEPT.to_owned()), KEPT_ENTRIES).await?;
    let mut highest = 0;
    for round in 0..rounds {
        let name = format!("round-{round}");
        load::create_many(&client, &name, QUEUES).await?;
        load::fill(&broker.url, &To::Many(name.clone(), QUEUES), entries).await?;
        sleep(CHECKPOINTS).await;
        highest = highest.max(disk(&broker.index()).blocks);
        // Half of the queues are drained, half are deleted with what is in them.
        let half = QUEUES / 2;
        let mut expected = 0;
        for number in 0..half {
            let found = client.get_queue(load::numbered(&name, number)).await?;
            expected += found.stats.unwrap_or_default().ready;
        }
        let mut consumers = Consumers::of_many(&broker.url, &name, half).await?;
        consumers.wait_for(expected).await?;
        drop(consumers);
        for number in 0..QUEUES {
            let queue = load::numbered(&name, number);
            client.delete_queue(queue, false).await?;
        }
    }
    sleep(CHECKPOINTS).await;
    let live = KEPT_ENTRIES * ENTRY_BYTES + QUEUE_BYTES;
    let peak = live + entries * ENTRY_BYTES + QUEUES * QUEUE_BYTES;
    checks.size("index, at most", highest, FLOOR + TIMES * peak);
    let bound = FLOOR + TIMES * live;
    let (_, now) = wait_below(&broker.index(), bound, CHECKPOINTS).await;
    checks.size("index when the rounds are over", now.blocks, bound);
    told("alive in it, about", megabytes(live));
    let alive = broker.live(&[KEPT]).await?;
    let all = alive * 12 / 10 + 128 * MB + now.blocks;
    checks.size("disk, blocks", disk(&broker.data).blocks, all);
    let kept = client
        .get_queue(KEPT)
        .await?
        .stats
        .unwrap_or_default()
        .ready;
    checks.holds("entries that stayed", kept, kept == KEPT_ENTRIES);
    broker.end().await
}
