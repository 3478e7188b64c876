//! The faces from their start to their end.
//!
//! ```text
//! shutdown resolves
//!   health: NOT_SERVING, /readyz: 503      load balancers look elsewhere
//!   gRPC: no more connections, GOAWAY      what is under way goes on
//!   engine: shutdown                       streams end with UNAVAILABLE, publishes are answered
//!   HTTP: no more connections
//!   wait for connections, a bounded time   the last answers go out
//!   cut whatever is left
//! ```

use std::future::Future;

use courser_engine::{BrokerHandle, tasks};
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};
use tonic::service::Routes;
use tonic_health::pb::health_server::{Health, HealthServer};

use crate::{
    ServerOptions,
    answers::Answers,
    arrival::Arrivals,
    closing::Signal,
    connection::{Listener, Patience},
    health::HealthView,
    http, limits,
    service::{AdminFace, AdminService, BrokerFace, BrokerService, InOurWords},
    transport,
};

/// Why the faces ended by themselves.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// What server reflection tells of the contract could not be made.
    #[error("the contract cannot be reflected: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The engine ended while it was served.
    #[error("the broker ended by itself")]
    BrokerEnded,
    /// A task of ours came to harm.
    #[error("a face ended by itself")]
    Ended,
}

/// Serves the broker on `grpc` and, when given, `http`, until `shutdown` resolves; then ends the broker
/// behind `handle` too. Open connections get a few seconds to take their last answers.
///
/// # Errors
/// When a face ends by itself. The broker is ended then as well.
pub async fn serve(
    handle: BrokerHandle,
    options: ServerOptions,
    grpc: TcpListener,
    http: Option<TcpListener>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let signals = Signals::default();
    let health = HealthView::new(handle.clone(), signals.closing.clone());
    let answers = Answers::default();
    let mut faces = Faces {
        grpc: start_grpc(&handle, &options, grpc, &answers, health.clone(), &signals)?,
        http: http
            .map(|http| start_http(&handle, &options, http, answers, health.clone(), &signals)),
    };
    let early = tokio::select! {
        () = shutdown => None,
        error = faces.ended_early() => Some(error),
        () = health.ended() => Some(ServeError::BrokerEnded),
    };
    tracing::debug!("shutting down");
    signals.closing.give();
    handle.shutdown().await;
    signals.ended.give();
    faces.finish(&signals.cut).await;
    early.map_or(Ok(()), Err)
}

/// The steps of the end, in their order.
#[derive(Debug, Default)]
struct Signals {
    /// Nothing new is taken.
    closing: Signal,
    /// The engine has ended.
    ended: Signal,
    /// Connections are cut.
    cut: Signal,
}

/// The tasks that accept and serve.
struct Faces {
    grpc: JoinHandle<Result<(), ServeError>>,
    http: Option<JoinHandle<Result<(), ServeError>>>,
}

impl Faces {
    async fn ended_early(&mut self) -> ServeError {
        let ended = match &mut self.http {
            Some(http) => tokio::select! {
                ended = &mut self.grpc => ended,
                ended = http => ended,
            },
            None => (&mut self.grpc).await,
        };
        ended
            .ok()
            .and_then(Result::err)
            .unwrap_or(ServeError::Ended)
    }

    /// Waits for the connections, and cuts those that take too long.
    async fn finish(mut self, cut: &Signal) {
        if timeout(limits::CLOSING_TIME_MAX, self.ended())
            .await
            .is_err()
        {
            tracing::info!("cutting connections that are still open");
            cut.give();
            if timeout(limits::CUT_TIME_MAX, self.ended()).await.is_err() {
                tracing::warn!("a face did not end");
            }
        }
        self.grpc.abort();
        if let Some(http) = &self.http {
            http.abort();
        }
    }

    async fn ended(&mut self) {
        if !self.grpc.is_finished() {
            drop((&mut self.grpc).await);
        }
        if let Some(http) = &mut self.http
            && !http.is_finished()
        {
            drop(http.await);
        }
    }
}

fn start_grpc(
    handle: &BrokerHandle,
    options: &ServerOptions,
    listener: TcpListener,
    answers: &Answers,
    health: HealthView,
    signals: &Signals,
) -> Result<JoinHandle<Result<(), ServeError>>, ServeError> {
    let (reporter, health_service) = tonic_health::server::health_reporter();
    let routes = services(handle, options, answers, health_service)?;
    tasks::spawn("health", health.report(reporter, signals.ended.clone()));
    let (max, _http) = limits::connections_max(options.files_max);
    if max < limits::GRPC_CONNECTIONS_MAX {
        let files_max = options.files_max;
        tracing::info!(
            files_max,
            max,
            "the limit of open files bounds the connections"
        );
    }
    let cut = signals.cut.clone();
    let listener = Listener::new(listener, max, Patience::Opening, cut);
    let serving = transport::serve(listener, routes, signals.closing.clone());
    Ok(tasks::spawn("grpc", async move {
        serving.await;
        Ok(())
    }))
}

fn services(
    handle: &BrokerHandle,
    options: &ServerOptions,
    answers: &Answers,
    health: HealthServer<impl Health>,
) -> Result<Routes, ServeError> {
    let arrivals = Arrivals::new(limits::arriving_bytes_max(options.max_message_bytes));
    let request_bytes_max = limits::request_bytes_max(options.max_message_bytes);
    let broker = BrokerService::new(handle.clone(), options.max_message_bytes);
    let admin = AdminService::new(handle.clone(), answers.clone(), options.clone());
    let broker = BrokerFace::new(broker, answers.clone(), options.max_message_bytes);
    let admin = AdminFace::new(admin, handle.failure().clone());
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(courser_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let small = limits::SMALL_REQUEST_BYTES_MAX;
    Ok(Routes::default()
        .add_service(arrivals.watch(InOurWords {
            inner: broker,
            request_bytes_max,
            failure: handle.failure().clone(),
        }))
        .add_service(arrivals.watch(answers.watch(InOurWords {
            inner: admin,
            request_bytes_max: limits::ADMIN_REQUEST_BYTES_MAX,
            failure: handle.failure().clone(),
        })))
        .add_service(
            arrivals
                .watch(answers.watch(reflection().build_v1()?.max_decoding_message_size(small))),
        )
        // Many clients know reflection by its old name only: grpcio's, and all from before 2023.
        .add_service(
            arrivals.watch(
                answers.watch(
                    reflection()
                        .build_v1alpha()?
                        .max_decoding_message_size(small),
                ),
            ),
        )
        .add_service(arrivals.watch(answers.watch(health.max_decoding_message_size(small))))
        .prepare())
}

fn start_http(
    handle: &BrokerHandle,
    options: &ServerOptions,
    listener: TcpListener,
    answers: Answers,
    health: HealthView,
    signals: &Signals,
) -> JoinHandle<Result<(), ServeError>> {
    let (_grpc, max) = limits::connections_max(options.files_max);
    let cut = signals.cut.clone();
    let listener = Listener::new(listener, max, Patience::Request, cut);
    let router = http::router(handle.clone(), health, answers, options.version);
    let serving = transport::serve_http(listener, router, signals.ended.clone());
    tasks::spawn("http", async move {
        serving.await;
        Ok(())
    })
}
