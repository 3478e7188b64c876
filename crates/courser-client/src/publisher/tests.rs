use super::*;
use crate::wire::{PublishError, PublishResult};

fn shared(options: PublisherOptions) -> (Publisher, mpsc::UnboundedReceiver<PublishStreamRequest>) {
    let (sender, requests) = mpsc::unbounded_channel();
    (
        Publisher {
            shared: Arc::new(Shared::new(options, sender)),
        },
        requests,
    )
}

fn message(payload: &'static str) -> Message {
    Message {
        topic: "t".to_owned(),
        payload: payload.into(),
        ..Message::default()
    }
}

fn confirm(request: &PublishStreamRequest) -> Confirm {
    let results = request
        .messages
        .iter()
        .zip(1..)
        .map(|(_, position)| PublishResult {
            position: request.number * 100 + position,
            ..PublishResult::default()
        });
    Confirm {
        number: request.number,
        results: results.collect(),
        error: None,
    }
}

fn payloads(request: &PublishStreamRequest) -> Vec<&[u8]> {
    request
        .messages
        .iter()
        .map(|message| &message.payload[..])
        .collect()
}

#[tokio::test]
async fn a_lonely_message_leaves_at_once_and_what_comes_meanwhile_leaves_together() {
    let (publisher, mut requests) = shared(PublisherOptions::default());
    let first = publisher.publish(message("a")).await.unwrap();
    let second = publisher.publish(message("b")).await.unwrap();
    let third = publisher.publish(message("c")).await.unwrap();

    let request = requests.try_recv().unwrap();
    assert_eq!(payloads(&request), [b"a"]);
    assert!(requests.try_recv().is_err());

    publisher.shared.confirm(confirm(&request));
    let request = requests.try_recv().unwrap();
    assert_eq!(payloads(&request), [b"b", b"c"]);
    publisher.shared.confirm(confirm(&request));

    assert_eq!(first.await.unwrap().position, 101);
    assert_eq!(second.await.unwrap().position, 201);
    assert_eq!(third.await.unwrap().position, 202);
}

#[tokio::test]
async fn a_full_batch_does_not_wait_for_the_confirm() {
    let options = PublisherOptions {
        batch_messages: 2,
        ..PublisherOptions::default()
    };
    let (publisher, mut requests) = shared(options);
    for payload in ["a", "b", "c", "d"] {
        let _unread = publisher.publish(message(payload)).await.unwrap();
    }
    assert_eq!(payloads(&requests.try_recv().unwrap()), [b"a"]);
    assert_eq!(payloads(&requests.try_recv().unwrap()), [b"b", b"c"]);
    assert!(requests.try_recv().is_err());
}

#[tokio::test]
async fn a_refused_batch_is_refused_for_each_of_its_messages() {
    let (publisher, mut requests) = shared(PublisherOptions::default());
    let confirmation = publisher.publish(message("a")).await.unwrap();
    let number = requests.try_recv().unwrap().number;
    let error = PublishError {
        code: tonic::Code::FailedPrecondition.into(),
        reason: "UNROUTABLE".to_owned(),
        message: "it would reach no queue".to_owned(),
    };
    publisher.shared.confirm(Confirm {
        number,
        results: Vec::new(),
        error: Some(error),
    });
    assert_eq!(confirmation.await.unwrap_err().reason(), Some("UNROUTABLE"));
    publisher.flush().await.unwrap();
}

#[tokio::test]
async fn a_broken_stream_fails_what_is_on_its_way_and_what_comes_after() {
    let (publisher, _requests) = shared(PublisherOptions::default());
    let sent = publisher.publish(message("a")).await.unwrap();
    let gathering = publisher.publish(message("b")).await.unwrap();
    publisher.shared.fail(&Error::stream_ended());
    assert!(sent.await.unwrap_err().is_unreachable());
    assert!(gathering.await.unwrap_err().is_unreachable());
    assert!(publisher.publish(message("c")).await.is_err());
}

#[tokio::test]
async fn a_message_larger_than_the_window_goes_alone() {
    let options = PublisherOptions {
        bytes_in_flight: 4,
        ..PublisherOptions::default()
    };
    let (publisher, mut requests) = shared(options);
    let _unread = publisher
        .publish(message("larger than four"))
        .await
        .unwrap();
    assert_eq!(requests.try_recv().unwrap().messages.len(), 1);
}

#[tokio::test]
async fn a_batch_counts_all_that_its_messages_have() {
    let options = PublisherOptions {
        bytes_in_flight: 64 * 1024 * 1024,
        batch_messages: 1_000,
        batch_bytes: usize::MAX,
        ..PublisherOptions::default()
    };
    let (publisher, mut requests) = shared(options);
    let large = Message {
        headers: [("key".to_owned(), "x".repeat(17 * 1024))].into(),
        ..message("small")
    };
    for _ in 0..2_001 {
        let _unread = publisher.publish(large.clone()).await.unwrap();
    }
    let mut messages = 0;
    while let Ok(request) = requests.try_recv() {
        messages += request.messages.len();
        let bytes = request.encoded_len();
        assert!(bytes <= BATCH_BYTES_MAX + 16, "{bytes}");
    }
    assert!(messages > 1_900, "two full batches have left: {messages}");
}
