//! What the faces hold of the engine: a cheap handle that sends commands and awaits answers.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use courser_core::{
    error::Unavailable, limits::UNSENT_BYTES_MAX, options::QueueOptions, stats::QueueView,
};
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    task::yield_now,
    time::timeout,
};

use crate::{
    command::{Change, Command, Look, OptionsChange, Permits, PublishCommand, PublishReply, Reply},
    door::Door,
    failure::Failure,
    limits,
    request::{
        Confirm, Delivery, Ended, Event, Health, Info, Open, Peek, Peeked, Publish, PublishError,
        Published, QueueError, Redrive, Redriven, Settled, Settlement, Snapshot,
    },
    rush::IsRush,
    subscription::{Cut, Subscription},
    turn::store_failed,
};

/// Speaks to the engine. Every call is answered, with an error when the engine has ended.
#[derive(Clone, Debug)]
pub struct BrokerHandle {
    pub(crate) door: Door,
    pub(crate) on_their_way: Arc<Semaphore>,
    pub(crate) is_rush: IsRush,
    pub(crate) peeks: Arc<Semaphore>,
    pub(crate) health: watch::Receiver<Health>,
    pub(crate) failure: Failure,
}

impl BrokerHandle {
    /// Publishes messages; the answer is durable as far as was asked for.
    ///
    /// # Errors
    /// Then nothing was published, except for `Unavailable` after a failure of the store, where it is
    /// not known.
    pub async fn publish(&self, publish: Publish) -> Result<Vec<Published>, PublishError> {
        self.step_back().await;
        let broker = self.permits(&publish).await?;
        let (reply, answer) = oneshot::channel();
        let permits = Permits {
            _broker: broker,
            _stream: None,
        };
        let command = PublishCommand {
            publish,
            reply: PublishReply::Unary(reply),
            permits,
        };
        if !self.door.bring(Command::Publish(command)).await {
            return Err(publish_ended());
        }
        answer.await.unwrap_or_else(|_| Err(publish_ended()))
    }

    /// A pipelined publisher and its confirms.
    #[must_use]
    pub fn publisher(&self) -> (Publisher, Confirms) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let window = Arc::new(Semaphore::new(limits::STREAM_KIB_MAX as usize));
        (
            Publisher {
                handle: self.clone(),
                confirms: sender,
                window,
            },
            Confirms(receiver),
        )
    }

    /// Lets others go first while consumers are behind. `docs/decisions/0140-deliveries-first.md`
    async fn step_back(&self) {
        if self.is_rush.get() {
            for _ in 0..limits::STEPS_BACK {
                yield_now().await;
            }
        }
    }

    async fn permits(
        &self,
        publish: &Publish,
    ) -> Result<tokio::sync::OwnedSemaphorePermit, PublishError> {
        let kib = kib(publish).min(limits::PUBLISH_KIB_MAX);
        Arc::clone(&self.on_their_way)
            .acquire_many_owned(kib)
            .await
            .map_err(|_| publish_ended())
    }

    /// Consumes a queue.
    ///
    /// # Errors
    /// `NotFound`, `TooManyConsumers`, `Unavailable`.
    pub async fn subscribe(&self, open: Open) -> Result<Subscription, QueueError> {
        self.subscribe_over(open, Cut::default()).await
    }

    /// Consumes a queue over a connection that `cut` ends: that is done when it takes nothing of what it
    /// was handed for long, while others wait for the memory.
    ///
    /// # Errors
    /// `NotFound`, `TooManyConsumers`, `Unavailable`.
    pub async fn subscribe_over(&self, open: Open, cut: Cut) -> Result<Subscription, QueueError> {
        self.open(open, UNSENT_BYTES_MAX, cut).await
    }

    async fn open(
        &self,
        open: Open,
        window_bytes: u64,
        cut: Cut,
    ) -> Result<Subscription, QueueError> {
        self.ask(|reply| Command::Subscribe {
            open,
            window_bytes,
            cut,
            reply,
        })
        .await
        .unwrap_or_else(|| Err(ended()))
    }

    /// Takes up to `open.max_messages` entries, waiting up to `wait` for the first.
    ///
    /// # Errors
    /// `NotFound`, `TooManyConsumers`, `Unavailable`.
    pub async fn pull(&self, open: Open, wait: Duration) -> Result<Vec<Delivery>, QueueError> {
        let pulled = self.pull_over(open, wait, Cut::default()).await?;
        Ok(pulled.deliveries)
    }

    /// The same over a connection that `cut` ends, for the reason of [`Self::subscribe_over`]. What it
    /// answers counts as on its way to the consumer until `hold` is dropped.
    ///
    /// # Errors
    /// `NotFound`, `TooManyConsumers`, `Unavailable`.
    pub async fn pull_over(
        &self,
        open: Open,
        wait: Duration,
        cut: Cut,
    ) -> Result<Pulled, QueueError> {
        let name = open.queue.clone();
        let limit = Some(open.max_messages.into());
        // All of the answer is in memory at once.
        let window_bytes = open.max_bytes;
        let mut subscription = self.open(Open { limit, ..open }, window_bytes, cut).await?;
        let mut deliveries = Vec::new();
        let first = timeout(wait, subscription.peek()).await;
        let mut next = first.unwrap_or_else(|_| Some(Event::Deliveries(Vec::new())));
        // What else is there comes with it, and nothing after that.
        subscription.settler().drain().await;
        loop {
            match next.ok_or_else(ended)? {
                Event::Deliveries(more) => deliveries.extend(more),
                Event::Recalled => {}
                Event::Drained => break,
                Event::Settled(..) | Event::Refused(..) => {}
                Event::Ended(Ended::QueueDeleted) => return Err(QueueError::NotFound { name }),
                Event::Ended(Ended::ShuttingDown) => return Err(ended()),
                Event::Ended(Ended::StoreFailed) => return Err(store_failed()),
            }
            next = subscription.peek().await;
        }
        if subscription.recall_late(&deliveries) {
            deliveries.clear();
        }
        subscription.keep_leases();
        Ok(Pulled {
            deliveries,
            hold: Hold(subscription),
        })
    }

    /// Settles leases, whoever they were given to.
    ///
    /// # Errors
    /// `Unavailable`: nothing is known of any of them.
    pub async fn settle(&self, settlements: Vec<Settlement>) -> Result<Settled, QueueError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Settle { settlements, reply };
        if !self.door.bring(command).await {
            return Err(ended());
        }
        answer.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Makes a queue; `false` when it was there already, with the same options.
    ///
    /// # Errors
    /// `Exists`, `Option`, `TooManyQueues`, `NameTaken`, `Unavailable`.
    pub async fn create_queue(
        &self,
        name: String,
        options: QueueOptions,
    ) -> Result<(QueueView, bool), QueueError> {
        self.change(|reply| Change::Create {
            name,
            options,
            reply,
        })
        .await
    }

    /// Changes options of a queue: `change` is given the current ones.
    ///
    /// # Errors
    /// `NotFound`, `Option`, `NotEmpty`, `NameTaken`, `IsDeadLetterQueue`, `Unavailable`.
    pub async fn update_queue(
        &self,
        name: String,
        change: impl FnOnce(&mut QueueOptions) + Send + 'static,
    ) -> Result<QueueView, QueueError> {
        let change = OptionsChange(Box::new(change));
        self.change(|reply| Change::Update {
            name,
            change,
            reply,
        })
        .await
    }

    /// Deletes a queue and its dead-letter queue; answers how many entries went with each.
    ///
    /// # Errors
    /// `NotFound`, `NotEmpty`, `IsDeadLetterQueue`, `Unavailable`.
    pub async fn delete_queue(
        &self,
        name: String,
        if_empty: bool,
    ) -> Result<(u64, u64), QueueError> {
        self.change(|reply| Change::Delete {
            name,
            if_empty,
            reply,
        })
        .await
    }

    /// One queue.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    pub async fn get_queue(&self, name: String) -> Result<QueueView, QueueError> {
        self.look(|reply| Look::Get { name, reply }).await?
    }

    /// Queues by name: those that start with `prefix` and come after `after`, at most `limit`.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn list_queues(
        &self,
        prefix: String,
        after: Option<String>,
        limit: usize,
    ) -> Result<Vec<QueueView>, QueueError> {
        self.look(|reply| Look::List {
            prefix,
            after,
            limit,
            reply,
        })
        .await
    }

    /// Removes ready and delayed entries, oldest first; answers how many.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    pub async fn purge_queue(&self, name: String, limit: Option<u64>) -> Result<u64, QueueError> {
        self.change(|reply| Change::Purge { name, limit, reply })
            .await
    }

    /// Shows entries and changes nothing.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    pub async fn peek(&self, queue: String, peek: Peek) -> Result<Vec<Peeked>, QueueError> {
        // Its messages are in memory all at once, beside those that are on their way to consumers.
        let Ok(_place) = self.peeks.acquire().await else {
            return Err(ended());
        };
        self.look(|reply| Look::Peek { queue, peek, reply }).await?
    }

    /// Moves dead letters back.
    ///
    /// # Errors
    /// `NotFound`, `NotDeadLetterQueue`, `IsDeadLetterQueue` (the target), `Unavailable`.
    pub async fn redrive(&self, redrive: Redrive) -> Result<Redriven, QueueError> {
        self.change(|reply| Change::Redrive { redrive, reply })
            .await
    }

    /// Everything there is to count.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn snapshot(&self) -> Result<Snapshot, QueueError> {
        self.look(|reply| Look::Snapshot { reply }).await
    }

    /// The broker in a few figures.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn info(&self) -> Result<Info, QueueError> {
        self.look(|reply| Look::Info { reply }).await
    }

    /// Whether the broker can do its work, now and whenever it changes.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    /// That of the store: known before the first refusal for it.
    #[must_use]
    pub fn failure(&self) -> &Failure {
        &self.failure
    }

    /// Stops taking, ends all subscriptions, makes durable what is on its way, and ends the engine.
    /// Returns when that is done.
    pub async fn shutdown(&self) {
        self.ask(|reply| Command::Shutdown { reply }).await;
    }

    async fn change<T>(
        &self,
        change: impl FnOnce(Reply<Result<T, QueueError>>) -> Change,
    ) -> Result<T, QueueError> {
        self.ask(|reply| Command::Change(change(reply)))
            .await
            .unwrap_or_else(|| Err(ended()))
    }

    async fn look<T>(&self, look: impl FnOnce(Reply<T>) -> Look) -> Result<T, QueueError> {
        self.ask(|reply| Command::Look(look(reply)))
            .await
            .ok_or_else(ended)
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        if !self.door.send(command(reply)).await {
            return None;
        }
        answer.await.ok()
    }
}

/// What a pull answers.
#[derive(Debug)]
pub struct Pulled {
    /// Leased to the caller.
    pub deliveries: Vec<Delivery>,
    /// To be kept as long as these are in memory.
    pub hold: Hold,
}

/// The place of a pull among what is on its way to consumers.
#[derive(Debug)]
pub struct Hold(#[expect(dead_code, reason = "its end is what counts")] Subscription);

fn ended() -> QueueError {
    Unavailable::ShuttingDown.into()
}

fn publish_ended() -> PublishError {
    Unavailable::ShuttingDown.into()
}

fn kib(publish: &Publish) -> u32 {
    let kib = u32::try_from(publish.memory_bytes() / 1024)
        .unwrap_or(u32::MAX)
        .saturating_add(1);
    kib.max(limits::REQUEST_KIB_MIN)
}

/// Publishes requests without waiting for the confirms of those before.
#[derive(Debug)]
pub struct Publisher {
    handle: BrokerHandle,
    confirms: mpsc::UnboundedSender<Confirm>,
    window: Arc<Semaphore>,
}

impl Publisher {
    /// Sends a request; its confirm names `number`. Waits while too much is on its way. The order of requests is that of
    /// the calls when each is awaited before the next. `false` when the broker has ended.
    pub async fn send(&self, number: u64, publish: Publish) -> bool {
        self.handle.step_back().await;
        let kib = kib(&publish).min(limits::STREAM_KIB_MAX);
        let Ok(stream) = Arc::clone(&self.window).acquire_many_owned(kib).await else {
            return false;
        };
        let Ok(broker) = self.handle.permits(&publish).await else {
            return false;
        };
        let reply = PublishReply::Stream {
            number,
            confirms: self.confirms.clone(),
        };
        let permits = Permits {
            _broker: broker,
            _stream: Some(stream),
        };
        let command = PublishCommand {
            publish,
            reply,
            permits,
        };
        self.handle.door.bring(Command::Publish(command)).await
    }

    /// Answers a request that never reached the engine, in its place in the order. Waits until all
    /// requests before it are answered.
    pub async fn refuse(&self, number: u64, error: PublishError) -> bool {
        let Ok(_all) = self.window.acquire_many(limits::STREAM_KIB_MAX).await else {
            return false;
        };
        self.confirms
            .send(Confirm {
                number,
                result: Err(error),
            })
            .is_ok()
    }
}

/// The confirms of a pipelined publisher, in the order of its requests. Ends when the publisher is
/// dropped and every request is answered.
#[derive(Debug)]
pub struct Confirms(mpsc::UnboundedReceiver<Confirm>);

impl Confirms {
    /// The next confirms, up to `limit`, appended to `confirms`; 0 when there will be none.
    pub fn poll_many(
        &mut self,
        context: &mut Context<'_>,
        confirms: &mut Vec<Confirm>,
        limit: usize,
    ) -> Poll<usize> {
        self.0.poll_recv_many(context, confirms, limit)
    }

    /// The next confirm.
    pub async fn next(&mut self) -> Option<Confirm> {
        self.0.recv().await
    }
}
