//! What a consumer can say of a lease, and that it can say it once.

use crate::harness::{
    Broker, Consumer, ack, ack_all, at_once, nack, payload, payloads, release, seconds, within,
    without_dead_letters,
};
use courser_proto::v1::{Extend, Nack, Reject, Settle, SettleOutcome};

#[tokio::test]
async fn an_acked_entry_is_gone() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    broker.publish("orders", "a").await;
    let delivery = broker.pull("orders").await;
    broker.settle(ack(&delivery)).await;
    broker.assert_nothing_ready("orders").await;
    assert_eq!(broker.peek("orders").await, []);
}

#[tokio::test]
async fn a_nacked_entry_comes_again_as_the_next_attempt() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    broker.publish("orders", "a").await;
    for attempt in 1..=3 {
        let delivery = broker.pull("orders").await;
        assert_eq!(delivery.attempt, attempt);
        broker.settle(nack(&delivery, "no stock")).await;
    }
    let stats = broker.stats("orders").await;
    assert_eq!(
        (stats.nacked_total, stats.delivered_total, stats.ready),
        (3, 3, 1)
    );
}

#[tokio::test]
async fn retry_after_delays_the_entry_and_nothing_behind_it() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    broker.publish_all("orders", &["a", "b"]).await;
    let first = broker.pull("orders").await;
    let later = Nack {
        lease_id: first.lease_id,
        retry_after: Some(seconds(1)),
        ..Default::default()
    };
    broker
        .settle(Settle {
            nack: vec![later],
            ..Default::default()
        })
        .await;

    let stats = broker.stats("orders").await;
    assert_eq!((stats.delayed, stats.ready), (1, 1));
    assert!(broker.peek("orders").await[0].ready_at.is_some());

    let second = broker.pull("orders").await;
    assert_eq!(payload(&second), "b");
    let again = broker.pull("orders").await;
    assert_eq!((payload(&again), again.attempt), ("a".to_owned(), 2));
    let waited = millis_between(&first, &again);
    assert!(waited >= 1000, "came again after {waited} ms");
}

fn millis_between(a: &courser_proto::v1::Delivery, b: &courser_proto::v1::Delivery) -> i64 {
    let millis = |d: &courser_proto::v1::Delivery| {
        let until = d.lease_until.unwrap();
        until.seconds * 1000 + i64::from(until.nanos) / 1_000_000
    };
    millis(b) - millis(a)
}

#[tokio::test]
async fn the_backoff_of_the_queue_delays_a_nacked_entry() {
    let broker = Broker::start().await;
    let mut options = at_once();
    let backoff = options.backoff.as_mut().unwrap();
    backoff.initial = Some(seconds(3600));
    backoff.max = Some(seconds(7200));
    broker.create_with("orders", options).await;
    broker.publish("orders", "a").await;
    let delivery = broker.pull("orders").await;
    broker.settle(nack(&delivery, "")).await;
    let stats = broker.stats("orders").await;
    assert_eq!((stats.delayed, stats.ready, stats.leased), (1, 0, 0));
    broker.assert_nothing_ready("orders").await;
}

#[tokio::test]
async fn a_released_entry_comes_back_to_its_place_without_blame() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    broker.publish_all("orders", &["a", "b"]).await;
    let delivery = broker.pull("orders").await;
    broker.settle(release(&delivery)).await;
    let again = broker.pull_n("orders", 2).await;
    assert_eq!(payloads(&again), ["a", "b"]);
    assert_eq!(again[0].attempt, 1);
    assert_ne!(
        again[0].lease_id, delivery.lease_id,
        "a lease id is never issued twice"
    );
    assert_eq!(broker.stats("orders").await.released_total, 1);
}

#[tokio::test]
async fn a_dead_lettered_entry_goes_aside_with_its_reason() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    broker.publish("orders", "a").await;
    let delivery = broker.pull("orders").await;
    let reject = Reject {
        lease_id: delivery.lease_id,
        reason: "malformed".to_owned(),
        description: "no customer".to_owned(),
    };
    broker
        .settle(Settle {
            dead_letter: vec![reject],
            ..Default::default()
        })
        .await;

    let stats = broker.stats("orders").await;
    assert_eq!((stats.ready, stats.leased, stats.dead), (0, 0, 1));
    assert_eq!(
        stats.dead_lettered_total,
        [("malformed".to_owned(), 1)].into()
    );
    let dead = broker.pull("orders.dlq").await;
    let why = dead.dead_letter.as_ref().unwrap();
    assert_eq!(
        (
            payload(&dead).as_str(),
            why.reason.as_str(),
            why.description.as_str(),
            why.queue.as_str()
        ),
        ("a", "malformed", "no customer", "orders")
    );
}

#[tokio::test]
async fn an_extended_lease_outlives_its_first_deadline() {
    let broker = Broker::start().await;
    let mut options = at_once();
    options.lease = Some(seconds(1));
    broker.create_with("orders", options).await;
    broker.publish_all("orders", &["a", "b"]).await;
    let deliveries = broker.pull_n("orders", 2).await;
    let extend = Extend {
        lease_id: deliveries[0].lease_id,
        by: Some(seconds(600)),
    };
    broker
        .settle(Settle {
            extend: vec![extend],
            ..Default::default()
        })
        .await;

    // The other lease shows that the time has passed.
    broker
        .wait_for_stats("orders", "the second lease to run out", |s| {
            s.expired_total == 1
        })
        .await;
    let stats = broker.stats("orders").await;
    assert_eq!((stats.leased, stats.ready), (1, 1));
    broker.settle(ack(&deliveries[0])).await;
}

#[tokio::test]
async fn a_lease_settles_once() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    broker.publish_all("orders", &["a", "b"]).await;
    let deliveries = broker.pull_n("orders", 2).await;
    broker.settle(ack(&deliveries[0])).await;
    broker.settle(nack(&deliveries[1], "")).await;

    for again in [
        ack_all(&deliveries),
        nack(&deliveries[0], ""),
        release(&deliveries[0]),
    ] {
        let settled = broker.try_settle(again).await.unwrap();
        assert_eq!(settled.ok, [0_u64; 0]);
        for refused in settled.refused {
            assert_eq!(refused.outcome(), SettleOutcome::Unknown);
            assert!(!refused.message.is_empty());
        }
    }
    assert_eq!(broker.stats("orders").await.ready, 1, "b is back, once");
}

#[tokio::test]
async fn a_settle_without_results_is_answered_only_where_something_was_refused() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    broker.publish_all("orders", &["a", "b", "c", "d"]).await;
    let mut consumer = broker.subscribe("orders").await;
    let held = consumer.next_n(4).await;
    let quietly = |settle| Settle {
        without_results: true,
        ..settle
    };
    consumer.send(quietly(ack(&held[0]))).await;
    // The answer to another says that it is done.
    let nothing = consumer.settle(Settle::default()).await;
    assert_eq!((nothing.ok.len(), nothing.refused.len()), (0, 0));
    assert_eq!(broker.stats("orders").await.acked_total, 1);
    // What the engine refuses is named, and what is outside its limits; not what was done with the others.
    let again = consumer.settle(quietly(ack_all(&held[..2]))).await;
    let refused: Vec<u64> = again.refused.iter().map(|one| one.lease_id).collect();
    assert_eq!((again.ok, refused), (vec![], vec![held[0].lease_id]));
    let unnamed = Reject {
        lease_id: held[2].lease_id,
        ..Default::default()
    };
    let partly = Settle {
        dead_letter: vec![unnamed],
        ..ack_all(&held[1..2])
    };
    let partly = consumer.settle(quietly(partly)).await;
    let refused: Vec<u64> = partly.refused.iter().map(|one| one.lease_id).collect();
    assert_eq!(partly.ok, [] as [u64; 0]);
    assert_eq!(refused, [held[1].lease_id, held[2].lease_id]);
    // Nor does a call of its own say it.
    let one = broker.try_settle(quietly(ack(&held[2]))).await.unwrap();
    assert_eq!((one.ok.len(), one.refused.len()), (0, 0));
    // The stream ends behind the last of them, and says nothing of it.
    consumer.send(quietly(ack(&held[3]))).await;
    let Consumer {
        requests,
        mut responses,
        ..
    } = consumer;
    drop(requests);
    let ended = within("the end", responses.message()).await.unwrap();
    assert_eq!(ended, None);
    assert_eq!(broker.stats("orders").await.acked_total, 4);
}

#[tokio::test]
async fn a_lease_that_was_never_issued_is_unknown_and_does_not_affect_the_others() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    broker.publish_all("orders", &["a", "b"]).await;
    let mut consumer = broker.subscribe("orders").await;
    let deliveries = consumer.next_n(2).await;
    let mut settle = ack_all(&deliveries);
    let never = deliveries[1].lease_id + 1000;
    settle.ack.extend([0, never, u64::MAX]);

    let settled = consumer.settle(settle).await;

    assert_eq!(settled.ok, [deliveries[0].lease_id, deliveries[1].lease_id]);
    let refused: Vec<_> = settled
        .refused
        .iter()
        .map(|r| (r.lease_id, r.outcome()))
        .collect();
    let unknown = SettleOutcome::Unknown;
    assert_eq!(
        refused,
        [(0, unknown), (never, unknown), (u64::MAX, unknown)]
    );
}

#[tokio::test]
async fn one_settle_may_do_a_different_thing_with_each_lease() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    broker
        .publish_all("orders", &["a", "b", "c", "d", "e"])
        .await;
    let mut consumer = broker.subscribe("orders").await;
    let leases: Vec<_> = consumer
        .next_n(5)
        .await
        .iter()
        .map(|d| d.lease_id)
        .collect();
    let settled = consumer
        .settle(Settle {
            ack: vec![leases[0]],
            nack: vec![Nack {
                lease_id: leases[1],
                retry_after: Some(seconds(3600)),
                ..Default::default()
            }],
            release: vec![leases[2]],
            dead_letter: vec![Reject {
                lease_id: leases[3],
                reason: "bad".to_owned(),
                ..Default::default()
            }],
            extend: vec![Extend {
                lease_id: leases[4],
                by: Some(seconds(60)),
            }],
            without_results: false,
        })
        .await;
    assert_eq!((settled.ok.len(), settled.refused.len()), (5, 0));
    let again = consumer.next().await;
    assert_eq!((payload(&again), again.attempt), ("c".to_owned(), 1));
    let stats = broker.stats("orders").await;
    assert_eq!(
        (stats.delayed, stats.leased, stats.dead, stats.acked_total),
        (1, 2, 1, 1)
    );
}

#[tokio::test]
async fn a_lease_can_be_settled_on_another_connection() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    broker.publish("orders", "a").await;
    let mut consumer = broker.subscribe("orders").await;
    let delivery = consumer.next().await;
    broker.settle(ack(&delivery)).await;
    let settled = consumer.settle(ack(&delivery)).await;
    assert_eq!(settled.refused[0].outcome(), SettleOutcome::Unknown);
}

#[tokio::test]
async fn an_entry_cannot_be_dead_lettered_where_there_is_no_dead_letter_queue() {
    let broker = Broker::start().await;
    broker.create_with("orders", without_dead_letters()).await;
    broker.publish("orders", "a").await;
    let delivery = broker.pull("orders").await;
    let reject = Reject {
        lease_id: delivery.lease_id,
        reason: "bad".to_owned(),
        ..Default::default()
    };
    let settle = Settle {
        dead_letter: vec![reject],
        ..Default::default()
    };
    let settled = broker.try_settle(settle).await.unwrap();
    assert_eq!(settled.refused[0].outcome(), SettleOutcome::Refused);
    assert!(
        settled.refused[0].message.contains("dead"),
        "{:?}",
        settled.refused[0]
    );
    broker.settle(ack(&delivery)).await;
}
