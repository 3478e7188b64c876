//! WatchStats: the figures of queues, again and again, at the pace of whoever watches.

use std::{
    future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use courser_core::stats::QueueView;
use courser_engine::{BrokerHandle, request::QueueError};
use courser_proto::v1;
use prost::Message as _;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep_until},
};
use tokio_stream::Stream;
use tonic::{Status, codegen::BoxFuture};

use super::shut_down;
use crate::{
    answers::Answers,
    connection::Way,
    convert::queue_to_proto,
    limits,
    status::{queue_error_to_status, shutting_down},
};

type Figures = v1::WatchStatsResponse;

/// Watches the queues named, or all when none is. The first answer is made before this returns.
pub(crate) async fn watch(
    handle: BrokerHandle,
    answers: Answers,
    way: Way,
    names: Vec<String>,
    place: OwnedSemaphorePermit,
) -> Result<StatsStream, Status> {
    let watched = Arc::new(Watched {
        handle,
        answers,
        way,
        names,
        _place: place,
    });
    let first = watched.stats().await?;
    Ok(StatsStream {
        watched,
        next: Some(Box::pin(future::ready(Ok(first)))),
    })
}

/// The answers of one WatchStats. Each is made when the connection has taken the one before: whoever takes none has one, which counts
/// among the answers.
pub(crate) struct StatsStream {
    watched: Arc<Watched>,
    /// None after the last.
    next: Option<BoxFuture<Figures, Status>>,
}

impl Stream for StatsStream {
    type Item = Result<Figures, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(next) = &mut self.next else {
            return Poll::Ready(None);
        };
        let stats = ready!(next.as_mut().poll(context));
        self.next = stats.is_ok().then(|| {
            let at = Instant::now() + limits::WATCH_INTERVAL;
            let next = Arc::clone(&self.watched).stats_at(at);
            Box::pin(next) as BoxFuture<_, _>
        });
        Poll::Ready(Some(stats))
    }
}

/// What is watched.
struct Watched {
    handle: BrokerHandle,
    answers: Answers,
    way: Way,
    names: Vec<String>,
    _place: OwnedSemaphorePermit,
}

impl Watched {
    async fn stats_at(self: Arc<Self>, at: Instant) -> Result<Figures, Status> {
        tokio::select! {
            () = shut_down(self.handle.health()) => Err(shutting_down()),
            () = sleep_until(at) => self.stats().await,
        }
    }

    async fn stats(&self) -> Result<Figures, Status> {
        let views = self.way.page(&self.answers, self.views()).await;
        let (queues, _all) = queues_to_proto(&views.map_err(queue_error_to_status)?);
        Ok(Figures { queues })
    }

    async fn views(&self) -> Result<Vec<QueueView>, QueueError> {
        if self.names.is_empty() {
            let max = limits::WATCH_ALL_QUEUES_MAX;
            return self.handle.list_queues(String::new(), None, max).await;
        }
        let mut views = Vec::with_capacity(self.names.len());
        for name in &self.names {
            views.push(self.handle.get_queue(name.clone()).await?);
        }
        Ok(views)
    }
}

/// As many queues as fit into one answer, at least one; and whether that is all of them.
pub(crate) fn queues_to_proto(views: &[QueueView]) -> (Vec<v1::Queue>, bool) {
    let mut queues = Vec::with_capacity(views.len());
    let mut bytes = 0;
    for view in views {
        let queue = queue_to_proto(view);
        bytes += queue.encoded_len();
        if bytes > limits::PAGE_BYTES_MAX && !queues.is_empty() {
            return (queues, false);
        }
        queues.push(queue);
    }
    (queues, true)
}
