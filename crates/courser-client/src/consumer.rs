//! Consumes a queue, delivery by delivery.

use std::{ops::Deref, time::Duration, vec};

use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinHandle,
};

use crate::{
    client::Client,
    deliveries::Received,
    error::Error,
    settler::{Settlement, Settler, Verb},
    subscription::{ConsumerOptions, SettleSender, Subscription},
    time::to_wire_duration,
    wire::{self, Extend, Message, Nack, Reject},
};

/// Batches that wait to be asked for with `auto_ack`: one is looked at while the next ones come. What is
/// beyond stays with the broker, where it is not acked yet.
const AUTO_ACKED_BATCHES_MAX: usize = 2;

/// Receives deliveries; each settles itself. Dropping it ends the leases of what was delivered and not
/// settled, which counts as a failed attempt: settle, or [`Consumer::close`], first.
#[derive(Debug)]
pub struct Consumer {
    batches: mpsc::Receiver<Result<Vec<wire::Delivery>, Error>>,
    batch: vec::IntoIter<wire::Delivery>,
    settler: Settler,
    settles: SettleSender,
    reader: JoinHandle<()>,
}

impl Client {
    /// Consumes a queue.
    ///
    /// # Errors
    /// `Refused`, `Failed`, `Unreachable`.
    pub async fn consumer(&self, options: ConsumerOptions) -> Result<Consumer, Error> {
        let batches_max = if options.auto_ack {
            AUTO_ACKED_BATCHES_MAX
        } else {
            // The credit, which the broker keeps, bounds them. Here nothing may: results of settlements
            // come behind them.
            Semaphore::MAX_PERMITS
        };
        let subscription = self.subscribe(options).await?;
        let settles = subscription.settles();
        let settler = Settler::new(settles.clone());
        let (sender, batches) = mpsc::channel(batches_max);
        let reader = tokio::spawn(read(subscription, settler.clone(), sender));
        Ok(Consumer {
            batches,
            batch: Vec::new().into_iter(),
            settler,
            settles,
            reader,
        })
    }
}

impl Consumer {
    /// The next delivery; `None` when the broker ended the stream, or after [`Consumer::drain`] when
    /// there are no more.
    ///
    /// # Errors
    /// `Refused`: for example the queue was deleted. `Failed`: the broker ends. `Unreachable`: the
    /// connection broke. In all cases the leases have ended.
    pub async fn next(&mut self) -> Result<Option<Delivery>, Error> {
        loop {
            if let Some(delivery) = self.batch.next() {
                return Ok(Some(Delivery {
                    delivery,
                    settler: self.settler.clone(),
                }));
            }
            match self.batches.recv().await {
                Some(batch) => self.batch = batch?.into_iter(),
                None => return Ok(None),
            }
        }
    }

    /// The deliveries that are here already or come next, at least one; `None` as with
    /// [`Consumer::next`].
    ///
    /// # Errors
    /// As [`Consumer::next`].
    pub async fn next_batch(&mut self) -> Result<Option<Vec<Delivery>>, Error> {
        let Some(first) = self.next().await? else {
            return Ok(None);
        };
        let mut deliveries = vec![first];
        let settler = &self.settler;
        deliveries.extend(self.batch.by_ref().map(|delivery| Delivery {
            delivery,
            settler: settler.clone(),
        }));
        Ok(Some(deliveries))
    }

    /// Asks for no more deliveries: [`Consumer::next`] gives those that are on their way, and then
    /// `None`. What was delivered can be settled as before.
    pub fn drain(&self) {
        // When the stream has ended, `next` says so.
        drop(self.settles.drain());
    }

    /// Drains, gives back without blame what was never handed out by [`Consumer::next`], waits until
    /// every settlement is answered, and ends the subscription.
    pub async fn close(mut self) {
        self.drain();
        while let Ok(Some(unseen)) = self.next().await {
            if unseen.lease_id != 0 {
                drop(unseen.release());
            }
        }
        self.settler.idle().await;
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.reader.abort();
        self.settler
            .fail(&Error::Unreachable("the consumer was closed".to_owned()));
    }
}

async fn read(
    mut subscription: Subscription,
    settler: Settler,
    batches: mpsc::Sender<Result<Vec<wire::Delivery>, Error>>,
) {
    let mut batches = Some(batches);
    loop {
        match subscription.next().await {
            Ok(Some(Received::Deliveries(batch))) => {
                if let Some(batches) = &batches
                    && batches.send(Ok(batch.into_deliveries())).await.is_err()
                {
                    return;
                }
            }
            Ok(Some(Received::Drained)) => batches = None,
            Ok(Some(Received::Settled(settled))) => settler.settled(settled),
            Ok(None) => return settler.fail(&Error::stream_ended()),
            Err(error) => {
                settler.fail(&error);
                if let Some(batches) = batches {
                    let _ = batches.send(Err(error)).await;
                }
                return;
            }
        }
    }
}

/// One hand-over of a message, and the hold on it. Dropped unsettled, it stays with this consumer
/// until its lease runs out.
#[derive(Debug)]
pub struct Delivery {
    delivery: wire::Delivery,
    settler: Settler,
}

impl Deref for Delivery {
    type Target = wire::Delivery;

    fn deref(&self) -> &wire::Delivery {
        &self.delivery
    }
}

impl Delivery {
    /// The message.
    ///
    /// # Panics
    /// When the broker sent a delivery without a message, which breaks the contract.
    #[must_use]
    pub fn message(&self) -> &Message {
        self.delivery
            .message
            .as_ref()
            .expect("every delivery has a message")
    }

    /// Done: forget the entry.
    pub fn ack(self) -> Settlement {
        self.settler.settle(Verb::Ack(self.delivery.lease_id))
    }

    /// Failed: counts as an attempt. Comes again after `retry_after`, or the queue's backoff.
    pub fn nack(self, retry_after: Option<Duration>, error: impl Into<String>) -> Settlement {
        self.settler.settle(Verb::Nack(Nack {
            lease_id: self.delivery.lease_id,
            retry_after: retry_after.map(to_wire_duration),
            error: error.into(),
        }))
    }

    /// Give back without blame: ready at once, at its old place.
    pub fn release(self) -> Settlement {
        self.settler.settle(Verb::Release(self.delivery.lease_id))
    }

    /// Give up on the entry: to the dead-letter queue with it.
    pub fn dead_letter(
        self,
        reason: impl Into<String>,
        description: impl Into<String>,
    ) -> Settlement {
        self.settler.settle(Verb::DeadLetter(Reject {
            lease_id: self.delivery.lease_id,
            reason: reason.into(),
            description: description.into(),
        }))
    }

    /// Hold the lease until `by` from now.
    pub fn extend(&self, by: Duration) -> Settlement {
        self.settler.settle(Verb::Extend(Extend {
            lease_id: self.delivery.lease_id,
            by: Some(to_wire_duration(by)),
        }))
    }
}
