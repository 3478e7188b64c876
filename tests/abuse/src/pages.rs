//! Calls with large answers that nobody takes: pages of a list, peeks, figures again and again, metrics, results.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use courser_proto::v1::{
    Binding, CreateQueueRequest, GetQueueRequest, ListQueuesRequest, PeekEntriesRequest,
    PublishRequest, PublishStreamRequest, QueueOptions, Settle, SettleRequest, WatchStatsRequest,
    subscribe_request,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    Scale,
    broker::{Broker, SANE},
    good::request,
    load::{messages, open, publish},
    peer::{END_HEADERS, HEADERS, PING, Peer, call, connect, frame, grpc},
};

/// The queue whose entries are looked at, 16 MiB of them.
const LOOKED_AT: &str = "looked-at";
const ENTRIES: usize = 64;
const ENTRY_BYTES: usize = 256 * 1024;
/// Bindings of each queue that is listed, with 200 bytes each.
const BINDINGS: usize = 100;
/// Peers at once, a third of them of each kind.
const PEERS: usize = 24;
/// Calls of a peer: below what the broker allows.
const CALLS: usize = 200;

/// Peers that call and take nothing of the answers: with a window of one byte, over sockets that are not read, and
/// over the HTTP side. Beside them, whoever reads has what it asks for.
pub(crate) async fn pages(broker: &Broker, scale: &Scale) -> Result<String> {
    prepare(broker, scale).await?;
    let calls = Arc::new(calls());
    let (end, ended) = (
        Instant::now() + scale.hold_pages,
        Arc::<AtomicU64>::default(),
    );
    let mut peers = JoinSet::new();
    for number in 0..PEERS {
        let (calls, ended) = (Arc::clone(&calls), Arc::clone(&ended));
        let (grpc, http) = (broker.grpc.clone(), broker.http.clone());
        peers.spawn(async move {
            while let left = end.saturating_duration_since(Instant::now())
                && !left.is_zero()
            {
                let was_ended = match number % 3 {
                    0 => one_byte(&grpc, &calls, left).await,
                    1 => unread(&grpc, &calls, left).await,
                    _ => metrics(&http, left).await,
                };
                ended.fetch_add(u64::from(was_ended), Ordering::Relaxed);
                // Whoever cannot connect does not try without a pause.
                sleep(Duration::from_millis(20)).await;
            }
        });
    }
    let (seen, longest) = look(broker, end).await?;
    let held = broker.memory()?.0;
    while peers.join_next().await.is_some() {}
    let ended = ended.load(Ordering::Relaxed);
    ensure!(ended > 0, "nobody lost a connection, though nobody reads");
    Ok(format!(
        "{PEERS} peers for {:?}, {ended} connections ended: {} MB; {seen} peeks of 16 MiB taken beside them, {:.1} s at most",
        scale.hold_pages,
        held / 1_000_000,
        longest.as_secs_f64(),
    ))
}

async fn prepare(broker: &Broker, scale: &Scale) -> Result<()> {
    broker.create(LOOKED_AT).await?;
    publish(broker, LOOKED_AT, ENTRIES, ENTRY_BYTES, 8).await?;
    let mut admin = broker.admin().await?;
    let filling = "x".repeat(190);
    for number in 0..scale.pages {
        let bindings = (0..BINDINGS).map(|binding| Binding {
            pattern: format!("{filling}.{binding}"),
        });
        let options = QueueOptions {
            bindings: bindings.collect(),
            ..Default::default()
        };
        let request = CreateQueueRequest {
            name: format!("listed-{number}"),
            options: Some(options),
        };
        admin.create_queue(request).await?;
    }
    Ok(())
}

/// Methods with a request each, whose answers are large.
fn calls() -> Vec<(&'static str, Vec<u8>)> {
    let settle = Settle {
        ack: (1..=10_000).collect(),
        ..Default::default()
    };
    vec![
        (
            "/courser.v1.Admin/PeekEntries",
            grpc(&PeekEntriesRequest {
                queue: LOOKED_AT.to_owned(),
                limit: 1_000,
                ..Default::default()
            }),
        ),
        (
            "/courser.v1.Admin/ListQueues",
            grpc(&ListQueuesRequest::default()),
        ),
        (
            "/courser.v1.Admin/WatchStats",
            grpc(&WatchStatsRequest::default()),
        ),
        (
            "/courser.v1.Admin/GetQueue",
            grpc(&GetQueueRequest {
                name: "listed-0".to_owned(),
            }),
        ),
        (
            "/courser.v1.Broker/Settle",
            grpc(&SettleRequest {
                settle: Some(settle.clone()),
            }),
        ),
        (
            "/courser.v1.Broker/Publish",
            grpc(&PublishRequest {
                messages: messages("nobody", 1_000, 1),
                ..Default::default()
            }),
        ),
        (
            "/courser.v1.Broker/PublishStream",
            (1..=8).flat_map(publish_nothing).collect(),
        ),
        (
            "/courser.v1.Broker/Subscribe",
            settle_on("listed-0", &settle),
        ),
    ]
}

/// A request of a stream whose messages go nowhere, and have a result each.
fn publish_nothing(number: u64) -> Vec<u8> {
    grpc(&PublishStreamRequest {
        number,
        messages: messages("n", 1_000, 0),
        ..Default::default()
    })
}

/// The requests of a consumer that settles what it never had, again and again.
fn settle_on(queue: &str, settle: &Settle) -> Vec<u8> {
    let mut all = grpc(&request(subscribe_request::Kind::Open(open(queue, 1))));
    for _ in 0..4 {
        let settle = subscribe_request::Kind::Settle(settle.clone());
        all.extend(grpc(&request(settle)));
    }
    all
}

/// One call after the other, without waiting for any.
async fn call_all(peer: &mut Peer, calls: &[(&str, Vec<u8>)]) -> bool {
    let Some(mut windows) = peer.windows().await else {
        return false;
    };
    for (stream, (path, request)) in (1..).step_by(2).zip(calls.iter().cycle().take(CALLS)) {
        let head = call(path, "application/grpc");
        if !peer.send(&frame(HEADERS, END_HEADERS, stream, &head)).await
            || !peer.send_body(&mut windows, stream, request, true).await
        {
            return false;
        }
    }
    true
}

/// Reads, answers pings, and has one byte of each answer; whether it was ended.
async fn one_byte(address: &str, calls: &[(&str, Vec<u8>)], time: Duration) -> bool {
    let Ok(mut peer) = Peer::open_with(address, 1).await else {
        return false;
    };
    if !call_all(&mut peer, calls).await {
        return true;
    }
    timeout(time, peer.keep()).await.is_ok()
}

/// Has the largest windows, and reads nothing; whether it was ended.
async fn unread(address: &str, calls: &[(&str, Vec<u8>)], time: Duration) -> bool {
    let Ok(mut peer) = Peer::open(address).await else {
        return false;
    };
    if !call_all(&mut peer, calls).await {
        return true;
    }
    // Who writes hears of the end without reading.
    let until = Instant::now() + time;
    while Instant::now() < until {
        sleep(Duration::from_millis(100)).await;
        if !peer.send(&frame(PING, 0, 0, &[0; 8])).await {
            return true;
        }
    }
    false
}

/// A scraper that reads nothing; whether it was ended.
async fn metrics(address: &str, time: Duration) -> bool {
    let Ok(stream) = connect(address).await else {
        return false;
    };
    let mut peer = Peer(stream);
    let until = Instant::now() + time;
    while Instant::now() < until {
        if !peer.send(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await {
            return true;
        }
        sleep(Duration::from_millis(500)).await;
    }
    false
}

/// One that reads what it asks for, a page after the other; how many it had, and how long one took at most.
async fn look(broker: &Broker, end: Instant) -> Result<(u64, Duration)> {
    let mut admin = broker
        .admin()
        .await?
        .max_decoding_message_size(64 * 1024 * 1024);
    let (mut seen, mut longest) = (0, Duration::ZERO);
    while Instant::now() < end {
        let request = PeekEntriesRequest {
            queue: LOOKED_AT.to_owned(),
            limit: 1_000,
            ..Default::default()
        };
        let asked = Instant::now();
        let answer = timeout(SANE, admin.peek_entries(request)).await??;
        longest = longest.max(asked.elapsed());
        let entries = answer.into_inner().entries.len();
        ensure!(
            entries >= ENTRIES - 1,
            "a peek answered {entries} of {ENTRIES} entries"
        );
        seen += 1;
        sleep(Duration::from_millis(100)).await;
    }
    Ok((seen, longest))
}
