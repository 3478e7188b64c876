//! Courser, and the echo server that speaks its contract, through `courser-client`.

use anyhow::{bail, ensure};
use bytes::Bytes;
use courser_client::{
    Client, Code, ConsumerOptions, Error, Message, PublishConfirms, PublishSender, QueueOptions,
    SettleSender, Subscription,
    wire::{Binding, Durability, PublishStreamRequest, Settle, Settled, subscribe_response::Kind},
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
            messages: 0,
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
    /// Published on this stream, for the check at its end.
    messages: u64,
}

impl load::Producer for Producer {
    async fn send(&mut self, payloads: Vec<Bytes>) -> anyhow::Result<()> {
        self.messages += payloads.len() as u64;
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
            messages += confirm.results.len() as u64;
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
            Some(Kind::Deliveries(batch)) => {
                seen.arrived();
                let mut ack = Vec::with_capacity(batch.deliveries.len());
                for delivery in &batch.deliveries {
                    ack.push(delivery.lease_id);
                    let payload = delivery
                        .message
                        .as_ref()
                        .map(|message| &message.payload[..]);
                    seen.message(payload.unwrap_or_default());
                }
                self.unanswered += ack.len() as u64;
                self.settles.send(Settle {
                    ack,
                    ..Settle::default()
                })?;
            }
            Some(Kind::Settled(Settled { ok, refused })) => {
                self.unanswered -= (ok.len() + refused.len()) as u64;
                seen.unsettled += refused.len() as u64;
                seen.acked();
            }
            Some(Kind::Drained(_) | Kind::Heartbeat(_)) => {}
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
