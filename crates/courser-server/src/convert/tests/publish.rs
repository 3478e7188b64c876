//! What is published.

use super::*;

fn message() -> v1::Message {
    v1::Message {
        topic: "order.created".to_owned(),
        ..v1::Message::default()
    }
}

fn publish_one(message: v1::Message) -> Result<courser_core::message::NewMessage, String> {
    let of_one = |message: Incoming| {
        publish_from_proto(vec![message], false, 0, 1_000)
            .map(|mut p| p.messages.remove(0))
            .map_err(|error| error.to_string())
    };
    let plain = Plain {
        id: message.id.clone().into(),
        topic: message.topic.clone().into(),
        payload: message.payload.clone(),
    };
    let has_only_these = v1::Message {
        id: message.id.clone(),
        topic: message.topic.clone(),
        payload: message.payload.clone(),
        ..v1::Message::default()
    } == message;
    let published = of_one(message.into());
    if has_only_these {
        assert_eq!(of_one(Incoming::Plain(plain)), published);
    }
    published
}

/// The refusal of one message that `change` made wrong.
#[track_caller]
fn refused(change: impl FnOnce(&mut v1::Message)) -> String {
    let mut message = message();
    change(&mut message);
    publish_one(message).expect_err("it is outside its limits")
}

#[track_caller]
fn taken(change: impl FnOnce(&mut v1::Message)) {
    let mut message = message();
    change(&mut message);
    publish_one(message).expect("it is within its limits");
}

#[test]
fn a_publish_has_from_one_to_a_thousand_messages() {
    let publish = |count| publish_from_proto(vec![message(); count], false, 0, 1_000);
    assert_eq!(
        publish(0).unwrap_err().to_string(),
        "messages must not be empty"
    );
    assert_eq!(
        publish(PUBLISH_MESSAGES_MAX).unwrap().messages.len(),
        PUBLISH_MESSAGES_MAX
    );
    assert_eq!(
        publish(PUBLISH_MESSAGES_MAX + 1).unwrap_err().to_string(),
        "messages must have at most 1000 messages, has 1001"
    );
}

#[test]
fn several_messages_have_at_most_16_mib_in_all_and_one_has_the_configured_size() {
    let big = |bytes| v1::Message {
        payload: Bytes::from(vec![0; bytes]),
        ..message()
    };
    let topic = message().topic.len();
    let max = 2 * PUBLISH_BYTES_MAX;
    let publish = |messages| publish_from_proto(messages, false, 0, max);
    assert!(publish(vec![big(PUBLISH_BYTES_MAX - 2 * topic), message()]).is_ok());
    let error = publish(vec![big(PUBLISH_BYTES_MAX - 2 * topic + 1), message()]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "messages must have at most 16777216 bytes in all, have 16777217"
    );
    assert!(publish(vec![big(max)]).is_ok());
}

#[test]
fn a_refusal_names_the_message_and_its_field() {
    let bad = v1::Message {
        topic: String::new(),
        ..message()
    };
    let error = publish_from_proto(vec![message(), message(), message(), bad], false, 0, 10);
    assert_eq!(
        error.unwrap_err().to_string(),
        "messages[3].topic must not be empty"
    );
}

#[test]
fn texts_of_a_message_have_their_limits() {
    let text = |bytes| "x".repeat(bytes);
    taken(|m| m.topic = text(NAME_BYTES_MAX));
    assert_eq!(
        refused(|m| m.topic = text(NAME_BYTES_MAX + 1)),
        "messages[0].topic must have at most 255 bytes, has 256"
    );
    taken(|m| m.id = text(MESSAGE_ID_BYTES_MAX));
    assert_eq!(
        refused(|m| m.id = text(MESSAGE_ID_BYTES_MAX + 1)),
        "messages[0].id must have at most 256 bytes, has 257"
    );
    taken(|m| m.payload = vec![0; 1_000].into());
    assert_eq!(
        refused(|m| m.payload = vec![0; 1_001].into()),
        "messages[0].payload must have at most 1000 bytes, has 1001"
    );
    taken(|m| m.r#type = text(ATTRIBUTE_BYTES_MAX));
    assert_eq!(
        refused(|m| m.r#type = text(ATTRIBUTE_BYTES_MAX + 1)),
        "messages[0].type must have at most 256 bytes, has 257"
    );
    assert!(refused(|m| m.traceparent = text(257)).starts_with("messages[0].traceparent"));
}

#[test]
fn what_the_broker_sets_is_refused() {
    assert!(refused(|m| m.position = 1).starts_with("messages[0].position must not be set"));
    let published_at = Some(prost_types::Timestamp::default());
    assert!(
        refused(|m| m.published_at = published_at)
            .starts_with("messages[0].published_at must not be set")
    );
}

#[test]
fn headers_have_their_limits() {
    let headers = |count: usize, value: &str| -> HashMap<String, String> {
        (0..count)
            .map(|i| (format!("{i:03}"), value.to_owned()))
            .collect()
    };
    taken(|m| m.headers = headers(HEADERS_MAX, ""));
    assert_eq!(
        refused(|m| m.headers = headers(HEADERS_MAX + 1, "")),
        "messages[0].headers must have at most 100 pairs, has 101"
    );
    taken(|m| m.headers = headers(1, &"v".repeat(HEADERS_BYTES_MAX - 3)));
    assert_eq!(
        refused(|m| m.headers = headers(1, &"v".repeat(HEADERS_BYTES_MAX - 2))),
        "messages[0].headers must have at most 65536 bytes in all, have 65537"
    );
    let key = |bytes| HashMap::from([("k".repeat(bytes), String::new())]);
    assert!(refused(|m| m.headers = key(0)).contains("must not have an empty key"));
    taken(|m| m.headers = key(HEADER_KEY_BYTES_MAX));
    assert!(refused(|m| m.headers = key(HEADER_KEY_BYTES_MAX + 1)).contains("has 257"));
}

#[test]
fn headers_are_sorted_and_an_id_left_out_is_none() {
    let pairs = ["c", "a", "b"].map(|key| (key.to_owned(), String::new()));
    let message = publish_one(v1::Message {
        headers: pairs.into(),
        ..message()
    })
    .unwrap();
    let keys: Vec<_> = message
        .headers
        .iter()
        .map(|(key, _)| key.as_str())
        .collect();
    assert_eq!(keys, ["a", "b", "c"]);
    assert_eq!((message.id, message.attributes), (None, None));
}

#[test]
fn unknown_enum_values_are_refused() {
    let error = publish_from_proto(vec![message()], false, 3, 10).unwrap_err();
    assert_eq!(
        error.to_string(),
        "durability must be a value of Durability, is 3"
    );
    let peek = v1::PeekEntriesRequest {
        queue: "q".to_owned(),
        state: -1,
        ..Default::default()
    };
    assert_eq!(peek_from_proto(peek).unwrap_err().field, "state");
}
