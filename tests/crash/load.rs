//! Publishers and consumers, which work until the broker is gone under their hands.

use std::collections::{HashMap, VecDeque};

use courser_proto::v1::{
    Delivery, Message, Nack, Open, PublishStreamRequest, Reject, Settle, Settled, SubscribeRequest,
    broker_client::BrokerClient, subscribe_request, subscribe_response,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, transport::Channel};

use crate::{
    history::{History, Place},
    letter::Letter,
    random::Random,
};

/// Requests of a producer that wait for their confirms.
const IN_FLIGHT: usize = 32;

/// What kind of load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Messages in one request at most.
    pub(crate) batch_max: u64,
    /// Bytes of a payload.
    pub(crate) bytes: (u64, u64),
    /// Messages of one producer between two kills at most, so that the end does not take for ever.
    pub(crate) messages_max: u32,
    /// Of a hundred deliveries, how many are nacked, released, dead-lettered and kept.
    pub(crate) nack: u64,
    pub(crate) release: u64,
    pub(crate) dead_letter: u64,
    pub(crate) keep: u64,
}

/// Publishes over one stream, and notes what is confirmed.
pub(crate) async fn produce(
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
    let mut sent = 0;
    loop {
        while waiting.len() < IN_FLIGHT && sent < load.messages_max {
            let count = random.within(1..load.batch_max + 1) as u32;
            let first = history.sending(producer, count);
            waiting.push_back((first, count));
            sent += count;
            let request = request(producer, first, count, &load, &mut random);
            if requests.send(request).await.is_err() {
                break;
            }
        }
        if waiting.is_empty() {
            return;
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
            match confirm.error {
                None => history.confirmed(producer, first, count),
                Some(error) if error.code == Code::Unavailable as i32 => return,
                Some(error) => history.violation(format!("refused: {error:?}")),
            }
        }
    }
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
            topic: format!("work.{producer}"),
            payload: Letter { producer, number }
                .write(random.within(load.bytes.0..load.bytes.1) as usize),
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
pub(crate) async fn consume(
    client: BrokerClient<Channel>,
    history: History,
    load: Load,
    queue: &'static str,
    place: Place,
    random: Random,
) {
    let Some(mut consumer) = Consumer::open(client, history, load, queue, place, random).await
    else {
        return;
    };
    while consumer.turn().await.is_some() {}
}

struct Consumer {
    history: History,
    load: Load,
    place: Place,
    random: Random,
    requests: mpsc::Sender<SubscribeRequest>,
    responses: tonic::Streaming<courser_proto::v1::SubscribeResponse>,
    /// What was asked for and not answered: the message, and whether it was an ack.
    asked: HashMap<u64, (Letter, bool)>,
}

impl Consumer {
    async fn open(
        mut client: BrokerClient<Channel>,
        history: History,
        load: Load,
        queue: &str,
        place: Place,
        random: Random,
    ) -> Option<Self> {
        let (requests, outgoing) = mpsc::channel(4);
        let open = Open {
            queue: queue.to_owned(),
            consumer: format!("crash-{queue}"),
            max_messages: 500,
            ..Default::default()
        };
        let kind = Some(subscribe_request::Kind::Open(open));
        requests.send(SubscribeRequest { kind }).await.ok()?;
        let responses = client
            .subscribe(ReceiverStream::new(outgoing))
            .await
            .ok()?
            .into_inner();
        let asked = HashMap::new();
        Some(Self {
            history,
            load,
            place,
            random,
            requests,
            responses,
            asked,
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
        let payload = &delivery
            .message
            .as_ref()
            .expect("a delivery has a message")
            .payload;
        let dead = delivery.dead_letter.is_some();
        let Some(letter) = self.history.delivered(self.place, payload, dead) else {
            return;
        };
        let lease_id = delivery.lease_id;
        let Load {
            nack,
            release,
            dead_letter,
            keep,
            ..
        } = self.load;
        let chance = self.random.within(0..100);
        let mut ack = false;
        if chance < nack {
            let retry_after = self.random.percent(20).then_some(prost_types::Duration {
                seconds: 0,
                nanos: 20_000_000,
            });
            settle.nack.push(Nack {
                lease_id,
                retry_after,
                error: "by chance".to_owned(),
            });
        } else if chance < nack + release {
            settle.release.push(lease_id);
        } else if chance < nack + release + dead_letter && !dead {
            let reason = "by_chance".to_owned();
            settle.dead_letter.push(Reject {
                lease_id,
                reason,
                description: String::new(),
            });
        } else if chance < nack + release + dead_letter + keep {
            return;
        } else {
            ack = true;
            settle.ack.push(lease_id);
            self.history.ack_sent(self.place, letter);
        }
        self.asked.insert(lease_id, (letter, ack));
    }

    fn note(&mut self, settled: &Settled) {
        for lease_id in &settled.ok {
            match self.asked.remove(lease_id) {
                Some((letter, true)) => self.history.acked(self.place, letter),
                Some((_, false)) => {}
                None => self
                    .history
                    .violation(format!("lease {lease_id} was settled unasked")),
            }
        }
        for refused in &settled.refused {
            let asked = self.asked.remove(&refused.lease_id);
            self.history.violation(format!(
                "a lease that is held was refused: {refused:?} {asked:?}"
            ));
        }
    }
}
