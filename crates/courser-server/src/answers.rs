//! Answers that no delivery is in: pages of a list, peeks, results, metrics. What was made of them and is not taken is
//! counted, over all connections, until the sockets have it: nobody has to read, and many may ask. While it
//! is too much, large ones wait, and connections are ended whose answers have not moved for a while; when it is twice as much,
//! those that have moved least lately.
//!
//! What carries deliveries is counted by the engine: `leaving.rs`.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};
use tonic::{
    body::Body,
    codegen::{BoxFuture, Service, http},
    server::NamedService,
};

use crate::{connection::Way, limits};

/// All answers of the broker that are not taken, as far as they have whole steps.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    all: Mutex<All>,
    /// For those that are being made: they count when they are.
    places: Arc<Semaphore>,
    /// It has become less.
    room: Notify,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            all: Mutex::default(),
            places: Arc::new(Semaphore::new(limits::PAGES_AT_ONCE)),
            room: Notify::new(),
        }
    }
}

#[derive(Debug, Default)]
struct All {
    /// Of all of them.
    bytes: u64,
    /// The part of those whose connections are being ended.
    ending_bytes: u64,
    /// By where they are in memory.
    answers: HashMap<usize, One>,
}

/// One of them.
#[derive(Debug)]
struct One {
    bytes: u64,
    /// Since when none of it was taken.
    since: Instant,
    /// Some of it was, before.
    has_moved: bool,
    way: Way,
    is_ending: bool,
}

impl Answers {
    /// An answer that goes over `way`.
    pub(crate) fn begin(&self, way: Way) -> Answer {
        Answer(Arc::new(Begun {
            answers: self.clone(),
            way,
            bytes: AtomicUsize::new(0),
        }))
    }

    /// Counts what `service` answers.
    pub(crate) fn watch<S>(&self, service: S) -> Counted<S> {
        Counted {
            service,
            answers: self.clone(),
        }
    }

    /// The body of an answer that goes over `way`, counted from now on.
    pub(crate) fn count<B>(&self, way: Way, body: B) -> CountedBody<B>
    where
        B: HttpBody<Data = Bytes> + Unpin,
    {
        CountedBody::new(body, self.begin(way).hold(0))
    }

    /// Bytes of all, and the part of connections that are being ended.
    #[cfg(test)]
    pub(crate) fn held(&self) -> (u64, u64) {
        let all = self.lock();
        (all.bytes, all.ending_bytes)
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.0.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place to make something large. It is to be kept until that is made, and its answer is to be counted at
    /// once.
    pub(crate) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        // They are never closed.
        let place = Arc::clone(&self.0.places).acquire_owned().await.ok();
        self.room().await;
        place
    }

    async fn room(&self) {
        loop {
            let less = self.0.room.notified();
            if self.lock().has_room() {
                return;
            }
            // Nobody says when the next has not moved for so long.
            drop(timeout(limits::ANSWER_STILL_MAX / 8, less).await);
        }
    }
}

impl All {
    /// Whether one more may be made that is large, once those that do not move are ended.
    fn has_room(&mut self) -> bool {
        if self.live_bytes() > limits::ANSWERS_BYTES_MAX {
            // One at a time would leave each place to the next that takes nothing.
            self.make_room(limits::ANSWER_STILL_MAX, limits::ANSWERS_BYTES_MAX / 2);
        }
        self.live_bytes() <= limits::ANSWERS_BYTES_MAX
    }

    /// Of connections that are not being ended.
    fn live_bytes(&self) -> u64 {
        self.bytes - self.ending_bytes
    }

    /// Connections end for other reasons too.
    fn note_endings(&mut self) {
        for one in self.answers.values_mut() {
            if !one.is_ending && one.way.is_ended() {
                one.is_ending = true;
                self.ending_bytes += one.bytes;
            }
        }
    }

    /// Ends connections whose answers have not moved for so long, until so much is left. First go those of which nothing was taken
    /// ever, and of these, as of the others, those that have not moved for longest.
    fn make_room(&mut self, still: Duration, left: u64) {
        self.note_endings();
        let now = Instant::now();
        let mut held = HashMap::<_, u64>::new();
        let mut by_need = Vec::new();
        for one in self.answers.values() {
            *held.entry(one.way.key()).or_default() += one.bytes;
            if one.bytes > 0 && !one.is_ending && now.duration_since(one.since) >= still {
                by_need.push((one.has_moved, one.since, one.way.clone()));
            }
        }
        by_need.sort_unstable_by_key(|(has_moved, since, _)| (*has_moved, *since));
        let (mut connections, mut bytes) = (0_usize, 0);
        for (.., way) in by_need {
            if self.live_bytes() - bytes <= left {
                break;
            }
            if !way.is_ended() {
                way.end();
                connections += 1;
                bytes += held.get(&way.key()).copied().unwrap_or(0);
            }
        }
        if connections == 0 {
            return;
        }
        self.note_endings();
        tracing::info!(
            connections,
            bytes,
            "answers were not taken, their connections are ended"
        );
    }
}

/// An answer under way. Cheap to clone; it ends with the last of its clones and of what it holds.
#[derive(Clone, Debug)]
pub(crate) struct Answer(Arc<Begun>);

#[derive(Debug)]
struct Begun {
    answers: Answers,
    way: Way,
    /// Made, and not taken.
    bytes: AtomicUsize,
}

impl Answer {
    /// This many bytes more of it were made.
    pub(crate) fn hold(&self, bytes: usize) -> Held {
        self.0.add(bytes);
        Held {
            answer: self.clone(),
            bytes,
        }
    }
}

/// Of so many bytes, what is counted: nearly all answers are less than a step, and nobody else hears of these.
fn steps(bytes: usize) -> u64 {
    (bytes - bytes % limits::ANSWER_STEP_BYTES) as u64
}

impl Begun {
    fn add(&self, bytes: usize) {
        let before = self.bytes.fetch_add(bytes, Ordering::SeqCst);
        if steps(before) != steps(before + bytes) {
            self.count();
        }
    }

    fn remove(&self, bytes: usize) {
        let before = self.bytes.fetch_sub(bytes, Ordering::SeqCst);
        if steps(before) != steps(before - bytes) {
            self.count();
        }
    }

    /// Has it count for what it is now: whoever changes that comes here afterwards.
    fn count(&self) {
        let mut all = self.answers.lock();
        let now = steps(self.bytes.load(Ordering::SeqCst));
        let key = std::ptr::from_ref(self).addr();
        let one = all.answers.entry(key).or_insert_with(|| One {
            bytes: 0,
            since: Instant::now(),
            has_moved: false,
            is_ending: self.way.is_ended(),
            way: self.way.clone(),
        });
        let before = std::mem::replace(&mut one.bytes, now);
        let has_moved = now < before;
        if has_moved {
            one.since = Instant::now();
            one.has_moved = true;
        }
        let ends = u64::from(one.is_ending);
        all.bytes = all.bytes + now - before;
        all.ending_bytes = all.ending_bytes + now * ends - before * ends;
        if now == 0 {
            all.answers.remove(&key);
        }
        if all.live_bytes() > 2 * limits::ANSWERS_BYTES_MAX {
            all.make_room(Duration::ZERO, limits::ANSWERS_BYTES_MAX);
        }
        drop(all);
        if has_moved {
            self.answers.0.room.notify_waiters();
        }
    }
}

/// Bytes of an answer, which count until this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    answer: Answer,
    bytes: usize,
}

impl Held {
    /// It is so much now.
    pub(crate) fn set(&mut self, bytes: usize) {
        let before = std::mem::replace(&mut self.bytes, bytes);
        if bytes > before {
            self.answer.0.add(bytes - before);
        } else if bytes < before {
            self.answer.0.remove(before - bytes);
        }
    }

    fn split_to(&mut self, bytes: usize) -> Self {
        self.bytes -= bytes;
        Self {
            answer: self.answer.clone(),
            bytes,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Bytes, and what ends with them.
struct Piece {
    bytes: Bytes,
    _held: Held,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

type Polled<E> = Option<Result<Frame<Bytes>, E>>;

/// A body that is counted. What there is of it at first is made at once: until then it would lie in memory in another form,
/// and nobody would know how much it is.
pub(crate) struct CountedBody<B: HttpBody> {
    body: B,
    /// Made, and not given to the connection.
    rest: Bytes,
    /// These.
    held: Held,
    /// What came in place of the first bytes, or behind them.
    next: Option<Polled<B::Error>>,
}

impl<B> CountedBody<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    fn new(body: B, held: Held) -> Self {
        let mut counted = Self {
            body,
            rest: Bytes::new(),
            held,
            next: None,
        };
        // Whoever asks next is woken in its place.
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(first) = Pin::new(&mut counted.body).poll_frame(&mut context) {
            counted.next = counted.take(first);
        }
        counted
    }

    /// Keeps what there are bytes of; hands back anything else.
    fn take(&mut self, polled: Polled<B::Error>) -> Option<Polled<B::Error>> {
        let frame = match polled {
            Some(Ok(frame)) => frame,
            other => return Some(other),
        };
        match frame.into_data() {
            Ok(data) => {
                self.held.set(data.len());
                self.rest = data;
                None
            }
            Err(frame) => Some(Some(Ok(frame))),
        }
    }

    /// There is no more than `rest`.
    fn is_whole(&self) -> bool {
        match &self.next {
            Some(next) => next.is_none(),
            None => self.body.is_end_stream(),
        }
    }

    /// As much of it as goes to the connection at once: it is seen to move with each of these.
    fn piece(&mut self) -> Frame<Bytes> {
        let piece = self
            .rest
            .split_to(self.rest.len().min(limits::ANSWER_PIECE_BYTES));
        Frame::data(Bytes::from_owner(Piece {
            _held: self.held.split_to(piece.len()),
            bytes: piece,
        }))
    }
}

impl<B> HttpBody for CountedBody<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        loop {
            if !self.rest.is_empty() {
                return Poll::Ready(Some(Ok(self.piece())));
            }
            if let Some(next) = self.next.take() {
                return Poll::Ready(next);
            }
            let polled = ready!(Pin::new(&mut self.body).poll_frame(context));
            self.next = self.take(polled);
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.is_whole()
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_whole() {
            SizeHint::with_exact(self.rest.len() as u64)
        } else {
            SizeHint::default()
        }
    }
}

/// A service whose answers are counted.
#[derive(Clone, Debug)]
pub(crate) struct Counted<S> {
    service: S,
    answers: Answers,
}

impl<S: NamedService> NamedService for Counted<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Counted<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<Self::Response, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (answers, way) = (self.answers.clone(), Way::of(request.extensions()));
        let answering = self.service.call(request);
        Box::pin(async move {
            let answer = answering.await?;
            Ok(answer.map(|body| Body::new(answers.count(way, body))))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, convert::Infallible};

    use tokio::time::{advance, sleep};
    use tonic::codegen::http::HeaderMap;

    use super::*;

    const MIB: usize = 1024 * 1024;

    /// What a body has, polled one after the other; `None` is that there is nothing just then. Then it ends.
    struct Having(VecDeque<Option<Frame<Bytes>>>);

    impl HttpBody for Having {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.0.pop_front() {
                Some(Some(frame)) => Poll::Ready(Some(Ok(frame))),
                Some(None) => Poll::Pending,
                None => Poll::Ready(None),
            }
        }
    }

    fn data(bytes: usize) -> Option<Frame<Bytes>> {
        Some(Frame::data(vec![7; bytes].into()))
    }

    fn trailers() -> Option<Frame<Bytes>> {
        Some(Frame::trailers(HeaderMap::new()))
    }

    fn counted(
        answers: &Answers,
        having: impl Into<VecDeque<Option<Frame<Bytes>>>>,
    ) -> CountedBody<Having> {
        answers.count(Way::default(), Having(having.into()))
    }

    fn poll<B>(body: &mut CountedBody<B>) -> Poll<Polled<B::Error>>
    where
        B: HttpBody<Data = Bytes, Error: Unpin> + Unpin,
    {
        Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()))
    }

    /// The next bytes.
    #[track_caller]
    fn piece(body: &mut CountedBody<Having>) -> Bytes {
        let Poll::Ready(Some(Ok(frame))) = poll(body) else {
            panic!("there is no frame");
        };
        frame.into_data().expect("bytes")
    }

    #[test]
    fn an_answer_counts_from_its_making_until_its_last_piece_is_gone() {
        let answers = Answers::default();
        let mut body = counted(&answers, [data(640 * 1024), trailers()]);
        assert_eq!(answers.held().0, 640 * 1024);
        let pieces: Vec<_> = (0..3).map(|_| piece(&mut body)).collect();
        let sizes: Vec<_> = pieces.iter().map(|piece| piece.len() / 1024).collect();
        assert_eq!(sizes, [256, 256, 128]);
        let Poll::Ready(Some(Ok(end))) = poll(&mut body) else {
            panic!("there are no trailers");
        };
        assert!(end.is_trailers());
        assert!(matches!(poll(&mut body), Poll::Ready(None)));
        drop(body);
        assert_eq!(answers.held().0, 640 * 1024);
        for (piece, left) in pieces.into_iter().zip([384, 128, 0]) {
            drop(piece);
            assert_eq!(answers.held().0, left * 1024);
        }
        assert!(answers.lock().answers.is_empty());
    }

    #[test]
    fn an_answer_that_is_given_up_counts_no_more() {
        let answers = Answers::default();
        let mut body = counted(&answers, [data(MIB)]);
        drop(piece(&mut body));
        assert_eq!(answers.held().0, (MIB - 256 * 1024) as u64);
        drop(body);
        assert_eq!(answers.held().0, 0);
        assert!(answers.lock().answers.is_empty());
    }

    #[test]
    fn what_comes_later_counts_too_in_whole_steps() {
        let answers = Answers::default();
        let step = limits::ANSWER_STEP_BYTES;
        let having = [None, data(step - 1), None, data(1), data(step)];
        let mut body = counted(&answers, having);
        let small = piece(&mut body);
        assert_eq!((small.len(), answers.held().0), (step - 1, 0));
        assert!(poll(&mut body).is_pending());
        let whole_step = piece(&mut body);
        assert_eq!(answers.held().0, step as u64);
        drop(piece(&mut body));
        assert_eq!(answers.held().0, step as u64);
        drop((small, whole_step));
        assert_eq!(answers.held().0, 0);
        assert!(answers.lock().answers.is_empty());
        assert!(matches!(poll(&mut body), Poll::Ready(None)));
    }

    /// As a refusal is: then its headers are all there is, and say so.
    #[test]
    fn an_answer_without_bytes_is_over_at_once() {
        let body = counted(&Answers::default(), []);
        assert!(body.is_end_stream());
        let body = counted(&Answers::default(), [trailers()]);
        assert!(!body.is_end_stream());
    }

    #[test]
    fn an_answer_that_is_whole_says_how_long_it_is() {
        let answers = Answers::default();
        let text = axum::body::Body::from("figures");
        let body = answers.count(Way::default(), text);
        assert_eq!(body.size_hint().exact(), Some(7));
    }

    /// Answers of 16 MiB each, one a second.
    async fn fill(answers: &Answers, ways: &[Way]) -> Vec<Held> {
        let mut held = Vec::new();
        for way in ways {
            advance(Duration::from_secs(1)).await;
            held.push(answers.begin(way.clone()).hold(16 * MIB));
        }
        held
    }

    fn ended(ways: &[Way]) -> Vec<usize> {
        (0..ways.len())
            .filter(|number| ways[*number].is_ended())
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn while_it_is_too_much_large_ones_wait_and_what_does_not_move_is_ended() {
        let answers = Answers::default();
        let ways: Vec<_> = (0..10).map(|_| Way::default()).collect();
        let mut held = fill(&answers, &ways[..8]).await;
        answers.room().await;
        assert_eq!(ended(&ways), [0; 0]);
        held.extend(fill(&answers, &ways[8..]).await);
        // The first takes something now and then; the last has just been made.
        drop(held[0].split_to(MIB));
        answers.room().await;
        assert_eq!(ended(&ways), [1, 2, 3, 4, 5, 6], "63 MiB are left");
        assert_eq!(answers.held(), (159 << 20, 96 << 20));

        // What they hold until they are gone is not held against others.
        held.push(answers.begin(ways[9].clone()).hold(65 * MIB));
        held.push(answers.begin(ways[1].clone()).hold(MIB));
        answers.room().await;
        held.push(
            answers
                .begin(ways[9].clone())
                .hold(limits::ANSWER_STEP_BYTES),
        );
        let start = Instant::now();
        answers.room().await;
        assert_eq!(ended(&ways), [1, 2, 3, 4, 5, 6, 7, 8], "80 MiB are left");
        assert_eq!(start.elapsed(), Duration::ZERO);

        held.push(answers.begin(ways[0].clone()).hold(65 * MIB));
        answers.room().await;
        assert_eq!(ended(&ways).len(), 10);
        assert!(start.elapsed() >= limits::ANSWER_STILL_MAX);
        held.clear();
        assert_eq!(answers.held(), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_has_room_when_others_take_theirs() {
        let answers = Answers::default();
        let ways = [Way::default()];
        let mut held = fill(&answers, &ways).await;
        held.push(answers.begin(ways[0].clone()).hold(113 * MIB));
        let taking = async {
            sleep(limits::ANSWER_STILL_MAX / 2).await;
            held.pop();
        };
        let start = Instant::now();
        tokio::join!(answers.room(), answers.room(), taking);
        assert_eq!(ended(&ways), [0; 0]);
        assert_eq!(start.elapsed(), limits::ANSWER_STILL_MAX / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn twice_as_much_ends_those_that_moved_least_lately_at_once() {
        let answers = Answers::default();
        let ways: Vec<_> = (0..17).map(|_| Way::default()).collect();
        let mut held = fill(&answers, &ways[..16]).await;
        // Of the first, something was taken, if long ago.
        drop(held[0].split_to(MIB));
        advance(Duration::from_secs(1)).await;
        held.push(answers.begin(ways[16].clone()).hold(MIB));
        assert_eq!(ended(&ways), [0; 0]);
        held.push(answers.begin(ways[16].clone()).hold(MIB));
        assert_eq!(ended(&ways), (1..=9).collect::<Vec<_>>());
    }
}
