//! An entry that fails for good goes to `<queue>.dlq` with its story, and comes back by a redrive.

use courser_proto::v1::{
    AttemptOutcome, Entry, EntryState, Open, PeekEntriesRequest, QueueOptions,
    RedriveEntriesRequest,
};
use tonic::{Code, Status};

use crate::harness::{Broker, ack, assert_refused, at_once, nack, open, payload, payloads};

fn two_attempts() -> QueueOptions {
    QueueOptions {
        max_attempts: Some(2),
        ..at_once()
    }
}

/// Fails an entry of `orders` until it is dead.
async fn fail(broker: &Broker, text: &str) {
    broker.publish("orders", text).await;
    for attempt in 1..=2 {
        let delivery = broker.pull("orders").await;
        assert_eq!(
            (payload(&delivery), delivery.attempt),
            (text.to_owned(), attempt)
        );
        broker
            .settle(nack(&delivery, &format!("{text} failed {attempt}")))
            .await;
    }
}

async fn redrive(broker: &Broker, request: RedriveEntriesRequest) -> Result<u64, Status> {
    Ok(broker
        .admin
        .clone()
        .redrive_entries(request)
        .await?
        .into_inner()
        .redriven)
}

fn from_dlq() -> RedriveEntriesRequest {
    RedriveEntriesRequest {
        queue: "orders.dlq".to_owned(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_redrive_goes_on_where_the_one_before_ended() {
    let broker = Broker::start().await;
    broker.create_with("orders", two_attempts()).await;
    for text in ["a", "b", "c"] {
        fail(&broker, text).await;
    }
    let mut admin = broker.admin.clone();
    let one = RedriveEntriesRequest {
        limit: 1,
        dry_run: true,
        ..from_dlq()
    };
    let mut seen = Vec::new();
    let mut after_entry_id = 0;
    loop {
        let next = RedriveEntriesRequest {
            after_entry_id,
            ..one.clone()
        };
        let answer = admin.redrive_entries(next).await.unwrap().into_inner();
        if answer.redriven == 0 {
            break;
        }
        after_entry_id = answer.last_entry_id;
        seen.push(after_entry_id);
    }
    let entries = broker.peek("orders.dlq").await;
    let ids: Vec<_> = entries.iter().map(|entry| entry.entry_id).collect();
    assert_eq!(seen, ids);
    let rest = RedriveEntriesRequest {
        after_entry_id: ids[0],
        ..from_dlq()
    };
    assert_eq!(redrive(&broker, rest).await.unwrap(), 2);
    let left = broker.peek("orders.dlq").await;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].entry_id, ids[0]);
}

#[tokio::test]
async fn the_last_failed_attempt_dead_letters_with_reason_error_and_history() {
    let broker = Broker::start().await;
    broker.create_with("orders", two_attempts()).await;
    fail(&broker, "a").await;

    let stats = broker.stats("orders").await;
    assert_eq!(
        (stats.ready, stats.delayed, stats.leased, stats.dead),
        (0, 0, 0, 1)
    );
    assert_eq!(
        stats.dead_lettered_total,
        [("max_attempts".to_owned(), 1)].into()
    );

    let entry = broker.peek("orders.dlq").await.remove(0);
    let why = entry.dead_letter.unwrap();
    assert_eq!(
        (why.reason.as_str(), why.queue.as_str()),
        ("max_attempts", "orders")
    );
    assert!(why.dead_lettered_at.is_some());
    let told: Vec<_> = entry
        .attempts
        .iter()
        .map(|a| (a.number, a.outcome(), a.consumer.as_str(), a.error.as_str()))
        .collect();
    let nacked = AttemptOutcome::Nacked;
    assert_eq!(
        told,
        [
            (1, nacked, "tester", "a failed 1"),
            (2, nacked, "tester", "a failed 2")
        ]
    );
    assert!(
        entry
            .attempts
            .iter()
            .all(|a| a.delivered_at.is_some() && a.ended_at.is_some())
    );
}

#[tokio::test]
async fn a_dead_letter_queue_is_a_queue() {
    let broker = Broker::start().await;
    broker.create_with("orders", two_attempts()).await;
    let dlq = broker.queue("orders.dlq").await;
    assert_eq!(dlq.dead_letter_of, "orders");
    assert_eq!(broker.queue("orders").await.dead_letter_queue, "orders.dlq");

    fail(&broker, "a").await;
    let mut consumer = broker.subscribe("orders.dlq").await;
    let dead = consumer.next().await;
    assert_eq!((payload(&dead), dead.attempt), ("a".to_owned(), 1));
    assert_eq!(dead.dead_letter.as_ref().unwrap().reason, "max_attempts");
    consumer.ack(&dead).await;
    assert_eq!(broker.stats("orders").await.dead, 0);
}

#[tokio::test]
async fn peeking_changes_nothing() {
    let broker = Broker::start().await;
    broker.create_with("orders", two_attempts()).await;
    broker.publish_all("orders", &["a", "b", "c"]).await;
    let held = broker.pull("orders").await;
    let before = broker.stats("orders").await;

    for _ in 0..3 {
        let states: Vec<_> = broker
            .peek("orders")
            .await
            .iter()
            .map(Entry::state)
            .collect();
        assert_eq!(
            states,
            [EntryState::Leased, EntryState::Ready, EntryState::Ready]
        );
    }
    let peek = PeekEntriesRequest {
        queue: "orders".to_owned(),
        state: EntryState::Ready.into(),
        limit: 1,
        without_payload: true,
        ..Default::default()
    };
    let ready = broker
        .admin
        .clone()
        .peek_entries(peek.clone())
        .await
        .unwrap()
        .into_inner()
        .entries;
    assert_eq!((ready.len(), ready[0].payload_bytes), (1, 1));
    assert!(ready[0].message.as_ref().unwrap().payload.is_empty());
    let after = PeekEntriesRequest {
        after_entry_id: ready[0].entry_id,
        ..peek
    };
    let rest = broker
        .admin
        .clone()
        .peek_entries(after)
        .await
        .unwrap()
        .into_inner()
        .entries;
    assert!(rest[0].entry_id > ready[0].entry_id);

    let after = broker.stats("orders").await;
    let figures = |s: &courser_proto::v1::QueueStats| (s.ready, s.leased, s.delivered_total);
    assert_eq!(figures(&after), figures(&before));
    broker.settle(ack(&held)).await;
    let next = broker.pull_n("orders", 2).await;
    assert_eq!(payloads(&next), ["b", "c"]);
    assert!(next.iter().all(|d| d.attempt == 1));
}

#[tokio::test]
async fn a_redrive_brings_entries_back_with_no_failures_and_their_history() {
    let broker = Broker::start().await;
    broker.create_with("orders", two_attempts()).await;
    fail(&broker, "a").await;
    fail(&broker, "b").await;

    assert_eq!(
        redrive(
            &broker,
            RedriveEntriesRequest {
                dry_run: true,
                ..from_dlq()
            }
        )
        .await
        .unwrap(),
        2
    );
    assert_eq!(
        broker.stats("orders").await.dead,
        2,
        "a dry run changes nothing"
    );
    assert_eq!(redrive(&broker, from_dlq()).await.unwrap(), 2);

    let again = broker.pull_n("orders", 2).await;
    assert_eq!(payloads(&again), ["a", "b"]);
    assert!(again.iter().all(|d| d.attempt == 1));
    assert_eq!(broker.stats("orders").await.dead, 0);
    for delivery in &again {
        broker.settle(nack(delivery, "failed anew")).await;
        let entry = broker
            .peek("orders")
            .await
            .into_iter()
            .find(|e| e.failures == 1)
            .unwrap();
        assert_eq!((entry.redrives, entry.attempts.len()), (1, 3), "{entry:?}");
        assert_eq!(entry.attempts[2].error, "failed anew");
        let delivery = broker.pull("orders").await;
        broker.settle(ack(&delivery)).await;
    }
    assert_eq!(broker.stats("orders.dlq").await.redriven_total, 2);
}

#[tokio::test]
async fn a_redrive_can_be_limited_and_can_go_elsewhere() {
    let broker = Broker::start().await;
    broker.create_with("orders", two_attempts()).await;
    broker.create("repair").await;
    for text in ["a", "b", "c"] {
        fail(&broker, text).await;
    }
    let ids: Vec<_> = broker
        .peek("orders.dlq")
        .await
        .iter()
        .map(|e| e.entry_id)
        .collect();

    let second = RedriveEntriesRequest {
        entry_ids: vec![ids[1]],
        ..from_dlq()
    };
    assert_eq!(redrive(&broker, second).await.unwrap(), 1);
    assert_eq!(payload(&broker.pull("orders").await), "b");
    let other_reason = RedriveEntriesRequest {
        reason: "malformed".to_owned(),
        ..from_dlq()
    };
    assert_eq!(redrive(&broker, other_reason).await.unwrap(), 0);
    let one = RedriveEntriesRequest {
        limit: 1,
        to: "repair".to_owned(),
        ..from_dlq()
    };
    assert_eq!(redrive(&broker, one).await.unwrap(), 1);
    assert_eq!(payload(&broker.pull("repair").await), "a");
    assert_eq!(broker.stats("orders").await.dead, 1);
}

#[tokio::test]
async fn only_a_dead_letter_queue_can_be_redriven_and_only_into_another_kind() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let request = RedriveEntriesRequest {
        queue: "orders".to_owned(),
        ..Default::default()
    };
    let refused = redrive(&broker, request).await.unwrap_err();
    assert_refused(&refused, Code::FailedPrecondition, "orders");
    let request = RedriveEntriesRequest {
        to: "orders.dlq".to_owned(),
        ..from_dlq()
    };
    let refused = redrive(&broker, request).await.unwrap_err();
    assert_refused(&refused, Code::FailedPrecondition, "orders.dlq");
    let request = RedriveEntriesRequest {
        to: "nowhere".to_owned(),
        ..from_dlq()
    };
    assert_refused(
        &redrive(&broker, request).await.unwrap_err(),
        Code::NotFound,
        "nowhere",
    );
}

#[tokio::test]
async fn without_dead_letters_an_entry_is_retried_for_ever() {
    let broker = Broker::start().await;
    let options = QueueOptions {
        max_attempts: Some(2),
        ..crate::harness::without_dead_letters()
    };
    broker.create_with("orders", options).await;
    broker.publish("orders", "a").await;
    for attempt in 1..=5 {
        let delivery = broker.pull("orders").await;
        assert_eq!(delivery.attempt, attempt);
        broker.settle(nack(&delivery, "")).await;
    }
}

#[tokio::test]
async fn only_the_last_twenty_attempts_are_kept() {
    let broker = Broker::start().await;
    broker
        .create_with(
            "orders",
            QueueOptions {
                max_attempts: Some(0),
                ..at_once()
            },
        )
        .await;
    broker.publish("orders", "a").await;
    let mut consumer = broker
        .subscribe_with(Open {
            max_messages: 1,
            ..open("orders")
        })
        .await;
    for _ in 0..25 {
        let delivery = consumer.next().await;
        consumer.settle(nack(&delivery, &"e".repeat(600))).await;
    }
    let entry = broker.peek("orders").await.remove(0);
    let numbers: Vec<_> = entry.attempts.iter().map(|a| a.number).collect();
    assert_eq!(numbers, (6..=25).collect::<Vec<_>>());
    assert_eq!(entry.attempts[0].error.len(), 512);
    assert_eq!(entry.failures, 25);
}
