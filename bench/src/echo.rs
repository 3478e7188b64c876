//! What gRPC itself carries: a server of Courser's contract that keeps nothing. Publishes go to the
//! next subscriber as they are, confirms leave at once, settlements are read and answered. No rule, no
//! disk, and the same bytes on the wire.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::SystemTime,
};

use courser_proto::v1::{
    self, Confirm, Deliveries, Delivery, Message, PublishResult, PublishStreamRequest,
    PublishStreamResponse, Settled, SubscribeRequest, SubscribeResponse,
    broker_server::{Broker, BrokerServer},
    subscribe_request, subscribe_response,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, transport::Server};

/// As Courser's own server has them.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
const FRAME_BYTES_MAX: u32 = 256 * 1024;
const MESSAGE_BYTES_MAX: usize = 72 * 1024 * 1024;
/// Batches on their way to one client; beyond that publishers wait.
const ON_WAY: usize = 16;
/// As long as the ids that Courser gives.
const ID: &str = "01931f2e-8a7c-7000-8000-000000000000";

pub(crate) async fn serve(address: SocketAddr) -> anyhow::Result<()> {
    let service = BrokerServer::new(Echo::default())
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    Server::builder()
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .add_service(service)
        .serve(address)
        .await?;
    Ok(())
}

type Answers<T> = ReceiverStream<Result<T, Status>>;
type Subscriber = mpsc::Sender<Result<SubscribeResponse, Status>>;

#[derive(Clone, Debug, Default)]
struct Echo(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Subscribers by queue, and whose turn it is.
    queues: Mutex<HashMap<String, (Vec<Subscriber>, usize)>>,
    position: AtomicU64,
}

impl Shared {
    /// One subscriber of each queue that is named `topic`, or `topic-` and a number.
    fn next_subscribers(&self, topic: &str) -> Vec<Subscriber> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let named = |queue: &str| {
            queue
                .strip_prefix(topic)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        queues
            .iter_mut()
            .filter(|(queue, _)| named(queue))
            .filter_map(|(_, (subscribers, turn))| {
                *turn = turn.wrapping_add(1);
                subscribers.get(*turn % subscribers.len().max(1)).cloned()
            })
            .collect()
    }

    fn subscribe(&self, queue: String, subscriber: Subscriber) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let (subscribers, _) = queues.entry(queue).or_default();
        subscribers.push(subscriber);
    }

    async fn take(&self, request: PublishStreamRequest) -> Confirm {
        let mut messages = request.messages;
        let count = messages.len() as u64;
        let first = self.position.fetch_add(count, Relaxed);
        let now = SystemTime::now().into();
        for (message, position) in messages.iter_mut().zip(first..) {
            ID.clone_into(&mut message.id);
            message.position = position;
            message.published_at = Some(now);
        }
        let topic = messages.first().map(|message| message.topic.clone());
        let mut subscribers = self.next_subscribers(&topic.unwrap_or_default());
        let queues = u32::try_from(subscribers.len()).unwrap_or(u32::MAX);
        let last = subscribers.pop();
        for subscriber in subscribers {
            // Who went away gets nothing.
            let _ = subscriber.send(Ok(deliveries(messages.clone()))).await;
        }
        if let Some(last) = last {
            let _ = last.send(Ok(deliveries(messages))).await;
        }
        let result = |position| PublishResult {
            position,
            id: ID.to_owned(),
            queues,
        };
        let results = if request.without_results { 0 } else { count };
        Confirm {
            number: request.number,
            results: (first..first + results).map(result).collect(),
            error: None,
        }
    }
}

fn deliveries(messages: Vec<Message>) -> SubscribeResponse {
    let delivery = |message: Message| Delivery {
        lease_id: message.position + 1,
        attempt: 1,
        lease_until: message.published_at,
        message: Some(message),
        dead_letter: None,
    };
    let deliveries = messages.into_iter().map(delivery).collect();
    SubscribeResponse {
        kind: Some(subscribe_response::Kind::Deliveries(Deliveries {
            deliveries,
        })),
    }
}

#[tonic::async_trait]
impl Broker for Echo {
    type PublishStreamStream = Answers<PublishStreamResponse>;
    type SubscribeStream = Answers<SubscribeResponse>;

    async fn publish_stream(
        &self,
        request: Request<Streaming<PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let (mut requests, shared) = (request.into_inner(), Arc::clone(&self.0));
        let (confirms, answers) = mpsc::channel(ON_WAY);
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                let response = PublishStreamResponse {
                    confirms: vec![shared.take(request).await],
                };
                if confirms.send(Ok(response)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn subscribe(
        &self,
        request: Request<Streaming<SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let mut requests = request.into_inner();
        let (subscriber, answers) = mpsc::channel(ON_WAY);
        // Before the answer: who has one gets what is published from then on.
        let Some(SubscribeRequest {
            kind: Some(subscribe_request::Kind::Open(open)),
        }) = requests.message().await?
        else {
            return Err(Status::invalid_argument("the first request must be open"));
        };
        self.0.subscribe(open.queue, subscriber.clone());
        tokio::spawn(async move {
            while let Ok(Some(SubscribeRequest { kind })) = requests.message().await {
                let Some(subscribe_request::Kind::Settle(settle)) = kind else {
                    continue;
                };
                if settle.without_results {
                    continue;
                }
                let settled = Settled {
                    ok: settle.ack,
                    refused: Vec::new(),
                };
                let response = SubscribeResponse {
                    kind: Some(subscribe_response::Kind::Settled(settled)),
                };
                if subscriber.send(Ok(response)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn publish(
        &self,
        _: Request<v1::PublishRequest>,
    ) -> Result<Response<v1::PublishResponse>, Status> {
        Err(Status::unimplemented("an echo has streams only"))
    }

    async fn pull(
        &self,
        _: Request<v1::PullRequest>,
    ) -> Result<Response<v1::PullResponse>, Status> {
        Err(Status::unimplemented("an echo has streams only"))
    }

    async fn settle(
        &self,
        _: Request<v1::SettleRequest>,
    ) -> Result<Response<v1::SettleResponse>, Status> {
        Err(Status::unimplemented("an echo has streams only"))
    }
}
