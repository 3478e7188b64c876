//! What the broker shows beside its own services: metrics, probes, health, reflection, figures.

use courser_proto::v1::{GetServerInfoRequest, WatchStatsRequest};
use tokio_stream::once;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::harness::{Broker, ack, assert_refused, at_once, nack, release, within};

#[tokio::test]
async fn metrics_tell_the_figures_of_each_queue() {
    let broker = Broker::start().await;
    let mut options = at_once();
    options.max_attempts = Some(1);
    broker.create_with("orders", options).await;
    broker.publish_all("orders", &["a", "b", "c", "d"]).await;
    let held = broker.pull_n("orders", 3).await;
    broker.settle(ack(&held[0])).await;
    broker.settle(nack(&held[1], "no")).await;

    for (metric, value) in [
        ("courser_queue_ready", 1.0),
        ("courser_queue_leased", 1.0),
        ("courser_queue_delayed", 0.0),
        ("courser_queue_dead", 1.0),
        ("courser_queue_published_total", 4.0),
        ("courser_queue_delivered_total", 3.0),
        ("courser_queue_acked_total", 1.0),
        ("courser_queue_nacked_total", 1.0),
        ("courser_queue_time_in_queue_seconds_count", 3.0),
        ("courser_queue_processing_time_seconds_count", 1.0),
        ("courser_queue_end_to_end_time_seconds_count", 1.0),
    ] {
        assert_eq!(
            broker.metric(metric, "orders").await,
            Some(value),
            "{metric}"
        );
    }
    assert!(
        broker
            .metric("courser_queue_oldest_ready_age_seconds", "orders")
            .await
            .unwrap()
            > 0.0
    );
    assert!(
        broker
            .metric("courser_queue_oldest_leased_age_seconds", "orders")
            .await
            .unwrap()
            > 0.0
    );
    assert!(
        broker
            .metric("courser_queue_bytes", "orders")
            .await
            .unwrap()
            > 0.0
    );
    let (status, text) = broker.get("/metrics").await;
    assert_eq!(status, 200);
    let dead = r#"courser_queue_dead_lettered_total{queue="orders",reason="max_attempts"} 1"#;
    assert!(text.contains(dead), "{text}");
    for metric in [
        "courser_commit_duration_seconds_bucket",
        "courser_store_log_bytes",
    ] {
        assert!(text.contains(metric), "{metric} is missing");
    }
    broker.settle(release(&held[2])).await;
    assert_eq!(
        broker.metric("courser_queue_ready", "orders").await,
        Some(2.0)
    );
}

#[tokio::test]
async fn metrics_are_well_formed() {
    let broker = Broker::start().await;
    broker.create("a.queue").await;
    broker.publish("a.queue", "x").await;
    let (_, text) = broker.get("/metrics").await;
    assert!(text.ends_with("# EOF\n"));
    let mut families = std::collections::HashSet::new();
    for line in text.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            assert!(
                families.insert(family.split(' ').next().unwrap()),
                "twice: {line}"
            );
        } else if !line.starts_with('#') {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(name.starts_with("courser_"), "{line}");
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
}

#[tokio::test]
async fn the_same_figures_come_over_grpc() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    broker.publish_all("orders", &["a", "b"]).await;
    let held = broker.pull("orders").await;
    broker.settle(ack(&held)).await;
    let stats = broker.stats("orders").await;
    assert_eq!(
        (stats.published_total, stats.acked_total, stats.ready),
        (2, 1, 1)
    );
    assert!(stats.oldest_ready_age.is_some() && stats.oldest_leased_age.is_none());
    assert!(stats.bytes > 0);
    let times = [
        stats.time_in_queue,
        stats.processing_time,
        stats.end_to_end_time,
    ];
    for time in times {
        let time = time.unwrap();
        assert_eq!(time.count, 1);
        assert!(time.p50.is_some() && time.p95.is_some() && time.p99.is_some());
    }
}

#[tokio::test]
async fn watching_tells_the_figures_now_and_every_second() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let watch = |queue: &str| WatchStatsRequest {
        queues: vec![queue.to_owned()],
    };
    let mut admin = broker.admin.clone();
    let mut stats = admin
        .watch_stats(watch("orders"))
        .await
        .unwrap()
        .into_inner();
    let first = within("the figures now", stats.message())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(first.queues[0].stats.as_ref().unwrap().ready, 0);
    broker.publish("orders", "a").await;
    let next = within("the figures a second later", stats.message())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(next.queues[0].stats.as_ref().unwrap().ready, 1);

    let refused = match admin.watch_stats(watch("nowhere")).await {
        Ok(stats) => stats.into_inner().message().await.unwrap_err(),
        Err(status) => status,
    };
    assert_refused(&refused, Code::NotFound, "nowhere");
}

#[tokio::test]
async fn probes_answer_over_http() {
    let broker = Broker::start().await;
    assert_eq!(broker.get("/healthz").await.0, 200);
    assert_eq!(broker.get("/readyz").await.0, 200);
    assert_eq!(broker.get("/nothing").await.0, 404);
}

#[tokio::test]
async fn health_answers_over_grpc() {
    let broker = Broker::start().await;
    let mut health = HealthClient::new(broker.channel());
    for service in ["", "courser.v1.Broker", "courser.v1.Admin"] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    let unknown = HealthCheckRequest {
        service: "courser.v1.Nothing".to_owned(),
    };
    assert_eq!(
        health.check(unknown).await.unwrap_err().code(),
        Code::NotFound
    );
}

/// What every client must find, whichever name of reflection it knows.
#[track_caller]
fn assert_all_services(names: &[String]) {
    for name in [
        "courser.v1.Broker",
        "courser.v1.Admin",
        "grpc.health.v1.Health",
    ] {
        assert!(
            names.iter().any(|listed| listed == name),
            "{name} is not in {names:?}"
        );
    }
}

#[tokio::test]
async fn the_contract_can_be_reflected() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let broker = Broker::start().await;
    let mut reflection = ServerReflectionClient::new(broker.channel());
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers = reflection.server_reflection_info(once(request)).await;
    let mut answers = answers.unwrap().into_inner();
    let answer = within("the services", answers.message()).await.unwrap();
    let list = match answer.unwrap().message_response {
        Some(MessageResponse::ListServicesResponse(list)) => list.service,
        other => panic!("no list of services: {other:?}"),
    };
    let names: Vec<_> = list.into_iter().map(|service| service.name).collect();
    assert_all_services(&names);
}

/// Many clients know only this one.
#[tokio::test]
async fn the_contract_can_be_reflected_by_the_older_name_of_reflection() {
    use tonic_reflection::pb::v1alpha::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let broker = Broker::start().await;
    let mut reflection = ServerReflectionClient::new(broker.channel());
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers = reflection.server_reflection_info(once(request)).await;
    let mut answers = answers.unwrap().into_inner();
    let answer = within("the services", answers.message()).await.unwrap();
    let list = match answer.unwrap().message_response {
        Some(MessageResponse::ListServicesResponse(list)) => list.service,
        other => panic!("no list of services: {other:?}"),
    };
    let names: Vec<_> = list.into_iter().map(|service| service.name).collect();
    assert_all_services(&names);
}

#[tokio::test]
async fn the_broker_tells_about_itself() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let last = broker.publish("orders", "a").await.position;
    let info = broker
        .admin
        .clone()
        .get_server_info(GetServerInfoRequest {})
        .await
        .unwrap();
    let info = info.into_inner();
    assert_eq!((info.queues, info.last_position), (2, last));
    assert_eq!(
        (info.store_failure.as_str(), info.max_message_bytes),
        ("", 4 << 20)
    );
    assert!(!info.version.is_empty() && info.started_at.is_some() && info.log_bytes > 0);
}
