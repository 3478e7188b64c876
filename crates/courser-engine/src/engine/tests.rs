//! What the engine does when nobody looks: nothing.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use courser_core::{
    lease::{Settlement, Verdict},
    message::NewMessage,
    options::{Durability, QueueOptions},
    time::Timestamp,
};
use courser_store::MemoryStore;

use crate::{
    BrokerHandle, Clock, Options, Subscription,
    request::{Delivery, Event, Health, Open, Publish},
    start,
};

async fn publish(broker: &BrokerHandle) {
    let message = NewMessage {
        id: None,
        topic: "q".into(),
        payload: Bytes::new(),
        headers: Vec::new(),
        attributes: None,
    };
    let publish = Publish {
        messages: vec![message],
        mandatory: false,
        durability: Durability::Synced,
        without_results: false,
    };
    broker.publish(publish).await.unwrap();
}

async fn subscribe(broker: &BrokerHandle) -> Subscription {
    let open = Open {
        queue: "q".to_owned(),
        consumer: "test".to_owned(),
        max_messages: 1_000,
        max_bytes: 1 << 20,
        limit: None,
        lease: None,
        auto_ack: false,
    };
    broker.subscribe(open).await.unwrap()
}

async fn delivered(subscription: &mut Subscription) -> Delivery {
    loop {
        match subscription.next().await.unwrap() {
            Event::Deliveries(mut deliveries) => return deliveries.pop().unwrap(),
            Event::Settled(_) | Event::Refused(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Until when acks wait for a publish, and when the next turn is due.
fn due(broker: &BrokerHandle) -> (Option<Timestamp>, Option<Timestamp>) {
    let mut seat = broker.door.seat.lock().unwrap();
    let engine = seat.as_mut().unwrap();
    (engine.joins_until, engine.deadline())
}

#[tokio::test]
async fn acks_that_wait_as_the_store_fails_make_no_turn_due_afterwards() {
    let clock = Clock::paused();
    let options = Options {
        clock: Some(clock.clone()),
        ..Options::default()
    };
    let broker = start(Arc::new(MemoryStore::new()), &options).unwrap();
    let created = broker.create_queue("q".to_owned(), QueueOptions::default());
    created.await.unwrap();
    let mut subscription = subscribe(&broker).await;
    // Publishes come often. Now and then the committer has not quite done with one, and takes the ack at once.
    loop {
        clock.advance(Duration::from_micros(100));
        publish(&broker).await;
        let settlement = Settlement {
            lease_id: delivered(&mut subscription).await.lease_id,
            verdict: Verdict::Ack,
        };
        assert!(subscription.settler().settle(vec![settlement]).await);
        // What is looked at comes afterwards.
        broker.get_queue("q".to_owned()).await.unwrap();
        if due(&broker).0.is_some() {
            break;
        }
    }
    let mut health = broker.health();
    let failure = {
        let seat = broker.door.seat.lock().unwrap();
        seat.as_ref().unwrap().failure.clone()
    };
    failure.set(&"it was asked to");
    health
        .wait_for(|health| matches!(health, Health::StoreFailed(_)))
        .await
        .unwrap();
    clock.advance(Duration::from_millis(1));
    let (_, due_at) = due(&broker);
    assert!(due_at.is_none_or(|at| at > clock.now()), "again and again");
}
