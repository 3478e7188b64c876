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

pub(crate) use self::{
    body::AnswerBody,
    confirms::{ConfirmFrame, ToldConfirms},
    deliveries::{DeliveryFrame, PulledFrame},
    request::{Looked, LookedNumbered, Numbered, WireRequest, read_plain},
    requests::Requests,
};
use prost::Message;

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

#[cfg(test)]
mod tests;
