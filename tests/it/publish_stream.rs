//! Pipelined publishing: confirms carry the client's number and come in the order of the requests.

use courser_proto::v1::{Confirm, PublishStreamRequest, PublishStreamResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use crate::harness::{Broker, message, payloads, within};

struct Publisher {
    requests: mpsc::Sender<PublishStreamRequest>,
    responses: Streaming<PublishStreamResponse>,
}

impl Publisher {
    async fn open(broker: &Broker) -> Self {
        let (requests, outgoing) = mpsc::channel(64);
        let opened = broker
            .connect()
            .await
            .publish_stream(ReceiverStream::new(outgoing))
            .await;
        Self {
            requests,
            responses: opened.unwrap().into_inner(),
        }
    }

    async fn send(&self, number: u64, topic: &str, payloads: &[&str]) {
        let messages = payloads
            .iter()
            .map(|payload| message(topic, payload))
            .collect();
        let request = PublishStreamRequest {
            number,
            messages,
            ..Default::default()
        };
        within("the stream to take a request", self.requests.send(request))
            .await
            .unwrap();
    }

    async fn confirms(&mut self, count: usize) -> Vec<Confirm> {
        let mut confirms = Vec::new();
        while confirms.len() < count {
            let response = within("confirms", self.responses.message())
                .await
                .unwrap()
                .unwrap();
            confirms.extend(response.confirms);
        }
        confirms
    }
}

#[tokio::test]
async fn confirms_come_in_the_order_of_the_requests_with_their_numbers() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let mut publisher = Publisher::open(&broker).await;
    // The numbers are the client's affair: here they count down.
    let numbers: Vec<u64> = (0..500).rev().collect();
    let sending = async {
        for number in &numbers {
            publisher.requests.send(request(*number)).await.unwrap();
        }
    };
    within("500 requests to be taken", sending).await;

    let confirms = publisher.confirms(500).await;

    assert_eq!(
        confirms.iter().map(|c| c.number).collect::<Vec<_>>(),
        numbers
    );
    let positions: Vec<_> = confirms.iter().map(|c| c.results[0].position).collect();
    assert!(positions.is_sorted_by(|a, b| a < b));
    let sent: Vec<_> = numbers.iter().map(ToString::to_string).collect();
    assert_eq!(payloads(&broker.pull_n("orders", 500).await), sent);
}

fn request(number: u64) -> PublishStreamRequest {
    let messages = vec![message("orders", &number.to_string())];
    PublishStreamRequest {
        number,
        messages,
        ..Default::default()
    }
}

#[tokio::test]
async fn a_refused_request_is_answered_by_its_number_and_the_stream_goes_on() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let mut publisher = Publisher::open(&broker).await;
    publisher.send(1, "orders", &["a"]).await;
    publisher.send(2, "no topic", &["b", "c"]).await;
    publisher.send(3, "orders", &[]).await;
    let unroutable = PublishStreamRequest {
        number: 4,
        messages: vec![message("nobody.listens", "d")],
        mandatory: true,
        ..Default::default()
    };
    publisher.requests.send(unroutable).await.unwrap();
    publisher.send(5, "orders", &["e", "f"]).await;

    let confirms = publisher.confirms(5).await;

    assert_eq!(
        confirms.iter().map(|c| c.number).collect::<Vec<_>>(),
        [1, 2, 3, 4, 5]
    );
    let results: Vec<_> = confirms.iter().map(|c| c.results.len()).collect();
    assert_eq!(results, [1, 0, 0, 0, 2]);
    let codes: Vec<_> = confirms
        .iter()
        .map(|c| c.error.as_ref().map(|error| Code::from(error.code)))
        .collect();
    let invalid = Some(Code::InvalidArgument);
    assert_eq!(
        codes,
        [None, invalid, invalid, Some(Code::FailedPrecondition), None]
    );
    let error = confirms[1].error.as_ref().unwrap();
    assert!(
        error.message.contains("topic") && !error.reason.is_empty(),
        "{error:?}"
    );
    assert_eq!(payloads(&broker.pull_n("orders", 3).await), ["a", "e", "f"]);
}

#[tokio::test]
async fn a_publisher_that_closes_its_side_hears_every_confirm_and_then_the_end() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let mut publisher = Publisher::open(&broker).await;
    for number in 0..50 {
        publisher.send(number, "orders", &["x"]).await;
    }
    let (closed, _) = mpsc::channel(1);
    publisher.requests = closed;
    assert_eq!(publisher.confirms(50).await.len(), 50);
    let end = within("the end of the stream", publisher.responses.message())
        .await
        .unwrap();
    assert_eq!(end, None);
}
