//! What the engine does when nobody looks: nothing.

use std::{
    future::{Future as _, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use courser_core::{
    lease::{Settlement, Verdict},
    message::NewMessage,
    options::{Durability, QueueOptions},
    time::Timestamp,
};
use courser_store::MemoryStore;
use tokio::task::unconstrained;

use crate::{
    BrokerHandle, Clock, Options, Subscription, limits,
    request::{Delivery, Event, Health, Open, Publish},
    start,
};

/// A broker with a queue, and its time, which stands still.
async fn with_a_queue() -> (BrokerHandle, Clock) {
    let clock = Clock::paused();
    let options = Options {
        clock: Some(clock.clone()),
        ..Options::default()
    };
    let broker = start(Arc::new(MemoryStore::new()), &options).unwrap();
    let created = broker.create_queue("q".to_owned(), QueueOptions::default());
    created.await.unwrap();
    (broker, clock)
}

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
    subscribe_with(broker, 1_000).await
}

async fn subscribe_with(broker: &BrokerHandle, max_messages: u32) -> Subscription {
    let open = Open {
        queue: "q".to_owned(),
        consumer: "test".to_owned(),
        max_messages,
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
            Event::Settled(..) | Event::Refused(..) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// The engine makes one, and is done with it: whoever takes its seat next waits for that.
async fn a_turn(broker: &BrokerHandle) {
    broker.info().await.unwrap();
    drop(broker.door.seat.lock().unwrap());
}

/// How often a publish that comes now lets others go first.
async fn steps_back(broker: &BrokerHandle) -> usize {
    // Without tokio's own: it has a task wait once that has done much without a pause.
    let mut publish = pin!(unconstrained(publish(broker)));
    let mut steps = 0;
    poll_fn(|context| {
        // Nobody takes it from the inbox.
        let seat = broker.door.seat.lock().unwrap();
        assert!(broker.door.inbox.is_empty());
        loop {
            assert_eq!(publish.as_mut().poll(context), Poll::Pending);
            if !broker.door.inbox.is_empty() {
                break;
            }
            steps += 1;
            assert!(steps <= limits::STEPS_BACK);
        }
        drop(seat);
        Poll::Ready(())
    })
    .await;
    broker.door.inbox.wake.notify_one();
    publish.await;
    steps
}

#[tokio::test]
async fn a_publish_lets_others_go_first_while_consumers_that_take_a_lot_are_behind() {
    let (broker, clock) = with_a_queue().await;
    for _ in 0..limits::RUSH_ENTRIES + 2 {
        assert_eq!(steps_back(&broker).await, 0);
    }
    let credit = u32::try_from(limits::RUSH_ENTRIES).unwrap();
    let mut subscription = subscribe_with(&broker, credit).await;
    delivered(&mut subscription).await;
    assert_eq!(steps_back(&broker).await, limits::STEPS_BACK);
    for steps in [limits::STEPS_BACK, 0] {
        clock.advance(limits::RUSH_INTERVAL);
        a_turn(&broker).await;
        assert_eq!(steps_back(&broker).await, steps);
    }
    // The rest and more, of which nothing is left.
    let mut keeps_up = subscribe_with(&broker, 10 * credit).await;
    for _ in 0..limits::RUSH_ENTRIES {
        assert_eq!(steps_back(&broker).await, 0);
        delivered(&mut keeps_up).await;
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
    let (broker, clock) = with_a_queue().await;
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
