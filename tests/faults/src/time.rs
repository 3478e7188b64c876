//! A broker that is stopped for longer than its leases last, and one whose clock is set.
//!
//! Afterwards the figures of leases add up, each lease ended once, nothing comes more often than leases
//! ran out, and the broker has nothing to do.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, ensure};
use courser_proto::v1::{
    Message, Nack, PeekEntriesRequest, PublishRequest, PullRequest, QueueStats,
    RedriveEntriesRequest, Reject, Settle, SettleRequest, Settled, admin_client::AdminClient,
    broker_client::BrokerClient,
};
use rustix::process::Signal;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

use crate::{
    broker::{Broker, LOOK, Place, Programs},
    changes,
    control::Control,
    drain,
    figures::{self, COMES_MAX, idle},
    history::{History, Known, NOW, QUEUES, Totals},
    load,
    others::Others,
    random::Random,
    report::Outcome,
    round::{Round, Starts},
};

const LEASE: Duration = Duration::from_secs(2);
/// How often the clock is set while leases are held.
const ROUNDS: u64 = 3;
const HOUR: i64 = 3_600_000_000_000;

pub(crate) async fn stop(programs: &Programs, starts: &Starts, mut random: Random) -> Outcome {
    let round = Round::new(programs, &starts.fresh);
    let mut outcome = Outcome::new("stopped for longer than a lease".to_owned());
    outcome.hit = true;
    match stopped(&round.place, &mut random).await {
        Ok(totals) => outcome.totals = totals,
        Err(error) => outcome.wrong.push(format!("{error:#}")),
    }
    outcome.close(round)
}

pub(crate) async fn clock(programs: &Programs, starts: &Starts, mut random: Random) -> Outcome {
    let round = Round::new(programs, &starts.fresh);
    let mut outcome = Outcome::new("the clock is set".to_owned());
    outcome.hit = true;
    match set(&round.place, &mut random).await {
        Ok(totals) => outcome.totals = totals,
        Err(error) => outcome.wrong.push(format!("{error:#}")),
    }
    outcome.close(round)
}

/// A client of the first queue that keeps the books.
struct Client {
    client: BrokerClient<Channel>,
    admin: AdminClient<Channel>,
    published: u64,
    /// OK acks, by number of the message.
    acked: BTreeMap<u32, u32>,
    delivered: u64,
    /// OK acks of leases that had run out.
    late: u64,
}

/// A lease, and which message it is of.
type Held = Vec<(u64, u32)>;

impl Client {
    async fn new(broker: &Broker) -> anyhow::Result<Self> {
        Ok(Self {
            client: broker.client().await.context("it does not answer")?,
            admin: broker.admin().await.context("it does not answer")?,
            published: 0,
            acked: BTreeMap::new(),
            delivered: 0,
            late: 0,
        })
    }

    async fn publish(&mut self, count: u32) -> anyhow::Result<()> {
        let first = u32::try_from(self.published)?;
        let messages = (first..first + count)
            .map(|number| Message {
                topic: QUEUES[0].to_owned(),
                payload: number.to_le_bytes().to_vec().into(),
                ..Default::default()
            })
            .collect();
        let request = PublishRequest {
            messages,
            ..Default::default()
        };
        self.client.publish(request).await?;
        self.published += u64::from(count);
        Ok(())
    }

    async fn pull(&mut self, count: u32) -> anyhow::Result<Held> {
        let request = PullRequest {
            queue: QUEUES[0].to_owned(),
            max_messages: count,
            ..Default::default()
        };
        let deliveries = self.client.pull(request).await?.into_inner().deliveries;
        self.delivered += deliveries.len() as u64;
        let mut held = Held::new();
        for delivery in deliveries {
            let payload = delivery.message.context("a message")?.payload;
            let number = u32::from_le_bytes(payload[..].try_into()?);
            ensure!(
                !self.acked.contains_key(&number),
                "message {number} was acked and came again"
            );
            held.push((delivery.lease_id, number));
        }
        Ok(held)
    }

    async fn settle(&mut self, settle: Settle) -> anyhow::Result<Settled> {
        let request = SettleRequest {
            settle: Some(settle),
        };
        let answer = self.client.settle(request).await?.into_inner();
        answer.settled.context("an answer")
    }

    /// Acks; answers how many were OK.
    async fn ack(&mut self, held: &Held) -> anyhow::Result<usize> {
        let ack = held.iter().map(|(lease, _)| *lease).collect();
        let settled = self
            .settle(Settle {
                ack,
                ..Default::default()
            })
            .await?;
        for ok in &settled.ok {
            let entry = held.iter().find(|(lease, _)| lease == ok);
            let (_, number) = entry.context("an OK for nothing")?;
            let count = self.acked.entry(*number).or_default();
            *count += 1;
            ensure!(*count == 1, "message {number} was acked twice");
        }
        Ok(settled.ok.len())
    }

    /// Makes dead letters, all of them.
    async fn dead_letter(&mut self, held: &[(u64, u32)]) -> anyhow::Result<()> {
        let reject = |(lease_id, _): &(u64, u32)| Reject {
            lease_id: *lease_id,
            reason: "chosen".to_owned(),
            description: String::new(),
        };
        let dead_letter = held.iter().map(reject).collect();
        let settled = self
            .settle(Settle {
                dead_letter,
                ..Default::default()
            })
            .await?;
        let (ok, all) = (settled.ok.len(), held.len());
        ensure!(ok == all, "{ok} of {all} became dead letters");
        Ok(())
    }

    /// Redrives so many dead letters, which must be all there are.
    async fn redrive(&mut self, count: usize) -> anyhow::Result<()> {
        let queue = format!("{}.dlq", QUEUES[0]);
        let request = PeekEntriesRequest {
            queue: queue.clone(),
            limit: 1000,
            ..Default::default()
        };
        let entries = self.admin.peek_entries(request).await?.into_inner().entries;
        let found = entries.len();
        ensure!(found == count, "{found} of {count} dead letters are there");
        let request = RedriveEntriesRequest {
            queue,
            entry_ids: entries.iter().map(|entry| entry.entry_id).collect(),
            ..Default::default()
        };
        let redriven = self.admin.redrive_entries(request).await?;
        let redriven = redriven.into_inner().redriven;
        ensure!(
            redriven == count as u64,
            "{redriven} of {count} were redriven"
        );
        Ok(())
    }

    async fn stats(&mut self) -> anyhow::Result<QueueStats> {
        let stats = drain::stats(&mut self.admin, QUEUES[0]).await?;
        stats.context("the queue is there")
    }

    /// Waits until so many leases have run out, and answers how long that took.
    async fn expired(&mut self, count: u64) -> anyhow::Result<Duration> {
        let began = Instant::now();
        loop {
            let stats = self.stats().await?;
            ensure!(
                stats.expired_total <= count,
                "{} leases ran out, of {count}",
                stats.expired_total
            );
            if stats.expired_total == count {
                return Ok(began.elapsed());
            }
            ensure!(
                began.elapsed() < COMES_MAX,
                "leases do not run out: {stats:?}"
            );
            sleep(LOOK * 5).await;
        }
    }

    /// Takes and acks all that is left, but for `kept`.
    async fn drain(&mut self, kept: u64) -> anyhow::Result<()> {
        let deadline = Instant::now() + COMES_MAX;
        while self.acked.len() as u64 + kept < self.published {
            let held = self.pull(100).await?;
            let ok = self.ack(&held).await?;
            ensure!(ok == held.len(), "{ok} of {} acks were OK", held.len());
            if Instant::now() > deadline {
                let stats = self.stats().await?;
                let acked = self.acked.len();
                anyhow::bail!("{acked} of {} came, kept {kept}: {stats:?}", self.published);
            }
            if held.is_empty() {
                sleep(LOOK * 5).await;
            }
        }
        Ok(())
    }

    /// Everything was acked in one life of the broker: the figures add up.
    async fn books(&mut self) -> anyhow::Result<()> {
        let stats = self.stats().await?;
        figures::all_ended(&stats, self.delivered, self.late)?;
        ensure!(
            stats.acked_total == self.published,
            "{} were published and acked, and the figures do not add up: {stats:?}",
            self.published
        );
        Ok(())
    }
}

/// Changes a queue meanwhile.
async fn changing(
    broker: &Broker,
    history: &History,
    random: &mut Random,
) -> anyhow::Result<Others> {
    let others = Others::changing(broker, history, random).await;
    others.context("the queue that is changed cannot be looked at")
}

/// All changes that were asked must be answered, and none wrong.
async fn finish(changing: Others, history: &History) -> anyhow::Result<()> {
    changing.finish().await;
    changes::all_answered(history)?;
    let violations = history.known().violations;
    ensure!(violations.is_empty(), "{violations:?}");
    Ok(())
}

async fn start(place: &Place) -> anyhow::Result<(Broker, Client)> {
    let broker = Broker::start(place).await;
    let broker = broker.map_err(|ended| anyhow::anyhow!("it did not start: {ended:?}"))?;
    let client = Client::new(&broker).await?;
    Ok((broker, client))
}

async fn stopped(place: &Place, random: &mut Random) -> anyhow::Result<Totals> {
    let (broker, mut client) = start(place).await?;
    load::create_queues(&mut client.admin, LEASE).await?;
    client.publish(300).await?;
    let history = History::new(Known::default(), &place.control);
    let changing = changing(&broker, &history, random).await?;
    let mut expired = 0;
    for _ in 0..2 {
        let count = random.within(20..100) as u32;
        let held = client.pull(count).await?;
        let (now, late) = held.split_at(held.len() / 3);
        let (dead, now) = now.split_at(now.len() / 3);
        client.dead_letter(dead).await?;
        let ok = client.ack(&now.to_vec()).await?;
        ensure!(ok == now.len(), "{ok} of {} acks were OK", now.len());
        // Changes go on, and one of them is under way.
        sleep(Duration::from_millis(random.within(0..200))).await;
        broker.signal(Signal::STOP);
        sleep(LEASE + Duration::from_millis(random.within(100..1500))).await;
        broker.signal(Signal::CONT);
        expired += late.len() as u64;
        client.expired(expired).await?;
        client.redrive(dead.len()).await?;
        // A late ack holds while nobody else has the entry; whatever holds, holds once.
        let late = late.to_vec();
        let taken = client.pull(20).await?;
        client.late += client.ack(&late).await? as u64;
        let again = client.ack(&late).await?;
        ensure!(again == 0, "{again} leases were settled twice");
        let rest: Held = taken
            .into_iter()
            .filter(|(_, number)| !client.acked.contains_key(number))
            .collect();
        let ok = client.ack(&rest).await?;
        ensure!(
            ok == rest.len(),
            "{ok} of {} new leases were OK",
            rest.len()
        );
    }
    finish(changing, &history).await?;
    client.drain(0).await?;
    client.books().await?;
    idle(&broker).await?;
    Ok(history.known().totals)
}

async fn set(place: &Place, random: &mut Random) -> anyhow::Result<Totals> {
    let control: &Control = &place.control;
    let (mut broker, mut client) = start(place).await?;
    load::create_queues(&mut client.admin, LEASE).await?;
    client.publish(200).await?;
    let history = History::new(Known::default(), control);
    let mut expired = 0;
    for _ in 0..ROUNDS {
        // Set while leases are held: they last as long as they would have.
        let began = Instant::now();
        let held = client.pull(random.within(10..30) as u32).await?;
        let (dead, held) = held.split_at(held.len() / 3);
        client.dead_letter(dead).await?;
        let changing = changing(&broker, &history, random).await?;
        let hours = [-48, -2, 1, 24, 1000][random.within(0..5) as usize];
        control.set_clock(hours * HOUR);
        sleep(LEASE / 2).await;
        let stats = client.stats().await?;
        let early = stats.expired_total != expired;
        ensure!(
            !early || began.elapsed() >= LEASE,
            "leases ran out when the clock was set by {hours} h: {stats:?}"
        );
        expired += held.len() as u64;
        client.expired(expired).await?;
        ensure!(began.elapsed() >= LEASE, "leases ran out too early");
        // A delay passes too.
        delayed(&mut client, control, random).await?;
        client.redrive(dead.len()).await?;
        finish(changing, &history).await?;
        idle(&broker).await?;
    }
    // Started again with a clock that was set back: what never failed comes at once, and what failed
    // without a delay. What failed with one waits until the clock has come to where it was, for the end
    // of its delay is kept as a time.
    client.publish(50).await?;
    let delayed = client.stats().await?.nacked_total;
    broker.kill();
    control.set_clock(-72 * HOUR);
    let (mut broker, mut back) = again(place, &client).await?;
    as_changed(&broker, &history).await?;
    let waiting = back.stats().await?.delayed;
    ensure!(
        waiting <= delayed,
        "{delayed} failed with a delay, and {waiting} wait for the clock"
    );
    back.drain(waiting).await?;
    idle(&broker).await?;
    broker.kill();
    control.set_clock(0);
    let (broker, mut right) = again(place, &back).await?;
    as_changed(&broker, &history).await?;
    right.drain(0).await?;
    idle(&broker).await?;
    Ok(history.known().totals)
}

/// The queue that was changed is as the last change left it.
async fn as_changed(broker: &Broker, history: &History) -> anyhow::Result<()> {
    let wrong = changes::wrong(broker, &history.known(), NOW).await?;
    wrong.map_or(Ok(()), |wrong| Err(anyhow::anyhow!(wrong)))
}

/// A start on the same folder; the client goes on where the last one was.
async fn again(place: &Place, before: &Client) -> anyhow::Result<(Broker, Client)> {
    let (broker, mut client) = start(place).await?;
    client.published = before.published;
    client.acked = before.acked.clone();
    Ok((broker, client))
}

/// A nack with a delay comes back after it, wherever the clock goes.
async fn delayed(
    client: &mut Client,
    control: &Control,
    random: &mut Random,
) -> anyhow::Result<()> {
    let held = client.pull(5).await?;
    let nack = held
        .iter()
        .map(|(lease_id, _)| Nack {
            lease_id: *lease_id,
            retry_after: Some(prost_types::Duration {
                seconds: 0,
                nanos: 500_000_000,
            }),
            error: String::new(),
        })
        .collect();
    client
        .settle(Settle {
            nack,
            ..Default::default()
        })
        .await?;
    let hours = random.within(0..200).cast_signed() - 100;
    control.set_clock(hours * HOUR);
    let began = Instant::now();
    while client.stats().await?.delayed > 0 {
        ensure!(
            began.elapsed() < COMES_MAX,
            "a delay of 0.5 s does not pass when the clock is set by {hours} h"
        );
        sleep(LOOK * 5).await;
    }
    Ok(())
}
