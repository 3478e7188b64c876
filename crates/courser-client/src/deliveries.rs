//! Deliveries as they came: a buffer, and where in it each thing lies.
//!
//! prost makes 500 bytes with texts of their own of a delivery. Whoever takes batches mostly wants a lease, a
//! payload and perhaps a name of each, and lets go of all together.

use bytes::Bytes;
use prost_types::Timestamp;

use crate::wire::{self, Message, Settled};

/// What came over a subscription.
#[derive(Clone, Debug)]
pub enum Received {
    /// Deliveries that came together.
    Deliveries(DeliveryBatch),
    /// Results of one settle.
    Settled(Settled),
    /// No more deliveries follow, as [`SettleSender::drain`](crate::SettleSender::drain) asked for.
    Drained,
}

/// Deliveries that came together, in their order.
#[derive(Clone, Debug, Default)]
pub struct DeliveryBatch {
    pub(crate) encoded: Bytes,
    pub(crate) items: Vec<Item>,
}

/// One of them.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    /// Nearly all are of this kind.
    Plain(Plain),
    /// Has more than that.
    Full(Box<wire::Delivery>),
}

/// A delivery of a message with nothing but this.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plain {
    pub(crate) lease_id: u64,
    pub(crate) attempt: u32,
    pub(crate) lease_until: Option<Timestamp>,
    pub(crate) message: Option<PlainMessage>,
}

/// The places lie within the buffer, those of texts on what is UTF-8.
#[derive(Clone, Debug, Default)]
pub(crate) struct PlainMessage {
    pub(crate) id: Place,
    pub(crate) topic: Place,
    pub(crate) payload: Place,
    pub(crate) position: u64,
    pub(crate) published_at: Option<Timestamp>,
}

/// A part of the buffer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place {
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl Place {
    fn of(self, encoded: &[u8]) -> &[u8] {
        encoded
            .get(self.start as usize..self.end as usize)
            .unwrap_or_default()
    }

    fn text(self, encoded: &[u8]) -> &str {
        str::from_utf8(self.of(encoded)).unwrap_or_default()
    }

    fn bytes(self, encoded: &Bytes) -> Bytes {
        encoded.slice_ref(self.of(encoded))
    }
}

impl DeliveryBatch {
    /// How many deliveries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The deliveries, to be looked at where they lie.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = DeliveryView<'_>> {
        let encoded = &self.encoded;
        self.items
            .iter()
            .map(move |item| DeliveryView { encoded, item })
    }

    /// The deliveries, each by itself. Payloads stay parts of one buffer.
    #[must_use]
    pub fn into_deliveries(self) -> Vec<wire::Delivery> {
        let encoded = &self.encoded;
        let delivery = |item| match item {
            Item::Plain(plain) => plain.delivery(encoded),
            Item::Full(delivery) => *delivery,
        };
        self.items.into_iter().map(delivery).collect()
    }
}

impl From<Vec<wire::Delivery>> for DeliveryBatch {
    fn from(deliveries: Vec<wire::Delivery>) -> Self {
        let full = |delivery| Item::Full(Box::new(delivery));
        Self {
            encoded: Bytes::new(),
            items: deliveries.into_iter().map(full).collect(),
        }
    }
}

impl Plain {
    fn delivery(&self, encoded: &Bytes) -> wire::Delivery {
        wire::Delivery {
            lease_id: self.lease_id,
            attempt: self.attempt,
            lease_until: self.lease_until,
            message: self.message.as_ref().map(|message| Message {
                id: message.id.text(encoded).to_owned(),
                topic: message.topic.text(encoded).to_owned(),
                payload: message.payload.bytes(encoded),
                position: message.position,
                published_at: message.published_at,
                ..Message::default()
            }),
            dead_letter: None,
        }
    }
}

/// A delivery within its batch.
#[derive(Clone, Copy, Debug)]
pub struct DeliveryView<'a> {
    encoded: &'a Bytes,
    item: &'a Item,
}

impl<'a> DeliveryView<'a> {
    /// What settles it; 0 when the consumer acks by itself.
    #[must_use]
    pub fn lease_id(&self) -> u64 {
        match self.item {
            Item::Plain(plain) => plain.lease_id,
            Item::Full(delivery) => delivery.lease_id,
        }
    }

    /// 1 for the first one.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        match self.item {
            Item::Plain(plain) => plain.attempt,
            Item::Full(delivery) => delivery.attempt,
        }
    }

    /// The message's id.
    #[must_use]
    pub fn id(&self) -> &'a str {
        self.part(|m, encoded| m.id.text(encoded), |m| &m.id)
    }

    /// The topic that it was published to.
    #[must_use]
    pub fn topic(&self) -> &'a str {
        self.part(|m, encoded| m.topic.text(encoded), |m| &m.topic)
    }

    /// The body.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.part(|m, encoded| m.payload.of(encoded), |m| &m.payload)
    }

    /// The body, to be kept: a part of the buffer that the batch came in, all of which stays in memory for as long.
    #[must_use]
    pub fn payload_bytes(&self) -> Bytes {
        self.part(|m, encoded| m.payload.bytes(encoded), |m| m.payload.clone())
    }

    /// The number of the message in the order of commit.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.part(|m, _| m.position, |m| m.position)
    }

    /// All there is, with headers, attributes, times and why it is a dead letter.
    #[must_use]
    pub fn to_delivery(&self) -> wire::Delivery {
        match self.item {
            Item::Plain(plain) => plain.delivery(self.encoded),
            Item::Full(delivery) => wire::Delivery::clone(delivery),
        }
    }

    /// Something of the message, wherever that is.
    fn part<T: Default>(
        &self,
        of_plain: impl FnOnce(&'a PlainMessage, &'a Bytes) -> T,
        of_full: impl FnOnce(&'a Message) -> T,
    ) -> T {
        match self.item {
            Item::Plain(plain) => {
                let message = plain.message.as_ref();
                message.map(|message| of_plain(message, self.encoded))
            }
            Item::Full(delivery) => delivery.message.as_ref().map(of_full),
        }
        .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_shows_what_the_delivery_has_however_it_came() {
        let encoded = Bytes::from_static(b"..id.topic.payload");
        let place = |start, end| Place { start, end };
        let plain = Item::Plain(Plain {
            lease_id: 7,
            attempt: 2,
            lease_until: None,
            message: Some(PlainMessage {
                id: place(2, 4),
                topic: place(5, 10),
                payload: place(11, 18),
                position: 9,
                published_at: None,
            }),
        });
        let whole = DeliveryBatch {
            encoded: encoded.clone(),
            items: vec![plain.clone()],
        };
        let deliveries = whole.into_deliveries();
        let mut both = DeliveryBatch::from(deliveries.clone());
        both.encoded = encoded;
        both.items.push(plain);
        assert_eq!(both.len(), 2);
        for view in both.iter() {
            assert_eq!(
                (view.lease_id(), view.attempt(), view.position()),
                (7, 2, 9)
            );
            assert_eq!((view.id(), view.topic()), ("id", "topic"));
            assert_eq!(view.payload(), b"payload");
            assert_eq!(view.payload_bytes(), "payload");
            assert_eq!(view.to_delivery(), deliveries[0]);
        }
    }

    #[test]
    fn a_delivery_without_a_message_has_nothing_in_it() {
        let mut batch = DeliveryBatch::from(vec![wire::Delivery::default()]);
        batch.items.push(Item::Plain(Plain::default()));
        for view in batch.iter() {
            assert_eq!(
                (view.topic(), view.payload(), view.position()),
                ("", &[][..], 0)
            );
            assert_eq!(view.to_delivery(), wire::Delivery::default());
        }
    }
}
