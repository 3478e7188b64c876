//! The services as they are mounted. Requests of Broker are read, and its answers written, by `wire`: the generated service has
//! a codec that does neither. So are the answers of WatchStats, for tonic's encoder keeps memory from one to the next.

use std::{
    convert::Infallible,
    future::Future,
    sync::Arc,
    task::{Context, Poll},
};

use axum::body::Body as WholeBody;
use courser_engine::{Failure, tasks};
use courser_frames::in_frame;
use courser_proto::v1::{
    self,
    admin_server::{self, Admin as _, AdminServer},
    broker_server,
};
use tokio::sync::OwnedSemaphorePermit;
use tokio_stream::Stream;
use tonic::{
    Request, Status,
    body::Body,
    codegen::{BoxFuture, Service, http},
    metadata::{MetadataMap, MetadataValue},
    server::NamedService,
};

use super::{AdminService, BrokerService, words::StreamInOurWords};
use crate::{
    answers::Answers,
    arrival::{AdminCall, Arrival, room},
    connection::Way,
    leaving::Leaving,
    limits,
    status::internal,
    wire::{AnswerBody, Looked, Requests, WireMessage, WireRequest, read_plain},
};

/// In which encoding the messages of a call come, and which may come.
const ENCODING_HEADER: &str = "grpc-encoding";
const ACCEPT_HEADER: &str = "grpc-accept-encoding";
/// As they are.
const IDENTITY: &str = "identity";

/// The Broker service.
#[derive(Clone, Debug)]
pub(crate) struct BrokerFace {
    broker: Arc<BrokerService>,
    answers: Answers,
    request_bytes_max: usize,
}

type Answered = BoxFuture<http::Response<Body>, Infallible>;

impl BrokerFace {
    pub(crate) fn new(broker: BrokerService, answers: Answers, message_bytes_max: usize) -> Self {
        Self {
            broker: Arc::new(broker),
            answers,
            request_bytes_max: limits::request_bytes_max(message_bytes_max),
        }
    }

    fn streams(&self) -> Streams {
        Streams {
            broker: Arc::clone(&self.broker),
            answers: self.answers.clone(),
            request_bytes_max: self.request_bytes_max,
        }
    }

    /// The same, counted.
    fn counted(&self, way: Way, answered: Answered) -> Answered {
        let answers = self.answers.clone();
        Box::pin(async move {
            let answer = answered.await?;
            Ok(answer.map(|body| Body::new(answers.count(way, body))))
        })
    }

    /// Answers a call of a method with one request and one answer. When it has an arrival, the method waits for room for what becomes
    /// of the request. When it `goes_on` it does so also without its client.
    fn unary<Wanted, Answer, Called>(
        &self,
        request: http::Request<Body>,
        arrival: Option<Arrival>,
        goes_on: bool,
        method: impl FnOnce(Arc<BrokerService>, Wanted) -> Called + Send + 'static,
    ) -> Answered
    where
        Wanted: WireRequest,
        Answer: WireMessage + Send + Unpin + 'static,
        Called: Future<Output = Result<Answer, Status>> + Send + 'static,
    {
        let (broker, max) = (Arc::clone(&self.broker), self.request_bytes_max);
        Box::pin(async move {
            let answered = async {
                check_encoding(request.headers())?;
                let requests = Requests::new(request.into_body(), max);
                let looked = Looked::<Wanted>::over(requests.only().await?)?;
                let room = room(arrival.as_ref(), looked.bytes()).await;
                // It is read where it is carried out, at once: what prost makes of it is much more than what the engine gets.
                let answering = async move { method(broker, looked.read()?).await };
                if goes_on {
                    keep(room, answering).await
                } else {
                    // The engine has counted it, or it ends with this.
                    let _room = room;
                    answering.await
                }
            };
            let answer = answered.await.map(|answer| {
                let answer = tokio_stream::once(Ok(answer));
                Body::new(AnswerBody::new(answer, Leaving::default()))
            });
            Ok(in_http(answer))
        })
    }
}

impl NamedService for BrokerFace {
    const NAME: &'static str = broker_server::SERVICE_NAME;
}

impl Service<http::Request<Body>> for BrokerFace {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answered;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answered {
        match request.uri().path() {
            "/courser.v1.Broker/Publish" => {
                let (way, arrival) = way_and_arrival(&request);
                let publish = |broker: Arc<BrokerService>, wanted| async move {
                    broker.publish(wanted).await
                };
                self.counted(way, self.unary(request, arrival, false, publish))
            }
            "/courser.v1.Broker/PublishStream" => {
                let streams = self.streams();
                Box::pin(async move { Ok(in_http(streams.publish(request))) })
            }
            "/courser.v1.Broker/Subscribe" => {
                let streams = self.streams();
                Box::pin(async move { Ok(in_http(streams.subscribe(request).await)) })
            }
            "/courser.v1.Broker/Pull" => {
                let cut = Way::of(request.extensions()).cut();
                let leaving = Leaving::default();
                let kept = leaving.clone();
                // It is small once it is read, and may be answered late.
                leaving.attach(self.unary(request, None, false, move |broker, wanted| {
                    let (cut, kept) = (cut.clone(), kept.clone());
                    async move { broker.pull(wanted, cut, kept).await }
                }))
            }
            "/courser.v1.Broker/Settle" => {
                let (way, arrival) = way_and_arrival(&request);
                let settle =
                    |broker: Arc<BrokerService>, wanted| async move { broker.settle(wanted).await };
                self.counted(way, self.unary(request, arrival, true, settle))
            }
            _ => {
                let unknown = Status::unimplemented("there is no such method");
                Box::pin(async move { Ok(unknown.into_http()) })
            }
        }
    }
}

/// Awaits what was given room. The engine has it also when the client is gone or gives no more time: until it is answered it takes
/// the room, whether or not anybody waits for that.
async fn keep<Answer: Send + 'static>(
    room: Option<OwnedSemaphorePermit>,
    answering: impl Future<Output = Result<Answer, Status>> + Send + 'static,
) -> Result<Answer, Status> {
    let Some(room) = room else {
        return answering.await;
    };
    let kept = tasks::spawn("call", async move {
        let answer = answering.await;
        drop(room);
        answer
    });
    kept.await.unwrap_or_else(|_| Err(internal()))
}

fn way_and_arrival(request: &http::Request<Body>) -> (Way, Option<Arrival>) {
    let extensions = request.extensions();
    (Way::of(extensions), extensions.get().cloned())
}

/// What the two streams need.
struct Streams {
    broker: Arc<BrokerService>,
    answers: Answers,
    request_bytes_max: usize,
}

impl Streams {
    fn publish(&self, request: http::Request<Body>) -> Result<Body, Status> {
        let (way, arrival) = way_and_arrival(&request);
        let answer = self.answers.begin(way);
        let requests = self.requests(request)?;
        let confirms = self
            .broker
            .publish_stream(requests, answer.hold(0), arrival);
        Ok(self.answer(confirms, Leaving::counted(answer)))
    }

    async fn subscribe(&self, request: http::Request<Body>) -> Result<Body, Status> {
        let (way, arrival) = way_and_arrival(&request);
        let (cut, answer) = (way.cut(), self.answers.begin(way));
        let requests = self.requests(request)?;
        let leaving = Leaving::default();
        let subscribing = self
            .broker
            .subscribe(requests, cut, leaving.clone(), answer, arrival);
        Ok(self.answer(subscribing.await?, leaving))
    }

    /// The requests of a stream, none of them compressed.
    fn requests(&self, request: http::Request<Body>) -> Result<Requests, Status> {
        check_encoding(request.headers())?;
        Ok(Requests::new(request.into_body(), self.request_bytes_max))
    }

    fn answer<S, Answer>(&self, inner: S, leaving: Leaving) -> Body
    where
        S: Stream<Item = Result<Answer, Status>> + Send + Unpin + 'static,
        Answer: WireMessage + Send + Unpin + 'static,
    {
        let stream = StreamInOurWords {
            inner,
            request_bytes_max: self.request_bytes_max,
            failure: self.broker.failure().clone(),
        };
        Body::new(AnswerBody::new(stream, leaving))
    }
}

/// The Admin service: the generated one, but for WatchStats.
#[derive(Clone, Debug)]
pub(crate) struct AdminFace {
    admin: Arc<AdminService>,
    generated: AdminServer<AdminService>,
    failure: Failure,
}

impl AdminFace {
    pub(crate) fn new(admin: AdminService, failure: Failure) -> Self {
        let admin = Arc::new(admin);
        Self {
            generated: AdminServer::from_arc(Arc::clone(&admin))
                .max_decoding_message_size(limits::ADMIN_REQUEST_BYTES_MAX)
                .max_encoding_message_size(limits::ANSWER_BYTES_MAX),
            admin,
            failure,
        }
    }

    /// The generated service begins with a request before its body has ended: it is given those that have ended, and changes when there is
    /// room for what becomes of them.
    async fn answer(
        mut self,
        kind: AdminCall,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, Status> {
        let (parts, body) = request.into_parts();
        check_encoding(&parts.headers)?;
        let requests = Requests::new(body, limits::ADMIN_REQUEST_BYTES_MAX);
        let encoded = requests.only().await?;
        if kind == AdminCall::Watch {
            let watching = self.watch(read_plain(encoded)?, parts.extensions);
            return Ok(in_http(watching.await));
        }
        let room = match kind {
            AdminCall::Change => {
                let becoming = encoded.len() * limits::ADMIN_GROWTH;
                room(parts.extensions.get(), becoming).await
            }
            AdminCall::Look | AdminCall::Watch => None,
        };
        let body = Body::new(WholeBody::from(in_frame(&encoded)));
        let answering = self.generated.call(http::Request::from_parts(parts, body));
        keep(room, async move {
            answering.await.map_err(|never| match never {})
        })
        .await
    }

    async fn watch(
        self,
        wanted: v1::WatchStatsRequest,
        extensions: http::Extensions,
    ) -> Result<Body, Status> {
        let wanted = Request::from_parts(MetadataMap::new(), extensions, wanted);
        let watched = self.admin.watch_stats(wanted).await?;
        let stream = StreamInOurWords {
            inner: watched.into_inner(),
            request_bytes_max: limits::ADMIN_REQUEST_BYTES_MAX,
            failure: self.failure,
        };
        Ok(Body::new(AnswerBody::new(stream, Leaving::default())))
    }
}

impl NamedService for AdminFace {
    const NAME: &'static str = admin_server::SERVICE_NAME;
}

impl Service<http::Request<Body>> for AdminFace {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answered;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answered {
        let Some(kind) = AdminCall::of(request.uri().path()) else {
            return self.generated.call(request);
        };
        let face = self.clone();
        Box::pin(async move {
            let answered = face.answer(kind, request).await;
            Ok(answered.unwrap_or_else(Status::into_http))
        })
    }
}

fn in_http(answered: Result<Body, Status>) -> http::Response<Body> {
    match answered {
        Ok(body) => {
            let mut answer = http::Response::new(body);
            let kind = http::HeaderValue::from_static("application/grpc");
            answer
                .headers_mut()
                .insert(http::header::CONTENT_TYPE, kind);
            answer
        }
        Err(status) => status.into_http(),
    }
}

/// Refuses requests that say that they are compressed, as tonic does for calls of the other kind.
fn check_encoding(headers: &http::HeaderMap) -> Result<(), Status> {
    let Some(encoding) = headers.get(ENCODING_HEADER) else {
        return Ok(());
    };
    if encoding == IDENTITY {
        return Ok(());
    }
    let encoding = String::from_utf8_lossy(encoding.as_bytes());
    let problem = format!("requests cannot be compressed with {encoding}; send them as they are");
    let mut status = Status::unimplemented(problem);
    let accepted = MetadataValue::from_static(IDENTITY);
    status.metadata_mut().insert(ACCEPT_HEADER, accepted);
    Err(status)
}
