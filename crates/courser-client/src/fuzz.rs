//! What `tests/fuzz` reaches of the inside.
#![allow(missing_docs, reason = "nobody else sees it")]

use bytes::Bytes;

use crate::{DeliveryBatch, codec, responses};

#[must_use]
pub fn read_deliveries(encoded: &Bytes) -> Option<DeliveryBatch> {
    codec::read_deliveries(encoded, 0)
}

/// Responses out of frames of so many bytes, or why there are none.
pub fn read_frames(all: &[u8], frame: usize) -> Result<Vec<Bytes>, String> {
    let read = responses::read_frames(all, frame);
    read.map_err(|status| status.message().to_owned())
}
