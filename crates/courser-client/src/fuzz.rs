//! What `tests/fuzz` reaches of the inside.
#![allow(missing_docs, reason = "nobody else sees it")]

use bytes::Bytes;

use crate::{codec, wire::Deliveries};

#[must_use]
pub fn read_deliveries(encoded: &Bytes) -> Option<Deliveries> {
    codec::read_deliveries(encoded, 0)
}
