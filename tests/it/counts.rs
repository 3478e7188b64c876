//! A request with too many of something is refused before it is decoded, for decoded it is two hundred
//! times as large. Behind the many stands a broken byte, which only who decodes them would find.

use std::marker::PhantomData;

use bytes::{BufMut as _, Bytes};
use courser_proto::v1::{
    CreateQueueRequest, Message, Nack, PublishRequest, PublishStreamRequest, PublishStreamResponse,
    Settle, SettleRequest, SubscribeRequest, SubscribeResponse, subscribe_request,
};
use prost::Message as _;
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
};

use crate::harness::{Broker, assert_refused, message, open, within};

/// Sends bytes as they are.
struct Raw<Answer>(PhantomData<Answer>);

impl<Answer: prost::Message + Default + 'static> Codec for Raw<Answer> {
    type Encode = Bytes;
    type Decode = Answer;
    type Encoder = Raw<()>;
    type Decoder = Self;

    fn encoder(&mut self) -> Raw<()> {
        Raw(PhantomData)
    }

    fn decoder(&mut self) -> Self {
        Self(PhantomData)
    }
}

impl Encoder for Raw<()> {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl<Answer: prost::Message + Default> Decoder for Raw<Answer> {
    type Item = Answer;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Answer>, Status> {
        let answer = Answer::decode(buffer);
        answer
            .map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }
}

/// Broken, but whole on the wire.
fn broken(request: &impl prost::Message) -> Bytes {
    let mut bytes = request.encode_to_vec();
    bytes.push(0xff);
    bytes.into()
}

fn messages(count: usize) -> Vec<Message> {
    vec![Message::default(); count]
}

fn settle(nacks: usize) -> Settle {
    Settle {
        nack: vec![Nack::default(); nacks],
        ..Default::default()
    }
}

/// The refusal of a call.
async fn call(broker: &Broker, path: &'static str, request: Bytes) -> Status {
    let mut grpc = Grpc::new(broker.channel());
    grpc.ready().await.unwrap();
    let path = PathAndQuery::from_static(path);
    let answer = grpc.unary(Request::new(request), path, Raw::<()>(PhantomData));
    within("an answer", answer).await.unwrap_err()
}

#[tokio::test]
async fn a_call_with_too_many_of_something_is_refused_before_it_is_decoded() {
    let broker = Broker::start().await;
    let publish = PublishRequest {
        messages: messages(1_001),
        ..Default::default()
    };
    let path = "/courser.v1.Broker/Publish";
    let refused = call(&broker, path, broken(&publish)).await;
    assert_refused(&refused, Code::InvalidArgument, "messages");
    assert!(refused.message().contains("has 1001"), "{refused:?}");

    let settle = SettleRequest {
        settle: Some(settle(10_001)),
    };
    let path = "/courser.v1.Broker/Settle";
    let refused = call(&broker, path, broken(&settle)).await;
    assert_refused(&refused, Code::InvalidArgument, "settle");
}

#[tokio::test]
async fn a_subscription_that_settles_too_much_at_once_ends() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let open = SubscribeRequest {
        kind: Some(subscribe_request::Kind::Open(open("orders"))),
    };
    let settle = SubscribeRequest {
        kind: Some(subscribe_request::Kind::Settle(settle(10_001))),
    };
    let requests = tokio_stream::iter([open.encode_to_vec().into(), broken(&settle)]);
    let mut grpc = Grpc::new(broker.channel());
    grpc.ready().await.unwrap();
    let path = PathAndQuery::from_static("/courser.v1.Broker/Subscribe");
    let raw = Raw::<SubscribeResponse>(PhantomData);
    let answers = grpc.streaming(Request::new(requests), path, raw).await;
    let end = within("the end", answers.unwrap().into_inner().message()).await;
    assert_refused(&end.unwrap_err(), Code::InvalidArgument, "settle");
}

#[tokio::test]
async fn a_publish_stream_refuses_too_many_messages_by_their_number_and_goes_on() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let request = |number, messages| PublishStreamRequest {
        number,
        messages,
        ..Default::default()
    };
    let requests = tokio_stream::iter([
        broken(&request(7, messages(1_001))),
        request(8, vec![message("orders", "a")])
            .encode_to_vec()
            .into(),
    ]);
    let mut grpc = Grpc::new(broker.channel());
    grpc.ready().await.unwrap();
    let path = PathAndQuery::from_static("/courser.v1.Broker/PublishStream");
    let raw = Raw::<PublishStreamResponse>(PhantomData);
    let answers = grpc.streaming(Request::new(requests), path, raw).await;
    let mut answers = answers.unwrap().into_inner();
    let mut confirms = Vec::new();
    while let Some(answer) = within("a confirm", answers.message()).await.unwrap() {
        confirms.extend(answer.confirms);
    }
    let [refused, taken] = &confirms[..] else {
        panic!("{confirms:?}");
    };
    assert_eq!((refused.number, taken.number), (7, 8));
    assert!(taken.error.is_none());
    let error = refused.error.as_ref().unwrap();
    assert_eq!(
        (error.code, error.reason.as_str(), error.message.as_str()),
        (
            Code::InvalidArgument.into(),
            "INVALID_FIELD",
            "messages must have at most 1000 messages, has 1001"
        )
    );
}

#[tokio::test]
async fn a_stream_takes_no_requests_that_are_compressed() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let begin = async |encoding: &'static str| {
        let open = SubscribeRequest {
            kind: Some(subscribe_request::Kind::Open(open("orders"))),
        };
        let mut subscribe = Request::new(tokio_stream::iter([open.encode_to_vec().into()]));
        let mut publish = Request::new(tokio_stream::empty());
        for metadata in [subscribe.metadata_mut(), publish.metadata_mut()] {
            metadata.insert("grpc-encoding", encoding.parse().unwrap());
        }
        let mut grpc = Grpc::new(broker.channel());
        grpc.ready().await.unwrap();
        let path = PathAndQuery::from_static("/courser.v1.Broker/Subscribe");
        let raw = Raw::<SubscribeResponse>(PhantomData);
        let subscribed = grpc.streaming(subscribe, path, raw).await.map(drop);
        grpc.ready().await.unwrap();
        let path = PathAndQuery::from_static("/courser.v1.Broker/PublishStream");
        let raw = Raw::<PublishStreamResponse>(PhantomData);
        let published = grpc.streaming(publish, path, raw).await.map(drop);
        [subscribed, published]
    };
    for begun in begin("identity").await {
        begun.unwrap();
    }
    for begun in begin("gzip").await {
        let refused = begun.unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented);
        assert!(refused.message().contains("gzip"), "{refused:?}");
        let accepted = refused.metadata().get("grpc-accept-encoding").unwrap();
        assert_eq!(accepted, "identity");
    }
}

#[tokio::test]
async fn administration_takes_no_more_than_it_can_need() {
    let broker = Broker::start().await;
    let request = CreateQueueRequest {
        name: "x".repeat(1024 * 1024),
        options: None,
    };
    let refused = broker.admin.clone().create_queue(request).await;
    let refused = refused.unwrap_err();
    assert_refused(&refused, Code::InvalidArgument, "1048576 bytes");
}
