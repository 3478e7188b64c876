//! Requests, read by us and by prost: what we take is what prost makes of it, what we refuse by its count
//! is really too many, and what passes takes no more memory than that allows. Then their conversion:
//! what it takes is within the limits, and what it refuses has a field.
//!
//! The numbers stand here once more, as the contract documents them.
#![no_main]

use std::time::Duration;

use bytes::Bytes;
use courser_fuzz::{Input, takes_at_most};
use courser_proto::v1;
use courser_server::fuzz::{self as server, Kind, Refused, Request};
use libfuzzer_sys::fuzz_target;
use prost::{
    Message,
    encoding::{WireType, decode_key, decode_varint},
};

const MESSAGES_MAX: usize = 1_000;
const HEADERS_MAX: usize = 100;
const LEASES_MAX: usize = 10_000;
const NAME_BYTES_MAX: usize = 255;
const PAYLOAD_BYTES_MAX: usize = 64;
/// Of one request: what goes round and round is no longer than this.
const REQUEST_BYTES: usize = 64 * 1024;
/// What a request may take once it passed: 1,000 messages, or 10,000 leases, and their bytes a few times
/// over; a header takes 48 bytes beside its own.
const ROOM: usize = 2 * 1024 * 1024 + 32 * REQUEST_BYTES;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let kind = input.byte() % 13;
    let (times, length) = (input.short(), input.short());
    // Its beginning once, what follows many times: counts are large, inputs are not.
    let first = input.take(length);
    let times = times.min(REQUEST_BYTES / input.0.len().max(1));
    let bytes = [first, &input.0.repeat(times)].concat();
    match kind {
        0 => broker(Kind::Publish, &bytes),
        1 => broker(Kind::PublishStream, &bytes),
        2 => broker(Kind::Subscribe, &bytes),
        3 => broker(Kind::Settle, &bytes),
        4 => broker(Kind::Pull, &bytes),
        other => admin(other, &bytes),
    }
});

/// The request as it is read when it comes alone over a call; `None` when it is broken.
fn arrive(kind: Kind, bytes: &[u8]) -> Result<Request, Option<String>> {
    let length = (bytes.len() as u32).to_be_bytes();
    let body = [&[0], &length[..], bytes].concat();
    let body = vec![Bytes::from(body)];
    let arrived = takes_at_most(ROOM, || server::arrive(kind, body, usize::MAX, usize::MAX));
    match (arrived.requests.into_iter().next(), arrived.failure) {
        (Some(request), None) => Ok(request),
        (None, Some((tonic::Code::InvalidArgument, sentence))) => Err(Some(sentence)),
        (None, Some(_)) => Err(None),
        other => panic!("one request has one outcome, not {other:?}"),
    }
}

fn broker(kind: Kind, bytes: &[u8]) {
    match kind {
        Kind::Publish => {
            let expected = v1::PublishRequest::decode(bytes);
            match (arrive(kind, bytes), expected) {
                (Ok(Request::Publish(request)), Ok(expected)) => {
                    assert_eq!(request, expected);
                    check_messages(&request.messages);
                    publish(request);
                }
                (Err(Some(_)), _) => check_is_too_much(bytes, 1),
                (Err(None), Err(_)) => {}
                other => panic!("{other:?}"),
            }
        }
        Kind::PublishStream => {
            let expected = v1::PublishStreamRequest::decode(bytes);
            match (arrive(kind, bytes), expected) {
                (Ok(Request::Numbered(number, Ok(request))), Ok(expected)) => {
                    assert_eq!((number, &request), (expected.number, &expected));
                    check_messages(&request.messages);
                }
                (Ok(Request::Numbered(number, Err(refused))), expected) => {
                    check_refused(&refused);
                    check_is_too_much(bytes, 2);
                    if let Ok(expected) = expected
                        && !has_group(bytes)
                    {
                        assert_eq!(number, expected.number);
                    }
                }
                (Err(None), Err(_)) => {}
                other => panic!("{other:?}"),
            }
        }
        Kind::Subscribe => {
            let expected = v1::SubscribeRequest::decode(bytes);
            match (arrive(kind, bytes), expected) {
                (Ok(Request::Subscribe(request)), Ok(expected)) => {
                    assert_eq!(request, expected);
                    match request.kind {
                        Some(v1::subscribe_request::Kind::Settle(settle)) => settled(settle),
                        Some(v1::subscribe_request::Kind::Open(open)) => opened(server::open(open)),
                        _ => {}
                    }
                }
                (Err(Some(_)), _) => check_are_too_many_leases(bytes, 2),
                (Err(None), Err(_)) => {}
                other => panic!("{other:?}"),
            }
        }
        Kind::Settle => {
            let expected = v1::SettleRequest::decode(bytes);
            match (arrive(kind, bytes), expected) {
                (Ok(Request::Settle(request)), Ok(expected)) => {
                    assert_eq!(request, expected);
                    settled(request.settle.unwrap_or_default());
                }
                (Err(Some(_)), _) => check_are_too_many_leases(bytes, 1),
                (Err(None), Err(_)) => {}
                other => panic!("{other:?}"),
            }
        }
        Kind::Pull => {
            let expected = v1::PullRequest::decode(bytes);
            match (arrive(kind, bytes), expected) {
                (Ok(Request::Pull(request)), Ok(expected)) => {
                    assert_eq!(request, expected);
                    opened(server::pull(request).map(|(open, wait)| {
                        assert!(wait <= Duration::from_secs(60));
                        assert!((1..=1_000).contains(&open.max_messages));
                        open
                    }));
                }
                (Err(None), Err(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

fn check_messages(messages: &[v1::Message]) {
    assert!(messages.len() <= MESSAGES_MAX);
    let many = messages
        .iter()
        .find(|message| message.headers.len() > HEADERS_MAX);
    assert_eq!(many, None);
}

/// Fields of one number, as prost finds them.
#[derive(Clone, PartialEq, Message)]
struct At1 {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    fields: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
struct At2 {
    #[prost(bytes = "bytes", repeated, tag = "2")]
    fields: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
struct At4 {
    #[prost(bytes = "bytes", repeated, tag = "4")]
    fields: Vec<Bytes>,
}

fn fields(bytes: &[u8], number: u32) -> Option<Vec<Bytes>> {
    match number {
        1 => At1::decode(bytes).ok().map(|at| at.fields),
        2 => At2::decode(bytes).ok().map(|at| at.fields),
        _ => At4::decode(bytes).ok().map(|at| at.fields),
    }
}

/// Whether there is really too much in what was refused for that. What is broken would be refused
/// anyway, and what stands in a group counts as if it stood outside.
fn check_is_too_much(bytes: &[u8], number: u32) {
    let Some(messages) = fields(bytes, number) else {
        return;
    };
    let has_many_headers = |message: &Bytes| {
        has_group(message) || fields(message, 4).is_none_or(|headers| headers.len() > HEADERS_MAX)
    };
    assert!(
        messages.len() > MESSAGES_MAX || has_group(bytes) || messages.iter().any(has_many_headers)
    );
}

fn check_are_too_many_leases(bytes: &[u8], number: u32) {
    let Some(settles) = fields(bytes, number) else {
        return;
    };
    if has_group(bytes) || settles.iter().any(|settle| has_group(settle)) {
        return;
    }
    // As if it were one: prost forgets some of them when something else of a Subscribe stands between.
    if let Ok(settle) = v1::Settle::decode(&*settles.concat()) {
        assert!(leases(&settle) > LEASES_MAX);
    }
}

fn leases(settle: &v1::Settle) -> usize {
    let named = settle.nack.len() + settle.dead_letter.len() + settle.extend.len();
    settle.ack.len() + settle.release.len() + named
}

/// Whether a group begins among the fields.
fn has_group(mut bytes: &[u8]) -> bool {
    let rest = &mut bytes;
    while let Ok((_, kind)) = decode_key(rest) {
        let length = match kind {
            WireType::Varint => {
                let _ = decode_varint(rest);
                0
            }
            WireType::LengthDelimited => decode_varint(rest).unwrap_or(u64::MAX),
            WireType::SixtyFourBit => 8,
            WireType::ThirtyTwoBit => 4,
            WireType::StartGroup | WireType::EndGroup => return true,
        };
        let Some(behind) = usize::try_from(length)
            .ok()
            .and_then(|length| rest.get(length..))
        else {
            return false;
        };
        *rest = behind;
    }
    false
}

#[track_caller]
fn check_refused(refused: &Refused) {
    let Refused { field, problem } = refused;
    let first = field.split(['.', '[', ':']).next().unwrap_or_default();
    let is_a_name = |c: char| c.is_ascii_lowercase() || c == '_';
    assert!(
        !first.is_empty() && first.chars().all(is_a_name),
        "{field:?}"
    );
    assert!(!problem.is_empty());
}

fn publish(request: v1::PublishRequest) {
    let given = request.clone();
    match server::publish(request, PAYLOAD_BYTES_MAX) {
        Ok(publish) => {
            assert_eq!(publish.messages.len(), given.messages.len());
            for (message, given) in publish.messages.iter().zip(given.messages) {
                assert_eq!(*message.topic, *given.topic);
                assert!(!message.topic.is_empty() && message.topic.len() <= NAME_BYTES_MAX);
                assert_eq!(message.payload, given.payload);
                assert!(message.payload.len() <= PAYLOAD_BYTES_MAX);
                assert_eq!(message.headers.len(), given.headers.len());
                assert!(message.headers.is_sorted_by(|a, b| a.0 < b.0));
                assert_eq!(message.id.as_deref().unwrap_or_default(), given.id);
            }
        }
        Err(refused) => check_refused(&refused),
    }
}

fn opened(open: Result<impl std::fmt::Debug, Refused>) {
    if let Err(refused) = open {
        check_refused(&refused);
    }
}

/// Each lease comes out once, settled or refused.
fn settled(settle: v1::Settle) {
    let count = leases(&settle);
    assert!(count <= LEASES_MAX);
    match server::settle(settle) {
        Ok((settlements, invalid)) => {
            assert_eq!(settlements.len() + invalid.len(), count);
            let ids = settlements.iter().map(|settlement| settlement.lease_id);
            let ids: std::collections::BTreeSet<_> = ids
                .chain(invalid.iter().map(|(lease_id, _)| *lease_id))
                .collect();
            assert_eq!(ids.len(), count, "each once");
            assert!(invalid.iter().all(|(_, sentence)| !sentence.is_empty()));
        }
        Err(refused) => check_refused(&refused),
    }
}

fn admin(kind: u8, bytes: &[u8]) {
    let refused = match kind {
        5 => v1::CreateQueueRequest::decode(bytes)
            .ok()
            .and_then(|request| {
                let created = server::new_queue(request);
                if let Ok((name, options)) = &created {
                    assert!(
                        !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.ends_with(".dlq")
                    );
                    // What is shown is what makes the same queue.
                    let again = v1::CreateQueueRequest {
                        name: name.clone(),
                        options: Some(server::show_options(options)),
                    };
                    assert_eq!(
                        server::new_queue(again),
                        Ok((name.clone(), options.clone()))
                    );
                }
                created.err()
            }),
        6 => v1::UpdateQueueRequest::decode(bytes)
            .ok()
            .and_then(|request| {
                let all = request.update_mask.clone().unwrap_or_default();
                let name = "q".to_owned();
                let plain = v1::CreateQueueRequest {
                    name,
                    options: None,
                };
                let (_, before) = server::new_queue(plain).expect("these are the defaults");
                let mut after = before.clone();
                let changed = server::change_queue(request, &mut after);
                if changed.is_err() {
                    assert_eq!(after, before);
                }
                if !all.paths.iter().any(|path| path == "lease") {
                    assert_eq!(after.lease, before.lease, "nobody named it");
                }
                changed.err()
            }),
        7 => v1::PeekEntriesRequest::decode(bytes)
            .ok()
            .and_then(|request| {
                let peek = server::peek(request);
                if let Ok((_, peek)) = &peek {
                    assert!((1..=1_000).contains(&peek.limit));
                }
                peek.err()
            }),
        8 => v1::RedriveEntriesRequest::decode(bytes)
            .ok()
            .and_then(|request| {
                let redrive = server::redrive(request);
                if let Ok(redrive) = &redrive {
                    assert!(redrive.entries.len() <= 1_000 && redrive.limit != Some(0));
                }
                redrive.err()
            }),
        9 => v1::ListQueuesRequest::decode(bytes)
            .ok()
            .and_then(|request| {
                let page = server::page(request);
                if let Ok((_, after, size)) = &page {
                    assert!((1..=1_000).contains(size) && after.as_deref() != Some(""));
                }
                page.err()
            }),
        10 => v1::WatchStatsRequest::decode(bytes)
            .ok()
            .and_then(|request| {
                let watched = server::watched(request);
                assert!(
                    watched.as_ref().is_ok_and(|names| names.len() <= 1_000) || watched.is_err()
                );
                watched.err()
            }),
        11 => v1::Open::decode(bytes).ok().and_then(|open| {
            let opened = server::open(open);
            if let Ok(open) = &opened {
                let lease = open.lease.unwrap_or(Duration::from_secs(1));
                assert!((1..=12 * 3_600).contains(&lease.as_secs()));
                assert!((1..=10_000).contains(&open.max_messages) && open.max_bytes > 0);
            }
            opened.err()
        }),
        _ => {
            if let Ok(settle) = v1::Settle::decode(bytes)
                && leases(&settle) <= LEASES_MAX
            {
                settled(settle);
            }
            None
        }
    };
    if let Some(refused) = refused {
        check_refused(&refused);
    }
}
