//! Bad input of every kind: the code, the field that is wrong, and no harm done.

use courser_proto::v1::{
    Backoff, Binding, CreateQueueRequest, DeleteQueueRequest, GetQueueRequest, ListQueuesRequest,
    Message, Open, PeekEntriesRequest, PublishRequest, PullRequest, PurgeQueueRequest,
    QueueOptions, RedriveEntriesRequest, Settle, SubscribeRequest, WatchStatsRequest,
    subscribe_request,
};
use tonic::{Code, Request};

use crate::harness::{
    Broker, assert_refused, message, open, payload, pull_request, seconds, within,
};

fn duration(seconds: i64, nanos: i32) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos }
}

fn long(bytes: usize) -> String {
    "x".repeat(bytes)
}

#[tokio::test]
async fn bad_messages_name_their_field() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let good = || message("orders", "x");
    let with = |change: &dyn Fn(&mut Message)| {
        let mut message = good();
        change(&mut message);
        message
    };
    let topic = |topic: &str| Message {
        topic: topic.to_owned(),
        ..good()
    };
    let headers = |pairs: Vec<(String, String)>| Message {
        headers: pairs.into_iter().collect(),
        ..good()
    };
    let many = (0..101).map(|n| (n.to_string(), String::new())).collect();
    let table: Vec<(&str, Message)> = vec![
        ("topic", topic("")),
        ("topic", topic("two words")),
        ("topic", topic("a..b")),
        ("topic", topic(".a")),
        ("topic", topic("a.")),
        ("topic", topic("order.*")),
        ("topic", topic("#")),
        ("topic", topic("$system")),
        ("topic", topic("tab\there")),
        ("topic", topic("nul\0here")),
        ("topic", topic(&long(256))),
        ("id", with(&|m| m.id = long(257))),
        ("headers", headers(many)),
        ("headers", headers(vec![(String::new(), "x".to_owned())])),
        ("headers", headers(vec![(long(257), "x".to_owned())])),
        (
            "headers",
            headers(vec![
                ("a".to_owned(), long(40_000)),
                ("b".to_owned(), long(40_000)),
            ]),
        ),
        ("content_type", with(&|m| m.content_type = long(257))),
        ("type", with(&|m| m.r#type = long(257))),
        ("source", with(&|m| m.source = long(257))),
        ("schema_version", with(&|m| m.schema_version = long(257))),
        ("correlation_id", with(&|m| m.correlation_id = long(257))),
        ("causation_id", with(&|m| m.causation_id = long(257))),
        ("traceparent", with(&|m| m.traceparent = long(257))),
        ("position", with(&|m| m.position = 1)),
        (
            "published_at",
            with(&|m| m.published_at = Some(prost_types::Timestamp::default())),
        ),
    ];
    for (field, bad) in table {
        let refused = broker.try_publish(vec![good(), bad]).await.unwrap_err();
        assert_refused(
            &refused,
            Code::InvalidArgument,
            &format!("messages[1].{field}"),
        );
    }
    broker.assert_nothing_ready("orders").await;
    // The edges themselves are fine.
    broker
        .create_with(&long(255), crate::harness::without_dead_letters())
        .await;
    broker
        .try_publish(vec![topic(&long(255)), with(&|m| m.id = long(256))])
        .await
        .unwrap();
}

#[tokio::test]
async fn bad_publishes_name_their_field() {
    let broker = Broker::start().await;
    let refused = broker.try_publish(vec![]).await.unwrap_err();
    assert_refused(&refused, Code::InvalidArgument, "messages");
    let refused = broker
        .try_publish(vec![message("a", "x"); 1001])
        .await
        .unwrap_err();
    assert_refused(&refused, Code::InvalidArgument, "messages");
    let request = PublishRequest {
        messages: vec![message("a", "x")],
        durability: 99,
        ..Default::default()
    };
    let refused = broker.broker.clone().publish(request).await.unwrap_err();
    assert_refused(&refused, Code::InvalidArgument, "durability");
}

#[tokio::test]
async fn bad_queues_name_their_field() {
    let broker = Broker::start().await;
    let name = |name: &str| (name.to_owned(), QueueOptions::default());
    let options = |options: QueueOptions| ("orders".to_owned(), options);
    let lease = |lease| {
        options(QueueOptions {
            lease: Some(lease),
            ..Default::default()
        })
    };
    let backoff = |backoff| {
        options(QueueOptions {
            backoff: Some(backoff),
            ..Default::default()
        })
    };
    let pattern = |pattern: &str| {
        let bindings = vec![Binding {
            pattern: pattern.to_owned(),
        }];
        options(QueueOptions {
            bindings,
            ..Default::default()
        })
    };
    let bindings: Vec<_> = (0..1001)
        .map(|n| Binding {
            pattern: format!("a.{n}"),
        })
        .collect();
    let initial = |initial| {
        backoff(Backoff {
            initial: Some(initial),
            ..Default::default()
        })
    };
    let table = [
        ("name", name("")),
        ("name", name("two words")),
        ("name", name("a.*")),
        ("name", name("orders.dlq")),
        ("name", name("$orders")),
        ("name", name(&long(256))),
        ("options.lease", lease(duration(0, 999_000_000))),
        ("options.lease", lease(duration(0, 0))),
        ("options.lease", lease(duration(12 * 3600, 1_000_000))),
        ("options.lease", lease(duration(-30, 0))),
        ("options.lease", lease(duration(30, -1))),
        ("options.lease", lease(duration(30, 1_000_000_000))),
        ("options.lease", lease(duration(i64::MAX, 0))),
        (
            "options.max_attempts",
            options(QueueOptions {
                max_attempts: Some(1001),
                ..Default::default()
            }),
        ),
        // What -1 becomes when a client casts it.
        (
            "options.max_attempts",
            options(QueueOptions {
                max_attempts: Some(u32::MAX),
                ..Default::default()
            }),
        ),
        ("options.backoff.initial", initial(duration(-1, 0))),
        (
            "options.backoff.initial",
            initial(duration(24 * 3600 + 1, 0)),
        ),
        (
            "options.backoff.max",
            backoff(Backoff {
                initial: Some(seconds(9)),
                max: Some(seconds(8)),
                ..Default::default()
            }),
        ),
        (
            "options.backoff.multiplier",
            backoff(Backoff {
                multiplier: 0.5,
                ..Default::default()
            }),
        ),
        (
            "options.backoff.multiplier",
            backoff(Backoff {
                multiplier: 11.0,
                ..Default::default()
            }),
        ),
        (
            "options.backoff.multiplier",
            backoff(Backoff {
                multiplier: f64::NAN,
                ..Default::default()
            }),
        ),
        (
            "options.backoff.jitter",
            backoff(Backoff {
                jitter: Some(1.5),
                ..Default::default()
            }),
        ),
        (
            "options.backoff.jitter",
            backoff(Backoff {
                jitter: Some(-0.1),
                ..Default::default()
            }),
        ),
        (
            "options.backoff.jitter",
            backoff(Backoff {
                jitter: Some(f64::INFINITY),
                ..Default::default()
            }),
        ),
        (
            "options.durability",
            options(QueueOptions {
                durability: 99,
                ..Default::default()
            }),
        ),
        (
            "options.bindings",
            options(QueueOptions {
                bindings,
                ..Default::default()
            }),
        ),
        ("options.bindings[0].pattern", pattern("")),
        ("options.bindings[0].pattern", pattern("a.b*")),
        ("options.bindings[0].pattern", pattern("a..b")),
        ("options.bindings[0].pattern", pattern("a b")),
        ("options.bindings[0].pattern", pattern("$sys.#")),
        ("options.bindings[0].pattern", pattern(&long(256))),
    ];
    for (field, (name, options)) in table {
        let request = CreateQueueRequest {
            name,
            options: Some(options),
        };
        let shown = format!("{request:?}").chars().take(200).collect::<String>();
        match broker.admin.clone().create_queue(request).await {
            Ok(_) => panic!("taken: {shown}"),
            Err(refused) => assert_refused(&refused, Code::InvalidArgument, field),
        }
    }
    let list = broker
        .admin
        .clone()
        .list_queues(ListQueuesRequest::default())
        .await
        .unwrap();
    assert_eq!(list.into_inner().queues, []);
}

#[tokio::test]
async fn bad_consumers_name_their_field() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let table = [
        (
            "queue",
            Code::InvalidArgument,
            Open {
                queue: String::new(),
                ..open("")
            },
        ),
        ("nowhere", Code::NotFound, open("nowhere")),
        (
            "consumer",
            Code::InvalidArgument,
            Open {
                consumer: long(257),
                ..open("orders")
            },
        ),
        (
            "max_messages",
            Code::InvalidArgument,
            Open {
                max_messages: 10_001,
                ..open("orders")
            },
        ),
        (
            "max_messages",
            Code::InvalidArgument,
            Open {
                max_messages: u32::MAX,
                ..open("orders")
            },
        ),
        (
            "max_bytes",
            Code::InvalidArgument,
            Open {
                max_bytes: (256 << 20) + 1,
                ..open("orders")
            },
        ),
        (
            "lease",
            Code::InvalidArgument,
            Open {
                lease: Some(duration(0, 1)),
                ..open("orders")
            },
        ),
        (
            "lease",
            Code::InvalidArgument,
            Open {
                lease: Some(duration(-1, 0)),
                ..open("orders")
            },
        ),
        (
            "lease",
            Code::InvalidArgument,
            Open {
                lease: Some(seconds(50_000)),
                ..open("orders")
            },
        ),
    ];
    for (field, code, bad) in table {
        let refused = match broker.try_subscribe(bad).await {
            Ok(consumer) => consumer.end().await,
            Err(status) => status,
        };
        assert_refused(&refused, code, field);
    }
    assert_eq!(broker.stats("orders").await.consumers, []);
}

#[tokio::test]
async fn a_subscription_begins_with_open_and_opens_once() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let settle = || SubscribeRequest {
        kind: Some(subscribe_request::Kind::Settle(Settle {
            ack: vec![1],
            ..Default::default()
        })),
    };
    for first in [settle(), SubscribeRequest { kind: None }] {
        let stream = tokio_stream::iter([first]);
        let refused = match broker.connect().await.subscribe(stream).await {
            Ok(answer) => within("an end", answer.into_inner().message())
                .await
                .unwrap_err(),
            Err(status) => status,
        };
        assert_refused(&refused, Code::InvalidArgument, "open");
    }
    let consumer = broker.subscribe("orders").await;
    let again = SubscribeRequest {
        kind: Some(subscribe_request::Kind::Open(open("orders"))),
    };
    consumer.requests.send(again).await.unwrap();
    assert_refused(&consumer.end().await, Code::InvalidArgument, "open");
}

#[tokio::test]
async fn bad_pulls_name_their_field() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let pull = || pull_request("orders");
    let table = [
        (
            "queue",
            PullRequest {
                queue: String::new(),
                ..pull()
            },
        ),
        (
            "consumer",
            PullRequest {
                consumer: long(257),
                ..pull()
            },
        ),
        (
            "max_messages",
            PullRequest {
                max_messages: 1001,
                ..pull()
            },
        ),
        (
            "max_bytes",
            PullRequest {
                max_bytes: (16 << 20) + 1,
                ..pull()
            },
        ),
        (
            "wait",
            PullRequest {
                wait: Some(duration(60, 1_000_000)),
                ..pull()
            },
        ),
        (
            "wait",
            PullRequest {
                wait: Some(duration(-1, 0)),
                ..pull()
            },
        ),
        (
            "lease",
            PullRequest {
                lease: Some(duration(0, 0)),
                ..pull()
            },
        ),
    ];
    for (field, bad) in table {
        let refused = broker.try_pull(bad).await.unwrap_err();
        assert_refused(&refused, Code::InvalidArgument, field);
    }
}

#[tokio::test]
async fn queues_that_do_not_exist_are_named() {
    let broker = Broker::start().await;
    let name = || "nowhere".to_owned();
    let mut admin = broker.admin.clone();
    let refused = [
        admin
            .get_queue(GetQueueRequest { name: name() })
            .await
            .unwrap_err(),
        admin
            .delete_queue(DeleteQueueRequest {
                name: name(),
                if_empty: false,
            })
            .await
            .unwrap_err(),
        admin
            .purge_queue(PurgeQueueRequest {
                name: name(),
                limit: 0,
            })
            .await
            .unwrap_err(),
        admin
            .pause_queue(courser_proto::v1::PauseQueueRequest { name: name() })
            .await
            .unwrap_err(),
        admin
            .resume_queue(courser_proto::v1::ResumeQueueRequest { name: name() })
            .await
            .unwrap_err(),
        admin
            .peek_entries(PeekEntriesRequest {
                queue: name(),
                ..Default::default()
            })
            .await
            .unwrap_err(),
        admin
            .redrive_entries(RedriveEntriesRequest {
                queue: name(),
                ..Default::default()
            })
            .await
            .unwrap_err(),
        admin
            .update_queue(courser_proto::v1::UpdateQueueRequest {
                name: name(),
                options: Some(QueueOptions::default()),
                update_mask: Some(prost_types::FieldMask {
                    paths: vec!["lease".to_owned()],
                }),
            })
            .await
            .unwrap_err(),
    ];
    for status in refused {
        assert_refused(&status, Code::NotFound, "nowhere");
    }
}

#[tokio::test]
async fn bad_administration_names_its_field() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let mut admin = broker.admin.clone();
    let peek = |limit, state| PeekEntriesRequest {
        queue: "orders".to_owned(),
        limit,
        state,
        ..Default::default()
    };
    let refused = admin.peek_entries(peek(1001, 0)).await.unwrap_err();
    assert_refused(&refused, Code::InvalidArgument, "limit");
    let refused = admin.peek_entries(peek(1, 99)).await.unwrap_err();
    assert_refused(&refused, Code::InvalidArgument, "state");
    let list = ListQueuesRequest {
        page_size: 1001,
        ..Default::default()
    };
    let refused = admin.list_queues(list).await.unwrap_err();
    assert_refused(&refused, Code::InvalidArgument, "page_size");
    let redrive = RedriveEntriesRequest {
        queue: "orders.dlq".to_owned(),
        entry_ids: (1..=1001).collect(),
        ..Default::default()
    };
    let refused = admin.redrive_entries(redrive).await.unwrap_err();
    assert_refused(&refused, Code::InvalidArgument, "entry_ids");
    let watch = WatchStatsRequest {
        queues: vec!["orders".to_owned(); 1001],
    };
    let refused = match admin.watch_stats(watch).await {
        Ok(answer) => answer.into_inner().message().await.unwrap_err(),
        Err(status) => status,
    };
    assert_refused(&refused, Code::InvalidArgument, "queues");
    let delete = DeleteQueueRequest {
        name: "orders.dlq".to_owned(),
        if_empty: false,
    };
    let refused = admin.delete_queue(delete).await.unwrap_err();
    assert_refused(&refused, Code::FailedPrecondition, "orders");
}

#[tokio::test]
async fn a_header_block_that_is_too_large_is_refused_and_harms_nobody() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let mut request = Request::new(pull_request("orders"));
    for n in 0..40 {
        let key: tonic::metadata::MetadataKey<_> = format!("x-large-{n}").parse().unwrap();
        request
            .metadata_mut()
            .insert(key, long(1000).parse().unwrap());
    }
    let answer = within("a refusal", broker.connect().await.pull(request)).await;
    assert!(answer.is_err(), "{answer:?}");
    broker.publish("orders", "a").await;
    assert_eq!(payload(&broker.pull("orders").await), "a");
}

#[tokio::test]
async fn bytes_that_are_no_grpc_harm_nobody() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let broker = Broker::start().await;
    broker.create("orders").await;
    for bytes in [
        &b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..],
        &[0xff; 4096],
        &[0; 100],
    ] {
        let mut stream = tokio::net::TcpStream::connect(broker.grpc).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        // The broker closes the connection; whether it says why is its own affair.
        drop(
            within(
                "the connection to be closed",
                stream.read_to_end(&mut answer),
            )
            .await,
        );
    }
    broker.publish("orders", "a").await;
    assert_eq!(payload(&broker.pull("orders").await), "a");
}
