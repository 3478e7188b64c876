use courser_core::{
    error::LeaseError,
    id::{LeaseId, Position},
    message::{Message, MessageId, SharedMessage},
    time::Timestamp,
};
use courser_engine::request::{Confirm, Delivery, PublishError, Published, Settled};
use courser_proto::v1::{self, subscribe_response};
use prost::Message as _;
use uuid::Uuid;

use super::*;
use crate::convert::{
    settled_to_proto,
    tests::{confirm_to_proto, delivery_to_proto, full_delivery},
};

/// What `answer` writes, read again by prost, and its length.
fn written(answer: &impl WireMessage) -> Vec<u8> {
    let mut lengths = Vec::new();
    let bytes = answer.measure(&mut lengths);
    let mut buffer = Vec::new();
    answer.write(&lengths, &mut buffer);
    assert_eq!(buffer.len(), bytes, "as many bytes as it had said");
    buffer
}

#[track_caller]
fn check_frame(frame: &DeliveryFrame, kind: subscribe_response::Kind) {
    let expected = v1::SubscribeResponse { kind: Some(kind) };
    let buffer = written(frame);
    assert_eq!(buffer.len(), expected.encoded_len());
    assert_eq!(v1::SubscribeResponse::decode(&*buffer).unwrap(), expected);
}

fn plain_delivery() -> Delivery {
    let full = full_delivery();
    let message = Message {
        id: MessageId::Uuid(Uuid::from_u128(0x0199_1234_5678_7abc_8def_0123_4567_89ab)),
        payload: vec![7; 1_000].into(),
        headers: Vec::new(),
        attributes: None,
        published_at: Timestamp::from_micros(1_700_000_000_000_000),
        ..Message::clone(&full.message)
    };
    Delivery {
        lease_id: LeaseId(0),
        attempt: 1,
        lease_until: Timestamp::ZERO,
        message: SharedMessage::from(message),
        note: None,
    }
}

#[test]
fn deliveries_are_written_as_prost_would() {
    let all = [
        Vec::new(),
        vec![full_delivery()],
        vec![plain_delivery(), full_delivery()],
    ];
    for deliveries in all {
        let proto: Vec<_> = deliveries.iter().map(delivery_to_proto).collect();
        let pulled = written(&PulledFrame(deliveries.clone()));
        let expected = v1::PullResponse {
            deliveries: proto.clone(),
        };
        assert_eq!(v1::PullResponse::decode(&*pulled).unwrap(), expected);
        let kind = subscribe_response::Kind::Deliveries(v1::Deliveries { deliveries: proto });
        check_frame(&DeliveryFrame::Deliveries(deliveries), kind);
    }
}

#[test]
fn results_of_settles_and_heartbeats_are_written_as_prost_would() {
    let ok = vec![LeaseId(1), LeaseId(0), LeaseId(u64::MAX)];
    let refused = vec![
        (LeaseId(3), LeaseError::Unknown),
        (LeaseId(4), LeaseError::Expired),
    ];
    let invalid = vec![(LeaseId(5), "settle.extend[0].by must be set".into())];
    for (ok, refused, invalid) in [
        (ok.clone(), refused.clone(), Vec::new()),
        (Vec::new(), refused, invalid.clone()),
        (ok, Vec::new(), Vec::new()),
        (Vec::new(), Vec::new(), invalid),
    ] {
        let settled = Settled { ok, refused };
        let kind = subscribe_response::Kind::Settled(settled_to_proto(&settled, &invalid));
        check_frame(&DeliveryFrame::Settled(settled, invalid), kind);
    }
    let kind = subscribe_response::Kind::Heartbeat(v1::Heartbeat {});
    check_frame(&DeliveryFrame::Heartbeat, kind);
    let kind = subscribe_response::Kind::Drained(v1::Drained {});
    check_frame(&DeliveryFrame::Drained, kind);
}

#[test]
fn confirms_are_written_as_prost_would() {
    let published = |position, id| Published {
        position: Position(position),
        id,
        queues: 2,
    };
    let several = (1..200).map(|i| published(i, MessageId::Uuid(Uuid::from_u128(i.into()))));
    let reason = "messages[0].topic must not be empty".to_owned();
    let confirms = || {
        vec![
            Confirm {
                number: 0,
                result: Ok(vec![published(1, MessageId::Given("x".into()))]),
            },
            Confirm {
                number: 300,
                result: Ok(several.clone().collect()),
            },
            Confirm {
                number: 7,
                result: Err(PublishError::Invalid {
                    reason: reason.clone(),
                }),
            },
        ]
    };
    let buffer = written(&ConfirmFrame(confirms()));
    let confirms = confirms().into_iter().map(confirm_to_proto).collect();
    let expected = v1::PublishStreamResponse { confirms };
    assert_eq!(buffer, expected.encode_to_vec());
}
