//! A message as it lies in the log, without its position.
//!
//! ```text
//! flags  published_at  id                    topic      [headers]        [attributes]  payload
//!  u8      varint      16 bytes or a text    a text     count, pairs     7 texts       the rest
//! ```
//!
//! The payload comes last, so that it can be cut out of a buffer without being copied.

use bytes::Bytes;
use courser_core::{
    id::Position,
    limits::HEADERS_MAX,
    message::{Attributes, Message, MessageId},
};
use uuid::Uuid;

use super::{Malformed, Reader, put_bytes, put_varint};

const GIVEN_ID: u8 = 1;
const HEADERS: u8 = 2;
const ATTRIBUTES: u8 = 4;
const FLAGS: u8 = 8;

/// Everything that stands before the payload.
pub(crate) fn put_head(out: &mut Vec<u8>, message: &Message) {
    let start = out.len();
    let mut flags = 0;
    out.push(0);
    put_varint(out, message.published_at.as_micros());
    match &message.id {
        MessageId::Uuid(uuid) => out.extend_from_slice(uuid.as_bytes()),
        MessageId::Given(id) => {
            flags |= GIVEN_ID;
            put_bytes(out, id.as_bytes());
        }
    }
    put_bytes(out, message.topic.as_bytes());
    if !message.headers.is_empty() {
        flags |= HEADERS;
        put_varint(out, message.headers.len() as u64);
        for (key, value) in &message.headers {
            put_bytes(out, key.as_bytes());
            put_bytes(out, value.as_bytes());
        }
    }
    if let Some(attributes) = &message.attributes {
        flags |= ATTRIBUTES;
        for field in attributes.fields() {
            put_bytes(out, field.as_bytes());
        }
    }
    out[start] = flags;
}

/// The whole message.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn put(out: &mut Vec<u8>, message: &Message) {
    put_head(out, message);
    out.extend_from_slice(&message.payload);
}

/// `payload` makes the payload from its range in `body`: a copy, or a slice of a shared buffer.
pub(crate) fn take(
    body: &[u8],
    position: Position,
    payload: impl FnOnce(std::ops::Range<usize>) -> Bytes,
) -> Result<Message, Malformed> {
    let mut reader = Reader::new(body);
    let flags = reader.byte()?;
    if flags >= FLAGS {
        return Err(Malformed("a message has unknown flags"));
    }
    let published_at = reader.timestamp()?;
    let id = if flags & GIVEN_ID == 0 {
        MessageId::Uuid(Uuid::from_bytes(reader.array()?))
    } else {
        MessageId::Given(reader.boxed_text()?)
    };
    let topic = reader.text()?.into();
    let headers = if flags & HEADERS == 0 {
        Vec::new()
    } else {
        take_headers(&mut reader)?
    };
    let attributes = if flags & ATTRIBUTES == 0 {
        None
    } else {
        Some(Box::new(take_attributes(&mut reader)?))
    };
    let payload = payload(body.len() - reader.left()..body.len());
    Ok(Message {
        position,
        published_at,
        id,
        topic,
        payload,
        headers,
        attributes,
    })
}

fn take_headers(reader: &mut Reader<'_>) -> Result<Vec<(String, String)>, Malformed> {
    let count = reader.count()?;
    let mut headers = Vec::with_capacity(count.min(HEADERS_MAX));
    for _ in 0..count {
        headers.push((reader.text()?.to_owned(), reader.text()?.to_owned()));
    }
    Ok(headers)
}

fn take_attributes(reader: &mut Reader<'_>) -> Result<Attributes, Malformed> {
    let mut next = || reader.text().map(str::to_owned);
    Ok(Attributes {
        content_type: next()?,
        kind: next()?,
        source: next()?,
        schema_version: next()?,
        correlation_id: next()?,
        causation_id: next()?,
        traceparent: next()?,
    })
}

#[cfg(test)]
mod tests {
    use courser_core::time::Timestamp;

    use super::*;

    fn round_trip(message: &Message) {
        let mut out = Vec::new();
        put(&mut out, message);
        let copy = |range| Bytes::copy_from_slice(&out[range]);
        assert_eq!(take(&out, message.position, copy).as_ref(), Ok(message));
        for end in 0..out.len() {
            let _ = take(&out[..end], Position(1), |_| Bytes::new());
        }
    }

    #[test]
    fn messages_come_back() {
        let mut message = Message {
            position: Position(7),
            published_at: Timestamp::from_micros(1_700_000_000_000_000),
            id: MessageId::Uuid(Uuid::from_u128(77)),
            topic: "order.created".into(),
            payload: Bytes::from_static(b"payload"),
            headers: Vec::new(),
            attributes: None,
        };
        round_trip(&message);
        message.id = MessageId::Given("mine".into());
        message.headers = vec![
            ("key".into(), "value".into()),
            ("other".into(), String::new()),
        ];
        message.attributes = Some(Box::new(Attributes {
            kind: "kind".into(),
            traceparent: "00-1-2-3".into(),
            ..Attributes::default()
        }));
        message.payload = Bytes::new();
        round_trip(&message);
    }
}
