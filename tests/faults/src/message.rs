//! A message of the load: all that a client may say in one, as a function of who sent it and which one it is. So
//! whatever comes back is compared as a whole, and the history need not keep it.
//!
//! What the broker adds (position, time, and an id where the client gave none) is kept when it is first told, and must
//! be the same ever after.

use std::collections::BTreeMap;

use courser_proto::v1::{DeadLetter, Message, PublishResult, Reject};

use crate::{letter::Letter, random::Random};

/// Topics of a producer; all of them are routed to all queues.
const TOPICS: u64 = 3;
/// Headers of a message at most.
const HEADERS_MAX: u64 = 5;
/// Of a hundred fields, how many are set.
const SET: u64 = 60;

/// The message, with a payload of so many bytes.
pub(crate) fn write(letter: Letter, bytes: usize) -> Message {
    // The payload has the sequence without this.
    let mut random =
        Random::new(u64::from(letter.producer) << 32 | u64::from(letter.number)).fork(1);
    let topic = format!("load.{}-{}", letter.producer, random.within(0..TOPICS));
    let headers = (0..random.within(0..HEADERS_MAX + 1))
        .map(|number| (format!("header-{number}"), text(&mut random)))
        .collect();
    Message {
        id: text(&mut random),
        topic,
        payload: letter.write(bytes),
        headers,
        content_type: text(&mut random),
        r#type: text(&mut random),
        source: text(&mut random),
        schema_version: text(&mut random),
        correlation_id: text(&mut random),
        causation_id: text(&mut random),
        traceparent: text(&mut random),
        position: 0,
        published_at: None,
    }
}

/// A text for a field: none, short, or as long as it may be.
fn text(random: &mut Random) -> String {
    if !random.percent(SET) {
        return String::new();
    }
    let length = if random.percent(5) {
        240
    } else {
        random.within(0..40)
    };
    let mut text = format!("ü{:x}", random.next());
    while (text.len() as u64) < length {
        text.push(char::from(b' ' + random.within(0..95) as u8));
    }
    text
}

/// The request to dead-letter it.
pub(crate) fn reject(letter: Letter, lease_id: u64) -> Reject {
    Reject {
        lease_id,
        reason: "by_chance".to_owned(),
        description: format!("{letter:?}"),
    }
}

/// What is wrong with what a dead letter says of its end.
pub(crate) fn dead_difference(letter: Letter, queue: &str, dead: &DeadLetter) -> Option<String> {
    let sent = reject(letter, 0);
    let is_same = (&dead.reason, &dead.description, dead.queue.as_str())
        == (&sent.reason, &sent.description, queue);
    let is_right = is_same && dead.dead_lettered_at.is_some();
    (!is_right).then(|| format!("{letter:?} is a dead letter of {queue}, and says {dead:?}"))
}

/// The first field that is not as it was sent.
fn difference(letter: Letter, found: &Message) -> Option<String> {
    let sent = write(letter, found.payload.len());
    // A field that is new must be thought of here.
    let Message {
        id,
        topic,
        payload,
        headers,
        content_type,
        r#type,
        source,
        schema_version,
        correlation_id,
        causation_id,
        traceparent,
        position: _,
        published_at: _,
    } = &sent;
    let fields = [
        ("id", id.is_empty() || *id == found.id),
        ("topic", *topic == found.topic),
        ("payload", *payload == found.payload),
        ("headers", *headers == found.headers),
        ("content_type", *content_type == found.content_type),
        ("type", *r#type == found.r#type),
        ("source", *source == found.source),
        ("schema_version", *schema_version == found.schema_version),
        ("correlation_id", *correlation_id == found.correlation_id),
        ("causation_id", *causation_id == found.causation_id),
        ("traceparent", *traceparent == found.traceparent),
    ];
    let (name, _) = fields.into_iter().find(|(_, is_same)| !is_same)?;
    let short = |message: &Message| Message {
        payload: Vec::new().into(),
        ..message.clone()
    };
    let (sent, found) = (short(&sent), short(found));
    Some(format!(
        "{letter:?}: {name} is not what was sent: {found:?}, and was {sent:?}"
    ))
}

/// What the broker gave to messages.
#[derive(Clone, Debug, Default)]
pub(crate) struct Given(BTreeMap<Letter, Gift>);

/// Empty, zero and `None`: not told yet.
#[derive(Clone, Debug, Default)]
struct Gift {
    id: String,
    position: u64,
    /// Seconds and nanoseconds.
    published_at: Option<(i64, i32)>,
}

impl Given {
    /// Takes in a message that came; what is wrong with it.
    pub(crate) fn came(&mut self, letter: Letter, message: &Message) -> Option<String> {
        let Some(at) = message.published_at else {
            return Some(format!("{letter:?} has no time of its publishing"));
        };
        let told = Gift {
            id: message.id.clone(),
            position: message.position,
            published_at: Some((at.seconds, at.nanos)),
        };
        difference(letter, message).or_else(|| self.told(letter, told))
    }

    /// Takes in what a confirm says; what is wrong with it.
    pub(crate) fn confirmed(&mut self, letter: Letter, result: &PublishResult) -> Option<String> {
        let told = Gift {
            id: result.id.clone(),
            position: result.position,
            published_at: None,
        };
        let sent = write(letter, 0).id;
        if !sent.is_empty() && sent != told.id {
            return Some(format!(
                "{letter:?} was sent with id {sent:?} and confirmed with {told:?}"
            ));
        }
        self.told(letter, told)
    }

    fn told(&mut self, letter: Letter, told: Gift) -> Option<String> {
        if told.id.is_empty() || told.position == 0 {
            return Some(format!("{letter:?} has no id or no position: {told:?}"));
        }
        let Some(before) = self.0.get_mut(&letter) else {
            self.0.insert(letter, told);
            return None;
        };
        let both = before.published_at.zip(told.published_at);
        let is_same = (before.id == told.id && before.position == told.position)
            && both.is_none_or(|(before, now)| before == now);
        if !is_same {
            return Some(format!("{letter:?} was {before:?} before, and is {told:?}"));
        }
        before.published_at = before.published_at.or(told.published_at);
        None
    }
}
