//! What is published, and what became of it.

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

use super::{Checked, InvalidField, count_at_most, durability_from_proto, text_at_most, too_long};

/// A request to publish, of payloads of at most `payload_bytes_max` each.
pub(crate) fn publish_from_proto(
    messages: Vec<v1::Message>,
    mandatory: bool,
    durability: i32,
    payload_bytes_max: usize,
) -> Checked<Publish> {
    if messages.is_empty() {
        return Err(InvalidField::new("messages", "must not be empty"));
    }
    count_at_most("messages", messages.len(), PUBLISH_MESSAGES_MAX, "messages")?;
    let durability = durability_from_proto("durability", durability)?;
    let mut checked = Vec::with_capacity(messages.len());
    for (index, message) in messages.into_iter().enumerate() {
        let message = message_from_proto(message, payload_bytes_max)
            .map_err(|error| error.within(&format!("messages[{index}]")))?;
        checked.push(message);
    }
    let publish = Publish {
        messages: checked,
        mandatory,
        durability,
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

fn message_from_proto(message: v1::Message, payload_bytes_max: usize) -> Checked<NewMessage> {
    check_name(&message.topic).map_err(|error| InvalidField::new("topic", error))?;
    if message.payload.len() > payload_bytes_max {
        return Err(too_long(
            "payload",
            message.payload.len(),
            payload_bytes_max,
        ));
    }
    let id = text_at_most("id", message.id, MESSAGE_ID_BYTES_MAX)?;
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
    let attributes = Attributes {
        content_type: message.content_type,
        kind: message.r#type,
        source: message.source,
        schema_version: message.schema_version,
        correlation_id: message.correlation_id,
        causation_id: message.causation_id,
        traceparent: message.traceparent,
    };
    Ok(NewMessage {
        id: (!id.is_empty()).then(|| id.into_boxed_str()),
        topic: message.topic.into_boxed_str(),
        payload: message.payload,
        headers: headers_from_proto(message.headers)?,
        attributes: checked_attributes(attributes)?,
    })
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

fn checked_attributes(attributes: Attributes) -> Checked<Option<Box<Attributes>>> {
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
