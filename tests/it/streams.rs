//! Streams tell that they are alive; one that never opens, or whose client is gone without a word, does
//! not last.

use std::{net::SocketAddr, time::Duration};

use courser_proto::v1::{Open, SubscribeRequest, subscribe_response};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::harness::{
    Broker, Consumer, assert_refused, message, open, payload, seconds, subscribe_by, within,
    within_time,
};

/// Both take their time, so they wait side by side.
#[tokio::test]
async fn an_idle_consumer_hears_a_heartbeat_and_a_stream_that_never_opens_is_ended() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let mut consumer = broker.subscribe("orders").await;
    tokio::join!(hears_a_heartbeat(&mut consumer), is_ended(&broker));
    broker.publish("orders", "a").await;
    assert_eq!(
        payload(&consumer.next().await),
        "a",
        "the consumer is served on"
    );
}

async fn hears_a_heartbeat(consumer: &mut Consumer) {
    let response = within("a heartbeat", consumer.responses.message())
        .await
        .unwrap()
        .unwrap();
    assert!(
        matches!(response.kind, Some(subscribe_response::Kind::Heartbeat(_))),
        "{response:?}"
    );
}

async fn is_ended(broker: &Broker) {
    let (_requests, outgoing) = mpsc::channel::<SubscribeRequest>(1);
    let status = match broker
        .connect()
        .await
        .subscribe(ReceiverStream::new(outgoing))
        .await
    {
        Ok(response) => {
            let mut responses = response.into_inner();
            within("the end of the stream", responses.message())
                .await
                .unwrap_err()
        }
        Err(status) => status,
    };
    assert_refused(&status, Code::DeadlineExceeded, "open");
}

#[tokio::test]
async fn a_consumer_that_says_nothing_more_after_opening_is_still_served() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let mut consumer = broker.subscribe("orders").await;
    for text in ["a", "b", "c"] {
        broker.publish("orders", text).await;
        assert_eq!(payload(&consumer.next().await), text);
    }
    assert_eq!(broker.stats("orders").await.leased, 3);
}

#[tokio::test]
async fn a_publisher_that_reads_no_confirms_is_slowed_and_nobody_else_is() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let mut client = broker.connect().await;
    let (requests, outgoing) = mpsc::channel(1);
    let confirms = client
        .publish_stream(ReceiverStream::new(outgoing))
        .await
        .unwrap();
    let flood = tokio::spawn(async move {
        let body = "x".repeat(1024);
        for number in 0.. {
            let messages = vec![message("orders", &body); 100];
            let request = courser_proto::v1::PublishStreamRequest {
                number,
                messages,
                ..Default::default()
            };
            if requests.send(request).await.is_err() {
                break;
            }
        }
    });
    broker
        .wait_for_stats("orders", "the flood to begin", |s| s.ready >= 1000)
        .await;
    // Others are served beside it.
    broker.create("invoices").await;
    broker.publish("invoices", "a").await;
    assert_eq!(payload(&broker.pull("invoices").await), "a");
    flood.abort();
    drop(confirms);
}

/// Between a client and the broker: passes bytes on until it is told to fall silent, and then keeps both
/// connections open, as a machine that lost its power does.
async fn proxy(broker: SocketAddr) -> (SocketAddr, oneshot::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (silence, silent) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = TcpStream::connect(broker).await.unwrap();
        tokio::select! {
            _ = copy_bidirectional(&mut client, &mut server) => {}
            _ = silent => std::future::pending().await,
        }
    });
    (address, silence)
}

#[tokio::test]
async fn a_client_that_is_gone_without_a_word_gives_back_what_it_held() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    broker.publish("orders", "a").await;
    let (address, silence) = proxy(broker.grpc).await;
    let patient = Open {
        lease: Some(seconds(3600)),
        ..open("orders")
    };
    let mut gone = subscribe_by(address, patient).await;
    assert_eq!(payload(&gone.next().await), "a");
    silence.send(()).unwrap();

    // Longer than it takes the broker's pings to go unanswered, and far less than the lease.
    let lease_back = async {
        while broker.stats("orders").await.leased > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    within_time(
        Duration::from_secs(60),
        "the lease to be given back",
        lease_back,
    )
    .await;
    let stats = broker.stats("orders").await;
    assert_eq!((stats.ready, stats.disconnected_total), (1, 1));
    let again = broker.pull("orders").await;
    assert_eq!((payload(&again), again.attempt), ("a".to_owned(), 2));
    assert_eq!(broker.stats("orders").await.consumers.len(), 0);
}
