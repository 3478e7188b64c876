//! Requests that have not arrived whole. What has come of them is kept until the rest comes, on each
//! stream of each connection: so it may take only so long, and all of it together only so many bytes.
//!
//! What has arrived whole waits in memory for the engine: for the disk, mostly. While that is too much, nothing more of a publish is read,
//! and HTTP/2's windows keep it with those who send it. Much more may become of a request than it has bytes, so whoever begins with one
//! waits for room for that: a message of five bytes is some hundred once it is read, a lease id of one byte as many.
//!
//! What comes is handed on in pieces of one request each, its prefix by itself. Whoever gathers them makes room for a
//! whole request when it has seen its prefix, and what tonic (for calls that are no streams) gets beyond that makes its
//! buffer grow. In such pieces each byte is copied once.

use std::{
    future::{Future as _, pending},
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
    sync::{OwnedSemaphorePermit, futures::OwnedNotified},
    time::{Instant, Sleep, sleep},
};
use tonic::{
    Status,
    body::Body,
    codegen::{BoxFuture, Service, http},
    server::NamedService,
};

use crate::{
    connection::Way,
    limits,
    status::{
        arrives_too_slowly, more_than_one, too_much_arriving, too_much_at_once, unread_in_the_way,
    },
    waiting::{Place, Whole},
};

/// What has come of all requests.
#[derive(Clone, Debug)]
pub(crate) struct Arrivals {
    /// Of those that are not whole.
    bytes: Arc<AtomicUsize>,
    bytes_max: usize,
    /// Those that are. No kind waits for another, of which each may wait for something else.
    publishes: Arc<Whole>,
    settles: Arc<Whole>,
    changes: Arc<Whole>,
    looks: Arc<Whole>,
    /// What has come of streams and was not read: of publishes, and of consumers.
    unread: Arc<Whole>,
    unread_settles: Arc<Whole>,
}

/// Until when a request that is whole counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Calls {
    /// Until it is answered, among its kind. It is the only one of its body.
    Publish,
    Settle,
    Change,
    Look,
    /// Until its stream says that the engine has it, among publishes.
    PublishStream,
    /// Not at all: what becomes of it is counted among the answers.
    Subscribe,
    /// Not at all: what becomes of it is small. It is the only one of its body.
    Pull,
    /// The same of others: what comes at once is small.
    Others,
}

/// What a call of the Admin service does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AdminCall {
    /// Something in the engine, which has it also when nobody waits for the answer.
    Change,
    /// Shows something: what is read of it is small, and it may wait for those who take no answers.
    Look,
    /// Shows something again and again.
    Watch,
}

impl AdminCall {
    /// That of the method at `path`; `None` when it is none of the service.
    pub(crate) fn of(path: &str) -> Option<Self> {
        Some(match path.strip_prefix("/courser.v1.Admin/")? {
            "CreateQueue" | "UpdateQueue" | "DeleteQueue" | "PurgeQueue" | "PauseQueue"
            | "ResumeQueue" | "RedriveEntries" => Self::Change,
            "GetQueue" | "ListQueues" | "PeekEntries" | "GetServerInfo" => Self::Look,
            "WatchStats" => Self::Watch,
            _ => return None,
        })
    }
}

impl Calls {
    fn of(path: &str) -> Self {
        match path {
            "/courser.v1.Broker/Publish" => Self::Publish,
            "/courser.v1.Broker/PublishStream" => Self::PublishStream,
            "/courser.v1.Broker/Subscribe" => Self::Subscribe,
            "/courser.v1.Broker/Settle" => Self::Settle,
            "/courser.v1.Broker/Pull" => Self::Pull,
            path => match AdminCall::of(path) {
                Some(AdminCall::Change) => Self::Change,
                Some(AdminCall::Look | AdminCall::Watch) => Self::Look,
                None => Self::Others,
            },
        }
    }

    /// Whether a body has one request, with which somebody begins when it has ended.
    fn is_single(self) -> bool {
        matches!(
            self,
            Self::Publish | Self::Settle | Self::Change | Self::Look | Self::Pull
        )
    }

    /// Whether what comes may lie here for long: whoever reads it waits for the client, too.
    fn may_lie_unread(self) -> bool {
        matches!(self, Self::PublishStream | Self::Subscribe)
    }

    /// Whether requests that are whole count.
    fn counts(self) -> bool {
        !matches!(self, Self::Subscribe | Self::Pull | Self::Others)
    }
}

impl Arrivals {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            bytes: Arc::default(),
            bytes_max,
            publishes: Arc::default(),
            settles: Arc::default(),
            changes: Arc::default(),
            looks: Arc::default(),
            unread: Arc::default(),
            unread_settles: Arc::default(),
        }
    }

    /// Bytes that have come of those that are not whole.
    #[cfg(any(test, feature = "fuzz"))]
    pub(crate) fn held(&self) -> usize {
        self.bytes.load(Ordering::SeqCst)
    }

    /// Bytes of those that are whole and not carried out, and KiB of what becomes of them.
    #[cfg(any(test, feature = "fuzz"))]
    pub(crate) fn waiting(&self) -> usize {
        [
            &self.publishes,
            &self.settles,
            &self.changes,
            &self.looks,
            &self.unread,
            &self.unread_settles,
        ]
        .map(|whole| whole.bytes())
        .iter()
        .sum()
    }

    /// Whether others have no room, or soon have none.
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
        let body = Arriving::new(body, arrivals, calls, &Way::of(&parts.extensions));
        let place = body.place.clone();
        parts.extensions.insert(body.arrival());
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

/// What a call says and hears of the requests that come over it.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    place: Place,
    unread: Place,
    arrivals: Arrivals,
}

impl Arrival {
    /// The engine has the request that was read.
    pub(crate) fn leave(&self) {
        self.place.leave();
    }

    /// Comes back when something of a stream has lain here for long, while nothing was read, and others soon have no room.
    async fn in_the_way(&self) -> Status {
        sleep(limits::ARRIVAL_TIME_MAX).await;
        loop {
            let is_something_here = self.place.has_begun() || self.unread.is_taken();
            if is_something_here && (self.arrivals.are_many() || self.unread.is_full()) {
                return unread_in_the_way();
            }
            sleep(limits::ARRIVAL_TIME_MAX / 30).await;
        }
    }
}

/// Room for so many bytes of what becomes of the request that has come, once there is. Without an arrival nothing is counted.
pub(crate) async fn room(arrival: Option<&Arrival>, bytes: usize) -> Option<OwnedSemaphorePermit> {
    arrival?.place.room(bytes).await
}

/// Never comes back without one.
pub(crate) async fn in_the_way(arrival: Option<&Arrival>) -> Status {
    match arrival {
        Some(arrival) => arrival.in_the_way().await,
        None => pending().await,
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
    /// Of `rest`, when it is of a stream.
    unread: Place,
    /// Bytes of the only request, when it is whole, until its body has ended: before, nobody begins with it.
    whole: usize,
    /// Heard when there is room again for requests that are whole, and for what lies unread.
    room: Option<Pin<Box<OwnedNotified>>>,
    room_unread: Option<Pin<Box<OwnedNotified>>>,
    /// While nothing more may be read: when it is looked again.
    look: Option<Pin<Box<Sleep>>>,
    /// Since when that is because of what lies unread.
    unread_since: Option<Instant>,
    /// Runs while we wait for the rest of a request.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<B> Arriving<B> {
    /// A body that comes over `way`.
    pub(crate) fn new(body: B, arrivals: Arrivals, calls: Calls, way: &Way) -> Self {
        let coming = way.coming();
        let whole = match calls {
            Calls::Settle | Calls::Subscribe => &arrivals.settles,
            Calls::Change => &arrivals.changes,
            Calls::Look => &arrivals.looks,
            _ => &arrivals.publishes,
        };
        let place = Place::new(whole, coming);
        let unread = match calls {
            Calls::Subscribe => &arrivals.unread_settles,
            _ => &arrivals.unread,
        };
        let unread = Place::new(unread, way.unread());
        let held = Held {
            coming: Arc::clone(coming),
            arrivals,
            bytes: 0,
        };
        Self {
            body,
            rest: Bytes::new(),
            given: Partial::default(),
            partial: Partial::default(),
            held,
            calls,
            place,
            unread,
            whole: 0,
            room: None,
            room_unread: None,
            look: None,
            unread_since: None,
            deadline: None,
        }
    }

    pub(crate) fn arrival(&self) -> Arrival {
        Arrival {
            place: self.place.clone(),
            unread: self.unread.clone(),
            arrivals: self.held.arrivals.clone(),
        }
    }

    fn take(&mut self, data: &[u8]) -> Result<(), Status> {
        if self.partial.add(data) {
            self.deadline = None;
        }
        if self.calls.may_lie_unread() {
            self.place.note_begun(self.partial.come);
            self.unread.take(data.len());
        } else if self.calls == Calls::Others && data.len() > limits::SMALL_FRAME_BYTES_MAX {
            return Err(too_much_at_once());
        }
        self.held.hold(if self.calls.is_single() {
            self.held.bytes + data.len()
        } else {
            self.partial.come
        })
    }

    /// A request was handed on as a whole.
    fn note_whole(&mut self, bytes: usize) -> Result<(), Status> {
        if self.calls == Calls::PublishStream {
            self.place.take(bytes);
        } else if self.calls.is_single() {
            if self.whole > 0 {
                return Err(more_than_one());
            }
            self.whole = bytes;
        }
        Ok(())
    }

    /// The body has ended.
    fn note_end(&mut self) {
        let whole = std::mem::take(&mut self.whole);
        if whole > 0 {
            if self.calls.counts() {
                self.place.take(whole);
            }
            self.held.let_go();
        }
    }

    /// The next piece of what has come.
    fn piece(&mut self) -> Result<Frame<Bytes>, Status> {
        let piece = self
            .rest
            .split_to(self.given.missing().min(self.rest.len()));
        if self.rest.is_empty() {
            self.unread.leave();
        }
        let come = self.given.come + piece.len();
        if self.given.add(&piece) {
            self.note_whole(come)?;
        }
        Ok(Frame::data(piece))
    }

    /// Ready while more may be read, with why nothing more will be.
    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        loop {
            if self.poll_room_for_whole(context).is_pending() {
                // That time is ours.
                (self.deadline, self.unread_since) = (None, None);
            } else if self.poll_room_for_unread(context).is_pending() {
                let since = *self.unread_since.get_or_insert_with(Instant::now);
                // It is up to other streams of the connection, and the beginning of a request lies here.
                if self.partial.come > 0 && since.elapsed() >= limits::ARRIVAL_TIME_MAX {
                    return Poll::Ready(Err(unread_in_the_way()));
                }
            } else {
                self.look = None;
                if let Some(since) = self.unread_since.take()
                    && let Some(deadline) = &mut self.deadline
                {
                    // That time was ours.
                    let later = deadline.deadline() + since.elapsed();
                    deadline.as_mut().reset(later);
                }
                return Poll::Ready(Ok(()));
            }
            // Nobody says that the connection has less.
            let look = self
                .look
                .get_or_insert_with(|| Box::pin(sleep(limits::ROOM_LOOK_INTERVAL)));
            ready!(look.as_mut().poll(context));
            self.look = None;
        }
    }

    /// What the engine has may be ahead of that: it comes to its end.
    fn poll_room_for_whole(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !self.calls.counts() || self.whole > 0 || self.place.is_taken() {
            return Poll::Ready(());
        }
        self.place.poll_room(&mut self.room, context)
    }

    fn poll_room_for_unread(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !self.calls.may_lie_unread() {
            return Poll::Ready(());
        }
        self.unread.poll_room(&mut self.room_unread, context)
    }

    /// Ready when what we wait for has not come for too long.
    fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(sleep(limits::ARRIVAL_TIME_MAX)));
        deadline.as_mut().poll(context)
    }
}

impl<B> Drop for Arriving<B> {
    fn drop(&mut self) {
        // Others may still keep its place.
        self.unread.leave();
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
            if let Err(status) = ready!(self.poll_room(context)) {
                return Poll::Ready(Some(Err(status)));
            }
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
                    ready!(self.poll_deadline(context));
                    return Poll::Ready(Some(Err(arrives_too_slowly())));
                }
                Poll::Ready(None) => {
                    self.note_end();
                    return Poll::Ready(None);
                }
                other => return other,
            }
        }
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
    /// Bytes of all of its connection.
    coming: Arc<AtomicUsize>,
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
            self.coming.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        } else if bytes > self.bytes {
            let more = bytes - self.bytes;
            if all.fetch_add(more, Ordering::Relaxed) + more > *bytes_max {
                all.fetch_sub(more, Ordering::Relaxed);
                return Err(too_much_arriving(*bytes_max));
            }
            self.coming.fetch_add(more, Ordering::Relaxed);
        }
        self.bytes = bytes;
        Ok(())
    }

    fn let_go(&mut self) {
        self.arrivals.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.coming.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = 0;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.let_go();
    }
}

#[cfg(test)]
pub(crate) mod tests;
