//! The Broker service as it is mounted: the generated one, but for its two streams, whose answers are
//! written by `wire`.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use courser_proto::v1::{self, broker_server::BrokerServer};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codegen::{BoxFuture, Service, http},
    server::{Grpc, NamedService, StreamingService},
};

use super::{
    BrokerService, confirms::ConfirmStream, deliveries::DeliveryStream, words::StreamInOurWords,
};
use crate::{
    limits,
    wire::{ConfirmFrame, DeliveryFrame, WireCodec},
};

/// The Broker service.
#[derive(Clone, Debug)]
pub(crate) struct BrokerFace {
    broker: Arc<BrokerService>,
    /// Everything but the two streams.
    generated: BrokerServer<BrokerService>,
    request_bytes_max: usize,
    answer_bytes_max: usize,
}

impl BrokerFace {
    pub(crate) fn new(broker: BrokerService, message_bytes_max: usize) -> Self {
        let broker = Arc::new(broker);
        let request_bytes_max = limits::request_bytes_max(message_bytes_max);
        let answer_bytes_max = limits::answer_bytes_max(message_bytes_max);
        let generated = BrokerServer::from_arc(Arc::clone(&broker))
            .max_decoding_message_size(request_bytes_max)
            .max_encoding_message_size(answer_bytes_max);
        Self {
            broker,
            generated,
            request_bytes_max,
            answer_bytes_max,
        }
    }

    fn streams(&self) -> Streams {
        Streams {
            broker: Arc::clone(&self.broker),
            request_bytes_max: self.request_bytes_max,
        }
    }

    fn grpc<Answer, Wanted>(&self) -> Grpc<WireCodec<Answer, Wanted>>
    where
        WireCodec<Answer, Wanted>: tonic::codec::Codec,
    {
        Grpc::new(WireCodec::default()).apply_max_message_size_config(
            Some(self.request_bytes_max),
            Some(self.answer_bytes_max),
        )
    }
}

impl NamedService for BrokerFace {
    const NAME: &'static str = <BrokerServer<BrokerService> as NamedService>::NAME;
}

impl Service<http::Request<Body>> for BrokerFace {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match request.uri().path() {
            "/courser.v1.Broker/PublishStream" => {
                let (mut grpc, method) = (self.grpc(), PublishStream(self.streams()));
                Box::pin(async move { Ok(grpc.streaming(method, request).await) })
            }
            "/courser.v1.Broker/Subscribe" => {
                let (mut grpc, method) = (self.grpc(), Subscribe(self.streams()));
                Box::pin(async move { Ok(grpc.streaming(method, request).await) })
            }
            _ => self.generated.call(request),
        }
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
        })
    }
}

struct PublishStream(Streams);

impl StreamingService<v1::PublishStreamRequest> for PublishStream {
    type Response = ConfirmFrame;
    type ResponseStream = StreamInOurWords<ConfirmStream>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Streaming<v1::PublishStreamRequest>>) -> Self::Future {
        let streams = self.0.clone();
        let stream = streams.broker.start_publish_stream(request.into_inner());
        Box::pin(async move { Ok(streams.answer(stream)) })
    }
}

struct Subscribe(Streams);

impl StreamingService<v1::SubscribeRequest> for Subscribe {
    type Response = DeliveryFrame;
    type ResponseStream = StreamInOurWords<DeliveryStream>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Streaming<v1::SubscribeRequest>>) -> Self::Future {
        let streams = self.0.clone();
        Box::pin(async move {
            let stream = streams.broker.start_subscribe(request.into_inner()).await?;
            Ok(streams.answer(stream))
        })
    }
}
