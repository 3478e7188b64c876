//! Reads bodies from the store for consumers that are behind.

/// Bodies that were asked for.
#[derive(Debug)]
pub(crate) struct Loaded {}
