//! The lines of a salvage: what was salvaged is taken in again as it was, and of lines that somebody
//! changed only what the plainest reading of them says.
#![no_main]

use std::collections::HashMap;

use courser::cli::fuzz as cli;
use courser_fuzz::{
    Input,
    made::{PAYLOAD_BYTES_MAX, saved},
    takes_at_most,
};
use courser_proto::v1;
use courser_server::fuzz as server;
use courser_store::offline::Saved;
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

/// Where the topic goes that a message was first published to.
const TOPIC_HEADER: &str = "salvaged-topic";
const NUMBER: u64 = 7;

fuzz_target!(|data: &[u8]| {
    let Some((kind, bytes)) = data.split_first() else {
        return;
    };
    if kind % 2 == 0 {
        read(bytes);
    } else {
        there_and_back(&saved(&mut Input(bytes)));
    }
});

/// A line of anybody.
fn read(line: &[u8]) {
    // Of two bytes, `0,`, a value of 32 is made.
    let read = takes_at_most(16 * 1024 + line.len() * 256, || cli::salvaged(NUMBER, line));
    let plain = serde_json::from_slice(line).ok();
    let plain = plain.as_ref().and_then(plainly);
    match read {
        Ok(message) => assert_eq!(Some(message), plain),
        Err(why) => {
            assert_eq!(plain, None, "{why}");
            assert!(why.starts_with("line 7 is none that `courser salvage` wrote: "));
        }
    }
}

/// What the line says, when it says all that it must and nothing else in the place of what it may.
fn plainly(line: &Map<String, Value>) -> Option<v1::Message> {
    let text = |name: &str| match line.get(name) {
        None | Some(Value::Null) => Some(String::new()),
        Some(value) => value.as_str().map(str::to_owned),
    };
    let payload = match (line.get("payload"), line.get("payload_base64")) {
        (Some(payload), None) => payload.as_str()?.as_bytes().to_vec(),
        (None, Some(base64)) => from_base64(base64.as_str()?)?,
        _ => return None,
    };
    let mut headers = HashMap::new();
    match line.get("headers") {
        None | Some(Value::Null) => {}
        Some(all) => {
            for (key, value) in all.as_object()? {
                headers.insert(key.clone(), value.as_str()?.to_owned());
            }
        }
    }
    let (topic, queue) = (text("topic")?, text("queue")?);
    if topic.is_empty() {
        return None;
    }
    let mut message = v1::Message {
        id: text("id")?,
        topic,
        payload: payload.into(),
        headers,
        content_type: text("content_type")?,
        r#type: text("type")?,
        source: text("source")?,
        schema_version: text("schema_version")?,
        correlation_id: text("correlation_id")?,
        causation_id: text("causation_id")?,
        traceparent: text("traceparent")?,
        ..v1::Message::default()
    };
    back_into(&queue, &mut message);
    Some(message)
}

/// To its queue, and its topic into a header, where it can have one more.
fn back_into(queue: &str, message: &mut v1::Message) {
    if queue.is_empty() || queue == message.topic {
        return;
    }
    let topic = std::mem::replace(&mut message.topic, queue.to_owned());
    let bytes = |(key, value): (&String, &String)| key.len() + value.len();
    let has: usize = message.headers.iter().map(bytes).sum();
    let fits = message.headers.len() < 100 && has + TOPIC_HEADER.len() + topic.len() <= 64 * 1024;
    if fits && !message.headers.contains_key(TOPIC_HEADER) {
        message.headers.insert(TOPIC_HEADER.to_owned(), topic);
    }
}

/// Four characters of six bits are three bytes; the bits that are left over are zero.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    let padding = text.len() - digits.len();
    if !text.len().is_multiple_of(4) || padding > 2 {
        return None;
    }
    let (mut bytes, mut rest, mut bits) = (Vec::new(), 0_u32, 0);
    for digit in digits.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        (rest, bits) = (rest << 6 | u32::from(value), bits + 6);
        if bits >= 8 {
            bits -= 8;
            bytes.push((rest >> bits) as u8);
            rest &= (1 << bits) - 1;
        }
    }
    (rest == 0).then_some(bytes)
}

/// What came out is one line, which says the same message, and which the broker takes if it took that.
fn there_and_back(saved: &Saved) {
    let lines = cli::salvage(saved);
    let line = lines.strip_suffix(b"\n").expect("it is a line");
    assert!(!line.contains(&b'\n'), "and not two");
    let read = cli::salvaged(NUMBER, line);
    if saved.message.topic.is_empty() {
        assert!(read.is_err(), "no message has such a topic");
        return;
    }
    let before = server::message(&saved.message);
    let mut expected = before.clone();
    back_into(saved.queue.as_deref().unwrap_or_default(), &mut expected);
    assert_eq!(read.as_ref(), Ok(&expected));
    let named = v1::Message {
        topic: expected.topic.clone(),
        ..v1::Message::default()
    };
    if is_taken(before) && is_taken(named) {
        assert!(is_taken(expected), "{line:?}");
    }
}

fn is_taken(message: v1::Message) -> bool {
    let request = v1::PublishRequest {
        messages: vec![message],
        ..v1::PublishRequest::default()
    };
    server::publish(request, PAYLOAD_BYTES_MAX).is_ok()
}
