//! A broker with both faces, spoken to as the wire has it: what only the faces are to blame for.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use courser_engine::BrokerHandle;
use courser_proto::v1::{
    self, admin_client::AdminClient, broker_client::BrokerClient, subscribe_request,
    subscribe_response,
};
use courser_server::{ServeError, ServerOptions, serve};
use courser_store::MemoryStore;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_types::StatusExt as _;

struct Server {
    grpc: SocketAddr,
    http: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), ServeError>>,
}

impl Server {
    async fn start() -> Self {
        Self::start_on(MemoryStore::default()).await
    }

    async fn start_on(store: MemoryStore) -> Self {
        let handle: BrokerHandle =
            courser_engine::start(Arc::new(store), &Default::default()).unwrap();
        let grpc = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (grpc_at, http_at) = (grpc.local_addr().unwrap(), http.local_addr().unwrap());
        let shutdown = async move { drop(stopped.await) };
        let task = courser_engine::tasks::spawn(
            "server",
            serve(handle, ServerOptions::default(), grpc, Some(http), shutdown),
        );
        Self {
            grpc: grpc_at,
            http: http_at,
            stop: Some(stop),
            task,
        }
    }

    async fn channel(&self) -> Channel {
        let uri = format!("http://{}", self.grpc);
        Channel::from_shared(uri).unwrap().connect().await.unwrap()
    }

    async fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.http).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// Asks for the end and answers how long it took.
    async fn stop(&mut self) -> Duration {
        let start = Instant::now();
        self.stop.take().unwrap().send(()).unwrap();
        let ended = timeout(Duration::from_secs(10), &mut self.task).await;
        ended.expect("it ends within 10 s").unwrap().unwrap();
        start.elapsed()
    }
}

async fn create(channel: &Channel, name: &str) {
    let request = v1::CreateQueueRequest {
        name: name.to_owned(),
        options: None,
    };
    AdminClient::new(channel.clone())
        .create_queue(request)
        .await
        .unwrap();
}

fn message(topic: &str, payload: Vec<u8>) -> v1::Message {
    v1::Message {
        topic: topic.to_owned(),
        payload: payload.into(),
        ..v1::Message::default()
    }
}

async fn publish(channel: &Channel, topic: &str, count: usize, bytes: usize) {
    let messages = (0..count).map(|_| message(topic, vec![0; bytes])).collect();
    let request = v1::PublishRequest {
        messages,
        ..v1::PublishRequest::default()
    };
    let answer = BrokerClient::new(channel.clone())
        .publish(request)
        .await
        .unwrap();
    assert_eq!(answer.into_inner().results.len(), count);
}

async fn subscribe(
    channel: &Channel,
    queue: &str,
) -> (
    mpsc::Sender<v1::SubscribeRequest>,
    Streaming<v1::SubscribeResponse>,
) {
    let (sender, receiver) = mpsc::channel(16);
    let open = v1::Open {
        queue: queue.to_owned(),
        max_messages: 1_000,
        ..v1::Open::default()
    };
    let kind = Some(subscribe_request::Kind::Open(open));
    sender.send(v1::SubscribeRequest { kind }).await.unwrap();
    let stream = BrokerClient::new(channel.clone())
        .subscribe(ReceiverStream::new(receiver))
        .await;
    (sender, stream.unwrap().into_inner())
}

async fn deliveries(
    stream: &mut Streaming<v1::SubscribeResponse>,
    count: usize,
) -> Vec<v1::Delivery> {
    let mut deliveries = Vec::new();
    while deliveries.len() < count {
        if let Some(subscribe_response::Kind::Deliveries(more)) =
            stream.message().await.unwrap().unwrap().kind
        {
            deliveries.extend(more.deliveries);
        }
    }
    deliveries
}

fn settle(ack: Vec<u64>) -> v1::SubscribeRequest {
    let settle = v1::Settle {
        ack,
        ..v1::Settle::default()
    };
    v1::SubscribeRequest {
        kind: Some(subscribe_request::Kind::Settle(settle)),
    }
}

#[tokio::test]
async fn a_message_goes_through_both_streams() {
    let server = Server::start().await;
    let channel = server.channel().await;
    create(&channel, "orders").await;
    let requests = (1..=3).map(|number| v1::PublishStreamRequest {
        number,
        // The second one has no topic.
        messages: vec![message(
            if number == 2 { "" } else { "orders" },
            vec![1; 10],
        )],
        ..v1::PublishStreamRequest::default()
    });
    let requests: Vec<_> = requests.collect();
    let mut broker = BrokerClient::new(channel.clone());
    let answers = broker
        .publish_stream(tokio_stream::iter(requests))
        .await
        .unwrap();
    let mut answers = answers.into_inner();
    let mut confirms = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        confirms.extend(answer.confirms);
    }
    let numbers: Vec<_> = confirms
        .iter()
        .map(|c| (c.number, c.results.len()))
        .collect();
    assert_eq!(numbers, [(1, 1), (2, 0), (3, 1)]);
    let error = confirms[1].error.as_ref().unwrap();
    assert_eq!(error.message, "messages[0].topic must not be empty");

    let (requests, mut stream) = subscribe(&channel, "orders").await;
    let got = deliveries(&mut stream, 2).await;
    assert_eq!(
        got[0].message.as_ref().unwrap().id,
        confirms[0].results[0].id
    );
    let ids: Vec<_> = got.iter().map(|delivery| delivery.lease_id).collect();
    requests.send(settle(ids.clone())).await.unwrap();
    drop(requests);
    let last = stream.message().await.unwrap().unwrap().kind;
    let Some(subscribe_response::Kind::Settled(settled)) = last else {
        panic!("{last:?} is not what was settled");
    };
    assert_eq!(settled.ok, ids);
    assert!(
        stream.message().await.unwrap().is_none(),
        "the consumer has left"
    );
}

#[tokio::test]
async fn a_confirm_without_results_says_as_much_of_safety_and_of_mistakes() {
    let server = Server::start().await;
    let channel = server.channel().await;
    create(&channel, "orders").await;
    let request = |number, topic| v1::PublishStreamRequest {
        number,
        messages: vec![message("orders", vec![1]), message(topic, vec![2])],
        mandatory: true,
        without_results: number > 1,
        ..v1::PublishStreamRequest::default()
    };
    let requests = [
        request(1, "orders"),
        request(2, "orders"),
        request(3, "nowhere"),
    ];
    let answers = BrokerClient::new(channel.clone())
        .publish_stream(tokio_stream::iter(requests))
        .await;
    let mut answers = answers.unwrap().into_inner();
    let mut confirms = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        confirms.extend(answer.confirms);
    }
    let results: Vec<_> = confirms
        .iter()
        .map(|c| (c.number, c.results.len()))
        .collect();
    assert_eq!(results, [(1, 2), (2, 0), (3, 0)]);
    assert_eq!((&confirms[0].error, &confirms[1].error), (&None, &None));
    assert_eq!(confirms[2].error.as_ref().unwrap().reason, "UNROUTABLE");

    let (_requests, mut stream) = subscribe(&channel, "orders").await;
    assert_eq!(
        deliveries(&mut stream, 4).await.len(),
        4,
        "and nothing of the third"
    );
}

#[tokio::test]
async fn a_consumer_that_leaves_gives_back_without_blame_what_it_was_not_sent() {
    let server = Server::start().await;
    let channel = server.channel().await;
    create(&channel, "orders").await;
    let (requests, mut stream) = subscribe(&channel, "orders").await;
    drop(requests);
    assert!(stream.message().await.unwrap().is_none());
    publish(&channel, "orders", 1, 10).await;
    let (_requests, mut stream) = subscribe(&channel, "orders").await;
    assert_eq!(deliveries(&mut stream, 1).await[0].attempt, 1);
}

#[tokio::test]
async fn mistakes_end_a_subscription_with_the_field() {
    let server = Server::start().await;
    let channel = server.channel().await;
    create(&channel, "orders").await;
    let mut broker = BrokerClient::new(channel.clone());
    let first = broker
        .subscribe(tokio_stream::iter([settle(vec![1])]))
        .await
        .unwrap_err();
    assert_eq!(first.code(), Code::InvalidArgument);
    assert_eq!(
        first.message(),
        "open must be set in the first request of a stream"
    );
    let (requests, mut stream) = subscribe(&channel, "orders").await;
    requests.send(settle(vec![4, 4])).await.unwrap();
    let status = stream.message().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(
        status.message(),
        "settle must name a lease once, names 4 more than once"
    );
}

#[tokio::test]
async fn a_shutdown_ends_streams_with_a_reason() {
    let mut server = Server::start().await;
    let channel = server.channel().await;
    create(&channel, "orders").await;
    let (_requests, mut stream) = subscribe(&channel, "orders").await;
    let (_numbers, numbers) = mpsc::channel::<v1::PublishStreamRequest>(1);
    let confirms = BrokerClient::new(channel.clone())
        .publish_stream(ReceiverStream::new(numbers))
        .await;
    let watch = AdminClient::new(channel)
        .watch_stats(v1::WatchStatsRequest::default())
        .await;
    let mut watch = watch.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();
    let took = server.stop().await;
    assert!(
        took < Duration::from_secs(3),
        "nobody held on, and it took {took:?}"
    );
    let status = stream.message().await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "the broker is shutting down")
    );
    assert_eq!(
        confirms
            .unwrap()
            .into_inner()
            .message()
            .await
            .unwrap_err()
            .code(),
        Code::Unavailable
    );
    while let Ok(Some(_)) = watch.message().await {}
}

#[tokio::test]
async fn a_stream_ends_well_only_when_what_was_settled_without_results_is_durable() {
    let store = MemoryStore::default();
    let server = Server::start_on(store.clone()).await;
    let channel = server.channel().await;
    create(&channel, "orders").await;
    for fails in [false, true] {
        publish(&channel, "orders", 1, 10).await;
        let (requests, mut stream) = subscribe(&channel, "orders").await;
        let held = deliveries(&mut stream, 1).await;
        store.fail_writes(fails);
        let quiet = v1::Settle {
            ack: vec![held[0].lease_id],
            without_results: true,
            ..v1::Settle::default()
        };
        let kind = Some(subscribe_request::Kind::Settle(quiet));
        requests.send(v1::SubscribeRequest { kind }).await.unwrap();
        drop(requests);
        let ended = stream.message().await;
        assert_eq!(ended.is_err(), fails, "{ended:?}");
    }
}

#[tokio::test]
async fn every_refusal_for_a_failed_store_says_how_it_failed() {
    let store = MemoryStore::default();
    let server = Server::start_on(store.clone()).await;
    let channel = server.channel().await;
    create(&channel, "orders").await;
    let (_requests, mut stream) = subscribe(&channel, "orders").await;
    store.fail_writes(true);

    let how = "the store failed: cannot write memory: the store was told to fail; nothing is written \
               until that is mended and the broker is restarted";
    let (numbers, requests) = mpsc::channel(1);
    let one = v1::PublishStreamRequest {
        number: 1,
        messages: vec![message("orders", vec![1])],
        ..Default::default()
    };
    numbers.send(one).await.unwrap();
    let mut broker = BrokerClient::new(channel.clone());
    let confirms = broker.publish_stream(ReceiverStream::new(requests)).await;
    let confirmed = confirms.unwrap().into_inner().message().await;
    let error = confirmed
        .unwrap()
        .unwrap()
        .confirms
        .remove(0)
        .error
        .unwrap();
    assert_eq!(
        (error.reason.as_str(), error.message.as_str()),
        ("STORE_FAILED", how)
    );

    let mut admin = AdminClient::new(channel);
    let publish = v1::PublishRequest {
        messages: vec![message("orders", vec![1])],
        ..Default::default()
    };
    let settle = v1::SettleRequest {
        settle: Some(v1::Settle {
            ack: vec![1],
            ..Default::default()
        }),
    };
    let delete = v1::DeleteQueueRequest {
        name: "orders".to_owned(),
        ..Default::default()
    };
    for refusal in [
        stream.message().await.unwrap_err(),
        broker.publish(publish).await.unwrap_err(),
        broker.settle(settle).await.unwrap_err(),
        admin.delete_queue(delete).await.unwrap_err(),
    ] {
        assert_eq!(
            (refusal.code(), refusal.message()),
            (Code::Unavailable, how)
        );
        let info = refusal.get_details_error_info().unwrap();
        assert_eq!(info.reason, "STORE_FAILED");
    }
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_a_client_that_never_reads() {
    let mut server = Server::start().await;
    let channel = server.channel().await;
    create(&channel, "orders").await;
    publish(&channel, "orders", 100, 100_000).await;
    let (_requests, _stream) = subscribe(&channel, "orders").await;
    let _silent = TcpStream::connect(server.grpc).await.unwrap();
    let _idle = TcpStream::connect(server.http).await.unwrap();
    // Something is on its way to the client that never reads.
    let nothing_leased = "courser_queue_leased{queue=\"orders\"} 0\n";
    while server.get("/metrics").await.contains(nothing_leased) {
        tokio::task::yield_now().await;
    }
    let took = server.stop().await;
    assert!(took < Duration::from_secs(9), "{took:?}");
}

#[tokio::test]
async fn probes_and_metrics_are_served_over_http() {
    let server = Server::start().await;
    create(&server.channel().await, "orders").await;
    assert!(server.get("/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(server.get("/readyz").await.starts_with("HTTP/1.1 200"));
    let metrics = server.get("/metrics").await;
    assert!(
        metrics.contains("\ncourser_queue_ready{queue=\"orders\"} 0\n"),
        "{metrics}"
    );
    assert!(server.get("/").await.contains("/metrics"));
    assert!(server.get("/nothing").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn queues_are_made_changed_listed_and_deleted() {
    let server = Server::start().await;
    let channel = server.channel().await;
    let mut admin = AdminClient::new(channel.clone());
    for name in ["a", "b", "c"] {
        create(&channel, name).await;
    }
    let list = v1::ListQueuesRequest {
        page_size: 4,
        ..v1::ListQueuesRequest::default()
    };
    let page = admin.list_queues(list.clone()).await.unwrap().into_inner();
    let names: Vec<_> = page
        .queues
        .iter()
        .map(|queue| queue.name.as_str())
        .collect();
    assert_eq!(names, ["a", "a.dlq", "b", "b.dlq"]);
    let list = v1::ListQueuesRequest {
        page_token: page.next_page_token,
        ..list
    };
    let page = admin.list_queues(list).await.unwrap().into_inner();
    assert_eq!((page.queues.len(), page.next_page_token.as_str()), (2, ""));
    let request = v1::PauseQueueRequest {
        name: "a".to_owned(),
    };
    let queue = admin
        .pause_queue(request)
        .await
        .unwrap()
        .into_inner()
        .queue
        .unwrap();
    assert_eq!(queue.options.unwrap().paused, Some(true));
    let request = v1::DeleteQueueRequest {
        name: "a".to_owned(),
        if_empty: true,
    };
    admin.delete_queue(request).await.unwrap();
    let request = v1::GetQueueRequest {
        name: "a".to_owned(),
    };
    assert_eq!(
        admin.get_queue(request).await.unwrap_err().code(),
        Code::NotFound
    );
    let info = admin
        .get_server_info(v1::GetServerInfoRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (info.queues, info.version.as_str()),
        (4, env!("CARGO_PKG_VERSION"))
    );
}

#[tokio::test]
async fn a_publisher_that_never_reads_its_confirms_is_stopped() {
    let server = Server::start().await;
    let channel = server.channel().await;
    create(&channel, "orders").await;
    let (sender, requests) = mpsc::channel(1);
    let confirms = BrokerClient::new(channel)
        .publish_stream(ReceiverStream::new(requests))
        .await;
    let _unread = confirms.unwrap();
    let mut sent = 0_u64;
    let request = |number| v1::PublishStreamRequest {
        number,
        messages: vec![message("orders", vec![0; 10]); 160],
        ..v1::PublishStreamRequest::default()
    };
    while timeout(Duration::from_secs(1), sender.send(request(sent)))
        .await
        .is_ok()
    {
        sent += 1;
        assert!(sent < 5_000, "nobody stops it");
    }
    assert!(sent >= 900, "it was stopped after {sent}");
}

#[tokio::test]
async fn a_message_of_the_largest_size_goes_through_and_a_larger_one_is_refused() {
    const MAX: usize = 4 * 1024 * 1024;
    let server = Server::start().await;
    let channel = server.channel().await;
    create(&channel, "orders").await;
    let mut broker = BrokerClient::new(channel.clone()).max_decoding_message_size(2 * MAX);
    let messages = vec![message("orders", vec![0; MAX + 1])];
    let request = v1::PublishRequest {
        messages,
        ..v1::PublishRequest::default()
    };
    let status = broker.publish(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let sentence = "messages[0].payload must have at most 4194304 bytes, has 4194305";
    assert_eq!(status.message(), sentence);
    publish(&channel, "orders", 1, MAX).await;
    let request = v1::PullRequest {
        queue: "orders".to_owned(),
        ..v1::PullRequest::default()
    };
    let pulled = broker.pull(request).await.unwrap().into_inner();
    assert_eq!(
        pulled.deliveries[0].message.as_ref().unwrap().payload.len(),
        MAX
    );
    let lease_id = pulled.deliveries[0].lease_id;
    let settle = v1::Settle {
        ack: vec![lease_id, 5],
        ..v1::Settle::default()
    };
    let settled = broker
        .settle(v1::SettleRequest {
            settle: Some(settle),
        })
        .await
        .unwrap();
    let settled = settled.into_inner().settled.unwrap();
    assert_eq!(
        (settled.ok, settled.refused[0].lease_id),
        (vec![lease_id], 5)
    );
}

#[tokio::test]
async fn health_is_told_for_the_broker_and_each_service() {
    let server = Server::start().await;
    let mut health = HealthClient::new(server.channel().await);
    for service in ["", "courser.v1.Broker", "courser.v1.Admin"] {
        let service = service.to_owned();
        let answer = health.check(HealthCheckRequest { service }).await.unwrap();
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving);
    }
}

#[tokio::test]
async fn a_deleted_queue_ends_its_subscriptions() {
    let server = Server::start().await;
    let channel = server.channel().await;
    create(&channel, "orders").await;
    let (_requests, mut stream) = subscribe(&channel, "orders").await;
    let request = v1::DeleteQueueRequest {
        name: "orders".to_owned(),
        if_empty: false,
    };
    AdminClient::new(channel)
        .delete_queue(request)
        .await
        .unwrap();
    let status = stream.message().await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::NotFound, "queue \"orders\" was deleted")
    );
}

#[tokio::test]
async fn so_many_watch_and_no_more() {
    let server = Server::start().await;
    // A connection has 256 calls, too.
    let channels = [server.channel().await, server.channel().await];
    let watch = async |channel: &Channel| {
        let mut admin = AdminClient::new(channel.clone());
        let watched = admin.watch_stats(v1::WatchStatsRequest::default()).await;
        watched.map(tonic::Response::into_inner)
    };
    let mut watching = Vec::new();
    for number in 0..256 {
        watching.push(watch(&channels[number % 2]).await.unwrap());
    }
    let refused = watch(&channels[0]).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("256"), "{refused}");
    drop(watching.pop());
    // The broker hears of it some time later.
    let deadline = Instant::now() + Duration::from_secs(10);
    while watch(&channels[0]).await.is_err() {
        assert!(Instant::now() < deadline, "no place came free");
        tokio::task::yield_now().await;
    }
}
