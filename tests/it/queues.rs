//! Queues are created, changed, emptied, paused and deleted while the broker runs.

use courser_proto::v1::{
    CreateQueueRequest, DeleteQueueRequest, DeleteQueueResponse, Durability, ListQueuesRequest,
    PauseQueueRequest, PurgeQueueRequest, Queue, QueueOptions, ResumeQueueRequest,
    UpdateQueueRequest,
};
use tonic::{Code, Status};

use crate::harness::{
    Broker, assert_refused, at_once, bound_to, nack, open, payload, payloads, pull_request, seconds,
};

async fn update(
    broker: &Broker,
    options: QueueOptions,
    paths: &[&str],
) -> Result<QueueOptions, Status> {
    let paths = paths.iter().map(ToString::to_string).collect();
    let request = UpdateQueueRequest {
        name: "orders".to_owned(),
        options: Some(options),
        update_mask: Some(prost_types::FieldMask { paths }),
    };
    let queue = broker
        .admin
        .clone()
        .update_queue(request)
        .await?
        .into_inner()
        .queue
        .unwrap();
    Ok(queue.options.unwrap())
}

async fn delete(broker: &Broker, if_empty: bool) -> Result<DeleteQueueResponse, Status> {
    let request = DeleteQueueRequest {
        name: "orders".to_owned(),
        if_empty,
    };
    Ok(broker
        .admin
        .clone()
        .delete_queue(request)
        .await?
        .into_inner())
}

#[tokio::test]
async fn a_queue_answers_with_every_option_set() {
    let broker = Broker::start().await;
    let queue = broker.create_with("orders", QueueOptions::default()).await;
    let options = queue.options.unwrap();
    assert_eq!(options.lease, Some(seconds(30)));
    assert_eq!(options.max_attempts, Some(10));
    assert_eq!(options.paused, Some(false));
    assert_eq!(options.durability(), Durability::Synced);
    assert_eq!(options.dead_letter.unwrap().enabled, Some(true));
    let backoff = options.backoff.unwrap();
    assert_eq!(
        (backoff.initial, backoff.max),
        (Some(seconds(1)), Some(seconds(300)))
    );
    assert!((backoff.multiplier - 2.0).abs() < f64::EPSILON);
    assert!(queue.created_at.is_some());
}

#[tokio::test]
async fn creating_again_with_the_same_options_is_ok_and_changes_nothing() {
    let broker = Broker::start().await;
    let options = bound_to(&["order.#", "invoice.*"]);
    let mut reordered = options.clone();
    reordered.bindings.reverse();
    let create = |options: QueueOptions| CreateQueueRequest {
        name: "orders".to_owned(),
        options: Some(options),
    };
    let mut admin = broker.admin.clone();
    let first = admin
        .create_queue(create(options))
        .await
        .unwrap()
        .into_inner();
    broker.publish("orders", "a").await;
    let second = admin
        .create_queue(create(reordered))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((first.created, second.created), (true, false));
    assert_eq!(
        second.queue.unwrap().created_at,
        first.queue.unwrap().created_at
    );
    assert_eq!(payload(&broker.pull("orders").await), "a");
}

#[tokio::test]
async fn creating_again_with_other_options_names_the_fields_and_both_values() {
    let broker = Broker::start().await;
    broker.create_with("orders", at_once()).await;
    let options = QueueOptions {
        lease: Some(seconds(60)),
        max_attempts: Some(3),
        ..at_once()
    };
    let request = CreateQueueRequest {
        name: "orders".to_owned(),
        options: Some(options),
    };
    let refused = broker
        .admin
        .clone()
        .create_queue(request)
        .await
        .unwrap_err();
    for part in ["orders", "lease", "30", "60", "max_attempts", "10", "3"] {
        assert_refused(&refused, Code::AlreadyExists, part);
    }
    assert!(!refused.message().contains("backoff"), "{refused:?}");
}

#[tokio::test]
async fn an_update_changes_what_the_mask_names_and_nothing_else() {
    let broker = Broker::start().await;
    let options = QueueOptions {
        max_attempts: Some(3),
        ..bound_to(&["order.#"])
    };
    broker.create_with("orders", options.clone()).await;
    let change = QueueOptions {
        lease: Some(seconds(60)),
        max_attempts: Some(99),
        backoff: Some(courser_proto::v1::Backoff {
            max: Some(seconds(9)),
            ..Default::default()
        }),
        ..Default::default()
    };

    let changed = update(&broker, change, &["lease", "backoff.max"])
        .await
        .unwrap();

    assert_eq!(changed.lease, Some(seconds(60)));
    assert_eq!(changed.max_attempts, Some(3));
    assert_eq!(changed.bindings, options.bindings);
    let backoff = changed.backoff.unwrap();
    assert_eq!(
        (backoff.initial, backoff.max),
        (Some(seconds(0)), Some(seconds(9)))
    );
    assert_eq!(broker.queue("orders").await.options.unwrap(), changed);
}

#[tokio::test]
async fn an_option_in_the_mask_that_is_not_set_goes_back_to_its_default() {
    let broker = Broker::start().await;
    let options = QueueOptions {
        max_attempts: Some(3),
        ..bound_to(&["order.#"])
    };
    broker.create_with("orders", options).await;
    let paths = ["max_attempts", "bindings", "backoff"];
    let changed = update(&broker, QueueOptions::default(), &paths)
        .await
        .unwrap();
    assert_eq!(
        (changed.max_attempts, changed.bindings.len()),
        (Some(10), 0)
    );
    assert_eq!(changed.backoff.unwrap().initial, Some(seconds(1)));
}

#[tokio::test]
async fn an_update_outside_the_limits_changes_nothing() {
    let broker = Broker::start().await;
    let before = broker.create("orders").await;
    let bad = QueueOptions {
        lease: Some(seconds(0)),
        max_attempts: Some(7),
        ..Default::default()
    };
    let refused = update(&broker, bad, &["max_attempts", "lease"])
        .await
        .unwrap_err();
    assert_refused(&refused, Code::InvalidArgument, "options.lease");
    let refused = update(&broker, at_once(), &["name"]).await.unwrap_err();
    assert_refused(&refused, Code::InvalidArgument, "update_mask");
    let refused = update(&broker, at_once(), &[]).await.unwrap_err();
    assert_refused(&refused, Code::InvalidArgument, "update_mask");
    assert_eq!(broker.queue("orders").await.options, before.options);
}

#[tokio::test]
async fn a_new_lease_holds_for_new_deliveries() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    broker.publish_all("orders", &["a", "b"]).await;
    let first = broker.pull("orders").await;
    let change = QueueOptions {
        lease: Some(seconds(3600)),
        ..Default::default()
    };
    update(&broker, change, &["lease"]).await.unwrap();
    let second = broker.pull("orders").await;
    let longer = second.lease_until.unwrap().seconds - first.lease_until.unwrap().seconds;
    assert!((3560..3600).contains(&longer), "{longer} s longer");
}

#[tokio::test]
async fn dead_letters_cannot_be_turned_off_while_there_are_some() {
    let broker = Broker::start().await;
    broker
        .create_with(
            "orders",
            QueueOptions {
                max_attempts: Some(1),
                ..at_once()
            },
        )
        .await;
    broker.publish("orders", "a").await;
    let delivery = broker.pull("orders").await;
    broker.settle(nack(&delivery, "")).await;
    let off = crate::harness::without_dead_letters();
    let refused = update(&broker, off.clone(), &["dead_letter"])
        .await
        .unwrap_err();
    assert_refused(&refused, Code::FailedPrecondition, "orders");
    let request = PurgeQueueRequest {
        name: "orders.dlq".to_owned(),
        limit: 0,
    };
    assert_eq!(
        broker
            .admin
            .clone()
            .purge_queue(request)
            .await
            .unwrap()
            .into_inner()
            .purged,
        1
    );
    update(&broker, off, &["dead_letter"]).await.unwrap();
    assert_eq!(broker.queue("orders").await.dead_letter_queue, "");
}

#[tokio::test]
async fn a_paused_queue_takes_messages_and_delivers_none() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    broker.publish_all("orders", &["a", "b"]).await;
    let held = broker.pull("orders").await;
    let pause = PauseQueueRequest {
        name: "orders".to_owned(),
    };
    for _ in 0..2 {
        broker
            .admin
            .clone()
            .pause_queue(pause.clone())
            .await
            .unwrap();
    }
    let mut consumer = broker.subscribe("orders").await;
    broker.publish("orders", "c").await;
    assert!(consumer.arrived().await.is_empty());
    broker.assert_nothing_ready("orders").await;
    broker.settle(crate::harness::ack(&held)).await;
    assert_eq!(broker.stats("orders").await.ready, 2);

    let resume = ResumeQueueRequest {
        name: "orders".to_owned(),
    };
    for _ in 0..2 {
        broker
            .admin
            .clone()
            .resume_queue(resume.clone())
            .await
            .unwrap();
    }
    assert_eq!(payloads(&consumer.next_n(2).await), ["b", "c"]);
}

#[tokio::test]
async fn a_purge_takes_the_oldest_that_nobody_holds() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    broker.publish_all("orders", &["a", "b", "c", "d"]).await;
    let held = broker.pull("orders").await;
    let purge = |limit| PurgeQueueRequest {
        name: "orders".to_owned(),
        limit,
    };
    let mut admin = broker.admin.clone();
    assert_eq!(
        admin
            .purge_queue(purge(2))
            .await
            .unwrap()
            .into_inner()
            .purged,
        2
    );
    let left = broker.peek("orders").await;
    let left: Vec<_> = left
        .iter()
        .map(|e| e.message.as_ref().unwrap().payload.clone())
        .collect();
    assert_eq!(left, ["a", "d"]);
    assert_eq!(
        admin
            .purge_queue(purge(0))
            .await
            .unwrap()
            .into_inner()
            .purged,
        1
    );
    broker.settle(crate::harness::ack(&held)).await;
    assert_eq!(broker.stats("orders").await.purged_total, 3);
}

#[tokio::test]
async fn deleting_a_queue_ends_its_consumers_with_not_found() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    broker.publish_all("orders", &["a", "b"]).await;
    let mut consumer = broker.subscribe("orders").await;
    let held = consumer.next_n(2).await;
    let waiting = tokio::spawn({
        let mut client = broker.connect().await;
        let wait = Some(seconds(60));
        async move {
            let request = courser_proto::v1::PullRequest {
                wait,
                ..pull_request("orders")
            };
            client.pull(request).await
        }
    });
    broker
        .wait_for_stats("orders", "the long poll", |s| s.consumers.len() == 2)
        .await;

    assert_eq!(delete(&broker, false).await.unwrap().entries, 2);

    assert_refused(&consumer.end().await, Code::NotFound, "orders");
    let pulled = crate::harness::within("the long poll to end", waiting)
        .await
        .unwrap();
    assert_refused(&pulled.unwrap_err(), Code::NotFound, "orders");
    let settled = broker
        .try_settle(crate::harness::ack(&held[0]))
        .await
        .unwrap();
    assert_eq!(settled.refused.len(), 1);
    let refused = broker.try_subscribe(open("orders")).await.err();
    assert_refused(
        &refused.expect("the queue is gone"),
        Code::NotFound,
        "orders",
    );

    broker.create("orders").await;
    broker.assert_nothing_ready("orders").await;
}

#[tokio::test]
async fn a_queue_can_be_deleted_only_if_empty() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    broker.publish("orders", "a").await;
    assert_refused(
        &delete(&broker, true).await.unwrap_err(),
        Code::FailedPrecondition,
        "orders",
    );
    let held = broker.pull("orders").await;
    assert_refused(
        &delete(&broker, true).await.unwrap_err(),
        Code::FailedPrecondition,
        "orders",
    );
    broker.settle(crate::harness::ack(&held)).await;
    let gone = delete(&broker, true).await.unwrap();
    assert_eq!((gone.entries, gone.dead_letters), (0, 0));
    assert_refused(
        &delete(&broker, false).await.unwrap_err(),
        Code::NotFound,
        "orders",
    );
}

#[tokio::test]
async fn queues_are_listed_by_name_in_pages() {
    let broker = Broker::start().await;
    for name in ["b", "a.two", "a.one", "c"] {
        broker.create(name).await;
    }
    let mut names = Vec::new();
    let mut token = String::new();
    loop {
        let request = ListQueuesRequest {
            page_size: 3,
            page_token: token,
            ..Default::default()
        };
        let page = broker
            .admin
            .clone()
            .list_queues(request)
            .await
            .unwrap()
            .into_inner();
        assert!(page.queues.len() <= 3);
        names.extend(page.queues.into_iter().map(|queue: Queue| queue.name));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(
        names,
        [
            "a.one",
            "a.one.dlq",
            "a.two",
            "a.two.dlq",
            "b",
            "b.dlq",
            "c",
            "c.dlq"
        ]
    );
    let request = ListQueuesRequest {
        prefix: "a.".to_owned(),
        ..Default::default()
    };
    let page = broker
        .admin
        .clone()
        .list_queues(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!((page.queues.len(), page.next_page_token.as_str()), (4, ""));
}
