//! A request that begins to arrive arrives whole, or is given up.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::Frame;
use tonic::{
    Code, Status,
    body::Body,
    codegen::{Service as _, http},
};

use crate::harness::{Broker, assert_refused, payload, within_time};

/// Sends the beginning of a request, and then nothing, not even its end.
struct Stalls(Option<Bytes>);

impl http_body::Body for Stalls {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.0.take() {
            Some(beginning) => Poll::Ready(Some(Ok(Frame::data(beginning)))),
            None => Poll::Pending,
        }
    }
}

/// Begins a call and answers how it ends.
async fn begin(broker: &Broker, method: &str) -> Status {
    // A flag, a length of 1,000, and one byte of that.
    let beginning = Bytes::from_static(&[0, 0, 0, 0x03, 0xe8, 0x0a]);
    let request = http::Request::post(format!("http://broker/courser.v1.{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(Stalls(Some(beginning))));
    let mut channel = broker.channel();
    poll_fn(|context| channel.poll_ready(context))
        .await
        .unwrap();
    let answer = channel.call(request.unwrap()).await.unwrap();
    Status::from_header_map(answer.headers()).unwrap()
}

#[tokio::test]
async fn a_request_that_stops_half_way_is_given_up() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let calls = async {
        tokio::join!(
            begin(&broker, "Broker/Publish"),
            begin(&broker, "Admin/CreateQueue")
        )
    };
    let (publish, create) = within_time(Duration::from_secs(60), "two refusals", calls).await;
    for status in [publish, create] {
        assert_refused(&status, Code::DeadlineExceeded, "whole");
    }
    broker.publish("orders", "a").await;
    assert_eq!(payload(&broker.pull("orders").await), "a");
}
