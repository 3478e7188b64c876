//! Subscribe: the stream of answers holds the subscription, and takes its events only when the
//! connection can carry them; a task reads what the consumer settles.
//!
//! The end, from wherever it comes, is the same: deliveries that were taken from the engine and have
//! not gone out are released without blame, and then the subscription is dropped.

use std::{
    collections::VecDeque,
    mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use courser_core::{
    id::LeaseId,
    lease::{DeadLetterReason, Nack, Settlement, Verdict},
};
use courser_engine::{
    BrokerHandle, Cut, Settler, Subscription,
    request::{Along, Delivery, Ended, Event, Settled},
    tasks,
};
use courser_proto::v1::{self, subscribe_request};
use tokio::{
    task::JoinHandle,
    time::{Instant, Sleep, sleep, timeout},
};
use tokio_stream::Stream;
use tonic::Status;

use crate::{
    answers::Answer,
    arrival::{Arrival, in_the_way},
    convert::{InvalidField, InvalidSettlement, open_from_proto, settlements_from_proto},
    leaving::{Kept, Leaving},
    limits,
    status::{ended_to_status, internal, not_opened, queue_error_to_status, shutting_down},
    wire::{DeliveryFrame, Looked, Requests},
};

/// The answers of one subscription.
#[derive(Debug)]
pub(crate) struct DeliveryStream {
    queue: String,
    /// None once it is over.
    subscription: Option<Subscription>,
    /// Taken from the engine and not yet sent.
    taken: VecDeque<Event>,
    unanswered: Arc<Unanswered>,
    /// Ends with why the requests ended; none once the consumer has said its last.
    reader: Option<JoinHandle<Result<(), End>>>,
    /// What its last word was answered with, for when everything before it is answered.
    verdict: Option<Status>,
    /// Deliveries that came after that.
    unwanted: Vec<LeaseId>,
    /// Where deliveries go out.
    leaving: Leaving,
    heartbeat: Pin<Box<Sleep>>,
}

/// Settles whose results have not come, in their order.
#[derive(Debug, Default)]
struct Unanswered(Mutex<VecDeque<Awaited>>);

/// A settle that the engine answers.
#[derive(Debug)]
enum Awaited {
    /// What of it the engine never sees.
    Results(Vec<InvalidSettlement>),
    /// Some of what it never sees, and that alone is to be answered with what it refuses.
    Refusals(Vec<InvalidSettlement>),
    /// Nobody has sent it: the consumer has said its last, and not all of that is answered.
    Last,
}

impl Unanswered {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Awaited>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is next: something to send, or the end.
enum Next {
    Frame(DeliveryFrame),
    End(Option<Status>),
}

impl DeliveryStream {
    /// Awaits the opening and subscribes.
    pub(crate) async fn start(
        handle: &BrokerHandle,
        mut requests: Requests,
        cut: Cut,
        leaving: Leaving,
        answer: Answer,
        arrival: Option<Arrival>,
    ) -> Result<Self, Status> {
        let first = timeout(limits::OPEN_TIME_MAX, requests.next());
        let first = first.await.map_err(|_| not_opened())??;
        let first = first.map(read).transpose()?;
        let open = open_from_proto(first_open(first)?).map_err(|error| error.within("open"))?;
        let queue = open.queue.clone();
        let subscription = handle
            .subscribe_over(open, cut)
            .await
            .map_err(queue_error_to_status)?;
        leaving.tell(subscription.asking());
        let unanswered = Arc::<Unanswered>::default();
        let hand_on = HandOn {
            settler: subscription.settler(),
            unanswered: Arc::clone(&unanswered),
            answer,
            arrival,
        };
        let reader = hand_on.read_settles(requests);
        Ok(Self {
            queue,
            subscription: Some(subscription),
            taken: VecDeque::new(),
            unanswered,
            reader: Some(tasks::spawn("settle stream", reader)),
            verdict: None,
            unwanted: Vec::new(),
            leaving,
            heartbeat: Box::pin(sleep(limits::HEARTBEAT_INTERVAL)),
        })
    }

    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Next> {
        if let Some(reader) = &mut self.reader
            && let Poll::Ready(ended) = Pin::new(reader).poll(context)
        {
            self.reader = None;
            self.verdict = match ended {
                Ok(Ok(())) => None,
                Ok(Err(End::Wrong(status))) => Some(status),
                // Nobody takes what was answered, so that is not waited for.
                Ok(Err(End::InTheWay(status))) => return Poll::Ready(Next::End(Some(status))),
                Err(_) => Some(internal()),
            };
        }
        loop {
            if let Some(frame) = self.next_frame() {
                return Poll::Ready(frame);
            }
            if self.reader.is_none() && self.unanswered.lock().is_empty() {
                return Poll::Ready(Next::End(self.verdict.take()));
            }
            if self.poll_events(context).is_pending() {
                ready!(self.heartbeat.as_mut().poll(context));
                return Poll::Ready(Next::Frame(DeliveryFrame::Heartbeat));
            }
        }
    }

    fn poll_events(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut taken = Vec::from(mem::take(&mut self.taken));
        let polled = match &mut self.subscription {
            Some(events) => events.poll_events(context, &mut taken, limits::EVENTS_AT_ONCE),
            None => Poll::Ready(0),
        };
        self.taken = taken.into();
        if ready!(polled) == 0 {
            self.taken.push_back(Event::Ended(Ended::ShuttingDown));
        }
        Poll::Ready(())
    }

    /// The next frame of what was taken; none when nothing of it is to go out.
    fn next_frame(&mut self) -> Option<Next> {
        loop {
            match self.taken.pop_front()? {
                Event::Deliveries(deliveries) => {
                    let deliveries = self.wanted(deliveries);
                    let deliveries = self.merged(deliveries);
                    if deliveries.is_empty() {
                        continue;
                    }
                    if let Some(subscription) = &mut self.subscription {
                        let Some(unsent) = subscription.admit(&deliveries) else {
                            continue;
                        };
                        self.leaving.keep(Kept::Deliveries(unsent));
                    }
                    return Some(Next::Frame(DeliveryFrame::Deliveries(deliveries)));
                }
                Event::Settled(mut settled, along) => {
                    self.leaving.keep(Kept::Settled(along));
                    let invalid = match self.unanswered.lock().pop_front() {
                        Some(Awaited::Results(invalid)) => invalid,
                        Some(Awaited::Refusals(invalid)) => {
                            settled.ok.clear();
                            invalid
                        }
                        Some(Awaited::Last) => continue,
                        None => Vec::new(),
                    };
                    return Some(Next::Frame(DeliveryFrame::Settled(settled, invalid)));
                }
                Event::Refused(refused, along) => {
                    self.leaving.keep(Kept::Settled(along));
                    let settled = Settled {
                        refused,
                        ..Settled::default()
                    };
                    return Some(Next::Frame(DeliveryFrame::Settled(settled, Vec::new())));
                }
                Event::Recalled => {
                    if let Some(subscription) = &mut self.subscription {
                        subscription.note_recalled();
                    }
                }
                Event::Drained => return Some(Next::Frame(DeliveryFrame::Drained)),
                Event::Ended(ended) => {
                    return Some(Next::End(Some(ended_to_status(ended, &self.queue))));
                }
            }
        }
    }

    /// After its last word a consumer wants nothing more, except what counts as acked already.
    fn wanted(&mut self, deliveries: Vec<Delivery>) -> Vec<Delivery> {
        if self.reader.is_some() {
            return deliveries;
        }
        let (wanted, unwanted): (_, Vec<_>) = deliveries
            .into_iter()
            .partition(|delivery| delivery.lease_id.0 == 0);
        self.unwanted.extend(unwanted.iter().map(|d| d.lease_id));
        wanted
    }

    /// `deliveries` and those that follow at once, as far as they fit into one frame.
    fn merged(&mut self, mut deliveries: Vec<Delivery>) -> Vec<Delivery> {
        let mut bytes = bytes_of(&deliveries);
        while let Some(Event::Deliveries(more)) = self.taken.front_mut() {
            bytes += bytes_of(more);
            let count = deliveries.len() + more.len();
            if self.reader.is_none()
                || bytes > limits::DELIVERIES_BYTES
                || count > limits::DELIVERIES_MAX
            {
                break;
            }
            deliveries.append(more);
            self.taken.pop_front();
        }
        deliveries
    }

    /// Gives back what has not gone out, and ends the subscription.
    fn end(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.abort();
        }
        let Some(subscription) = self.subscription.take() else {
            return;
        };
        let mut unsent = mem::take(&mut self.unwanted);
        for event in self.taken.drain(..) {
            if let Event::Deliveries(deliveries) = event {
                unsent.extend(deliveries.iter().map(|d| d.lease_id));
            }
        }
        subscription.leave(unsent);
    }
}

impl Stream for DeliveryStream {
    type Item = Result<DeliveryFrame, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.subscription.is_none() {
            return Poll::Ready(None);
        }
        match ready!(self.poll_frame(context)) {
            Next::Frame(frame) => {
                let next = Instant::now() + limits::HEARTBEAT_INTERVAL;
                self.heartbeat.as_mut().reset(next);
                Poll::Ready(Some(Ok(frame)))
            }
            Next::End(status) => {
                self.end();
                Poll::Ready(status.map(Err))
            }
        }
    }
}

impl Drop for DeliveryStream {
    fn drop(&mut self) {
        self.end();
    }
}

fn bytes_of(deliveries: &[Delivery]) -> u64 {
    deliveries
        .iter()
        .map(|delivery| u64::from(delivery.message.size()))
        .sum()
}

fn read(encoded: Bytes) -> Result<v1::SubscribeRequest, Status> {
    Looked::over(encoded)?.read()
}

/// What a settle takes in the engine, with its results, about.
fn bytes_of_settle(settlements: &[Settlement], invalid: usize) -> usize {
    let texts = settlements
        .iter()
        .map(|settlement| match &settlement.verdict {
            Verdict::Nack(nack) => size_of::<Nack>() + nack.error.len(),
            Verdict::DeadLetter(why) => {
                size_of::<DeadLetterReason>() + why.reason.len() + why.description.len()
            }
            Verdict::Ack | Verdict::Release | Verdict::Extend(_) => 0,
        });
    (1 + settlements.len() + invalid) * limits::RESULT_BYTES + texts.sum::<usize>()
}

fn first_open(request: Option<v1::SubscribeRequest>) -> Result<v1::Open, InvalidField> {
    match request.and_then(|request| request.kind) {
        Some(subscribe_request::Kind::Open(open)) => Ok(open),
        _ => Err(InvalidField::new(
            "open",
            "must be set in the first request of a stream",
        )),
    }
}

/// Why no more is read of what the consumer says.
#[derive(Debug)]
enum End {
    /// It says what cannot be, or has gone.
    Wrong(Status),
    /// It takes no results, and what it says lies in the way of others.
    InTheWay(Status),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Wrong(status)
    }
}

/// Hands on what the consumer settles.
struct HandOn {
    settler: Settler,
    unanswered: Arc<Unanswered>,
    /// That of the subscription, as far as it is results.
    answer: Answer,
    /// That of its requests.
    arrival: Option<Arrival>,
}

impl HandOn {
    /// Until it has said its last.
    async fn read_settles(self, mut requests: Requests) -> Result<(), End> {
        let mut is_answered = true;
        let read = self.hand_on(&mut requests, &mut is_answered).await;
        // Whatever else has come of it lies in nobody's way.
        drop(requests);
        if !is_answered && !matches!(read, Err(End::InTheWay(_))) {
            self.unanswered.lock().push_back(Awaited::Last);
            if !self.settler.settle(Vec::new()).await {
                return Err(shutting_down().into());
            }
        }
        read
    }

    async fn hand_on(&self, requests: &mut Requests, is_answered: &mut bool) -> Result<(), End> {
        while let Some(encoded) = requests.next().await? {
            let settle = match read(encoded)?.kind {
                Some(subscribe_request::Kind::Settle(settle)) => settle,
                Some(subscribe_request::Kind::Drain(_)) => {
                    if !self.settler.drain().await {
                        return Err(shutting_down().into());
                    }
                    continue;
                }
                Some(subscribe_request::Kind::Open(_)) => {
                    let problem = "must be set in the first request of a stream only";
                    return Err(Status::from(InvalidField::new("open", problem)).into());
                }
                None => {
                    let error = InvalidField::new("settle", "or `drain` must be set");
                    return Err(Status::from(error).into());
                }
            };
            let without_results = settle.without_results;
            let (settlements, invalid) = settlements_from_proto(settle).map_err(Status::from)?;
            let along = Along::new(
                self.answer
                    .hold(bytes_of_settle(&settlements, invalid.len())),
            );
            *is_answered = !without_results || !invalid.is_empty();
            if *is_answered {
                self.unanswered.lock().push_back(if without_results {
                    Awaited::Refusals(invalid)
                } else {
                    Awaited::Results(invalid)
                });
            }
            let without = !*is_answered;
            // It waits while many before it are not answered.
            let is_taken = tokio::select! {
                biased;
                is_taken = self.settler.settle_with(settlements, without, along) => is_taken,
                status = in_the_way(self.arrival.as_ref()) => return Err(End::InTheWay(status)),
            };
            if !is_taken {
                return Err(shutting_down().into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use courser_frames::in_frame;
    use courser_store::MemoryStore;
    use prost::Message as _;
    use tokio::time::sleep;
    use tokio_stream::StreamExt as _;
    use tonic::{Code, body::Body};

    use super::*;
    use crate::{
        answers::Answers,
        arrival::{Arrivals, Calls, tests::body_of},
        connection::Way,
    };

    fn request(kind: subscribe_request::Kind) -> Vec<u8> {
        let request = v1::SubscribeRequest { kind: Some(kind) };
        in_frame(&request.encode_to_vec()).into()
    }

    fn settle(lease_id: u64) -> Vec<u8> {
        request(subscribe_request::Kind::Settle(v1::Settle {
            ack: vec![lease_id],
            ..v1::Settle::default()
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_consumer_that_takes_no_results_ends_when_others_need_the_room() {
        let store = Arc::new(MemoryStore::default());
        let handle = courser_engine::start(store, &Default::default()).unwrap();
        let created = handle.create_queue("q".to_owned(), Default::default());
        created.await.unwrap();
        // The last request of the stream is more than half of what there may be of all.
        let arrivals = Arrivals::new(30);
        let (frames, body) = body_of(&arrivals, Calls::Subscribe);
        let arrival = Some(body.arrival());
        let open = v1::Open {
            queue: "q".to_owned(),
            ..v1::Open::default()
        };
        frames.send(request(subscribe_request::Kind::Open(open)));
        let answer = Answers::default().begin(Way::default());
        let requests = Requests::new(Body::new(body), 1_000);
        let (cut, leaving) = (Cut::default(), Leaving::default());
        let started = DeliveryStream::start(&handle, requests, cut, leaving, answer, arrival);
        let mut stream = started.await.unwrap();
        let mut many: Vec<u8> = (1..=100).flat_map(settle).collect();
        many.pop();
        frames.send(many);
        // All of them lie there or are with the engine.
        sleep(Duration::from_secs(1)).await;
        assert!(arrivals.waiting() > 1_000);
        assert!(arrivals.held() > 15);
        // The engine has a thread of its own, which keeps to no clock of ours.
        let mut looks = 0;
        while (arrivals.waiting(), arrivals.held()) != (0, 0) {
            looks += 1;
            assert!(looks < 3_000_000, "it stays");
            sleep(Duration::from_millis(100)).await;
        }
        // What was answered is not waited for.
        let end = loop {
            match stream.next().await.unwrap() {
                Ok(frame) => assert!(!matches!(frame, DeliveryFrame::Heartbeat)),
                Err(status) => break status,
            }
        };
        assert_eq!(end.code(), Code::ResourceExhausted);
        assert!(stream.next().await.is_none());
        handle.shutdown().await;
    }
}
