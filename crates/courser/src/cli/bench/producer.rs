//! Publishes batches, keeping as many on their way as it may.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use anyhow::bail;
use courser_client::{Client, Error, Message, PublishConfirms, PublishSender, wire};
use hdrhistogram::Histogram;
use tokio::time::Instant;

use super::{
    Shared,
    payload::{self, Header},
    report::histogram,
};

/// An open publish stream.
pub(super) struct Producer {
    sender: PublishSender,
    confirms: PublishConfirms,
}

/// What producers did.
pub(super) struct Produced {
    pub(super) messages: u64,
    /// From the start to the last confirm.
    pub(super) took: Duration,
    /// From the request to its confirm, in nanoseconds, for each message.
    pub(super) confirm: Histogram<u64>,
}

impl Default for Produced {
    fn default() -> Self {
        Self {
            messages: 0,
            took: Duration::ZERO,
            confirm: histogram(),
        }
    }
}

impl Produced {
    pub(super) fn add(&mut self, other: Self) {
        self.messages += other.messages;
        self.took = self.took.max(other.took);
        self.confirm
            .add(other.confirm)
            .expect("the histograms are of one kind");
    }
}

struct OnWay {
    number: u64,
    messages: u64,
    sent: Instant,
}

impl Producer {
    pub(super) async fn open(client: &Client) -> anyhow::Result<Self> {
        let (sender, confirms) = client.publish_stream().await?;
        Ok(Self { sender, confirms })
    }

    pub(super) async fn run(mut self, shared: Arc<Shared>, index: u16) -> anyhow::Result<Produced> {
        let bench = &shared.bench;
        let mut left = bench.quota(index).min(u64::from(u32::MAX));
        let end = bench
            .seconds
            .map(|seconds| shared.started + Duration::from_secs(seconds));
        let mut produced = Produced::default();
        let (mut on_way, mut in_flight, mut sent) = (VecDeque::new(), 0, 0_u64);
        loop {
            if end.is_some_and(|end| Instant::now() >= end) {
                left = 0;
            }
            let batch = bench.batch().min(left);
            if batch > 0 && in_flight + batch <= bench.in_flight {
                let number = sent;
                self.send(&shared, index, number, batch).await?;
                on_way.push_back(OnWay {
                    number,
                    messages: batch,
                    sent: Instant::now(),
                });
                (in_flight, sent, left) = (in_flight + batch, sent + batch, left - batch);
                continue;
            }
            if on_way.is_empty() {
                return Ok(produced);
            }
            let confirmed = self
                .take_confirms(&shared, &mut on_way, &mut produced)
                .await?;
            in_flight -= confirmed;
        }
    }

    /// Sends a batch. Its number is that of its first message.
    async fn send(
        &self,
        shared: &Shared,
        index: u16,
        first: u64,
        batch: u64,
    ) -> anyhow::Result<()> {
        let bench = &shared.bench;
        let header = Header {
            sent_nanos: payload::now_nanos(),
            run: shared.run,
            producer: index,
            sequence: u32::try_from(first)?,
        };
        let payloads = payload::batch(header, batch, bench.size);
        let request = wire::PublishStreamRequest {
            number: first,
            messages: payloads
                .map(|payload| Message {
                    topic: bench.queue.clone(),
                    payload,
                    ..Message::default()
                })
                .collect(),
            mandatory: true,
            durability: wire::Durability::from(bench.durability).into(),
            without_results: true,
        };
        if self.sender.send(request).await.is_err() {
            bail!("the publish stream ended");
        }
        Ok(())
    }

    async fn take_confirms(
        &mut self,
        shared: &Shared,
        on_way: &mut VecDeque<OnWay>,
        produced: &mut Produced,
    ) -> anyhow::Result<u64> {
        let Some(confirms) = self.confirms.next().await? else {
            bail!("the publish stream ended")
        };
        let now = Instant::now();
        let mut confirmed = 0;
        for confirm in confirms {
            if let Some(error) = confirm.error {
                return Err(Error::from(error).into());
            }
            let Some(request) = on_way
                .pop_front()
                .filter(|sent| sent.number == confirm.number)
            else {
                bail!("confirm {} came out of order", confirm.number)
            };
            let took = u64::try_from((now - request.sent).as_nanos()).unwrap_or(u64::MAX);
            produced.confirm.saturating_record_n(took, request.messages);
            confirmed += request.messages;
        }
        produced.messages += confirmed;
        produced.took = now - shared.started;
        shared.published.fetch_add(confirmed, Relaxed);
        Ok(confirmed)
    }
}
