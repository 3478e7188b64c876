//! A producer and a consumer that do everything right, beside those that do not: everything they send is
//! confirmed and delivered, and how long it takes is written down.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use courser_proto::v1::{
    Message, Open, PublishRequest, Settle, SubscribeRequest, broker_client::BrokerClient,
    subscribe_request, subscribe_response,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::broker::Broker;

const QUEUE: &str = "good";
/// How long a confirm or a delivery may take: many times what it takes, for this is no test of speed.
const PROMPT: Duration = Duration::from_secs(10);
/// Between two messages.
const PACE: Duration = Duration::from_millis(10);

#[derive(Default)]
struct Book {
    /// When each was sent whose delivery has not come.
    open: HashMap<u64, Instant>,
    confirms: Vec<Duration>,
    deliveries: Vec<Duration>,
}

/// Both, at work until they are finished.
pub(crate) struct Good {
    book: Arc<Mutex<Book>>,
    stop: watch::Sender<bool>,
    producer: JoinHandle<Result<()>>,
    consumer: JoinHandle<Result<()>>,
}

impl Good {
    pub(crate) async fn start(broker: &Broker) -> Result<Self> {
        broker.create(QUEUE).await?;
        let book = Arc::<Mutex<Book>>::default();
        let (stop, stopped) = watch::channel(false);
        let consumer = tokio::spawn(consume(broker.client().await?, Arc::clone(&book)));
        let client = broker.client().await?;
        let producer = tokio::spawn(produce(client, Arc::clone(&book), stopped));
        Ok(Self {
            book,
            stop,
            producer,
            consumer,
        })
    }

    /// Waits until everything has come; says how long it took.
    pub(crate) async fn finish(mut self) -> Result<String> {
        self.stop.send_replace(true);
        let produced = timeout(PROMPT, &mut self.producer).await;
        produced.context("a confirm did not come within 10 s")???;
        let deadline = Instant::now() + PROMPT;
        loop {
            let open = self.lock().open.len();
            if open == 0 {
                break;
            }
            if self.consumer.is_finished() || Instant::now() > deadline {
                break;
            }
            sleep(PACE).await;
        }
        if self.consumer.is_finished() {
            self.consumer.await??;
            bail!("the good consumer's stream ended");
        }
        self.consumer.abort();
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(
            book.open.is_empty(),
            "{} messages of the good producer did not come",
            book.open.len()
        );
        let late = book
            .deliveries
            .iter()
            .filter(|time| **time > PROMPT)
            .count();
        ensure!(late == 0, "{late} deliveries took longer than 10 s");
        let Book {
            confirms,
            deliveries,
            ..
        } = &mut *book;
        Ok(format!(
            "good client: {} messages, confirm {}, delivery {}",
            confirms.len(),
            spread(confirms),
            spread(deliveries)
        ))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn spread(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |share: usize| times.get((times.len().saturating_sub(1)) * share / 100);
    let ms = |time: Option<&Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1e3);
    format!(
        "p50 {:.1} p99 {:.1} max {:.1} ms",
        ms(at(50)),
        ms(at(99)),
        ms(at(100))
    )
}

async fn produce(
    mut client: BrokerClient<Channel>,
    book: Arc<Mutex<Book>>,
    stopped: watch::Receiver<bool>,
) -> Result<()> {
    let mut number = 0u64;
    while !*stopped.borrow() {
        let message = Message {
            topic: QUEUE.to_owned(),
            payload: number.to_le_bytes().to_vec().into(),
            ..Default::default()
        };
        let request = PublishRequest {
            messages: vec![message],
            mandatory: true,
            ..Default::default()
        };
        let sent = Instant::now();
        let lock = || book.lock().unwrap_or_else(PoisonError::into_inner);
        lock().open.insert(number, sent);
        let answer = timeout(PROMPT, client.publish(request)).await;
        answer
            .context("a confirm did not come within 10 s")?
            .context("the good producer was refused")?;
        lock().confirms.push(sent.elapsed());
        number += 1;
        sleep(PACE).await;
    }
    Ok(())
}

async fn consume(mut client: BrokerClient<Channel>, book: Arc<Mutex<Book>>) -> Result<()> {
    let (requests, outgoing) = mpsc::channel(16);
    let open = Open {
        queue: QUEUE.to_owned(),
        ..Default::default()
    };
    requests
        .send(request(subscribe_request::Kind::Open(open)))
        .await?;
    let mut responses = client
        .subscribe(ReceiverStream::new(outgoing))
        .await?
        .into_inner();
    while let Some(response) = responses.message().await.context("the good consumer")? {
        let Some(subscribe_response::Kind::Deliveries(batch)) = response.kind else {
            continue;
        };
        let mut ack = Vec::new();
        for delivery in batch.deliveries {
            ack.push(delivery.lease_id);
            let payload = delivery.message.map(|message| message.payload);
            let payload = payload.context("a delivery without a message")?;
            let number = u64::from_le_bytes(payload[..].try_into()?);
            let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(sent) = book.open.remove(&number) {
                book.deliveries.push(sent.elapsed());
            }
        }
        let settle = Settle {
            ack,
            ..Default::default()
        };
        requests
            .send(request(subscribe_request::Kind::Settle(settle)))
            .await?;
    }
    Ok(())
}

pub(crate) fn request(kind: subscribe_request::Kind) -> SubscribeRequest {
    SubscribeRequest { kind: Some(kind) }
}
