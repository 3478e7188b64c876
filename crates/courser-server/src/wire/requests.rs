//! The requests of a call, put together from the frames that they come in. No memory is kept from one to the next: it would be as
//! much as the largest of each stream had, for each of thousands that say nothing any more. Nothing is decoded here, for much more may
//! become of a request than it has bytes.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use courser_frames::{FrameError, Gathered};
use http_body::{Body as _, Frame};
use tonic::{Code, Status, body::Body};

use crate::status::{more_than_one, no_message};

/// What comes over one.
#[derive(Debug)]
pub(crate) struct Requests {
    body: Body,
    gathered: Gathered,
    /// The client has given up the call.
    is_gone: bool,
}

impl Requests {
    /// Those of a body, of at most so many bytes each.
    pub(crate) fn new(body: Body, bytes_max: usize) -> Self {
        Self {
            body,
            gathered: Gathered::new(bytes_max),
            is_gone: false,
        }
    }

    /// The next one; `None` when the client has ended the call or is gone. Nothing is lost when this is not awaited to its end.
    ///
    /// # Errors
    /// What is wrong with what came.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// The only one, once the client has said that it is.
    ///
    /// # Errors
    /// There is none, or another, or what is wrong with what came.
    pub(crate) async fn only(mut self) -> Result<Bytes, Status> {
        let only = self.next().await?.ok_or_else(no_message)?;
        match self.next().await? {
            None if self.is_gone => Err(Status::cancelled("the call was given up")),
            None => Ok(only),
            Some(_) => Err(more_than_one()),
        }
    }

    pub(crate) fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, Status>> {
        loop {
            if let Some(encoded) = self.gathered.take().map_err(cannot_be_read)? {
                self.gathered.let_go();
                return Poll::Ready(Ok(Some(encoded)));
            }
            let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(context)) else {
                return Poll::Ready(self.end());
            };
            match frame.map(Frame::into_data) {
                Ok(Ok(data)) => self.gathered.add(data),
                // Trailers: nothing follows.
                Ok(Err(_)) => return Poll::Ready(self.end()),
                // There is nobody whom it could be told.
                Err(status) if status.code() == Code::Cancelled => {
                    self.is_gone = true;
                    return Poll::Ready(Ok(None));
                }
                Err(status) => return Poll::Ready(Err(status)),
            }
        }
    }

    fn end(&self) -> Result<Option<Bytes>, Status> {
        let ended = self.gathered.end();
        ended.map(|()| None).map_err(cannot_be_read)
    }
}

/// As tonic has it for the calls that it reads: `in_our_words` makes the same of both.
fn cannot_be_read(error: FrameError) -> Status {
    match error {
        FrameError::TooLarge(_) => Status::out_of_range(error.to_string()),
        FrameError::Compressed(_) | FrameError::Ended => Status::internal(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, convert::Infallible};

    use tonic::codegen::http::HeaderMap;

    use super::*;

    /// A body that has come as a whole.
    struct Come(VecDeque<Result<Frame<Bytes>, Status>>);

    impl http_body::Body for Come {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.pop_front())
        }
    }

    fn requests(come: impl IntoIterator<Item = Result<Frame<Bytes>, Status>>) -> Requests {
        Requests::new(Body::new(Come(come.into_iter().collect())), 10)
    }

    fn data(data: &'static [u8]) -> Result<Frame<Bytes>, Status> {
        Ok(Frame::data(data.into()))
    }

    /// What is read, up to the end.
    async fn all(mut requests: Requests) -> Result<Vec<Bytes>, Status> {
        let mut all = Vec::new();
        while let Some(request) = requests.next().await? {
            all.push(request);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn requests_are_read_until_the_stream_ends() {
        let come = || [data(b"\0\0\0\0\x03o"), data(b"ne\0\0\0\0\x03two")];
        let expected = Ok::<_, Infallible>(vec![Bytes::from("one"), Bytes::from("two")]);
        assert_eq!(all(requests(come())).await.ok(), expected.ok());
        let trailers = Ok(Frame::trailers(HeaderMap::new()));
        let with_trailers = come().into_iter().chain([trailers, data(b"\0")]);
        assert_eq!(all(requests(with_trailers)).await.unwrap().len(), 2);
        let gone = Err(Status::cancelled("gone"));
        let cancelled = come().into_iter().chain([data(b"\0\0"), gone]);
        assert_eq!(all(requests(cancelled)).await.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_stream_ends_with_what_is_wrong() {
        let code = async |come| all(requests(come)).await.unwrap_err().code();
        let ends_within = vec![data(b"\0\0\0\0\x03o")];
        assert_eq!(code(ends_within).await, Code::Internal);
        assert_eq!(code(vec![data(b"\x01\0\0\0\0")]).await, Code::Internal);
        assert_eq!(code(vec![data(b"\0\0\0\0\x0b")]).await, Code::OutOfRange);
        let slow = vec![Err(Status::deadline_exceeded("slow"))];
        assert_eq!(code(slow).await, Code::DeadlineExceeded);
    }

    #[tokio::test]
    async fn the_only_request_is_the_only_one() {
        let only = async |come| requests(come).only().await;
        assert_eq!(only(vec![data(b"\0\0\0\0\x03one")]).await.unwrap(), "one");
        let none = only(vec![]).await.unwrap_err();
        assert_eq!(none.code(), Code::Internal);
        let two = vec![data(b"\0\0\0\0\x03one\0\0\0\0\0")];
        assert_eq!(only(two).await.unwrap_err().code(), Code::InvalidArgument);
        let gone = Err(Status::cancelled("gone"));
        let given_up = only(vec![data(b"\0\0\0\0\x03one"), gone]).await;
        assert_eq!(given_up.unwrap_err().code(), Code::Cancelled);
    }

    #[tokio::test]
    async fn no_memory_of_a_large_request_is_kept() {
        let mut requests =
            Requests::new(Body::new(Come([data(b"\0\0\0\0\x08abcdefgh")].into())), 10);
        let request = requests.next().await.unwrap().unwrap();
        assert!(request.is_unique(), "the stream has no part of it");
    }
}
