//! Settles that are not as they should be: what is refused by its lease, and what ends the call.

use courser_proto::v1::{
    Delivery, Extend, Nack, Reject, Settle, SettleOutcome, subscribe_response,
};
use tonic::Code;

use crate::harness::{Broker, ack, assert_refused, payload, within};

fn duration(seconds: i64, nanos: i32) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos }
}

/// A settlement of each kind whose field is outside its limits, and the field.
fn bad_settlements(lease_id: u64) -> Vec<(&'static str, Settle)> {
    let nack = |retry_after| Settle {
        nack: vec![Nack {
            lease_id,
            retry_after: Some(retry_after),
            ..Default::default()
        }],
        ..Default::default()
    };
    let reject = |reason: &str| Settle {
        dead_letter: vec![Reject {
            lease_id,
            reason: reason.to_owned(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let extend = |by| Settle {
        extend: vec![Extend { lease_id, by }],
        ..Default::default()
    };
    vec![
        ("nack[0].retry_after", nack(duration(-1, 0))),
        ("nack[0].retry_after", nack(duration(24 * 3600, 1_000_000))),
        ("dead_letter[0].reason", reject("")),
        ("dead_letter[0].reason", reject(&"x".repeat(65))),
        ("extend[0].by", extend(None)),
        ("extend[0].by", extend(Some(duration(0, 0)))),
        ("extend[0].by", extend(Some(duration(12 * 3600 + 1, 0)))),
    ]
}

#[tokio::test]
async fn a_bad_settlement_is_refused_by_its_lease_and_does_not_affect_the_others() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    broker.publish("orders", "bad").await;
    let mut consumer = broker.subscribe("orders").await;
    let held = consumer.next().await;
    for (field, bad) in bad_settlements(held.lease_id) {
        broker.publish_all("orders", &["a", "b"]).await;
        let good = consumer.next_n(2).await;
        let with = |good: &Delivery| Settle {
            ack: vec![good.lease_id],
            ..bad.clone()
        };
        let over_stream = consumer.settle(with(&good[0])).await;
        let unary = broker.try_settle(with(&good[1])).await.unwrap();
        for (settled, good) in [over_stream, unary].iter().zip(&good) {
            assert_eq!(settled.ok, [good.lease_id]);
            let [refused] = &settled.refused[..] else {
                panic!("{settled:?}");
            };
            assert_eq!(
                (refused.lease_id, refused.outcome()),
                (held.lease_id, SettleOutcome::Refused)
            );
            assert!(refused.message.contains(field), "{refused:?}");
        }
    }
    // It is held as before, and so is the subscription.
    consumer.ack(&held).await;
    assert_eq!(broker.stats("orders").await.acked_total, 15);
}

#[tokio::test]
async fn a_settle_of_a_bad_shape_settles_nothing() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    broker.publish_all("orders", &["a", "b"]).await;
    let held = broker.pull_n("orders", 2).await;
    let (good, lease_id) = (held[0].lease_id, held[1].lease_id);
    let twice = Settle {
        release: vec![lease_id, lease_id],
        ..Default::default()
    };
    let table = [
        ("lease", twice),
        (
            "settle",
            Settle {
                release: (1..=10_001).collect(),
                ..Default::default()
            },
        ),
    ];
    for (field, mut bad) in table {
        bad.ack.push(good);
        let refused = broker.try_settle(bad).await.unwrap_err();
        assert_refused(&refused, Code::InvalidArgument, field);
    }
    assert_eq!(broker.stats("orders").await.leased, 2);
    broker.settle(ack(&held[0])).await;
}

#[tokio::test]
async fn a_bad_settlement_ends_a_subscription_and_gives_back_what_it_held() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    broker.publish("orders", "a").await;
    let mut consumer = broker.subscribe("orders").await;
    let held = consumer.next().await;
    let twice = Settle {
        ack: vec![held.lease_id, held.lease_id],
        ..Default::default()
    };
    consumer.send(twice).await;
    assert_refused(&consumer.end().await, Code::InvalidArgument, "lease");
    assert_eq!(payload(&broker.pull("orders").await), "a");
}

#[tokio::test]
async fn what_was_settled_before_a_bad_shape_is_answered_before_the_end() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    broker.publish_all("orders", &["a", "b"]).await;
    let mut consumer = broker.subscribe("orders").await;
    let held = consumer.next_n(2).await;
    let twice = Settle {
        ack: vec![held[1].lease_id, held[1].lease_id],
        ..Default::default()
    };
    consumer.send(ack(&held[0])).await;
    consumer.send(twice).await;
    let answer = within("a result", consumer.responses.message()).await;
    let settled = match answer.unwrap().unwrap().kind {
        Some(subscribe_response::Kind::Settled(settled)) => settled,
        other => panic!("{other:?} is no result"),
    };
    assert_eq!(settled.ok, [held[0].lease_id]);
    assert_refused(&consumer.end().await, Code::InvalidArgument, "lease");
}
