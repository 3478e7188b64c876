//! A subscription as it is: deliveries and results in batches in, settlements in batches out.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::{
    client::Client,
    codec::DeliveriesReader,
    deliveries::Received,
    error::Error,
    responses::Responses,
    time::to_wire_duration,
    wire::{Drain, Open, Settle, SubscribeRequest, subscribe_request},
};

/// What to consume, and how much at once.
#[derive(Clone, Debug, Default)]
pub struct ConsumerOptions {
    /// The queue.
    pub queue: String,
    /// A name for people, shown in stats and in the history of attempts.
    pub consumer: String,
    /// Deliveries that may be unsettled at once; 0 is the broker's default (100, for `pull` 1).
    pub max_messages: u32,
    /// Their bytes; 0 is the broker's default (16 MiB).
    pub max_bytes: u64,
    /// How long a delivery may stay unsettled; `None` is the queue's.
    pub lease: Option<Duration>,
    /// Entries are acked as they are handed over: at most once.
    pub auto_ack: bool,
    /// Deliveries in all, for subscriptions: after so many none follow; 0 is no limit.
    pub limit: u64,
}

impl ConsumerOptions {
    /// Consumes `queue` with all defaults.
    #[must_use]
    pub fn new(queue: impl Into<String>) -> Self {
        Self {
            queue: queue.into(),
            ..Self::default()
        }
    }
}

impl Client {
    /// Opens a subscription without anything around it.
    ///
    /// # Errors
    /// `Refused`, `Failed`, `Unreachable`.
    pub async fn subscribe(&self, options: ConsumerOptions) -> Result<Subscription, Error> {
        let open = Open {
            queue: options.queue,
            consumer: options.consumer,
            max_messages: options.max_messages,
            max_bytes: options.max_bytes,
            lease: options.lease.map(to_wire_duration),
            auto_ack: options.auto_ack,
            limit: options.limit,
        };
        // Without a bound of its own: the credit bounds how many leases there are to settle.
        let (requests, receiver) = mpsc::unbounded_channel();
        let open = SubscribeRequest {
            kind: Some(subscribe_request::Kind::Open(open)),
        };
        requests.send(open).map_err(|_| Error::stream_ended())?;
        let requests_stream = UnboundedReceiverStream::new(receiver);
        let path = "/courser.v1.Broker/Subscribe";
        let reader = DeliveriesReader::default();
        let responses = self.open_stream(path, requests_stream, reader).await?;
        Ok(Subscription {
            settles: SettleSender { requests },
            responses,
        })
    }
}

/// Receives batches of deliveries, and the results of settlements. Dropping it ends the leases of what
/// was delivered and not settled.
#[derive(Debug)]
pub struct Subscription {
    settles: SettleSender,
    responses: Responses<DeliveriesReader>,
}

impl Subscription {
    /// What settles the deliveries of this subscription.
    #[must_use]
    pub fn settles(&self) -> SettleSender {
        self.settles.clone()
    }

    /// The next deliveries or results; heartbeats are passed over. `None` when the broker ended the
    /// stream.
    ///
    /// # Errors
    /// `Refused`: for example the queue was deleted. `Failed`: the broker ends. `Unreachable`: the
    /// connection broke.
    pub async fn next(&mut self) -> Result<Option<Received>, Error> {
        loop {
            match self.responses.next().await? {
                None => return Ok(None),
                Some(None) => {}
                Some(received) => return Ok(received),
            }
        }
    }
}

/// Settles deliveries of one subscription. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SettleSender {
    requests: mpsc::UnboundedSender<SubscribeRequest>,
}

impl SettleSender {
    /// One whose requests the test sees.
    #[cfg(test)]
    pub(crate) fn seen() -> (Self, mpsc::UnboundedReceiver<SubscribeRequest>) {
        let (requests, receiver) = mpsc::unbounded_channel();
        (Self { requests }, receiver)
    }

    /// Sends settlements of up to 10,000 leases, each lease once. Their results come with
    /// [`Subscription::next`], in order; with `without_results` only what was refused, and the result of a
    /// later one says that this one holds as well.
    ///
    /// # Errors
    /// `Unreachable`: the stream has ended, [`Subscription::next`] says why.
    pub fn send(&self, settle: Settle) -> Result<(), Error> {
        self.request(subscribe_request::Kind::Settle(settle))
    }

    /// Asks for no more deliveries; [`Received::Drained`] comes after the last one. What is held can be
    /// settled as before.
    ///
    /// # Errors
    /// As [`SettleSender::send`].
    pub fn drain(&self) -> Result<(), Error> {
        self.request(subscribe_request::Kind::Drain(Drain {}))
    }

    fn request(&self, kind: subscribe_request::Kind) -> Result<(), Error> {
        let request = SubscribeRequest { kind: Some(kind) };
        self.requests
            .send(request)
            .map_err(|_| Error::stream_ended())
    }
}
