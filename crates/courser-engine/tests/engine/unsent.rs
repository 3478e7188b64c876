//! What all consumers together have not taken: bounded, with room for those that take, and an end for those
//! that are in the way.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use courser_core::limits::{UNSENT_SPARINGLY_BYTES, UNSENT_TIME_MAX};
use courser_engine::{Cut, request::Open};
use courser_store::MemoryStore;

use crate::harness::*;

const BYTES: usize = 2 * 1024 * 1024;
const COUNT: usize = 60;

#[tokio::test]
async fn consumers_that_take_go_on_beside_those_that_do_not_and_these_are_ended_for_others() {
    let broker = broker(MemoryStore::new());
    queue(&broker, "big").await;
    queue(&broker, "small").await;
    let mut taker = broker.subscribe(open("small")).await.unwrap();
    broker.publish(numbered("small", 1)).await.unwrap();
    deliveries(&mut taker, 1).await;

    let cuts = Arc::<AtomicUsize>::default();
    let mut stuck = Vec::new();
    for _ in 0..COUNT {
        let cuts = Arc::clone(&cuts);
        let cut = Cut::new(move || {
            cuts.fetch_add(1, Ordering::SeqCst);
        });
        stuck.push(broker.subscribe_over(open("big"), cut).await.unwrap());
    }
    let body = "x".repeat(BYTES);
    for _ in 0..COUNT {
        broker.publish(publish("big", &[&body])).await.unwrap();
    }
    let fit = UNSENT_SPARINGLY_BYTES.div_ceil(BYTES as u64);
    until(&broker, "big", |view| view.leased == fit).await;
    for _ in 0..50 {
        broker.publish(numbered("small", 1)).await.unwrap();
        deliveries(&mut taker, 1).await;
    }
    let leased = broker.get_queue("big".to_owned()).await.unwrap().leased;
    assert_eq!(leased, fit, "the room is for those that take");

    // One that is new is served once those are ended that have taken nothing for long.
    let mut new = broker
        .subscribe(Open {
            limit: Some(1),
            ..open("big")
        })
        .await
        .unwrap();
    let delivered = tokio::time::timeout(2 * UNSENT_TIME_MAX, deliveries(&mut new, 1));
    assert_eq!(delivered.await.unwrap()[0].message.payload.len(), BYTES);
    assert!(cuts.load(Ordering::SeqCst) > 0, "their connections are cut");

    drop(stuck);
    until(&broker, "big", |view| view.leased == 1).await;
    let mut all = broker.subscribe(open("big")).await.unwrap();
    for _ in 1..COUNT {
        let delivered = deliveries(&mut all, 1).await;
        assert_eq!(
            delivered[0].attempt, 1,
            "nobody is charged for what was never sent"
        );
        broker.settle(ack(&delivered)).await.unwrap();
    }
}

#[tokio::test]
async fn what_a_pull_answered_counts_until_it_is_let_go_of() {
    let broker = broker(MemoryStore::new());
    queue(&broker, "big").await;
    let body = "x".repeat(BYTES);
    for _ in 0..COUNT {
        broker.publish(publish("big", &[&body])).await.unwrap();
    }
    let one = Open {
        max_messages: 1,
        ..open("big")
    };
    let mut held = Vec::new();
    while held.len() < COUNT {
        let pulled = broker.pull_over(one.clone(), Duration::ZERO, Cut::default());
        let pulled = pulled.await.unwrap();
        if pulled.deliveries.is_empty() {
            break;
        }
        held.push(pulled);
    }
    assert_eq!(
        held.len() as u64,
        UNSENT_SPARINGLY_BYTES.div_ceil(BYTES as u64)
    );
    held.pop();
    until(&broker, "big", |view| view.consumers.len() == held.len()).await;
    let pulled = broker.pull_over(one, Duration::ZERO, Cut::default()).await;
    assert_eq!(pulled.unwrap().deliveries.len(), 1);
}
