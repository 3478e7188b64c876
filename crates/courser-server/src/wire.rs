//! What the Broker service reads and writes: requests are looked over before they are decoded, and the
//! answers that carry messages are written straight from the words of the engine.
//!
//! The way through prost's types costs each message two strings, a map, and its length counted four
//! times over. Here the lengths are counted once and the fields are written as they lie. A test holds
//! every byte against what prost makes of `convert`.

mod body;
mod confirms;
mod deliveries;
mod field;
mod publishing;
mod request;
mod requests;

use std::marker::PhantomData;

use prost::Message;
use tonic::{
    Status,
    codec::{Codec, Decoder, EncodeBuf, Encoder},
};

#[cfg(feature = "fuzz")]
pub(crate) use self::requests::StreamRequest;
pub(crate) use self::{
    body::AnswerBody,
    confirms::{ConfirmFrame, ToldConfirms},
    deliveries::{DeliveryFrame, PulledFrame},
    request::{Numbered, WireDecoder},
    requests::Requests,
};

/// An answer that can write itself.
pub(crate) trait WireMessage {
    /// Counts the lengths of its parts behind what is in `lengths`, in the order in which they are written, and
    /// answers its own.
    fn measure(&self, lengths: &mut Vec<usize>) -> usize;

    /// Writes itself. `lengths` are those of `measure`.
    fn write(&self, lengths: &[usize], buffer: &mut impl bytes::BufMut);
}

/// Answers without messages in them are few and small: these go through prost.
impl<Answer: Message> WireMessage for Answer {
    fn measure(&self, _lengths: &mut Vec<usize>) -> usize {
        self.encoded_len()
    }

    fn write(&self, _lengths: &[usize], buffer: &mut impl bytes::BufMut) {
        self.encode_raw(buffer);
    }
}

/// Reads what `Reader` reads, and writes what writes itself.
#[derive(Debug)]
pub(crate) struct WireCodec<Answer, Reader>(PhantomData<(Answer, Reader)>);

impl<Answer, Reader> Default for WireCodec<Answer, Reader> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<Answer, Reader> Codec for WireCodec<Answer, Reader>
where
    Answer: WireMessage + Send + 'static,
    Reader: Decoder<Error = Status> + Default + Send + 'static,
    Reader::Item: Send,
{
    type Encode = Answer;
    type Decode = Reader::Item;
    type Encoder = WireEncoder<Answer>;
    type Decoder = Reader;

    fn encoder(&mut self) -> Self::Encoder {
        WireEncoder {
            lengths: Vec::new(),
            answer: PhantomData,
        }
    }

    fn decoder(&mut self) -> Self::Decoder {
        Reader::default()
    }
}

/// Writes the answers of one call.
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
