//! A broker that is told to end says so to everyone, and keeps what it confirmed.

use courser_proto::v1::PullRequest;
use tonic::Code;

use crate::harness::{
    Broker, assert_refused, message, open, payloads, pull_request, seconds, within,
};

#[tokio::test]
async fn a_shutdown_ends_streams_and_long_polls_with_unavailable() {
    let mut broker = Broker::start().await;
    broker.create("orders").await;
    broker.publish("orders", "a").await;
    let mut consumer = broker.subscribe("orders").await;
    consumer.next().await;
    broker.create("idle").await;
    let waiting = tokio::spawn({
        let mut client = broker.connect().await;
        async move {
            client
                .pull(PullRequest {
                    wait: Some(seconds(60)),
                    ..pull_request("idle")
                })
                .await
        }
    });
    broker
        .wait_for_stats("idle", "the long poll", |s| s.consumers.len() == 1)
        .await;

    broker.begin_shutdown();

    assert_refused(&consumer.end().await, Code::Unavailable, "shutting down");
    // Nothing was taken from the queue, so an empty answer would be as good.
    if let Err(status) = within("the long poll to end", waiting).await.unwrap() {
        assert_refused(&status, Code::Unavailable, "shutting down");
    }
    broker.ended().await;
}

#[tokio::test]
async fn everything_confirmed_before_the_end_is_there_afterwards() {
    let mut broker = Broker::start().await;
    broker.create("orders").await;
    let mut client = broker.connect().await;
    let publisher = tokio::spawn(async move {
        let mut confirmed = Vec::new();
        for n in 0.. {
            let text = n.to_string();
            let request = courser_proto::v1::PublishRequest {
                messages: vec![message("orders", &text)],
                ..Default::default()
            };
            match client.publish(request).await {
                Ok(_) => confirmed.push(text),
                Err(_) => return confirmed,
            }
        }
        confirmed
    });
    broker
        .wait_for_stats("orders", "some messages", |s| s.ready > 100)
        .await;
    broker.begin_shutdown();
    let confirmed = within("the publisher to be refused", publisher)
        .await
        .unwrap();
    let data = broker.ended().await;

    let broker = Broker::start_on(data).await;
    let received = payloads(&broker.pull_n("orders", confirmed.len()).await);
    assert_eq!(received, confirmed);
}

#[tokio::test]
async fn a_client_that_never_hangs_up_does_not_keep_the_broker_from_ending() {
    let mut broker = Broker::start().await;
    broker.create("orders").await;
    let body = "x".repeat(256 * 1024);
    for _ in 0..20 {
        broker.publish("orders", &body).await;
    }
    // Never reads, never hangs up.
    let _stalled = broker.subscribe_with(open("orders")).await;
    broker.begin_shutdown();
    broker.ended().await;
}
