//! Deliveries, read by where their parts lie.
//!
//! Nearly all messages have an id, a topic and a payload, a position and a time. These are looked up here; a message
//! that has more goes through prost, and so does a response in which anything is not as the broker
//! writes it, for prost has the word on what is broken and what is unknown.

use bytes::Bytes;
use prost::{Message as _, encoding::decode_varint};
use prost_types::Timestamp;

use crate::{
    deliveries::{DeliveryBatch, Item, Place, Plain, PlainMessage},
    wire::{Delivery, Message},
};

/// Fields as their keys say: the number, and the type behind it in three bits.
mod key {
    const VARINT: u8 = 0;
    const FIXED64: u8 = 1;
    const NESTED: u8 = 2;

    pub(super) const DELIVERIES: u8 = 1 << 3 | NESTED;
    pub(super) const DELIVERY: u8 = 1 << 3 | NESTED;

    pub(super) const LEASE_ID: u8 = 1 << 3 | FIXED64;
    pub(super) const ATTEMPT: u8 = 2 << 3 | VARINT;
    pub(super) const LEASE_UNTIL: u8 = 3 << 3 | NESTED;
    pub(super) const MESSAGE: u8 = 4 << 3 | NESTED;

    pub(super) const ID: u8 = 1 << 3 | NESTED;
    pub(super) const TOPIC: u8 = 2 << 3 | NESTED;
    pub(super) const PAYLOAD: u8 = 3 << 3 | NESTED;
    pub(super) const POSITION: u8 = 12 << 3 | FIXED64;
    pub(super) const PUBLISHED_AT: u8 = 13 << 3 | NESTED;

    pub(super) const SECONDS: u8 = 1 << 3 | VARINT;
    pub(super) const NANOS: u8 = 2 << 3 | VARINT;
}

/// Reads a response with deliveries, of which about so many are expected; `None` when it is something else, or has
/// anything that is for prost to read.
pub(crate) fn read(encoded: &Bytes, expected: usize) -> Option<DeliveryBatch> {
    // Places are of 32 bits.
    u32::try_from(encoded.len()).ok()?;
    let (&key::DELIVERIES, mut rest) = encoded.split_first()? else {
        return None;
    };
    let mut list = nested(&mut rest)?;
    if !rest.is_empty() {
        return None;
    }
    let mut batch = DeliveryBatch {
        encoded: encoded.clone(),
        items: Vec::with_capacity(expected),
    };
    let mut reader = Reader {
        whole: encoded,
        topic: &[],
    };
    while let Some((&key, behind)) = list.split_first() {
        list = behind;
        if key != key::DELIVERY {
            return None;
        }
        batch.items.push(reader.delivery(nested(&mut list)?)?);
    }
    Some(batch)
}

struct Reader<'a> {
    whole: &'a Bytes,
    /// The last topic that was found to be a text: most deliveries of a batch have the same.
    topic: &'a [u8],
}

impl<'a> Reader<'a> {
    fn delivery(&mut self, mut rest: &'a [u8]) -> Option<Item> {
        let mut delivery = Plain::default();
        let mut message = None;
        while let Some((&key, behind)) = rest.split_first() {
            rest = behind;
            match key {
                key::LEASE_ID => delivery.lease_id = fixed64(&mut rest)?,
                key::ATTEMPT => delivery.attempt = decode_varint(&mut rest).ok()? as u32,
                key::LEASE_UNTIL if delivery.lease_until.is_none() => {
                    delivery.lease_until = Some(timestamp(nested(&mut rest)?)?);
                }
                key::MESSAGE if message.is_none() => message = Some(nested(&mut rest)?),
                _ => return None,
            }
        }
        let Some(message) = message else {
            return Some(Item::Plain(delivery));
        };
        if let Some(plain) = self.plain(message) {
            delivery.message = Some(plain);
            return Some(Item::Plain(delivery));
        }
        let message = Message::decode(self.whole.slice_ref(message)).ok()?;
        Some(Item::Full(Box::new(Delivery {
            lease_id: delivery.lease_id,
            attempt: delivery.attempt,
            lease_until: delivery.lease_until,
            message: Some(message),
            dead_letter: None,
        })))
    }

    /// `None` when the message has something that few have, or is broken.
    fn plain(&mut self, mut rest: &'a [u8]) -> Option<PlainMessage> {
        let (mut id, mut topic, mut payload): (&[u8], &[u8], &[u8]) = Default::default();
        let (mut position, mut published_at) = (0, None);
        while let Some((&key, behind)) = rest.split_first() {
            rest = behind;
            let to = match key {
                key::ID => &mut id,
                key::TOPIC => &mut topic,
                key::PAYLOAD => &mut payload,
                key::POSITION => {
                    position = fixed64(&mut rest)?;
                    continue;
                }
                key::PUBLISHED_AT if published_at.is_none() => {
                    published_at = Some(timestamp(nested(&mut rest)?)?);
                    continue;
                }
                _ => return None,
            };
            // Of several the last one counts, but all of them must be texts.
            if !to.is_empty() {
                return None;
            }
            *to = nested(&mut rest)?;
        }
        str::from_utf8(id).ok()?;
        if topic != self.topic {
            str::from_utf8(topic).ok()?;
            self.topic = topic;
        }
        Some(PlainMessage {
            id: self.place(id),
            topic: self.place(topic),
            payload: self.place(payload),
            position,
            published_at,
        })
    }

    /// Where a part of the whole lies in it. An empty one may lie anywhere.
    fn place(&self, part: &[u8]) -> Place {
        if part.is_empty() {
            return Place::default();
        }
        let start = (part.as_ptr() as usize - self.whole.as_ptr() as usize) as u32;
        Place {
            start,
            end: start + part.len() as u32,
        }
    }
}

fn timestamp(mut rest: &[u8]) -> Option<Timestamp> {
    let mut timestamp = Timestamp::default();
    while let Some((&key, behind)) = rest.split_first() {
        rest = behind;
        match key {
            key::SECONDS => timestamp.seconds = decode_varint(&mut rest).ok()?.cast_signed(),
            key::NANOS => timestamp.nanos = decode_varint(&mut rest).ok()? as i32,
            _ => return None,
        }
    }
    Some(timestamp)
}

fn fixed64(rest: &mut &[u8]) -> Option<u64> {
    let (value, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(u64::from_le_bytes(*value))
}

fn nested<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let bytes = usize::try_from(decode_varint(rest).ok()?).ok()?;
    let (nested, behind) = rest.split_at_checked(bytes)?;
    *rest = behind;
    Some(nested)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{DeadLetter, Deliveries, SubscribeResponse, subscribe_response::Kind};

    fn response(deliveries: Vec<Delivery>) -> SubscribeResponse {
        let kind = Some(Kind::Deliveries(Deliveries { deliveries }));
        SubscribeResponse { kind }
    }

    fn at(seconds: i64, nanos: i32) -> Option<Timestamp> {
        Some(Timestamp { seconds, nanos })
    }

    fn sample() -> Delivery {
        let message = Message {
            id: "id".to_owned(),
            topic: "a.ü".to_owned(),
            payload: Bytes::from_static(b"12345"),
            position: 1 << 40,
            published_at: at(1_800_000_000, 5_000),
            ..Message::default()
        };
        Delivery {
            lease_id: 77,
            attempt: 300,
            lease_until: at(-1, 999_999_999),
            message: Some(message),
            dead_letter: None,
        }
    }

    fn with_message(change: impl FnOnce(&mut Message)) -> Delivery {
        let mut delivery = sample();
        change(delivery.message.as_mut().unwrap());
        delivery
    }

    /// What is read here is what prost reads, in `encoded`, in all that it begins with, and in it with any one byte
    /// changed; answers whether `encoded` itself is read here.
    #[track_caller]
    fn check(encoded: &[u8]) -> bool {
        let agree = |bytes: &[u8]| {
            let read = read(&Bytes::copy_from_slice(bytes), 0);
            let is_read = read.is_some();
            if let Some(batch) = read {
                let deliveries = batch.into_deliveries();
                let kind = Some(Kind::Deliveries(Deliveries { deliveries }));
                let expected = SubscribeResponse::decode(bytes);
                assert_eq!(Ok(SubscribeResponse { kind }), expected, "{bytes:?}");
            }
            is_read
        };
        for end in 0..encoded.len() {
            agree(&encoded[..end]);
        }
        let mut bytes = encoded.to_vec();
        for index in 0..encoded.len() {
            for value in 0..=u8::MAX {
                bytes[index] = value;
                agree(&bytes);
            }
            bytes[index] = encoded[index];
        }
        agree(encoded)
    }

    #[test]
    fn what_the_broker_mostly_sends_is_read_here() {
        let few = |message: &mut Message| *message = Message::default();
        let deliveries = vec![sample(), with_message(few), Delivery::default()];
        assert!(check(&response(deliveries).encode_to_vec()));
        assert!(check(&response(Vec::new()).encode_to_vec()));
    }

    #[test]
    fn a_message_with_more_is_read_too() {
        let more = |message: &mut Message| {
            message.headers = [("k".to_owned(), "v".to_owned())].into();
            message.traceparent = "t".to_owned();
        };
        let deliveries = vec![sample(), with_message(more)];
        assert!(check(&response(deliveries).encode_to_vec()));
    }

    #[test]
    fn the_rest_is_for_prost() {
        let dead = Delivery {
            dead_letter: Some(DeadLetter::default()),
            ..sample()
        };
        assert!(!check(&response(vec![sample(), dead]).encode_to_vec()));
        let other = Some(Kind::Drained(crate::wire::Drained {}));
        assert!(!check(&SubscribeResponse { kind: other }.encode_to_vec()));
        let encoded = response(vec![sample()]).encode_to_vec();
        // Deliveries twice, which prost makes one of; a field that nobody knows, before and behind.
        assert!(!check(&[&encoded[..], &encoded].concat()));
        assert!(!check(&[&encoded[..], &[0x78, 1]].concat()));
        assert!(!check(&[&[0x78, 1], &encoded[..]].concat()));
        // Not a text.
        assert!(!check(&nest(&[0x12, 1, 0xff])));
    }

    #[test]
    fn what_is_odd_in_a_message_is_read_as_prost_reads_it() {
        // A text twice; a time in two parts; a field that nobody knows; a group.
        assert!(check(&nest(&[0x0a, 1, b'a', 0x0a, 1, b'b'])));
        assert!(check(&nest(&[0x6a, 2, 0x08, 1, 0x6a, 2, 0x10, 1])));
        assert!(check(&nest(&[0x78, 1, 0x12, 1, b'a'])));
        assert!(check(&nest(&[0x7b, 0x7c])));
        // A number of ten bytes, and one of more bits than fit.
        let ten = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        for number in [&ten[..], &[0x80, 0x80, 0x80, 0x80, 0x70]] {
            let time = [&[0x6a, number.len() as u8 + 1, 0x10], number].concat();
            assert!(check(&nest(&time)));
        }
    }

    /// A response with one delivery of one message.
    fn nest(message: &[u8]) -> Vec<u8> {
        let around = |key: u8, inner: &[u8]| [&[key, inner.len() as u8], inner].concat();
        around(0x0a, &around(0x0a, &around(0x22, message)))
    }

    #[test]
    fn payloads_are_not_copied() {
        let encoded = Bytes::from(response(vec![sample()]).encode_to_vec());
        let batch = read(&encoded, 1).unwrap();
        let view = batch.iter().next().unwrap();
        for payload in [view.payload(), &view.payload_bytes()] {
            assert_eq!(payload, b"12345");
            assert!(encoded.as_ptr_range().contains(&payload.as_ptr()));
        }
    }
}
