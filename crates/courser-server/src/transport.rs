//! Connections of both sides, from their beginning to their end.

use std::{
    convert::Infallible,
    fmt::Debug,
    future::ready,
    pin::pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{Extension, Router};
use bytes::Bytes;
use courser_engine::tasks;
use courser_executor::TaskExecutor;
use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulConnection},
    service::TowerToHyperService,
};
use tokio::{sync::mpsc, time::timeout};
use tonic::{
    body::Body,
    codegen::{BoxFuture, Service, StdError as BoxError, http},
    service::Routes,
};

use crate::{
    calls::{CallBody, UnderWay, keep_little},
    closing::Signal,
    connection::{Connection, Listener, Way},
    limits,
    status::{takes_too_long, too_many_calls},
};

/// The header with the time that a client gives a call.
pub(crate) const TIMEOUT: http::HeaderName = http::HeaderName::from_static("grpc-timeout");

/// Serves connections of gRPC until `closing` is given, and then those that there are until they have ended.
pub(crate) async fn serve(listener: Listener, routes: Routes, closing: Signal) {
    let (protocol, under_way) = (protocol(), UnderWay::default());
    let serving = |connection: Connection, open| {
        let service = TowerToHyperService::new(Handlers {
            routes: routes.clone(),
            way: connection.way(),
            under_way: under_way.of_connection(),
        });
        let mut protocol = protocol.clone();
        let (of_connection, of_stream) = limits::windows(open);
        protocol
            .initial_connection_window_size(of_connection)
            .initial_stream_window_size(of_stream);
        protocol.serve_connection(TokioIo::new(connection), service)
    };
    serve_each(listener, serving, closing).await;
}

/// The same for the HTTP side. HTTP/2 is spoken too, with one stream: so a client of gRPC hears where it is, and a connection has one
/// answer at a time.
pub(crate) async fn serve_http(listener: Listener, router: Router, closing: Signal) {
    let mut protocol = auto::Builder::new(TaskExecutor);
    protocol
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(1)
        .max_pending_accept_reset_streams(limits::PENDING_ACCEPT_RESET_STREAMS_MAX)
        .max_local_error_reset_streams(limits::LOCAL_ERROR_RESET_STREAMS_MAX)
        .max_header_list_size(limits::HEADER_LIST_BYTES_MAX)
        .initial_stream_window_size(limits::STREAM_WINDOW_BYTES_MIN)
        .initial_connection_window_size(limits::STREAM_WINDOW_BYTES_MIN)
        .adaptive_window(false)
        .keep_alive_interval(limits::KEEPALIVE_INTERVAL)
        .keep_alive_timeout(limits::KEEPALIVE_TIMEOUT);
    let serving = |connection: Connection, _open| {
        let router = router.clone().layer(Extension(connection.way()));
        let service = TowerToHyperService::new(router);
        let serving = protocol.serve_connection(TokioIo::new(connection), service);
        serving.into_owned()
    };
    serve_each(listener, serving, closing).await;
}

/// Has `serving` serve each connection, which it is told with how many there are.
async fn serve_each<S>(
    mut listener: Listener,
    serving: impl Fn(Connection, usize) -> S,
    closing: Signal,
) where
    S: GracefulConnection<Error: Debug + Send> + Send + 'static,
{
    let (open, mut all_ended) = mpsc::channel::<Infallible>(1);
    let mut end = pin!(closing.clone().given());
    loop {
        let connection = tokio::select! {
            () = &mut end => break,
            (connection, _) = listener.next() => connection,
        };
        let serving = serve_connection(serving(connection, listener.open()), closing.clone());
        let open = open.clone();
        tasks::spawn("connection", async move {
            serving.await;
            drop(open);
        });
    }
    drop((listener, open));
    all_ended.recv().await;
}

async fn serve_connection(serving: impl GracefulConnection<Error: Debug + Send>, closing: Signal) {
    let mut serving = pin!(serving);
    let served = tokio::select! {
        served = &mut serving => served,
        () = closing.given() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(?error, "a connection failed");
    }
}

/// HTTP/2 with every protection set by name: several defaults are "no limit". Windows are those of each connection. Connections have no
/// largest age, for the end of a consumer's connection is the end of its leases.
fn protocol() -> http2::Builder<TaskExecutor> {
    let mut protocol = http2::Builder::new(TaskExecutor);
    protocol
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits::STREAMS_PER_CONNECTION_MAX)
        .max_pending_accept_reset_streams(limits::PENDING_ACCEPT_RESET_STREAMS_MAX)
        .max_local_error_reset_streams(limits::LOCAL_ERROR_RESET_STREAMS_MAX)
        .max_header_list_size(limits::HEADER_LIST_BYTES_MAX)
        .max_frame_size(limits::FRAME_BYTES_MAX)
        .adaptive_window(false)
        .max_send_buf_size(limits::SEND_BUFFER_BYTES_MAX)
        .keep_alive_interval(limits::KEEPALIVE_INTERVAL)
        .keep_alive_timeout(limits::KEEPALIVE_TIMEOUT);
    protocol
}

/// The handlers of one connection.
#[derive(Clone, Debug)]
struct Handlers {
    routes: Routes,
    way: Way,
    under_way: UnderWay,
}

impl<Given> Service<http::Request<Given>> for Handlers
where
    Given: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Response = http::Response<CallBody>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Routes are always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Given>) -> Self::Future {
        let Some(call) = self.under_way.begin() else {
            let refused = too_many_calls().into_http();
            return Box::pin(ready(Ok(refused.map(|body| CallBody::new(body, None)))));
        };
        let time = time_of(request.headers());
        let mut request = request.map(Body::new);
        keep_little(&mut request);
        request.extensions_mut().insert(self.way.clone());
        let answering = self.routes.call(request);
        Box::pin(async move {
            let answer = match timeout(time, answering).await {
                Ok(answer) => answer?,
                Err(_) => takes_too_long(time).into_http(),
            };
            Ok(answer.map(|body| CallBody::new(body, Some(call))))
        })
    }
}

/// How long a handler may take until it begins to answer: what the client gives it, and no more than we do.
pub(crate) fn time_of(headers: &http::HeaderMap) -> Duration {
    let given = headers.get(TIMEOUT);
    let given = given.and_then(|time| parse_time(time.as_bytes()));
    given.map_or(limits::HANDLER_TIME_MAX, |given| {
        given.min(limits::HANDLER_TIME_MAX)
    })
}

/// `grpc-timeout` as the protocol writes it: at most eight digits and a unit. `None` for anything else, which
/// counts as no time given.
/// Source: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>
pub(crate) fn parse_time(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count: u64 = str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(count * 3_600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::Pin};

    use http_body::Body as _;
    use tonic::{Code, Status};
    use tonic_types::StatusExt as _;

    use super::*;

    #[test]
    fn the_time_of_a_client_is_read_as_the_protocol_writes_it() {
        for (text, time) in [
            ("2H", Some(Duration::from_secs(7_200))),
            ("3M", Some(Duration::from_secs(180))),
            ("99999999S", Some(Duration::from_secs(99_999_999))),
            ("0m", Some(Duration::ZERO)),
            ("15m", Some(Duration::from_millis(15))),
            ("7u", Some(Duration::from_micros(7))),
            ("8n", Some(Duration::from_nanos(8))),
            ("", None),
            ("S", None),
            ("5", None),
            ("5s", None),
            ("+5S", None),
            ("-5S", None),
            ("123456789S", None),
        ] {
            assert_eq!(parse_time(text.as_bytes()), time, "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_takes_longer_than_its_time_hears_so() {
        let never = Router::new().fallback(std::future::pending::<()>);
        let mut handlers = Handlers {
            routes: never.into(),
            way: Way::default(),
            under_way: UnderWay::default(),
        };
        for (given, seconds) in [(Some("1500m"), 1.5), (None, 300.0), (Some("1H"), 300.0)] {
            let mut request = http::Request::new(Body::empty());
            if let Some(given) = given {
                let given = given.parse().unwrap();
                request.headers_mut().insert("grpc-timeout", given);
            }
            let began = tokio::time::Instant::now();
            let answer = handlers.call(request).await.unwrap();
            let waited = began.elapsed().as_secs_f64();
            assert!((seconds..seconds + 0.1).contains(&waited), "{waited}");
            let status = Status::from_header_map(answer.headers()).unwrap();
            assert_eq!(status.code(), Code::DeadlineExceeded);
            let info = status.get_details_error_info().unwrap();
            assert_eq!(info.reason, "TAKES_TOO_LONG");
        }
    }

    #[tokio::test]
    async fn a_call_keeps_few_of_many_headers() {
        let count = async |headers: http::HeaderMap| headers.len().to_string();
        let mut handlers = Handlers {
            routes: Router::new().fallback(count).into(),
            way: Way::default(),
            under_way: UnderWay::default(),
        };
        for (bytes, kept) in [(10, "2"), (limits::CALL_HEADER_BYTES, "1")] {
            let request = http::Request::builder()
                .header("content-type", "application/grpc")
                .header("much", "x".repeat(bytes))
                .body(Body::empty())
                .unwrap();
            let mut body = handlers.call(request).await.unwrap().into_body();
            let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
            assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), kept);
        }
    }

    #[tokio::test]
    async fn a_call_beyond_those_that_may_be_under_way_hears_so() {
        let answers = Router::new().fallback(async || "here");
        let mut handlers = Handlers {
            routes: answers.into(),
            way: Way::default(),
            under_way: UnderWay::default(),
        };
        let mut call = async || handlers.call(http::Request::new(Body::empty())).await;
        let under_way: Vec<_> = {
            let mut all = Vec::new();
            for _ in 0..limits::CALLS_FREE + limits::CALLS_MAX {
                // Until the body of the answer is gone.
                all.push(call().await.unwrap());
            }
            all
        };
        let refused = call().await.unwrap();
        let status = Status::from_header_map(refused.headers()).unwrap();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(
            status.get_details_error_info().unwrap().reason,
            "TOO_MANY_CALLS"
        );
        drop(under_way);
        let answer = call().await.unwrap();
        assert!(Status::from_header_map(answer.headers()).is_none());
    }

    #[test]
    fn a_handler_has_no_more_time_than_its_limit() {
        let mut headers = http::HeaderMap::new();
        assert_eq!(time_of(&headers), limits::HANDLER_TIME_MAX);
        headers.insert("grpc-timeout", "100H".parse().unwrap());
        assert_eq!(time_of(&headers), limits::HANDLER_TIME_MAX);
        headers.insert("grpc-timeout", "100m".parse().unwrap());
        assert_eq!(time_of(&headers), Duration::from_millis(100));
    }
}
