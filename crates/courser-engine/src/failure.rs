//! A failed store is a state, not an error to retry: after a write or a sync that failed, what is on
//! the disk is unknown, and only a restart tells.

use std::sync::{Arc, OnceLock};

use tokio::sync::Notify;

/// Why the store takes no more writes: the first reason stays. Shared by the threads that use it.
#[derive(Clone, Debug, Default)]
pub struct Failure {
    reason: Arc<OnceLock<String>>,
    happened: Arc<Notify>,
}

impl Failure {
    /// Remembers the first reason.
    pub(crate) fn set(&self, reason: &dyn std::fmt::Display) {
        if self.reason.set(reason.to_string()).is_ok() {
            tracing::error!(%reason, "the store failed, no more writes until a restart");
            self.happened.notify_one();
        }
    }

    /// The first reason, once it has happened.
    #[must_use]
    pub fn get(&self) -> Option<&str> {
        self.reason.get().map(String::as_str)
    }

    /// Returns when it has happened, once.
    pub(crate) async fn happens(&self) {
        self.happened.notified().await;
    }
}
