//! What is asked of a broker over HTTP and gRPC.

use anyhow::Context as _;
use courser_proto::v1::broker_client::BrokerClient;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, ToSocketAddrs},
};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

/// Above any answer: the largest pull, and what is around it.
const WIRE_BYTES: usize = 64 * 1024 * 1024;

/// Code and body of a page of the HTTP side, however long it takes. An error when nobody listens, or when what
/// comes is no whole answer.
pub async fn page(http: impl ToSocketAddrs, path: &str) -> anyhow::Result<(u16, String)> {
    let mut stream = TcpStream::connect(http).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no body")?;
    let code = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok((code, body.to_owned()))
}

/// What a page of metrics says of a name, which has its labels with it.
pub fn figure<'a>(metrics: &'a str, name: &str) -> Option<&'a str> {
    metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
}

/// gRPC at `host:port`, not connected yet and without a limit of time. An error when that is no address.
pub fn endpoint(grpc: &str) -> anyhow::Result<Endpoint> {
    Ok(Channel::from_shared(format!("http://{grpc}"))?)
}

/// A client that takes and sends messages of up to 64 MiB.
pub fn client(channel: Channel) -> BrokerClient<Channel> {
    BrokerClient::new(channel)
        .max_decoding_message_size(WIRE_BYTES)
        .max_encoding_message_size(WIRE_BYTES)
}

/// Whether the health service of gRPC says that it serves.
pub async fn serves(channel: Channel) -> Result<bool, Status> {
    let mut health = HealthClient::new(channel);
    let answer = health.check(HealthCheckRequest::default()).await?;
    Ok(answer.into_inner().status == ServingStatus::Serving as i32)
}
