//! `PublishStreamResponse`.

use bytes::BufMut;
use courser_engine::request::{Confirm, Published};
use prost::Message as _;

use super::{WireMessage, field::*};
use crate::status::publish_error_to_proto;

/// Confirms that go out at once.
#[derive(Debug)]
pub(crate) struct ConfirmFrame(pub(crate) Vec<Confirm>);

impl WireMessage for ConfirmFrame {
    fn measure(&self, lengths: &mut Vec<usize>) -> usize {
        let mut total = 0;
        for confirm in &self.0 {
            let bytes = confirm_len(confirm);
            lengths.push(bytes);
            total += nested_len(bytes);
        }
        total
    }

    fn write(&self, lengths: &[usize], buffer: &mut impl BufMut) {
        for (confirm, bytes) in self.0.iter().zip(lengths) {
            write_nested(1, *bytes, buffer);
            write_confirm(confirm, buffer);
        }
    }
}

fn confirm_len(confirm: &Confirm) -> usize {
    let result: usize = match &confirm.result {
        Ok(published) => published
            .iter()
            .map(|published| nested_len(result_len(published)))
            .sum(),
        Err(error) => nested_len(publish_error_to_proto(error).encoded_len()),
    };
    varint_len(confirm.number) + result
}

fn write_confirm(confirm: &Confirm, buffer: &mut impl BufMut) {
    write_varint(1, confirm.number, buffer);
    match &confirm.result {
        Ok(published) => {
            for published in published {
                write_result(published, buffer);
            }
        }
        Err(error) => {
            let error = publish_error_to_proto(error);
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
