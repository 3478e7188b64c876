//! Starts and recovers the broker.

use std::sync::Arc;

use courser_store::{Store, StoreError};

use crate::handle::BrokerHandle;

/// What the engine can be told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of the latest messages kept in memory.
    pub recent_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            recent_bytes: crate::limits::RECENT_BYTES_MAX,
        }
    }
}

/// Recovers what `store` keeps and starts the threads. Blocks while it recovers.
///
/// # Errors
/// When the store cannot be recovered.
pub fn start(store: Arc<dyn Store>, options: &Options) -> Result<BrokerHandle, StoreError> {
    let _ = (store, options);
    Err(StoreError::Index("not yet".to_owned()))
}
