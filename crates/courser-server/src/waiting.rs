//! Requests that have arrived whole and are not carried out: what they take of memory, and who waits until it is less.

use std::{
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::sync::{Notify, OwnedSemaphorePermit, futures::OwnedNotified};

use crate::limits;

/// Requests that are whole and not carried out.
#[derive(Debug, Default)]
pub(crate) struct Whole {
    bytes: AtomicUsize,
    /// They have become few enough.
    room: Arc<Notify>,
}

impl Whole {
    /// Bytes of all of them.
    #[cfg(any(test, feature = "fuzz"))]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::SeqCst)
    }

    /// Ready while there is room for more. Whoever waits keeps `room` until then.
    pub(crate) fn poll_room(
        &self,
        room: &mut Option<Pin<Box<OwnedNotified>>>,
        context: &mut Context<'_>,
    ) -> Poll<()> {
        while self.is_full() {
            let heard =
                room.get_or_insert_with(|| Box::pin(Arc::clone(&self.room).notified_owned()));
            // It may have been before that was heard.
            if !self.is_full() {
                break;
            }
            ready!(heard.as_mut().poll(context));
            *room = None;
        }
        *room = None;
        Poll::Ready(())
    }

    fn is_full(&self) -> bool {
        self.bytes.load(Ordering::SeqCst) > limits::WAITING_BYTES_MAX
    }
}

/// The request of one body that is whole and not carried out, if there is one.
#[derive(Clone, Debug)]
pub(crate) struct Place(Arc<Placed>);

#[derive(Debug)]
struct Placed {
    bytes: AtomicUsize,
    /// Bytes of the next one, which is not whole.
    begun: AtomicUsize,
    whole: Arc<Whole>,
    /// What a call has room with.
    permit: OnceLock<OwnedSemaphorePermit>,
}

impl Place {
    /// Nothing yet, among all of `whole`.
    pub(crate) fn new(whole: &Arc<Whole>) -> Self {
        Self(Arc::new(Placed {
            bytes: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
            whole: Arc::clone(whole),
            permit: OnceLock::new(),
        }))
    }

    /// It is whole, and has so many bytes.
    pub(crate) fn take(&self, bytes: usize) {
        self.0.bytes.fetch_add(bytes, Ordering::SeqCst);
        self.0.whole.bytes.fetch_add(bytes, Ordering::SeqCst);
    }

    pub(crate) fn is_taken(&self) -> bool {
        self.0.bytes.load(Ordering::SeqCst) > 0
    }

    /// So many bytes of the next one have come.
    pub(crate) fn note_begun(&self, bytes: usize) {
        self.0.begun.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.0.begun.load(Ordering::Relaxed) > 0
    }

    /// Keeps what a call has room with until it is answered.
    pub(crate) fn keep(&self, permit: OwnedSemaphorePermit) {
        // There is one call.
        drop(self.0.permit.set(permit));
    }

    pub(crate) fn has_permit(&self) -> bool {
        self.0.permit.get().is_some()
    }

    /// It is carried out, or with the engine.
    pub(crate) fn leave(&self) {
        self.0.leave();
    }
}

impl Placed {
    fn leave(&self) {
        // Only whoever took the place leaves it.
        if self.bytes.load(Ordering::Relaxed) == 0 {
            return;
        }
        let (bytes, whole) = (self.bytes.swap(0, Ordering::SeqCst), &self.whole);
        let before = whole.bytes.fetch_sub(bytes, Ordering::SeqCst);
        if before > limits::WAITING_BYTES_MAX && !whole.is_full() {
            whole.room.notify_waiters();
        }
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        self.leave();
    }
}
