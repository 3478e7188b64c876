//! Publishers and consumers, which work until they are done or the broker is gone under their hands.

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    time::Duration,
};

use courser_proto::v1::{
    Backoff, Binding, CreateQueueRequest, Delivery, Message, Nack, Open, PublishStreamRequest,
    QueueOptions, Reject, Settle, SettleOutcome, SettleRefusal, Settled, SubscribeRequest,
    admin_client::AdminClient, broker_client::BrokerClient, subscribe_request, subscribe_response,
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, transport::Channel};

use crate::{
    broker::Broker,
    history::{History, Place, QUEUES},
    letter::Letter,
    random::Random,
};

/// Requests of a producer that wait for their confirms.
const IN_FLIGHT: usize = 8;
/// Consumers of each queue; first deliveries of the second are judged for their order.
const CONSUMERS: [usize; 2] = [2, 1];
/// A load that takes longer than this is stuck.
const LOAD_MAX: Duration = Duration::from_secs(120);
/// Settled leases that may be settled once more.
const SETTLED_KEPT: usize = 64;

/// So large that a group with it goes to the disk past the page cache.
const DIRECT_BYTES: Range<u64> = 64_000..130_000;

/// What kind of load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) producers: u32,
    /// Requests of each producer.
    pub(crate) requests: u32,
    /// Messages in one request at most.
    pub(crate) batch_max: u64,
    /// Bytes of a payload.
    pub(crate) bytes: (u64, u64),
    /// Of a hundred payloads, how many have [`DIRECT_BYTES`].
    pub(crate) direct: u64,
    /// Milliseconds between two requests of a producer at most.
    pub(crate) pause_max: u64,
    /// Of a hundred deliveries, how many are nacked, released, dead-lettered and kept.
    pub(crate) nack: u64,
    pub(crate) release: u64,
    pub(crate) dead_letter: u64,
    pub(crate) keep: u64,
    /// How long leases last, where they may run out in consumers' hands; else as long as the queue says,
    /// and that is longer than any round.
    pub(crate) lease: Option<Duration>,
}

impl Load {
    pub(crate) const SMALL: Self = Self {
        producers: 3,
        requests: 60,
        batch_max: 6,
        bytes: (8, 3000),
        direct: 5,
        pause_max: 4,
        nack: 6,
        release: 3,
        dead_letter: 3,
        keep: 3,
        lease: None,
    };
    /// Fills more than a segment of the log, and leaves nothing in it that lives.
    pub(crate) const LARGE: Self = Self {
        producers: 3,
        requests: 100,
        batch_max: 2,
        bytes: (100_000, 300_000),
        direct: 0,
        pause_max: 0,
        nack: 0,
        release: 0,
        dead_letter: 0,
        keep: 0,
        lease: None,
    };

    pub(crate) fn is_large(&self) -> bool {
        self.bytes.1 >= Self::LARGE.bytes.1
    }
}

/// Makes the queues that the load needs. `None` when the broker is gone or refuses.
pub(crate) async fn create_queues(
    admin: &mut AdminClient<Channel>,
    lease: Duration,
) -> Result<(), tonic::Status> {
    for name in QUEUES {
        let now = Some(prost_types::Duration::default());
        let options = QueueOptions {
            bindings: vec![Binding {
                pattern: "load.*".to_owned(),
            }],
            // Entries die by request only.
            max_attempts: Some(1000),
            backoff: Some(Backoff {
                initial: now,
                max: now,
                ..Default::default()
            }),
            lease: Some(proto_duration(lease)),
            ..Default::default()
        };
        let request = CreateQueueRequest {
            name: name.to_owned(),
            options: Some(options),
        };
        admin.create_queue(request).await?;
    }
    Ok(())
}

fn proto_duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(duration).expect("it is in range")
}

/// Runs the load until its producers are done or the broker is gone.
pub(crate) async fn run(broker: &Broker, history: &History, load: Load, random: &mut Random) {
    let Some(consumers) = Consumers::start(broker, history, load, random).await else {
        return;
    };
    publish(broker, history, load, random).await;
    consumers.stop().await;
}

/// Publishes a load until all of it is answered or the broker is gone.
pub(crate) async fn publish(broker: &Broker, history: &History, load: Load, random: &mut Random) {
    let mut producers = JoinSet::new();
    for producer in 0..load.producers {
        let random = random.fork(u64::from(producer));
        let Some(client) = broker.client().await else {
            return;
        };
        producers.spawn(produce(client, history.clone(), load, producer, random));
    }
    let done = timeout(LOAD_MAX, async {
        while let Some(done) = producers.join_next().await {
            done.expect("a producer does not panic");
        }
    });
    if done.await.is_err() {
        history.violation(format!("the load was stuck for {LOAD_MAX:?}"));
    }
}

/// The consumers of a load, at work until they are stopped or dropped.
pub(crate) struct Consumers(JoinSet<()>);

impl Consumers {
    /// `None` when the broker is gone.
    pub(crate) async fn start(
        broker: &Broker,
        history: &History,
        load: Load,
        random: &mut Random,
    ) -> Option<Self> {
        let mut consumers = JoinSet::new();
        for (place, count) in CONSUMERS.into_iter().enumerate() {
            for number in 0..count {
                let random = random.fork(100 + number as u64);
                let client = broker.client().await?;
                consumers.spawn(consume(client, history.clone(), load, place, random));
            }
        }
        Some(Self(consumers))
    }

    pub(crate) async fn stop(mut self) {
        self.0.abort_all();
        while let Some(done) = self.0.join_next().await {
            assert!(
                done.is_ok() || done.is_err_and(|error| error.is_cancelled()),
                "a consumer does not panic"
            );
        }
    }
}

/// Publishes over one stream, and notes what is confirmed.
async fn produce(
    mut client: BrokerClient<Channel>,
    history: History,
    load: Load,
    producer: u32,
    mut random: Random,
) {
    let (requests, outgoing) = mpsc::channel(1);
    let Ok(answer) = client.publish_stream(ReceiverStream::new(outgoing)).await else {
        return;
    };
    let mut confirms = answer.into_inner();
    let mut waiting: VecDeque<(u32, u32)> = VecDeque::new();
    let mut left = load.requests;
    while left > 0 || !waiting.is_empty() {
        while left > 0 && waiting.len() < IN_FLIGHT {
            left -= 1;
            let count = random.within(1..load.batch_max + 1) as u32;
            let first = history.sending(producer, count);
            waiting.push_back((first, count));
            let request = request(producer, first, count, &load, &mut random);
            if requests.send(request).await.is_err() {
                return;
            }
            if random.percent(50) {
                break;
            }
        }
        if load.pause_max > 0 {
            sleep(Duration::from_millis(random.within(0..load.pause_max))).await;
        }
        let Ok(Some(response)) = confirms.message().await else {
            return;
        };
        for confirm in response.confirms {
            let Some((first, count)) = waiting.pop_front() else {
                return history.violation("a confirm of nothing".to_owned());
            };
            if confirm.number != u64::from(first) {
                history.violation(format!("confirm {} came for {first}", confirm.number));
            }
            let Some(error) = confirm.error else {
                history.confirmed(producer, first, count);
                continue;
            };
            let codes = [Code::Unavailable as i32, Code::ResourceExhausted as i32];
            if !codes.contains(&error.code) || error.message.is_empty() {
                history.violation(format!("a publish was refused with {error:?}"));
            }
            let refusal = (error.code, error.reason, error.message);
            history.refused(count, refusal);
        }
    }
}

fn payload_bytes(load: &Load, random: &mut Random) -> usize {
    let range = if random.percent(load.direct) {
        DIRECT_BYTES
    } else {
        load.bytes.0..load.bytes.1
    };
    random.within(range) as usize
}

fn request(
    producer: u32,
    first: u32,
    count: u32,
    load: &Load,
    random: &mut Random,
) -> PublishStreamRequest {
    let messages = (first..first + count)
        .map(|number| Message {
            topic: format!("load.{producer}"),
            payload: Letter { producer, number }.write(payload_bytes(load, random)),
            ..Default::default()
        })
        .collect();
    PublishStreamRequest {
        number: u64::from(first),
        messages,
        ..Default::default()
    }
}

/// Consumes one queue and settles at random.
async fn consume(
    client: BrokerClient<Channel>,
    history: History,
    load: Load,
    place: Place,
    random: Random,
) {
    let Some(mut consumer) = Consumer::open(client, history, load, place, random).await else {
        return;
    };
    while consumer.turn().await.is_some() {}
}

/// What was asked for a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Ack,
    Dead,
    Nack,
    Release,
}

struct Consumer {
    history: History,
    load: Load,
    place: Place,
    random: Random,
    requests: mpsc::Sender<SubscribeRequest>,
    responses: tonic::Streaming<courser_proto::v1::SubscribeResponse>,
    /// What was asked for and not answered.
    asked: HashMap<u64, (Letter, Asked)>,
    /// Leases that were settled, and those among them that are settled once more.
    settled: VecDeque<u64>,
    again: Vec<u64>,
}

impl Consumer {
    async fn open(
        mut client: BrokerClient<Channel>,
        history: History,
        load: Load,
        place: Place,
        random: Random,
    ) -> Option<Self> {
        let (requests, outgoing) = mpsc::channel(4);
        let open = Open {
            queue: QUEUES[place].to_owned(),
            consumer: format!("load-{place}"),
            max_messages: 200,
            lease: load.lease.map(proto_duration),
            ..Default::default()
        };
        let kind = Some(subscribe_request::Kind::Open(open));
        requests.send(SubscribeRequest { kind }).await.ok()?;
        let answer = client.subscribe(ReceiverStream::new(outgoing)).await;
        Some(Self {
            history,
            load,
            place,
            random,
            requests,
            responses: answer.ok()?.into_inner(),
            asked: HashMap::new(),
            settled: VecDeque::new(),
            again: Vec::new(),
        })
    }

    /// One answer of the broker; `None` when it is gone.
    async fn turn(&mut self) -> Option<()> {
        match self.responses.message().await.ok()??.kind? {
            subscribe_response::Kind::Deliveries(batch) => {
                let mut settle = Settle::default();
                for delivery in &batch.deliveries {
                    self.decide(delivery, &mut settle);
                }
                self.settle_again(&mut settle);
                let kind = Some(subscribe_request::Kind::Settle(settle));
                self.requests.send(SubscribeRequest { kind }).await.ok()
            }
            subscribe_response::Kind::Settled(settled) => {
                self.note(&settled);
                Some(())
            }
            subscribe_response::Kind::Drained(_) | subscribe_response::Kind::Heartbeat(_) => {
                Some(())
            }
        }
    }

    fn decide(&mut self, delivery: &Delivery, settle: &mut Settle) {
        let message = delivery.message.as_ref().expect("a delivery has a message");
        let letter =
            self.history
                .delivered(self.place, &message.payload, delivery.dead_letter.is_some());
        let Some(letter) = letter else {
            return;
        };
        let lease_id = delivery.lease_id;
        if let Some(lease) = self.load.lease {
            let until = delivery.lease_until.expect("a lease has an end");
            let until = Duration::new(until.seconds as u64, until.nanos as u32);
            self.history
                .leased(self.place, letter, until - lease..until);
        }
        let Load {
            nack,
            release,
            dead_letter,
            keep,
            ..
        } = self.load;
        let chance = self.random.within(0..100);
        let asked = if chance < nack {
            let retry_after = self.random.percent(20).then_some(prost_types::Duration {
                seconds: 0,
                nanos: 20_000_000,
            });
            settle.nack.push(Nack {
                lease_id,
                retry_after,
                error: "by chance".to_owned(),
            });
            self.history.give_back(self.place, letter);
            Asked::Nack
        } else if chance < nack + release {
            settle.release.push(lease_id);
            self.history.give_back(self.place, letter);
            Asked::Release
        } else if chance < nack + release + dead_letter {
            settle.dead_letter.push(Reject {
                lease_id,
                reason: "by_chance".to_owned(),
                description: String::new(),
            });
            self.history.dead_sent(self.place, letter);
            Asked::Dead
        } else if chance < nack + release + dead_letter + keep {
            self.history.kept(lease_id);
            return;
        } else {
            settle.ack.push(lease_id);
            self.history.ack_sent(self.place, letter);
            Asked::Ack
        };
        self.asked.insert(lease_id, (letter, asked));
    }

    /// Now and then a lease that was settled is settled again, which must be refused.
    fn settle_again(&mut self, settle: &mut Settle) {
        if self.random.percent(10)
            && let Some(lease) = self.settled.pop_front()
        {
            settle.ack.push(lease);
            self.again.push(lease);
        }
    }

    fn note(&mut self, settled: &Settled) {
        for lease_id in &settled.ok {
            match self.asked.remove(lease_id) {
                Some((letter, Asked::Ack)) => self.history.acked(self.place, letter),
                Some((letter, Asked::Dead)) => self.history.dead(self.place, letter),
                Some((_, Asked::Nack)) => self.history.lock().totals.nacked += 1,
                Some((_, Asked::Release)) => self.history.lock().totals.released += 1,
                None => self
                    .history
                    .violation(format!("lease {lease_id} was settled unasked, or twice")),
            }
            if self.settled.len() < SETTLED_KEPT {
                self.settled.push_back(*lease_id);
            }
        }
        for refused in &settled.refused {
            if let Some(at) = self.again.iter().position(|id| *id == refused.lease_id) {
                self.again.swap_remove(at);
                self.history.lock().totals.refused_twice += 1;
                continue;
            }
            let asked = self.asked.remove(&refused.lease_id);
            if asked.is_some() && self.may_have_run_out(refused) {
                self.history.lock().totals.ran_out += 1;
                continue;
            }
            let what = format!("a lease that is held was refused: {refused:?} {asked:?}");
            self.history.violation(what);
        }
    }

    fn may_have_run_out(&self, refused: &SettleRefusal) -> bool {
        self.load.lease.is_some() && refused.outcome == SettleOutcome::Expired as i32
    }
}
