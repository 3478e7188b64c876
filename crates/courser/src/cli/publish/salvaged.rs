//! Lines that `courser salvage` wrote, as messages again.

use std::collections::HashMap;

use anyhow::{Context as _, bail};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use courser_client::Message;
use courser_core::limits::{HEADERS_BYTES_MAX, HEADERS_MAX};
use serde_json::{Map, Value};

/// Where the topic goes that a message was first published to.
const TOPIC_HEADER: &str = "salvaged-topic";

/// A message of one line. It goes to the topic of its queue's name, so that it comes back into this
/// queue and into no other that has settled it.
pub(in crate::cli) fn message(number: u64, line: &[u8]) -> anyhow::Result<Message> {
    read(line).with_context(|| format!("line {number} is none that `courser salvage` wrote"))
}

fn read(line: &[u8]) -> anyhow::Result<Message> {
    let line: Map<String, Value> = serde_json::from_slice(line)?;
    let topic = text(&line, "topic")?;
    if topic.is_empty() {
        bail!("it has no topic");
    }
    let queue = text(&line, "queue")?;
    let payload = match (line.get("payload"), line.get("payload_base64")) {
        (Some(Value::String(text)), None) => Bytes::from(text.clone()),
        (None, Some(Value::String(text))) => Bytes::from(BASE64_STANDARD.decode(text)?),
        _ => bail!("it needs one of payload and payload_base64, as a text"),
    };
    let mut message = Message {
        id: text(&line, "id")?,
        payload,
        content_type: text(&line, "content_type")?,
        r#type: text(&line, "type")?,
        source: text(&line, "source")?,
        schema_version: text(&line, "schema_version")?,
        correlation_id: text(&line, "correlation_id")?,
        causation_id: text(&line, "causation_id")?,
        traceparent: text(&line, "traceparent")?,
        ..Message::default()
    };
    message.headers = headers(&line)?;
    if queue.is_empty() || queue == topic {
        message.topic = topic;
    } else {
        keep_topic(&mut message.headers, topic);
        message.topic = queue;
    }
    Ok(message)
}

fn headers(line: &Map<String, Value>) -> anyhow::Result<HashMap<String, String>> {
    let headers = match line.get("headers") {
        None | Some(Value::Null) => return Ok(HashMap::new()),
        Some(headers) => headers.as_object().context("its headers are no object")?,
    };
    let pairs = headers.iter().map(|(key, value)| {
        let value = value.as_str().context("a header is a text")?;
        Ok((key.clone(), value.to_owned()))
    });
    pairs.collect()
}

/// Only where there is room for a header: a message that has as many as it may is to come back, too.
fn keep_topic(headers: &mut HashMap<String, String>, topic: String) {
    let pairs = headers.iter();
    let bytes: usize = pairs.map(|(key, value)| key.len() + value.len()).sum();
    let bytes_with_it = bytes + TOPIC_HEADER.len() + topic.len();
    if headers.len() < HEADERS_MAX && bytes_with_it <= HEADERS_BYTES_MAX {
        headers.entry(TOPIC_HEADER.to_owned()).or_insert(topic);
    }
}

/// A text, empty when it is not there.
fn text(line: &Map<String, Value>, name: &str) -> anyhow::Result<String> {
    match line.get(name) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => bail!("its {name} is no text"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_goes_to_its_queue_and_keeps_its_topic() {
        let line = br#"{"queue":"work","topic":"load.1","payload_base64":"/wA=","id":"a",
            "headers":{"k":"v"},"certain":true}"#;
        let read = message(1, line).unwrap();
        assert_eq!((&*read.topic, &*read.id), ("work", "a"));
        assert_eq!(&read.payload[..], [0xff, 0]);
        assert_eq!(read.headers["salvaged-topic"], "load.1");
        assert_eq!(read.headers["k"], "v");
        let line = br#"{"queue":null,"topic":"load.1","payload":"text"}"#;
        let read = message(1, line).unwrap();
        assert_eq!((&*read.topic, read.headers.len()), ("load.1", 0));
    }

    #[test]
    fn a_message_with_all_the_headers_that_it_may_have_comes_back() {
        for (count, bytes, kept) in [(99, 1, true), (100, 1, false), (1, 64 * 1024 - 2, false)] {
            let header = |number| (format!("{number:02}"), Value::from("v".repeat(bytes)));
            let headers: Map<String, Value> = (0..count).map(header).collect();
            let line = json!({"queue": "work", "topic": "a", "payload": "", "headers": headers});
            let read = message(1, line.to_string().as_bytes()).unwrap();
            assert_eq!(read.topic, "work");
            assert_eq!(read.headers.contains_key(TOPIC_HEADER), kept, "{count}");
        }
    }

    #[test]
    fn a_line_that_is_none_is_told_with_its_number() {
        let lines: [&[u8]; 6] = [
            b"dear",
            br#"{"topic":"a","payload":"","headers":"k=v"}"#,
            b"{}",
            br#"{"topic":"a"}"#,
            br#"{"topic":7,"payload":""}"#,
            br#"{"topic":"a","payload_base64":"?"}"#,
        ];
        for line in lines {
            let error = message(7, line).unwrap_err().to_string();
            assert!(error.contains("line 7"), "{error}");
        }
    }
}
