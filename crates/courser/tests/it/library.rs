//! The client library against a broker in this process.

use std::{sync::Arc, time::Duration};

use courser::serve::{Broker, Config, Running};
use courser_client::{
    Client, Consumer, ConsumerOptions, Error, Message, PublisherOptions, QueueOptions,
    wire::{QueueStats, SettleOutcome},
};
use tempfile::TempDir;
use tokio::sync::mpsc;

async fn start() -> (Running, Client, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        data_dir: folder.path().to_owned(),
        listen: ([127, 0, 0, 1], 0).into(),
        http: None,
        ..Config::default()
    };
    let running = Broker::start(&config).await.unwrap();
    let client = connect(&running).await;
    client
        .create_queue("q", QueueOptions::default())
        .await
        .unwrap();
    (running, client, folder)
}

async fn connect(running: &Running) -> Client {
    let url = format!("http://{}", running.grpc_addr);
    Client::connect(&url).await.unwrap()
}

fn message(payload: String) -> Message {
    Message {
        topic: "q".to_owned(),
        payload: payload.into(),
        ..Message::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_publishers_share_a_stream_and_many_deliveries_settle_together() {
    let (running, client, _folder) = start().await;
    let publisher = Arc::new(client.publisher(PublisherOptions::default()).await.unwrap());
    let publishing: Vec<_> = (0..8)
        .map(|task| {
            let publisher = Arc::clone(&publisher);
            tokio::spawn(async move {
                let mut confirmations = Vec::new();
                for number in 0..500 {
                    let message = message(format!("{task} {number}"));
                    confirmations.push(publisher.publish(message).await.unwrap());
                }
                for confirmation in confirmations {
                    assert_eq!(confirmation.await.unwrap().queues, 1);
                }
            })
        })
        .collect();
    for task in publishing {
        task.await.unwrap();
    }

    let mut consumer = client.consumer(ConsumerOptions::new("q")).await.unwrap();
    let mut settlements = Vec::new();
    for _ in 0..4_000 {
        settlements.push(consumer.next().await.unwrap().unwrap().ack());
    }
    for settlement in settlements {
        settlement.await.unwrap();
    }
    let stats = client.get_queue("q").await.unwrap().stats.unwrap();
    assert_eq!(
        (stats.ready, stats.leased, stats.acked_total),
        (0, 0, 4_000)
    );
    consumer.close().await;
    running.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_settle_does_what_it_says() {
    let (running, client, _folder) = start().await;
    let publisher = client.publisher(PublisherOptions::default()).await.unwrap();
    for payload in ["nack", "release", "dead", "extend"] {
        publisher
            .publish(message(payload.to_owned()))
            .await
            .unwrap()
            .await
            .unwrap();
    }
    let options = ConsumerOptions {
        max_messages: 4,
        ..ConsumerOptions::new("q")
    };
    let mut consumer = client.consumer(options).await.unwrap();
    let mut deliveries = Vec::new();
    for _ in 0..4 {
        deliveries.push(consumer.next().await.unwrap().unwrap());
    }
    let [nack, release, dead, extend] = deliveries.try_into().unwrap();
    nack.nack(Some(Duration::from_secs(60)), "no")
        .await
        .unwrap();
    dead.dead_letter("invalid", "no such customer")
        .await
        .unwrap();
    extend.extend(Duration::from_secs(60)).await.unwrap();
    extend.ack().await.unwrap();
    release.release().await.unwrap();
    let again = consumer.next().await.unwrap().unwrap();
    assert_eq!(
        (&again.message().payload[..], again.attempt),
        (&b"release"[..], 1)
    );
    again.ack().await.unwrap();

    let stats = client.get_queue("q").await.unwrap().stats.unwrap();
    assert_eq!(
        (stats.ready, stats.leased, stats.delayed, stats.dead),
        (0, 0, 1, 1)
    );
    consumer.close().await;
    running.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_and_a_lost_broker_can_be_told_apart() {
    let (running, client, _folder) = start().await;
    let publisher = client.publisher(PublisherOptions::default()).await.unwrap();
    let wrong = Message {
        topic: "not a topic".to_owned(),
        ..Message::default()
    };
    let refused = publisher.publish(wrong).await.unwrap().await.unwrap_err();
    assert!(refused.code().is_some(), "{refused:?}");
    assert!(!refused.reason().unwrap().is_empty());
    let fine = publisher.publish(message("fine".to_owned())).await.unwrap();
    fine.await.unwrap();

    let mut consumer = client.consumer(ConsumerOptions::new("q")).await.unwrap();
    let delivery = consumer.next().await.unwrap().unwrap();
    let lease_id = delivery.lease_id;
    delivery.ack().await.unwrap();
    let twice = courser_client::wire::Settle {
        ack: vec![lease_id],
        ..Default::default()
    };
    let settled = client.settle(twice).await.unwrap();
    assert_eq!(settled.refused[0].outcome(), SettleOutcome::Unknown);
    assert!(matches!(
        Error::from(settled.refused[0].clone()),
        Error::Settle(_)
    ));

    running.shutdown().await.unwrap();
    assert!(client.get_queue("q").await.unwrap_err().is_unreachable());
}

/// Publishes `count` messages of `bytes` bytes.
async fn publish(client: &Client, count: usize, bytes: usize) {
    let publisher = client.publisher(PublisherOptions::default()).await.unwrap();
    for _ in 0..count {
        let message = message("x".repeat(bytes));
        drop(publisher.publish(message).await.unwrap());
    }
    publisher.flush().await.unwrap();
}

async fn stats(client: &Client) -> QueueStats {
    client.get_queue("q").await.unwrap().stats.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_closes_charges_nothing_to_what_it_never_handed_out() {
    let (running, client, _folder) = start().await;
    publish(&client, 200, 10).await;
    let mut consumer = client.consumer(ConsumerOptions::new("q")).await.unwrap();
    for _ in 0..10 {
        consumer.next().await.unwrap().unwrap().ack().await.unwrap();
    }
    consumer.close().await;
    let after = stats(&client).await;
    assert_eq!(
        (after.ready, after.acked_total, after.disconnected_total),
        (190, 10, 0)
    );
    let mut consumer = client.consumer(ConsumerOptions::new("q")).await.unwrap();
    for _ in 0..190 {
        let delivery = consumer.next().await.unwrap().unwrap();
        assert_eq!(delivery.attempt, 1);
        delivery.ack().await.unwrap();
    }
    consumer.close().await;
    running.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_acks_by_itself_takes_no_more_than_it_is_asked_for() {
    let (running, client, _folder) = start().await;
    publish(&client, 300, 256 * 1024).await;
    let options = ConsumerOptions {
        auto_ack: true,
        ..ConsumerOptions::new("q")
    };
    let silent = client.consumer(options.clone()).await.unwrap();
    while stats(&client).await.delivered_total == 0 {}
    // Another one takes what it can, until nothing is left that the first could have been handed.
    let other = connect(&running).await.consumer(options).await.unwrap();
    let (who, mut came) = mpsc::unbounded_channel();
    tokio::spawn(tell_each(other, "other", who.clone()));
    while stats(&client).await.ready > 0 {}
    tokio::spawn(tell_each(silent, "silent", who));
    let mut ahead = 0;
    for _ in 0..300 {
        ahead += u32::from(came.recv().await == Some("silent"));
    }
    // The windows of its connection were full, and a few batches waited to be looked at.
    assert!(ahead < 100, "{ahead} of 300 came, and nobody asked");
    running.shutdown().await.unwrap();
}

/// Tells whose each message is, until there is no broker.
async fn tell_each(
    mut consumer: Consumer,
    name: &'static str,
    to: mpsc::UnboundedSender<&'static str>,
) {
    while let Ok(Some(_)) = consumer.next().await {
        if to.send(name).is_err() {
            return;
        }
    }
}
