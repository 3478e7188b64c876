//! Encodes batches without growing a buffer on the way.
//!
//! The codec of `tonic-prost` starts each request with what is left of the last buffer and doubles it
//! as the messages come, which copies a batch of 64 KiB about twice more than needed.

use std::marker::PhantomData;

use prost::Message;
use tonic::{
    Status,
    codec::{Codec, EncodeBuf, Encoder},
};
use tonic_prost::{ProstCodec, ProstDecoder};

/// Sends `Request`, receives `Response`.
pub(crate) struct BatchCodec<Request, Response>(PhantomData<(Request, Response)>);

impl<Request, Response> BatchCodec<Request, Response> {
    pub(crate) fn new() -> Self {
        Self(PhantomData)
    }
}

impl<Request, Response> Codec for BatchCodec<Request, Response>
where
    Request: Message + Send + 'static,
    Response: Message + Default + Send + 'static,
{
    type Encode = Request;
    type Decode = Response;
    type Encoder = BatchEncoder<Request>;
    type Decoder = ProstDecoder<Response>;

    fn encoder(&mut self) -> Self::Encoder {
        BatchEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<Request, Response>::default().decoder()
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
