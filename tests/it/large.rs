//! Messages up to the configured limit go through both ways.

use bytes::Bytes;
use courser_proto::v1::{
    CreateQueueRequest, Message, Open, PublishStreamRequest, SubscribeRequest, subscribe_request,
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::harness::{Broker, Settings, ack, assert_refused, open, within};

const MIB: usize = 1024 * 1024;

fn large(bytes: usize) -> Message {
    let payload: Vec<u8> = (0..bytes).map(|n| (n % 251) as u8).collect();
    Message {
        topic: "files".to_owned(),
        payload: Bytes::from(payload),
        ..Default::default()
    }
}

/// Publishes once, and takes it over both calls.
async fn goes_through(broker: &Broker, bytes: usize) {
    broker.create("files").await;
    let sent = large(bytes);
    broker.try_publish(vec![sent.clone()]).await.unwrap();
    let mut consumer = broker.subscribe("files").await;
    let delivery = consumer.next().await;
    assert!(
        delivery.message.as_ref().unwrap().payload == sent.payload,
        "the payload is another"
    );
    consumer.settle(crate::harness::release(&delivery)).await;
    drop(consumer);
    let delivery = broker.pull("files").await;
    assert!(
        delivery.message.as_ref().unwrap().payload == sent.payload,
        "the payload is another"
    );
    broker.settle(ack(&delivery)).await;
    broker.assert_nothing_ready("files").await;
}

fn assert_too_large(refused: &Status, max: &str) {
    assert_refused(refused, Code::InvalidArgument, max);
    let info = refused.get_details_error_info().unwrap();
    assert_eq!(info.reason, "REQUEST_TOO_LARGE");
}

#[tokio::test]
async fn four_mebibytes_go_through_by_default_and_not_a_byte_more() {
    let broker = Broker::start().await;
    goes_through(&broker, 4 * MIB).await;
    let refused = broker
        .try_publish(vec![large(4 * MIB + 1)])
        .await
        .unwrap_err();
    assert_refused(&refused, Code::InvalidArgument, "payload");
}

#[tokio::test]
async fn sixty_four_mebibytes_go_through_when_configured() {
    let settings = Settings {
        max_message_bytes: Some(64 * MIB),
    };
    let broker = Broker::start_with(settings).await;
    goes_through(&broker, 64 * MIB).await;
    let refused = broker
        .try_publish(vec![large(64 * MIB + 1)])
        .await
        .unwrap_err();
    assert_refused(&refused, Code::InvalidArgument, "payload");
}

#[tokio::test]
async fn what_was_stored_when_more_was_allowed_still_comes() {
    let generous = Settings {
        max_message_bytes: Some(64 * MIB),
    };
    let broker = Broker::start_with(generous).await;
    broker.create("files").await;
    let sent = large(64 * MIB);
    broker.try_publish(vec![sent.clone()]).await.unwrap();
    let broker = broker.restart().await;
    let delivery = broker.pull("files").await;
    assert!(
        delivery.message.as_ref().unwrap().payload == sent.payload,
        "the payload is another"
    );
    broker.settle(crate::harness::release(&delivery)).await;
    let delivery = broker.subscribe("files").await.next().await;
    assert!(
        delivery.message.as_ref().unwrap().payload == sent.payload,
        "the payload is another"
    );
}

#[tokio::test]
async fn a_request_holds_sixteen_mebibytes_at_most() {
    let broker = Broker::start().await;
    broker.create("files").await;
    let messages = vec![large(4 * MIB - 4096); 4];
    assert_eq!(broker.try_publish(messages).await.unwrap().len(), 4);
    // The bytes of payloads and of what is around them count together.
    let refused = broker
        .try_publish(vec![large(4 * MIB); 4])
        .await
        .unwrap_err();
    assert_refused(&refused, Code::InvalidArgument, "messages");
    // Far beyond that the request is not even read.
    let refused = broker
        .try_publish(vec![large(4 * MIB); 10])
        .await
        .unwrap_err();
    assert_too_large(&refused, "17825792 bytes");
    assert_eq!(broker.stats("files").await.ready, 4);
}

#[tokio::test]
async fn a_request_too_large_to_be_read_is_refused_by_every_call() {
    let broker = Broker::start().await;
    broker.create("files").await;
    let request = CreateQueueRequest {
        name: "x".repeat(18 * MIB),
        options: None,
    };
    let refused = broker.admin.clone().create_queue(request).await;
    assert_too_large(&refused.unwrap_err(), "1048576 bytes");

    let request = PublishStreamRequest {
        messages: vec![large(4 * MIB); 10],
        ..Default::default()
    };
    let answers = broker
        .connect()
        .await
        .publish_stream(tokio_stream::iter([request]))
        .await;
    let ended = match answers {
        Ok(answers) => within("the end", answers.into_inner().message())
            .await
            .unwrap_err(),
        Err(status) => status,
    };
    assert_too_large(&ended, "17825792 bytes");

    let consumer = broker.subscribe("files").await;
    let settle = SubscribeRequest {
        kind: Some(subscribe_request::Kind::Open(Open {
            consumer: "x".repeat(18 * MIB),
            ..open("files")
        })),
    };
    consumer.requests.send(settle).await.unwrap();
    assert_too_large(&consumer.end().await, "17825792 bytes");
}
