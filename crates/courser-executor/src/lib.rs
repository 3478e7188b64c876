//! Runs the tasks of HTTP/2 connections, at both ends, so that one which wakes itself goes on at once.
//!
//! hyper's task of a stream is woken by h2 for the room that it is given for what it sends, while it sends
//! it. tokio puts such a task at the end of its queue and wakes another thread to help with it: a thread that finds
//! nothing to do, for each message.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
};

use atomic_waker::AtomicWaker;

/// Starts tasks on tokio's runtime.
#[derive(Clone, Copy, Debug)]
pub struct TaskExecutor;

impl<F> hyper::rt::Executor<F> for TaskExecutor
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        drop(tokio::spawn(Task::new(task)));
    }
}

/// How often a task that wakes itself goes on before others have their turn.
const RUNS_MAX: usize = 3;

/// Nobody runs it: who wakes it wakes tokio's task.
const RESTS: u8 = 0;
const RUNS: u8 = 1;
/// It was woken since it ran, or began to.
const WOKEN: u8 = 2;

struct Task<F> {
    inner: Pin<Box<F>>,
    state: Arc<State>,
    /// Of `state`.
    waker: Waker,
}

#[derive(Default)]
struct State {
    of: AtomicU8,
    outer: AtomicWaker,
}

impl<F> Task<F> {
    fn new(inner: F) -> Self {
        let state = Arc::<State>::default();
        Self {
            inner: Box::pin(inner),
            waker: Arc::clone(&state).into(),
            state,
        }
    }
}

impl<F: Future> Future for Task<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let me = &mut *self;
        me.state.outer.register(context.waker());
        for _ in 0..RUNS_MAX {
            // With what was done before it was woken.
            me.state.of.swap(RUNS, SeqCst);
            let mut inner = Context::from_waker(&me.waker);
            if let Poll::Ready(output) = me.inner.as_mut().poll(&mut inner) {
                return Poll::Ready(output);
            }
            let rests = me.state.of.compare_exchange(RUNS, RESTS, SeqCst, SeqCst);
            if rests.is_ok() {
                return Poll::Pending;
            }
        }
        me.state.of.store(RESTS, SeqCst);
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Wake for State {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.of.fetch_or(WOKEN, SeqCst) == RESTS {
            self.outer.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin, sync::atomic::AtomicUsize};

    use super::*;

    /// Counts how often it was woken.
    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl Wake for Counting {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    impl Counting {
        fn count(&self) -> usize {
            self.0.load(SeqCst)
        }
    }

    #[test]
    fn a_task_that_wakes_itself_goes_on_at_once_and_nobody_else_is_woken() {
        let outer = Arc::<Counting>::default();
        let waker = Waker::from(Arc::clone(&outer));
        let mut runs = 0;
        let mut task = pin!(Task::new(poll_fn(|context| {
            runs += 1;
            if runs == 1 {
                context.waker().wake_by_ref();
                Poll::Pending
            } else {
                Poll::Ready(runs)
            }
        })));
        let polled = task.as_mut().poll(&mut Context::from_waker(&waker));
        assert_eq!((polled, outer.count()), (Poll::Ready(2), 0));
    }

    #[test]
    fn a_task_that_always_wakes_itself_lets_others_have_their_turn() {
        let outer = Arc::<Counting>::default();
        let waker = Waker::from(Arc::clone(&outer));
        let mut runs = 0;
        let mut task = pin!(Task::new(poll_fn(|context| {
            runs += 1;
            context.waker().wake_by_ref();
            Poll::<()>::Pending
        })));
        for turn in 1..3 {
            let polled = task.as_mut().poll(&mut Context::from_waker(&waker));
            assert_eq!((polled, outer.count()), (Poll::Pending, turn));
        }
        assert_eq!(runs, 2 * RUNS_MAX);
    }

    #[test]
    fn a_task_at_rest_is_woken_as_any_other_also_when_it_was_given_to_somebody_else() {
        let mut inner = None;
        let mut task = pin!(Task::new(poll_fn(|context| {
            inner = Some(context.waker().clone());
            Poll::<()>::Pending
        })));
        let (first, second) = (Arc::<Counting>::default(), Arc::<Counting>::default());
        for outer in [&first, &second] {
            let waker = Waker::from(Arc::clone(outer));
            let polled = task.as_mut().poll(&mut Context::from_waker(&waker));
            assert_eq!(polled, Poll::Pending);
        }
        inner.unwrap().wake();
        assert_eq!((first.count(), second.count()), (0, 1));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_wake_is_lost_between_threads() {
        for _ in 0..200 {
            let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
            let (done, finished) = tokio::sync::oneshot::channel();
            hyper::rt::Executor::execute(&TaskExecutor, async move {
                let mut sum = 0;
                while let Some(number) = receiver.recv().await {
                    sum += number;
                }
                done.send(sum).unwrap();
            });
            for number in 0..100 {
                sender.send(number).await.unwrap();
            }
            drop(sender);
            assert_eq!(finished.await.unwrap(), 4_950);
        }
    }
}
