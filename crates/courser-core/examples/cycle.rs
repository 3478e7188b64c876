//! What the rules cost: publish, deliver and ack, in batches, with nothing around them.
//!
//! `cargo run --release -p courser-core --example cycle`
#![expect(clippy::print_stdout, reason = "it is what it is for")]
#![expect(
    clippy::disallowed_methods,
    reason = "real time is what is measured here"
)]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use bytes::Bytes;
use courser_core::{
    broker::{Broker, ConsumerOptions},
    id::ConsumerId,
    lease::{Settlement, Verdict},
    message::NewMessage,
    options::QueueOptions,
    time::Timestamp,
};

const MESSAGES: usize = 2_000_000;
const BATCH: usize = 64;

fn main() {
    println!("ns a message for publish, deliver and ack; batches of {BATCH}, credit 1000");
    for (backlog, consumers, stalled) in [(0, 4, 0), (0, 1, 0), (100_000, 4, 0), (0, 4, 1_000)] {
        let [publish, deliver, ack, drain] = measure(backlog, consumers, stalled);
        println!(
            "{consumers} consumers, {stalled} more without credit, backlog {backlog}: {} = publish \
             {publish} + deliver {deliver} + ack {ack} + drain {drain}",
            publish + deliver + ack + drain
        );
    }
}

fn measure(backlog: usize, consumers: usize, stalled: usize) -> [u128; 4] {
    let mut broker = Broker::new(1, 1);
    let mut now = Timestamp::from_micros(1_700_000_000_000_000);
    broker
        .create_queue(now, "q", QueueOptions::default())
        .expect("it is new");
    let batch: Vec<_> = (0..BATCH).map(|_| message()).collect();
    publish(&mut broker, now, &batch, stalled);
    for _ in 0..stalled {
        subscribe(&mut broker, 1);
    }
    let mut out = Vec::new();
    while broker.poll_deliveries(now, 1_000, &mut |_, _| None, &mut out) {}
    publish(&mut broker, now, &batch, backlog);
    let consumers: Vec<_> = (0..consumers)
        .map(|_| subscribe(&mut broker, 1_000))
        .collect();
    let mut taken = vec![(0, 0); consumers.len()];
    let mut spent = [Duration::ZERO; 4];
    for _ in 0..MESSAGES / BATCH {
        now = now + Duration::from_micros(BATCH as u64);
        let start = Instant::now();
        broker.handle_timeout(now, &mut |_, _| None, &mut |_| None);
        black_box(broker.publish(now, &batch, false)).expect("nothing forbids it");
        let published = Instant::now();
        out.clear();
        broker.poll_deliveries(now, BATCH, &mut |_, _| None, &mut out);
        let delivered = Instant::now();
        for hand_over in &out {
            let at = consumers.iter().position(|id| *id == hand_over.consumer);
            let taken = &mut taken[at.expect("the others have no credit")];
            *taken = (taken.0 + 1, taken.1 + u64::from(hand_over.size));
            let settlement = Settlement {
                lease_id: hand_over.lease_id,
                verdict: Verdict::Ack,
            };
            broker.settle(now, settlement).expect("the lease is held");
        }
        for (id, (messages, bytes)) in consumers.iter().zip(&taken) {
            broker.handle_taken(*id, *messages, *bytes);
        }
        let acked = Instant::now();
        black_box(broker.drain_records());
        black_box(broker.poll_timeout());
        let parts = [
            published - start,
            delivered - published,
            acked - delivered,
            acked.elapsed(),
        ];
        spent
            .iter_mut()
            .zip(parts)
            .for_each(|(all, part)| *all += part);
    }
    spent.map(|all| all.as_nanos() / MESSAGES as u128)
}

fn publish(broker: &mut Broker, now: Timestamp, batch: &[NewMessage], count: usize) {
    for _ in 0..count.div_ceil(BATCH) {
        broker
            .publish(now, batch, false)
            .expect("nothing forbids it");
    }
}

fn subscribe(broker: &mut Broker, max_messages: u32) -> ConsumerId {
    let options = ConsumerOptions {
        name: "bench".into(),
        max_messages,
        max_bytes: 16 << 20,
        lease: None,
        auto_ack: false,
        limit: None,
        window_bytes: courser_core::limits::UNSENT_BYTES_MAX,
    };
    broker.subscribe("q", options).expect("there is room")
}

fn message() -> NewMessage {
    NewMessage {
        id: None,
        topic: "q".into(),
        payload: Bytes::from(vec![0; 1_024]),
        headers: Vec::new(),
        attributes: None,
    }
}
