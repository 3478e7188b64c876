use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use courser_core::{
    error::LeaseError,
    id::{LeaseId, Position, Seq},
    limits::*,
    message::{Attributes, Message, MessageId, SharedMessage},
    options::QueueOptions,
    record::{Attempt, AttemptOutcome, ChunkEntry, DeadLetter, Note},
    stats::{EntryState, EntryView, StateFilter},
};
use courser_engine::request::{
    Confirm, Delivery, Peeked, PublishError, Published, Settled, Verdict,
};

use super::*;
use crate::limits;

mod consume;
mod publish;
mod queue;

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

#[test]
fn durations_are_precise_to_a_microsecond() {
    let duration = prost_types::Duration {
        seconds: 3,
        nanos: 1_999,
    };
    assert_eq!(
        duration_from_proto("wait", duration),
        Ok(Duration::new(3, 1_000))
    );
    for (seconds, nanos) in [(-1, 0), (0, -1), (0, 1_000_000_000), (1, -1)] {
        let duration = prost_types::Duration { seconds, nanos };
        let error = duration_from_proto("wait", duration).unwrap_err();
        assert_eq!(error.field, "wait");
    }
    let long = prost_types::Duration {
        seconds: i64::MAX,
        nanos: 999_999_999,
    };
    assert!(duration_from_proto("wait", long).is_ok());
}

#[test]
fn timestamps_keep_their_microseconds() {
    let timestamp = timestamp_to_proto(Timestamp::from_micros(1_700_000_000_123_456));
    assert_eq!(
        (timestamp.seconds, timestamp.nanos),
        (1_700_000_000, 123_456_000)
    );
}

#[test]
fn peeks_and_redrives_have_their_limits() {
    let peek = |limit| {
        let peek = v1::PeekEntriesRequest {
            queue: "q".to_owned(),
            limit,
            ..Default::default()
        };
        peek_from_proto(peek).map(|(_, peek)| peek.limit)
    };
    assert_eq!(peek(0), Ok(10));
    assert_eq!(peek(1_000), Ok(1_000));
    assert_eq!(peek(1_001).unwrap_err().field, "limit");
    let redrive = |entry_ids: u64| {
        let queue = "q.dlq".to_owned();
        let entry_ids = (1..=entry_ids).collect();
        redrive_from_proto(v1::RedriveEntriesRequest {
            queue,
            entry_ids,
            ..Default::default()
        })
    };
    let all = redrive(0).unwrap();
    assert_eq!((all.limit, all.to, all.reason), (None, None, None));
    assert!(redrive(1_000).is_ok());
    assert_eq!(redrive(1_001).unwrap_err().field, "entry_ids");
}

#[test]
fn pages_have_their_limits() {
    let page = |page_size| {
        let request = v1::ListQueuesRequest {
            page_size,
            ..v1::ListQueuesRequest::default()
        };
        page_from_proto(request).map(|(_, after, size)| (after, size))
    };
    assert_eq!(page(0), Ok((None, 1_000)));
    assert_eq!(page(7), Ok((None, 7)));
    assert_eq!(page(1_001).unwrap_err().field, "page_size");
    let watch = |names: usize| {
        let queues = vec!["q".to_owned(); names];
        watched_from_proto(v1::WatchStatsRequest { queues })
    };
    assert!(watch(1_000).is_ok());
    assert_eq!(watch(1_001).unwrap_err().field, "queues");
}

pub(crate) fn full_delivery() -> Delivery {
    let attributes = Attributes {
        content_type: "text/plain".to_owned(),
        kind: "order".to_owned(),
        traceparent: "00-1".to_owned(),
        ..Attributes::default()
    };
    let message = Message {
        position: Position(9),
        published_at: Timestamp::from_micros(1_000_001),
        id: MessageId::Given("mine".into()),
        topic: "order.created".into(),
        payload: Bytes::from_static(b"hello"),
        headers: vec![
            ("a".to_owned(), "1".to_owned()),
            ("b".to_owned(), String::new()),
        ],
        attributes: Some(Box::new(attributes)),
    };
    let dead_letter = DeadLetter {
        reason: "max_attempts".into(),
        description: "too often".into(),
        queue: "orders".into(),
        at: Timestamp::from_micros(5),
    };
    let attempt = Attempt {
        number: 1,
        consumer: "c".into(),
        delivered_at: Timestamp::from_micros(2),
        ended_at: Timestamp::from_micros(3),
        outcome: AttemptOutcome::Expired,
        error: "".into(),
    };
    let note = Note {
        attempts: vec![attempt],
        dead_letter: Some(dead_letter),
        redrives: 2,
    };
    Delivery {
        lease_id: LeaseId(77),
        attempt: 3,
        lease_until: Timestamp::from_micros(30_000_000),
        message: SharedMessage::from(message),
        note: Some(Arc::new(note)),
    }
}

#[test]
fn a_delivery_carries_all_of_its_message() {
    let delivery = delivery_to_proto(&full_delivery());
    assert_eq!((delivery.lease_id, delivery.attempt), (77, 3));
    assert_eq!(delivery.dead_letter.unwrap().queue, "orders");
    let message = delivery.message.unwrap();
    assert_eq!((message.id.as_str(), message.position), ("mine", 9));
    assert_eq!(
        (message.r#type.as_str(), message.headers.len()),
        ("order", 2)
    );
    assert_eq!(message.published_at.unwrap().nanos, 1_000);
}

#[test]
fn an_entry_shows_its_state_and_history_and_is_left_out_when_it_is_gone() {
    let delivery = full_delivery();
    let entry = ChunkEntry {
        seq: Seq(4),
        position: Position(9),
        enqueued_at: Timestamp::from_micros(1),
        size: 10,
        failures: 1,
        ready_at: Timestamp::ZERO,
    };
    let state = EntryState::Leased {
        consumer: "c".into(),
        until: Timestamp::from_micros(8),
    };
    let view = EntryView {
        entry,
        state,
        note: delivery.note.clone(),
    };
    let there = Peeked {
        view: view.clone(),
        message: Some(delivery.message),
    };
    let entries = peeked_to_proto(
        &[
            there,
            Peeked {
                view,
                message: None,
            },
        ],
        true,
    );
    assert_eq!(entries.len(), 1);
    let entry = &entries[0];
    assert_eq!(
        (entry.entry_id, entry.payload_bytes, entry.redrives),
        (4, 5, 2)
    );
    assert_eq!(
        (entry.state(), entry.consumer.as_str()),
        (v1::EntryState::Leased, "c")
    );
    assert_eq!(entry.attempts[0].outcome(), v1::AttemptOutcome::Expired);
    assert!(entry.message.as_ref().unwrap().payload.is_empty());
}

#[test]
fn confirms_and_settle_results_are_told() {
    let published = Published {
        position: Position(1),
        id: MessageId::Given("x".into()),
        queues: 2,
    };
    let confirm = confirm_to_proto(Confirm {
        number: 8,
        result: Ok(vec![published]),
    });
    assert_eq!(
        (confirm.number, confirm.results[0].queues, confirm.error),
        (8, 2, None)
    );
    let reason = "messages[0].topic must not be empty".to_owned();
    let confirm = confirm_to_proto(Confirm {
        number: 9,
        result: Err(PublishError::Invalid { reason }),
    });
    assert_eq!(confirm.error.unwrap().reason, "INVALID_FIELD");
    let left = Duration::ZERO;
    let refused = vec![
        (LeaseId(1), LeaseError::Expired),
        (LeaseId(2), LeaseError::Unknown),
        (LeaseId(3), LeaseError::TooLong { left }),
    ];
    let settled = Settled {
        ok: vec![LeaseId(4)],
        refused,
    };
    let invalid = [(LeaseId(5), "settle.extend[0].by must be set".into())];
    let settled = settled_to_proto(&settled, &invalid);
    let outcomes: Vec<_> = settled
        .refused
        .iter()
        .map(v1::SettleRefusal::outcome)
        .collect();
    assert_eq!(settled.ok, [4]);
    assert_eq!(
        outcomes,
        [
            v1::SettleOutcome::Expired,
            v1::SettleOutcome::Unknown,
            v1::SettleOutcome::Refused,
            v1::SettleOutcome::Refused
        ]
    );
}

#[test]
fn a_text_is_cut_between_characters() {
    assert_eq!(&*cut("aé".to_owned(), 2), "a");
    assert_eq!(&*cut("aé".to_owned(), 3), "aé");
    assert_eq!(state_filter_of(1), StateFilter::Ready);
}

fn state_filter_of(state: i32) -> StateFilter {
    let peek = v1::PeekEntriesRequest {
        queue: "q".to_owned(),
        state,
        ..Default::default()
    };
    peek_from_proto(peek).unwrap().1.state
}

/// What a delivery is on the wire: `wire` writes the same without these steps.
pub(crate) fn delivery_to_proto(delivery: &Delivery) -> v1::Delivery {
    v1::Delivery {
        lease_id: delivery.lease_id.0,
        attempt: delivery.attempt,
        lease_until: Some(timestamp_to_proto(delivery.lease_until)),
        message: Some(message_to_proto(&delivery.message)),
        dead_letter: dead_letter_to_proto(delivery.note.as_deref()),
    }
}

/// What a confirm is on the wire: `wire` writes it without this.
pub(crate) fn confirm_to_proto(confirm: Confirm) -> v1::Confirm {
    let number = confirm.number;
    match confirm.result {
        Ok(published) => v1::Confirm {
            number,
            results: published_to_proto(published),
            error: None,
        },
        Err(error) => v1::Confirm {
            number,
            results: Vec::new(),
            error: Some(crate::status::publish_error_to_proto(&error)),
        },
    }
}
