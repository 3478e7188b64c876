//! Deliveries as the client reads them by hand: what it takes is what prost makes of it, in bounded memory.
//! What it leaves to prost may be anything.
#![no_main]

use bytes::Bytes;
use courser_client::fuzz::read_deliveries;
use courser_fuzz::takes_at_most;
use courser_proto::v1::{Deliveries, SubscribeResponse, subscribe_response::Kind};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

/// What an empty delivery, of two bytes, becomes: 600 bytes, twice while there are more and more of them.
const GROWTH: usize = 1024;

fuzz_target!(|data: &[u8]| {
    let encoded = Bytes::copy_from_slice(data);
    let read = takes_at_most(GROWTH * data.len() + 4096, || read_deliveries(&encoded));
    let Some(batch) = read else {
        return;
    };
    for (view, delivery) in batch.iter().zip(batch.clone().into_deliveries()) {
        let message = delivery.message.as_ref();
        assert_eq!(view.lease_id(), delivery.lease_id);
        assert_eq!(view.id(), message.map_or("", |message| &message.id));
        assert_eq!(view.topic(), message.map_or("", |message| &message.topic));
        assert_eq!(
            view.payload(),
            message.map_or(&[][..], |message| &message.payload)
        );
        assert_eq!(view.to_delivery(), delivery);
    }
    let deliveries = batch.into_deliveries();
    let kind = Some(Kind::Deliveries(Deliveries { deliveries }));
    let expected = SubscribeResponse::decode(encoded);
    assert_eq!(Ok(SubscribeResponse { kind }), expected);
});
