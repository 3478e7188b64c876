//! A consumer can say that it wants no more, or from the start how many it wants.

use courser_proto::v1::{Open, Settle};

use crate::harness::{Broker, ack, open, payloads};

#[tokio::test]
async fn a_consumer_that_drains_leaves_without_blame() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    broker.publish_all("orders", &["a", "b", "c"]).await;
    let mut leaving = broker.subscribe("orders").await;
    let done = leaving.next().await;
    let unseen = leaving.drain().await;
    assert_eq!(payloads(&unseen), ["b", "c"]);
    let last = Settle {
        release: unseen.iter().map(|delivery| delivery.lease_id).collect(),
        ..ack(&done)
    };
    assert_eq!(leaving.settle(last).await.ok.len(), 3);
    assert_eq!(
        leaving.arrived().await,
        [],
        "what it released does not come back to it"
    );
    drop(leaving);

    let again = broker.subscribe("orders").await.next_n(2).await;
    assert_eq!(payloads(&again), ["b", "c"]);
    assert!(again.iter().all(|delivery| delivery.attempt == 1));
}

#[tokio::test]
async fn a_drained_consumer_of_an_empty_queue_hears_so_at_once() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let mut consumer = broker.subscribe("orders").await;
    assert_eq!(consumer.drain().await, []);
    broker.publish("orders", "a").await;
    assert_eq!(consumer.arrived().await, []);
    assert_eq!(broker.stats("orders").await.ready, 1);
}

#[tokio::test]
async fn a_limit_bounds_what_comes_in_all() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    broker.publish_all("orders", &["a", "b", "c"]).await;
    let two = Open {
        limit: 2,
        ..open("orders")
    };
    let mut consumer = broker.subscribe_with(two).await;
    let taken = consumer.next_n(2).await;
    assert_eq!(payloads(&taken), ["a", "b"]);
    consumer.ack(&taken[0]).await;
    consumer.ack(&taken[1]).await;
    assert_eq!(consumer.arrived().await, []);
    assert_eq!(broker.stats("orders").await.ready, 1);
}
