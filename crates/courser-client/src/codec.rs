//! Encodes batches without growing a buffer on the way, and decodes them from bytes in one piece.
//!
//! The codec of `tonic-prost` starts each request with what is left of the last buffer and doubles it
//! as the messages come, which copies a batch of 64 KiB about twice more than needed. It decodes over a part
//! of a buffer, which costs each field more than bytes by themselves do.

mod delivering;

#[cfg(feature = "fuzz")]
pub(crate) use delivering::read as read_deliveries;

use std::marker::PhantomData;

use bytes::{Buf as _, Bytes};
use prost::Message;
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use crate::{
    deliveries::Received,
    wire::{PublishStreamResponse, SubscribeResponse, subscribe_response::Kind},
};

/// Sends `Request`, reads with `Reader`.
pub(crate) struct BatchCodec<Request, Reader>(PhantomData<(Request, Reader)>);

impl<Request, Reader> Default for BatchCodec<Request, Reader> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<Request, Reader> Codec for BatchCodec<Request, Reader>
where
    Request: Message + Send + 'static,
    Reader: Decoder<Error = Status> + Default + Send + 'static,
    Reader::Item: Send + 'static,
{
    type Encode = Request;
    type Decode = Reader::Item;
    type Encoder = BatchEncoder<Request>;
    type Decoder = Reader;

    fn encoder(&mut self) -> Self::Encoder {
        BatchEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        Reader::default()
    }
}

/// Makes room for a request before it encodes it.
pub(crate) struct BatchEncoder<Request>(PhantomData<Request>);

impl<Request: Message> Encoder for BatchEncoder<Request> {
    type Item = Request;
    type Error = Status;

    fn encode(&mut self, item: Request, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.reserve(item.encoded_len());
        item.encode_raw(to);
        Ok(())
    }
}

/// Decodes confirms.
#[derive(Default)]
pub(crate) struct ConfirmsDecoder;

impl Decoder for ConfirmsDecoder {
    type Item = PublishStreamResponse;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        let bytes = from.copy_to_bytes(from.remaining());
        merge(PublishStreamResponse::default(), bytes).map(Some)
    }
}

/// Decodes deliveries and results.
#[derive(Default)]
pub(crate) struct DeliveriesDecoder {
    /// Deliveries that came last time: room for as many is made before the next ones are decoded, so that they
    /// are not moved as they become more.
    expected: usize,
}

impl Decoder for DeliveriesDecoder {
    /// `None` is a heartbeat.
    type Item = Option<Received>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        let bytes = from.copy_to_bytes(from.remaining());
        if let Some(batch) = delivering::read(&bytes, self.expected) {
            self.expected = batch.len();
            return Ok(Some(Some(Received::Deliveries(batch))));
        }
        let response = merge(SubscribeResponse::default(), bytes)?;
        Ok(Some(match response.kind {
            Some(Kind::Deliveries(more)) => Some(Received::Deliveries(more.deliveries.into())),
            Some(Kind::Settled(settled)) => Some(Received::Settled(settled)),
            Some(Kind::Drained(_)) => Some(Received::Drained),
            Some(Kind::Heartbeat(_)) | None => None,
        }))
    }
}

fn merge<Response: Message>(mut response: Response, bytes: Bytes) -> Result<Response, Status> {
    response
        .merge(bytes)
        .map_err(|error| Status::internal(error.to_string()))?;
    Ok(response)
}
