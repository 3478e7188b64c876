//! Requests of a PublishStream, read straight into what is published.
//!
//! prost makes a message of 330 bytes with eight texts and a map of each. Nearly all messages have a topic, a
//! payload and perhaps an id: these are read here. Whatever else there is in a request or in a message goes
//! through prost, which also has the word on what is broken. Fuzzing holds both ways against each other.

use std::sync::Arc;

use bytes::Bytes;
use courser_proto::v1;
use prost::{DecodeError, Message as _, encoding::decode_varint};

use super::request::{has_groups, let_go_of_buffer};
use crate::convert::{Incoming, Plain};

/// A request of a PublishStream beside its number.
#[derive(Debug)]
pub(crate) struct Publishing {
    pub(crate) messages: Vec<Incoming>,
    pub(crate) mandatory: bool,
    pub(crate) durability: i32,
    pub(crate) without_results: bool,
}

/// Fields as their keys say: the number, and the type behind it in three bits.
mod key {
    pub(super) const NUMBER: u8 = 1 << 3;
    pub(super) const MESSAGE: u8 = 2 << 3 | 2;
    pub(super) const MANDATORY: u8 = 3 << 3;
    pub(super) const DURABILITY: u8 = 4 << 3;
    pub(super) const WITHOUT_RESULTS: u8 = 5 << 3;

    pub(super) const ID: u8 = 1 << 3 | 2;
    pub(super) const TOPIC: u8 = 2 << 3 | 2;
    pub(super) const PAYLOAD: u8 = 3 << 3 | 2;
}

/// Reads a request with so many messages; answers its number too.
pub(super) fn decode(encoded: &Bytes, messages: usize) -> Result<(u64, Publishing), DecodeError> {
    let (number, mut publishing) = match read(encoded, messages) {
        Some(read) => read?,
        None => through_prost(encoded)?,
    };
    let_go_of_buffer(&mut publishing.messages, Incoming::payload, encoded.len());
    Ok((number, publishing))
}

fn through_prost(encoded: &Bytes) -> Result<(u64, Publishing), DecodeError> {
    let request = v1::PublishStreamRequest::decode(encoded.clone())?;
    let publishing = Publishing {
        messages: request.messages.into_iter().map(Incoming::from).collect(),
        mandatory: request.mandatory,
        durability: request.durability,
        without_results: request.without_results,
    };
    Ok((request.number, publishing))
}

/// `None` when there is anything in the request, beside its messages, that is not as it mostly is.
fn read(encoded: &Bytes, messages: usize) -> Option<Result<(u64, Publishing), DecodeError>> {
    let mut publishing = Publishing {
        messages: Vec::with_capacity(messages),
        mandatory: false,
        durability: 0,
        without_results: false,
    };
    let mut number = 0;
    let mut topic = None;
    let mut rest = &encoded[..];
    while let Some((key, behind)) = rest.split_first() {
        rest = behind;
        match *key {
            key::NUMBER => number = decode_varint(&mut rest).ok()?,
            key::MANDATORY => publishing.mandatory = decode_varint(&mut rest).ok()? != 0,
            // Of more bits than the field has, prost takes the lower ones.
            key::DURABILITY => publishing.durability = decode_varint(&mut rest).ok()? as i32,
            key::WITHOUT_RESULTS => {
                publishing.without_results = decode_varint(&mut rest).ok()? != 0;
            }
            key::MESSAGE => {
                let message = nested(&mut rest)?;
                let message = match plain(encoded, message, topic.as_ref()) {
                    Some(message) => {
                        topic = Some(Arc::clone(&message.topic));
                        Incoming::Plain(message)
                    }
                    // How deep groups may lie in each other, prost counts from the whole.
                    None if has_groups(message) => return None,
                    None => match v1::Message::decode(encoded.slice_ref(message)) {
                        Ok(message) => message.into(),
                        Err(error) => return Some(Err(error)),
                    },
                };
                publishing.messages.push(message);
            }
            _ => return None,
        }
    }
    Some(Ok((number, publishing)))
}

/// A message of `whole`; `None` when it has something that few have, or is broken. `before` is the topic of the one
/// before: most requests have one topic in all their messages, which then share it.
fn plain(whole: &Bytes, mut rest: &[u8], before: Option<&Arc<str>>) -> Option<Plain> {
    let (mut id, mut topic, mut payload): (&[u8], &[u8], &[u8]) = Default::default();
    while let Some((key, behind)) = rest.split_first() {
        rest = behind;
        let to = match *key {
            key::ID => &mut id,
            key::TOPIC => &mut topic,
            key::PAYLOAD => &mut payload,
            _ => return None,
        };
        // Of several the last one counts, but all of them must be texts.
        if !to.is_empty() {
            return None;
        }
        *to = nested(&mut rest)?;
    }
    let topic = match before {
        Some(before) if before.as_bytes() == topic => Arc::clone(before),
        _ => str::from_utf8(topic).ok()?.into(),
    };
    Some(Plain {
        id: str::from_utf8(id).ok()?.into(),
        topic,
        payload: whole.slice_ref(payload),
    })
}

fn nested<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let bytes = usize::try_from(decode_varint(rest).ok()?).ok()?;
    let (nested, behind) = rest.split_at_checked(bytes)?;
    *rest = behind;
    Some(nested)
}

#[cfg(any(test, feature = "fuzz"))]
impl Publishing {
    /// As prost would have it.
    pub(crate) fn into_proto(self, number: u64) -> v1::PublishStreamRequest {
        let messages = self.messages.into_iter().map(|message| match message {
            Incoming::Full(message) => *message,
            Incoming::Plain(Plain { id, topic, payload }) => v1::Message {
                id: id.into(),
                topic: topic.to_string(),
                payload,
                ..v1::Message::default()
            },
        });
        v1::PublishStreamRequest {
            number,
            messages: messages.collect(),
            mandatory: self.mandatory,
            durability: self.durability,
            without_results: self.without_results,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(encoded: &[u8]) -> Option<v1::PublishStreamRequest> {
        let (number, publishing) = decode(&Bytes::copy_from_slice(encoded), 3).ok()?;
        Some(publishing.into_proto(number))
    }

    /// Both ways agree on `encoded`, on all that it begins with, and on it with any one byte changed.
    #[track_caller]
    fn check(encoded: &[u8]) {
        let mut bytes = encoded.to_vec();
        let agree = |bytes: &[u8]| {
            let expected = v1::PublishStreamRequest::decode(bytes).ok();
            assert_eq!(decoded(bytes), expected, "{bytes:?}");
        };
        agree(encoded);
        for end in 0..encoded.len() {
            agree(&encoded[..end]);
        }
        for index in 0..encoded.len() {
            for value in 0..=u8::MAX {
                bytes[index] = value;
                agree(&bytes);
            }
            bytes[index] = encoded[index];
        }
    }

    fn message() -> v1::Message {
        v1::Message {
            topic: "a.ü".to_owned(),
            payload: Bytes::from_static(b"12345"),
            ..v1::Message::default()
        }
    }

    #[test]
    fn plain_messages_and_others_are_read_as_prost_reads_them() {
        let with_id = v1::Message {
            id: "id".to_owned(),
            ..message()
        };
        let full = v1::Message {
            headers: [("k".to_owned(), "v".to_owned())].into(),
            r#type: "t".to_owned(),
            ..message()
        };
        let request = v1::PublishStreamRequest {
            number: 300,
            messages: vec![message(), with_id, full],
            mandatory: true,
            durability: 2,
            without_results: true,
        };
        let encoded = request.encode_to_vec();
        let (number, publishing) = decode(&Bytes::from(encoded.clone()), 3).unwrap();
        let kinds = publishing.messages.iter();
        let plain: Vec<_> = kinds.map(|m| matches!(m, Incoming::Plain(_))).collect();
        assert_eq!((number, plain), (300, vec![true, true, false]));
        check(&encoded);
        let placed = v1::Message {
            position: 7,
            ..message()
        };
        let messages = vec![message(), placed];
        check(
            &v1::PublishStreamRequest {
                messages,
                ..request
            }
            .encode_to_vec(),
        );
    }

    #[test]
    fn the_last_of_a_field_counts_and_what_is_odd_is_read_too() {
        let twice = [
            &[0x08, 1, 0x08, 0x81, 0x80, 0x00, 0x12, 9][..],
            &[0x12, 1, b'a', 0x1a, 0, 0x12, 2, b'b', b'c'],
        ];
        check(&twice.concat());
        // A field that nobody knows, a group, a number of ten bytes, one of more bits than fit.
        let ten = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        for odd in [
            &[0x28, 1][..],
            &[0x7b, 0x7c],
            &[[0x08].as_slice(), &ten].concat(),
            &[[0x20].as_slice(), &ten].concat(),
            &[0x20, 0x80, 0x80, 0x80, 0x80, 0x70],
            &[0x18, 0x80, 0x02],
        ] {
            let message = [0x12, 3, 0x12, 1, b'a'];
            check(&[odd, &message].concat());
            check(&[&message, odd].concat());
        }
        // Groups in a message, as deep as prost goes and deeper.
        for depth in 97..103 {
            let groups = [vec![0x7b; depth], vec![0x7c; depth]].concat();
            let encoded = [&[0x12, 0x80 | groups.len() as u8, 1][..], &groups].concat();
            let expected = v1::PublishStreamRequest::decode(&*encoded).ok();
            assert_eq!(decoded(&encoded), expected, "{depth}");
        }
    }

    #[test]
    fn small_payloads_do_not_keep_a_large_request_in_memory() {
        for (payload, shares) in [(10, false), (900, false), (1_100, true)] {
            let message = v1::Message {
                payload: vec![7; payload].into(),
                topic: "x".repeat(1_000),
                ..v1::Message::default()
            };
            let request = v1::PublishStreamRequest {
                messages: vec![message],
                ..v1::PublishStreamRequest::default()
            };
            let encoded = Bytes::from(request.encode_to_vec());
            let (_, mut publishing) = decode(&encoded, 1).unwrap();
            let payload = publishing.messages[0].payload();
            let range = encoded.as_ptr_range();
            assert_eq!(range.contains(&payload.as_ptr()), shares);
            assert!(payload.iter().all(|byte| *byte == 7));
        }
    }
}
