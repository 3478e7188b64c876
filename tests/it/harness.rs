//! A broker in this process, on ports that are free, and short names for what the tests ask of it.
//!
//! Nothing here knows more than a client does. Tests wait for conditions, never for a time: each wait
//! ends with what it waited for, or fails after [`DEADLINE`].

use std::{collections::VecDeque, future::Future, net::SocketAddr, time::Duration};

use bytes::Bytes;
use courser::serve::{Config, Error, Running};
use courser_proto::v1::{
    Backoff, Binding, CreateQueueRequest, DeadLetterOptions, Deliveries, Delivery, Drain, Entry,
    GetQueueRequest, Message, Nack, Open, PeekEntriesRequest, PublishRequest, PublishResult,
    PullRequest, Queue, QueueOptions, QueueStats, Settle, SettleRequest, Settled, SubscribeRequest,
    SubscribeResponse, admin_client::AdminClient, broker_client::BrokerClient, subscribe_request,
    subscribe_response,
};
use tempfile::TempDir;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};
use tonic_types::StatusExt as _;

/// Far longer than anything takes; reached only by a failure.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
/// Sizes on the wire above any that a test sends.
const WIRE_BYTES: usize = 160 * 1024 * 1024;

/// Waits for something to happen.
#[track_caller]
pub(crate) fn within<F: Future>(what: &str, future: F) -> impl Future<Output = F::Output> {
    within_time(DEADLINE, what, future)
}

/// The same, for the few things that take longer by design.
#[track_caller]
pub(crate) fn within_time<F: Future>(
    time: Duration,
    what: &str,
    future: F,
) -> impl Future<Output = F::Output> {
    let place = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(time, future).await {
            Ok(output) => output,
            Err(_) => panic!("waited {time:?} for {what}, at {place}"),
        }
    }
}

/// Asks again and again until the answer is what the test waits for.
#[track_caller]
pub(crate) fn until<T, F, Fut>(what: &str, mut ask: F) -> impl Future<Output = T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    within(what, async move {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
}

/// A broker that runs in this process until it is stopped or dropped.
pub(crate) struct Broker {
    pub(crate) broker: BrokerClient<Channel>,
    pub(crate) admin: AdminClient<Channel>,
    pub(crate) grpc: SocketAddr,
    pub(crate) http: SocketAddr,
    channel: Channel,
    running: State,
    data: TempDir,
}

enum State {
    Runs(Running),
    Ends(JoinHandle<Result<(), Error>>),
}

/// What a test may want other than the defaults.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Settings {
    pub(crate) max_message_bytes: Option<usize>,
}

impl Broker {
    /// A new broker on an empty folder.
    pub(crate) async fn start() -> Self {
        Self::start_with(Settings::default()).await
    }

    pub(crate) async fn start_with(settings: Settings) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), settings).await
    }

    /// A broker on what another one left.
    pub(crate) async fn start_on(data: TempDir) -> Self {
        Self::start_in(data, Settings::default()).await
    }

    async fn start_in(data: TempDir, settings: Settings) -> Self {
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut config = Config {
            data_dir: data.path().join("data"),
            listen: free,
            http: Some(free),
            ..Config::default()
        };
        if let Some(bytes) = settings.max_message_bytes {
            config.max_message_bytes = bytes;
        }
        let running = courser::serve::Broker::start(&config).await.unwrap();
        let (grpc, http) = (running.grpc_addr, running.http_addr.unwrap());
        let channel = connect(grpc).await;
        Self {
            broker: BrokerClient::new(channel.clone())
                .max_decoding_message_size(WIRE_BYTES)
                .max_encoding_message_size(WIRE_BYTES),
            admin: AdminClient::new(channel.clone())
                .max_decoding_message_size(WIRE_BYTES)
                .max_encoding_message_size(WIRE_BYTES),
            grpc,
            http,
            channel,
            running: State::Runs(running),
            data,
        }
    }

    /// Asks it to end, without waiting.
    pub(crate) fn begin_shutdown(&mut self) {
        let ending = State::Ends(tokio::spawn(async { Ok(()) }));
        if let State::Runs(running) = std::mem::replace(&mut self.running, ending) {
            self.running = State::Ends(tokio::spawn(running.shutdown()));
        }
    }

    /// Ends it, if it was not asked to before, and waits for the end.
    pub(crate) async fn ended(mut self) -> TempDir {
        if let State::Runs(_) = self.running {
            self.begin_shutdown();
        }
        if let State::Ends(ending) = self.running {
            within("the broker to end", ending).await.unwrap().unwrap();
        }
        self.data
    }

    /// Shuts it down and starts another one on the same folder.
    pub(crate) async fn restart(self) -> Self {
        Self::start_on(self.ended().await).await
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// A connection of its own.
    pub(crate) async fn connect(&self) -> BrokerClient<Channel> {
        BrokerClient::new(connect(self.grpc).await)
            .max_decoding_message_size(WIRE_BYTES)
            .max_encoding_message_size(WIRE_BYTES)
    }

    /// Creates a queue with options that make a failed entry ready again at once.
    pub(crate) async fn create(&self, name: &str) -> Queue {
        self.create_with(name, at_once()).await
    }

    pub(crate) async fn create_with(&self, name: &str, options: QueueOptions) -> Queue {
        let request = CreateQueueRequest {
            name: name.to_owned(),
            options: Some(options),
        };
        self.admin
            .clone()
            .create_queue(request)
            .await
            .unwrap()
            .into_inner()
            .queue
            .unwrap()
    }

    pub(crate) async fn publish(&self, topic: &str, payload: &str) -> PublishResult {
        self.publish_all(topic, &[payload]).await.remove(0)
    }

    /// Publishes one batch.
    pub(crate) async fn publish_all(&self, topic: &str, payloads: &[&str]) -> Vec<PublishResult> {
        let messages = payloads
            .iter()
            .map(|payload| message(topic, payload))
            .collect();
        self.try_publish(messages).await.unwrap()
    }

    pub(crate) async fn try_publish(
        &self,
        messages: Vec<Message>,
    ) -> Result<Vec<PublishResult>, Status> {
        let request = PublishRequest {
            messages,
            ..Default::default()
        };
        Ok(self
            .broker
            .clone()
            .publish(request)
            .await?
            .into_inner()
            .results)
    }

    /// Takes one entry, waiting for it.
    pub(crate) async fn pull(&self, queue: &str) -> Delivery {
        self.pull_up_to(queue, 1).await.remove(0)
    }

    /// Takes exactly `count` entries, waiting for them.
    pub(crate) async fn pull_n(&self, queue: &str, count: usize) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        while deliveries.len() < count {
            deliveries.extend(self.pull_up_to(queue, count - deliveries.len()).await);
        }
        deliveries
    }

    async fn pull_up_to(&self, queue: &str, count: usize) -> Vec<Delivery> {
        let request = PullRequest {
            wait: Some(seconds(DEADLINE.as_secs())),
            max_messages: count.try_into().unwrap(),
            ..pull_request(queue)
        };
        let deliveries = self.try_pull(request).await.unwrap();
        assert!(
            !deliveries.is_empty(),
            "nothing came from {queue} within {DEADLINE:?}"
        );
        deliveries
    }

    pub(crate) async fn try_pull(&self, request: PullRequest) -> Result<Vec<Delivery>, Status> {
        Ok(self
            .broker
            .clone()
            .pull(request)
            .await?
            .into_inner()
            .deliveries)
    }

    /// Checks that nothing is ready.
    pub(crate) async fn assert_nothing_ready(&self, queue: &str) {
        let deliveries = self.try_pull(pull_request(queue)).await.unwrap();
        assert_eq!(payloads(&deliveries), Vec::<String>::new());
    }

    /// Settles over the unary call, and expects every lease to be taken.
    pub(crate) async fn settle(&self, settle: Settle) {
        let settled = self.try_settle(settle).await.unwrap();
        assert_eq!(settled.refused, []);
    }

    pub(crate) async fn try_settle(&self, settle: Settle) -> Result<Settled, Status> {
        let request = SettleRequest {
            settle: Some(settle),
        };
        Ok(self
            .broker
            .clone()
            .settle(request)
            .await?
            .into_inner()
            .settled
            .unwrap())
    }

    pub(crate) async fn queue(&self, name: &str) -> Queue {
        let request = GetQueueRequest {
            name: name.to_owned(),
        };
        self.admin
            .clone()
            .get_queue(request)
            .await
            .unwrap()
            .into_inner()
            .queue
            .unwrap()
    }

    pub(crate) async fn stats(&self, name: &str) -> QueueStats {
        self.queue(name).await.stats.unwrap()
    }

    /// Waits until the figures of a queue are as they should be.
    pub(crate) async fn wait_for_stats(
        &self,
        name: &str,
        what: &str,
        reached: impl Fn(&QueueStats) -> bool,
    ) -> QueueStats {
        let reached = &reached;
        until(what, || async move {
            Some(self.stats(name).await).filter(reached)
        })
        .await
    }

    pub(crate) async fn peek(&self, queue: &str) -> Vec<Entry> {
        let request = PeekEntriesRequest {
            queue: queue.to_owned(),
            limit: 1000,
            ..Default::default()
        };
        self.admin
            .clone()
            .peek_entries(request)
            .await
            .unwrap()
            .into_inner()
            .entries
    }

    /// A consumer with the credit of the defaults.
    pub(crate) async fn subscribe(&self, queue: &str) -> Consumer {
        self.subscribe_with(open(queue)).await
    }

    /// A consumer on a connection of its own, so that dropping it is a disconnect.
    pub(crate) async fn subscribe_with(&self, open: Open) -> Consumer {
        Consumer::open(self.connect().await, open).await.unwrap()
    }

    pub(crate) async fn try_subscribe(&self, open: Open) -> Result<Consumer, Status> {
        Consumer::open(self.connect().await, open).await
    }

    /// A GET on the HTTP side: status and body.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let page = courser_process::page(self.http, path);
        within("an answer over HTTP", page).await.unwrap()
    }

    /// The value of one metric of one queue.
    pub(crate) async fn metric(&self, name: &str, queue: &str) -> Option<f64> {
        let (_, body) = self.get("/metrics").await;
        let value = courser_process::figure(&body, &format!("{name}{{queue=\"{queue}\"}}"));
        value.map(|value| value.parse().unwrap())
    }
}

/// A consumer that reaches its broker by another address.
pub(crate) async fn subscribe_by(address: SocketAddr, open: Open) -> Consumer {
    let client = BrokerClient::new(connect(address).await);
    Consumer::open(client, open).await.unwrap()
}

async fn connect(address: SocketAddr) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
    within("a connection", endpoint.connect()).await.unwrap()
}

/// One consumer over `Subscribe`.
pub(crate) struct Consumer {
    pub(crate) requests: mpsc::Sender<SubscribeRequest>,
    pub(crate) responses: Streaming<SubscribeResponse>,
    deliveries: VecDeque<Delivery>,
    settled: VecDeque<Settled>,
    drained: bool,
}

impl Consumer {
    async fn open(mut client: BrokerClient<Channel>, open: Open) -> Result<Self, Status> {
        let (requests, outgoing) = mpsc::channel(64);
        let kind = Some(subscribe_request::Kind::Open(open));
        requests.send(SubscribeRequest { kind }).await.unwrap();
        let subscribed = client.subscribe(ReceiverStream::new(outgoing));
        let responses = within("a subscription", subscribed).await?.into_inner();
        Ok(Self {
            requests,
            responses,
            deliveries: VecDeque::new(),
            settled: VecDeque::new(),
            drained: false,
        })
    }

    /// The next delivery.
    pub(crate) async fn next(&mut self) -> Delivery {
        within("a delivery", async {
            while self.deliveries.is_empty() {
                self.receive().await;
            }
            self.deliveries.pop_front().unwrap()
        })
        .await
    }

    pub(crate) async fn next_n(&mut self, count: usize) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        for _ in 0..count {
            deliveries.push(self.next().await);
        }
        deliveries
    }

    /// Settles and waits for the result.
    pub(crate) async fn settle(&mut self, settle: Settle) -> Settled {
        assert!(
            self.settled.is_empty(),
            "an earlier result is not taken: {:?}",
            self.settled
        );
        self.send(settle).await;
        within("the result of a settle", async {
            while self.settled.is_empty() {
                self.receive().await;
            }
            self.settled.pop_front().unwrap()
        })
        .await
    }

    /// Settles without waiting.
    pub(crate) async fn send(&mut self, settle: Settle) {
        let kind = Some(subscribe_request::Kind::Settle(settle));
        self.requests.send(SubscribeRequest { kind }).await.unwrap();
    }

    /// Asks for no more; answers what comes until the broker says that nothing more does.
    pub(crate) async fn drain(&mut self) -> Vec<Delivery> {
        let kind = Some(subscribe_request::Kind::Drain(Drain {}));
        self.requests.send(SubscribeRequest { kind }).await.unwrap();
        within("the end of the deliveries", async {
            while !self.drained {
                self.receive().await;
            }
            self.deliveries.drain(..).collect()
        })
        .await
    }

    pub(crate) async fn ack(&mut self, delivery: &Delivery) {
        assert_eq!(self.settle(ack(delivery)).await.ok, [delivery.lease_id]);
    }

    /// What came and was not asked for yet, after a round trip to the broker and back. Whatever the
    /// broker had to send when this was called has arrived by then.
    pub(crate) async fn arrived(&mut self) -> Vec<Delivery> {
        let nobody = Settle {
            ack: vec![u64::MAX],
            ..Default::default()
        };
        assert_eq!(self.settle(nobody).await.refused.len(), 1);
        self.deliveries.drain(..).collect()
    }

    /// Waits for the end of the stream from the broker's side, past whatever still comes.
    pub(crate) async fn end(mut self) -> Status {
        within("the end of the subscription", async {
            loop {
                match self.responses.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("the stream ended without a reason"),
                    Err(status) => return status,
                }
            }
        })
        .await
    }

    async fn receive(&mut self) {
        let response = self.responses.message().await.expect("the stream goes on");
        match response.expect("the stream goes on").kind.unwrap() {
            subscribe_response::Kind::Deliveries(Deliveries { deliveries }) => {
                assert!(!self.drained, "nothing comes after `drained`");
                assert!(
                    !deliveries.is_empty(),
                    "a batch of deliveries is never empty"
                );
                self.deliveries.extend(deliveries);
            }
            subscribe_response::Kind::Settled(settled) => self.settled.push_back(settled),
            subscribe_response::Kind::Drained(_) => self.drained = true,
            subscribe_response::Kind::Heartbeat(_) => {}
        }
    }
}

pub(crate) fn message(topic: &str, payload: &str) -> Message {
    Message {
        topic: topic.to_owned(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        ..Default::default()
    }
}

pub(crate) fn open(queue: &str) -> Open {
    Open {
        queue: queue.to_owned(),
        consumer: "tester".to_owned(),
        ..Default::default()
    }
}

pub(crate) fn pull_request(queue: &str) -> PullRequest {
    PullRequest {
        queue: queue.to_owned(),
        consumer: "tester".to_owned(),
        max_messages: 1,
        ..Default::default()
    }
}

/// Options with which a failed entry is ready again at once.
pub(crate) fn at_once() -> QueueOptions {
    let backoff = Backoff {
        initial: Some(seconds(0)),
        max: Some(seconds(0)),
        ..Default::default()
    };
    QueueOptions {
        backoff: Some(backoff),
        ..Default::default()
    }
}

pub(crate) fn bound_to(patterns: &[&str]) -> QueueOptions {
    let bindings = patterns
        .iter()
        .map(|&p| Binding {
            pattern: p.to_owned(),
        })
        .collect();
    QueueOptions {
        bindings,
        ..at_once()
    }
}

pub(crate) fn without_dead_letters() -> QueueOptions {
    QueueOptions {
        dead_letter: Some(DeadLetterOptions {
            enabled: Some(false),
        }),
        ..at_once()
    }
}

pub(crate) fn seconds(seconds: u64) -> prost_types::Duration {
    prost_types::Duration {
        seconds: seconds.try_into().unwrap(),
        nanos: 0,
    }
}

pub(crate) fn ack(delivery: &Delivery) -> Settle {
    ack_all(std::slice::from_ref(delivery))
}

pub(crate) fn ack_all(deliveries: &[Delivery]) -> Settle {
    Settle {
        ack: deliveries.iter().map(|d| d.lease_id).collect(),
        ..Default::default()
    }
}

pub(crate) fn nack(delivery: &Delivery, error: &str) -> Settle {
    let nack = Nack {
        lease_id: delivery.lease_id,
        error: error.to_owned(),
        ..Default::default()
    };
    Settle {
        nack: vec![nack],
        ..Default::default()
    }
}

pub(crate) fn release(delivery: &Delivery) -> Settle {
    Settle {
        release: vec![delivery.lease_id],
        ..Default::default()
    }
}

pub(crate) fn payload(delivery: &Delivery) -> String {
    let message = delivery.message.as_ref().unwrap();
    String::from_utf8(message.payload.to_vec()).unwrap()
}

pub(crate) fn payloads(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(payload).collect()
}

/// Checks the code and the stable reason of a refusal, and that its sentence names what is wrong.
#[track_caller]
pub(crate) fn assert_refused(status: &Status, code: Code, names: &str) {
    assert_eq!(status.code(), code, "{status:?}");
    assert!(
        status.message().contains(names),
        "{names:?} is not named in {:?}",
        status.message()
    );
    let info = status.get_details_error_info();
    let info = info.unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(info.domain, "courser");
    assert!(
        !info.reason.is_empty()
            && info
                .reason
                .chars()
                .all(|c| c.is_ascii_uppercase() || c == '_'),
        "reason {:?} is not a stable upper-case word",
        info.reason
    );
    let first = status.message().chars().next().unwrap();
    assert!(
        !first.is_uppercase() && !status.message().ends_with('.'),
        "{:?}",
        status.message()
    );
}
