//! Deliveries as the client reads them by hand: what it takes is what prost makes of it, in bounded memory.
//! What it leaves to prost may be anything.
#![no_main]

use bytes::Bytes;
use courser_client::fuzz::read_deliveries;
use courser_fuzz::takes_at_most;
use courser_proto::v1::{SubscribeResponse, subscribe_response::Kind};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

/// What an empty delivery, of two bytes, becomes: 600 bytes, twice while there are more and more of them.
const GROWTH: usize = 1024;

fuzz_target!(|data: &[u8]| {
    let encoded = Bytes::copy_from_slice(data);
    let read = takes_at_most(GROWTH * data.len() + 4096, || read_deliveries(&encoded));
    let Some(deliveries) = read else {
        return;
    };
    let kind = Some(Kind::Deliveries(deliveries));
    let expected = SubscribeResponse::decode(encoded);
    assert_eq!(Ok(SubscribeResponse { kind }), expected);
});
