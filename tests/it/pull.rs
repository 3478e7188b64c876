//! Pull is for clients without streams: it may wait, and its leases belong to no connection.

use courser_proto::v1::PullRequest;
use tonic::Code;

use crate::harness::{
    Broker, ack, assert_refused, payload, payloads, pull_request, seconds, within,
};

#[tokio::test]
async fn a_pull_without_wait_answers_at_once() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    assert_eq!(broker.try_pull(pull_request("orders")).await.unwrap(), []);
}

#[tokio::test]
async fn a_pull_takes_no_more_than_it_asked_for() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let kilobyte = "x".repeat(1000);
    broker.publish_all("orders", &[kilobyte.as_str(); 10]).await;
    let three = PullRequest {
        max_messages: 3,
        ..pull_request("orders")
    };
    assert_eq!(broker.try_pull(three).await.unwrap().len(), 3);
    let bytes = PullRequest {
        max_messages: 100,
        max_bytes: 2500,
        ..pull_request("orders")
    };
    assert_eq!(broker.try_pull(bytes).await.unwrap().len(), 2);
    let tiny = PullRequest {
        max_messages: 100,
        max_bytes: 1,
        ..pull_request("orders")
    };
    assert_eq!(
        broker.try_pull(tiny).await.unwrap().len(),
        1,
        "one larger message comes alone"
    );
    let one = PullRequest {
        max_messages: 0,
        ..pull_request("orders")
    };
    assert_eq!(
        broker.try_pull(one).await.unwrap().len(),
        1,
        "the default is one"
    );
    assert_eq!(broker.stats("orders").await.leased, 7);
}

#[tokio::test]
async fn a_waiting_pull_answers_as_soon_as_a_message_comes() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let mut client = broker.connect().await;
    let waiting = tokio::spawn(async move {
        let request = PullRequest {
            wait: Some(seconds(60)),
            ..pull_request("orders")
        };
        client.pull(request).await.unwrap().into_inner().deliveries
    });
    broker
        .wait_for_stats("orders", "the pull to wait", |s| s.consumers.len() == 1)
        .await;
    broker.publish("orders", "a").await;
    let deliveries = within("the pull to answer", waiting).await.unwrap();
    assert_eq!(payloads(&deliveries), ["a"]);
    broker.settle(ack(&deliveries[0])).await;
}

#[tokio::test]
async fn a_wait_that_passes_is_no_error() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let request = PullRequest {
        wait: Some(seconds(1)),
        ..pull_request("orders")
    };
    assert_eq!(broker.try_pull(request).await.unwrap(), []);
    assert_eq!(broker.stats("orders").await.consumers, []);
}

#[tokio::test]
async fn a_waiting_pull_that_is_given_up_takes_nothing() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let mut client = broker.connect().await;
    let waiting = tokio::spawn(async move {
        client
            .pull(PullRequest {
                wait: Some(seconds(60)),
                ..pull_request("orders")
            })
            .await
    });
    broker
        .wait_for_stats("orders", "the pull to wait", |s| s.consumers.len() == 1)
        .await;
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    broker.publish("orders", "a").await;
    let delivery = broker.pull("orders").await;
    assert_eq!((payload(&delivery), delivery.attempt), ("a".to_owned(), 1));
}

#[tokio::test]
async fn a_pulled_lease_outlives_its_connection() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    broker.publish("orders", "a").await;
    let mut client = broker.connect().await;
    let pulled = client
        .pull(pull_request("orders"))
        .await
        .unwrap()
        .into_inner()
        .deliveries;
    drop(client);
    broker.assert_nothing_ready("orders").await;
    assert_eq!(broker.stats("orders").await.leased, 1);
    broker.settle(ack(&pulled[0])).await;
}

#[tokio::test]
async fn a_pull_with_auto_ack_is_done_with_it() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    broker.publish("orders", "a").await;
    let request = PullRequest {
        auto_ack: true,
        ..pull_request("orders")
    };
    let deliveries = broker.try_pull(request).await.unwrap();
    assert_eq!(
        (payload(&deliveries[0]), deliveries[0].lease_id),
        ("a".to_owned(), 0)
    );
    let stats = broker.stats("orders").await;
    assert_eq!((stats.ready, stats.leased, stats.acked_total), (0, 0, 1));
}

#[tokio::test]
async fn a_pull_from_no_queue_is_not_found() {
    let broker = Broker::start().await;
    let refused = broker.try_pull(pull_request("nowhere")).await.unwrap_err();
    assert_refused(&refused, Code::NotFound, "nowhere");
}
