//! The end of a round: a broker without faults gives up all it holds, once.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use courser_proto::v1::{
    Delivery, GetQueueRequest, Message, PublishRequest, PullRequest, QueueStats, Settle,
    SettleRequest, admin_client::AdminClient, broker_client::BrokerClient,
};
use tokio::time::{Instant, sleep};
use tonic::{Code, transport::Channel};

use crate::{
    broker::{Broker, LOOK},
    history::{Known, QUEUES},
    judge::{Entry, Found},
    letter::Letter,
    message::{self, Given},
};

const DRAIN_MAX: Duration = Duration::from_secs(60);

/// Takes everything from a broker that has just started, and says what it was. Messages that are not as they were sent
/// are in `wrong`. An error is something that must not happen either.
pub(crate) async fn all(
    broker: &Broker,
    known: &Known,
    wrong: &mut Vec<String>,
) -> anyhow::Result<Found> {
    let mut client = broker.client().await.context("it does not answer")?;
    let mut admin = broker.admin().await.context("it does not answer")?;
    stale(&mut client, known).await?;
    let mut found = Found::default();
    let mut books = Books {
        given: known.given.clone(),
        wrong,
    };
    for (queue, found) in QUEUES.into_iter().zip(&mut found) {
        for dead in [false, true] {
            one(&mut client, &mut admin, queue, dead, found, &mut books).await?;
        }
    }
    alive(&mut client, &mut admin).await?;
    Ok(found)
}

/// What was given to messages, and what is wrong with those that come.
struct Books<'a> {
    given: Given,
    wrong: &'a mut Vec<String>,
}

impl Books<'_> {
    /// An entry that came from a queue, or from its dead-letter queue.
    fn entry(&mut self, queue: &str, dead: bool, delivery: &Delivery) -> anyhow::Result<Entry> {
        let message = delivery.message.as_ref().context("a message")?;
        let letter = Letter::read(&message.payload);
        let letter = letter.with_context(|| format!("{queue}: a damaged payload"))?;
        let wrong = self.given.came(letter, message);
        let is_dead = delivery.dead_letter.as_ref();
        let end = match (is_dead, dead) {
            (Some(is_dead), true) => message::dead_difference(letter, queue, is_dead),
            (None, false) => None,
            _ => Some(format!("{letter:?} dead: {dead}, and it says {is_dead:?}")),
        };
        let wrong = wrong.into_iter().chain(end);
        self.wrong
            .extend(wrong.map(|wrong| format!("{queue}: {wrong}")));
        Ok(Entry {
            letter,
            dead,
            attempt: delivery.attempt,
        })
    }
}

/// Leases died with the broker that gave them.
async fn stale(client: &mut BrokerClient<Channel>, known: &Known) -> anyhow::Result<()> {
    let ack: Vec<u64> = known
        .held
        .iter()
        .rev()
        .take(1000)
        .map(|(_, id)| *id)
        .collect();
    if ack.is_empty() {
        return Ok(());
    }
    let settled = settle(client, ack).await?;
    ensure!(
        settled == 0,
        "{settled} leases of an earlier life were settled"
    );
    Ok(())
}

/// Acks, and answers how many were OK.
async fn settle(client: &mut BrokerClient<Channel>, ack: Vec<u64>) -> anyhow::Result<usize> {
    let settle = Some(Settle {
        ack,
        ..Default::default()
    });
    let answer = client.settle(SettleRequest { settle }).await?.into_inner();
    Ok(answer.settled.context("an answer")?.ok.len())
}

async fn one(
    client: &mut BrokerClient<Channel>,
    admin: &mut AdminClient<Channel>,
    source: &str,
    dead: bool,
    found: &mut Vec<Entry>,
    books: &mut Books<'_>,
) -> anyhow::Result<()> {
    let ending = if dead { ".dlq" } else { "" };
    let queue = &format!("{source}{ending}");
    let Some(before) = stats(admin, queue).await? else {
        return Ok(());
    };
    ensure!(
        before.leased == 0,
        "{queue} holds leases of nobody: {before:?}"
    );
    let (mut taken, mut bytes) = (0, 0);
    let deadline = Instant::now() + DRAIN_MAX;
    loop {
        let request = PullRequest {
            queue: queue.to_owned(),
            consumer: "drain".to_owned(),
            max_messages: 1000,
            ..Default::default()
        };
        let deliveries = client.pull(request).await?.into_inner().deliveries;
        let mut ack = Vec::new();
        for delivery in &deliveries {
            found.push(books.entry(source, dead, delivery)?);
            let message = delivery.message.as_ref();
            bytes += message.map_or(0, |message| message.payload.len() as u64);
            ack.push(delivery.lease_id);
        }
        taken += ack.len() as u64;
        if !ack.is_empty() {
            let count = ack.len();
            let settled = settle(client, ack).await?;
            ensure!(
                settled == count,
                "{queue}: {settled} of {count} acks were OK"
            );
            continue;
        }
        let after = stats(admin, queue).await?.context("the queue is there")?;
        if left(&after) == 0 {
            ensure!(
                taken == left(&before),
                "{queue} counted {} entries and gave {taken}: {before:?}",
                left(&before)
            );
            ensure!(
                bytes <= before.bytes && after.bytes == 0,
                "{queue} counted {} bytes, gave {bytes}, and counts {} when empty",
                before.bytes,
                after.bytes
            );
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{queue} keeps {after:?}");
        sleep(LOOK).await;
    }
}

/// The broker works as before: what is published now comes and can be acked.
async fn alive(
    client: &mut BrokerClient<Channel>,
    admin: &mut AdminClient<Channel>,
) -> anyhow::Result<()> {
    if stats(admin, QUEUES[0]).await?.is_none() {
        return Ok(());
    }
    let message = Message {
        topic: QUEUES[0].to_owned(),
        payload: "alive".into(),
        ..Default::default()
    };
    let request = PublishRequest {
        messages: vec![message],
        ..Default::default()
    };
    client
        .publish(request)
        .await
        .context("a publish afterwards")?;
    let request = PullRequest {
        queue: QUEUES[0].to_owned(),
        max_messages: 10,
        ..Default::default()
    };
    let deliveries = client.pull(request).await?.into_inner().deliveries;
    let leases: Vec<u64> = deliveries
        .iter()
        .map(|delivery| delivery.lease_id)
        .collect();
    ensure!(leases.len() == 1, "afterwards {} came", leases.len());
    ensure!(settle(client, leases).await? == 1, "an ack afterwards");
    Ok(())
}

fn left(stats: &QueueStats) -> u64 {
    stats.ready + stats.delayed + stats.leased
}

/// `None` when there is no such queue.
pub(crate) async fn stats(
    admin: &mut AdminClient<Channel>,
    queue: &str,
) -> anyhow::Result<Option<QueueStats>> {
    let request = GetQueueRequest {
        name: queue.to_owned(),
    };
    match admin.get_queue(request).await {
        Ok(answer) => Ok(answer.into_inner().queue.and_then(|queue| queue.stats)),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status.into()),
    }
}
