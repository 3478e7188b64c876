//! A publish stream as it is: numbered requests out, confirms in.

use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};

use crate::{
    client::Client,
    codec::ConfirmsReader,
    error::Error,
    responses::Responses,
    wire::{Confirm, PublishStreamRequest},
};

/// Requests waiting to be encoded. Few, so that whoever sends feels the broker's pace.
const REQUESTS_WAITING_MAX: usize = 8;

impl Client {
    /// Opens a publish stream without anything around it. Batches, numbers and the window are the
    /// caller's.
    ///
    /// # Errors
    /// `Refused`, `Failed`, `Unreachable`.
    pub async fn publish_stream(&self) -> Result<(PublishSender, PublishConfirms), Error> {
        let (requests, receiver) = mpsc::channel(REQUESTS_WAITING_MAX);
        let confirms = self
            .open_publish_stream(ReceiverStream::new(receiver))
            .await?;
        Ok((PublishSender { requests }, confirms))
    }

    pub(crate) async fn open_publish_stream(
        &self,
        requests: impl Stream<Item = PublishStreamRequest> + Send + 'static,
    ) -> Result<PublishConfirms, Error> {
        let path = "/courser.v1.Broker/PublishStream";
        let responses = self.open_stream(path, requests, ConfirmsReader).await?;
        Ok(PublishConfirms { responses })
    }
}

/// Sends numbered requests. Dropping it ends the stream once everything is confirmed.
#[derive(Debug)]
pub struct PublishSender {
    requests: mpsc::Sender<PublishStreamRequest>,
}

impl PublishSender {
    /// Sends a request of up to 1,000 messages; its confirm names its number. Waits while too many
    /// wait for the connection.
    ///
    /// # Errors
    /// `Unreachable`: the stream has ended, its confirms say why.
    pub async fn send(&self, request: PublishStreamRequest) -> Result<(), Error> {
        self.requests
            .send(request)
            .await
            .map_err(|_| Error::stream_ended())
    }
}

/// The confirms of a publish stream, in the order of its requests.
#[derive(Debug)]
pub struct PublishConfirms {
    responses: Responses<ConfirmsReader>,
}

impl PublishConfirms {
    /// The next confirms, as many as came together; `None` when the stream has ended.
    ///
    /// # Errors
    /// `Refused`, `Failed`, `Unreachable`: the stream is over, nothing is known of what was not confirmed.
    pub async fn next(&mut self) -> Result<Option<Vec<Confirm>>, Error> {
        Ok(self
            .responses
            .next()
            .await?
            .map(|response| response.confirms))
    }
}
