//! A message reaches every queue with a pattern that matches its topic, once.

use courser_proto::v1::{QueueOptions, UpdateQueueRequest};

use crate::harness::{Broker, bound_to, payloads};

#[tokio::test]
async fn patterns_match_tokens() {
    let broker = Broker::start().await;
    let queues = [
        ("one-token", "order.*"),
        ("middle", "order.*.paid"),
        ("rest", "order.#"),
        ("around", "#.paid"),
        ("everything", "#"),
        ("exact", "order.created"),
    ];
    for (name, pattern) in queues {
        broker.create_with(name, bound_to(&[pattern])).await;
    }
    for topic in [
        "order",
        "order.created",
        "order.7.paid",
        "paid",
        "invoice.paid",
        "a.b.c.d",
    ] {
        broker.publish(topic, topic).await;
    }
    for (queue, expected) in [
        ("one-token", vec!["order.created"]),
        ("middle", vec!["order.7.paid"]),
        ("rest", vec!["order", "order.created", "order.7.paid"]),
        ("around", vec!["order.7.paid", "paid", "invoice.paid"]),
        (
            "everything",
            vec![
                "order",
                "order.created",
                "order.7.paid",
                "paid",
                "invoice.paid",
                "a.b.c.d",
            ],
        ),
        ("exact", vec!["order.created"]),
    ] {
        let received = broker.pull_n(queue, expected.len()).await;
        assert_eq!(payloads(&received), expected, "{queue}");
        broker.assert_nothing_ready(queue).await;
    }
}

#[tokio::test]
async fn one_publish_reaches_ten_queues_and_each_is_settled_by_itself() {
    let broker = Broker::start().await;
    let names: Vec<_> = (0..10).map(|n| format!("service-{n}")).collect();
    for name in &names {
        broker.create_with(name, bound_to(&["order.created"])).await;
    }
    assert_eq!(broker.publish("order.created", "o1").await.queues, 10);
    let acked = broker.pull(&names[0]).await;
    broker.settle(crate::harness::ack(&acked)).await;
    broker.assert_nothing_ready(&names[0]).await;
    for name in &names[1..] {
        let delivery = broker.pull(name).await;
        assert_eq!(payloads(std::slice::from_ref(&delivery)), ["o1"]);
        broker.settle(crate::harness::ack(&delivery)).await;
    }
}

#[tokio::test]
async fn a_queue_with_two_patterns_that_match_gets_the_message_once() {
    let broker = Broker::start().await;
    broker
        .create_with("orders", bound_to(&["order.*", "order.#", "orders"]))
        .await;
    assert_eq!(broker.publish("order.created", "a").await.queues, 1);
    assert_eq!(broker.publish("orders", "b").await.queues, 1);
    assert_eq!(payloads(&broker.pull_n("orders", 2).await), ["a", "b"]);
    broker.assert_nothing_ready("orders").await;
}

#[tokio::test]
async fn bindings_can_change_live() {
    let broker = Broker::start().await;
    broker.create_with("orders", bound_to(&["old.*"])).await;
    assert_eq!(broker.publish("new.a", "1").await.queues, 0);

    let request = UpdateQueueRequest {
        name: "orders".to_owned(),
        options: Some(QueueOptions {
            bindings: bound_to(&["new.*"]).bindings,
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["bindings".to_owned()],
        }),
    };
    broker.admin.clone().update_queue(request).await.unwrap();

    assert_eq!(broker.publish("old.a", "2").await.queues, 0);
    assert_eq!(broker.publish("new.a", "3").await.queues, 1);
    assert_eq!(payloads(&broker.pull_n("orders", 1).await), ["3"]);
}

#[tokio::test]
async fn a_deleted_queue_is_no_longer_routed_to() {
    let broker = Broker::start().await;
    broker.create_with("orders", bound_to(&["order.*"])).await;
    let request = courser_proto::v1::DeleteQueueRequest {
        name: "orders".to_owned(),
        if_empty: false,
    };
    broker.admin.clone().delete_queue(request).await.unwrap();
    assert_eq!(broker.publish("order.created", "a").await.queues, 0);
    assert_eq!(broker.publish("orders", "a").await.queues, 0);
}
