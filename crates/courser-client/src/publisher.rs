//! Publishes single messages at the pace of batches.
//!
//! There is no timer. A message leaves at once when no request is on its way; what comes in the
//! meantime gathers, and leaves together with the next confirm, or when the batch is full. So a
//! lonely message has the latency of one call, and a flood has the throughput of full batches.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prost::Message as _;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::{
    batch::{Batch, Confirmation},
    client::{Client, check_size},
    error::Error,
    publish::PublishConfirms,
    wire::{Confirm, Durability, Message, PublishStreamRequest},
};

/// Bytes that stand before each message in a request: its key and its length.
const MESSAGE_FRAMING_BYTES: usize = 6;
/// Messages of one request that the broker takes.
const BATCH_MESSAGES_MAX: usize = 1_000;
/// Bytes of one request that the broker takes.
const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How a [`Publisher`] works.
#[derive(Clone, Debug)]
pub struct PublisherOptions {
    /// Messages given and not confirmed; beyond that `publish` waits.
    pub messages_in_flight: usize,
    /// Bytes given and not confirmed; beyond that `publish` waits. A larger message goes alone.
    pub bytes_in_flight: usize,
    /// Messages of one request, 1,000 at most.
    pub batch_messages: usize,
    /// Bytes of one request, unless one message is larger; 16 MiB at most.
    pub batch_bytes: usize,
    /// When a confirm may leave the broker.
    pub durability: Durability,
    /// Refuse messages that would reach no queue. Then the whole batch is refused.
    pub mandatory: bool,
}

impl Default for PublisherOptions {
    fn default() -> Self {
        Self {
            messages_in_flight: 10_000,
            bytes_in_flight: 16 * 1024 * 1024,
            batch_messages: 256,
            batch_bytes: 256 * 1024,
            durability: Durability::Unspecified,
            mandatory: false,
        }
    }
}

/// Publishes without waiting for the confirms of the messages before. Dropping it lets what was
/// given leave and be confirmed.
#[derive(Debug)]
pub struct Publisher {
    shared: Arc<Shared>,
}

impl Client {
    /// Opens a publish stream that gathers single messages into batches.
    ///
    /// # Errors
    /// `Refused`, `Failed`, `Unreachable`.
    pub async fn publisher(&self, options: PublisherOptions) -> Result<Publisher, Error> {
        // Without a bound of its own: the window bounds what is in it.
        let (requests, receiver) = mpsc::unbounded_channel();
        let confirms = self
            .open_publish_stream(UnboundedReceiverStream::new(receiver))
            .await?;
        let shared = Arc::new(Shared::new(options, requests));
        tokio::spawn(take_confirms(Arc::clone(&shared), confirms));
        Ok(Publisher { shared })
    }
}

impl Publisher {
    /// Gives a message to be published, waiting while too much is on its way. The broker may refuse
    /// a whole batch for one of its messages; then each of them has the same error.
    ///
    /// # Errors
    /// `Refused`: the message is larger than any broker takes. Otherwise why the stream ended, when it
    /// has.
    pub async fn publish(&self, message: Message) -> Result<Confirmation, Error> {
        check_size(&message)?;
        let shared = &*self.shared;
        let bytes = shared.bytes(&message);
        let messages_permit = shared.acquire(&shared.messages_window, 1).await?;
        let bytes_permit = shared.acquire(&shared.bytes_window, bytes).await?;
        let confirmation = shared.lock().push(&shared.options, message, bytes)?;
        messages_permit.forget();
        bytes_permit.forget();
        Ok(confirmation)
    }

    /// Waits until everything given so far is confirmed or refused.
    ///
    /// # Errors
    /// Why the stream ended, when it has.
    pub async fn flush(&self) -> Result<(), Error> {
        let all = u32::try_from(self.shared.options.messages_in_flight).unwrap_or(u32::MAX);
        self.shared
            .acquire(&self.shared.messages_window, all)
            .await
            .map(drop)
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.send_open(&self.shared.options);
        state.requests = None;
    }
}

#[derive(Debug)]
struct Shared {
    options: PublisherOptions,
    messages_window: Semaphore,
    bytes_window: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// `None` once nothing more will be sent.
    requests: Option<mpsc::UnboundedSender<PublishStreamRequest>>,
    next_number: u64,
    /// What gathers for the next request.
    open: Open,
    /// Requests without their confirm, in order.
    on_way: VecDeque<OnWay>,
    /// Why the stream ended.
    failure: Option<Error>,
}

#[derive(Debug, Default)]
struct Open {
    messages: Vec<Message>,
    bytes: u32,
    batch: Arc<Batch>,
}

#[derive(Debug)]
struct OnWay {
    number: u64,
    messages: usize,
    bytes: u32,
    batch: Arc<Batch>,
}

impl Shared {
    fn new(
        mut options: PublisherOptions,
        requests: mpsc::UnboundedSender<PublishStreamRequest>,
    ) -> Self {
        options.messages_in_flight = options.messages_in_flight.clamp(1, Semaphore::MAX_PERMITS);
        options.bytes_in_flight = options.bytes_in_flight.clamp(1, u32::MAX as usize);
        options.batch_messages = options.batch_messages.clamp(1, BATCH_MESSAGES_MAX);
        options.batch_bytes = options.batch_bytes.min(BATCH_BYTES_MAX);
        Self {
            messages_window: Semaphore::new(options.messages_in_flight),
            bytes_window: Semaphore::new(options.bytes_in_flight),
            options,
            state: Mutex::new(State {
                requests: Some(requests),
                next_number: 1,
                open: Open::default(),
                on_way: VecDeque::new(),
                failure: None,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `message` takes of the window: never more than the whole of it.
    fn bytes(&self, message: &Message) -> u32 {
        let bytes = message.encoded_len() + MESSAGE_FRAMING_BYTES;
        u32::try_from(bytes.min(self.options.bytes_in_flight)).unwrap_or(u32::MAX)
    }

    async fn acquire<'a>(
        &self,
        window: &'a Semaphore,
        permits: u32,
    ) -> Result<SemaphorePermit<'a>, Error> {
        match window.acquire_many(permits).await {
            Ok(permit) => Ok(permit),
            Err(_closed) => Err(self
                .lock()
                .failure
                .clone()
                .unwrap_or_else(Error::stream_ended)),
        }
    }

    fn confirm(&self, confirm: Confirm) {
        let on_way = {
            let mut state = self.lock();
            let at = state
                .on_way
                .iter()
                .position(|sent| sent.number == confirm.number);
            let on_way = at.and_then(|at| state.on_way.remove(at));
            if state.on_way.is_empty() {
                state.send_open(&self.options);
            }
            on_way
        };
        let Some(on_way) = on_way else { return };
        self.messages_window.add_permits(on_way.messages);
        self.bytes_window.add_permits(on_way.bytes as usize);
        on_way.batch.resolve(match confirm.error {
            None => Ok(confirm.results),
            Some(error) => Err(error.into()),
        });
    }

    fn fail(&self, error: &Error) {
        let mut batches = Vec::new();
        {
            let mut state = self.lock();
            state.requests = None;
            state.failure = Some(error.clone());
            batches.push(mem::take(&mut state.open).batch);
            batches.extend(state.on_way.drain(..).map(|sent| sent.batch));
        }
        self.messages_window.close();
        self.bytes_window.close();
        for batch in batches {
            batch.resolve(Err(error.clone()));
        }
    }
}

impl State {
    fn push(
        &mut self,
        options: &PublisherOptions,
        message: Message,
        bytes: u32,
    ) -> Result<Confirmation, Error> {
        if let Some(error) = &self.failure {
            return Err(error.clone());
        }
        let full = self.open.bytes as usize + bytes as usize > options.batch_bytes;
        if full {
            self.send_open(options);
        }
        let confirmation =
            Confirmation::new(Arc::clone(&self.open.batch), self.open.messages.len());
        self.open.messages.push(message);
        self.open.bytes += bytes;
        let full = self.open.messages.len() >= options.batch_messages
            || self.open.bytes as usize >= options.batch_bytes;
        if full || self.on_way.is_empty() {
            self.send_open(options);
        }
        Ok(confirmation)
    }

    /// Sends what has gathered, if anything has.
    fn send_open(&mut self, options: &PublisherOptions) {
        if self.open.messages.is_empty() {
            return;
        }
        let Open {
            messages,
            bytes,
            batch,
        } = mem::take(&mut self.open);
        let number = self.next_number;
        self.next_number += 1;
        self.on_way.push_back(OnWay {
            number,
            messages: messages.len(),
            bytes,
            batch,
        });
        let request = PublishStreamRequest {
            number,
            messages,
            mandatory: options.mandatory,
            durability: options.durability.into(),
            without_results: false,
        };
        if let Some(requests) = &self.requests {
            // When the stream has ended, `take_confirms` hears of it and resolves the batch.
            let _ = requests.send(request);
        }
    }
}

async fn take_confirms(shared: Arc<Shared>, mut confirms: PublishConfirms) {
    loop {
        match confirms.next().await {
            Ok(Some(confirms)) => confirms
                .into_iter()
                .for_each(|confirm| shared.confirm(confirm)),
            Ok(None) => return shared.fail(&Error::stream_ended()),
            Err(error) => return shared.fail(&error),
        }
    }
}

#[cfg(test)]
mod tests;
