//! Requests are looked over before prost decodes them: it makes 330 bytes of an empty message that
//! takes two on the wire, so what there is too many of is refused while it is still only bytes.

use std::marker::PhantomData;

use bytes::Bytes;
use courser_core::limits::{HEADERS_MAX, PUBLISH_MESSAGES_MAX, SETTLE_LEASES_MAX};
use courser_proto::v1;
use prost::encoding::{WireType, decode_key, decode_varint};
use tonic::Status;

use super::publishing::{self, Publishing};
use crate::convert::{InvalidField, count_at_most};

/// A message shorter than this cannot have too many headers: each takes five bytes or more.
const MANY_HEADERS_BYTES: usize = HEADERS_MAX * 5;

/// Bytes that a message takes once it is read, beside its own, with its result: about, and at least.
const MESSAGE_BYTES: usize = 300;
/// The same of a lease that is settled.
const LEASE_BYTES: usize = 250;

/// A header takes this many bytes at least, and so much once it is read.
const HEADER_BYTES_MIN: usize = 5;
const HEADER_BYTES: usize = 80;

/// A request that can be looked over.
pub(crate) trait WireRequest: prost::Message + Default + 'static {
    /// Counts what there may be too many of in the encoded request; answers how many messages it brings, or leases it settles.
    fn check(encoded: &[u8]) -> Result<usize, InvalidField>;

    /// About how many bytes become of one with so many bytes and so many of what is counted, until it is answered.
    fn becoming(encoded: usize, count: usize) -> usize;

    /// An empty one, with room for so many messages: that many are not moved each time when there are more.
    fn with_room(_messages: usize) -> Self {
        Self::default()
    }

    /// The messages that it brings.
    fn messages(&mut self) -> &mut [v1::Message] {
        &mut []
    }
}

/// Payloads are slices of the buffer that the request came in, of `buffer` bytes, and keep all of it in memory
/// as long as they live. Those that are the smaller part of it get memory of their own.
pub(super) fn let_go_of_buffer<M>(
    messages: &mut [M],
    payload: impl Fn(&mut M) -> &mut Bytes,
    buffer: usize,
) {
    let payloads: usize = messages
        .iter_mut()
        .map(|message| payload(message).len())
        .sum();
    if payloads < buffer / 2 {
        for message in messages {
            let payload = payload(message);
            *payload = Bytes::copy_from_slice(payload);
        }
    }
}

impl WireRequest for v1::PublishRequest {
    fn becoming(encoded: usize, messages: usize) -> usize {
        becoming(encoded, messages)
    }

    fn check(encoded: &[u8]) -> Result<usize, InvalidField> {
        check_messages(encoded, 1)
    }

    fn with_room(messages: usize) -> Self {
        Self {
            messages: Vec::with_capacity(messages),
            ..Self::default()
        }
    }

    fn messages(&mut self) -> &mut [v1::Message] {
        &mut self.messages
    }
}

impl WireRequest for v1::SubscribeRequest {
    fn becoming(encoded: usize, leases: usize) -> usize {
        encoded + leases * LEASE_BYTES
    }

    fn check(encoded: &[u8]) -> Result<usize, InvalidField> {
        check_settles(encoded, 2)
    }
}

impl WireRequest for v1::SettleRequest {
    fn becoming(encoded: usize, leases: usize) -> usize {
        encoded + leases * LEASE_BYTES
    }

    fn check(encoded: &[u8]) -> Result<usize, InvalidField> {
        check_settles(encoded, 1)
    }
}

impl WireRequest for v1::PullRequest {
    fn becoming(encoded: usize, _count: usize) -> usize {
        encoded
    }

    fn check(_encoded: &[u8]) -> Result<usize, InvalidField> {
        Ok(0)
    }
}

/// A request that passed the look and is not decoded.
#[derive(Debug)]
pub(crate) struct Looked<Request> {
    encoded: Bytes,
    count: usize,
    request: PhantomData<Request>,
}

impl<Request: WireRequest> Looked<Request> {
    /// # Errors
    /// What there is too much of.
    pub(crate) fn over(encoded: Bytes) -> Result<Self, InvalidField> {
        Ok(Self {
            count: Request::check(&encoded)?,
            encoded,
            request: PhantomData,
        })
    }

    /// What becomes of it, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        Request::becoming(self.encoded.len(), self.count)
    }

    /// # Errors
    /// It is broken.
    pub(crate) fn read(self) -> Result<Request, Status> {
        let bytes = self.encoded.len();
        let mut request = Request::with_room(self.count);
        request.merge(self.encoded).map_err(broken)?;
        let_go_of_buffer(request.messages(), |message| &mut message.payload, bytes);
        Ok(request)
    }
}

/// Reads a request of which nothing is counted.
pub(crate) fn read_plain<Request: prost::Message + Default>(
    encoded: Bytes,
) -> Result<Request, Status> {
    Request::decode(encoded).map_err(broken)
}

/// As tonic's own decoder says it.
#[expect(clippy::needless_pass_by_value, reason = "it is the end of an error")]
fn broken(error: prost::DecodeError) -> Status {
    Status::internal(error.to_string())
}

/// One request of a PublishStream, whose refusal does not end the stream.
#[derive(Debug)]
pub(crate) struct Numbered {
    pub(crate) number: u64,
    pub(crate) request: Result<Publishing, InvalidField>,
}

/// One that was looked over and is not read.
#[derive(Debug)]
pub(crate) struct LookedNumbered {
    encoded: Bytes,
    messages: Result<usize, InvalidField>,
}

impl LookedNumbered {
    pub(crate) fn over(encoded: Bytes) -> Self {
        Self {
            messages: check_messages(&encoded, 2),
            encoded,
        }
    }

    /// What becomes of it, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let messages = self.messages.as_ref().map_or(0, |messages| *messages);
        becoming(self.encoded.len(), messages)
    }

    /// Of one that did not pass the look, only its number is read.
    ///
    /// # Errors
    /// It is broken.
    pub(crate) fn read(self) -> Result<Numbered, Status> {
        Ok(match self.messages {
            Ok(messages) => {
                let read = publishing::decode(&self.encoded, messages);
                let (number, request) = read.map_err(broken)?;
                let request = Ok(request);
                Numbered { number, request }
            }
            Err(error) => Numbered {
                number: number_of(&self.encoded),
                request: Err(error),
            },
        })
    }
}

/// The last one counts, as prost has it.
fn number_of(encoded: &[u8]) -> u64 {
    let numbers = Fields(encoded).filter_map(|field| match field {
        (1, Value::Varint(number)) => Some(number),
        _ => None,
    });
    numbers.last().unwrap_or_default()
}

/// What becomes of a publish of so many bytes. Headers are not counted, for that takes a look at each message: there are no more than
/// its bytes allow.
fn becoming(encoded: usize, messages: usize) -> usize {
    let headers = (encoded / HEADER_BYTES_MIN).min(messages * HEADERS_MAX);
    encoded + messages * MESSAGE_BYTES + headers * HEADER_BYTES
}

/// Checks how many messages are in `field`, and how many headers each of them has; answers the first.
fn check_messages(encoded: &[u8], field: u32) -> Result<usize, InvalidField> {
    let mut count = 0;
    for message in nested(encoded, field) {
        if count < PUBLISH_MESSAGES_MAX && message.len() > MANY_HEADERS_BYTES {
            let headers = nested(message, 4).count();
            count_at_most("headers", headers, HEADERS_MAX, "pairs")
                .map_err(|error| error.within(&format!("messages[{count}]")))?;
        }
        count += 1;
    }
    count_at_most("messages", count, PUBLISH_MESSAGES_MAX, "messages")?;
    Ok(count)
}

/// Checks how many leases are named in the `Settle` of `field`, and answers that. When it stands there more than once,
/// prost makes one of all.
fn check_settles(encoded: &[u8], field: u32) -> Result<usize, InvalidField> {
    let fields = nested(encoded, field).flat_map(Fields);
    let leases = fields.map(|field| match field {
        // Lease ids by themselves, which mostly come packed.
        (1 | 3, Value::Nested(packed)) => packed.len() / 8,
        (1..=5, _) => 1,
        _ => 0,
    });
    let leases = leases.sum();
    count_at_most("settle", leases, SETTLE_LEASES_MAX, "lease ids")?;
    Ok(leases)
}

/// Whether there may be groups in an encoded message.
pub(super) fn has_groups(encoded: &[u8]) -> bool {
    Fields(encoded).any(|(_, value)| matches!(value, Value::Other))
}

fn nested(encoded: &[u8], wanted: u32) -> impl Iterator<Item = &[u8]> {
    Fields(encoded).filter_map(move |field| match field {
        (number, Value::Nested(bytes)) if number == wanted => Some(bytes),
        _ => None,
    })
}

/// The fields of an encoded message: their numbers, and what they hold. Ends early where prost will
/// find it broken, and counts what is in a group (nobody sends any) as if it stood outside.
#[derive(Debug)]
struct Fields<'a>(&'a [u8]);

#[derive(Debug)]
enum Value<'a> {
    Varint(u64),
    Nested(&'a [u8]),
    Other,
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u32, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = &mut self.0;
        if rest.is_empty() {
            return None;
        }
        let (number, kind) = decode_key(rest).ok()?;
        let value = match kind {
            WireType::Varint => Value::Varint(decode_varint(rest).ok()?),
            WireType::LengthDelimited => {
                let bytes = usize::try_from(decode_varint(rest).ok()?).ok()?;
                let (value, behind) = rest.split_at_checked(bytes)?;
                *rest = behind;
                Value::Nested(value)
            }
            WireType::SixtyFourBit => skip(rest, 8)?,
            WireType::ThirtyTwoBit => skip(rest, 4)?,
            WireType::StartGroup | WireType::EndGroup => Value::Other,
        };
        Some((number, value))
    }
}

fn skip<'a>(rest: &mut &'a [u8], bytes: usize) -> Option<Value<'a>> {
    *rest = rest.get(bytes..)?;
    Some(Value::Other)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[track_caller]
    fn check<Request: WireRequest>(request: &Request, expected: Option<&str>) {
        let refused = Request::check(&request.encode_to_vec()).err();
        assert_eq!(refused.map(|error| error.to_string()).as_deref(), expected);
    }

    #[test]
    fn messages_and_their_headers_are_counted() {
        let publish = |messages| v1::PublishRequest {
            messages,
            mandatory: true,
            ..Default::default()
        };
        check(&publish(vec![v1::Message::default(); 1_000]), None);
        check(
            &publish(vec![v1::Message::default(); 1_001]),
            Some("messages must have at most 1000 messages, has 1001"),
        );
        let with_headers = |count: u32| v1::Message {
            headers: (0..count).map(|n| (n.to_string(), String::new())).collect(),
            payload: vec![0; 500].into(),
            ..Default::default()
        };
        check(&publish(vec![with_headers(100); 1_000]), None);
        check(
            &publish(vec![with_headers(100), with_headers(101)]),
            Some("messages[1].headers must have at most 100 pairs, has 101"),
        );
    }

    #[test]
    fn small_payloads_do_not_keep_a_large_request_in_memory() {
        let request = |payload: Vec<u8>| {
            let message = v1::Message {
                payload: payload.into(),
                ..v1::Message::default()
            };
            let mut encoded = v1::PublishRequest {
                messages: vec![message],
                ..v1::PublishRequest::default()
            }
            .encode_to_vec();
            // A field that nobody knows.
            encoded.extend([0x82, 0x7d, 0x80, 0x08]);
            encoded.extend([0; 1024]);
            Bytes::from(encoded)
        };
        for (payload, shares) in [(10, false), (1_000, false), (1_100, true)] {
            let encoded = request(vec![7; payload]);
            let range = encoded.as_ptr_range();
            let length = encoded.len();
            let mut decoded = v1::PublishRequest::decode(encoded.clone()).unwrap();
            let_go_of_buffer(
                &mut decoded.messages,
                |message| &mut message.payload,
                length,
            );
            let payload = &decoded.messages[0].payload;
            assert_eq!(
                range.contains(&payload.as_ptr()),
                shares,
                "{}",
                payload.len()
            );
            assert!(payload.iter().all(|byte| *byte == 7));
        }
    }

    #[test]
    fn leases_are_counted_in_each_of_their_forms() {
        let settle = |acks, nacks| v1::SettleRequest {
            settle: Some(v1::Settle {
                ack: vec![1; acks],
                release: vec![1; 10],
                nack: vec![v1::Nack::default(); nacks],
                dead_letter: vec![v1::Reject::default(); 10],
                extend: vec![v1::Extend::default(); 10],
                without_results: true,
            }),
        };
        check(&settle(4_970, 5_000), None);
        check(
            &settle(4_970, 5_001),
            Some("settle must have at most 10000 lease ids, has 10001"),
        );
        // Two of them become one.
        let twice = [
            settle(4_970, 1).encode_to_vec(),
            settle(0, 5_000).encode_to_vec(),
        ]
        .concat();
        assert!(v1::SettleRequest::check(&twice).is_err());
        let decoded = v1::SettleRequest::decode(&*twice).unwrap();
        assert_eq!(decoded.settle.unwrap().nack.len(), 5_001);
    }

    #[test]
    fn what_is_unknown_or_broken_hides_nothing() {
        let message = [0x0a, 0];
        let many = |before: &[u8]| [before, &message.repeat(1_001)].concat();
        let group = [0x7b, 0x7c];
        for before in [
            &[0x78, 0x96, 0x01][..],
            &[0x79, 1, 2, 3, 4, 5, 6, 7, 8],
            &[0x7d, 1, 2, 3, 4],
            &[0x7a, 2, 0x0a, 0],
            &group,
        ] {
            assert!(v1::PublishRequest::decode(&*many(before)).is_ok());
            assert!(
                v1::PublishRequest::check(&many(before)).is_err(),
                "{before:?}"
            );
            assert!(v1::PublishRequest::check(before).is_ok());
        }
        // What prost decodes before it finds the end to be broken is counted too.
        for broken in [
            &[0x0a, 9][..],
            &[0x0a],
            &[0xff; 12],
            &[0x79, 1],
            &[0x0a, 0xff],
        ] {
            let broken = [&message.repeat(1_001), broken].concat();
            assert!(v1::PublishRequest::decode(&*broken).is_err());
            assert!(v1::PublishRequest::check(&broken).is_err());
        }
    }

    #[test]
    fn the_number_of_a_refused_request_is_known() {
        let request = v1::PublishStreamRequest {
            number: 300,
            messages: vec![v1::Message::default(); 1_001],
            ..Default::default()
        };
        let refused = check_messages(&request.encode_to_vec(), 2).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "messages must have at most 1000 messages, has 1001"
        );
        assert_eq!(number_of(&request.encode_to_vec()), 300);
    }
}
