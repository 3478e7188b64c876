//! Much of what is allowed: connections, consumers, messages, and no hurry to take any of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use courser_proto::v1::{
    Message, Open, PublishRequest, PublishStreamRequest, PurgeQueueRequest, Settle,
    broker_client::BrokerClient, subscribe_request, subscribe_response,
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::{
    Scale,
    broker::{Broker, SANE},
    good::request,
    peer::{DATA, END_HEADERS, HEADERS, Peer, call, frame, grpc},
};

const LOOK: Duration = Duration::from_millis(20);
/// Calls of one connection: below what the broker allows.
pub(crate) const CALLS: usize = 200;

/// Connections that have opened and do nothing but answer pings.
pub(crate) async fn idle(broker: &Broker, scale: &Scale) -> Result<String> {
    let (before, _) = broker.memory()?;
    let mut kept = JoinSet::new();
    for _ in 0..scale.idle {
        let peer = Peer::open(&broker.grpc).await?;
        kept.spawn(peer.keep());
    }
    let deadline = Instant::now() + SANE;
    while broker.files() < scale.idle {
        ensure!(
            Instant::now() < deadline,
            "only {} files are open",
            broker.files()
        );
        sleep(LOOK).await;
    }
    // Beyond the first ping of each, and the time that its answer has.
    sleep(scale.hold_idle).await;
    ensure!(
        kept.try_join_next().is_none(),
        "an idle connection was ended"
    );
    let (with, _) = broker.memory()?;
    let each = with.saturating_sub(before) / scale.idle as u64;
    ensure!(each < 64 * 1024, "an idle connection takes {each} bytes");
    Ok(format!(
        "{} idle connections held for {:?}, {each} bytes each",
        scale.idle, scale.hold_idle
    ))
}

/// More connections than a broker with 1,024 files takes.
pub(crate) async fn crowd(broker: &Broker, _scale: &Scale) -> Result<String> {
    let mut kept = JoinSet::new();
    for _ in 0..1_200 {
        // What is beyond may be closed before it has said anything.
        if let Ok(peer) = Peer::open(&broker.grpc).await {
            kept.spawn(peer.keep());
        }
    }
    let deadline = Instant::now() + SANE;
    let mut turned_away = 0;
    while kept.len() > 512 {
        ensure!(
            Instant::now() < deadline,
            "{} connections are kept",
            kept.len()
        );
        while kept.try_join_next().is_some() {
            turned_away += 1;
        }
        sleep(LOOK).await;
    }
    let held = kept.len();
    ensure!(held > 480, "only {held} connections are kept");
    Ok(format!(
        "{held} of 1,200 connections kept, {turned_away} closed at once"
    ))
}

/// A thousand consumers on one queue.
pub(crate) async fn consumers(broker: &Broker, scale: &Scale) -> Result<String> {
    broker.create("work").await?;
    let counts: Vec<Arc<AtomicU64>> = (0..scale.consumers).map(|_| Arc::default()).collect();
    let mut tasks = JoinSet::new();
    let mut channel = None;
    for (number, count) in counts.iter().enumerate() {
        if number % CALLS == 0 {
            channel = Some(broker.channel().await?);
        }
        let channel = channel.clone().context("made above")?;
        let mut consumer = Consumer::open(courser_process::client(channel), "work", 100).await?;
        let count = Arc::clone(count);
        tasks.spawn(async move {
            while let Some(taken) = consumer.work().await {
                count.fetch_add(taken, Ordering::Relaxed);
            }
        });
    }
    let start = Instant::now();
    publish(broker, "work", scale.messages, 256, 100).await?;
    let deadline = Instant::now() + 4 * SANE;
    let sum = || {
        counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .sum::<u64>()
    };
    while sum() < scale.messages as u64 {
        ensure!(
            Instant::now() < deadline,
            "{} of {} were delivered",
            sum(),
            scale.messages
        );
        sleep(LOOK).await;
    }
    let time = start.elapsed();
    let each = counts.iter().map(|count| count.load(Ordering::Relaxed));
    let (least, most) = (each.clone().min().unwrap_or(0), each.max().unwrap_or(0));
    ensure!(least > 0, "a consumer got nothing");
    tasks.abort_all();
    Ok(format!(
        "{} consumers, {} messages in {:.1} s ({:.0}/s); the least any got was {least}, the most {most}",
        scale.consumers,
        scale.messages,
        time.as_secs_f64(),
        scale.messages as f64 / time.as_secs_f64()
    ))
}

/// Consumers that never take what comes: half of them over connections that are read, half over sockets
/// that are not.
pub(crate) async fn never_reads(broker: &Broker, scale: &Scale) -> Result<String> {
    broker.create("big").await?;
    publish(broker, "big", scale.big, 256 * 1024, 8).await?;
    let (mut streams, mut sockets) = (Vec::new(), Vec::new());
    streams.push(Consumer::open(broker.client().await?, "big", 10_000).await?);
    let (one, _) = broker.memory()?;
    let mut channel = None;
    for number in 0..scale.stuck / 2 {
        if number % CALLS == 0 {
            channel = Some(broker.channel().await?);
        }
        let channel = channel.clone().context("made above")?;
        streams.push(Consumer::open(courser_process::client(channel), "big", 10_000).await?);
    }
    let open = grpc(&request(subscribe_request::Kind::Open(open("big", 10_000))));
    while sockets.len() * 25 < scale.stuck / 2 {
        let mut peer = Peer::open(&broker.grpc).await?;
        for stream in (1..50).step_by(2) {
            let head = call("/courser.v1.Broker/Subscribe", "application/grpc");
            peer.send(&frame(HEADERS, END_HEADERS, stream, &head)).await;
            peer.send(&frame(DATA, 0, stream, &open)).await;
        }
        sockets.push(peer);
    }
    // Long enough that those in the way are ended, and that dead sockets are found.
    sleep(scale.hold_stuck).await;
    let (all, _) = broker.memory()?;
    let cut = broker.log().matches("a consumer took nothing").count();
    ensure!(cut > 0, "nobody lost a connection, though memory was short");
    drop((streams, sockets));
    drained(broker, "big").await?;
    Ok(format!(
        "1 stuck consumer: {} MB; {} on streams and {} on sockets: {} MB after {:?}; {cut} lost their connection",
        one / 1_000_000,
        scale.stuck / 2,
        scale.stuck / 2,
        all / 1_000_000,
        scale.hold_stuck
    ))
}

/// What was held by consumers that are gone comes back: all of it is there to be purged.
pub(crate) async fn drained(broker: &Broker, queue: &str) -> Result<()> {
    let mut admin = broker.admin().await?;
    let deadline = Instant::now() + SANE;
    loop {
        let request = PurgeQueueRequest {
            name: queue.to_owned(),
            ..Default::default()
        };
        admin.purge_queue(request).await?;
        let name = queue.to_owned();
        let get = courser_proto::v1::GetQueueRequest { name };
        let stats = admin
            .get_queue(get)
            .await?
            .into_inner()
            .queue
            .and_then(|queue| queue.stats)
            .unwrap_or_default();
        if stats.ready + stats.delayed + stats.leased == 0 {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "something is still held: {stats:?}"
        );
        sleep(LOOK).await;
    }
}

/// Publishers that send as fast as they may: half of them never look at a confirm.
pub(crate) async fn flood(broker: &Broker, scale: &Scale) -> Result<String> {
    broker.create("flood").await?;
    let stop = Arc::new(AtomicBool::new(false));
    let (sent, confirmed) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    let mut tasks = JoinSet::new();
    for number in 0..scale.publishers {
        let client = broker.client().await?;
        let (stop, sent, confirmed) =
            (Arc::clone(&stop), Arc::clone(&sent), Arc::clone(&confirmed));
        tasks.spawn(push(client, number % 2 == 0, stop, sent, confirmed));
    }
    sleep(scale.flood).await;
    stop.store(true, Ordering::Relaxed);
    let (sent, confirmed) = (
        sent.load(Ordering::Relaxed),
        confirmed.load(Ordering::Relaxed),
    );
    tasks.shutdown().await;
    drained(broker, "flood").await?;
    ensure!(confirmed > 0, "nothing was confirmed to those that read");
    Ok(format!(
        "{} publishers for {:?}: {sent} requests of 10 KiB taken, {confirmed} confirmed to those that read",
        scale.publishers, scale.flood
    ))
}

/// One pipelined publisher without any bound of its own.
async fn push(
    mut client: BrokerClient<Channel>,
    reads: bool,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    confirmed: Arc<AtomicU64>,
) -> Result<()> {
    let (requests, outgoing) = mpsc::channel(16);
    let mut confirms = client
        .publish_stream(ReceiverStream::new(outgoing))
        .await?
        .into_inner();
    let reading = async {
        while reads && let Ok(Some(answer)) = confirms.message().await {
            confirmed.fetch_add(answer.confirms.len() as u64, Ordering::Relaxed);
        }
        std::future::pending::<()>().await;
    };
    let sending = async {
        let mut number = 0;
        while !stop.load(Ordering::Relaxed) {
            number += 1;
            let request = PublishStreamRequest {
                number,
                messages: messages("flood", 10, 1_024),
                ..Default::default()
            };
            if requests.send(request).await.is_err() {
                break;
            }
            sent.fetch_add(1, Ordering::Relaxed);
        }
    };
    tokio::select! {
        () = reading => {}
        () = sending => {}
    }
    Ok(())
}

pub(crate) fn messages(topic: &str, count: usize, bytes: usize) -> Vec<Message> {
    let message = Message {
        topic: topic.to_owned(),
        payload: vec![b'x'; bytes].into(),
        ..Default::default()
    };
    vec![message; count]
}

pub(crate) async fn publish(
    broker: &Broker,
    topic: &str,
    count: usize,
    bytes: usize,
    batch: usize,
) -> Result<()> {
    let mut client = broker.client().await?;
    let mut left = count;
    while left > 0 {
        let now = left.min(batch);
        let request = PublishRequest {
            messages: messages(topic, now, bytes),
            ..Default::default()
        };
        client.publish(request).await?;
        left -= now;
    }
    Ok(())
}

pub(crate) fn open(queue: &str, credit: u32) -> Open {
    Open {
        queue: queue.to_owned(),
        max_messages: credit,
        max_bytes: 256 * 1024 * 1024,
        ..Default::default()
    }
}

/// A consumer over a stream.
struct Consumer {
    requests: mpsc::Sender<courser_proto::v1::SubscribeRequest>,
    responses: tonic::Streaming<courser_proto::v1::SubscribeResponse>,
}

impl Consumer {
    async fn open(mut client: BrokerClient<Channel>, queue: &str, credit: u32) -> Result<Self> {
        let (requests, outgoing) = mpsc::channel(4);
        requests
            .send(request(subscribe_request::Kind::Open(open(queue, credit))))
            .await?;
        let responses = client
            .subscribe(ReceiverStream::new(outgoing))
            .await?
            .into_inner();
        Ok(Self {
            requests,
            responses,
        })
    }

    /// Takes what comes and acks it; how many messages these were.
    async fn work(&mut self) -> Option<u64> {
        let response = self.responses.message().await.ok()??;
        let Some(subscribe_response::Kind::Deliveries(batch)) = response.kind else {
            return Some(0);
        };
        let ack: Vec<_> = batch.deliveries.iter().map(|d| d.lease_id).collect();
        let taken = ack.len() as u64;
        let settle = Settle {
            ack,
            ..Default::default()
        };
        self.requests
            .send(request(subscribe_request::Kind::Settle(settle)))
            .await
            .ok()?;
        Some(taken)
    }
}
