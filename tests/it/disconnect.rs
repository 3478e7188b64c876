//! A consumer that goes away gives back what it holds, at once.

use courser_proto::v1::{AttemptOutcome, Open};

use crate::harness::{Broker, at_once, open, payload, payloads};

#[tokio::test]
async fn a_consumer_that_disconnects_gives_its_leases_back_at_once() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    broker.publish_all("orders", &["a", "b", "c"]).await;
    let mut gone = broker.subscribe("orders").await;
    assert_eq!(gone.next_n(3).await.len(), 3);
    drop(gone);

    // The lease would have lasted 30 s; the wait of a test is shorter.
    let mut next = broker.subscribe("orders").await;
    let again = next.next_n(3).await;
    assert_eq!(payloads(&again), ["a", "b", "c"]);
    assert!(
        again.iter().all(|d| d.attempt == 2),
        "what was sent counts as an attempt"
    );
    let entry = broker.peek("orders").await.remove(0);
    assert_eq!(entry.attempts[0].outcome(), AttemptOutcome::Disconnected);
    assert_eq!(broker.stats("orders").await.disconnected_total, 3);
}

#[tokio::test]
async fn a_consumer_that_ends_its_stream_gives_its_leases_back_too() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    broker.publish("orders", "a").await;
    let mut consumer = broker.subscribe("orders").await;
    let held = consumer.next().await;
    let (closed, _) = tokio::sync::mpsc::channel(1);
    consumer.requests = closed;
    let end = crate::harness::within("the end of the stream", consumer.responses.message()).await;
    assert!(matches!(end, Ok(None)), "{end:?}");

    let again = broker.pull("orders").await;
    assert_eq!((payload(&again), again.attempt), ("a".to_owned(), 2));
    let settled = broker.try_settle(crate::harness::ack(&held)).await.unwrap();
    assert_eq!(settled.refused.len(), 1);
}

#[tokio::test]
async fn what_was_never_sent_is_not_charged() {
    let broker = Broker::start().await;
    broker.create_with("orders", at_once()).await;
    let body = "x".repeat(256 * 1024);
    for _ in 0..40 {
        broker.publish("orders", &body).await;
    }
    // Takes the lease of many, and never reads: most of them stay in the broker.
    let greedy = Open {
        max_messages: 1000,
        max_bytes: 256 << 20,
        ..open("orders")
    };
    let stalled = broker.subscribe_with(greedy).await;
    broker
        .wait_for_stats("orders", "leases", |s| s.leased > 0)
        .await;
    drop(stalled);
    broker
        .wait_for_stats("orders", "all to be back", |s| s.ready == 40)
        .await;

    let mut consumer = broker.subscribe("orders").await;
    let mut attempts = Vec::new();
    for _ in 0..40 {
        let delivery = consumer.next().await;
        attempts.push(delivery.attempt);
        consumer.ack(&delivery).await;
    }
    assert!(
        attempts.is_sorted_by(|a, b| a >= b),
        "the first ones were sent: {attempts:?}"
    );
    assert_eq!(attempts[39], 1, "the last one was never sent: {attempts:?}");
    let stats = broker.stats("orders").await;
    assert_eq!(
        stats.disconnected_total,
        attempts.iter().filter(|&&a| a == 2).count() as u64
    );
}
