//! What `tests/fuzz` reaches of the inside: thin wrappers around the readers of requests and of their
//! headers, the conversions and the writers of answers, built only for it.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use courser_core::{message::Message, options::QueueOptions};
use courser_engine::request::{
    Confirm, Delivery, Open, Peek, Publish, Redrive, Settled, Settlement,
};
use courser_proto::v1::{self, subscribe_response};
use http_body::Frame;
use tonic::{Code, Status, body::Body, codegen::http};

use crate::{
    arrival::{Arrivals, Arriving, Calls},
    connection::Way,
    convert::{self, InvalidField, InvalidSettlement},
    status::publish_error_to_proto,
    transport,
    wire::{
        ConfirmFrame, DeliveryFrame, Looked, LookedNumbered, Numbered, PulledFrame, Requests,
        WireMessage, WireRequest,
    },
};

/// A field that is outside its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its path.
    pub field: String,
    /// What is allowed, and what is there.
    pub problem: String,
}

impl From<InvalidField> for Refused {
    fn from(error: InvalidField) -> Self {
        Self {
            field: error.field,
            problem: error.problem,
        }
    }
}

/// The requests of the Broker service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of Publish.
    Publish,
    /// Of PublishStream.
    PublishStream,
    /// Of Subscribe.
    Subscribe,
    /// Of Settle.
    Settle,
    /// Of Pull.
    Pull,
}

/// A request that came.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Of Publish.
    Publish(v1::PublishRequest),
    /// Of PublishStream: its number, and the request unless it holds too much.
    Numbered(u64, Result<v1::PublishStreamRequest, Refused>),
    /// Of Subscribe.
    Subscribe(v1::SubscribeRequest),
    /// Of Settle.
    Settle(v1::SettleRequest),
    /// Of Pull.
    Pull(v1::PullRequest),
}

/// What came of the body of a call.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrived {
    /// Requests that were read, in order.
    pub requests: Vec<Request>,
    /// How the stream ended, if not as it should.
    pub failure: Option<(Code, String)>,
    /// The most that was held at once of requests that were not whole.
    pub held_most: usize,
    /// What was still held once the body was gone.
    pub held_after: usize,
}

/// A body that comes in pieces.
struct Pieces(VecDeque<Bytes>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Ready(self.0.pop_front().map(|data| Ok(Frame::data(data))))
    }
}

/// Lets a body of `kind` arrive in `pieces`, on the way that requests take: bounded by `held_max` while
/// they are not whole, cut into requests of at most `request_max` bytes, looked over, decoded.
#[must_use]
pub fn arrive(kind: Kind, pieces: Vec<Bytes>, request_max: usize, held_max: usize) -> Arrived {
    let arrivals = Arrivals::new(held_max);
    let calls = match kind {
        Kind::PublishStream => Calls::PublishStream,
        Kind::Publish => Calls::Publish,
        Kind::Settle => Calls::Settle,
        Kind::Subscribe => Calls::Subscribe,
        Kind::Pull => Calls::Pull,
    };
    let body = Arriving::new(
        Pieces(pieces.into()),
        arrivals.clone(),
        calls,
        &Way::default(),
    );
    let mut arrived = Arrived {
        requests: Vec::new(),
        failure: None,
        held_most: 0,
        held_after: 0,
    };
    let read = |encoded| match kind {
        Kind::Publish => read(encoded).map(Request::Publish),
        Kind::PublishStream => {
            let Numbered { number, request } = LookedNumbered::over(encoded).read()?;
            let request = request.map(|request| request.into_proto(number));
            Ok(Request::Numbered(number, request.map_err(Refused::from)))
        }
        Kind::Subscribe => read(encoded).map(Request::Subscribe),
        Kind::Settle => read(encoded).map(Request::Settle),
        Kind::Pull => read(encoded).map(Request::Pull),
    };
    let mut requests = Requests::new(Body::new(body), request_max);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        let next = requests.poll_next(&mut context);
        arrived.held_most = arrived.held_most.max(arrivals.held());
        let Poll::Ready(next) = next else {
            unreachable!("all of the body is there");
        };
        match next.and_then(|encoded| encoded.map(read).transpose()) {
            Ok(Some(request)) => arrived.requests.push(request),
            Ok(None) => break,
            Err(status) => {
                arrived.failure = Some((status.code(), status.message().to_owned()));
                break;
            }
        }
    }
    drop(requests);
    arrived.held_after = arrivals.held() + arrivals.waiting();
    arrived
}

fn read<R: WireRequest>(encoded: Bytes) -> Result<R, Status> {
    Looked::over(encoded)?.read()
}

/// Reads the value of `grpc-timeout`.
#[must_use]
pub fn time_given(timeout: &[u8]) -> Option<Duration> {
    transport::parse_time(timeout)
}

/// How long a handler may take when `grpc-timeout` is this. `None` when no header can be.
#[must_use]
pub fn handler_time(timeout: &[u8]) -> Option<Duration> {
    let timeout = http::HeaderValue::from_bytes(timeout).ok()?;
    let headers = http::HeaderMap::from_iter([(transport::TIMEOUT, timeout)]);
    Some(transport::time_of(&headers))
}

type Checked<T> = Result<T, Refused>;

/// A message as its publisher had it: nothing is known of where it went.
#[must_use]
pub fn message(message: &Message) -> v1::Message {
    v1::Message {
        position: 0,
        published_at: None,
        ..convert::message_to_proto(message)
    }
}

/// Converts a publish of payloads of at most `payload_bytes_max`.
///
/// # Errors
/// The field that is outside its limits; so below.
pub fn publish(request: v1::PublishRequest, payload_bytes_max: usize) -> Checked<Publish> {
    let v1::PublishRequest {
        messages,
        mandatory,
        durability,
    } = request;
    Ok(convert::publish_from_proto(
        messages,
        mandatory,
        durability,
        payload_bytes_max,
    )?)
}

/// Converts the opening of a subscription.
///
/// # Errors
/// The field.
pub fn open(open: v1::Open) -> Checked<Open> {
    Ok(convert::open_from_proto(open)?)
}

/// Converts a pull.
///
/// # Errors
/// The field.
pub fn pull(pull: v1::PullRequest) -> Checked<(Open, Duration)> {
    Ok(convert::pull_from_proto(pull)?)
}

/// Converts settlements, and those that are refused each by itself.
///
/// # Errors
/// The field.
pub fn settle(settle: v1::Settle) -> Checked<(Vec<Settlement>, Vec<InvalidSettlement>)> {
    Ok(convert::settlements_from_proto(settle)?)
}

/// Converts the name and the options of a new queue.
///
/// # Errors
/// The field.
pub fn new_queue(request: v1::CreateQueueRequest) -> Checked<(String, QueueOptions)> {
    let name = convert::new_queue_name_from_proto("name", request.name)?;
    Ok((
        name,
        convert::new_queue_options_from_proto(request.options)?,
    ))
}

/// Converts a change of a queue, and makes it.
///
/// # Errors
/// The field.
pub fn change_queue(
    request: v1::UpdateQueueRequest,
    options: &mut QueueOptions,
) -> Checked<String> {
    let name = convert::queue_name_from_proto("name", request.name)?;
    let change = convert::options_change_from_proto(request.options, request.update_mask)?;
    change(options);
    Ok(name)
}

/// The options of a queue as they are shown.
#[must_use]
pub fn show_options(options: &QueueOptions) -> v1::QueueOptions {
    convert::queue_options_to_proto(options)
}

/// Converts a peek.
///
/// # Errors
/// The field.
pub fn peek(request: v1::PeekEntriesRequest) -> Checked<(String, Peek)> {
    Ok(convert::peek_from_proto(request)?)
}

/// Converts a redrive.
///
/// # Errors
/// The field.
pub fn redrive(request: v1::RedriveEntriesRequest) -> Checked<Redrive> {
    Ok(convert::redrive_from_proto(request)?)
}

/// Converts the page of a list: its prefix, after which name, and how many.
///
/// # Errors
/// The field.
pub fn page(request: v1::ListQueuesRequest) -> Checked<(String, Option<String>, usize)> {
    Ok(convert::page_from_proto(request)?)
}

/// Converts the names of queues to watch.
///
/// # Errors
/// The field.
pub fn watched(request: v1::WatchStatsRequest) -> Checked<Vec<String>> {
    Ok(convert::watched_from_proto(request)?)
}

/// An answer as it was written.
#[derive(Debug)]
pub struct Written {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// How many it had said there would be.
    pub measured: usize,
}

fn written(answer: &impl WireMessage) -> Written {
    let mut lengths = Vec::new();
    let measured = answer.measure(&mut lengths);
    let mut bytes = Vec::new();
    answer.write(&lengths, &mut bytes);
    Written { bytes, measured }
}

fn delivery_to_proto(delivery: &Delivery) -> v1::Delivery {
    v1::Delivery {
        lease_id: delivery.lease_id.0,
        attempt: delivery.attempt,
        lease_until: Some(convert::timestamp_to_proto(delivery.lease_until)),
        message: Some(convert::message_to_proto(&delivery.message)),
        dead_letter: convert::dead_letter_to_proto(delivery.note.as_deref()),
    }
}

/// The answer to a pull, and what it should say.
#[must_use]
pub fn write_pulled(deliveries: Vec<Delivery>) -> (Written, v1::PullResponse) {
    let expected = v1::PullResponse {
        deliveries: deliveries.iter().map(delivery_to_proto).collect(),
    };
    (written(&PulledFrame(deliveries)), expected)
}

/// Deliveries over a subscription, and what they should say.
#[must_use]
pub fn write_deliveries(deliveries: Vec<Delivery>) -> (Written, v1::SubscribeResponse) {
    let expected = v1::Deliveries {
        deliveries: deliveries.iter().map(delivery_to_proto).collect(),
    };
    let kind = Some(subscribe_response::Kind::Deliveries(expected));
    let written = written(&DeliveryFrame::Deliveries(deliveries));
    (written, v1::SubscribeResponse { kind })
}

/// The results of a settle over a subscription, and what they should say.
#[must_use]
pub fn write_settled(
    settled: Settled,
    invalid: Vec<InvalidSettlement>,
) -> (Written, v1::SubscribeResponse) {
    let expected = convert::settled_to_proto(&settled, &invalid);
    let kind = Some(subscribe_response::Kind::Settled(expected));
    let written = written(&DeliveryFrame::Settled(settled, invalid));
    (written, v1::SubscribeResponse { kind })
}

/// Confirms of a PublishStream, and what they should say.
#[must_use]
pub fn write_confirms(confirms: Vec<Confirm>) -> (Written, v1::PublishStreamResponse) {
    let expected = confirms.iter().map(|confirm| match &confirm.result {
        Ok(published) => v1::Confirm {
            number: confirm.number,
            results: convert::published_to_proto(published.clone()),
            error: None,
        },
        Err(error) => v1::Confirm {
            number: confirm.number,
            results: Vec::new(),
            error: Some(publish_error_to_proto(error)),
        },
    });
    let confirms_expected = expected.collect();
    let written = written(&ConfirmFrame(confirms));
    let expected = v1::PublishStreamResponse {
        confirms: confirms_expected,
    };
    (written, expected)
}
