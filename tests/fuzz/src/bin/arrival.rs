//! Bodies of gRPC calls: what comes of one does not depend on how it was cut on its way.
#![no_main]

use bytes::Bytes;
use courser_fuzz::Input;
use courser_server::fuzz::{Arrived, Kind, arrive};
use libfuzzer_sys::fuzz_target;

const REQUEST_MAX: usize = 4 * 1024;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let (what, cuts) = (input.byte(), usize::from(input.byte()));
    let kind = match what % 5 {
        0 => Kind::Publish,
        1 => Kind::PublishStream,
        2 => Kind::Subscribe,
        3 => Kind::Settle,
        _ => Kind::Pull,
    };
    let cuts = input.take(cuts % 32);
    let body = if what & 0x80 == 0 {
        input.0.to_vec()
    } else {
        framed(input)
    };
    let whole = arrive(
        kind,
        vec![Bytes::from(body.clone())],
        REQUEST_MAX,
        usize::MAX,
    );
    assert_eq!(whole.held_after, 0);
    let one_by_one = body.chunks(1).map(Bytes::copy_from_slice).collect();
    for pieces in [cut(&body, cuts), one_by_one] {
        let in_pieces = arrive(kind, pieces.clone(), REQUEST_MAX, usize::MAX);
        assert_same(&in_pieces, &whole);
        // Never is more held than what came, nor than it may be.
        assert!(in_pieces.held_most <= body.len());
        let room = usize::from(what) * 4;
        let bounded = arrive(kind, pieces, REQUEST_MAX, room);
        assert!(bounded.held_most <= room);
        assert_eq!(bounded.held_after, 0);
        assert!(whole.requests.starts_with(&bounded.requests));
        if body.len() <= room {
            assert_same(&bounded, &whole);
        }
    }
});

#[track_caller]
fn assert_same(one: &Arrived, other: &Arrived) {
    assert_eq!(one.requests, other.requests);
    assert_eq!(one.failure, other.failure);
    assert_eq!(one.held_after, 0);
}

/// Requests with their prefixes, so that most of the input is what they say.
fn framed(mut input: Input<'_>) -> Vec<u8> {
    let mut body = Vec::new();
    while !input.is_empty() {
        let length = usize::from(input.byte());
        let request = input.take(length);
        body.push(0);
        body.extend_from_slice(&(request.len() as u32).to_be_bytes());
        body.extend_from_slice(request);
    }
    body
}

/// Pieces of these lengths, over and over; an empty one now and then.
fn cut(mut body: &[u8], lengths: &[u8]) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    let mut lengths = lengths.iter().cycle();
    let mut empty = 0;
    while !body.is_empty() {
        let length = lengths
            .next()
            .map_or(body.len(), |length| usize::from(*length));
        empty += usize::from(length == 0);
        let length = if empty > 8 { length.max(1) } else { length };
        let (piece, rest) = body.split_at(length.min(body.len()));
        pieces.push(Bytes::copy_from_slice(piece));
        body = rest;
    }
    pieces
}
