//! Consumers get first deliveries in publish order, share a queue, and hold nobody up.

use courser_proto::v1::Open;

use crate::harness::{Broker, ack, ack_all, open, payload, payloads};

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

async fn publish_numbers(broker: &Broker, queue: &str, range: std::ops::Range<usize>) {
    let texts = numbers(range);
    for batch in texts.chunks(100) {
        let batch: Vec<_> = batch.iter().map(String::as_str).collect();
        broker.publish_all(queue, &batch).await;
    }
}

#[tokio::test]
async fn first_deliveries_come_in_publish_order() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    publish_numbers(&broker, "orders", 0..1000).await;
    let mut consumer = broker.subscribe("orders").await;
    let mut received = Vec::new();
    for _ in 0..20 {
        let deliveries = consumer.next_n(50).await;
        received.extend(payloads(&deliveries));
        assert_eq!(consumer.settle(ack_all(&deliveries)).await.refused, []);
    }
    assert_eq!(received, numbers(0..1000));
    let stats = broker.stats("orders").await;
    assert_eq!((stats.ready, stats.leased, stats.acked_total), (0, 0, 1000));
}

#[tokio::test]
async fn a_message_published_while_a_consumer_waits_comes_at_once() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let mut consumer = broker.subscribe("orders").await;
    for n in 0..20 {
        broker.publish("orders", &n.to_string()).await;
        let delivery = consumer.next().await;
        assert_eq!((payload(&delivery), delivery.attempt), (n.to_string(), 1));
        consumer.ack(&delivery).await;
    }
}

#[tokio::test]
async fn consumers_with_equal_credit_share_a_queue() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let ten = Open {
        max_messages: 10,
        ..open("orders")
    };
    let mut first = broker.subscribe_with(ten.clone()).await;
    let mut second = broker.subscribe_with(ten).await;
    publish_numbers(&broker, "orders", 0..30).await;

    let (mut mine, mut yours) = (first.next_n(10).await, second.next_n(10).await);
    assert_eq!(broker.stats("orders").await.leased, 20);
    assert!(first.arrived().await.is_empty() && second.arrived().await.is_empty());

    first.settle(ack_all(&mine[..5])).await;
    mine.extend(first.next_n(5).await);
    second.settle(ack_all(&yours[..5])).await;
    yours.extend(second.next_n(5).await);
    let mut all: Vec<usize> = mine
        .iter()
        .chain(&yours)
        .map(|d| payload(d).parse().unwrap())
        .collect();
    all.sort_unstable();
    assert_eq!(
        all,
        (0..30).collect::<Vec<_>>(),
        "each message went to one consumer"
    );
}

#[tokio::test]
async fn a_consumer_without_credit_left_holds_up_nobody() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let mut stalled = broker
        .subscribe_with(Open {
            max_messages: 1,
            ..open("orders")
        })
        .await;
    let mut busy = broker
        .subscribe_with(Open {
            max_messages: 5,
            ..open("orders")
        })
        .await;
    publish_numbers(&broker, "orders", 0..100).await;
    let held = stalled.next().await;
    for _ in 0..99 {
        let delivery = busy.next().await;
        busy.ack(&delivery).await;
    }
    let stats = broker.stats("orders").await;
    assert_eq!((stats.ready, stats.leased), (0, 1));
    stalled.ack(&held).await;
}

#[tokio::test]
async fn a_client_that_stops_reading_holds_up_nobody_and_bounds_what_it_holds() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let greedy = Open {
        max_messages: 10_000,
        max_bytes: 256 << 20,
        ..open("orders")
    };
    // Subscribed, and never reads.
    let stalled = broker.subscribe_with(greedy).await;
    let body = "x".repeat(256 * 1024);
    for _ in 0..100 {
        broker.publish("orders", &body).await;
    }
    let stats = broker.stats("orders").await;
    assert!(
        stats.leased < 60,
        "the client that stopped reading holds {} entries",
        stats.leased
    );

    let mut busy = broker.subscribe("orders").await;
    while broker.stats("orders").await.ready > 0 {
        for delivery in busy.arrived().await {
            busy.ack(&delivery).await;
        }
    }
    drop(stalled);
    while broker.stats("orders").await.acked_total < 100 {
        let delivery = busy.next().await;
        busy.ack(&delivery).await;
    }
}

#[tokio::test]
async fn with_auto_ack_an_entry_is_gone_when_it_is_handed_over() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    publish_numbers(&broker, "orders", 0..300).await;
    let auto = Open {
        auto_ack: true,
        ..open("orders")
    };
    let mut consumer = broker.subscribe_with(auto).await;
    let deliveries = consumer.next_n(300).await;
    assert_eq!(payloads(&deliveries), numbers(0..300));
    assert!(deliveries.iter().all(|d| d.lease_id == 0 && d.attempt == 1));
    drop(consumer);
    let stats = broker.stats("orders").await;
    assert_eq!((stats.ready, stats.leased, stats.acked_total), (0, 0, 300));
}

#[tokio::test]
async fn consumers_are_seen_with_what_they_hold() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    publish_numbers(&broker, "orders", 0..3).await;
    let named = Open {
        consumer: "worker-7".to_owned(),
        max_messages: 7,
        ..open("orders")
    };
    let mut consumer = broker.subscribe_with(named).await;
    let deliveries = consumer.next_n(3).await;
    consumer.settle(ack(&deliveries[0])).await;

    let stats = broker.stats("orders").await;
    let seen = &stats.consumers[0];
    assert_eq!(
        (seen.consumer.as_str(), seen.leased, seen.max_messages),
        ("worker-7", 2, 7)
    );
    assert!(seen.leased_bytes >= 2);
    drop(consumer);
    broker
        .wait_for_stats("orders", "the consumer to go", |s| s.consumers.is_empty())
        .await;
}
