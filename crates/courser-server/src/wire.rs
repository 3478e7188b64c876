//! Writes the answers of the two streams straight from the words of the engine.
//!
//! The way through prost's types costs each message two strings, a map, and its length counted four
//! times over. Here the lengths are counted once and the fields are written as they lie. A test holds
//! every byte against what prost makes of `convert`.

mod confirms;
mod deliveries;
mod field;

use std::marker::PhantomData;

use tonic::{
    Status,
    codec::{Codec, EncodeBuf, Encoder},
};
use tonic_prost::ProstDecoder;

pub(crate) use self::{confirms::ConfirmFrame, deliveries::DeliveryFrame};

/// An answer that can write itself.
pub(crate) trait WireMessage {
    /// Counts the lengths of its parts into `lengths`, which is empty, in the order in which they are
    /// written, and answers its own.
    fn measure(&self, lengths: &mut Vec<usize>) -> usize;

    /// Writes itself. `lengths` are those of `measure`.
    fn write(&self, lengths: &[usize], buffer: &mut impl bytes::BufMut);
}

/// Reads what prost reads, and writes what writes itself.
#[derive(Debug)]
pub(crate) struct WireCodec<Answer, Request>(PhantomData<(Answer, Request)>);

impl<Answer, Request> Default for WireCodec<Answer, Request> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<Answer, Request> Codec for WireCodec<Answer, Request>
where
    Answer: WireMessage + Send + 'static,
    Request: prost::Message + Default + Send + 'static,
{
    type Encode = Answer;
    type Decode = Request;
    type Encoder = WireEncoder<Answer>;
    type Decoder = ProstDecoder<Request>;

    fn encoder(&mut self) -> Self::Encoder {
        WireEncoder {
            lengths: Vec::new(),
            answer: PhantomData,
        }
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::default()
    }
}

/// Writes the answers of one stream.
#[derive(Debug)]
pub(crate) struct WireEncoder<Answer> {
    /// Kept from one answer to the next, so that it is allocated once.
    lengths: Vec<usize>,
    answer: PhantomData<Answer>,
}

impl<Answer: WireMessage> Encoder for WireEncoder<Answer> {
    type Item = Answer;
    type Error = Status;

    fn encode(&mut self, answer: Answer, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        self.lengths.clear();
        buffer.reserve(answer.measure(&mut self.lengths));
        answer.write(&self.lengths, buffer);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
