//! Answers on their way out. What is kept of a delivery until the socket has taken it goes along with its
//! bytes: through the stream's window, HTTP/2's buffer, and whatever else stands in the way. So the engine
//! knows what connections really hold.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use courser_engine::{Hold, Unsent, request};
use http_body::{Frame, SizeHint};
use tonic::{
    Status,
    body::Body,
    codegen::{BoxFuture, http},
};

use crate::answers::{Answer, Held};

/// What ends when the bytes are gone that it came with.
#[derive(Debug)]
pub(crate) enum Kept {
    /// Deliveries of a subscription.
    Deliveries(#[expect(dead_code, reason = "its end is what counts")] Unsent),
    /// The answer to a pull.
    Pulled(#[expect(dead_code, reason = "its end is what counts")] Hold),
    /// Results of a settle, which count among the other answers.
    Settled(#[expect(dead_code, reason = "its end is what counts")] request::Along),
    /// Any other answer.
    Counted(#[expect(dead_code, reason = "its end is what counts")] Held),
}

/// What goes along with the next bytes of one answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leaving(Arc<Along>);

#[derive(Debug, Default)]
struct Along {
    kept: Mutex<Vec<Kept>>,
    /// The answer, when its bytes are counted as such.
    answer: Option<Answer>,
    asking: OnceLock<Arc<AtomicBool>>,
}

impl Leaving {
    /// Of an answer whose bytes are counted.
    pub(crate) fn counted(answer: Answer) -> Self {
        Self(Arc::new(Along {
            answer: Some(answer),
            ..Along::default()
        }))
    }

    /// From now on, tells by `asking` whether the connection asks for more of the answer than there is. Said
    /// here, where nothing is between this and the connection: with any frame that it has it may stop
    /// asking, also one that carries no delivery.
    pub(crate) fn tell(&self, asking: Arc<AtomicBool>) {
        // An answer has one subscription.
        drop(self.0.asking.set(asking));
    }

    /// Keeps this until the bytes that are made next are gone.
    pub(crate) fn keep(&self, kept: Kept) {
        self.lock().push(kept);
    }

    /// The connection asks for more than there is, or does not.
    pub(crate) fn note_asked(&self, is_asking: bool) {
        if let Some(asking) = self.0.asking.get() {
            asking.store(is_asking, Ordering::SeqCst);
        }
    }

    /// The answer, with what is kept going along.
    pub(crate) fn attach(
        self,
        answered: BoxFuture<http::Response<Body>, Infallible>,
    ) -> BoxFuture<http::Response<Body>, Infallible> {
        Box::pin(async move {
            let answer = answered.await?;
            Ok(answer.map(|body| {
                Body::new(Left {
                    body,
                    leaving: self,
                })
            }))
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Kept>> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last bytes of an answer, with what was kept until they are gone.
    pub(crate) fn load(&self, bytes: Bytes) -> Bytes {
        let mut kept = std::mem::take(&mut *self.lock());
        if let Some(answer) = &self.0.answer {
            kept.push(Kept::Counted(answer.hold(bytes.len())));
        }
        if kept.is_empty() {
            return bytes;
        }
        Bytes::from_owner(Loaded { bytes, _kept: kept })
    }
}

/// Bytes, and what ends with them.
struct Loaded<K> {
    bytes: Bytes,
    _kept: Vec<K>,
}

impl<K> AsRef<[u8]> for Loaded<K> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The body of an answer that is given as a whole.
struct Left<B> {
    body: B,
    leaving: Leaving,
}

impl<B> http_body::Body for Left<B>
where
    B: http_body::Body<Data = Bytes, Error = Status> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let load = |frame: Frame<Bytes>| frame.map_data(|bytes| self.leaving.load(bytes));
        Poll::Ready(frame.map(|frame| frame.map(load)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
