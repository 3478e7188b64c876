//! Receives batches, counts them, and settles every message by its own lease.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use anyhow::bail;
use courser_client::{
    Client, ConsumerOptions, DeliveryBatch, Received, SettleSender, Subscription,
    wire::{Settle, Settled},
};
use hdrhistogram::Histogram;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{
    Bench, Shared,
    payload::{self, Header},
    report::histogram,
};

/// When nothing has come for so long, it is asked whether all settlements hold.
const QUIET: Duration = Duration::from_millis(5);
/// How long the last settlements may take to be answered.
const LAST_SETTLEMENTS: Duration = Duration::from_secs(10);

/// An open subscription.
pub(super) struct Consumer {
    subscription: Subscription,
    settles: SettleSender,
    /// Settlements of which nobody has told that they hold; and how many there were when that was asked.
    unanswered: u64,
    asked: Option<u64>,
}

/// What consumers got.
pub(super) struct Consumed {
    /// Messages of this run that came for the first time.
    pub(super) messages: u64,
    /// Bytes of their payloads.
    pub(super) bytes: u64,
    /// Messages of this run that had come before.
    pub(super) duplicates: u64,
    /// Messages of other runs, or of somebody else.
    pub(super) foreign: u64,
    /// Leases that the broker did not settle.
    pub(super) unsettled: u64,
    /// From the start to the last message settled.
    pub(super) took: Duration,
    /// From the publish request to the delivery, in nanoseconds.
    pub(super) end_to_end: Histogram<u64>,
}

impl Default for Consumed {
    fn default() -> Self {
        Self {
            messages: 0,
            bytes: 0,
            duplicates: 0,
            foreign: 0,
            unsettled: 0,
            took: Duration::ZERO,
            end_to_end: histogram(),
        }
    }
}

impl Consumed {
    pub(super) fn add(&mut self, other: Self) {
        self.messages += other.messages;
        self.bytes += other.bytes;
        self.duplicates += other.duplicates;
        self.foreign += other.foreign;
        self.unsettled += other.unsettled;
        self.took = self.took.max(other.took);
        self.end_to_end
            .add(other.end_to_end)
            .expect("the histograms are of one kind");
    }
}

impl Consumer {
    pub(super) async fn open(client: &Client, bench: &Bench, index: u16) -> anyhow::Result<Self> {
        let options = ConsumerOptions {
            queue: bench.queue.clone(),
            consumer: format!("bench-{index}"),
            max_messages: bench.prefetch,
            // So that the credit in messages is what counts, whatever their size.
            max_bytes: 256 * 1024 * 1024,
            limit: bench.consumer_quota(index).unwrap_or(0),
            ..ConsumerOptions::default()
        };
        let subscription = client.subscribe(options).await?;
        Ok(Self {
            settles: subscription.settles(),
            subscription,
            unanswered: 0,
            asked: None,
        })
    }

    /// Consumes until told to stop, and then until the last settlement is answered.
    pub(super) async fn run(
        mut self,
        shared: Arc<Shared>,
        mut stop: watch::Receiver<bool>,
    ) -> anyhow::Result<Consumed> {
        let mut consumed = Consumed::default();
        loop {
            tokio::select! {
                biased;
                event = self.subscription.next() => self.take(&shared, &mut consumed, event?)?,
                _ = stop.changed() => break,
                () = sleep(QUIET), if self.may_ask() => self.ask()?,
            }
        }
        let rest = async {
            while self.unanswered > 0 {
                if self.may_ask() {
                    self.ask()?;
                }
                let event = self.subscription.next().await?;
                self.take(&shared, &mut consumed, event)?;
            }
            anyhow::Ok(())
        };
        if let Ok(ended) = timeout(LAST_SETTLEMENTS, rest).await {
            ended?;
        } else {
            consumed.unsettled += self.unanswered;
        }
        Ok(consumed)
    }

    fn may_ask(&self) -> bool {
        self.unanswered > 0 && self.asked.is_none()
    }

    /// Its answer says that all settlements before it hold.
    fn ask(&mut self) -> anyhow::Result<()> {
        self.asked = Some(self.unanswered);
        self.settles.send(Settle::default())?;
        Ok(())
    }

    fn take(
        &mut self,
        shared: &Shared,
        consumed: &mut Consumed,
        event: Option<Received>,
    ) -> anyhow::Result<()> {
        match event {
            Some(Received::Deliveries(batch)) => {
                self.unanswered += batch.len() as u64;
                let ack = count(shared, consumed, &batch);
                self.settles.send(Settle {
                    ack,
                    without_results: true,
                    ..Settle::default()
                })?;
            }
            Some(Received::Settled(Settled { ok: _, refused })) => {
                consumed.unsettled += refused.len() as u64;
                if refused.is_empty() {
                    self.unanswered -= self.asked.take().unwrap_or_default();
                    if consumed.messages > 0 {
                        consumed.took = Instant::now() - shared.started;
                    }
                }
            }
            Some(Received::Drained) => {}
            None => bail!("the broker ended the subscription"),
        }
        Ok(())
    }
}

/// Counts deliveries and answers their leases.
fn count(shared: &Shared, consumed: &mut Consumed, deliveries: &DeliveryBatch) -> Vec<u64> {
    let now = payload::now_nanos();
    let mut leases = Vec::with_capacity(deliveries.len());
    let mut new = 0;
    for delivery in deliveries.iter() {
        leases.push(delivery.lease_id());
        let payload = delivery.payload();
        let Some(header) = Header::read(payload) else {
            consumed.foreign += 1;
            continue;
        };
        if shared.bench.consume_only {
            // Of which runs, and how many, nobody here can know.
            new += 1;
        } else if header.run != shared.run {
            consumed.foreign += 1;
            continue;
        } else if shared.tally.note(header.producer, header.sequence) {
            new += 1;
        } else {
            consumed.duplicates += 1;
            continue;
        }
        consumed.bytes += payload.len() as u64;
        consumed
            .end_to_end
            .saturating_record(now.saturating_sub(header.sent_nanos));
    }
    consumed.messages += new;
    let received = if shared.bench.consume_only {
        deliveries.len() as u64
    } else {
        new
    };
    shared.received.fetch_add(received, Relaxed);
    leases
}
