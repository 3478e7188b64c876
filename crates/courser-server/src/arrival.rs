//! Requests that have not arrived whole. What has come of them is kept until the rest comes, on each
//! stream of each connection: so it may take only so long, and all of it together only so many bytes.
//!
//! What has arrived whole waits in memory for the engine: for the disk, mostly. While that is too much, nothing more of a publish is read,
//! and HTTP/2's windows keep it with those who send it.
//!
//! What comes is handed on in pieces of one request each, its prefix by itself. tonic gathers pieces in a
//! buffer, and makes room for a whole request when it has seen its prefix: what it has by then is moved, and
//! what it gets beyond the request makes the buffer grow. In such pieces each byte is copied once.

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
use http_body::{Frame, SizeHint};
use tokio::{
    sync::futures::OwnedNotified,
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
    status::{arrives_too_slowly, more_than_one, too_much_arriving},
    waiting::{Place, Whole},
};

/// What has come of all requests.
#[derive(Clone, Debug)]
pub(crate) struct Arrivals {
    /// Of those that are not whole.
    bytes: Arc<AtomicUsize>,
    bytes_max: usize,
    whole: Arc<Whole>,
}

/// Until when a request that is whole counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Calls {
    /// Until it is answered: it is the only one of its body.
    Publish,
    /// Until its stream says that the engine has it.
    Publishes,
    /// Not at all: what becomes of it is small, and it may make room.
    Others,
}

impl Calls {
    fn of(path: &str) -> Self {
        match path {
            "/courser.v1.Broker/Publish" => Self::Publish,
            "/courser.v1.Broker/PublishStream" => Self::Publishes,
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
        }
    }

    /// Bytes that have come of those that are not whole.
    #[cfg(any(test, feature = "fuzz"))]
    pub(crate) fn held(&self) -> usize {
        self.bytes.load(Ordering::SeqCst)
    }

    /// Bytes of those that are whole and not carried out.
    #[cfg(any(test, feature = "fuzz"))]
    pub(crate) fn waiting(&self) -> usize {
        self.whole.bytes()
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
        parts.extensions.insert(place.clone());
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
    /// Bytes of the request of a Publish that is whole, until its body has ended: before, nobody begins with it.
    whole: usize,
    /// Heard when there is room again for requests that are whole.
    room: Option<Pin<Box<OwnedNotified>>>,
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
            deadline: None,
        }
    }

    fn take(&mut self, data: &[u8]) -> Result<(), Status> {
        if self.partial.add(data) {
            self.deadline = None;
        }
        self.held.hold(self.whole + self.partial.come)
    }

    /// A request was handed on as a whole.
    fn note_whole(&mut self, bytes: usize) -> Result<(), Status> {
        match self.calls {
            Calls::Publish if self.whole > 0 => Err(more_than_one()),
            Calls::Publish => {
                self.whole = bytes;
                self.held.hold(self.whole + self.partial.come)
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
        if whole > 0 {
            self.place.take(whole);
            self.held.let_go();
        }
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

    /// Ready while there is room for more requests. What the engine has may be ahead of that: it comes to its end.
    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.calls == Calls::Others || self.whole > 0 || self.place.is_taken() {
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
        if !self.rest.is_empty() {
            return Poll::Ready(Some(self.piece()));
        }
        ready!(self.poll_room(context));
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(match frame.into_data() {
                Ok(data) => self.take(&data).and_then(|()| {
                    self.rest = data;
                    self.piece()
                }),
                // Trailers: nothing follows, and nobody asks.
                Err(frame) => {
                    self.note_end();
                    Ok(frame)
                }
            })),
            // Only what we wait for counts: a request behind another one may lie here for longer.
            Poll::Pending if self.partial.come > 0 || self.whole > 0 => {
                let deadline = self
                    .deadline
                    .get_or_insert_with(|| Box::pin(sleep(limits::ARRIVAL_TIME_MAX)));
                ready!(deadline.as_mut().poll(context));
                Poll::Ready(Some(Err(arrives_too_slowly())))
            }
            Poll::Ready(None) => {
                self.note_end();
                Poll::Ready(None)
            }
            other => other,
        }
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

/// Bytes before each request: a flag, and the length of the request.
const PREFIX_BYTES: usize = 5;

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
mod tests {
    use std::future::poll_fn;

    use http_body::Body as _;
    use tokio::{
        sync::mpsc,
        time::{Duration, Instant},
    };
    use tonic::Code;

    use super::*;

    /// Sends a body.
    struct Sender(mpsc::UnboundedSender<Frame<Bytes>>);

    impl Sender {
        fn send(&self, data: impl Into<Bytes>) {
            assert!(self.0.send(Frame::data(data.into())).is_ok());
        }

        fn send_trailers(&self) {
            let trailers = http::HeaderMap::new();
            assert!(self.0.send(Frame::trailers(trailers)).is_ok());
        }
    }

    /// A body whose frames come from the test.
    struct Frames(mpsc::UnboundedReceiver<Frame<Bytes>>);

    impl http_body::Body for Frames {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            self.0.poll_recv(context).map(|frame| frame.map(Ok))
        }
    }

    fn body(arrivals: &Arrivals) -> (Sender, Arriving<Frames>) {
        body_of(arrivals, Calls::Others)
    }

    fn body_of(arrivals: &Arrivals, calls: Calls) -> (Sender, Arriving<Frames>) {
        let (frames, receiver) = mpsc::unbounded_channel();
        let body = Arriving::new(Frames(receiver), arrivals.clone(), calls);
        (Sender(frames), body)
    }

    async fn piece(body: &mut Arriving<Frames>) -> Result<usize, Status> {
        let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await;
        frame.unwrap().map(|frame| frame.into_data().unwrap().len())
    }

    /// All pieces of what comes next.
    async fn next(body: &mut Arriving<Frames>) -> Result<usize, Status> {
        let mut bytes = piece(body).await?;
        while !body.rest.is_empty() {
            bytes += piece(body).await?;
        }
        Ok(bytes)
    }

    fn request(length: u8) -> Vec<u8> {
        let mut bytes = vec![0, 0, 0, 0, length];
        bytes.resize(PREFIX_BYTES + usize::from(length), b'x');
        bytes
    }

    #[test]
    fn what_has_come_is_counted_however_it_is_cut() {
        let stream = [request(3), request(0), request(20), request(1)].concat();
        for cut in 1..stream.len() {
            let mut partial = Partial::default();
            let whole = stream.chunks(cut).filter(|data| partial.add(data)).count();
            assert!((1..=4).contains(&whole), "{cut}");
            assert_eq!(partial.come, 0, "{cut}");
        }
        let mut partial = Partial::default();
        assert!(partial.add(&stream[..10]));
        assert_eq!(partial.come, 2);
        assert!(partial.add(&stream[10..30]));
        assert_eq!((partial.come, partial.length), (17, 20));
        let mut large = Partial::default();
        assert!(!large.add(&[0, 0x12, 0x34, 0x56, 0x78]));
        assert_eq!(large.length, 0x1234_5678);
    }

    #[tokio::test]
    async fn a_piece_is_a_prefix_or_belongs_to_one_request() {
        let (frames, mut body) = body(&Arrivals::new(100));
        let stream = [request(3), request(0), request(20), request(1)].concat();
        let (first, second) = stream.split_at(20);
        for data in [first, second] {
            frames.send(data.to_vec());
        }
        for expected in [5, 3, 5, 5, 2, 18, 5, 1] {
            assert_eq!(piece(&mut body).await.unwrap(), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_does_not_go_on_is_given_up() {
        let (frames, mut body) = body(&Arrivals::new(100));
        let start = Instant::now();
        for byte in &request(20)[..10] {
            frames.send(vec![*byte]);
            assert_eq!(next(&mut body).await.unwrap(), 1);
        }
        let given_up = next(&mut body).await.unwrap_err();
        assert_eq!(given_up.code(), Code::DeadlineExceeded);
        assert_eq!(start.elapsed(), limits::ARRIVAL_TIME_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drop_now_and_then_does_not_buy_time() {
        let (frames, mut body) = body(&Arrivals::new(100));
        let dripping = async {
            for byte in request(90) {
                frames.send(vec![byte]);
                sleep(Duration::from_secs(1)).await;
            }
        };
        let reading = async {
            loop {
                if let Err(status) = next(&mut body).await {
                    return status;
                }
            }
        };
        let start = Instant::now();
        tokio::select! {
            () = dripping => panic!("it was read to its end"),
            status = reading => assert_eq!(status.code(), Code::DeadlineExceeded),
        }
        assert!(start.elapsed() <= limits::ARRIVAL_TIME_MAX + Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_between_requests_may_last() {
        let (frames, mut body) = body(&Arrivals::new(100));
        for _ in 0..3 {
            // In two pieces, so that the clock ran in between.
            let bytes = request(20);
            frames.send(bytes[..7].to_vec());
            assert_eq!(next(&mut body).await.unwrap(), 7);
            let late = async {
                sleep(Duration::from_secs(20)).await;
                frames.send(bytes[7..].to_vec());
            };
            let (rest, ()) = tokio::join!(next(&mut body), late);
            assert_eq!(rest.unwrap(), 18);
            let silence = tokio::time::timeout(Duration::from_secs(3_600), next(&mut body));
            assert!(silence.await.is_err());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_together_hold_so_much_and_no_more() {
        let arrivals = Arrivals::new(100);
        let (first_frames, mut first) = body(&arrivals);
        let (second_frames, mut second) = body(&arrivals);
        let mut bytes = request(200);
        first_frames.send(bytes[..60].to_vec());
        second_frames.send(bytes[..41].to_vec());
        assert_eq!(next(&mut first).await.unwrap(), 60);
        let refused = next(&mut second).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        drop(second);
        // One that is whole holds nothing, however large it is, and one that is gone neither.
        first_frames.send(bytes.split_off(60));
        assert_eq!(next(&mut first).await.unwrap(), 145);
        assert_eq!(arrivals.held(), 0);
        first_frames.send(request(9)[..8].to_vec());
        assert_eq!(next(&mut first).await.unwrap(), 8);
        assert_eq!(arrivals.held(), 8);
        drop(first);
        assert_eq!(arrivals.held(), 0);
    }

    /// As much as may wait, and a byte.
    fn fill(arrivals: &Arrivals) -> Place {
        let place = Place::new(&arrivals.whole);
        place.take(limits::WAITING_BYTES_MAX + 1);
        place
    }

    async fn has_none(body: &mut Arriving<Frames>) -> bool {
        let hour = Duration::from_secs(3_600);
        tokio::time::timeout(hour, next(body)).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_more_is_read_while_too_much_waits_for_the_engine() {
        let arrivals = Arrivals::new(100);
        for calls in [Calls::Publish, Calls::Publishes] {
            let (frames, mut body) = body_of(&arrivals, calls);
            // In the midst of a request or before it, and that is not held against who sends.
            let bytes = request(20);
            for part in [&bytes[..7], &bytes[7..]] {
                frames.send(part.to_vec());
                let full = fill(&arrivals);
                assert!(has_none(&mut body).await, "{calls:?}");
                full.leave();
                assert_eq!(next(&mut body).await.unwrap(), part.len());
            }
            drop(body);
            assert_eq!((arrivals.waiting(), arrivals.held()), (0, 0));
        }
        let (frames, mut body) = body_of(&arrivals, Calls::Others);
        let _full = fill(&arrivals);
        frames.send(request(20));
        assert_eq!(next(&mut body).await.unwrap(), 25);
        assert_eq!(arrivals.waiting(), limits::WAITING_BYTES_MAX + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_publish_arrives_until_its_body_ends_and_waits_until_it_is_answered() {
        let arrivals = Arrivals::new(100);
        let (frames, mut body) = body_of(&arrivals, Calls::Publish);
        frames.send(request(20));
        assert_eq!(next(&mut body).await.unwrap(), 25);
        assert_eq!((arrivals.waiting(), arrivals.held()), (0, 25));
        // It is looked whether it ends; it does, whatever else waits.
        let full = fill(&arrivals);
        drop(frames);
        assert!(
            poll_fn(|context| Pin::new(&mut body).poll_frame(context))
                .await
                .is_none()
        );
        full.leave();
        assert_eq!((arrivals.waiting(), arrivals.held()), (25, 0));
        let answering = body.place.clone();
        drop(body);
        assert_eq!(arrivals.waiting(), 25);
        drop(answering);
        assert_eq!(arrivals.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn trailers_end_a_publish_too() {
        let arrivals = Arrivals::new(100);
        let (frames, mut body) = body_of(&arrivals, Calls::Publish);
        frames.send(request(20));
        assert_eq!(next(&mut body).await.unwrap(), 25);
        frames.send_trailers();
        let trailers = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
        assert!(trailers.unwrap().unwrap().is_trailers());
        assert_eq!((arrivals.waiting(), arrivals.held()), (25, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_publish_whose_body_does_not_end_is_given_up() {
        let arrivals = Arrivals::new(100);
        let (frames, mut body) = body_of(&arrivals, Calls::Publish);
        frames.send(request(20));
        assert_eq!(next(&mut body).await.unwrap(), 25);
        let start = Instant::now();
        let given_up = next(&mut body).await.unwrap_err();
        assert_eq!(given_up.code(), Code::DeadlineExceeded);
        assert_eq!(start.elapsed(), limits::ARRIVAL_TIME_MAX);
        drop((frames, body));

        let (frames, mut body) = body_of(&arrivals, Calls::Publish);
        frames.send([request(20), request(1)].concat());
        let refused = next(&mut body).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        drop(body);
        assert_eq!((arrivals.waiting(), arrivals.held()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_of_a_stream_waits_until_the_stream_says_so() {
        let arrivals = Arrivals::new(100);
        let (frames, mut stream) = body_of(&arrivals, Calls::Publishes);
        frames.send([request(20), request(30)].concat());
        for (bytes, waiting) in [([5, 20], 25), ([5, 30], 35)] {
            for expected in bytes {
                assert_eq!(piece(&mut stream).await.unwrap(), expected);
            }
            assert_eq!(arrivals.waiting(), waiting);
            stream.place.leave();
            assert_eq!(arrivals.waiting(), 0);
        }
    }
}
