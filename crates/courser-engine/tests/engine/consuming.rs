//! What a consumer is given, and what becomes of it.

use std::time::Duration;

use bytes::Bytes;

use courser_core::{
    error::QueueError,
    id::{LeaseId, Seq},
    lease::Verdict,
    message::NewMessage,
    options::QueueOptions,
    stats::{Peek, StateFilter},
};
use courser_engine::request::{Ended, Event, Open, Publish, Redrive};
use courser_store::MemoryStore;

use crate::harness::{
    ack, broker, deliveries, forgetful, message, numbered, open, payloads, publish, queue, until,
    verdict,
};

#[tokio::test]
async fn a_backlog_that_is_not_in_memory_is_delivered_in_order() {
    let broker = forgetful(MemoryStore::new());
    queue(&broker, "q").await;
    for _ in 0..10 {
        broker.publish(numbered("q", 1_000)).await.unwrap();
    }
    let mut subscription = broker.subscribe(open("q")).await.unwrap();
    let mut all = Vec::new();
    while all.len() < 10_000 {
        let delivered = deliveries(&mut subscription, 1).await;
        broker.settle(ack(&delivered)).await.unwrap();
        all.extend(payloads(&delivered));
    }
    let expected: Vec<_> = (0..10_000).map(|n| (n % 1_000).to_string()).collect();
    assert_eq!(all, expected);
}

#[tokio::test]
async fn a_consumer_that_takes_nothing_is_handed_no_more_than_its_window() {
    let broker = broker(MemoryStore::new());
    queue(&broker, "q").await;
    let mut slow = broker
        .subscribe(Open {
            max_messages: 10_000,
            ..open("q")
        })
        .await
        .unwrap();
    for _ in 0..10 {
        broker.publish(numbered("q", 1_000)).await.unwrap();
    }
    until(&broker, "q", |view| view.leased == 4_096).await;
    let mut fast = broker.subscribe(open("q")).await.unwrap();
    let mut seen = 0;
    while seen < 10_000 - 4_096 {
        let delivered = deliveries(&mut fast, 1).await;
        seen += broker.settle(ack(&delivered)).await.unwrap().ok.len();
    }
    let delivered = deliveries(&mut slow, 4_096).await;
    assert_eq!(
        broker.settle(ack(&delivered)).await.unwrap().ok.len(),
        4_096
    );
    until(&broker, "q", |view| view.ready + view.leased == 0).await;
}

#[tokio::test]
async fn a_dropped_subscription_gives_back_at_once_and_charges_only_what_was_taken() {
    let broker = broker(MemoryStore::new());
    let options = QueueOptions {
        backoff: courser_core::options::Backoff {
            initial: Duration::ZERO,
            max: Duration::ZERO,
            ..Default::default()
        },
        ..QueueOptions::default()
    };
    broker.create_queue("q".to_owned(), options).await.unwrap();
    let mut first = broker.subscribe(open("q")).await.unwrap();
    broker.publish(publish("q", &["taken"])).await.unwrap();
    deliveries(&mut first, 1).await;
    broker.publish(publish("q", &["not taken"])).await.unwrap();
    until(&broker, "q", |view| view.leased == 2).await;
    drop(first);
    let mut second = broker.subscribe(open("q")).await.unwrap();
    let delivered = deliveries(&mut second, 2).await;
    assert_eq!(payloads(&delivered), ["taken", "not taken"]);
    assert_eq!(
        delivered.iter().map(|d| d.attempt).collect::<Vec<_>>(),
        [2, 1]
    );
}

#[tokio::test]
async fn a_pull_answers_at_once_or_when_something_comes_or_empty() {
    let broker = broker(MemoryStore::new());
    queue(&broker, "q").await;
    let nothing = broker.pull(open("q"), Duration::ZERO).await.unwrap();
    assert!(nothing.is_empty());
    let waiting = {
        let broker = broker.clone();
        tokio::spawn(async move { broker.pull(open("q"), Duration::from_secs(60)).await })
    };
    until(&broker, "q", |view| view.consumers.len() == 1).await;
    broker.publish(publish("q", &["a", "b"])).await.unwrap();
    let pulled = waiting.await.unwrap().unwrap();
    assert_eq!(payloads(&pulled), ["a", "b"]);
    assert_eq!(broker.settle(ack(&pulled)).await.unwrap().ok.len(), 2);
    let view = broker.get_queue("q".to_owned()).await.unwrap();
    assert_eq!((view.consumers.len(), view.leased), (0, 0));
}

#[tokio::test]
async fn a_pull_without_a_wait_reads_a_backlog_that_is_not_in_memory() {
    let broker = forgetful(MemoryStore::new());
    queue(&broker, "q").await;
    broker.publish(publish("q", &["a"])).await.unwrap();
    let pulled = broker.pull(open("q"), Duration::ZERO).await.unwrap();
    assert_eq!(payloads(&pulled), ["a"]);
}

#[tokio::test]
async fn a_pull_whose_client_went_away_holds_nothing() {
    let broker = broker(MemoryStore::new());
    queue(&broker, "q").await;
    let pull = {
        let broker = broker.clone();
        tokio::spawn(async move { broker.pull(open("q"), Duration::from_secs(60)).await })
    };
    until(&broker, "q", |view| view.consumers.len() == 1).await;
    pull.abort();
    assert!(pull.await.unwrap_err().is_cancelled());
    // Its place is gone before anything comes: nothing passes through it.
    until(&broker, "q", |view| view.consumers.is_empty()).await;
    broker.publish(publish("q", &["a"])).await.unwrap();
    let pulled = broker.pull(open("q"), Duration::ZERO).await.unwrap();
    assert_eq!(pulled[0].attempt, 1);
    let view = broker.get_queue("q".to_owned()).await.unwrap();
    assert_eq!((view.totals.delivered, view.totals.released), (1, 0));
}

#[tokio::test]
async fn a_pull_with_auto_ack_takes_no_more_than_it_asked_for() {
    let broker = broker(MemoryStore::new());
    queue(&broker, "q").await;
    broker
        .publish(publish("q", &["a", "b", "c"]))
        .await
        .unwrap();
    let two = Open {
        max_messages: 2,
        auto_ack: true,
        ..open("q")
    };
    let pulled = broker.pull(two, Duration::ZERO).await.unwrap();
    assert_eq!(payloads(&pulled), ["a", "b"]);
    let view = broker.get_queue("q".to_owned()).await.unwrap();
    assert_eq!((view.ready, view.totals.acked), (1, 2));
}

#[tokio::test]
async fn a_message_keeps_the_buffer_of_its_request_only_when_most_of_that_is_wanted() {
    let broker = broker(MemoryStore::new());
    queue(&broker, "q").await;
    let mut subscription = broker.subscribe(open("q")).await.unwrap();
    for (topics, shares) in [
        (["q", "q", "nowhere"], true),
        (["q", "nowhere", "nowhere"], false),
    ] {
        let buffer = Bytes::from(vec![7; 30_000]);
        let parts = topics.iter().enumerate().map(|(at, topic)| NewMessage {
            payload: buffer.slice(at * 10_000..(at + 1) * 10_000),
            ..message(topic, "")
        });
        let request = Publish {
            messages: parts.collect(),
            ..publish("q", &[])
        };
        broker.publish(request).await.unwrap();
        let delivered = deliveries(&mut subscription, 1).await;
        let payload = &delivered[0].message.payload;
        assert_eq!(buffer.as_ptr_range().contains(&payload.as_ptr()), shares);
        assert_eq!(payload.len(), 10_000);
        assert!(subscription.settler().settle(ack(&delivered)).await);
    }
}

#[tokio::test]
async fn a_pull_takes_as_many_bytes_as_it_asked_for() {
    let broker = broker(MemoryStore::new());
    queue(&broker, "q").await;
    let body = "x".repeat(64 * 1024);
    broker
        .publish(publish("q", &[body.as_str(); 100]))
        .await
        .unwrap();
    let pulled = broker.pull(open("q"), Duration::ZERO).await.unwrap();
    assert_eq!(pulled.len(), 100, "6.25 MiB of 16");
    broker
        .publish(publish("q", &[body.as_str(); 10]))
        .await
        .unwrap();
    for auto_ack in [false, true] {
        let some = Open {
            max_bytes: 200 * 1024,
            auto_ack,
            ..open("q")
        };
        assert_eq!(broker.pull(some, Duration::ZERO).await.unwrap().len(), 3);
    }
}

#[tokio::test]
async fn a_consumer_that_drains_hears_what_was_the_last_delivery() {
    let broker = forgetful(MemoryStore::new());
    queue(&broker, "q").await;
    broker.publish(publish("q", &["a", "b"])).await.unwrap();
    let mut subscription = broker.subscribe(open("q")).await.unwrap();
    assert!(subscription.settler().drain().await);
    let mut delivered = Vec::new();
    loop {
        match subscription.next().await.unwrap() {
            Event::Deliveries(more) => delivered.extend(more),
            Event::Drained => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(payloads(&delivered), ["a", "b"]);
    broker.publish(publish("q", &["c"])).await.unwrap();
    let settler = subscription.settler();
    assert!(settler.settle(ack(&delivered)).await);
    assert!(
        matches!(subscription.next().await, Some(Event::Settled(settled, _)) if settled.ok.len() == 2)
    );
    let view = broker.get_queue("q".to_owned()).await.unwrap();
    assert_eq!((view.ready, view.leased, view.totals.delivered), (1, 0, 2));
}

#[tokio::test]
async fn what_a_consumer_took_and_never_sent_goes_back_without_blame() {
    let broker = broker(MemoryStore::new());
    queue(&broker, "q").await;
    broker
        .publish(publish("q", &["sent", "unsent"]))
        .await
        .unwrap();
    let mut first = broker.subscribe(open("q")).await.unwrap();
    let taken = deliveries(&mut first, 2).await;
    first.leave(vec![taken[1].lease_id]);
    let mut second = broker.subscribe(open("q")).await.unwrap();
    let again = deliveries(&mut second, 2).await;
    assert_eq!(payloads(&again), ["sent", "unsent"]);
    assert_eq!((again[0].attempt, again[1].attempt), (2, 1));
    let view = broker.get_queue("q".to_owned()).await.unwrap();
    assert_eq!((view.totals.released, view.totals.disconnected), (1, 1));
}

#[tokio::test]
async fn deleting_a_queue_ends_its_consumers() {
    let broker = broker(MemoryStore::new());
    queue(&broker, "q").await;
    let mut subscription = broker.subscribe(open("q")).await.unwrap();
    assert_eq!(
        broker.delete_queue("q".to_owned(), false).await.unwrap(),
        (0, 0)
    );
    assert!(matches!(
        subscription.next().await,
        Some(Event::Ended(Ended::QueueDeleted))
    ));
    let gone = broker.get_queue("q".to_owned()).await.unwrap_err();
    assert_eq!(
        gone,
        QueueError::NotFound {
            name: "q".to_owned()
        }
    );
}

#[tokio::test]
async fn dead_letters_are_redriven_in_steps_with_their_history() {
    let store = MemoryStore::new();
    let broker = forgetful(store);
    queue(&broker, "q").await;
    for _ in 0..3 {
        broker.publish(numbered("q", 1_000)).await.unwrap();
    }
    let mut subscription = broker.subscribe(open("q")).await.unwrap();
    let mut rejected = 0;
    while rejected < 3_000 {
        let delivered = deliveries(&mut subscription, 1).await;
        let reason = courser_core::lease::DeadLetterReason {
            reason: "poison".into(),
            description: "cannot be read".into(),
        };
        let verdicts = verdict(&delivered, &Verdict::DeadLetter(Box::new(reason)));
        rejected += broker.settle(verdicts).await.unwrap().ok.len();
    }
    drop(subscription);
    let peek = Peek {
        state: StateFilter::Any,
        after: Seq(0),
        limit: 2,
    };
    let peeked = broker.peek("q.dlq".to_owned(), peek).await.unwrap();
    assert_eq!(peeked.len(), 2);
    assert_eq!(peeked[1].message.as_ref().unwrap().payload, "1");
    let note = peeked[0].view.note.as_ref().unwrap();
    assert_eq!(&*note.dead_letter.as_ref().unwrap().reason, "poison");
    let redrive = Redrive {
        queue: "q.dlq".to_owned(),
        limit: Some(2_500),
        ..Redrive::default()
    };
    assert_eq!(broker.redrive(redrive.clone()).await.unwrap().moved, 2_500);
    let view = broker.get_queue("q".to_owned()).await.unwrap();
    assert_eq!((view.ready, view.dead), (2_500, 500));
    let again = broker.pull(open("q"), Duration::ZERO).await.unwrap();
    assert_eq!(
        (again[0].attempt, again[0].note.as_ref().unwrap().redrives),
        (1, 1)
    );
    let refused = broker
        .redrive(Redrive {
            queue: "q".to_owned(),
            ..Redrive::default()
        })
        .await
        .unwrap_err();
    assert!(
        matches!(refused, QueueError::NotDeadLetterQueue { .. }),
        "{refused}"
    );
}

#[tokio::test]
async fn auto_ack_settles_as_it_hands_over() {
    let store = MemoryStore::new();
    let broker = broker(store);
    queue(&broker, "q").await;
    broker.publish(numbered("q", 500)).await.unwrap();
    let mut subscription = broker
        .subscribe(Open {
            auto_ack: true,
            ..open("q")
        })
        .await
        .unwrap();
    let delivered = deliveries(&mut subscription, 500).await;
    assert!(
        delivered
            .iter()
            .all(|delivery| delivery.lease_id == LeaseId(0))
    );
    let view = broker.get_queue("q".to_owned()).await.unwrap();
    assert_eq!((view.ready, view.leased, view.totals.acked), (0, 0, 500));
}
