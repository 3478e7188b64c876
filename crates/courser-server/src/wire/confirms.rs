//! `PublishStreamResponse`.

use bytes::BufMut;
use courser_engine::request::{Confirm, Published};
use prost::Message as _;

use super::{WireMessage, field::*};
use crate::status::publish_error_after;

/// Confirms that go out at once.
#[derive(Debug)]
pub(crate) struct ConfirmFrame(pub(crate) Vec<Confirm>);

/// The same, and how the store failed, if it has: those that are refused for that say so.
#[derive(Debug)]
pub(crate) struct ToldConfirms {
    pub(crate) confirms: ConfirmFrame,
    pub(crate) failure: Option<String>,
}

impl WireMessage for ConfirmFrame {
    fn measure(&self, lengths: &mut Vec<usize>) -> usize {
        measure(self, None, lengths)
    }

    fn write(&self, lengths: &[usize], buffer: &mut impl BufMut) {
        write(self, None, lengths, buffer);
    }
}

impl WireMessage for ToldConfirms {
    fn measure(&self, lengths: &mut Vec<usize>) -> usize {
        measure(&self.confirms, self.failure.as_deref(), lengths)
    }

    fn write(&self, lengths: &[usize], buffer: &mut impl BufMut) {
        write(&self.confirms, self.failure.as_deref(), lengths, buffer);
    }
}

fn measure(frame: &ConfirmFrame, failure: Option<&str>, lengths: &mut Vec<usize>) -> usize {
    let mut total = 0;
    for confirm in &frame.0 {
        let bytes = confirm_len(confirm, failure);
        lengths.push(bytes);
        total += nested_len(bytes);
    }
    total
}

fn write(frame: &ConfirmFrame, failure: Option<&str>, lengths: &[usize], buffer: &mut impl BufMut) {
    for (confirm, bytes) in frame.0.iter().zip(lengths) {
        write_nested(1, *bytes, buffer);
        write_confirm(confirm, failure, buffer);
    }
}

fn confirm_len(confirm: &Confirm, failure: Option<&str>) -> usize {
    let result: usize = match &confirm.result {
        Ok(published) => published
            .iter()
            .map(|published| nested_len(result_len(published)))
            .sum(),
        Err(error) => nested_len(publish_error_after(failure, error).encoded_len()),
    };
    varint_len(confirm.number) + result
}

fn write_confirm(confirm: &Confirm, failure: Option<&str>, buffer: &mut impl BufMut) {
    write_varint(1, confirm.number, buffer);
    match &confirm.result {
        Ok(published) => {
            for published in published {
                write_result(published, buffer);
            }
        }
        Err(error) => {
            let error = publish_error_after(failure, error);
            write_nested(3, error.encoded_len(), buffer);
            error.encode_raw(buffer);
        }
    }
}

fn result_len(published: &Published) -> usize {
    fixed64_len(published.position.0)
        + message_id_len(&published.id)
        + varint_len(published.queues.into())
}

fn write_result(published: &Published, buffer: &mut impl BufMut) {
    write_small(buffer, |small| {
        write_nested(2, result_len(published), small);
        write_fixed64(1, published.position.0, small);
    });
    write_message_id(2, &published.id, buffer);
    write_varint(3, published.queues.into(), buffer);
}
