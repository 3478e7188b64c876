//! Courser, and the echo server that speaks its contract, through `courser-client`.

use std::collections::VecDeque;

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
    unanswered: u64,
}

impl load::Consumer for Consumer {
    async fn turn(&mut self, seen: &mut Seen) -> anyhow::Result<()> {
        let Ok(event) = timeout(TURN, self.subscription.next()).await else {
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
                    ..Settle::default()
                })?;
            }
            Some(Received::Settled(Settled { ok, refused })) => {
                self.unanswered -= (ok.len() + refused.len()) as u64;
                seen.unsettled += refused.len() as u64;
                seen.acked();
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
