//! Courser, and the echo server that speaks its contract, through `courser-client`.

use std::{collections::VecDeque, time::Duration};

use anyhow::{bail, ensure};
use bytes::Bytes;
use courser_client::{
    Client, Code, ConsumerOptions, Error, Message, PublishConfirms, PublishSender, QueueOptions,
    Received, SettleSender, Subscription,
    wire::{Binding, Durability, PublishStreamRequest, Settle, Settled},
};
use tokio::time::timeout;

use crate::{
    load::{self, Seen, System, TURN},
    shape::Shape,
};

const PREFETCH: usize = 4_000;
/// When nothing has come for so long, it is asked whether all acks are on the disk.
const QUIET: Duration = Duration::from_millis(5);
/// So that the credit in messages is what counts.
const PREFETCH_BYTES: u64 = 256 * 1024 * 1024;

#[derive(Debug)]
pub(crate) struct Courser {
    pub(crate) url: String,
    /// The echo server has no queues to be made or asked.
    pub(crate) echo: bool,
}

impl System for Courser {
    type Producer = Producer;
    type Consumer = Consumer;

    async fn prepare(&self, shape: &Shape) -> anyhow::Result<()> {
        if self.echo {
            return Ok(());
        }
        let client = Client::connect(&self.url).await?;
        for queue in 0..shape.queues {
            let binding = Binding {
                pattern: shape.name.to_owned(),
            };
            let options = QueueOptions {
                // A queue is bound to the topic of its own name anyway.
                bindings: (shape.queues > 1).then_some(binding).into_iter().collect(),
                durability: Durability::Synced.into(),
                ..QueueOptions::default()
            };
            client.create_queue(shape.queue(queue), options).await?;
        }
        Ok(())
    }

    async fn producer(&self, shape: &Shape) -> anyhow::Result<Producer> {
        let client = Client::connect(&self.url).await?;
        let (sender, confirms) = client.publish_stream().await?;
        Ok(Producer {
            sender,
            confirms,
            topic: shape.name.to_owned(),
            number: 0,
            on_way: VecDeque::new(),
        })
    }

    async fn consumer(&self, shape: &Shape, queue: u16, index: u16) -> anyhow::Result<Consumer> {
        let client = Client::connect(&self.url).await?;
        let options = ConsumerOptions {
            queue: shape.queue(queue),
            consumer: format!("bench-{index}"),
            max_messages: u32::try_from(shape.held(PREFETCH))?,
            max_bytes: PREFETCH_BYTES,
            ..ConsumerOptions::default()
        };
        let subscription = client.subscribe(options).await?;
        Ok(Consumer {
            settles: subscription.settles(),
            subscription,
            unanswered: 0,
            asked: None,
        })
    }

    async fn left(&self, shape: &Shape) -> anyhow::Result<Option<u64>> {
        if self.echo {
            return Ok(None);
        }
        let client = Client::connect(&self.url).await?;
        let mut left = 0;
        for queue in 0..shape.queues {
            let stats = match client.get_queue(shape.queue(queue)).await {
                Ok(queue) => queue.stats.unwrap_or_default(),
                Err(error) if error.code() == Some(Code::NotFound) => continue,
                Err(error) => return Err(error.into()),
            };
            left += stats.ready + stats.delayed + stats.leased + stats.dead;
        }
        Ok(Some(left))
    }
}

#[derive(Debug)]
pub(crate) struct Producer {
    sender: PublishSender,
    confirms: PublishConfirms,
    topic: String,
    number: u64,
    /// Requests on their way, in order: their numbers and how many messages each has.
    on_way: VecDeque<(u64, u64)>,
}

impl load::Producer for Producer {
    async fn send(&mut self, payloads: Vec<Bytes>) -> anyhow::Result<()> {
        self.on_way.push_back((self.number, payloads.len() as u64));
        let message = |payload| Message {
            topic: self.topic.clone(),
            payload,
            ..Message::default()
        };
        let request = PublishStreamRequest {
            number: self.number,
            messages: payloads.into_iter().map(message).collect(),
            mandatory: true,
            durability: Durability::Synced.into(),
            without_results: true,
        };
        self.number += 1;
        ensure!(
            self.sender.send(request).await.is_ok(),
            "the publish stream ended"
        );
        Ok(())
    }

    async fn confirmed(&mut self) -> anyhow::Result<u64> {
        let Some(confirms) = self.confirms.next().await? else {
            bail!("the publish stream ended");
        };
        let mut messages = 0;
        for confirm in confirms {
            if let Some(error) = confirm.error {
                return Err(Error::from(error).into());
            }
            let on_way = self.on_way.pop_front();
            let Some((_, count)) = on_way.filter(|(number, _)| *number == confirm.number) else {
                bail!("confirm {} came out of order", confirm.number);
            };
            messages += count;
        }
        Ok(messages)
    }

    async fn close(self) -> anyhow::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
pub(crate) struct Consumer {
    subscription: Subscription,
    settles: SettleSender,
    /// Acks of which nobody has told that they are on the disk; and how many there were when that was asked.
    unanswered: u64,
    asked: Option<u64>,
}

impl load::Consumer for Consumer {
    async fn turn(&mut self, seen: &mut Seen) -> anyhow::Result<()> {
        let asks = self.unanswered > 0 && self.asked.is_none();
        let wait = if asks { QUIET } else { TURN };
        let Ok(event) = timeout(wait, self.subscription.next()).await else {
            if asks {
                self.asked = Some(self.unanswered);
                self.settles.send(Settle::default())?;
            }
            return Ok(());
        };
        match event? {
            Some(Received::Deliveries(batch)) => {
                seen.arrived();
                let mut ack = Vec::with_capacity(batch.len());
                for delivery in batch.iter() {
                    ack.push(delivery.lease_id());
                    seen.message(delivery.payload());
                }
                self.unanswered += ack.len() as u64;
                self.settles.send(Settle {
                    ack,
                    without_results: true,
                    ..Settle::default()
                })?;
            }
            Some(Received::Settled(Settled { ok: _, refused })) => {
                seen.unsettled += refused.len() as u64;
                if refused.is_empty() {
                    // To the settle that names none: all before it are on the disk.
                    self.unanswered -= self.asked.take().unwrap_or_default();
                    seen.acked();
                }
            }
            Some(Received::Drained) => {}
            None => bail!("the broker ended the subscription"),
        }
        Ok(())
    }

    fn unanswered(&self) -> u64 {
        self.unanswered
    }

    async fn close(self) -> anyhow::Result<()> {
        Ok(())
    }
}
