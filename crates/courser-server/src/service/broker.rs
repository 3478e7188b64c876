//! The data plane: publish, consume, settle.

use courser_engine::BrokerHandle;
use courser_proto::v1::{self, broker_server::Broker};
use tokio_stream::Pending;
use tonic::{Request, Response, Status, Streaming};

use super::{confirms::ConfirmStream, deliveries::DeliveryStream};
use crate::{
    convert::{
        delivery_to_proto, publish_from_proto, published_to_proto, pull_from_proto,
        settled_to_proto, settlements_from_proto,
    },
    status::{publish_error_to_status, queue_error_to_status},
};

/// The Broker service.
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

    pub(super) fn start_publish_stream(
        &self,
        requests: Streaming<v1::PublishStreamRequest>,
    ) -> ConfirmStream {
        ConfirmStream::start(&self.handle, requests, self.payload_bytes_max)
    }

    pub(super) async fn start_subscribe(
        &self,
        requests: Streaming<v1::SubscribeRequest>,
    ) -> Result<DeliveryStream, Status> {
        DeliveryStream::start(&self.handle, requests).await
    }
}

#[tonic::async_trait]
impl Broker for BrokerService {
    // The two streams are answered by `BrokerFace`, whose answers are of other types.
    type PublishStreamStream = Pending<Result<v1::PublishStreamResponse, Status>>;
    type SubscribeStream = Pending<Result<v1::SubscribeResponse, Status>>;

    async fn publish(
        &self,
        request: Request<v1::PublishRequest>,
    ) -> Result<Response<v1::PublishResponse>, Status> {
        let v1::PublishRequest {
            messages,
            mandatory,
            durability,
        } = request.into_inner();
        let publish = publish_from_proto(messages, mandatory, durability, self.payload_bytes_max)?;
        let published = self.handle.publish(publish).await;
        let published = published.map_err(|error| publish_error_to_status(&error))?;
        Ok(Response::new(v1::PublishResponse {
            results: published_to_proto(published),
        }))
    }

    async fn publish_stream(
        &self,
        _request: Request<Streaming<v1::PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        Err(Status::unimplemented(
            "the face answers this before it comes here",
        ))
    }

    async fn subscribe(
        &self,
        _request: Request<Streaming<v1::SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        Err(Status::unimplemented(
            "the face answers this before it comes here",
        ))
    }

    async fn pull(
        &self,
        request: Request<v1::PullRequest>,
    ) -> Result<Response<v1::PullResponse>, Status> {
        let (open, wait) = pull_from_proto(request.into_inner())?;
        let deliveries = self
            .handle
            .pull(open, wait)
            .await
            .map_err(queue_error_to_status)?;
        let deliveries = deliveries.iter().map(delivery_to_proto).collect();
        Ok(Response::new(v1::PullResponse { deliveries }))
    }

    async fn settle(
        &self,
        request: Request<v1::SettleRequest>,
    ) -> Result<Response<v1::SettleResponse>, Status> {
        let settle = request.into_inner().settle.unwrap_or_default();
        let (settlements, invalid) = settlements_from_proto(settle)?;
        let settled = self
            .handle
            .settle(settlements)
            .await
            .map_err(queue_error_to_status)?;
        Ok(Response::new(v1::SettleResponse {
            settled: Some(settled_to_proto(&settled, &invalid)),
        }))
    }
}
