//! Streams tell that they are alive, and one that never opens does not last.

use courser_proto::v1::{SubscribeRequest, subscribe_response};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::harness::{Broker, Consumer, assert_refused, message, payload, within};

/// Both take their time, so they wait side by side.
#[tokio::test]
async fn an_idle_consumer_hears_a_heartbeat_and_a_stream_that_never_opens_is_ended() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let mut consumer = broker.subscribe("orders").await;
    tokio::join!(hears_a_heartbeat(&mut consumer), is_ended(&broker));
    broker.publish("orders", "a").await;
    assert_eq!(
        payload(&consumer.next().await),
        "a",
        "the consumer is served on"
    );
}

async fn hears_a_heartbeat(consumer: &mut Consumer) {
    let response = within("a heartbeat", consumer.responses.message())
        .await
        .unwrap()
        .unwrap();
    assert!(
        matches!(response.kind, Some(subscribe_response::Kind::Heartbeat(_))),
        "{response:?}"
    );
}

async fn is_ended(broker: &Broker) {
    let (_requests, outgoing) = mpsc::channel::<SubscribeRequest>(1);
    let status = match broker
        .connect()
        .await
        .subscribe(ReceiverStream::new(outgoing))
        .await
    {
        Ok(response) => {
            let mut responses = response.into_inner();
            within("the end of the stream", responses.message())
                .await
                .unwrap_err()
        }
        Err(status) => status,
    };
    assert_refused(&status, Code::DeadlineExceeded, "open");
}

#[tokio::test]
async fn a_consumer_that_says_nothing_more_after_opening_is_still_served() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let mut consumer = broker.subscribe("orders").await;
    for text in ["a", "b", "c"] {
        broker.publish("orders", text).await;
        assert_eq!(payload(&consumer.next().await), text);
    }
    assert_eq!(broker.stats("orders").await.leased, 3);
}

#[tokio::test]
async fn a_publisher_that_reads_no_confirms_is_slowed_and_nobody_else_is() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let mut client = broker.connect().await;
    let (requests, outgoing) = mpsc::channel(1);
    let confirms = client
        .publish_stream(ReceiverStream::new(outgoing))
        .await
        .unwrap();
    let flood = tokio::spawn(async move {
        let body = "x".repeat(1024);
        for number in 0.. {
            let messages = vec![message("orders", &body); 100];
            let request = courser_proto::v1::PublishStreamRequest {
                number,
                messages,
                ..Default::default()
            };
            if requests.send(request).await.is_err() {
                break;
            }
        }
    });
    broker
        .wait_for_stats("orders", "the flood to begin", |s| s.ready >= 1000)
        .await;
    // Others are served beside it.
    broker.create("invoices").await;
    broker.publish("invoices", "a").await;
    assert_eq!(payload(&broker.pull("invoices").await), "a");
    flood.abort();
    drop(confirms);
}
