//! What is published, and what became of it.

use std::sync::Arc;

use bytes::Bytes;
use courser_core::{
    limits::{
        ATTRIBUTE_BYTES_MAX, HEADER_KEY_BYTES_MAX, HEADERS_BYTES_MAX, HEADERS_MAX,
        MESSAGE_ID_BYTES_MAX, PUBLISH_BYTES_MAX, PUBLISH_MESSAGES_MAX,
    },
    message::{Attributes, NewMessage},
    name::check_name,
};
use courser_engine::request::{Publish, Published};
use courser_proto::v1;

use super::{Checked, InvalidField, count_at_most, durability_from_proto, too_long};

/// A message as it came.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// Nearly all are of this kind.
    Plain(Plain),
    /// Has more than that.
    Full(Box<v1::Message>),
}

/// A message of which nothing was said but this.
#[derive(Debug)]
pub(crate) struct Plain {
    pub(crate) id: Box<str>,
    pub(crate) topic: Arc<str>,
    pub(crate) payload: Bytes,
}

impl Incoming {
    pub(crate) fn payload(&mut self) -> &mut Bytes {
        match self {
            Self::Plain(message) => &mut message.payload,
            Self::Full(message) => &mut message.payload,
        }
    }
}

impl From<v1::Message> for Incoming {
    fn from(message: v1::Message) -> Self {
        Self::Full(Box::new(message))
    }
}

/// A request to publish, of payloads of at most `payload_bytes_max` each.
pub(crate) fn publish_from_proto(
    messages: Vec<impl Into<Incoming>>,
    mandatory: bool,
    durability: i32,
    payload_bytes_max: usize,
) -> Checked<Publish> {
    if messages.is_empty() {
        return Err(InvalidField::new("messages", "must not be empty"));
    }
    count_at_most("messages", messages.len(), PUBLISH_MESSAGES_MAX, "messages")?;
    let durability = durability_from_proto("durability", durability)?;
    let mut checked = Vec::<NewMessage>::with_capacity(messages.len());
    for (index, message) in messages.into_iter().enumerate() {
        let before = checked.last().map(|message| &*message.topic);
        let message = message_from_proto(message.into(), before, payload_bytes_max)
            .map_err(|error| error.within(&format!("messages[{index}]")))?;
        checked.push(message);
    }
    let publish = Publish {
        messages: checked,
        mandatory,
        durability,
        without_results: false,
    };
    if publish.messages.len() > 1 && publish.bytes() > PUBLISH_BYTES_MAX {
        let problem = format_args!(
            "must have at most {PUBLISH_BYTES_MAX} bytes in all, have {}",
            publish.bytes()
        );
        return Err(InvalidField::new("messages", problem));
    }
    Ok(publish)
}

/// `checked` is a topic that was looked over already: most requests have one in all their messages.
fn message_from_proto(
    message: Incoming,
    checked: Option<&str>,
    payload_bytes_max: usize,
) -> Checked<NewMessage> {
    let (plain, message) = match message {
        Incoming::Plain(plain) => (plain, None),
        Incoming::Full(mut message) => {
            let plain = Plain {
                id: std::mem::take(&mut message.id).into_boxed_str(),
                topic: std::mem::take(&mut message.topic).into(),
                payload: std::mem::take(&mut message.payload),
            };
            (plain, Some(message))
        }
    };
    let Plain { id, topic, payload } = plain;
    if checked != Some(&*topic) {
        check_name(&topic).map_err(|error| InvalidField::new("topic", error))?;
    }
    if payload.len() > payload_bytes_max {
        return Err(too_long("payload", payload.len(), payload_bytes_max));
    }
    if id.len() > MESSAGE_ID_BYTES_MAX {
        return Err(too_long("id", id.len(), MESSAGE_ID_BYTES_MAX));
    }
    let (headers, attributes) = match message {
        None => (Vec::new(), None),
        Some(mut message) => {
            check_unset(&message)?;
            let headers = headers_from_proto(std::mem::take(&mut message.headers))?;
            (headers, attributes_from_proto(*message)?)
        }
    };
    Ok(NewMessage {
        id: (!id.is_empty()).then_some(id),
        topic,
        payload,
        headers,
        attributes,
    })
}

/// What only the broker may say of a message.
fn check_unset(message: &v1::Message) -> Checked<()> {
    if message.position != 0 {
        return Err(InvalidField::new(
            "position",
            "must not be set: the broker sets it",
        ));
    }
    if message.published_at.is_some() {
        return Err(InvalidField::new(
            "published_at",
            "must not be set: the broker sets it",
        ));
    }
    Ok(())
}

/// The headers by key: the order of a map must not be seen.
fn headers_from_proto(
    headers: std::collections::HashMap<String, String>,
) -> Checked<Vec<(String, String)>> {
    if headers.is_empty() {
        return Ok(Vec::new());
    }
    count_at_most("headers", headers.len(), HEADERS_MAX, "pairs")?;
    let mut bytes = 0;
    for (key, value) in &headers {
        if key.is_empty() {
            return Err(InvalidField::new("headers", "must not have an empty key"));
        }
        if key.len() > HEADER_KEY_BYTES_MAX {
            return Err(too_long("headers: a key", key.len(), HEADER_KEY_BYTES_MAX));
        }
        bytes += key.len() + value.len();
    }
    if bytes > HEADERS_BYTES_MAX {
        let problem =
            format_args!("must have at most {HEADERS_BYTES_MAX} bytes in all, have {bytes}");
        return Err(InvalidField::new("headers", problem));
    }
    let mut headers: Vec<_> = headers.into_iter().collect();
    headers.sort_unstable();
    Ok(headers)
}

/// The names of the attributes on the wire, in the order of [`Attributes::fields`].
const ATTRIBUTE_NAMES: [&str; 7] = [
    "content_type",
    "type",
    "source",
    "schema_version",
    "correlation_id",
    "causation_id",
    "traceparent",
];

fn attributes_from_proto(message: v1::Message) -> Checked<Option<Box<Attributes>>> {
    let attributes = Attributes {
        content_type: message.content_type,
        kind: message.r#type,
        source: message.source,
        schema_version: message.schema_version,
        correlation_id: message.correlation_id,
        causation_id: message.causation_id,
        traceparent: message.traceparent,
    };
    let mut bytes = 0;
    for (name, value) in ATTRIBUTE_NAMES.into_iter().zip(attributes.fields()) {
        if value.len() > ATTRIBUTE_BYTES_MAX {
            return Err(too_long(name, value.len(), ATTRIBUTE_BYTES_MAX));
        }
        bytes += value.len();
    }
    Ok((bytes > 0).then(|| Box::new(attributes)))
}

pub(crate) fn published_to_proto(published: Vec<Published>) -> Vec<v1::PublishResult> {
    published
        .into_iter()
        .map(|published| v1::PublishResult {
            position: published.position.0,
            id: published.id.to_string(),
            queues: published.queues,
        })
        .collect()
}
