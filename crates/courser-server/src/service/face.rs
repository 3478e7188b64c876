//! The services as they are mounted. Requests of Broker are read, and its answers written, by `wire`: the generated service has
//! a codec that does neither. So are those of WatchStats, for tonic's encoder keeps memory from one answer to the next.

use std::{
    convert::Infallible,
    future::Future,
    sync::Arc,
    task::{Context, Poll},
};

use courser_engine::Failure;
use courser_proto::v1::{
    self,
    admin_server::{self, Admin as _, AdminServer},
    broker_server,
};
use tokio_stream::Stream;
use tonic::{
    Request, Response, Status,
    body::Body,
    codec::{Codec, Decoder},
    codegen::{BoxFuture, Service, http},
    metadata::{MetadataMap, MetadataValue},
    server::{Grpc, NamedService, UnaryService},
};

use super::{AdminService, BrokerService, words::StreamInOurWords};
use crate::{
    answers::Answers,
    arrival::Arrival,
    connection::Way,
    leaving::Leaving,
    limits,
    status::more_than_one,
    wire::{AnswerBody, Requests, WireCodec, WireDecoder, WireMessage},
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

    fn grpc<Answer, Reader>(&self) -> Grpc<WireCodec<Answer, Reader>>
    where
        WireCodec<Answer, Reader>: Codec,
    {
        Grpc::new(WireCodec::default()).apply_max_message_size_config(
            Some(self.request_bytes_max),
            Some(limits::ANSWER_BYTES_MAX),
        )
    }

    /// The same, counted.
    fn counted(&self, way: Way, answered: Answered) -> Answered {
        let answers = self.answers.clone();
        Box::pin(async move {
            let answer = answered.await?;
            Ok(answer.map(|body| Body::new(answers.count(way, body))))
        })
    }

    /// Answers a call of a method with one request and one answer.
    fn unary<Wanted, Answer, Called>(
        &self,
        request: http::Request<Body>,
        method: impl Fn(Arc<BrokerService>, Wanted) -> Called + Send + Sync + 'static,
    ) -> Answered
    where
        Wanted: Send + 'static,
        WireDecoder<Wanted>: Decoder<Item = Wanted, Error = Status> + Default,
        Answer: WireMessage + Send + Sync + 'static,
        Called: Future<Output = Result<Answer, Status>> + Send + 'static,
    {
        let broker = Arc::clone(&self.broker);
        let method = Unary(move |wanted| method(Arc::clone(&broker), wanted));
        let mut grpc = self.grpc::<Answer, WireDecoder<Wanted>>();
        Box::pin(async move { Ok(grpc.unary(method, request).await) })
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
                let way = Way::of(request.extensions());
                let answered =
                    self.unary(request, async |broker, wanted| broker.publish(wanted).await);
                self.counted(way, answered)
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
                leaving.attach(self.unary(request, move |broker, wanted| {
                    let (cut, kept) = (cut.clone(), kept.clone());
                    async move { broker.pull(wanted, cut, kept).await }
                }))
            }
            "/courser.v1.Broker/Settle" => {
                let way = Way::of(request.extensions());
                let answered =
                    self.unary(request, async |broker, wanted| broker.settle(wanted).await);
                self.counted(way, answered)
            }
            _ => {
                let unknown = Status::unimplemented("there is no such method");
                Box::pin(async move { Ok(unknown.into_http()) })
            }
        }
    }
}

struct Unary<Method>(Method);

impl<Wanted, Answer, Called, Method> UnaryService<Wanted> for Unary<Method>
where
    Method: FnMut(Wanted) -> Called,
    Called: Future<Output = Result<Answer, Status>> + Send + 'static,
    Answer: 'static,
{
    type Response = Answer;
    type Future = BoxFuture<Response<Answer>, Status>;

    fn call(&mut self, request: Request<Wanted>) -> Self::Future {
        let called = (self.0)(request.into_inner());
        Box::pin(async move { called.await.map(Response::new) })
    }
}

/// What the two streams need.
struct Streams {
    broker: Arc<BrokerService>,
    answers: Answers,
    request_bytes_max: usize,
}

impl Streams {
    fn publish(&self, request: http::Request<Body>) -> Result<Body, Status> {
        let arrival = request.extensions().get::<Arrival>().cloned();
        let answer = self.answers.begin(Way::of(request.extensions()));
        let requests = self.requests(request)?;
        let confirms = self
            .broker
            .publish_stream(requests, answer.hold(0), arrival);
        Ok(self.answer(confirms, Leaving::counted(answer)))
    }

    async fn subscribe(&self, request: http::Request<Body>) -> Result<Body, Status> {
        let way = Way::of(request.extensions());
        let (cut, answer) = (way.cut(), self.answers.begin(way));
        let requests = self.requests(request)?;
        let leaving = Leaving::default();
        let subscribing = self
            .broker
            .subscribe(requests, cut, leaving.clone(), answer);
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

/// The Admin service.
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

    async fn watch(self, request: http::Request<Body>) -> Result<Body, Status> {
        let (parts, body) = request.into_parts();
        check_encoding(&parts.headers)?;
        let mut requests = Requests::new(body, limits::ADMIN_REQUEST_BYTES_MAX);
        let wanted = requests.next::<v1::WatchStatsRequest>().await?;
        let wanted = wanted.ok_or_else(|| Status::internal("it has no message"))?;
        if requests.next::<v1::WatchStatsRequest>().await?.is_some() {
            return Err(more_than_one());
        }
        drop(requests);
        let wanted = Request::from_parts(MetadataMap::new(), parts.extensions, wanted);
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
        if request.uri().path() == "/courser.v1.Admin/WatchStats" {
            let face = self.clone();
            return Box::pin(async move { Ok(in_http(face.watch(request).await)) });
        }
        self.generated.call(request)
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
