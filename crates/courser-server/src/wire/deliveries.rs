//! `SubscribeResponse`.

use bytes::BufMut;
use courser_core::message::Message;
use courser_engine::request::{Delivery, Settled};
use prost::Message as _;

use super::{WireMessage, field::*};
use crate::convert::{InvalidSettlement, dead_letter_to_proto, refused_to_proto};

/// What goes out at once over a subscription.
#[derive(Debug)]
pub(crate) enum DeliveryFrame {
    Deliveries(Vec<Delivery>),
    /// Results of one settle, and what of it the engine never saw.
    Settled(Settled, Vec<InvalidSettlement>),
    Heartbeat,
    Drained,
}

/// The answer to a pull.
#[derive(Debug)]
pub(crate) struct PulledFrame(pub(crate) Vec<Delivery>);

impl WireMessage for PulledFrame {
    fn measure(&self, lengths: &mut Vec<usize>) -> usize {
        measure_deliveries(&self.0, lengths)
    }

    fn write(&self, lengths: &[usize], buffer: &mut impl BufMut) {
        write_deliveries(&self.0, lengths, buffer);
    }
}

impl WireMessage for DeliveryFrame {
    fn measure(&self, lengths: &mut Vec<usize>) -> usize {
        match self {
            Self::Deliveries(deliveries) => {
                // The length of them all stands first.
                let first = lengths.len();
                lengths.push(0);
                lengths[first] = measure_deliveries(deliveries, lengths);
                nested_len(lengths[first])
            }
            Self::Settled(settled, invalid) => {
                let bytes = settled_len(settled, invalid);
                lengths.push(bytes);
                nested_len(bytes)
            }
            Self::Heartbeat | Self::Drained => nested_len(0),
        }
    }

    fn write(&self, lengths: &[usize], buffer: &mut impl BufMut) {
        match self {
            Self::Deliveries(deliveries) => {
                write_nested(1, lengths[0], buffer);
                write_deliveries(deliveries, &lengths[1..], buffer);
            }
            Self::Settled(settled, invalid) => {
                write_nested(2, lengths[0], buffer);
                write_settled(settled, invalid, buffer);
            }
            Self::Heartbeat => write_nested(3, 0, buffer),
            Self::Drained => write_nested(4, 0, buffer),
        }
    }
}

/// Two lengths for each.
fn measure_deliveries(deliveries: &[Delivery], lengths: &mut Vec<usize>) -> usize {
    let mut total = 0;
    for delivery in deliveries {
        let message = message_len(&delivery.message);
        let bytes = delivery_len(delivery, message);
        lengths.extend([bytes, message]);
        total += nested_len(bytes);
    }
    total
}

fn write_deliveries(deliveries: &[Delivery], lengths: &[usize], buffer: &mut impl BufMut) {
    let mut times = Times::default();
    for (delivery, lengths) in deliveries.iter().zip(lengths.chunks_exact(2)) {
        write_delivery(delivery, lengths, &mut times, buffer);
    }
}

fn delivery_len(delivery: &Delivery, message: usize) -> usize {
    // Entries of dead-letter queues are few: these go through prost, and are counted twice.
    let dead_letter = dead_letter_to_proto(delivery.note.as_deref());
    fixed64_len(delivery.lease_id.0)
        + varint_len(delivery.attempt.into())
        + timestamp_len(delivery.lease_until)
        + nested_len(message)
        + dead_letter.map_or(0, |dead_letter| nested_len(dead_letter.encoded_len()))
}

/// What is handed over in one turn has the same times.
#[derive(Default)]
struct Times {
    lease_until: Timestamps,
    published_at: Timestamps,
}

fn write_delivery(
    delivery: &Delivery,
    lengths: &[usize],
    times: &mut Times,
    buffer: &mut impl BufMut,
) {
    write_small(buffer, |small| {
        write_nested(1, lengths[0], small);
        write_fixed64(1, delivery.lease_id.0, small);
        write_varint(2, delivery.attempt.into(), small);
        times.lease_until.write(3, delivery.lease_until, small);
        write_nested(4, lengths[1], small);
    });
    write_message(&delivery.message, &mut times.published_at, buffer);
    if let Some(dead_letter) = dead_letter_to_proto(delivery.note.as_deref()) {
        write_nested(5, dead_letter.encoded_len(), buffer);
        dead_letter.encode_raw(buffer);
    }
}

/// The field of the first attribute; the others follow in the order of `Attributes::fields`.
const FIRST_ATTRIBUTE: u8 = 5;

fn message_len(message: &Message) -> usize {
    let headers = message.headers.iter();
    let headers: usize = headers
        .map(|(key, value)| nested_len(header_len(key, value)))
        .sum();
    let attributes: usize = message.attributes.as_ref().map_or(0, |attributes| {
        attributes
            .fields()
            .iter()
            .map(|field| bytes_len(field.as_bytes()))
            .sum()
    });
    message_id_len(&message.id)
        + bytes_len(message.topic.as_bytes())
        + bytes_len(&message.payload)
        + headers
        + attributes
        + fixed64_len(message.position.0)
        + timestamp_len(message.published_at)
}

fn write_message(message: &Message, times: &mut Timestamps, buffer: &mut impl BufMut) {
    write_message_id(1, &message.id, buffer);
    write_bytes(2, message.topic.as_bytes(), buffer);
    write_bytes(3, &message.payload, buffer);
    for (key, value) in &message.headers {
        write_nested(4, header_len(key, value), buffer);
        write_bytes(1, key.as_bytes(), buffer);
        write_bytes(2, value.as_bytes(), buffer);
    }
    if let Some(attributes) = &message.attributes {
        for (number, field) in (FIRST_ATTRIBUTE..).zip(attributes.fields()) {
            write_bytes(number, field.as_bytes(), buffer);
        }
    }
    write_small(buffer, |small| {
        write_fixed64(12, message.position.0, small);
        times.write(13, message.published_at, small);
    });
}

fn header_len(key: &str, value: &str) -> usize {
    bytes_len(key.as_bytes()) + bytes_len(value.as_bytes())
}

/// Settles that were refused are few: these go through prost.
fn settled_len(settled: &Settled, invalid: &[InvalidSettlement]) -> usize {
    let ok = settled.ok.len() * 8;
    let ok = if ok == 0 { 0 } else { nested_len(ok) };
    ok + refusals(settled, invalid).encoded_len()
}

fn write_settled(settled: &Settled, invalid: &[InvalidSettlement], buffer: &mut impl BufMut) {
    if !settled.ok.is_empty() {
        write_nested(1, settled.ok.len() * 8, buffer);
        for lease_id in &settled.ok {
            buffer.put_u64_le(lease_id.0);
        }
    }
    refusals(settled, invalid).encode_raw(buffer);
}

fn refusals(settled: &Settled, invalid: &[InvalidSettlement]) -> courser_proto::v1::Settled {
    courser_proto::v1::Settled {
        ok: Vec::new(),
        refused: refused_to_proto(settled, invalid),
    }
}
