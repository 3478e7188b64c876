//! A message: what is published, and what it becomes when the broker has placed it.

use std::{
    fmt,
    ops::Deref,
    sync::{Arc, Weak},
};

use bytes::Bytes;
use uuid::Uuid;

use crate::{id::Position, time::Timestamp};

/// By what name a message is known to people.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum MessageId {
    /// Made by the broker.
    Uuid(Uuid),
    /// Given by the publisher.
    Given(Box<str>),
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uuid(uuid) => uuid.fmt(f),
            Self::Given(id) => f.write_str(id),
        }
    }
}

/// The attributes that most messages do not have; an empty one is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// CloudEvents `datacontenttype`.
    pub content_type: String,
    /// CloudEvents `type`.
    pub kind: String,
    /// CloudEvents `source`.
    pub source: String,
    /// CloudEvents `dataschema`.
    pub schema_version: String,
    /// What the message belongs to.
    pub correlation_id: String,
    /// The message that caused this one.
    pub causation_id: String,
    /// W3C trace context.
    pub traceparent: String,
}

impl Attributes {
    /// Bytes of all attributes together.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.fields().iter().map(|field| field.len()).sum()
    }

    /// All attributes, in the order in which they are written.
    #[must_use]
    pub fn fields(&self) -> [&str; 7] {
        [
            &self.content_type,
            &self.kind,
            &self.source,
            &self.schema_version,
            &self.correlation_id,
            &self.causation_id,
            &self.traceparent,
        ]
    }
}

/// What a publisher hands in. Its fields are within their limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMessage {
    /// The publisher's own id; otherwise the broker makes one.
    pub id: Option<Box<str>>,
    /// Where to. Messages that came together share it.
    pub topic: Arc<str>,
    /// The body.
    pub payload: Bytes,
    /// Pairs with distinct keys.
    pub headers: Vec<(String, String)>,
    /// `None` when all are empty.
    pub attributes: Option<Box<Attributes>>,
}

impl NewMessage {
    /// The bytes that this message counts for: payload, topic, headers, attributes and given id.
    #[must_use]
    pub fn size(&self) -> u32 {
        let id = self.id.as_ref().map_or(0, |id| id.len());
        size(
            id,
            &self.topic,
            &self.payload,
            &self.headers,
            self.attributes.as_deref(),
        )
    }

    /// What it takes in memory, in bytes, about: what it counts for, and what lies around that.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        memory(self.size(), &self.headers, self.attributes.as_deref())
    }

    /// The message as it is once the broker has placed it. `uuid` names it when its publisher did not.
    #[must_use]
    pub fn placed(self, position: Position, published_at: Timestamp, uuid: Uuid) -> Message {
        Message {
            position,
            published_at,
            id: self.id.map_or(MessageId::Uuid(uuid), MessageId::Given),
            topic: self.topic,
            payload: self.payload,
            headers: self.headers,
            attributes: self.attributes,
        }
    }
}

/// A message in the broker. Immutable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its number in the order of commit.
    pub position: Position,
    /// When the broker accepted it.
    pub published_at: Timestamp,
    /// Its name.
    pub id: MessageId,
    /// Where it was published to.
    pub topic: Arc<str>,
    /// The body.
    pub payload: Bytes,
    /// Pairs with distinct keys.
    pub headers: Vec<(String, String)>,
    /// `None` when all are empty.
    pub attributes: Option<Box<Attributes>>,
}

impl Message {
    /// The bytes that this message counts for, as [`NewMessage::size`].
    #[must_use]
    pub fn size(&self) -> u32 {
        let id = match &self.id {
            MessageId::Uuid(_) => 0,
            MessageId::Given(id) => id.len(),
        };
        size(
            id,
            &self.topic,
            &self.payload,
            &self.headers,
            self.attributes.as_deref(),
        )
    }
}

impl Message {
    /// As [`NewMessage::memory_bytes`].
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        memory(self.size(), &self.headers, self.attributes.as_deref())
    }
}

/// A message that several hold.
///
/// Messages that came together are one piece of memory, which stays as long as any of them is held: making and
/// giving back a piece for each costs more than anything else that is done with a small message.
#[derive(Clone)]
pub struct SharedMessage {
    together: Arc<[Message]>,
    index: u32,
}

impl SharedMessage {
    /// Those of messages that came together, in their order.
    pub fn all(together: Vec<Message>) -> impl ExactSizeIterator<Item = Self> {
        let together = Arc::<[Message]>::from(together);
        (0..together.len()).map(move |index| Self {
            together: Arc::clone(&together),
            index: index as u32,
        })
    }
}

impl SharedMessage {
    /// Whether others came together with it, and stay in memory as long as it does.
    #[must_use]
    pub fn keeps_others(&self) -> bool {
        self.together.len() > 1
    }

    /// The memory that it lies in, which this does not keep.
    #[must_use]
    pub fn memory(&self) -> Weak<[Message]> {
        Arc::downgrade(&self.together)
    }

    /// The same message, in memory of its own.
    #[must_use]
    pub fn apart(&self) -> Self {
        let message = Message::clone(self);
        Self::from(Message {
            payload: Bytes::copy_from_slice(&message.payload),
            ..message
        })
    }
}

impl From<Message> for SharedMessage {
    fn from(message: Message) -> Self {
        Self {
            together: Arc::new([message]),
            index: 0,
        }
    }
}

impl Deref for SharedMessage {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.together[self.index as usize]
    }
}

impl fmt::Debug for SharedMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl PartialEq for SharedMessage {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for SharedMessage {}

/// A message and what is around it take this much.
const AROUND_MESSAGE: usize = 200;
/// Two texts take this much beside what is in them, with what malloc takes for them.
const AROUND_HEADER: usize = 80;

fn memory(size: u32, headers: &[(String, String)], attributes: Option<&Attributes>) -> usize {
    // malloc takes 24 and more for each that is there.
    let attributes = attributes.map_or(0, |all| {
        let there = all
            .fields()
            .iter()
            .filter(|field| !field.is_empty())
            .count();
        size_of::<Attributes>() + 24 * there
    });
    size as usize + AROUND_MESSAGE + AROUND_HEADER * headers.len() + attributes
}

fn size(
    id: usize,
    topic: &str,
    payload: &Bytes,
    headers: &[(String, String)],
    attributes: Option<&Attributes>,
) -> u32 {
    let headers: usize = headers
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    let bytes =
        id + topic.len() + payload.len() + headers + attributes.map_or(0, Attributes::bytes);
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
