//! Calls: very many of them, large ones, and those of which much becomes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use courser_proto::v1::{
    Binding, CreateQueueRequest, ListQueuesRequest, Nack, PublishRequest, PublishStreamRequest,
    QueueOptions, Settle, SettleRequest, broker_client::BrokerClient, subscribe_request,
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, transport::Channel};

use crate::{
    Scale,
    broker::{Broker, SANE},
    good::request,
    load::{CALLS, drained, messages, open},
    peer::{DATA, END_HEADERS, HEADERS, Peer, call, frame, grpc, literal},
};

const LOOK: Duration = Duration::from_millis(100);
/// What the broker may hold while streams rest.
const RESTED_MB: u64 = 250;
/// Calls that the broker takes at once.
const CALLS_MAX: usize = 128 * 1024;
/// Of each connection, whatever others do.
const CALLS_FREE: usize = 8;
/// What one may take that says nothing.
const CALL_BYTES_MAX: u64 = 16 * 1024;
/// As the good client has it.
const PROMPT: Duration = Duration::from_secs(10);

/// Peers that send the largest requests over all streams of their connections, and take no answers.
pub(crate) async fn requests(broker: &Broker, scale: &Scale) -> Result<String> {
    broker.create("requests").await?;
    let request = PublishRequest {
        messages: messages("requests", 1, 4_000_000),
        ..Default::default()
    };
    let mut small = PublishRequest {
        messages: messages("requests", 1_000, 1),
        ..Default::default()
    };
    let publish = "/courser.v1.Broker/Publish";
    let without_headers = Kind::new(publish, grpc(&small));
    for message in &mut small.messages {
        message.headers = (0..100).map(|n| (n.to_string(), String::new())).collect();
    }
    let kinds = [
        Kind::new(publish, grpc(&request)),
        without_headers,
        Kind::new(publish, grpc(&small)),
    ];
    let sent = send_of_each(broker, scale, &kinds).await?;
    drained(broker, "requests").await?;
    Ok(format!(
        "{} peers for {:?}: {sent} requests of 4 MB or 1,000 messages sent",
        scale.publishers, scale.flood
    ))
}

/// Sends a request over each stream, one after the other, as far as the windows allow, and stays.
async fn send_all(
    mut peer: Peer,
    head: Vec<u8>,
    request: Arc<Vec<u8>>,
    ends: bool,
    sent: Arc<AtomicU64>,
) {
    let Some(mut windows) = peer.windows().await else {
        return;
    };
    for stream in (1..).step_by(2).take(CALLS) {
        peer.send(&frame(HEADERS, END_HEADERS, stream, &head)).await;
        if !peer.send_body(&mut windows, stream, &request, ends).await {
            return;
        }
        sent.fetch_add(1, Ordering::Relaxed);
    }
    peer.keep().await;
}

/// Streams that each bring one large request, have their confirm, and stay open: they may, and nothing of it stays.
pub(crate) async fn rested(broker: &Broker, scale: &Scale) -> Result<String> {
    const AT_ONCE: usize = 8;
    let mut kept = Vec::new();
    while kept.len() < scale.rested {
        let channel = broker.channel().await?;
        for _ in (0..CALLS).step_by(AT_ONCE) {
            let streams = (0..AT_ONCE).map(|_| stay(courser_process::client(channel.clone())));
            for stream in streams.collect::<JoinSet<_>>().join_all().await {
                kept.push(stream?);
            }
        }
    }
    let with = broker.memory_below(RESTED_MB * 1_000_000).await?;
    Ok(format!(
        "{} streams open after a request of 4 MB each: {} MB",
        kept.len(),
        with / 1_000_000
    ))
}

/// Publishes 4 MB that no queue wants, and keeps the stream.
async fn stay(mut client: BrokerClient<Channel>) -> Result<impl Sized> {
    let (requests, outgoing) = mpsc::channel(1);
    let request = PublishStreamRequest {
        number: 1,
        messages: messages("nobody", 1, 4_000_000),
        ..Default::default()
    };
    requests.send(request).await?;
    let answers = client.publish_stream(ReceiverStream::new(outgoing)).await?;
    let mut answers = answers.into_inner();
    let answer = answers.message().await?.context("no confirm came")?;
    let refused = answer
        .confirms
        .iter()
        .find_map(|confirm| confirm.error.as_ref());
    ensure!(refused.is_none(), "it was refused: {refused:?}");
    Ok((requests, answers))
}

/// More calls than the broker takes, of streams that say little: it goes on for those that are in, and for whoever has few.
pub(crate) async fn calls(broker: &Broker, scale: &Scale) -> Result<String> {
    broker.create("calls").await?;
    let (before, _) = broker.memory()?;
    let publish = grpc(&PublishStreamRequest {
        number: 1,
        ..Default::default()
    });
    let subscribe = grpc(&request(subscribe_request::Kind::Open(open("calls", 10))));
    let mut kept = JoinSet::new();
    let mut left = scale.calls;
    while left > 0 {
        let mut peer = Peer::open(&broker.grpc).await?;
        for number in 0..left.min(CALLS) {
            // A queue has so many consumers at most. A call without its request is one too, for a while.
            let (path, body) = match number % 32 {
                0 => ("/courser.v1.Broker/Subscribe", &subscribe[..]),
                1..16 => ("/courser.v1.Broker/PublishStream", &publish[..]),
                16..24 => ("/courser.v1.Broker/Settle", &[][..]),
                _ => ("/grpc.health.v1.Health/Check", &[][..]),
            };
            let mut head = call(path, "application/grpc");
            literal(&mut head, "x-much", &"x".repeat(12_000));
            let stream = 2 * number as u32 + 1;
            peer.send(&frame(HEADERS, END_HEADERS, stream, &head)).await;
            peer.send(&frame(DATA, 0, stream, body)).await;
        }
        left = left.saturating_sub(CALLS);
        kept.spawn(peer.keep());
    }
    let is_full = scale.calls > CALLS_MAX;
    let deadline = Instant::now() + SANE;
    while is_full && !is_refused(broker).await? {
        ensure!(Instant::now() < deadline, "nothing is refused");
        sleep(LOOK).await;
    }
    look(broker).await?;
    // Those that are in are there by now.
    sleep(LOOK).await;
    let (with, _) = broker.memory()?;
    ensure!(kept.try_join_next().is_none(), "a connection was ended");
    let taken = scale.calls.min(CALLS_MAX) as u64;
    let each = with.saturating_sub(before) / taken;
    ensure!(each < CALL_BYTES_MAX, "a call takes {each} bytes");
    Ok(format!(
        "{} calls, the next of their kind {}: {each} bytes each, {} MB",
        scale.calls,
        if is_full { "refused" } else { "served" },
        with / 1_000_000
    ))
}

/// Whether calls are, on a connection that has a few.
async fn is_refused(broker: &Broker) -> Result<bool> {
    let mut client = broker.client().await?;
    let mut few = Vec::new();
    for _ in 0..=CALLS_FREE {
        let (requests, outgoing) = mpsc::channel(1);
        let answers = client.publish_stream(ReceiverStream::new(outgoing)).await;
        match answers {
            Ok(answers) => few.push((requests, answers)),
            Err(status) => {
                let enough = few.len() == CALLS_FREE && status.code() == Code::ResourceExhausted;
                ensure!(enough, "refused after {}: {status}", few.len());
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Looks what is wrong, and settles, as anybody may: how long that took.
async fn look(broker: &Broker) -> Result<Duration> {
    let start = Instant::now();
    let list = ListQueuesRequest::default();
    let listed = broker.admin().await?.list_queues(list).await;
    ensure!(listed.is_ok(), "queues are not listed: {listed:?}");
    let ack = vec![1 << 60];
    let settle = Settle {
        ack,
        ..Default::default()
    };
    let settle = SettleRequest {
        settle: Some(settle),
    };
    let settled = broker.client().await?.settle(settle).await;
    ensure!(settled.is_ok(), "nothing is settled: {settled:?}");
    let time = start.elapsed();
    ensure!(time < PROMPT, "to look and to settle took {time:?}");
    Ok(time)
}

/// Peers that settle 10,000 leases with each call, and make queues of the most bindings, and take no answers. Some give
/// a call no time, and some do not say that it was all.
pub(crate) async fn settles(broker: &Broker, scale: &Scale) -> Result<String> {
    let lease_ids = || (1..=10_000).map(|n| n + (1 << 60));
    let nack = lease_ids().map(|lease_id| Nack {
        lease_id,
        error: "x".repeat(500),
        ..Default::default()
    });
    let settle = |settle| SettleRequest {
        settle: Some(settle),
    };
    let acks = settle(Settle {
        ack: lease_ids().collect(),
        ..Default::default()
    });
    let nacks = settle(Settle {
        nack: nack.collect(),
        ..Default::default()
    });
    let bindings = (0..1_000).map(|n| Binding {
        pattern: format!("{n:0>250}"),
    });
    let options = QueueOptions {
        bindings: bindings.collect(),
        ..Default::default()
    };
    let create = CreateQueueRequest {
        name: "settles".to_owned(),
        options: Some(options),
    };
    let settle = "/courser.v1.Broker/Settle";
    let kinds = [
        Kind::new(settle, grpc(&acks)),
        Kind::new(settle, grpc(&nacks)),
        Kind::new("/courser.v1.Admin/CreateQueue", grpc(&create)),
        Kind::new(settle, grpc(&nacks)).in_no_time(),
        Kind::new(settle, grpc(&acks)).without_end(),
        Kind::new("/courser.v1.Admin/CreateQueue", grpc(&create)).without_end(),
    ];
    let (sent, slowest) = tokio::join!(send_of_each(broker, scale, &kinds), async {
        let deadline = Instant::now() + scale.flood;
        let mut slowest = Duration::ZERO;
        while Instant::now() < deadline {
            sleep(LOOK).await;
            slowest = slowest.max(look(broker).await?);
        }
        anyhow::Ok(slowest)
    });
    Ok(format!(
        "{} peers for {:?}: {} requests of 10,000 leases or 1,000 bindings sent; to list and to settle took {:.2} s at most",
        scale.publishers,
        scale.flood,
        sent?,
        slowest?.as_secs_f64()
    ))
}

/// What a peer sends over each of its streams.
struct Kind {
    head: Vec<u8>,
    request: Arc<Vec<u8>>,
    ends: bool,
}

impl Kind {
    fn new(path: &str, request: Vec<u8>) -> Self {
        Self {
            head: call(path, "application/grpc"),
            request: Arc::new(request),
            ends: true,
        }
    }

    fn in_no_time(mut self) -> Self {
        literal(&mut self.head, "grpc-timeout", "1m");
        self
    }

    fn without_end(mut self) -> Self {
        self.ends = false;
        self
    }
}

/// Peers send requests of these kinds, each of one; how many they sent.
async fn send_of_each(broker: &Broker, scale: &Scale, kinds: &[Kind]) -> Result<u64> {
    let sent = Arc::<AtomicU64>::default();
    let mut peers = JoinSet::new();
    for kind in kinds.iter().cycle().take(scale.publishers) {
        let peer = Peer::open_with(&broker.grpc, 0).await?;
        let (head, request) = (kind.head.clone(), Arc::clone(&kind.request));
        peers.spawn(send_all(peer, head, request, kind.ends, Arc::clone(&sent)));
    }
    sleep(scale.flood).await;
    peers.shutdown().await;
    let sent = sent.load(Ordering::Relaxed);
    ensure!(sent > 0, "nothing was sent");
    Ok(sent)
}
