//! WatchStats: the figures of queues, again and again, at the pace of whoever watches.

use std::time::Duration;

use courser_engine::{BrokerHandle, request::QueueError, tasks};
use courser_proto::v1;
use prost::Message as _;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::shut_down;
use crate::{
    convert::queue_to_proto,
    limits,
    status::{queue_error_to_status, shutting_down},
};

/// The answers of one WatchStats.
pub(crate) type StatsStream = ReceiverStream<Result<v1::WatchStatsResponse, Status>>;

/// Watches the queues named, or all when none is. The first answer is made before this returns.
pub(crate) async fn watch(handle: BrokerHandle, names: Vec<String>) -> Result<StatsStream, Status> {
    let first = stats(&handle, &names).await?;
    let (sender, receiver) = mpsc::channel(1);
    drop(sender.try_send(Ok(first)));
    tasks::spawn("watch stats", async move {
        tokio::select! {
            () = sender.closed() => {}
            () = send_stats(&handle, &names, &sender) => {}
            () = shut_down(handle.health()) => {
                // Whoever does not take the last answer is told by the end of the connection.
                drop(sender.send_timeout(Err(shutting_down()), limits::WATCH_INTERVAL).await);
            }
        }
    });
    Ok(ReceiverStream::new(receiver))
}

async fn send_stats(
    handle: &BrokerHandle,
    names: &[String],
    sender: &mpsc::Sender<Result<v1::WatchStatsResponse, Status>>,
) {
    let mut ticks = interval(limits::WATCH_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset_after(Duration::from_secs(1));
    loop {
        ticks.tick().await;
        let stats = stats(handle, names).await;
        let ended = stats.is_err();
        if sender.send(stats).await.is_err() || ended {
            return;
        }
    }
}

async fn stats(handle: &BrokerHandle, names: &[String]) -> Result<v1::WatchStatsResponse, Status> {
    let queues = if names.is_empty() {
        let all = handle
            .list_queues(String::new(), None, limits::WATCH_ALL_QUEUES_MAX)
            .await;
        all.map(|all| queues_to_proto(&all).0)
    } else {
        named(handle, names).await
    };
    Ok(v1::WatchStatsResponse {
        queues: queues.map_err(queue_error_to_status)?,
    })
}

async fn named(handle: &BrokerHandle, names: &[String]) -> Result<Vec<v1::Queue>, QueueError> {
    let mut queues = Vec::with_capacity(names.len());
    for name in names {
        queues.push(queue_to_proto(&handle.get_queue(name.clone()).await?));
    }
    Ok(queues)
}

/// As many queues as fit into one answer, at least one; and whether that is all of them.
pub(crate) fn queues_to_proto(views: &[courser_core::stats::QueueView]) -> (Vec<v1::Queue>, bool) {
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
