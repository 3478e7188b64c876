//! Redis Streams: XADD in pipelines, XREADGROUP and XACK on a connection for each consumer.

use std::{future::Future, pin::Pin};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use futures::{StreamExt as _, poll, stream::FuturesOrdered};
use redis::{
    AsyncConnectionConfig, Client, Cmd, Pipeline, RedisResult, Value, aio::MultiplexedConnection,
};

use crate::{
    load::{self, Seen, System, TURN},
    shape::Shape,
};

/// Entries that one XREADGROUP asks for.
const COUNT: usize = 500;

#[derive(Debug)]
pub(crate) struct Redis {
    pub(crate) url: String,
    /// Of each producer, in turn for each pipeline. Redis reads so much of each connection before it
    /// syncs, so that more of them share a sync; but a producer's messages then come in any order.
    pub(crate) connections: usize,
}

impl Redis {
    async fn connect(&self) -> anyhow::Result<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let client = Client::open(&self.url[..])?;
        Ok(client
            .get_multiplexed_async_connection_with_config(&config)
            .await?)
    }
}

impl System for Redis {
    type Producer = Producer;
    type Consumer = Consumer;

    /// One stream, and a group for each queue: a message is stored once, as Redis can.
    async fn prepare(&self, shape: &Shape) -> anyhow::Result<()> {
        let mut connection = self.connect().await?;
        for queue in 0..shape.queues {
            let () = redis::cmd("XGROUP")
                .arg(&["CREATE", shape.name, &shape.queue(queue), "0", "MKSTREAM"])
                .query_async(&mut connection)
                .await?;
        }
        Ok(())
    }

    async fn producer(&self, shape: &Shape) -> anyhow::Result<Producer> {
        let mut connections = Vec::new();
        for _ in 0..self.connections {
            connections.push(self.connect().await?);
        }
        Ok(Producer {
            connections,
            sent: 0,
            stream: shape.name,
            on_way: FuturesOrdered::new(),
        })
    }

    async fn consumer(&self, shape: &Shape, queue: u16, index: u16) -> anyhow::Result<Consumer> {
        let (stream, group) = (shape.name, shape.queue(queue));
        let consumer = format!("bench-{index}");
        let count = shape.held(COUNT).to_string();
        let block = TURN.as_millis().to_string();
        let mut read = redis::cmd("XREADGROUP");
        read.arg(&["GROUP", &group, &consumer, "COUNT", &count])
            .arg(&["BLOCK", &block, "STREAMS", stream, ">"]);
        Ok(Consumer {
            connection: self.connect().await?,
            stream,
            group,
            read,
            unacked: Vec::new(),
        })
    }

    async fn left(&self, shape: &Shape) -> anyhow::Result<Option<u64>> {
        let mut connection = self.connect().await?;
        let mut left = 0;
        for queue in 0..shape.queues {
            let group = shape.queue(queue);
            let pending: Value = redis::cmd("XPENDING")
                .arg(&[shape.name, &group])
                .query_async(&mut connection)
                .await?;
            let Value::Array(pending) = pending else {
                bail!("XPENDING answered something else");
            };
            if let Some(Value::Int(count)) = pending.first() {
                left += u64::try_from(*count)?;
            }
        }
        Ok(Some(left))
    }
}

type Answer = Pin<Box<dyn Future<Output = RedisResult<Vec<Value>>> + Send>>;

pub(crate) struct Producer {
    connections: Vec<MultiplexedConnection>,
    /// Pipelines so far.
    sent: usize,
    stream: &'static str,
    on_way: FuturesOrdered<Answer>,
}

impl load::Producer for Producer {
    async fn send(&mut self, payloads: Vec<Bytes>) -> anyhow::Result<()> {
        let mut pipeline = Pipeline::with_capacity(payloads.len());
        for payload in &payloads {
            pipeline
                .cmd("XADD")
                .arg(self.stream)
                .arg("*")
                .arg("p")
                .arg(&payload[..]);
        }
        let mut connection = self.connections[self.sent % self.connections.len()].clone();
        self.sent += 1;
        let mut answer: Answer =
            Box::pin(async move { pipeline.query_async(&mut connection).await });
        // The first poll hands the pipeline to the connection; without it, nothing leaves before the
        // answer is waited for.
        match poll!(&mut answer) {
            std::task::Poll::Pending => self.on_way.push_back(answer),
            std::task::Poll::Ready(answer) => {
                self.on_way.push_back(Box::pin(std::future::ready(answer)));
            }
        }
        Ok(())
    }

    async fn confirmed(&mut self) -> anyhow::Result<u64> {
        let ids = self
            .on_way
            .next()
            .await
            .context("nothing is on its way")??;
        ensure!(
            ids.iter().all(|id| matches!(id, Value::BulkString(_))),
            "XADD answered something else than an id"
        );
        Ok(ids.len() as u64)
    }

    async fn close(self) -> anyhow::Result<()> {
        Ok(())
    }
}

pub(crate) struct Consumer {
    connection: MultiplexedConnection,
    stream: &'static str,
    group: String,
    read: Cmd,
    /// Ids of entries that were read and not acked.
    unacked: Vec<Vec<u8>>,
}

impl load::Consumer for Consumer {
    /// Acks what the last turn read, each entry by its own id, and reads the next, without waiting for
    /// one before the other: both commands leave in one write.
    async fn turn(&mut self, seen: &mut Seen) -> anyhow::Result<()> {
        let ids = std::mem::take(&mut self.unacked);
        let (mut acks, mut reads) = (self.connection.clone(), self.connection.clone());
        let acking = async {
            if ids.is_empty() {
                return RedisResult::Ok(None);
            }
            let mut ack = redis::cmd("XACK");
            ack.arg(self.stream).arg(&self.group).arg(&ids);
            let acked: u64 = ack.query_async(&mut acks).await?;
            Ok(Some((acked, std::time::Instant::now())))
        };
        let (acked, read) = tokio::join!(acking, self.read.query_async::<Value>(&mut reads));
        if let Some((acked, at)) = acked? {
            seen.unsettled += ids.len() as u64 - acked;
            seen.acked_at(at);
        }
        match read? {
            Value::Nil => Ok(()),
            Value::Array(streams) => {
                seen.arrived();
                take(streams, seen, &mut self.unacked).context("XREADGROUP answered strangely")
            }
            other => bail!("XREADGROUP answered {other:?}"),
        }
    }

    fn unanswered(&self) -> u64 {
        self.unacked.len() as u64
    }

    async fn close(self) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Walks `[[stream, [[id, [field, value]], ...]]]`.
fn take(streams: Vec<Value>, seen: &mut Seen, ids: &mut Vec<Vec<u8>>) -> Option<()> {
    for stream in streams {
        let Value::Array(stream) = stream else {
            return None;
        };
        let Some(Value::Array(entries)) = stream.into_iter().nth(1) else {
            return None;
        };
        for entry in entries {
            let Value::Array(entry) = entry else {
                return None;
            };
            let mut entry = entry.into_iter();
            let (Some(Value::BulkString(id)), Some(Value::Array(fields))) =
                (entry.next(), entry.next())
            else {
                return None;
            };
            let Some(Value::BulkString(payload)) = fields.get(1) else {
                return None;
            };
            seen.message(payload);
            ids.push(id);
        }
    }
    Some(())
}
