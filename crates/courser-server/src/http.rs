//! The HTTP side: metrics and probes.

use axum::{
    Extension, Router,
    body::Body,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use courser_engine::{BrokerHandle, request::Health};
use tokio::{task::spawn_blocking, time::timeout};

use crate::{answers::Answers, connection::Way, health::HealthView, limits, metrics};

const INDEX: &str = "\
Courser, a message broker.

/metrics  figures for Prometheus
/healthz  200 while the process can answer and its store is well
/readyz   200 while the broker takes requests
";

/// What the handlers hold.
#[derive(Clone, Debug)]
struct Face {
    handle: BrokerHandle,
    health: HealthView,
    answers: Answers,
    version: &'static str,
}

/// All there is. Nothing takes a body, and none is read.
pub(crate) fn router(
    handle: BrokerHandle,
    health: HealthView,
    answers: Answers,
    version: &'static str,
) -> Router {
    Router::new()
        .route("/", get(async || INDEX))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(Face {
            handle,
            health,
            answers,
            version,
        })
}

async fn healthz(State(face): State<Face>) -> Response {
    match face.health.now() {
        // A restart makes no room.
        Health::Serving | Health::DiskLow | Health::ShuttingDown => "ok\n".into_response(),
        Health::StoreFailed(reason) => unavailable(&format!("the store has failed: {reason}\n")),
    }
}

async fn readyz(State(face): State<Face>) -> Response {
    match face.health.now() {
        Health::Serving => "ready\n".into_response(),
        Health::DiskLow => unavailable("the disk is nearly full, nothing is published\n"),
        Health::ShuttingDown => unavailable("the broker is shutting down\n"),
        Health::StoreFailed(reason) => unavailable(&format!("the store has failed: {reason}\n")),
    }
}

async fn metrics(Extension(way): Extension<Way>, State(face): State<Face>) -> Response {
    let answers = face.answers.clone();
    match timeout(limits::HTTP_ANSWER_TIME_MAX, metrics_text(face)).await {
        Ok(Some(text)) => {
            let body = Body::new(answers.count(way, Body::from(text)));
            ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], body).into_response()
        }
        Ok(None) => unavailable("the broker is shutting down\n"),
        Err(_) => unavailable("the broker did not answer in time\n"),
    }
}

/// The text is made beside the other tasks, for with many queues it takes a while.
async fn metrics_text(face: Face) -> Option<String> {
    let place = face.answers.place().await;
    let snapshot = face.handle.snapshot().await.ok()?;
    let making = spawn_blocking(move || {
        // It is made to its end, also when nobody waits for it any more.
        let _place = place;
        metrics::text(snapshot, face.version)
    });
    making.await.ok()
}

fn unavailable(reason: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, reason.to_owned()).into_response()
}
