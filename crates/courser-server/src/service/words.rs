//! What the library below us refuses by itself, a request that is too large or that cannot be read, in
//! the words of the contract: its own have codes that mean something else, and no reason.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use courser_engine::Failure;
use tokio_stream::Stream;
use tonic::{
    Status,
    body::Body,
    codegen::{BoxFuture, Service, http},
    server::NamedService,
};

use crate::status::{in_our_words, with_failure};

/// A service whose refusals are all ours.
#[derive(Clone, Debug)]
pub(crate) struct InOurWords<S> {
    pub(crate) inner: S,
    /// Bytes that its requests may have.
    pub(crate) request_bytes_max: usize,
    /// That of the store, which is told.
    pub(crate) failure: Failure,
}

impl<S: NamedService> NamedService for InOurWords<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for InOurWords<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (answering, max) = (self.inner.call(request), self.request_bytes_max);
        let failure = self.failure.clone();
        Box::pin(async move {
            let answer = answering.await?;
            // An answer that is nothing but a refusal has its status in the headers.
            Ok(match Status::from_header_map(answer.headers()) {
                Some(status) => with_failure(in_our_words(status, max), &failure).into_http(),
                None => answer,
            })
        })
    }
}

/// The same for the answers of a stream, which may be refused in the midst of it.
#[derive(Debug)]
pub(crate) struct StreamInOurWords<S> {
    pub(crate) inner: S,
    pub(crate) request_bytes_max: usize,
    pub(crate) failure: Failure,
}

impl<S, Answer> Stream for StreamInOurWords<S>
where
    S: Stream<Item = Result<Answer, Status>> + Unpin,
{
    type Item = Result<Answer, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = ready!(Pin::new(&mut self.inner).poll_next(context));
        let told = |status| {
            let status = in_our_words(status, self.request_bytes_max);
            with_failure(status, &self.failure)
        };
        Poll::Ready(item.map(|item| item.map_err(told)))
    }
}
