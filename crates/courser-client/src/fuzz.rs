//! What `tests/fuzz` reaches of the inside.
#![allow(missing_docs, reason = "nobody else sees it")]

use bytes::Bytes;

use crate::{DeliveryBatch, codec};

#[must_use]
pub fn read_deliveries(encoded: &Bytes) -> Option<DeliveryBatch> {
    codec::read_deliveries(encoded, 0)
}
