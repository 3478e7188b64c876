//! Requests that have not arrived whole. What has come of them is kept until the rest comes, on each
//! stream of each connection: so it may take only so long, and all of it together only so many bytes.
//!
//! What has arrived whole waits in memory for the engine: for the disk, mostly. While that is too much, nothing more of a publish is read,
//! and HTTP/2's windows keep it with those who send it. Of other calls the last piece is kept until there is room for what becomes
//! of them: a lease id of one byte is some hundred in the engine, and as many in the answer.
//!
//! What comes is handed on in pieces of one request each, its prefix by itself. Whoever gathers them makes room for a
//! whole request when it has seen its prefix, and what tonic (for calls that are no streams) gets beyond that makes its
//! buffer grow. In such pieces each byte is copied once.

use std::{
    future::Future as _,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use courser_frames::PREFIX_BYTES;
use http_body::{Frame, SizeHint};
use tokio::{
    sync::{AcquireError, OwnedSemaphorePermit, Semaphore, futures::OwnedNotified},
    time::{Sleep, sleep},
};
use tonic::{
    Status,
    body::Body,
    codegen::{BoxFuture, Service, http},
    server::NamedService,
};

use crate::{
    limits,
    status::{arrives_too_slowly, confirms_in_the_way, more_than_one, too_much_arriving},
    waiting::{Place, Whole},
};

/// What has come of all requests.
#[derive(Clone, Debug)]
pub(crate) struct Arrivals {
    /// Of those that are not whole.
    bytes: Arc<AtomicUsize>,
    bytes_max: usize,
    whole: Arc<Whole>,
    /// KiB for what becomes of calls.
    room: Arc<Semaphore>,
}

/// Until when a request that is whole counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Calls {
    /// Until it is answered: it is the only one of its body.
    Publish,
    /// Until its stream says that the engine has it.
    Publishes,
    /// Until it is answered, for what may become of it. It does not wait for publishes: it may make room for them.
    Call,
    /// Not at all: what becomes of it is small, or it is answered late.
    Others,
}

impl Calls {
    fn of(path: &str) -> Self {
        match path {
            "/courser.v1.Broker/Publish" => Self::Publish,
            "/courser.v1.Broker/PublishStream" => Self::Publishes,
            "/courser.v1.Broker/Settle" => Self::Call,
            path if path.starts_with("/courser.v1.Admin/") => Self::Call,
            _ => Self::Others,
        }
    }
}

impl Arrivals {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            bytes: Arc::default(),
            bytes_max,
            whole: Arc::default(),
            room: Arc::new(Semaphore::new(limits::CALLS_KIB_MAX as usize)),
        }
    }

    /// Bytes that have come of those that are not whole.
    #[cfg(any(test, feature = "fuzz"))]
    pub(crate) fn held(&self) -> usize {
        self.bytes.load(Ordering::SeqCst)
    }

    /// Bytes of those that are whole and not carried out, and KiB for what becomes of calls.
    #[cfg(any(test, feature = "fuzz"))]
    pub(crate) fn waiting(&self) -> usize {
        self.whole.bytes() + limits::CALLS_KIB_MAX as usize - self.room.available_permits()
    }

    /// Whether more than half of what there may be is taken.
    fn are_many(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > self.bytes_max / 2
    }

    /// Bounds what has come of the requests of `service`.
    pub(crate) fn watch<S>(&self, service: S) -> Watched<S> {
        Watched {
            service,
            arrivals: self.clone(),
        }
    }
}

/// A service whose requests arrive within bounds.
#[derive(Clone, Debug)]
pub(crate) struct Watched<S> {
    service: S,
    arrivals: Arrivals,
}

impl<S: NamedService> NamedService for Watched<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Watched<S>
where
    S: Service<http::Request<Body>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<S::Response, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (arrivals, calls) = (self.arrivals.clone(), Calls::of(request.uri().path()));
        let (mut parts, body) = request.into_parts();
        let body = Arriving::new(body, arrivals, calls);
        let place = body.place.clone();
        parts.extensions.insert(Arrival {
            place: place.clone(),
            arrivals: body.held.arrivals.clone(),
        });
        let request = http::Request::from_parts(parts, Body::new(body));
        let answering = self.service.call(request);
        Box::pin(async move {
            let answer = answering.await;
            // The body of a stream has it too.
            drop(place);
            answer
        })
    }
}

/// What a stream of publishes says and hears of the requests that come over it.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    place: Place,
    arrivals: Arrivals,
}

impl Arrival {
    /// The engine has the request that was read.
    pub(crate) fn leave(&self) {
        self.place.leave();
    }

    /// Comes back when the beginning of a request has lain here for long, while nothing was read, and others soon have no room.
    pub(crate) async fn in_the_way(&self) -> Status {
        loop {
            sleep(limits::ARRIVAL_TIME_MAX).await;
            if self.place.has_begun() && self.arrivals.are_many() {
                return confirms_in_the_way();
            }
        }
    }
}

/// The body of a request, or of all requests of a stream.
pub(crate) struct Arriving<B> {
    body: B,
    /// What has come and was not handed on.
    rest: Bytes,
    /// Where in a request `rest` begins.
    given: Partial,
    partial: Partial,
    held: Held,
    calls: Calls,
    place: Place,
    /// Bytes of the only request, when it is whole, until its body has ended: before, nobody begins with it.
    whole: usize,
    /// Heard when there is room again for requests that are whole.
    room: Option<Pin<Box<OwnedNotified>>>,
    /// Comes with room for what becomes of a call.
    permit: Option<BoxFuture<OwnedSemaphorePermit, AcquireError>>,
    /// Runs while we wait for the rest of a request.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<B> Arriving<B> {
    pub(crate) fn new(body: B, arrivals: Arrivals, calls: Calls) -> Self {
        let place = Place::new(&arrivals.whole);
        Self {
            body,
            rest: Bytes::new(),
            given: Partial::default(),
            partial: Partial::default(),
            held: Held { arrivals, bytes: 0 },
            calls,
            place,
            whole: 0,
            room: None,
            permit: None,
            deadline: None,
        }
    }

    fn take(&mut self, data: &[u8]) -> Result<(), Status> {
        if self.partial.add(data) {
            self.deadline = None;
        }
        self.place.note_begun(self.partial.come);
        self.held.hold(match self.calls {
            // All of it is of one request.
            Calls::Publish | Calls::Call => self.held.bytes + data.len(),
            Calls::Publishes | Calls::Others => self.partial.come,
        })
    }

    /// A request was handed on as a whole.
    fn note_whole(&mut self, bytes: usize) -> Result<(), Status> {
        match self.calls {
            Calls::Publish | Calls::Call if self.whole > 0 => Err(more_than_one()),
            Calls::Publish | Calls::Call => {
                self.whole = bytes;
                Ok(())
            }
            Calls::Publishes => {
                self.place.take(bytes);
                Ok(())
            }
            Calls::Others => Ok(()),
        }
    }

    /// The body has ended.
    fn note_end(&mut self) {
        let whole = std::mem::take(&mut self.whole);
        if whole == 0 {
            return;
        }
        if self.calls == Calls::Publish {
            self.place.take(whole);
        }
        self.held.let_go();
    }

    /// The next piece of what has come.
    fn piece(&mut self) -> Result<Frame<Bytes>, Status> {
        let piece = self
            .rest
            .split_to(self.given.missing().min(self.rest.len()));
        let come = self.given.come + piece.len();
        if self.given.add(&piece) {
            self.note_whole(come)?;
        }
        Ok(Frame::data(piece))
    }

    /// Ready when the next piece may go on: with the last one of a call something becomes of it.
    fn poll_permit(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let is_last = self.given.is_last(&self.rest);
        if self.calls != Calls::Call || !is_last || self.place.has_permit() {
            return Poll::Ready(());
        }
        let room = &self.held.arrivals.room;
        let kib = limits::call_kib(self.given.come + self.given.missing());
        let permit = match Arc::clone(room).try_acquire_many_owned(kib) {
            Ok(permit) => Some(permit),
            Err(_) => {
                // That time is ours.
                self.deadline = None;
                let permit = self
                    .permit
                    .get_or_insert_with(|| Box::pin(Arc::clone(room).acquire_many_owned(kib)));
                // It is never closed.
                ready!(permit.as_mut().poll(context)).ok()
            }
        };
        self.permit = None;
        if let Some(permit) = permit {
            self.place.keep(permit);
        }
        Poll::Ready(())
    }

    /// Ready while there is room for more requests. What the engine has may be ahead of that: it comes to its end.
    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if matches!(self.calls, Calls::Call | Calls::Others)
            || self.whole > 0
            || self.place.is_taken()
        {
            return Poll::Ready(());
        }
        let polled = self.held.arrivals.whole.poll_room(&mut self.room, context);
        if polled.is_pending() {
            // That time is ours.
            self.deadline = None;
        }
        polled
    }
}

impl<B> http_body::Body for Arriving<B>
where
    B: http_body::Body<Data = Bytes, Error = Status> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        while self.rest.is_empty() {
            ready!(self.poll_room(context));
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        if let Err(status) = self.take(&data) {
                            return Poll::Ready(Some(Err(status)));
                        }
                        self.rest = data;
                    }
                    // Trailers: nothing follows, and nobody asks.
                    Err(frame) => {
                        self.note_end();
                        return Poll::Ready(Some(Ok(frame)));
                    }
                },
                // Only what we wait for counts: a request behind another one may lie here for longer.
                Poll::Pending if self.partial.come > 0 || self.whole > 0 => {
                    let deadline = self
                        .deadline
                        .get_or_insert_with(|| Box::pin(sleep(limits::ARRIVAL_TIME_MAX)));
                    ready!(deadline.as_mut().poll(context));
                    return Poll::Ready(Some(Err(arrives_too_slowly())));
                }
                Poll::Ready(None) => {
                    self.note_end();
                    return Poll::Ready(None);
                }
                other => return other,
            }
        }
        ready!(self.poll_permit(context));
        Poll::Ready(Some(self.piece()))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.rest.is_empty() {
            self.body.size_hint()
        } else {
            SizeHint::default()
        }
    }
}

/// The request that has not arrived whole, if there is one.
#[derive(Debug, Default)]
struct Partial {
    /// Bytes of it that have come, its prefix included.
    come: usize,
    /// As much of its length as is known.
    length: usize,
}

impl Partial {
    /// Bytes that its prefix lacks, or else its rest.
    fn missing(&self) -> usize {
        if self.come < PREFIX_BYTES {
            PREFIX_BYTES - self.come
        } else {
            PREFIX_BYTES + self.length - self.come
        }
    }

    /// Whether it becomes whole with what there is.
    fn is_last(&self, there: &[u8]) -> bool {
        let mut with = Self { ..*self };
        with.add(&there[..with.missing().min(there.len())])
    }

    /// Whether a request became whole.
    fn add(&mut self, mut data: &[u8]) -> bool {
        let mut whole = false;
        while !data.is_empty() {
            if self.come < PREFIX_BYTES {
                let byte = usize::from(data.get_u8());
                self.length = if self.come == 0 {
                    0
                } else {
                    self.length << 8 | byte
                };
                self.come += 1;
            } else {
                let part = data.len().min(PREFIX_BYTES + self.length - self.come);
                data.advance(part);
                self.come += part;
            }
            if self.come >= PREFIX_BYTES && self.come == PREFIX_BYTES + self.length {
                *self = Self::default();
                whole = true;
            }
        }
        whole
    }
}

/// What one body adds to all.
struct Held {
    arrivals: Arrivals,
    bytes: usize,
}

impl Held {
    fn hold(&mut self, bytes: usize) -> Result<(), Status> {
        let Arrivals {
            bytes: all,
            bytes_max,
            ..
        } = &self.arrivals;
        if bytes < self.bytes {
            all.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        } else if bytes > self.bytes {
            let more = bytes - self.bytes;
            if all.fetch_add(more, Ordering::Relaxed) + more > *bytes_max {
                all.fetch_sub(more, Ordering::Relaxed);
                return Err(too_much_arriving(*bytes_max));
            }
        }
        self.bytes = bytes;
        Ok(())
    }

    fn let_go(&mut self) {
        self.arrivals.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = 0;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.let_go();
    }
}

#[cfg(test)]
mod tests;
