//! Requests that have arrived whole and are not carried out: what they take of memory, and who waits until it is less.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, futures::OwnedNotified};

use crate::limits;

/// Requests that are whole and not carried out.
#[derive(Debug)]
pub(crate) struct Whole {
    bytes: AtomicUsize,
    /// They have become few enough.
    room: Arc<Notify>,
    /// KiB for what becomes of those with which somebody begins: much more than their bytes.
    becoming: Arc<Semaphore>,
}

impl Default for Whole {
    fn default() -> Self {
        Self {
            bytes: AtomicUsize::new(0),
            room: Arc::default(),
            becoming: Arc::new(Semaphore::new(limits::BECOMING_KIB_MAX as usize)),
        }
    }
}

impl Whole {
    /// Bytes of all of them, and KiB of what becomes of some.
    #[cfg(any(test, feature = "fuzz"))]
    pub(crate) fn bytes(&self) -> usize {
        let free = self.becoming.available_permits();
        self.bytes.load(Ordering::SeqCst) + limits::BECOMING_KIB_MAX as usize - free
    }

    /// For what becomes of requests.
    #[cfg(test)]
    pub(crate) fn becoming(&self) -> &Arc<Semaphore> {
        &self.becoming
    }

    /// Ready while there is room for more. Whoever waits keeps `room` until then.
    fn poll_room(
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
    /// Bytes of all such of its connection.
    of_connection: Arc<AtomicUsize>,
}

impl Place {
    /// Nothing yet, among all of `whole` and of its connection.
    pub(crate) fn new(whole: &Arc<Whole>, of_connection: &Arc<AtomicUsize>) -> Self {
        Self(Arc::new(Placed {
            bytes: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
            whole: Arc::clone(whole),
            of_connection: Arc::clone(of_connection),
        }))
    }

    /// It is whole, and has so many bytes.
    pub(crate) fn take(&self, bytes: usize) {
        self.0.bytes.fetch_add(bytes, Ordering::SeqCst);
        self.0.whole.bytes.fetch_add(bytes, Ordering::SeqCst);
        self.0.of_connection.fetch_add(bytes, Ordering::Relaxed);
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

    /// Room for so many bytes of what becomes of it, once there is. A little needs none.
    pub(crate) async fn room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        if bytes <= limits::BECOMING_BYTES_FREE {
            return None;
        }
        let room = Arc::clone(&self.0.whole.becoming);
        // It is never closed.
        room.acquire_many_owned(limits::becoming_kib(bytes))
            .await
            .ok()
    }

    /// Ready while there is room for more of its kind, or its connection has little: whoever sends little does not wait for who sends
    /// much. Whoever waits keeps `room` until then.
    pub(crate) fn poll_room(
        &self,
        room: &mut Option<Pin<Box<OwnedNotified>>>,
        context: &mut Context<'_>,
    ) -> Poll<()> {
        if self.0.of_connection.load(Ordering::Relaxed) <= limits::COMING_BYTES_FREE {
            return Poll::Ready(());
        }
        self.0.whole.poll_room(room, context)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.0.whole.is_full()
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
        self.of_connection.fetch_sub(bytes, Ordering::Relaxed);
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
