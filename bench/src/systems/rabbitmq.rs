//! RabbitMQ: a quorum queue with publisher confirms. `lapin` declares it, the load has a client of its
//! own.

use std::collections::VecDeque;

use bytes::Bytes;
use lapin::{
    Channel, Connection, ConnectionProperties, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use tokio::time::timeout;

use super::amqp::{Event, Link};
use crate::{
    load::{self, Seen, System, TURN},
    shape::Shape,
};

#[derive(Debug)]
pub(crate) struct RabbitMq {
    pub(crate) port: u16,
    pub(crate) prefetch: usize,
    /// One ack names all messages before it: less work, but no message is acked by itself.
    pub(crate) acks_multiple: bool,
}

impl RabbitMq {
    async fn connect(&self) -> anyhow::Result<(Connection, Channel)> {
        let url = format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port);
        let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        Ok((connection, channel))
    }
}

impl System for RabbitMq {
    type Producer = Producer;
    type Consumer = Consumer;

    async fn prepare(&self, shape: &Shape) -> anyhow::Result<()> {
        let (connection, channel) = self.connect().await?;
        if shape.queues > 1 {
            let options = ExchangeDeclareOptions {
                durable: true,
                ..ExchangeDeclareOptions::default()
            };
            let table = FieldTable::default();
            channel
                .exchange_declare(shape.name.into(), ExchangeKind::Fanout, options, table)
                .await?;
        }
        for queue in 0..shape.queues {
            let name = shape.queue(queue);
            let mut arguments = FieldTable::default();
            let kind = AMQPValue::LongString("quorum".into());
            arguments.insert("x-queue-type".into(), kind);
            let options = QueueDeclareOptions {
                durable: true,
                ..QueueDeclareOptions::default()
            };
            channel
                .queue_declare(name.as_str().into(), options, arguments)
                .await?;
            if shape.queues > 1 {
                let (options, table) = (QueueBindOptions::default(), FieldTable::default());
                channel
                    .queue_bind(
                        name.as_str().into(),
                        shape.name.into(),
                        "".into(),
                        options,
                        table,
                    )
                    .await?;
            }
        }
        connection.close(200, "done".into()).await?;
        Ok(())
    }

    async fn producer(&self, shape: &Shape) -> anyhow::Result<Producer> {
        let mut link = Link::connect(self.port).await?;
        link.confirms().await?;
        let (exchange, key) = if shape.queues == 1 {
            ("", shape.name)
        } else {
            (shape.name, "")
        };
        Ok(Producer {
            link,
            exchange,
            key,
            first: 1,
            confirmed: VecDeque::new(),
        })
    }

    async fn consumer(&self, shape: &Shape, queue: u16, _index: u16) -> anyhow::Result<Consumer> {
        let mut link = Link::connect(self.port).await?;
        let prefetch = u16::try_from(shape.held(self.prefetch))?;
        link.consume(&shape.queue(queue), prefetch).await?;
        Ok(Consumer {
            link,
            acks_multiple: self.acks_multiple,
        })
    }

    /// What is ready once no consumer holds anything.
    async fn left(&self, shape: &Shape) -> anyhow::Result<Option<u64>> {
        let (connection, channel) = self.connect().await?;
        let mut left = 0;
        for queue in 0..shape.queues {
            let options = QueueDeclareOptions {
                passive: true,
                ..QueueDeclareOptions::default()
            };
            let name = shape.queue(queue);
            let queue = channel
                .queue_declare(name.as_str().into(), options, FieldTable::default())
                .await?;
            left += u64::from(queue.message_count());
        }
        connection.close(200, "done".into()).await?;
        Ok(Some(left))
    }
}

#[derive(Debug)]
pub(crate) struct Producer {
    link: Link,
    exchange: &'static str,
    key: &'static str,
    /// The tag of the oldest message without a confirm.
    first: u64,
    /// Whether each message from `first` on is confirmed: confirms may come in any order.
    confirmed: VecDeque<bool>,
}

impl Producer {
    fn confirm(&mut self, tag: u64, multiple: bool) -> u64 {
        let Some(index) = tag.checked_sub(self.first) else {
            return 0;
        };
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        let from = if multiple { 0 } else { index };
        let mut new = 0;
        for confirmed in self.confirmed.range_mut(from..=index) {
            new += u64::from(!*confirmed);
            *confirmed = true;
        }
        while self.confirmed.front() == Some(&true) {
            self.confirmed.pop_front();
            self.first += 1;
        }
        new
    }
}

impl load::Producer for Producer {
    async fn send(&mut self, payloads: Vec<Bytes>) -> anyhow::Result<()> {
        for payload in payloads {
            self.link.publish(self.exchange, self.key, &payload);
            self.confirmed.push_back(false);
        }
        self.link.flush().await
    }

    async fn confirmed(&mut self) -> anyhow::Result<u64> {
        let mut confirmed = 0;
        while confirmed == 0 {
            self.link.read().await?;
            while let Some(event) = self.link.event()? {
                if let Event::Confirm { tag, multiple } = event {
                    confirmed += self.confirm(tag, multiple);
                }
            }
        }
        Ok(confirmed)
    }

    async fn close(self) -> anyhow::Result<()> {
        self.link.close().await
    }
}

#[derive(Debug)]
pub(crate) struct Consumer {
    link: Link,
    acks_multiple: bool,
}

impl load::Consumer for Consumer {
    async fn turn(&mut self, seen: &mut Seen) -> anyhow::Result<()> {
        let mut next = self.link.event()?;
        if next.is_none() {
            let Ok(read) = timeout(TURN, self.link.read()).await else {
                return Ok(());
            };
            read?;
            next = self.link.event()?;
        }
        seen.arrived();
        let mut last = None;
        while let Some(event) = next {
            if let Event::Delivery { tag, payload } = event {
                seen.message(&payload);
                last = Some(tag);
                if !self.acks_multiple {
                    self.link.ack(tag, false);
                }
            }
            next = self.link.event()?;
        }
        let Some(last) = last else { return Ok(()) };
        if self.acks_multiple {
            self.link.ack(last, true);
        }
        self.link.flush().await?;
        seen.acked();
        Ok(())
    }

    async fn close(self) -> anyhow::Result<()> {
        self.link.close().await
    }
}
