//! A consumer holds no more than it asked for, in messages and in bytes.

use courser_proto::v1::Open;

use crate::harness::{Broker, Consumer, ack, nack, open};

#[tokio::test]
async fn credit_counts_messages() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    broker.publish_all("orders", &["a", "b", "c", "d"]).await;
    let mut consumer = broker
        .subscribe_with(Open {
            max_messages: 2,
            ..open("orders")
        })
        .await;
    let held = consumer.next_n(2).await;
    assert_holds(&broker, &mut consumer, 2).await;
    consumer.ack(&held[0]).await;
    consumer.next().await;
    assert_holds(&broker, &mut consumer, 2).await;
}

/// Nothing more comes, and the broker agrees.
async fn assert_holds(broker: &Broker, consumer: &mut Consumer, count: u64) {
    assert_eq!(consumer.arrived().await, []);
    assert_eq!(broker.stats("orders").await.leased, count);
}

#[tokio::test]
async fn credit_counts_bytes() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let kilobyte = "x".repeat(1000);
    broker.publish_all("orders", &[kilobyte.as_str(); 5]).await;
    let mut consumer = broker
        .subscribe_with(Open {
            max_bytes: 2500,
            ..open("orders")
        })
        .await;
    let held = consumer.next_n(2).await;
    assert_holds(&broker, &mut consumer, 2).await;
    consumer.ack(&held[0]).await;
    consumer.next().await;
    assert_holds(&broker, &mut consumer, 2).await;
}

#[tokio::test]
async fn a_message_larger_than_the_credit_comes_alone() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let large = "x".repeat(10_000);
    broker
        .publish_all("orders", &[large.as_str(), "small", large.as_str()])
        .await;
    let mut consumer = broker
        .subscribe_with(Open {
            max_bytes: 100,
            ..open("orders")
        })
        .await;
    for size in [10_000, 5, 10_000] {
        let delivery = consumer.next().await;
        assert_eq!(delivery.message.as_ref().unwrap().payload.len(), size);
        assert_holds(&broker, &mut consumer, 1).await;
        consumer.ack(&delivery).await;
    }
}

#[tokio::test]
async fn every_way_to_end_a_lease_gives_the_credit_back() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    broker.publish_all("orders", &["a", "b", "c"]).await;
    let mut consumer = broker
        .subscribe_with(Open {
            max_messages: 1,
            ..open("orders")
        })
        .await;
    let a = consumer.next().await;
    consumer.settle(nack(&a, "")).await;
    let again = consumer.next().await;
    consumer.settle(crate::harness::release(&again)).await;
    let again = consumer.next().await;
    broker.settle(ack(&again)).await; // over another connection
    let b = consumer.next().await;
    consumer.ack(&b).await;
    let c = consumer.next().await;
    consumer.ack(&c).await;
    assert_eq!(broker.stats("orders").await.acked_total, 3);
}
