//! PublishStream: a task reads the requests and hands them to the engine; the stream of answers is
//! what the engine confirms, many at once.

use std::{
    collections::VecDeque,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use courser_engine::{
    BrokerHandle, Confirms, Failure, Publisher,
    request::{Confirm, Health, Publish, PublishError, Published},
    tasks,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinHandle,
};
use tokio_stream::Stream;
use tonic::Status;

use super::shut_down;
use crate::{
    answers::Held,
    arrival::{Arrival, in_the_way, room},
    convert::publish_from_proto,
    limits,
    status::{internal, shutting_down},
    wire::{ConfirmFrame, LookedNumbered, Numbered, Requests, ToldConfirms},
};

/// The answers of one PublishStream. Ends when all requests are read and answered.
#[derive(Debug)]
pub(crate) struct ConfirmStream {
    confirms: Confirms,
    /// Taken from the engine and not yet answered.
    taken: VecDeque<Confirm>,
    window: Arc<Window>,
    /// Ends with why the requests ended; none once that was told.
    reader: Option<JoinHandle<Result<(), Status>>>,
    /// That of the store.
    failure: Failure,
}

impl ConfirmStream {
    pub(crate) fn start(
        handle: &BrokerHandle,
        requests: Requests,
        payload_bytes_max: usize,
        held: Held,
        arrival: Option<Arrival>,
    ) -> Self {
        let (publisher, confirms) = handle.publisher();
        let window = Arc::new(Window::new(held));
        let reader = Reader {
            requests,
            publisher,
            window: Arc::clone(&window),
            health: handle.health(),
            payload_bytes_max,
            arrival,
        };
        let reader = tasks::spawn("publish stream", reader.run());
        Self {
            confirms,
            taken: VecDeque::new(),
            window,
            reader: Some(reader),
            failure: handle.failure().clone(),
        }
    }

    /// What was taken, as much of it as goes into one answer.
    fn answer(&mut self) -> ToldConfirms {
        let mut results = 0;
        let fits = |confirm: &&Confirm| {
            results += confirm.result.as_ref().map_or(1, Vec::len);
            results <= limits::RESULTS_AT_ONCE
        };
        let count = self.taken.iter().take_while(fits).count().max(1);
        let confirms: Vec<_> = self.taken.drain(..count).collect();
        self.window.answered(confirms.len());
        ToldConfirms {
            confirms: ConfirmFrame(confirms),
            failure: self.failure.get().map(str::to_owned),
        }
    }

    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<Option<Status>> {
        let Some(reader) = &mut self.reader else {
            return Poll::Ready(None);
        };
        let ended = ready!(Pin::new(reader).poll(context));
        self.reader = None;
        Poll::Ready(match ended {
            Ok(result) => result.err(),
            Err(_) => Some(internal()),
        })
    }
}

impl Stream for ConfirmStream {
    type Item = Result<ToldConfirms, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.taken.is_empty() {
            let mut taken = Vec::from(std::mem::take(&mut self.taken));
            let count = self
                .confirms
                .poll_many(context, &mut taken, limits::CONFIRMS_AT_ONCE);
            self.taken = taken.into();
            if ready!(count) == 0 {
                return self.poll_end(context).map(|status| status.map(Err));
            }
        }
        Poll::Ready(Some(Ok(self.answer())))
    }
}

impl Drop for ConfirmStream {
    fn drop(&mut self) {
        if let Some(reader) = &self.reader {
            reader.abort();
        }
    }
}

/// The bound on requests whose confirms the client has not taken: without it, a client that publishes
/// and never reads would fill the memory with confirms.
#[derive(Debug)]
struct Window {
    units: Semaphore,
    ahead: Mutex<Ahead>,
}

/// The requests on their way.
#[derive(Debug)]
struct Ahead {
    /// What each counts for, in their order, and about how many bytes its confirm takes.
    costs: VecDeque<(usize, usize)>,
    /// What they count for beyond what there was.
    owed: usize,
    /// Bytes of all of these.
    bytes: usize,
    held: Held,
}

impl Window {
    fn new(held: Held) -> Self {
        Self {
            units: Semaphore::new(limits::CONFIRMS_WAITING_MAX as usize),
            ahead: Mutex::new(Ahead {
                costs: VecDeque::new(),
                owed: 0,
                bytes: 0,
                held,
            }),
        }
    }

    /// Waits until there is room for the confirm of another request, however large.
    async fn room(&self) {
        // It is never closed, and what is looked for stays there: there is one reader.
        drop(self.units.acquire().await);
    }

    /// A request is on its way. What it takes more than there was is owed by those before it.
    fn enter(&self, messages: usize) {
        let cost = 1 + messages / limits::MESSAGES_PER_CONFIRM_UNIT;
        let bytes = size_of::<Confirm>() + messages * size_of::<Published>();
        let ahead = &mut *self.lock();
        ahead.owed += cost - self.units.forget_permits(cost);
        ahead.costs.push_back((cost, bytes));
        ahead.bytes += bytes;
        ahead.held.set(ahead.bytes);
    }

    /// The first `count` requests are answered.
    fn answered(&self, count: usize) {
        let ahead = &mut *self.lock();
        let count = count.min(ahead.costs.len());
        let mut units = 0;
        for (cost, bytes) in ahead.costs.drain(..count) {
            units += cost;
            ahead.bytes -= bytes;
        }
        ahead.held.set(ahead.bytes);
        let owed = ahead.owed.min(units);
        ahead.owed -= owed;
        self.units.add_permits(units - owed);
    }

    fn lock(&self) -> MutexGuard<'_, Ahead> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the requests of one PublishStream.
struct Reader {
    requests: Requests,
    publisher: Publisher,
    window: Arc<Window>,
    health: watch::Receiver<Health>,
    payload_bytes_max: usize,
    /// That of the requests.
    arrival: Option<Arrival>,
}

impl Reader {
    async fn run(mut self) -> Result<(), Status> {
        let mut closing = pin!(shut_down(self.health.clone()));
        loop {
            // Nothing is read that could not be handed on: whether it may be is up to the client.
            let request = tokio::select! {
                biased;
                request = self.next() => request?,
                () = &mut closing => return Err(shutting_down()),
            };
            let Some((request, room)) = request else {
                return Ok(());
            };
            if !self.publish(request).await {
                return Err(shutting_down());
            }
            drop(room);
        }
    }

    /// The next request, once its confirm has room, and what becomes of it.
    async fn next(&mut self) -> Result<Option<(Numbered, Option<OwnedSemaphorePermit>)>, Status> {
        tokio::select! {
            biased;
            () = self.window.room() => {}
            status = in_the_way(self.arrival.as_ref()) => return Err(status),
        }
        let Some(encoded) = self.requests.next().await? else {
            return Ok(None);
        };
        let looked = LookedNumbered::over(encoded);
        let room = room(self.arrival.as_ref(), looked.bytes()).await;
        Ok(Some((looked.read()?, room)))
    }

    /// Hands a request to the engine; `false` when there is none any more.
    async fn publish(&mut self, request: Numbered) -> bool {
        let Numbered { number, request } = request;
        let messages = request.as_ref().map_or(0, |request| request.messages.len());
        self.window.enter(messages);
        let publish = request.and_then(|request| {
            let publish = publish_from_proto(
                request.messages,
                request.mandatory,
                request.durability,
                self.payload_bytes_max,
            )?;
            Ok(Publish {
                without_results: request.without_results,
                ..publish
            })
        });
        let is_taken = match publish {
            Ok(publish) => self.publisher.send(number, publish).await,
            Err(error) => {
                let error = PublishError::Invalid {
                    reason: error.to_string(),
                };
                self.publisher.refuse(number, error).await
            }
        };
        if let Some(arrival) = &self.arrival {
            arrival.leave();
        }
        is_taken
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Future as _, task::Waker, time::Duration};

    use courser_frames::{PREFIX_BYTES, in_frame};
    use courser_store::MemoryStore;
    use tokio::time::sleep;
    use tokio_stream::StreamExt as _;
    use tonic::{Code, body::Body};

    use super::*;
    use crate::{
        answers::Answers,
        arrival::{Arrivals, Calls, tests::body_of},
        connection::Way,
    };

    fn has_room(window: &Window, messages: usize) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        let has_room = pin!(window.room()).poll(&mut context).is_ready();
        if has_room {
            window.enter(messages);
        }
        has_room
    }

    /// As the contract says of PublishStream.
    #[test]
    fn ten_thousand_requests_are_ahead_of_confirms_that_nobody_reads() {
        let window = Window::new(Answers::default().begin(Way::default()).hold(0));
        assert!((0..10_000).all(|_| has_room(&window, 15)));
        assert!(!has_room(&window, 1));
        window.answered(2);
        assert!(has_room(&window, 16), "it counts for two");
        assert!(!has_room(&window, 1));
        window.answered(10_000);
        // 158 of them, and one that owes a part of its 63.
        assert!((0..159).all(|_| has_room(&window, 1_000)));
        assert!(!has_room(&window, 0));
        window.answered(1);
        assert_eq!(window.units.available_permits(), 46);
        window.answered(158);
        assert_eq!(window.units.available_permits(), 10_000);
    }

    #[test]
    fn confirms_that_nobody_reads_count_among_the_answers() {
        let answers = Answers::default();
        let window = Window::new(answers.begin(Way::default()).hold(0));
        let each = 1_000 * size_of::<Published>();
        assert!((0..100).all(|_| has_room(&window, 1_000)));
        let all = 100 * each..100 * (each + 1_000);
        let counted = |answers: &Answers| usize::try_from(answers.held().0).unwrap();
        assert!(all.contains(&(counted(&answers) + limits::ANSWER_STEP_BYTES)));
        window.answered(99);
        assert!(counted(&answers) <= each);
        window.answered(1);
        assert_eq!(counted(&answers), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_publisher_that_takes_no_confirms_ends_when_others_need_the_room() {
        let store = Arc::new(MemoryStore::default());
        let handle = courser_engine::start(store, &Default::default()).unwrap();
        // What has begun of the last request is more than half of what there may be of all.
        let arrivals = Arrivals::new(10);
        let (frames, body) = body_of(&arrivals, Calls::PublishStream);
        let arrival = Some(body.arrival());
        let requests = Requests::new(Body::new(body), 1_000);
        let held = Answers::default().begin(Way::default()).hold(0);
        let mut stream = ConfirmStream::start(&handle, requests, 1_000, held, arrival);
        // Each is refused, and that is confirmed.
        let mut many = in_frame(&[]).repeat(10_001);
        many.extend([0; PREFIX_BYTES]);
        many.extend([0, 0, 0, 0, 9, 1]);
        frames.send(many);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(arrivals.held(), PREFIX_BYTES + 1);
        // The engine has a thread of its own, which keeps to no clock of ours.
        let mut looks = 0;
        while (arrivals.waiting(), arrivals.held()) != (0, 0) {
            looks += 1;
            assert!(looks < 3_000_000, "it stays");
            sleep(Duration::from_millis(100)).await;
        }
        let mut confirmed = 0;
        let end = loop {
            match stream.next().await.unwrap() {
                Ok(told) => confirmed += told.confirms.0.len(),
                Err(status) => break status,
            }
        };
        assert_eq!((confirmed, end.code()), (10_000, Code::ResourceExhausted));
        handle.shutdown().await;
    }
}
