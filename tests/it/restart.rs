//! What was confirmed is there after a restart, and what was acked is not.

use courser_proto::v1::{Open, SettleOutcome};

use crate::harness::{Broker, ack, ack_all, at_once, bound_to, nack, open, payloads, release};

#[tokio::test]
async fn a_restart_keeps_everything_but_what_was_acked() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let published = broker.publish_all("orders", &["a", "b", "c", "d"]).await;
    let held = broker.pull_n("orders", 3).await;
    broker.settle(ack(&held[0])).await;
    broker.settle(release(&held[1])).await;

    let broker = broker.restart().await;

    let stats = broker.stats("orders").await;
    assert_eq!((stats.ready, stats.leased), (3, 0));
    let again = broker.pull_n("orders", 3).await;
    assert_eq!(payloads(&again), ["b", "c", "d"]);
    assert!(
        again.iter().all(|d| d.attempt == 1),
        "a restart is nobody's failure"
    );
    let message = again[2].message.as_ref().unwrap();
    assert_eq!(
        (&message.id, message.position),
        (&published[3].id, published[3].position)
    );
    assert!(message.published_at.is_some());
    broker.settle(ack_all(&again)).await;

    let broker = broker.restart().await;
    broker.assert_nothing_ready("orders").await;
    assert!(broker.publish("orders", "e").await.position > published[3].position);
}

#[tokio::test]
async fn a_lease_from_before_the_restart_is_refused_by_name() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    broker.publish("orders", "a").await;
    let held = broker.pull("orders").await;
    let broker = broker.restart().await;
    let settled = broker.try_settle(ack(&held)).await.unwrap();
    assert_eq!(settled.refused[0].outcome(), SettleOutcome::Expired);
    let again = broker.pull("orders").await;
    assert_ne!(again.lease_id, held.lease_id);
    broker.settle(ack(&again)).await;
}

#[tokio::test]
async fn queues_keep_their_options_and_bindings() {
    let broker = Broker::start().await;
    let mut options = bound_to(&["order.#", "*.created"]);
    options.paused = Some(true);
    options.max_attempts = Some(3);
    let before = broker.create_with("orders", options).await;
    let broker = broker.restart().await;
    let after = broker.queue("orders").await;
    assert_eq!(after.options, before.options);
    assert_eq!(after.created_at, before.created_at);
    assert_eq!(after.dead_letter_queue, "orders.dlq");
    assert_eq!(broker.publish("invoice.created", "a").await.queues, 1);
}

#[tokio::test]
async fn failures_dead_letters_and_history_stay() {
    let broker = Broker::start().await;
    let mut options = at_once();
    options.max_attempts = Some(2);
    broker.create_with("orders", options).await;
    broker.publish_all("orders", &["dead", "failed once"]).await;
    for (attempt, text) in [(1, "dead"), (2, "dead"), (1, "failed once")] {
        let delivery = broker.pull("orders").await;
        assert_eq!(
            (payloads(std::slice::from_ref(&delivery)), delivery.attempt),
            (vec![text.to_owned()], attempt)
        );
        broker
            .settle(nack(&delivery, &format!("error {attempt}")))
            .await;
    }
    let before = (broker.peek("orders").await, broker.peek("orders.dlq").await);

    let broker = broker.restart().await;

    let after = (broker.peek("orders").await, broker.peek("orders.dlq").await);
    assert_eq!(after, before);
    assert_eq!(after.1[0].attempts.len(), 2);
    assert_eq!(broker.pull("orders").await.attempt, 2);
}

#[tokio::test]
async fn a_backlog_of_many_batches_keeps_its_order_over_two_restarts() {
    let mut broker = Broker::start().await;
    broker.create("orders").await;
    let texts: Vec<_> = (0..3000).map(|n| n.to_string()).collect();
    for batch in texts.chunks(500) {
        let batch: Vec<_> = batch.iter().map(String::as_str).collect();
        broker.publish_all("orders", &batch).await;
        if batch[0] == "1000" {
            broker = broker.restart().await;
        }
    }
    let broker = broker.restart().await;
    let credit = Open {
        max_messages: 3000,
        ..open("orders")
    };
    let mut consumer = broker.subscribe_with(credit).await;
    let deliveries = consumer.next_n(3000).await;
    assert_eq!(payloads(&deliveries), texts);
    assert_eq!(consumer.settle(ack_all(&deliveries)).await.refused, []);
    let broker = broker.restart().await;
    assert_eq!(broker.stats("orders").await.ready, 0);
}

#[tokio::test]
async fn purges_deletes_and_redrives_hold_over_a_restart() {
    use courser_proto::v1::{DeleteQueueRequest, PurgeQueueRequest, RedriveEntriesRequest};
    let broker = Broker::start().await;
    let mut options = at_once();
    options.max_attempts = Some(1);
    broker.create_with("orders", options).await;
    broker.create("purged").await;
    broker.create("deleted").await;
    for queue in ["orders", "purged", "deleted"] {
        broker.publish_all(queue, &["a", "b"]).await;
    }
    for delivery in broker.pull_n("orders", 2).await {
        broker.settle(nack(&delivery, "no")).await;
    }
    let mut admin = broker.admin.clone();
    let redrive = RedriveEntriesRequest {
        queue: "orders.dlq".to_owned(),
        limit: 1,
        ..Default::default()
    };
    admin.redrive_entries(redrive).await.unwrap();
    let purge = PurgeQueueRequest {
        name: "purged".to_owned(),
        limit: 1,
    };
    admin.purge_queue(purge).await.unwrap();
    let delete = DeleteQueueRequest {
        name: "deleted".to_owned(),
        if_empty: false,
    };
    admin.delete_queue(delete).await.unwrap();

    let broker = broker.restart().await;

    assert_eq!(payloads(&broker.pull_n("orders", 1).await), ["a"]);
    assert_eq!(payloads(&broker.pull_n("orders.dlq", 1).await), ["b"]);
    assert_eq!(payloads(&broker.pull_n("purged", 1).await), ["b"]);
    broker.create("deleted").await;
    broker.assert_nothing_ready("deleted").await;
}
