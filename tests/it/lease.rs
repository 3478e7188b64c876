//! A lease that runs out gives its entry to somebody else; a late ack counts until then.

use courser_proto::v1::{AttemptOutcome, Open, QueueOptions, SettleOutcome};

use crate::harness::{Broker, ack, at_once, nack, open, payload, seconds};

fn short_lease() -> QueueOptions {
    QueueOptions {
        lease: Some(seconds(1)),
        ..at_once()
    }
}

#[tokio::test]
async fn an_expired_lease_gives_the_entry_to_the_next_consumer() {
    let broker = Broker::start().await;
    broker.create_with("orders", short_lease()).await;
    broker.publish("orders", "a").await;
    let first = broker.pull("orders").await;
    assert_eq!(first.attempt, 1);

    let again = broker.pull("orders").await;

    assert_eq!((payload(&again), again.attempt), ("a".to_owned(), 2));
    let settled = broker.try_settle(ack(&first)).await.unwrap();
    assert_eq!(
        settled.refused[0].outcome(),
        SettleOutcome::Expired,
        "{:?}",
        settled.refused[0]
    );
    broker.settle(ack(&again)).await;
    let stats = broker.stats("orders").await;
    assert_eq!((stats.ready, stats.leased, stats.expired_total), (0, 0, 1));
}

#[tokio::test]
async fn a_late_ack_is_honoured_while_nobody_else_holds_the_entry() {
    let broker = Broker::start().await;
    broker.create_with("orders", short_lease()).await;
    broker.publish("orders", "a").await;
    let delivery = broker.pull("orders").await;
    broker
        .wait_for_stats("orders", "the lease to run out", |s| s.expired_total == 1)
        .await;
    broker.settle(ack(&delivery)).await;
    broker.assert_nothing_ready("orders").await;
    assert_eq!(broker.peek("orders").await, []);
}

#[tokio::test]
async fn a_late_nack_is_refused_by_name() {
    let broker = Broker::start().await;
    broker.create_with("orders", short_lease()).await;
    broker.publish("orders", "a").await;
    let delivery = broker.pull("orders").await;
    broker
        .wait_for_stats("orders", "the lease to run out", |s| s.expired_total == 1)
        .await;
    let settled = broker
        .try_settle(nack(&delivery, "too late"))
        .await
        .unwrap();
    assert_eq!(settled.refused[0].outcome(), SettleOutcome::Expired);
    assert_eq!(
        broker.pull("orders").await.attempt,
        2,
        "the expiry counted once"
    );
}

#[tokio::test]
async fn a_consumer_may_ask_for_a_lease_of_its_own() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    broker.publish("orders", "a").await;
    let hasty = Open {
        lease: Some(seconds(1)),
        ..open("orders")
    };
    let mut consumer = broker.subscribe_with(hasty).await;
    consumer.next().await;
    // The queue's own lease of 30 s would fail this wait.
    broker
        .wait_for_stats("orders", "the short lease to run out", |s| {
            s.expired_total == 1
        })
        .await;
}

#[tokio::test]
async fn the_last_expired_attempt_dead_letters_the_entry() {
    let broker = Broker::start().await;
    let options = QueueOptions {
        max_attempts: Some(1),
        ..short_lease()
    };
    broker.create_with("orders", options).await;
    broker.publish("orders", "a").await;
    broker.pull("orders").await;
    let dead = broker.pull("orders.dlq").await;
    assert_eq!(dead.dead_letter.unwrap().reason, "max_attempts");
    let history = &broker.peek("orders.dlq").await[0].attempts;
    assert_eq!(
        (history.len(), history[0].outcome()),
        (1, AttemptOutcome::Expired)
    );
}
