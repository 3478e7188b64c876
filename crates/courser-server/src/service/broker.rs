//! The data plane: publish, consume, settle.

use courser_engine::{BrokerHandle, Cut, Failure};
use courser_proto::v1;
use tonic::Status;

use super::{confirms::ConfirmStream, deliveries::DeliveryStream};
use crate::{
    answers::{Answer, Held},
    arrival::Arrival,
    convert::{
        publish_from_proto, published_to_proto, pull_from_proto, settled_to_proto,
        settlements_from_proto,
    },
    leaving::{Kept, Leaving},
    status::{publish_error_to_status, queue_error_to_status},
    wire::{PulledFrame, Requests},
};

/// The methods of the Broker service, as `BrokerFace` mounts them.
#[derive(Debug)]
pub(crate) struct BrokerService {
    handle: BrokerHandle,
    payload_bytes_max: usize,
}

impl BrokerService {
    pub(crate) fn new(handle: BrokerHandle, payload_bytes_max: usize) -> Self {
        Self {
            handle,
            payload_bytes_max,
        }
    }

    /// That of the store.
    pub(super) fn failure(&self) -> &Failure {
        self.handle.failure()
    }

    pub(super) async fn publish(
        &self,
        request: v1::PublishRequest,
    ) -> Result<v1::PublishResponse, Status> {
        let v1::PublishRequest {
            messages,
            mandatory,
            durability,
        } = request;
        let publish = publish_from_proto(messages, mandatory, durability, self.payload_bytes_max)?;
        let published = self.handle.publish(publish).await;
        let published = published.map_err(|error| publish_error_to_status(&error))?;
        Ok(v1::PublishResponse {
            results: published_to_proto(published),
        })
    }

    pub(super) fn publish_stream(
        &self,
        requests: Requests,
        held: Held,
        arrival: Option<Arrival>,
    ) -> ConfirmStream {
        ConfirmStream::start(
            &self.handle,
            requests,
            self.payload_bytes_max,
            held,
            arrival,
        )
    }

    pub(super) async fn subscribe(
        &self,
        requests: Requests,
        cut: Cut,
        leaving: Leaving,
        answer: Answer,
        arrival: Option<Arrival>,
    ) -> Result<DeliveryStream, Status> {
        DeliveryStream::start(&self.handle, requests, cut, leaving, answer, arrival).await
    }

    pub(super) async fn pull(
        &self,
        request: v1::PullRequest,
        cut: Cut,
        leaving: Leaving,
    ) -> Result<PulledFrame, Status> {
        let (open, wait) = pull_from_proto(request)?;
        let pulled = self.handle.pull_over(open, wait, cut).await;
        let pulled = pulled.map_err(queue_error_to_status)?;
        leaving.keep(Kept::Pulled(pulled.hold));
        Ok(PulledFrame(pulled.deliveries))
    }

    pub(super) async fn settle(
        &self,
        request: v1::SettleRequest,
    ) -> Result<v1::SettleResponse, Status> {
        let settle = request.settle.unwrap_or_default();
        let without_results = settle.without_results;
        let (settlements, invalid) = settlements_from_proto(settle)?;
        let settled = self.handle.settle(settlements).await;
        let mut settled = settled.map_err(queue_error_to_status)?;
        if without_results {
            settled.ok.clear();
        }
        Ok(v1::SettleResponse {
            settled: Some(settled_to_proto(&settled, &invalid)),
        })
    }
}
