//! Settles single leases at the pace of batches.
//!
//! As with the publisher there is no timer: a settlement leaves at once when none is on its way, and
//! what comes in the meantime leaves together.

use std::{
    collections::HashMap,
    future::Future,
    mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use tokio::sync::{Notify, oneshot};

use crate::{
    error::Error,
    subscription::SettleSender,
    wire::{Extend, Nack, Reject, Settle, Settled},
};

/// Settlements that leave although others are on their way.
const BATCH_FULL: usize = 1_000;
/// Lease ids that the broker takes in one request.
const BATCH_MAX: usize = 10_000;

/// Resolves when the broker has settled the lease, or says why it did not. It is sent even when this
/// is dropped.
#[derive(Debug)]
pub struct Settlement(oneshot::Receiver<Result<(), Error>>);

impl Future for Settlement {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|answer| answer.unwrap_or_else(|_| Err(Error::stream_ended())))
    }
}

/// What to do with a lease.
#[derive(Debug)]
pub(crate) enum Verb {
    Ack(u64),
    Release(u64),
    Nack(Nack),
    DeadLetter(Reject),
    Extend(Extend),
}

impl Verb {
    fn lease_id(&self) -> u64 {
        match self {
            Self::Ack(lease_id) | Self::Release(lease_id) => *lease_id,
            Self::Nack(nack) => nack.lease_id,
            Self::DeadLetter(reject) => reject.lease_id,
            Self::Extend(extend) => extend.lease_id,
        }
    }

    fn put(self, settle: &mut Settle) {
        match self {
            Self::Ack(lease_id) => settle.ack.push(lease_id),
            Self::Release(lease_id) => settle.release.push(lease_id),
            Self::Nack(nack) => settle.nack.push(nack),
            Self::DeadLetter(reject) => settle.dead_letter.push(reject),
            Self::Extend(extend) => settle.extend.push(extend),
        }
    }
}

/// Shared by the consumer, its deliveries, and what reads its stream.
#[derive(Clone, Debug)]
pub(crate) struct Settler {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    idle: Notify,
}

type Waiter = oneshot::Sender<Result<(), Error>>;

#[derive(Debug)]
struct State {
    /// `None` once the stream has ended.
    settles: Option<SettleSender>,
    /// What gathers for the next request.
    waiting: Vec<(Verb, Waiter)>,
    /// Who waits for the result of a lease that was sent.
    on_way: HashMap<u64, Waiter>,
    /// Why the stream ended.
    failure: Option<Error>,
}

impl Settler {
    pub(crate) fn new(settles: SettleSender) -> Self {
        let state = State {
            settles: Some(settles),
            waiting: Vec::new(),
            on_way: HashMap::new(),
            failure: None,
        };
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                idle: Notify::new(),
            }),
        }
    }

    pub(crate) fn settle(&self, verb: Verb) -> Settlement {
        let (waiter, settlement) = oneshot::channel();
        let mut state = self.lock();
        if let Some(error) = &state.failure {
            let _ = waiter.send(Err(error.clone()));
        } else {
            state.waiting.push((verb, waiter));
            if state.on_way.is_empty() || state.waiting.len() >= BATCH_FULL {
                state.send_waiting();
            }
        }
        Settlement(settlement)
    }

    /// Takes results from the broker.
    pub(crate) fn settled(&self, settled: Settled) {
        let mut state = self.lock();
        for lease_id in settled.ok {
            state.answer(lease_id, Ok(()));
        }
        for refusal in settled.refused {
            state.answer(refusal.lease_id, Err(refusal.into()));
        }
        if state.on_way.is_empty() {
            state.send_waiting();
        }
        if state.on_way.is_empty() {
            self.shared.idle.notify_waiters();
        }
    }

    /// Ends: nothing is known of what was not answered.
    pub(crate) fn fail(&self, error: &Error) {
        let mut state = self.lock();
        state.settles = None;
        state.failure.get_or_insert_with(|| error.clone());
        for (_, waiter) in mem::take(&mut state.waiting) {
            let _ = waiter.send(Err(error.clone()));
        }
        for (_, waiter) in state.on_way.drain() {
            let _ = waiter.send(Err(error.clone()));
        }
        self.shared.idle.notify_waiters();
    }

    /// Waits until everything is answered.
    pub(crate) async fn idle(&self) {
        loop {
            let notified = self.shared.idle.notified();
            if self.lock().is_idle() {
                return;
            }
            notified.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.on_way.is_empty()
    }

    fn answer(&mut self, lease_id: u64, result: Result<(), Error>) {
        if let Some(waiter) = self.on_way.remove(&lease_id) {
            let _ = waiter.send(result);
        }
    }

    /// Sends what has gathered. A lease that is on its way already (an extension, then an ack) stays
    /// behind until it is answered: a request may name it only once, and its results come by lease.
    fn send_waiting(&mut self) {
        let mut settle = Settle::default();
        let mut sent = 0;
        let mut behind = Vec::new();
        for (verb, waiter) in mem::take(&mut self.waiting) {
            let lease_id = verb.lease_id();
            if sent == BATCH_MAX || self.on_way.contains_key(&lease_id) {
                behind.push((verb, waiter));
                continue;
            }
            self.on_way.insert(lease_id, waiter);
            verb.put(&mut settle);
            sent += 1;
        }
        self.waiting = behind;
        if sent > 0
            && let Some(settles) = &self.settles
        {
            // When the stream has ended, its reader hears of it and fails what is on its way.
            let _ = settles.send(settle);
        }
    }
}

#[cfg(test)]
mod tests;
