//! The connection to a broker, and the calls that need no stream.

use std::{future::poll_fn, time::Duration};

use courser_executor::TaskExecutor;
use courser_proto::v1::{admin_client::AdminClient, broker_client::BrokerClient};
use prost::Message as _;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{
    Code, Status,
    body::Body,
    client::GrpcService as _,
    codec::EncodeBody,
    codegen::http,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, health_check_response, health_client::HealthClient};

use crate::{
    codec::BatchEncoder,
    error::{Error, Refusal},
    responses::{Reader, Responses},
    subscription::ConsumerOptions,
    time::to_wire_duration,
    wire,
};

/// Bytes of the largest payload that any broker can be configured for.
const PAYLOAD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of a message beside its payload: the broker takes 64 KiB of headers, and a little more.
const BESIDE_PAYLOAD_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of the largest answer or request: a message of the largest size that a broker can be
/// configured for, and room for what is around it.
pub(crate) const MESSAGE_BYTES_MAX: usize = 72 * 1024 * 1024;
/// Bytes on their way on one stream before the receiver has taken any: at 1 ms of round trip this is
/// 1 GiB a second.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// The same for all streams of the connection together.
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Bytes of one HTTP/2 frame from the broker: a batch of deliveries comes in one read, not in many.
const FRAME_BYTES_MAX: u32 = 256 * 1024;

/// How to connect.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// How long the connection may take to come about.
    pub connect_timeout: Duration,
    /// How often a silent connection is asked whether it is alive.
    pub keep_alive_interval: Duration,
    /// How long the answer to that may take.
    pub keep_alive_timeout: Duration,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            keep_alive_interval: Duration::from_secs(20),
            keep_alive_timeout: Duration::from_secs(10),
        }
    }
}

/// One connection to a broker. Cheap to clone; clones share the connection.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) channel: Channel,
    pub(crate) broker: BrokerClient<Channel>,
    pub(crate) admin: AdminClient<Channel>,
    health: HealthClient<Channel>,
}

impl Client {
    /// Connects, and answers when the connection stands.
    ///
    /// # Errors
    /// `Address`, `Unreachable`.
    pub async fn connect(url: &str) -> Result<Self, Error> {
        Self::connect_with(url, &ConnectOptions::default()).await
    }

    /// The same, with options.
    ///
    /// # Errors
    /// `Address`, `Unreachable`.
    pub async fn connect_with(url: &str, options: &ConnectOptions) -> Result<Self, Error> {
        let channel = endpoint(url, options)?
            .connect()
            .await
            .map_err(|error| unreachable(&error))?;
        Ok(Self::over(channel))
    }

    /// Connects when the first call is made, and again whenever the connection was lost.
    ///
    /// # Errors
    /// `Address`.
    pub fn lazy(url: &str, options: &ConnectOptions) -> Result<Self, Error> {
        Ok(Self::over(endpoint(url, options)?.connect_lazy()))
    }

    fn over(channel: Channel) -> Self {
        Self {
            broker: BrokerClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
            admin: AdminClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
            health: HealthClient::new(channel.clone()),
            channel,
        }
    }

    /// Opens a stream of requests and of answers.
    pub(crate) async fn open_stream<Request, R>(
        &self,
        path: &'static str,
        requests: impl Stream<Item = Request> + Send + 'static,
        reader: R,
    ) -> Result<Responses<R>, Error>
    where
        Request: prost::Message + 'static,
        R: Reader,
    {
        let encoder = BatchEncoder::default();
        let (requests, max) = (requests.map(Ok), Some(MESSAGE_BYTES_MAX));
        let body = EncodeBody::new_client(encoder, requests, None, max);
        let mut request = http::Request::new(Body::new(body));
        *request.method_mut() = http::Method::POST;
        *request.version_mut() = http::Version::HTTP_2;
        *request.uri_mut() = http::Uri::from_static(path);
        for (name, value) in [
            (http::header::TE, "trailers"),
            (http::header::CONTENT_TYPE, "application/grpc"),
        ] {
            let value = http::HeaderValue::from_static(value);
            request.headers_mut().insert(name, value);
        }
        let mut channel = self.channel.clone();
        poll_fn(|context| channel.poll_ready(context))
            .await
            .map_err(|error| unreachable(&error))?;
        let answer = channel.call(request).await;
        let answer = answer.map_err(|error| Status::from_error(Box::new(error)))?;
        Ok(Responses::new(answer, reader)?)
    }

    /// Publishes messages, all or nothing, and answers when they are as safe as was asked for. For
    /// more than a few a second a [`Publisher`](crate::Publisher) is faster.
    ///
    /// # Errors
    /// `Refused`: nothing was published. `Failed`, `Unreachable`: it may or may not have been.
    pub async fn publish(
        &self,
        request: wire::PublishRequest,
    ) -> Result<Vec<wire::PublishResult>, Error> {
        request.messages.iter().try_for_each(check_size)?;
        let bytes = request.encoded_len();
        if bytes > MESSAGE_BYTES_MAX {
            let problem = format!("a request must have at most 16 MiB, has {bytes} bytes");
            return Err(too_large("REQUEST_TOO_LARGE", problem));
        }
        Ok(self
            .broker
            .clone()
            .publish(request)
            .await?
            .into_inner()
            .results)
    }

    /// Takes up to `options.max_messages` entries, waiting up to `wait` for the first.
    ///
    /// # Errors
    /// `Refused`, `Failed`, `Unreachable`.
    pub async fn pull(
        &self,
        options: ConsumerOptions,
        wait: Duration,
    ) -> Result<Vec<wire::Delivery>, Error> {
        let request = wire::PullRequest {
            queue: options.queue,
            consumer: options.consumer,
            max_messages: options.max_messages,
            max_bytes: options.max_bytes,
            lease: options.lease.map(to_wire_duration),
            wait: Some(to_wire_duration(wait)),
            auto_ack: options.auto_ack,
        };
        Ok(self
            .broker
            .clone()
            .pull(request)
            .await?
            .into_inner()
            .deliveries)
    }

    /// Settles leases, whichever call they came from. Every lease id has a result of its own in the
    /// answer.
    ///
    /// # Errors
    /// `Refused`: nothing was settled. `Failed`, `Unreachable`: it may or may not have been.
    pub async fn settle(&self, settle: wire::Settle) -> Result<wire::Settled, Error> {
        let request = wire::SettleRequest {
            settle: Some(settle),
        };
        let response = self.broker.clone().settle(request).await?.into_inner();
        Ok(response.settled.unwrap_or_default())
    }

    /// Whether the broker takes and gives messages.
    ///
    /// # Errors
    /// `Unreachable`.
    pub async fn is_serving(&self) -> Result<bool, Error> {
        let answer = self
            .health
            .clone()
            .check(HealthCheckRequest::default())
            .await?
            .into_inner();
        Ok(answer.status() == health_check_response::ServingStatus::Serving)
    }
}

/// A message that no broker can take is refused here, where there is a sentence for it: encoding it
/// would break the connection.
pub(crate) fn check_size(message: &wire::Message) -> Result<(), Error> {
    let bytes = message.payload.len();
    if bytes > PAYLOAD_BYTES_MAX {
        let problem = format!("a payload must have at most {PAYLOAD_BYTES_MAX} bytes, has {bytes}");
        return Err(too_large("PAYLOAD_TOO_LARGE", problem));
    }
    let beside = message.encoded_len() - bytes;
    if beside > BESIDE_PAYLOAD_BYTES_MAX {
        let problem = format!(
            "what a message has beside its payload must have at most {BESIDE_PAYLOAD_BYTES_MAX} \
             bytes, has {beside}"
        );
        return Err(too_large("HEADERS_TOO_LARGE", problem));
    }
    Ok(())
}

fn too_large(reason: &str, message: String) -> Error {
    Error::Refused(Box::new(Refusal {
        code: Code::InvalidArgument,
        reason: reason.to_owned(),
        message,
    }))
}

fn endpoint(url: &str, options: &ConnectOptions) -> Result<Endpoint, Error> {
    let address = |why: &str| Error::Address {
        url: url.to_owned(),
        why: why.to_owned(),
    };
    if !url.starts_with("http://") {
        return Err(address("it must start with http://"));
    }
    let endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(|_| address("it must look like http://host:port"))?;
    Ok(endpoint
        .connect_timeout(options.connect_timeout)
        .http2_keep_alive_interval(options.keep_alive_interval)
        .keep_alive_timeout(options.keep_alive_timeout)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .executor(TaskExecutor)
        .tcp_nodelay(true))
}

pub(crate) fn unreachable(error: &tonic::transport::Error) -> Error {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    Error::Unreachable(cause.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_scheme_is_refused_with_a_hint() {
        let error = endpoint("localhost:7420", &ConnectOptions::default()).unwrap_err();
        assert!(error.to_string().contains("http://"), "{error}");
    }

    #[test]
    fn a_message_that_no_broker_takes_is_refused_here() {
        let reason = |payload: usize, header: usize| {
            let message = wire::Message {
                payload: vec![0; payload].into(),
                headers: [("key".to_owned(), "x".repeat(header))].into(),
                ..Default::default()
            };
            let error = check_size(&message).err();
            error.and_then(|error| error.reason().map(str::to_owned))
        };
        assert_eq!(reason(PAYLOAD_BYTES_MAX, 64 * 1024), None);
        let payload = Some("PAYLOAD_TOO_LARGE".to_owned());
        assert_eq!(reason(PAYLOAD_BYTES_MAX + 1, 0), payload);
        let headers = Some("HEADERS_TOO_LARGE".to_owned());
        assert_eq!(reason(0, 1024 * 1024), headers);
    }

    #[tokio::test]
    async fn a_broker_that_is_not_there_is_unreachable() {
        // Port 9 (discard) of this machine: nobody listens there.
        let error = Client::connect("http://127.0.0.1:9").await.unwrap_err();
        assert!(error.is_unreachable(), "{error:?}");
        let lazy = Client::lazy("http://127.0.0.1:9", &ConnectOptions::default()).unwrap();
        let error = lazy.is_serving().await.unwrap_err();
        assert!(error.is_unreachable(), "{error:?}");
    }
}
