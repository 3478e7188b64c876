//! The one place that starts tokio tasks, so that each has a name.

use std::future::Future;

use tokio::task::JoinHandle;

/// Starts a task. `name` is for people who read traces.
pub fn spawn<F>(name: &'static str, task: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tracing::trace!(name, "task starts");
    tokio::spawn(task)
}
