//! Messages of the contract as JSON, driven by their descriptors, so that no field can be forgotten.
//!
//! Like the JSON of protobuf, but with the contract's own field names, every field printed (one that is
//! not set is null), 64-bit integers as numbers, and a payload as text when it is text: what people
//! and `jq` want.

use std::{
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use courser_client::wire;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage as _,
};
use serde_json::{Map, Value, json};

static CONTRACT: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(courser_proto::FILE_DESCRIPTOR_SET)
        .expect("the descriptors were made by our own build")
});

/// A message that the contract has a name for.
pub(in crate::cli) trait Name: prost::Message {
    const NAME: &'static str;
}

impl Name for wire::Queue {
    const NAME: &'static str = "courser.v1.Queue";
}
impl Name for wire::CreateQueueResponse {
    const NAME: &'static str = "courser.v1.CreateQueueResponse";
}
impl Name for wire::DeleteQueueResponse {
    const NAME: &'static str = "courser.v1.DeleteQueueResponse";
}
impl Name for wire::Entry {
    const NAME: &'static str = "courser.v1.Entry";
}
impl Name for wire::Delivery {
    const NAME: &'static str = "courser.v1.Delivery";
}
impl Name for wire::PublishResult {
    const NAME: &'static str = "courser.v1.PublishResult";
}

/// A message as JSON.
pub(in crate::cli) fn to_json<M: Name>(message: &M) -> Value {
    let descriptor = CONTRACT
        .get_message_by_name(M::NAME)
        .expect("every name is in the contract");
    let message = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
        .expect("what was encoded can be decoded");
    object(&message)
}

fn object(message: &DynamicMessage) -> Value {
    match message.descriptor().full_name() {
        "google.protobuf.Timestamp" => timestamp(message),
        "google.protobuf.Duration" => duration(message),
        _ => Value::Object(
            message
                .descriptor()
                .fields()
                .map(|field| member(message, &field))
                .collect(),
        ),
    }
}

fn member(message: &DynamicMessage, field: &FieldDescriptor) -> (String, Value) {
    let name = field.name().to_owned();
    if field.supports_presence() && !message.has_field(field) {
        return (name, Value::Null);
    }
    let value = message.get_field(field);
    if let (prost_reflect::Value::Bytes(bytes), "payload") = (&*value, field.name()) {
        let (suffix, text) = utf8_or_base64(bytes);
        return (name + suffix, text.into());
    }
    if let (prost_reflect::Value::U64(id), "lease_id") = (&*value, field.name()) {
        // It may be above 2^53, from where on readers of JSON round numbers.
        return (name, id.to_string().into());
    }
    (name, any(&value, field))
}

/// A payload as text, and what to add to the field's name when it had to be base64.
pub(in crate::cli) fn utf8_or_base64(bytes: &[u8]) -> (&'static str, String) {
    match std::str::from_utf8(bytes) {
        Ok(text) => ("", text.to_owned()),
        Err(_) => ("_base64", BASE64_STANDARD.encode(bytes)),
    }
}

fn any(value: &prost_reflect::Value, field: &FieldDescriptor) -> Value {
    match value {
        prost_reflect::Value::Bool(value) => json!(value),
        prost_reflect::Value::I32(value) => json!(value),
        prost_reflect::Value::I64(value) => json!(value),
        prost_reflect::Value::U32(value) => json!(value),
        prost_reflect::Value::U64(value) => json!(value),
        prost_reflect::Value::F32(value) => json!(value),
        prost_reflect::Value::F64(value) => json!(value),
        prost_reflect::Value::String(value) => json!(value),
        prost_reflect::Value::Bytes(value) => json!(BASE64_STANDARD.encode(value)),
        prost_reflect::Value::EnumNumber(number) => enum_name(*number, field),
        prost_reflect::Value::Message(message) => object(message),
        prost_reflect::Value::List(list) => list.iter().map(|item| any(item, field)).collect(),
        prost_reflect::Value::Map(map) => {
            let mut members: Vec<_> = map
                .iter()
                .map(|(key, value)| (key_text(key), any(value, field)))
                .collect();
            // The map is hashed; the output should not differ from call to call.
            members.sort_by(|(left, _), (right, _)| left.cmp(right));
            Value::Object(Map::from_iter(members))
        }
    }
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

fn enum_name(number: i32, field: &FieldDescriptor) -> Value {
    match field.kind() {
        Kind::Enum(kind) => match kind.get_value(number) {
            Some(value) => json!(value.name()),
            None => json!(number),
        },
        _ => json!(number),
    }
}

/// Seconds and nanoseconds of a timestamp or a duration.
fn seconds_and_nanos(message: &DynamicMessage) -> (i64, u32) {
    let seconds = message
        .get_field_by_name("seconds")
        .and_then(|value| value.as_i64());
    let nanos = message
        .get_field_by_name("nanos")
        .and_then(|value| value.as_i32());
    (
        seconds.unwrap_or_default(),
        u32::try_from(nanos.unwrap_or_default()).unwrap_or_default(),
    )
}

/// RFC 3339, in UTC.
fn timestamp(message: &DynamicMessage) -> Value {
    let (seconds, nanos) = seconds_and_nanos(message);
    let since = u64::try_from(seconds)
        .ok()
        .map(|seconds| Duration::new(seconds, nanos));
    // `humantime` cannot write years beyond 9999.
    let writable = since.filter(|since| since.as_secs() < 253_402_300_800);
    match writable {
        Some(since) => json!(humantime::format_rfc3339(SystemTime::UNIX_EPOCH + since).to_string()),
        None => Value::Null,
    }
}

/// `1.5s`
fn duration(message: &DynamicMessage) -> Value {
    let (seconds, nanos) = seconds_and_nanos(message);
    let fraction = format!("{nanos:09}");
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() {
        json!(format!("{seconds}s"))
    } else {
        json!(format!("{seconds}.{fraction}s"))
    }
}

#[cfg(test)]
mod tests {
    use prost_types::{Duration, Timestamp};

    use super::*;

    #[test]
    fn a_queue_is_printed_with_all_its_figures() {
        let stats = wire::QueueStats {
            leased: u64::MAX,
            oldest_ready_age: Some(Duration {
                seconds: 1,
                nanos: 500_000_000,
            }),
            dead_lettered_total: [("b".to_owned(), 2), ("a".to_owned(), 1)].into(),
            ..wire::QueueStats::default()
        };
        let queue = wire::Queue {
            name: "orders".to_owned(),
            options: Some(wire::QueueOptions {
                lease: Some(Duration {
                    seconds: 30,
                    nanos: 0,
                }),
                durability: wire::Durability::Synced.into(),
                ..wire::QueueOptions::default()
            }),
            created_at: Some(Timestamp {
                seconds: 0,
                nanos: 0,
            }),
            stats: Some(stats),
            ..wire::Queue::default()
        };
        let value = to_json(&queue);
        assert_eq!(value["name"], "orders");
        assert_eq!(value["created_at"], "1970-01-01T00:00:00Z");
        assert_eq!(value["options"]["lease"], "30s");
        assert_eq!(value["options"]["durability"], "DURABILITY_SYNCED");
        assert_eq!(value["stats"]["ready"], 0);
        assert_eq!(value["stats"]["leased"], u64::MAX);
        assert_eq!(value["stats"]["oldest_ready_age"], "1.5s");
        assert_eq!(value["stats"]["oldest_leased_age"], Value::Null);
        assert_eq!(value["stats"]["consumers"], json!([]));
        assert_eq!(
            value["stats"]["dead_lettered_total"].to_string(),
            r#"{"a":1,"b":2}"#
        );
    }

    #[test]
    fn a_payload_is_text_when_it_is_text() {
        let delivery = |payload: &'static [u8]| wire::Delivery {
            lease_id: 7,
            message: Some(wire::Message {
                payload: payload.into(),
                ..wire::Message::default()
            }),
            ..wire::Delivery::default()
        };
        let text = to_json(&delivery("grüß".as_bytes()));
        assert_eq!(text["message"]["payload"], "grüß");
        assert_eq!(text["lease_id"], "7");
        let bytes = to_json(&delivery(&[0xff, 0x00]));
        assert_eq!(bytes["message"]["payload_base64"], "/wA=");
        assert!(bytes["message"].get("payload").is_none());
    }
}
