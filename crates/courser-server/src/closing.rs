//! The two words that end the faces: first "no more", then "now".

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::{Notify, futures::OwnedNotified};

/// Something that happens once, and that many wait for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Signal(Arc<State>);

#[derive(Debug, Default)]
struct State {
    given: AtomicBool,
    notify: Arc<Notify>,
}

impl Signal {
    pub(crate) fn give(&self) {
        self.0.given.store(true, Ordering::SeqCst);
        self.0.notify.notify_waiters();
    }

    pub(crate) fn is_given(&self) -> bool {
        self.0.given.load(Ordering::SeqCst)
    }

    /// Whether it is this very signal, of all that there are.
    pub(crate) fn key(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    /// Hears the signal if it is given from now on; look at [`Self::is_given`] afterwards.
    pub(crate) fn listen(&self) -> OwnedNotified {
        Arc::clone(&self.0.notify).notified_owned()
    }

    /// Returns when the signal was given.
    pub(crate) async fn given(self) {
        let listening = self.listen();
        if !self.is_given() {
            listening.await;
        }
    }
}
