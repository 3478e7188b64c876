//! The Broker service as it is mounted: its requests are read, and its answers written, by `wire`. The
//! generated service has a codec that does neither.

use std::{
    convert::Infallible,
    future::Future,
    sync::Arc,
    task::{Context, Poll},
};

use courser_engine::Cut;
use courser_proto::v1::{self, broker_server::SERVICE_NAME};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codec::{Codec, Decoder},
    codegen::{BoxFuture, Service, http},
    server::{Grpc, NamedService, StreamingService, UnaryService},
};

use super::{
    BrokerService, confirms::ConfirmStream, deliveries::DeliveryStream, words::StreamInOurWords,
};
use crate::{
    connection::Way,
    leaving::Leaving,
    limits,
    wire::{
        DeliveryFrame, Numbered, NumberedDecoder, ToldConfirms, WireCodec, WireDecoder, WireMessage,
    },
};

/// The Broker service.
#[derive(Clone, Debug)]
pub(crate) struct BrokerFace {
    broker: Arc<BrokerService>,
    request_bytes_max: usize,
}

type Answered = BoxFuture<http::Response<Body>, Infallible>;

impl BrokerFace {
    pub(crate) fn new(broker: BrokerService, message_bytes_max: usize) -> Self {
        Self {
            broker: Arc::new(broker),
            request_bytes_max: limits::request_bytes_max(message_bytes_max),
        }
    }

    fn streams(&self) -> Streams {
        Streams {
            broker: Arc::clone(&self.broker),
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
    const NAME: &'static str = SERVICE_NAME;
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
                self.unary(request, async |broker, wanted| broker.publish(wanted).await)
            }
            "/courser.v1.Broker/PublishStream" => {
                let mut grpc = self.grpc::<_, NumberedDecoder>();
                let method = PublishStream(self.streams());
                Box::pin(async move { Ok(grpc.streaming(method, request).await) })
            }
            "/courser.v1.Broker/Subscribe" => {
                let mut grpc = self.grpc::<_, WireDecoder<v1::SubscribeRequest>>();
                let leaving = Leaving::default();
                let method = Subscribe {
                    streams: self.streams(),
                    cut: cut_of(&request),
                    leaving: leaving.clone(),
                };
                leaving.attach(Box::pin(async move {
                    Ok(grpc.streaming(method, request).await)
                }))
            }
            "/courser.v1.Broker/Pull" => {
                let (cut, leaving) = (cut_of(&request), Leaving::default());
                let kept = leaving.clone();
                leaving.attach(self.unary(request, move |broker, wanted| {
                    let (cut, kept) = (cut.clone(), kept.clone());
                    async move { broker.pull(wanted, cut, kept).await }
                }))
            }
            "/courser.v1.Broker/Settle" => {
                self.unary(request, async |broker, wanted| broker.settle(wanted).await)
            }
            _ => {
                let unknown = Status::unimplemented("there is no such method");
                Box::pin(async move { Ok(unknown.into_http()) })
            }
        }
    }
}

/// To end the connection that a request came over.
fn cut_of(request: &http::Request<Body>) -> Cut {
    let way = request.extensions().get::<Way>();
    way.map(Way::cut).unwrap_or_default()
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
#[derive(Clone)]
struct Streams {
    broker: Arc<BrokerService>,
    request_bytes_max: usize,
}

impl Streams {
    fn answer<S>(self, inner: S) -> Response<StreamInOurWords<S>> {
        Response::new(StreamInOurWords {
            inner,
            request_bytes_max: self.request_bytes_max,
            failure: self.broker.failure().clone(),
        })
    }
}

struct PublishStream(Streams);

impl StreamingService<Numbered> for PublishStream {
    type Response = ToldConfirms;
    type ResponseStream = StreamInOurWords<ConfirmStream>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Streaming<Numbered>>) -> Self::Future {
        let streams = self.0.clone();
        let stream = streams.broker.publish_stream(request.into_inner());
        Box::pin(async move { Ok(streams.answer(stream)) })
    }
}

struct Subscribe {
    streams: Streams,
    cut: Cut,
    leaving: Leaving,
}

impl StreamingService<v1::SubscribeRequest> for Subscribe {
    type Response = DeliveryFrame;
    type ResponseStream = StreamInOurWords<DeliveryStream>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Streaming<v1::SubscribeRequest>>) -> Self::Future {
        let streams = self.streams.clone();
        let (cut, leaving) = (self.cut.clone(), self.leaving.clone());
        Box::pin(async move {
            let requests = request.into_inner();
            let stream = streams.broker.subscribe(requests, cut, leaving).await?;
            Ok(streams.answer(stream))
        })
    }
}
