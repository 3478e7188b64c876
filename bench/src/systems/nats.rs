//! NATS JetStream: a file stream, asynchronous publishes, a pull consumer with explicit acks.

use anyhow::{Context as _, ensure};
use async_nats::{
    Client, ConnectOptions, Message, Subscriber,
    jetstream::{
        self, AckKind,
        consumer::{AckPolicy, PullConsumer, pull},
        stream::{Config, RetentionPolicy, StorageType},
    },
};
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use tokio::time::timeout;

use crate::{
    load::{self, Seen, System, TURN},
    shape::Shape,
};

/// Messages that one pull asks for.
const PULL: usize = 500;
/// Unacked messages of one consumer (a "queue" of ours), so that it never stands in the way.
const ACK_PENDING: i64 = 50_000;
/// Messages that a consumer takes, or acks that a producer takes, in one turn.
const AT_ONCE: usize = 500;

#[derive(Debug)]
pub(crate) struct Nats {
    pub(crate) url: String,
}

impl Nats {
    async fn connect(&self) -> anyhow::Result<Client> {
        let options = ConnectOptions::new().subscription_capacity(256 * 1024);
        Ok(options.connect(&self.url).await?)
    }
}

impl System for Nats {
    type Producer = Producer;
    type Consumer = Consumer;

    /// One stream, and a durable consumer for each queue: a message is stored once.
    async fn prepare(&self, shape: &Shape) -> anyhow::Result<()> {
        let context = jetstream::new(self.connect().await?);
        let config = Config {
            name: shape.name.to_owned(),
            subjects: vec![shape.name.to_owned()],
            storage: StorageType::File,
            retention: RetentionPolicy::Limits,
            ..Config::default()
        };
        let stream = context.create_stream(config).await?;
        for queue in 0..shape.queues {
            let config = pull::Config {
                durable_name: Some(shape.queue(queue)),
                ack_policy: AckPolicy::Explicit,
                max_ack_pending: ACK_PENDING,
                ..pull::Config::default()
            };
            stream.create_consumer(config).await?;
        }
        Ok(())
    }

    async fn producer(&self, shape: &Shape) -> anyhow::Result<Producer> {
        let client = self.connect().await?;
        let inbox = client.new_inbox();
        let acks = client.subscribe(inbox.clone()).await?;
        client.flush().await?;
        Ok(Producer {
            client,
            subject: shape.name,
            inbox,
            acks,
        })
    }

    async fn consumer(&self, shape: &Shape, queue: u16, _index: u16) -> anyhow::Result<Consumer> {
        let client = self.connect().await?;
        let context = jetstream::new(client.clone());
        let consumer: PullConsumer = context
            .get_consumer_from_stream(shape.queue(queue), shape.name)
            .await?;
        let messages = consumer
            .stream()
            .max_messages_per_batch(shape.held(PULL))
            .messages()
            .await?;
        Ok(Consumer { client, messages })
    }

    async fn left(&self, shape: &Shape) -> anyhow::Result<Option<u64>> {
        let context = jetstream::new(self.connect().await?);
        let mut left = 0;
        for queue in 0..shape.queues {
            let mut consumer: PullConsumer = context
                .get_consumer_from_stream(shape.queue(queue), shape.name)
                .await?;
            let info = consumer.info().await?;
            left += info.num_pending + info.num_ack_pending as u64;
        }
        Ok(Some(left))
    }
}

/// Publishes with a reply subject and counts the acks on it, which is what an asynchronous publish of
/// a client library does, without a task and a channel for each message.
pub(crate) struct Producer {
    client: Client,
    subject: &'static str,
    inbox: String,
    acks: Subscriber,
}

impl load::Producer for Producer {
    async fn send(&mut self, payloads: Vec<Bytes>) -> anyhow::Result<()> {
        for payload in payloads {
            self.client
                .publish_with_reply(self.subject, self.inbox.clone(), payload)
                .await?;
        }
        Ok(())
    }

    async fn confirmed(&mut self) -> anyhow::Result<u64> {
        let first = self.acks.next().await;
        check(&first.context("the subscription ended")?)?;
        let mut confirmed = 1;
        while confirmed < AT_ONCE as u64
            && let Some(next) = self.acks.next().now_or_never()
        {
            check(&next.context("the subscription ended")?)?;
            confirmed += 1;
        }
        Ok(confirmed)
    }

    async fn close(self) -> anyhow::Result<()> {
        Ok(self.client.drain().await?)
    }
}

/// An ack is `{"stream":"bench","seq":1}`, a refusal `{"error":{...},...}`.
fn check(ack: &Message) -> anyhow::Result<()> {
    ensure!(
        ack.status.is_none() && !ack.payload.starts_with(br#"{"error"#),
        "NATS did not take a message: {:?} {:?}",
        ack.status,
        ack.payload
    );
    Ok(())
}

pub(crate) struct Consumer {
    client: Client,
    messages: pull::Stream,
}

impl load::Consumer for Consumer {
    async fn turn(&mut self, seen: &mut Seen) -> anyhow::Result<()> {
        let Ok(first) = timeout(TURN, self.messages.next()).await else {
            return Ok(());
        };
        seen.arrived();
        let (mut next, mut taken) = (first, 0);
        loop {
            let message = next.context("NATS ended the consumer")??;
            seen.message(&message.payload);
            let reply = message.message.reply.context("a message without a reply")?;
            self.client
                .publish(reply, Bytes::from(AckKind::Ack))
                .await?;
            taken += 1;
            if taken == AT_ONCE {
                break;
            }
            match self.messages.next().now_or_never() {
                Some(more) => next = more,
                None => break,
            }
        }
        seen.acked();
        Ok(())
    }

    async fn close(self) -> anyhow::Result<()> {
        self.client.flush().await?;
        Ok(self.client.drain().await?)
    }
}
