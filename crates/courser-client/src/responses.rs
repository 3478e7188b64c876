//! The responses of a stream, put together from the frames that they come in.
//!
//! tonic copies what comes into a buffer that each stream has and keeps, as large as the largest response that it
//! ever had: 1 GB for consumers of 10,000 queues. Here a response has memory of its own, and only that of large ones is
//! kept for a while.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes, BytesMut};
use http_body::Body as _;
use sync_wrapper::SyncWrapper;
use tokio::time::Instant;
use tonic::{Code, Status, body::Body, codegen::http};

use crate::client::MESSAGE_BYTES_MAX;

/// Before each response: whether it is compressed, and how long it is.
const PREFIX_BYTES: usize = 5;
/// The memory of a response from this size on is kept for the next: malloc would ask the kernel for it each time. A stream
/// with such responses is one of few, or of many for a short time.
const KEPT_BYTES: usize = 96 * 1024;
/// It goes with the first smaller one that comes so long after it.
const KEPT_FOR: Duration = Duration::from_secs(5);

/// Makes something of a response.
pub(crate) trait Reader {
    type Response;

    fn read(&mut self, encoded: Bytes) -> Result<Self::Response, Status>;
}

/// What comes over a stream.
#[derive(Debug)]
pub(crate) struct Responses<R> {
    body: SyncWrapper<Body>,
    reader: R,
    parts: Parts,
    /// Its status has come.
    is_over: bool,
}

impl<R: Reader> Responses<R> {
    /// Those of an answer.
    ///
    /// # Errors
    /// The status of an answer that is nothing but one.
    pub(crate) fn new(answer: http::Response<Body>, reader: R) -> Result<Self, Status> {
        let status = Status::from_header_map(answer.headers());
        let is_over = status.is_some();
        if let Some(status) = status
            && status.code() != Code::Ok
        {
            return Err(status);
        }
        if answer.status() != http::StatusCode::OK {
            let problem = format!(
                "this is no gRPC server: it answers HTTP {}",
                answer.status()
            );
            return Err(Status::new(code_of(answer.status()), problem));
        }
        Ok(Self {
            body: SyncWrapper::new(answer.into_body()),
            reader,
            parts: Parts::default(),
            is_over,
        })
    }

    /// The next one; `None` when the stream has ended well. Nothing is lost when this is not awaited to its end.
    ///
    /// # Errors
    /// The status with which the stream ended.
    pub(crate) async fn next(&mut self) -> Result<Option<R::Response>, Status> {
        poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<R::Response>, Status>> {
        loop {
            if let Some(encoded) = self.parts.take()? {
                return Poll::Ready(self.reader.read(encoded).map(Some));
            }
            let Some(frame) = ready!(Pin::new(self.body.get_mut()).poll_frame(context)?) else {
                return Poll::Ready(self.end().map(|()| None));
            };
            match frame.into_data() {
                Ok(data) => self.parts.add(data),
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    let status = Status::from_header_map(&trailers);
                    self.is_over |= status.is_some();
                    return Poll::Ready(match status {
                        Some(status) if status.code() != Code::Ok => Err(status),
                        _ => self.end().map(|()| None),
                    });
                }
            }
        }
    }

    /// Nothing comes any more. Without a status something on the way may have cut it.
    fn end(&self) -> Result<(), Status> {
        self.parts.end()?;
        if !self.is_over {
            return Err(Status::unknown("the stream ended without a status"));
        }
        Ok(())
    }
}

/// What an answer means that is none of gRPC's, as gRPC has it ("HTTP to gRPC status code mapping").
fn code_of(status: http::StatusCode) -> Code {
    match status.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502..=504 => Code::Unavailable,
        _ => Code::Unknown,
    }
}

/// What came and was not read.
#[derive(Debug, Default)]
struct Parts {
    /// The beginning of a response, with the room for all of it.
    begun: BytesMut,
    /// When the last large one came, whose memory is kept.
    large: Option<Instant>,
    /// What came behind that; nothing while it is not whole.
    rest: Bytes,
}

impl Parts {
    /// The next response, if it is there. Otherwise nothing is left in `rest`.
    fn take(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            let is_begun = !self.begun.is_empty();
            let there = if is_begun { &*self.begun } else { &*self.rest };
            let length = length(there)?;
            let whole = PREFIX_BYTES + length.unwrap_or_default();
            if length.is_some() && there.len() >= whole {
                if !is_begun {
                    self.gather(whole);
                }
                let mut taken = self.begun.split();
                taken.advance(PREFIX_BYTES);
                if whole >= KEPT_BYTES {
                    self.large = Some(Instant::now());
                } else if self.large.is_none_or(|at| at.elapsed() >= KEPT_FOR) {
                    self.large = None;
                    self.begun = BytesMut::new();
                }
                return Ok(Some(taken.freeze()));
            }
            if self.rest.is_empty() {
                return Ok(None);
            }
            self.gather(whole);
        }
    }

    /// Gathers what there is of so many bytes.
    fn gather(&mut self, whole: usize) {
        let missing = whole - self.begun.len();
        self.begun.reserve(missing);
        let there = missing.min(self.rest.len());
        self.begun.extend_from_slice(&self.rest.split_to(there));
        if self.rest.is_empty() {
            // The connection goes on reading into the buffer that it came in.
            self.rest = Bytes::new();
        }
    }

    /// More came, after nothing was left in `rest`.
    fn add(&mut self, data: Bytes) {
        self.rest = data;
    }

    /// Nothing comes any more.
    fn end(&self) -> Result<(), Status> {
        if self.begun.is_empty() && self.rest.is_empty() {
            return Ok(());
        }
        Err(Status::internal("the stream ended within a response"))
    }
}

/// The length of the response that begins here, if it is known.
fn length(there: &[u8]) -> Result<Option<usize>, Status> {
    let Some((&[compressed, a, b, c, d], _)) = there.split_first_chunk::<PREFIX_BYTES>() else {
        return Ok(None);
    };
    if compressed != 0 {
        return Err(Status::internal(
            "a response is compressed, which nobody asked for",
        ));
    }
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length > MESSAGE_BYTES_MAX {
        let problem = format!("a response of {length} bytes; the most is {MESSAGE_BYTES_MAX}");
        return Err(Status::out_of_range(problem));
    }
    Ok(Some(length))
}

/// What is read of frames of so many bytes.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn read_frames(all: &[u8], frame: usize) -> Result<Vec<Bytes>, Status> {
    let mut parts = Parts::default();
    let mut taken = Vec::new();
    for frame in all.chunks(frame) {
        parts.add(Bytes::copy_from_slice(frame));
        while let Some(response) = parts.take()? {
            taken.push(response);
        }
    }
    parts.end().map(|()| taken)
}

#[cfg(test)]
mod tests {
    use bytes::BufMut as _;

    use super::*;

    fn encoded(responses: &[&[u8]]) -> Vec<u8> {
        let mut all = Vec::new();
        for response in responses {
            all.put_u8(0);
            all.put_u32(u32::try_from(response.len()).unwrap());
            all.extend_from_slice(response);
        }
        all
    }

    #[test]
    fn responses_are_the_same_however_they_are_cut_into_frames() {
        let large = vec![7; 300];
        let responses: [&[u8]; 5] = [b"one", b"", &large, b"", b"four"];
        let all = encoded(&responses);
        for frame in 1..=all.len() {
            assert_eq!(read_frames(&all, frame).unwrap(), responses, "{frame}");
        }
    }

    struct Whole;

    impl Reader for Whole {
        type Response = Bytes;

        fn read(&mut self, encoded: Bytes) -> Result<Bytes, Status> {
            Ok(encoded)
        }
    }

    #[tokio::test]
    async fn a_stream_that_ends_without_a_status_has_failed() {
        let end = async |status: Option<&'static str>| {
            let mut answer = http::Response::new(Body::empty());
            if let Some(status) = status {
                let status = http::HeaderValue::from_static(status);
                answer.headers_mut().insert("grpc-status", status);
            }
            Responses::new(answer, Whole)?.next().await
        };
        assert_eq!(end(None).await.unwrap_err().code(), Code::Unknown);
        assert_eq!(end(Some("0")).await.unwrap(), None);
        assert_eq!(end(Some("5")).await.unwrap_err().code(), Code::NotFound);
    }

    #[test]
    fn an_answer_of_a_proxy_has_the_code_that_grpc_gives_it() {
        for (status, code) in [(503, Code::Unavailable), (404, Code::Unimplemented)] {
            let mut answer = http::Response::new(Body::empty());
            *answer.status_mut() = http::StatusCode::from_u16(status).unwrap();
            let refused = Responses::new(answer, Whole).map(drop).unwrap_err();
            assert_eq!(refused.code(), code);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_memory_of_large_responses_is_kept_for_a_while() {
        let mut parts = Parts::default();
        let mut keeps_after = |bytes: usize| {
            parts.add(Bytes::from(encoded(&[&vec![7; bytes]])));
            assert_eq!(parts.take().unwrap().unwrap().len(), bytes);
            assert_eq!(parts.take().unwrap(), None);
            parts.begun.try_reclaim(KEPT_BYTES)
        };
        assert!(!keeps_after(KEPT_BYTES / 2));
        assert!(keeps_after(KEPT_BYTES));
        assert!(keeps_after(KEPT_BYTES / 2));
        tokio::time::advance(KEPT_FOR / 2).await;
        assert!(keeps_after(0));
        tokio::time::advance(KEPT_FOR / 2).await;
        assert!(!keeps_after(0));
    }

    #[test]
    fn a_stream_that_ends_within_a_response_has_failed() {
        let all = encoded(&[b"one", b"two"]);
        for end in 1..all.len() {
            let read = read_frames(&all[..end], 3);
            // Between the two it may end.
            assert_eq!(read.is_ok(), end == 8, "{end}: {read:?}");
        }
    }

    #[test]
    fn what_is_compressed_or_too_large_is_refused() {
        let of = |prefix: [u8; 5]| read_frames(&prefix, 5).unwrap_err().code();
        assert_eq!(of([1, 0, 0, 0, 1]), Code::Internal);
        assert_eq!(of([0, 255, 0, 0, 0]), Code::OutOfRange);
    }
}
