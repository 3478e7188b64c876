//! Peers that mean harm, or speak something else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use tokio::{
    io::AsyncWriteExt as _,
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    Scale,
    broker::{Broker, SANE},
    peer::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, Peer, RST_STREAM, SETTINGS,
        call, frame, literal,
    },
    random::Random,
};

const GRPC: &str = "application/grpc";
const METHODS: [&str; 6] = [
    "/courser.v1.Broker/Publish",
    "/courser.v1.Broker/PublishStream",
    "/courser.v1.Broker/Subscribe",
    "/courser.v1.Broker/Pull",
    "/courser.v1.Admin/ListQueues",
    "/grpc.health.v1.Health/Watch",
];
/// At once, of each kind.
const AT_ONCE: usize = 16;

/// Runs `AT_ONCE` peers, each again and again until the time is over; how often they did it.
async fn repeat<F, Fut>(time: Duration, attack: F) -> u64
where
    F: Fn(u64) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = u64> + Send,
{
    let (end, sum) = (Instant::now() + time, Arc::<AtomicU64>::default());
    let mut tasks = JoinSet::new();
    for number in 0..AT_ONCE as u64 {
        let (attack, sum) = (attack.clone(), Arc::clone(&sum));
        tasks.spawn(async move {
            while Instant::now() < end {
                sum.fetch_add(attack(number).await, Ordering::Relaxed);
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    sum.load(Ordering::Relaxed)
}

/// Streams that are opened and reset, at once and a little later; connections that are opened and dropped.
pub(crate) async fn reset(broker: &Broker, scale: &Scale) -> Result<String> {
    let address = broker.grpc.clone();
    let rapid = repeat(scale.attack, move |number| {
        let address = address.clone();
        async move { rapid_reset(&address, number).await }
    });
    let rapid = rapid.await;
    let address = broker.grpc.clone();
    let slow = repeat(scale.attack, move |number| {
        let address = address.clone();
        async move { slow_reset(&address, number).await }
    });
    let slow = slow.await;
    let address = broker.grpc.clone();
    let dropped = repeat(scale.attack, move |number| {
        let address = address.clone();
        async move {
            match Peer::connect(&address).await {
                Ok(mut peer) if number % 2 == 0 => u64::from(peer.send(PREFACE).await),
                Ok(_) => 1,
                Err(_) => 0,
            }
        }
    });
    let dropped = dropped.await;
    ensure!(rapid > 0 && slow > 0 && dropped > 0, "no attack took place");
    Ok(format!(
        "{rapid} streams reset at once, {slow} once they were open, {dropped} connections dropped"
    ))
}

/// As many as the connection takes before it is ended.
async fn rapid_reset(address: &str, number: u64) -> u64 {
    let Ok(mut peer) = Peer::open(address).await else {
        return 0;
    };
    let head = call(METHODS[number as usize % METHODS.len()], GRPC);
    let mut done = 0;
    for round in 0..50 {
        let mut bytes = Vec::new();
        for stream in (1 + round * 200..1 + (round + 1) * 200).step_by(2) {
            bytes.extend(frame(HEADERS, END_HEADERS, stream, &head));
            bytes.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
        }
        if !peer.send(&bytes).await {
            break;
        }
        done += 100;
    }
    peer.ends_within(Duration::from_secs(1)).await;
    done
}

/// Few enough at once that no guard sees it: each costs the broker a handler.
async fn slow_reset(address: &str, number: u64) -> u64 {
    let Ok(mut peer) = Peer::open(address).await else {
        return 0;
    };
    let head = call(METHODS[number as usize % METHODS.len()], GRPC);
    let mut done = 0;
    for round in 0..50 {
        for (kind, payload) in [(HEADERS, head.as_slice()), (RST_STREAM, &[0, 0, 0, 8])] {
            let mut bytes = Vec::new();
            for stream in (1 + round * 20..1 + (round + 1) * 20).step_by(2) {
                bytes.extend(frame(kind, END_HEADERS, stream, payload));
            }
            if !peer.send(&bytes).await {
                return done;
            }
            tokio::task::yield_now().await;
        }
        done += 10;
    }
    done
}

/// What is no HTTP/2, no gRPC, no message, or not all of it.
pub(crate) async fn garbage(broker: &Broker, scale: &Scale, random: &mut Random) -> Result<String> {
    let mut sent = 0;
    let mut running = JoinSet::new();
    for number in 0..scale.garbage {
        let bytes = garbage_bytes(number % 9, random);
        // The HTTP side has its share.
        let address = if number % 5 == 4 {
            &broker.http
        } else {
            &broker.grpc
        };
        let mut peer = Peer::connect(address).await?;
        if running.len() >= 64 {
            running.join_next().await;
        }
        sent += bytes.len();
        running.spawn(async move {
            peer.send(&bytes).await;
            peer.ends_within(Duration::from_millis(50)).await
        });
    }
    while running.join_next().await.is_some() {}
    Ok(format!(
        "{} connections with {} kB of garbage",
        scale.garbage,
        sent / 1_000
    ))
}

fn noise(random: &mut Random, bytes: u64) -> Vec<u8> {
    (0..bytes).map(|_| random.next() as u8).collect()
}

fn garbage_bytes(kind: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes = match kind {
        0 => return noise(random, 4_000),
        1 => return b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: 99999\r\n\r\nabc".to_vec(),
        2 => {
            // A ClientHello of TLS.
            let mut hello = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
            hello.extend(noise(random, 506));
            return hello;
        }
        _ => PREFACE.to_vec(),
    };
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    let method = METHODS[random.within(0..METHODS.len() as u64) as usize];
    match kind {
        3 => {
            for _ in 0..20 {
                let length = random.within(0..200);
                let payload = noise(random, length);
                let (frame_kind, flags) = (random.within(0..12) as u8, random.next() as u8);
                bytes.extend(frame(
                    frame_kind,
                    flags,
                    random.within(0..20) as u32,
                    &payload,
                ));
            }
        }
        4 => {
            bytes.extend(frame(HEADERS, END_HEADERS, 1, &call(method, GRPC)));
            let length = random.within(1..2_000);
            let mut message = vec![0, 0, 0];
            message.extend((length as u16).to_be_bytes());
            message.extend(noise(random, length));
            bytes.extend(frame(DATA, END_STREAM, 1, &message));
        }
        5 => {
            bytes.extend(frame(HEADERS, END_HEADERS, 1, &call(method, GRPC)));
            // More is announced than comes.
            let announced = random.next() as u32;
            let mut message = vec![0];
            message.extend(announced.to_be_bytes());
            message.extend(noise(random, 100));
            bytes.extend(frame(DATA, END_STREAM, 1, &message));
        }
        6 => bytes.extend(frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            1,
            &call(method, "text/html"),
        )),
        7 => {
            let path = format!("/{:x}/../{:x}?q=%00", random.next(), random.next());
            bytes.extend(frame(
                HEADERS,
                END_HEADERS | END_STREAM,
                1,
                &call(&path, GRPC),
            ));
        }
        _ => {
            // A block of headers that is none.
            let block = noise(random, 300);
            bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block));
        }
    }
    bytes
}

/// Headers without an end, and more of them than are taken.
pub(crate) async fn headers(broker: &Broker, scale: &Scale) -> Result<String> {
    let address = broker.grpc.clone();
    let many = repeat(scale.attack, move |number| {
        let address = address.clone();
        async move { header_flood(&address, number).await }
    });
    let bytes = many.await;
    ensure!(bytes > 0, "no attack took place");
    Ok(format!("{} MB of headers", bytes / 1_000_000))
}

async fn header_flood(address: &str, number: u64) -> u64 {
    let Ok(mut peer) = Peer::open(address).await else {
        return 0;
    };
    let mut block = call(METHODS[0], GRPC);
    match number % 4 {
        // Many small ones.
        0 => (0..3_000).for_each(|at| literal(&mut block, &format!("x-{at}"), "y")),
        // One that is too large.
        1 => literal(&mut block, "x", &"y".repeat(15_000)),
        // One that is remembered, and named again and again: a byte each.
        2 => {
            block.push(0x40);
            block.extend([1, b'x', 127, 0xa1, 0x1e]);
            block.extend([b'y'; 4_000]);
            block.extend([0xbe; 8_000]);
        }
        // Without an end.
        _ => literal(&mut block, "x", "y"),
    }
    let mut sent = 0;
    let mut parts = block.chunks(16_000);
    let first = parts.next().unwrap_or_default();
    let mut bytes = frame(HEADERS, END_STREAM, 1, first);
    for part in parts {
        bytes.extend(frame(CONTINUATION, 0, 1, part));
    }
    let end = if number % 4 == 3 { 0 } else { END_HEADERS };
    bytes.extend(frame(CONTINUATION, end, 1, &[]));
    if peer.send(&bytes).await {
        sent += bytes.len() as u64;
    }
    let mut more = Vec::new();
    literal(&mut more, "x", &"z".repeat(100));
    let more = frame(CONTINUATION, 0, 1, &more).repeat(100);
    for _ in 0..100 {
        if end != 0 || !peer.send(&more).await {
            break;
        }
        sent += more.len() as u64;
    }
    peer.ends_within(Duration::from_millis(100)).await;
    sent
}

/// Bytes one at a time: of the opening, of headers, of a message.
pub(crate) async fn slowloris(broker: &Broker, scale: &Scale) -> Result<String> {
    let mut opening = JoinSet::new();
    let mut others = JoinSet::new();
    for number in 0..scale.slow {
        let mut peer = Peer::connect(&broker.grpc).await?;
        let (mut whole, mut drops) = (Vec::new(), PREFACE.to_vec());
        if number % 3 > 0 {
            whole.extend(PREFACE);
            whole.extend(frame(SETTINGS, 0, 0, &[]));
            drops = frame(HEADERS, END_HEADERS, 1, &call(METHODS[0], GRPC));
        }
        if number % 3 == 2 {
            whole.append(&mut drops);
            // A message of 100 kB, a byte in each frame.
            let mut message = vec![0, 0, 1, 0x86, 0xa0];
            message.extend([b'x'; 200]);
            drops = message;
        }
        let in_frames = number % 3 == 2;
        let dripping = async move {
            peer.send(&whole).await;
            for byte in drops {
                let bytes = if in_frames {
                    frame(DATA, 0, 1, &[byte])
                } else {
                    vec![byte]
                };
                if peer.0.write_all(&bytes).await.is_err() {
                    return true;
                }
                // The other side may have ended it: that is told by a read.
                if peer.ends_within(Duration::from_millis(900)).await {
                    return true;
                }
            }
            peer.ends_within(SANE).await
        };
        if number % 3 == 0 {
            opening.spawn(dripping);
        } else {
            others.spawn(dripping);
        }
    }
    let mut ended = 0;
    let deadline = Instant::now() + SANE;
    while !opening.is_empty() {
        ensure!(
            Instant::now() < deadline,
            "{} openings still drip",
            opening.len()
        );
        while let Some(Ok(end)) = opening.try_join_next() {
            ensure!(end, "an opening went on for ever");
            ended += 1;
        }
        sleep(Duration::from_millis(20)).await;
    }
    sleep(scale.hold_slow).await;
    let still = others.len();
    others.shutdown().await;
    Ok(format!(
        "{} slow peers: {ended} ended in their opening, {still} of the others still there at the end",
        scale.slow
    ))
}
