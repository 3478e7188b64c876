//! Calls under way, over all connections: each takes memory, however little is said over it.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::{
    Status,
    body::Body,
    codegen::http::{
        HeaderMap, HeaderName, HeaderValue, Request, Uri,
        header::{CONTENT_TYPE, TE},
    },
};

use crate::{limits, transport::TIMEOUT};

/// Calls under way on one connection, and those of all that have many.
#[derive(Clone, Debug, Default)]
pub(crate) struct UnderWay {
    /// On all connections, without the first few of each.
    all: Arc<AtomicUsize>,
    /// On this one.
    own: Arc<AtomicUsize>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Call {
    under_way: UnderWay,
    /// Whether it counts among all.
    is_one_of_all: bool,
}

impl UnderWay {
    /// Those of another connection.
    pub(crate) fn of_connection(&self) -> Self {
        Self {
            all: Arc::clone(&self.all),
            own: Arc::default(),
        }
    }

    /// Begins a call; `None` when there are too many.
    pub(crate) fn begin(&self) -> Option<Call> {
        let own = self.own.fetch_add(1, Ordering::Relaxed);
        let mut call = Call {
            under_way: self.clone(),
            is_one_of_all: false,
        };
        if own >= limits::CALLS_FREE {
            call.is_one_of_all = true;
            if self.all.fetch_add(1, Ordering::Relaxed) >= limits::CALLS_MAX {
                return None;
            }
        }
        Some(call)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.under_way.own.fetch_sub(1, Ordering::Relaxed);
        if self.is_one_of_all {
            self.under_way.all.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The body of an answer, with whose end the call ends.
#[derive(Debug)]
pub(crate) struct CallBody {
    body: Body,
    _call: Option<Call>,
}

impl CallBody {
    /// None is one that was refused.
    pub(crate) fn new(body: Body, call: Option<Call>) -> Self {
        Self { body, _call: call }
    }
}

impl HttpBody for CallBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What we read of the headers of a call.
const READ: [HeaderName; 5] = [
    CONTENT_TYPE,
    TE,
    TIMEOUT,
    HeaderName::from_static("grpc-encoding"),
    HeaderName::from_static("grpc-accept-encoding"),
];

/// Has a call with many headers keep what we read of them, in memory of its own: all of them, of 16 KiB, would stay until its request
/// has come.
pub(crate) fn keep_little<B>(request: &mut Request<B>) {
    let of_headers = request.headers().iter();
    // As HTTP/2 counts it.
    let bytes: usize = of_headers
        .map(|(n, v)| n.as_str().len() + v.len() + 32)
        .sum();
    let (uri, most) = (request.uri(), limits::CALL_HEADER_BYTES);
    let of_path = uri.path_and_query().map_or(0, |path| path.as_str().len());
    let of_uri = of_path + uri.authority().map_or(0, |name| name.as_str().len());
    if bytes + of_uri <= most {
        return;
    }
    let mut little = HeaderMap::new();
    for name in READ {
        let value = request.headers().get(&name).map(HeaderValue::as_bytes);
        // One that is longer is none that we know.
        if let Some(value) = value.filter(|value| value.len() <= most / 8)
            && let Ok(value) = HeaderValue::from_bytes(value)
        {
            little.insert(name, value);
        }
    }
    let path = uri.path();
    if path.len() <= most
        && let Ok(path) = Uri::try_from(path.to_owned())
    {
        *request.uri_mut() = path;
    }
    *request.headers_mut() = little;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_calls_may_be_under_way_and_a_few_of_each_connection() {
        let first = UnderWay::default();
        let few = limits::CALLS_FREE;
        let mut many: Vec<_> = (0..few + limits::CALLS_MAX)
            .map(|_| first.begin().unwrap())
            .collect();
        assert!(first.begin().is_none());
        let second = first.of_connection();
        let mut others: Vec<_> = (0..few).map(|_| second.begin().unwrap()).collect();
        assert!(second.begin().is_none());
        // With one of those that count among all there is room for one.
        many.pop();
        others.push(second.begin().unwrap());
        assert!(second.begin().is_none());
        // With one of the few there is none: the next may be no more than before.
        others.remove(0);
        assert!(second.begin().is_none());
        drop((many, others));
        let left = [&first.own, &second.own, &first.all].map(|n| n.load(Ordering::Relaxed));
        assert_eq!(left, [0; 3]);
    }

    #[test]
    fn of_many_headers_those_that_are_read_are_kept() {
        let mut request = Request::builder()
            .uri("http://broker/courser.v1.Broker/Publish?query")
            .header("content-type", "application/grpc")
            .header("grpc-timeout", "5S")
            .header("authorization", "x")
            .body(())
            .unwrap();
        keep_little(&mut request);
        assert_eq!(request.headers().len(), 3);
        let long = HeaderValue::from_str(&"y".repeat(limits::CALL_HEADER_BYTES)).unwrap();
        request.headers_mut().insert("authorization", long.clone());
        keep_little(&mut request);
        let kept = ["content-type", "grpc-timeout"].map(|name| &request.headers()[name]);
        assert_eq!(kept, ["application/grpc", "5S"]);
        assert_eq!(request.headers().len(), 2);
        assert_eq!(request.uri(), "/courser.v1.Broker/Publish");
        // And none of them that is too long itself.
        request.headers_mut().insert("grpc-encoding", long);
        keep_little(&mut request);
        assert_eq!(request.headers().len(), 2);
        // A path alone may be too much, and a name.
        let long = format!(
            "/courser.v1.Broker/Publish?{}",
            "z".repeat(limits::CALL_HEADER_BYTES)
        );
        *request.uri_mut() = long.parse().unwrap();
        keep_little(&mut request);
        assert_eq!(request.uri(), "/courser.v1.Broker/Publish");
        let name = "n".repeat(limits::CALL_HEADER_BYTES);
        *request.uri_mut() = format!("http://{name}/courser.v1.Broker/Publish")
            .parse()
            .unwrap();
        keep_little(&mut request);
        assert_eq!(request.uri(), "/courser.v1.Broker/Publish");
    }
}
