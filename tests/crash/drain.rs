//! The end of a crash test: whatever is left is delivered once and acked, and stays away.

use std::path::Path;

use courser_proto::v1::{
    GetQueueRequest, PullRequest, QueueStats, Settle, SettleRequest, admin_client::AdminClient,
    broker_client::BrokerClient,
};
use tonic::transport::Channel;

use crate::{
    QUEUES,
    broker::Broker,
    history::{History, Place},
};

/// Starts the broker a last time, takes everything, and starts it once more to see that it is empty.
pub(crate) async fn all(folder: &Path, history: &History, round: u64) {
    let mut broker = Broker::start(folder, round).await;
    for (place, (queue, _)) in QUEUES.into_iter().enumerate() {
        one(&broker, history, queue, place).await;
        one(&broker, history, &format!("{queue}.dlq"), place).await;
    }
    broker.kill();
    let broker = Broker::start(folder, round + 1).await;
    for (queue, _) in QUEUES {
        for queue in [queue.to_owned(), format!("{queue}.dlq")] {
            let stats = stats(&mut broker.admin().await, &queue).await;
            if left(&stats) != 0 {
                history.violation(format!("{queue} was drained and holds {stats:?}"));
            }
        }
    }
}

/// Takes and acks what is in a queue until nothing is.
pub(crate) async fn one(broker: &Broker, history: &History, queue: &str, place: Place) {
    let mut client = broker.connect().await.expect("the broker runs");
    let mut admin = broker.admin().await;
    while left(&stats(&mut admin, queue).await) > 0 {
        batch(&mut client, history, queue, place).await;
    }
}

async fn batch(client: &mut BrokerClient<Channel>, history: &History, queue: &str, place: Place) {
    let request = PullRequest {
        queue: queue.to_owned(),
        consumer: "drain".to_owned(),
        max_messages: 1000,
        wait: Some(prost_types::Duration {
            seconds: 1,
            nanos: 0,
        }),
        ..Default::default()
    };
    let deliveries = client.pull(request).await.unwrap().into_inner().deliveries;
    let mut settle = Settle::default();
    let mut letters = Vec::new();
    for delivery in &deliveries {
        let payload = &delivery
            .message
            .as_ref()
            .expect("a delivery has a message")
            .payload;
        if let Some(letter) = history.delivered(place, payload, delivery.dead_letter.is_some()) {
            history.drained(place, letter);
            letters.push(letter);
        }
        settle.ack.push(delivery.lease_id);
    }
    let request = SettleRequest {
        settle: Some(settle),
    };
    let settled = client
        .settle(request)
        .await
        .unwrap()
        .into_inner()
        .settled
        .unwrap();
    if !settled.refused.is_empty() {
        history.violation(format!(
            "the drain of {queue} was refused: {:?}",
            settled.refused
        ));
    }
    for letter in letters {
        history.ack_sent(place, letter);
        history.acked(place, letter);
    }
}

fn left(stats: &QueueStats) -> u64 {
    stats.ready + stats.delayed + stats.leased
}

async fn stats(admin: &mut AdminClient<Channel>, queue: &str) -> QueueStats {
    let request = GetQueueRequest {
        name: queue.to_owned(),
    };
    admin
        .get_queue(request)
        .await
        .unwrap()
        .into_inner()
        .queue
        .unwrap()
        .stats
        .unwrap()
}
