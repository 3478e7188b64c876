//! The responses of a stream, put together from the frames that they come in.
//!
//! In a buffer of tonic's for each stream, as large as the largest response that it ever had, consumers of 10,000 queues
//! took 1 GB. Here a response has memory of its own, and only that of large ones is kept for a while.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use courser_frames::{FrameError, Gathered, PREFIX_BYTES};
use http_body::Body as _;
use sync_wrapper::SyncWrapper;
use tokio::time::Instant;
use tonic::{Code, Status, body::Body, codegen::http};

use crate::client::MESSAGE_BYTES_MAX;

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
#[derive(Debug)]
struct Parts {
    gathered: Gathered,
    /// When the last large one came, whose memory is kept.
    large: Option<Instant>,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            gathered: Gathered::new(MESSAGE_BYTES_MAX),
            large: None,
        }
    }
}

impl Parts {
    /// The next response, if it is there.
    fn take(&mut self) -> Result<Option<Bytes>, Status> {
        let taken = self.gathered.take().map_err(refused)?;
        if let Some(taken) = &taken {
            if PREFIX_BYTES + taken.len() >= KEPT_BYTES {
                self.large = Some(Instant::now());
            } else if self.large.is_none_or(|at| at.elapsed() >= KEPT_FOR) {
                self.large = None;
                self.gathered.let_go();
            }
        }
        Ok(taken)
    }

    /// More came, after `take` had nothing more.
    fn add(&mut self, data: Bytes) {
        self.gathered.add(data);
    }

    /// Nothing comes any more.
    fn end(&self) -> Result<(), Status> {
        self.gathered.end().map_err(refused)
    }
}

fn refused(error: FrameError) -> Status {
    match error {
        FrameError::TooLarge(_) => {
            Status::out_of_range(format!("{error}; the most is {MESSAGE_BYTES_MAX}"))
        }
        FrameError::Compressed(_) | FrameError::Ended => Status::internal(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let mut response = vec![0];
            response.extend(u32::try_from(bytes).unwrap().to_be_bytes());
            response.resize(PREFIX_BYTES + bytes, 7);
            parts.add(response.into());
            let taken = parts.take().unwrap().unwrap();
            assert_eq!(taken.len(), bytes);
            assert_eq!(parts.take().unwrap(), None);
            // It lies in memory of its own, or in a part of what is kept.
            !taken.is_unique()
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
    fn what_is_compressed_too_large_or_cut_is_refused() {
        let of = |prefix: [u8; 5]| {
            let mut parts = Parts::default();
            parts.add(Bytes::copy_from_slice(&prefix));
            let taken = parts.take().and_then(|_| parts.end());
            taken.unwrap_err().code()
        };
        assert_eq!(of([1, 0, 0, 0, 1]), Code::Internal);
        assert_eq!(of([0, 255, 0, 0, 0]), Code::OutOfRange);
        assert_eq!(of([0, 0, 0, 0, 1]), Code::Internal);
    }
}
