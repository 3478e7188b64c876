use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use courser_core::{
    error::LeaseError,
    id::{LeaseId, Position, Seq},
    limits::*,
    message::{Attributes, Message, MessageId},
    options::QueueOptions,
    record::{Attempt, AttemptOutcome, ChunkEntry, DeadLetter, Note},
    stats::{EntryState, EntryView, StateFilter},
};
use courser_engine::request::{
    Confirm, Delivery, Peeked, PublishError, Published, Settled, Verdict,
};

use super::*;
use crate::limits;

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

fn message() -> v1::Message {
    v1::Message {
        topic: "order.created".to_owned(),
        ..v1::Message::default()
    }
}

fn publish_one(message: v1::Message) -> Result<courser_core::message::NewMessage, String> {
    let publish = publish_from_proto(vec![message], false, 0, 1_000);
    publish
        .map(|mut p| p.messages.remove(0))
        .map_err(|error| error.to_string())
}

/// The refusal of one message that `change` made wrong.
#[track_caller]
fn refused(change: impl FnOnce(&mut v1::Message)) -> String {
    let mut message = message();
    change(&mut message);
    publish_one(message).expect_err("it is outside its limits")
}

#[track_caller]
fn taken(change: impl FnOnce(&mut v1::Message)) {
    let mut message = message();
    change(&mut message);
    publish_one(message).expect("it is within its limits");
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
fn a_publish_has_from_one_to_a_thousand_messages() {
    let publish = |count| publish_from_proto(vec![message(); count], false, 0, 1_000);
    assert_eq!(
        publish(0).unwrap_err().to_string(),
        "messages must not be empty"
    );
    assert_eq!(
        publish(PUBLISH_MESSAGES_MAX).unwrap().messages.len(),
        PUBLISH_MESSAGES_MAX
    );
    assert_eq!(
        publish(PUBLISH_MESSAGES_MAX + 1).unwrap_err().to_string(),
        "messages must have at most 1000 messages, has 1001"
    );
}

#[test]
fn several_messages_have_at_most_16_mib_in_all_and_one_has_the_configured_size() {
    let big = |bytes| v1::Message {
        payload: Bytes::from(vec![0; bytes]),
        ..message()
    };
    let topic = message().topic.len();
    let max = 2 * PUBLISH_BYTES_MAX;
    let publish = |messages| publish_from_proto(messages, false, 0, max);
    assert!(publish(vec![big(PUBLISH_BYTES_MAX - 2 * topic), message()]).is_ok());
    let error = publish(vec![big(PUBLISH_BYTES_MAX - 2 * topic + 1), message()]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "messages must have at most 16777216 bytes in all, have 16777217"
    );
    assert!(publish(vec![big(max)]).is_ok());
}

#[test]
fn a_refusal_names_the_message_and_its_field() {
    let bad = v1::Message {
        topic: String::new(),
        ..message()
    };
    let error = publish_from_proto(vec![message(), message(), message(), bad], false, 0, 10);
    assert_eq!(
        error.unwrap_err().to_string(),
        "messages[3].topic must not be empty"
    );
}

#[test]
fn texts_of_a_message_have_their_limits() {
    let text = |bytes| "x".repeat(bytes);
    taken(|m| m.topic = text(NAME_BYTES_MAX));
    assert_eq!(
        refused(|m| m.topic = text(NAME_BYTES_MAX + 1)),
        "messages[0].topic must have at most 255 bytes, has 256"
    );
    taken(|m| m.id = text(MESSAGE_ID_BYTES_MAX));
    assert_eq!(
        refused(|m| m.id = text(MESSAGE_ID_BYTES_MAX + 1)),
        "messages[0].id must have at most 256 bytes, has 257"
    );
    taken(|m| m.payload = vec![0; 1_000].into());
    assert_eq!(
        refused(|m| m.payload = vec![0; 1_001].into()),
        "messages[0].payload must have at most 1000 bytes, has 1001"
    );
    taken(|m| m.r#type = text(ATTRIBUTE_BYTES_MAX));
    assert_eq!(
        refused(|m| m.r#type = text(ATTRIBUTE_BYTES_MAX + 1)),
        "messages[0].type must have at most 256 bytes, has 257"
    );
    assert!(refused(|m| m.traceparent = text(257)).starts_with("messages[0].traceparent"));
}

#[test]
fn what_the_broker_sets_is_refused() {
    assert!(refused(|m| m.position = 1).starts_with("messages[0].position must not be set"));
    let published_at = Some(prost_types::Timestamp::default());
    assert!(
        refused(|m| m.published_at = published_at)
            .starts_with("messages[0].published_at must not be set")
    );
}

#[test]
fn headers_have_their_limits() {
    let headers = |count: usize, value: &str| -> HashMap<String, String> {
        (0..count)
            .map(|i| (format!("{i:03}"), value.to_owned()))
            .collect()
    };
    taken(|m| m.headers = headers(HEADERS_MAX, ""));
    assert_eq!(
        refused(|m| m.headers = headers(HEADERS_MAX + 1, "")),
        "messages[0].headers must have at most 100 pairs, has 101"
    );
    taken(|m| m.headers = headers(1, &"v".repeat(HEADERS_BYTES_MAX - 3)));
    assert_eq!(
        refused(|m| m.headers = headers(1, &"v".repeat(HEADERS_BYTES_MAX - 2))),
        "messages[0].headers must have at most 65536 bytes in all, have 65537"
    );
    let key = |bytes| HashMap::from([("k".repeat(bytes), String::new())]);
    assert!(refused(|m| m.headers = key(0)).contains("must not have an empty key"));
    taken(|m| m.headers = key(HEADER_KEY_BYTES_MAX));
    assert!(refused(|m| m.headers = key(HEADER_KEY_BYTES_MAX + 1)).contains("has 257"));
}

#[test]
fn headers_are_sorted_and_an_id_left_out_is_none() {
    let pairs = ["c", "a", "b"].map(|key| (key.to_owned(), String::new()));
    let message = publish_one(v1::Message {
        headers: pairs.into(),
        ..message()
    })
    .unwrap();
    let keys: Vec<_> = message
        .headers
        .iter()
        .map(|(key, _)| key.as_str())
        .collect();
    assert_eq!(keys, ["a", "b", "c"]);
    assert_eq!((message.id, message.attributes), (None, None));
}

#[test]
fn unknown_enum_values_are_refused() {
    let error = publish_from_proto(vec![message()], false, 3, 10).unwrap_err();
    assert_eq!(
        error.to_string(),
        "durability must be a value of Durability, is 3"
    );
    let peek = v1::PeekEntriesRequest {
        queue: "q".to_owned(),
        state: -1,
        ..Default::default()
    };
    assert_eq!(peek_from_proto(peek).unwrap_err().field, "state");
}

fn open() -> v1::Open {
    v1::Open {
        queue: "orders".to_owned(),
        ..v1::Open::default()
    }
}

#[test]
fn an_opening_has_defaults_and_limits() {
    let opened = open_from_proto(open()).unwrap();
    assert_eq!(opened.max_messages, CREDIT_MESSAGES_DEFAULT);
    assert_eq!(opened.max_bytes, CREDIT_BYTES_DEFAULT);
    assert_eq!(opened.lease, None);
    let field = |open| open_from_proto(open).map_err(|error| error.field);
    assert!(
        field(v1::Open {
            max_messages: 10_000,
            ..open()
        })
        .is_ok()
    );
    assert_eq!(
        field(v1::Open {
            max_messages: 10_001,
            ..open()
        })
        .unwrap_err(),
        "max_messages"
    );
    assert!(
        field(v1::Open {
            max_bytes: CREDIT_BYTES_MAX,
            ..open()
        })
        .is_ok()
    );
    let max_bytes = CREDIT_BYTES_MAX + 1;
    assert_eq!(
        field(v1::Open {
            max_bytes,
            ..open()
        })
        .unwrap_err(),
        "max_bytes"
    );
    assert!(
        field(v1::Open {
            consumer: "c".repeat(256),
            ..open()
        })
        .is_ok()
    );
    assert_eq!(
        field(v1::Open {
            consumer: "c".repeat(257),
            ..open()
        })
        .unwrap_err(),
        "consumer"
    );
    for (lease, allowed) in [(0, false), (1, true), (43_200, true), (43_201, false)] {
        assert_eq!(
            field(v1::Open {
                lease: seconds(lease),
                ..open()
            })
            .is_ok(),
            allowed,
            "{lease}"
        );
    }
}

#[test]
fn a_pull_has_defaults_and_limits() {
    let pull = || v1::PullRequest {
        queue: "orders".to_owned(),
        ..v1::PullRequest::default()
    };
    let (opened, wait) = pull_from_proto(pull()).unwrap();
    assert_eq!(
        (opened.max_messages, wait),
        (limits::PULL_MESSAGES_DEFAULT, Duration::ZERO)
    );
    assert_eq!(opened.max_bytes, limits::PULL_BYTES_MAX);
    let field = |pull| pull_from_proto(pull).map_err(|error| error.field);
    assert!(
        field(v1::PullRequest {
            max_messages: 1_000,
            ..pull()
        })
        .is_ok()
    );
    let error = field(v1::PullRequest {
        max_messages: 1_001,
        ..pull()
    });
    assert_eq!(error.unwrap_err(), "max_messages");
    assert!(
        field(v1::PullRequest {
            wait: seconds(60),
            ..pull()
        })
        .is_ok()
    );
    assert_eq!(
        field(v1::PullRequest {
            wait: seconds(61),
            ..pull()
        })
        .unwrap_err(),
        "wait"
    );
}

#[test]
fn names_asked_for_may_be_dead_letter_queues_and_new_ones_may_not() {
    let name = |name: &str| queue_name_from_proto("name", name.to_owned());
    assert!(name("orders.dlq").is_ok());
    assert!(name(&format!("{}.dlq", "q".repeat(NAME_BYTES_MAX))).is_ok());
    assert!(name(&"q".repeat(NAME_BYTES_MAX + 1)).is_err());
    assert!(name(".dlq").is_err());
    let new = |name: &str| new_queue_name_from_proto("name", name.to_owned());
    assert!(new("orders").is_ok());
    assert_eq!(
        new("orders.dlq").unwrap_err().to_string(),
        "name must not end in '.dlq': that is the dead-letter queue of another queue"
    );
    assert!(
        new("a b")
            .unwrap_err()
            .to_string()
            .starts_with("name must not contain ' '")
    );
}

#[test]
fn every_verdict_is_settled_in_order() {
    let settle = v1::Settle {
        ack: vec![5, 1],
        nack: vec![v1::Nack {
            lease_id: 2,
            retry_after: seconds(3),
            error: "é".repeat(300),
        }],
        release: vec![7],
        dead_letter: vec![v1::Reject {
            lease_id: 3,
            reason: "bad".to_owned(),
            description: String::new(),
        }],
        extend: vec![v1::Extend {
            lease_id: 4,
            by: seconds(30),
        }],
    };
    let settlements = settlements_from_proto(settle).unwrap();
    let ids: Vec<_> = settlements.iter().map(|s| s.lease_id.0).collect();
    assert_eq!(ids, [5, 1, 2, 7, 3, 4]);
    let Verdict::Nack(nack) = &settlements[2].verdict else {
        panic!("{:?} is no nack", settlements[2]);
    };
    assert_eq!(nack.retry_after, Some(Duration::from_secs(3)));
    assert_eq!(nack.error.len(), ERROR_BYTES_KEPT);
    assert_eq!(
        settlements[5].verdict,
        Verdict::Extend(Duration::from_secs(30))
    );
}

#[test]
fn a_settle_has_its_limits() {
    let refused = |settle| settlements_from_proto(settle).unwrap_err().to_string();
    let ack = |ack| v1::Settle {
        ack,
        ..v1::Settle::default()
    };
    assert!(settlements_from_proto(ack((1..=10_000).collect())).is_ok());
    assert_eq!(
        refused(ack((1..=10_001).collect())),
        "settle must have at most 10000 lease ids, has 10001"
    );
    assert_eq!(
        refused(v1::Settle {
            release: vec![4],
            ..ack(vec![9, 4, 1])
        }),
        "settle must name a lease once, names 4 more than once"
    );
    let reject = |reason: &str| v1::Settle {
        dead_letter: vec![v1::Reject {
            lease_id: 1,
            reason: reason.to_owned(),
            ..Default::default()
        }],
        ..v1::Settle::default()
    };
    assert_eq!(
        refused(reject("")),
        "settle.dead_letter[0].reason must not be empty"
    );
    assert!(settlements_from_proto(reject(&"r".repeat(64))).is_ok());
    assert!(refused(reject(&"r".repeat(65))).starts_with("settle.dead_letter[0].reason"));
}

#[test]
fn waits_of_settlements_have_their_limits() {
    let nack = |wait| v1::Settle {
        nack: vec![v1::Nack {
            lease_id: 1,
            retry_after: seconds(wait),
            ..Default::default()
        }],
        ..v1::Settle::default()
    };
    assert!(settlements_from_proto(nack(86_400)).is_ok());
    assert_eq!(
        settlements_from_proto(nack(86_401)).unwrap_err().field,
        "settle.nack[0].retry_after"
    );
    assert!(settlements_from_proto(nack(-1)).is_err());
    let extend = |by| v1::Settle {
        extend: vec![v1::Extend { lease_id: 1, by }],
        ..v1::Settle::default()
    };
    assert!(settlements_from_proto(extend(seconds(1))).is_ok());
    assert!(settlements_from_proto(extend(seconds(43_200))).is_ok());
    for by in [None, seconds(0), seconds(43_201)] {
        let error = settlements_from_proto(extend(by)).unwrap_err();
        assert_eq!(error.field, "settle.extend[0].by");
    }
}

#[test]
fn options_left_out_take_their_defaults() {
    assert_eq!(
        new_queue_options_from_proto(None),
        Ok(QueueOptions::default())
    );
    let options = v1::QueueOptions {
        max_attempts: Some(0),
        backoff: Some(v1::Backoff {
            jitter: Some(0.0),
            ..v1::Backoff::default()
        }),
        dead_letter: Some(v1::DeadLetterOptions {
            enabled: Some(false),
        }),
        ..v1::QueueOptions::default()
    };
    let options = new_queue_options_from_proto(Some(options)).unwrap();
    assert_eq!((options.max_attempts, options.dead_letter), (0, false));
    assert_eq!(
        (options.backoff.jitter, options.backoff.multiplier),
        (0.0, 2.0)
    );
}

#[test]
fn options_come_back_as_they_went() {
    let options = QueueOptions {
        max_attempts: 3,
        paused: true,
        ..QueueOptions::default()
    };
    let there = queue_options_to_proto(&options);
    assert_eq!(new_queue_options_from_proto(Some(there)), Ok(options));
}

#[test]
fn options_outside_their_limits_are_refused_by_name() {
    let lease = |lease| {
        let options = v1::QueueOptions {
            lease: seconds(lease),
            ..v1::QueueOptions::default()
        };
        new_queue_options_from_proto(Some(options)).map_err(|error| error.to_string())
    };
    assert!(lease(1).is_ok());
    assert_eq!(
        lease(0).unwrap_err(),
        "options.lease must be from 1s to 12h"
    );
    assert!(
        lease(-1)
            .unwrap_err()
            .starts_with("options.lease must be a duration")
    );
    assert!(lease(43_201).is_err());
}

#[test]
fn bindings_are_sorted_and_told_apart() {
    let bindings = |patterns: &[&str]| v1::QueueOptions {
        bindings: patterns
            .iter()
            .map(|p| v1::Binding {
                pattern: (*p).to_owned(),
            })
            .collect(),
        ..v1::QueueOptions::default()
    };
    let options = new_queue_options_from_proto(Some(bindings(&["b.#", "a", "b.#"]))).unwrap();
    let patterns: Vec<_> = options
        .bindings
        .iter()
        .map(courser_core::name::Pattern::as_str)
        .collect();
    assert_eq!(patterns, ["a", "b.#"]);
    let error = new_queue_options_from_proto(Some(bindings(&["a", "b..c"]))).unwrap_err();
    assert_eq!(error.field, "options.bindings[1].pattern");
}

fn change(paths: &[&str], options: v1::QueueOptions) -> Result<QueueOptions, String> {
    let paths = paths.iter().map(|path| (*path).to_owned()).collect();
    let mask = Some(prost_types::FieldMask { paths });
    let change = options_change_from_proto(Some(options), mask).map_err(|e| e.to_string())?;
    let mut changed = QueueOptions {
        max_attempts: 3,
        paused: true,
        ..QueueOptions::default()
    };
    changed.backoff.max = Duration::from_secs(7);
    change(&mut changed);
    Ok(changed)
}

#[test]
fn an_update_changes_what_its_mask_names_and_nothing_else() {
    let options = v1::QueueOptions {
        lease: seconds(60),
        backoff: Some(v1::Backoff {
            initial: seconds(2),
            ..v1::Backoff::default()
        }),
        ..v1::QueueOptions::default()
    };
    let changed = change(&["lease", "backoff.initial", "max_attempts"], options).unwrap();
    assert_eq!(changed.lease, Duration::from_secs(60));
    assert_eq!(
        changed.max_attempts, ATTEMPTS_DEFAULT,
        "named and not set: its default"
    );
    assert!(changed.paused, "not named: as it was");
    assert_eq!(changed.backoff.initial, Duration::from_secs(2));
    assert_eq!(changed.backoff.max, Duration::from_secs(7));
    let changed = change(&["backoff"], v1::QueueOptions::default()).unwrap();
    assert_eq!(changed.backoff, QueueOptions::default().backoff);
}

#[test]
fn an_update_needs_a_mask_of_known_paths() {
    let options = v1::QueueOptions::default;
    let error = change(&["lease", "nmae"], options()).unwrap_err();
    assert_eq!(error, "update_mask.paths[1] names no option: \"nmae\"");
    assert_eq!(
        change(&[], options()).unwrap_err(),
        "update_mask must name at least one option"
    );
    assert!(options_change_from_proto(None, None).is_err());
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
        message: Arc::new(message),
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
    let settled = settled_to_proto(Settled {
        ok: vec![LeaseId(4)],
        refused,
    });
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
