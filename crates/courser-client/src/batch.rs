//! Messages that went out together, and the confirmation of each of them.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
};

use crate::{error::Error, wire::PublishResult};

/// What became of the messages of one request. Shared by their confirmations, so that a message
/// costs no channel of its own.
#[derive(Debug, Default)]
pub(crate) struct Batch(Mutex<Slot>);

#[derive(Debug, Default)]
struct Slot {
    outcome: Option<Result<Vec<PublishResult>, Error>>,
    /// Who waits for the message of the same index.
    wakers: Vec<Option<Waker>>,
}

impl Batch {
    /// Resolves every confirmation.
    pub(crate) fn resolve(&self, outcome: Result<Vec<PublishResult>, Error>) {
        let wakers = {
            let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            slot.outcome = Some(outcome);
            mem::take(&mut slot.wakers)
        };
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

/// Resolves when the message is as safe as was asked for, or was refused.
#[derive(Debug)]
#[must_use = "only the confirmation says that the message is safe"]
pub struct Confirmation {
    batch: Arc<Batch>,
    index: usize,
}

impl Confirmation {
    pub(crate) fn new(batch: Arc<Batch>, index: usize) -> Self {
        Self { batch, index }
    }
}

impl Future for Confirmation {
    type Output = Result<PublishResult, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = self.batch.0.lock().unwrap_or_else(PoisonError::into_inner);
        let index = self.index;
        match &mut slot.outcome {
            Some(Ok(results)) => {
                let result = results.get_mut(index).map(mem::take);
                Poll::Ready(result.ok_or_else(Error::stream_ended))
            }
            Some(Err(error)) => Poll::Ready(Err(error.clone())),
            None => {
                if slot.wakers.len() <= index {
                    slot.wakers.resize(index + 1, None);
                }
                slot.wakers[index] = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}
