//! Publishers and consumers, which work until they are done or the broker is gone under their hands.

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    time::Duration,
};

use courser_proto::v1::{
    Backoff, Binding, CreateQueueRequest, Delivery, Durability, Extend, Nack, Open,
    PublishStreamRequest, QueueOptions, Settle, SettleOutcome, SettleRefusal, Settled,
    SubscribeRequest, admin_client::AdminClient, broker_client::BrokerClient, subscribe_request,
    subscribe_response,
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, transport::Channel};

use crate::{
    broker::Broker,
    history::{History, Mover, Place, QUEUES},
    letter::Letter,
    message,
    others::Others,
    random::Random,
};

/// Requests of a producer that wait for their confirms.
const IN_FLIGHT: usize = 8;
/// Consumers of each queue; first deliveries of the second are judged for their order.
pub(crate) const CONSUMERS: [u32; 2] = [2, 1];
/// A load that takes longer than this is stuck.
const LOAD_MAX: Duration = Duration::from_secs(120);
/// For how long a lease is extended that lasts longer than any round.
const EXTENDED: Duration = Duration::from_secs(7200);
/// Settled leases that may be settled once more.
const SETTLED_KEPT: usize = 64;
/// When nothing has come for so long, a consumer asks what became of the settles that want no results.
const ASK_AFTER: Duration = Duration::from_millis(20);

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
    /// And how many are extended before they are acked.
    pub(crate) extend: u64,
    /// Of a hundred requests, how many are BUFFERED.
    pub(crate) buffered: u64,
    /// Of a hundred settles, how many want no results.
    pub(crate) without_results: u64,
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
        extend: 3,
        buffered: 15,
        without_results: 25,
        lease: None,
    };
    /// A sign of life.
    pub(crate) const LITTLE: Self = Self {
        requests: 1,
        ..Self::SMALL
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
        extend: 0,
        buffered: 15,
        without_results: 25,
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
) -> Result<(), Status> {
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

/// Publishes, consumes, redrives and changes a queue until the producers are done or the broker is gone.
pub(crate) async fn run(broker: &Broker, history: &History, load: Load, random: &mut Random) {
    let Some(consumers) = Consumers::start(broker, history, load, random).await else {
        return;
    };
    busy(broker, history, load, random).await;
    consumers.stop().await;
}

/// The same for consumers that are at work already.
pub(crate) async fn busy(broker: &Broker, history: &History, load: Load, random: &mut Random) {
    let others = Others::start(broker, history, load, random).await;
    publish(broker, history, load, random).await;
    others.stop().await;
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

/// Ends tasks of a load.
pub(crate) async fn end(mut tasks: JoinSet<()>) {
    tasks.abort_all();
    while let Some(done) = tasks.join_next().await {
        assert!(
            done.is_ok() || done.is_err_and(|error| error.is_cancelled()),
            "a task of the load does not panic"
        );
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
        history.consuming();
        let mut consumers = JoinSet::new();
        for (place, count) in CONSUMERS.into_iter().enumerate() {
            for number in 0..count {
                let random = random.fork(100 + u64::from(number));
                let client = broker.client().await?;
                consumers.spawn(consume(client, history.clone(), load, place, random));
            }
        }
        Some(Self(consumers))
    }

    pub(crate) async fn stop(self) {
        end(self.0).await;
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
    let mut waiting: VecDeque<(u32, u32, bool)> = VecDeque::new();
    let mut left = load.requests;
    while left > 0 || !waiting.is_empty() {
        while left > 0 && waiting.len() < IN_FLIGHT {
            left -= 1;
            let count = random.within(1..load.batch_max + 1) as u32;
            let is_buffered = random.percent(load.buffered);
            let first = history.sending(producer, count, is_buffered);
            let mut request = request(producer, first, count, &load, &mut random);
            if is_buffered {
                request.set_durability(Durability::Buffered);
            }
            waiting.push_back((first, count, request.without_results));
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
            let Some((first, count, without_results)) = waiting.pop_front() else {
                return history.violation("a confirm of nothing".to_owned());
            };
            if confirm.number != u64::from(first) {
                history.violation(format!("confirm {} came for {first}", confirm.number));
            }
            let Some(error) = confirm.error else {
                history.confirmed(producer, first);
                let told = if without_results { 0 } else { count as usize };
                if confirm.results.len() != told {
                    history.violation(format!("{count} were confirmed with {confirm:?}"));
                }
                for (number, result) in (first..).zip(&confirm.results) {
                    history.told(Letter { producer, number }, result);
                }
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
        .map(|number| message::write(Letter { producer, number }, payload_bytes(load, random)))
        .collect();
    PublishStreamRequest {
        number: u64::from(first),
        messages,
        without_results: random.percent(30),
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
    /// Then it is acked.
    Extend,
}

/// A settle, by its leases. One without results is answered with the next that wants some, but for what is refused.
struct Sent {
    leases: Vec<u64>,
    without_results: bool,
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
    /// The settles of that, in their order.
    sent: VecDeque<Sent>,
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
            sent: VecDeque::new(),
            settled: VecDeque::new(),
            again: Vec::new(),
        })
    }

    /// One answer of the broker; `None` when it is gone.
    async fn turn(&mut self) -> Option<()> {
        let Ok(response) = timeout(ASK_AFTER, self.responses.message()).await else {
            let wants_to_know = self.sent.iter().all(|sent| sent.without_results);
            if wants_to_know && !self.sent.is_empty() {
                self.send(Settle::default()).await?;
            }
            return Some(());
        };
        match response.ok()??.kind? {
            subscribe_response::Kind::Deliveries(batch) => {
                let mut settle = Settle::default();
                for delivery in &batch.deliveries {
                    self.decide(delivery, &mut settle);
                }
                self.settle_again(&mut settle);
                settle.without_results = self.random.percent(self.load.without_results);
                self.send(settle).await
            }
            subscribe_response::Kind::Settled(settled) => {
                let settle = self.note(&settled);
                if settle.ack.is_empty() {
                    return Some(());
                }
                self.send(settle).await
            }
            subscribe_response::Kind::Drained(_) | subscribe_response::Kind::Heartbeat(_) => {
                Some(())
            }
        }
    }

    async fn send(&mut self, settle: Settle) -> Option<()> {
        let acks = settle.ack.iter().chain(&settle.release).copied();
        let nacks = settle.nack.iter().map(|nack| nack.lease_id);
        let rejects = settle.dead_letter.iter().map(|reject| reject.lease_id);
        let extensions = settle.extend.iter().map(|extend| extend.lease_id);
        self.sent.push_back(Sent {
            leases: acks.chain(nacks).chain(rejects).chain(extensions).collect(),
            without_results: settle.without_results,
        });
        let kind = Some(subscribe_request::Kind::Settle(settle));
        self.requests.send(SubscribeRequest { kind }).await.ok()
    }

    /// The leases that an answer says to be settled: those in it, and those of settles without results before the one
    /// that it is the answer to.
    fn settled(&mut self, settled: &Settled) -> Vec<u64> {
        let mut leases = settled.ok.clone();
        let refused = settled.refused.iter().map(|refused| refused.lease_id);
        let first = settled.ok.iter().copied().chain(refused).next();
        let Some(at) = self.sent.iter().position(|sent| !sent.without_results) else {
            return leases;
        };
        let is_answer = first.is_none_or(|first| self.sent[at].leases.contains(&first));
        if !is_answer {
            return leases;
        }
        let quiet: Vec<u64> = self.sent.drain(..at).flat_map(|sent| sent.leases).collect();
        self.sent.pop_front();
        self.history.lock().totals.told_later += quiet.len() as u64;
        for lease_id in quiet {
            if self.asked.contains_key(&lease_id) {
                leases.push(lease_id);
            } else if self.again.contains(&lease_id) {
                let what = format!("lease {lease_id} was settled twice, and not refused");
                self.history.violation(what);
            }
        }
        leases
    }

    fn decide(&mut self, delivery: &Delivery, settle: &mut Settle) {
        let Some(letter) = self.history.delivered(self.place, delivery) else {
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
            extend,
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
            self.history.give_back(self.place, letter, true);
            Asked::Nack
        } else if chance < nack + release {
            settle.release.push(lease_id);
            self.history.give_back(self.place, letter, false);
            Asked::Release
        } else if chance < nack + release + dead_letter {
            settle.dead_letter.push(message::reject(letter, lease_id));
            let by = Mover::Lease(lease_id);
            self.history.move_sent(self.place, letter, by);
            Asked::Dead
        } else if chance < nack + release + dead_letter + keep {
            self.history.kept(lease_id);
            return;
        } else if chance < nack + release + dead_letter + keep + extend {
            settle.extend.push(Extend {
                lease_id,
                by: Some(proto_duration(self.load.lease.unwrap_or(EXTENDED))),
            });
            Asked::Extend
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

    /// Takes in results; answers what is to be settled next.
    fn note(&mut self, settled: &Settled) -> Settle {
        let (history, place) = (self.history.clone(), self.place);
        let mut next = Settle::default();
        for lease_id in &self.settled(settled) {
            match self.asked.remove(lease_id) {
                Some((letter, Asked::Ack)) => history.acked(place, letter),
                Some((letter, Asked::Dead)) => {
                    history.moved(place, letter, Mover::Lease(*lease_id));
                }
                Some((letter, Asked::Nack)) => history.nacked(place, letter),
                Some((_, Asked::Release)) => history.lock().totals.released += 1,
                Some((letter, Asked::Extend)) => {
                    history.lock().totals.extended += 1;
                    history.ack_sent(place, letter);
                    next.ack.push(*lease_id);
                    self.asked.insert(*lease_id, (letter, Asked::Ack));
                    continue;
                }
                None => {
                    history.violation(format!("lease {lease_id} was settled unasked, or twice"));
                }
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
            if let Some((letter, asked)) = asked
                && self.may_have_run_out(refused)
            {
                history.lock().totals.ran_out += 1;
                if asked == Asked::Dead {
                    history.not_moved(place, letter, refused.lease_id);
                }
                continue;
            }
            let what = format!("a lease that is held was refused: {refused:?} {asked:?}");
            self.history.violation(what);
        }
        next
    }

    fn may_have_run_out(&self, refused: &SettleRefusal) -> bool {
        self.load.lease.is_some() && refused.outcome == SettleOutcome::Expired as i32
    }
}
