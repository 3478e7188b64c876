//! A publish is confirmed with where it went, and a batch is all or nothing.

use bytes::Bytes;
use courser_proto::v1::{Durability, Message, PublishRequest};
use tonic::Code;

use crate::harness::{Broker, assert_refused, message, payloads};

#[tokio::test]
async fn a_published_message_is_confirmed_and_comes_out_as_it_went_in() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let sent = Message {
        id: "order-1".to_owned(),
        topic: "orders".to_owned(),
        payload: Bytes::from_static(&[0, 159, 146, 150, 255]),
        headers: [("region".to_owned(), "eu".to_owned())].into(),
        content_type: "application/x-thing".to_owned(),
        r#type: "order.created".to_owned(),
        source: "/shop".to_owned(),
        schema_version: "2".to_owned(),
        correlation_id: "saga-7".to_owned(),
        causation_id: "click-3".to_owned(),
        traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned(),
        ..Default::default()
    };

    let confirmed = broker
        .try_publish(vec![sent.clone()])
        .await
        .unwrap()
        .remove(0);
    assert_eq!((confirmed.id.as_str(), confirmed.queues), ("order-1", 1));

    let mut received = broker.pull("orders").await.message.unwrap();
    assert_eq!(received.position, confirmed.position);
    assert!(received.published_at.take().is_some());
    assert_eq!(
        received,
        Message {
            position: confirmed.position,
            ..sent
        }
    );
}

#[tokio::test]
async fn a_message_without_an_id_gets_a_uuid_that_sorts_by_time() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let confirmed = broker.publish_all("orders", &["a", "b"]).await;
    let ids: Vec<_> = confirmed.iter().map(|result| result.id.clone()).collect();

    let received = broker.pull_n("orders", 2).await;
    let received: Vec<_> = received
        .into_iter()
        .map(|d| d.message.unwrap().id)
        .collect();

    assert_eq!(received, ids);
    assert_ne!(ids[0], ids[1]);
    for id in &ids {
        assert_eq!((id.len(), &id[14..15]), (36, "7"), "{id} is no UUIDv7");
    }
}

#[tokio::test]
async fn positions_count_up_over_the_whole_broker() {
    let broker = Broker::start().await;
    broker.create("one").await;
    broker.create("two").await;
    let mut positions = Vec::new();
    for topic in ["one", "two", "one"] {
        positions.extend(
            broker
                .publish_all(topic, &["a", "b"])
                .await
                .iter()
                .map(|r| r.position),
        );
    }
    assert!(positions.is_sorted_by(|a, b| a < b), "{positions:?}");
}

#[tokio::test]
async fn a_batch_with_one_bad_message_publishes_nothing() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let batch = vec![message("orders", "good"), message("not a topic", "bad")];
    let refused = broker.try_publish(batch).await.unwrap_err();
    assert_refused(&refused, Code::InvalidArgument, "messages[1].topic");
    broker.assert_nothing_ready("orders").await;
}

#[tokio::test]
async fn a_thousand_messages_are_one_batch() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let texts: Vec<_> = (0..1000).map(|n| n.to_string()).collect();
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    assert_eq!(broker.publish_all("orders", &texts).await.len(), 1000);
    assert_eq!(payloads(&broker.pull_n("orders", 1000).await), texts);
}

#[tokio::test]
async fn a_message_that_nobody_wants_is_confirmed_with_no_queues() {
    let broker = Broker::start().await;
    assert_eq!(broker.publish("nobody.listens", "x").await.queues, 0);
}

#[tokio::test]
async fn mandatory_refuses_the_whole_batch_when_one_message_would_reach_no_queue() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let request = PublishRequest {
        messages: vec![message("orders", "a"), message("nobody.listens", "b")],
        mandatory: true,
        ..Default::default()
    };

    let refused = broker
        .broker
        .clone()
        .publish(request.clone())
        .await
        .unwrap_err();
    assert_refused(&refused, Code::FailedPrecondition, "nobody.listens");
    broker.assert_nothing_ready("orders").await;

    broker.create("nobody.listens").await;
    let confirmed = broker
        .broker
        .clone()
        .publish(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        confirmed
            .results
            .iter()
            .map(|r| r.queues)
            .collect::<Vec<_>>(),
        [1, 1]
    );
}

#[tokio::test]
async fn a_buffered_publish_is_delivered_like_any_other() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let request = PublishRequest {
        messages: vec![message("orders", "a")],
        durability: Durability::Buffered.into(),
        ..Default::default()
    };
    let confirmed = broker
        .broker
        .clone()
        .publish(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(confirmed.results[0].queues, 1);
    broker.publish("orders", "b").await;
    assert_eq!(payloads(&broker.pull_n("orders", 2).await), ["a", "b"]);
}

#[tokio::test]
async fn a_queue_that_is_buffered_keeps_its_messages_over_a_restart() {
    let broker = Broker::start().await;
    let mut options = crate::harness::at_once();
    options.durability = Durability::Buffered.into();
    broker.create_with("orders", options).await;
    broker.publish_all("orders", &["a", "b"]).await;
    let first = broker.pull("orders").await;
    broker.settle(crate::harness::ack(&first)).await;

    let broker = broker.restart().await;
    assert_eq!(payloads(&broker.pull_n("orders", 1).await), ["b"]);
    broker.assert_nothing_ready("orders").await;
}
