//! Encodes batches without growing a buffer on the way, and decodes them from bytes in one piece.
//!
//! The codec of `tonic-prost` starts each request with what is left of the last buffer and doubles it
//! as the messages come, which copies a batch of 64 KiB about twice more than needed. It decodes over a part
//! of a buffer, which costs each field more than bytes by themselves do.

mod delivering;

#[cfg(feature = "fuzz")]
pub(crate) use delivering::read as read_deliveries;

use std::marker::PhantomData;

use bytes::Bytes;
use prost::Message;
use tonic::{
    Status,
    codec::{EncodeBuf, Encoder},
};

use crate::{
    deliveries::Received,
    responses::Reader,
    wire::{PublishStreamResponse, SubscribeResponse, subscribe_response::Kind},
};

/// Makes room for a request before it encodes it.
pub(crate) struct BatchEncoder<Request>(PhantomData<Request>);

impl<Request> Default for BatchEncoder<Request> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<Request: Message> Encoder for BatchEncoder<Request> {
    type Item = Request;
    type Error = Status;

    fn encode(&mut self, item: Request, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.reserve(item.encoded_len());
        item.encode_raw(to);
        Ok(())
    }
}

/// Reads confirms.
#[derive(Debug, Default)]
pub(crate) struct ConfirmsReader;

impl Reader for ConfirmsReader {
    type Response = PublishStreamResponse;

    fn read(&mut self, encoded: Bytes) -> Result<Self::Response, Status> {
        merge(PublishStreamResponse::default(), encoded)
    }
}

/// Reads deliveries and results.
#[derive(Debug, Default)]
pub(crate) struct DeliveriesReader {
    /// Deliveries that came last time: room for as many is made before the next ones are decoded, so that they
    /// are not moved as they become more.
    expected: usize,
}

impl Reader for DeliveriesReader {
    /// `None` is a heartbeat.
    type Response = Option<Received>;

    fn read(&mut self, encoded: Bytes) -> Result<Self::Response, Status> {
        if let Some(batch) = delivering::read(&encoded, self.expected) {
            self.expected = batch.len();
            return Ok(Some(Received::Deliveries(batch)));
        }
        let response = merge(SubscribeResponse::default(), encoded)?;
        Ok(match response.kind {
            Some(Kind::Deliveries(more)) => Some(Received::Deliveries(more.deliveries.into())),
            Some(Kind::Settled(settled)) => Some(Received::Settled(settled)),
            Some(Kind::Drained(_)) => Some(Received::Drained),
            Some(Kind::Heartbeat(_)) | None => None,
        })
    }
}

fn merge<Response: Message>(mut response: Response, bytes: Bytes) -> Result<Response, Status> {
    response
        .merge(bytes)
        .map_err(|error| Status::internal(error.to_string()))?;
    Ok(response)
}
