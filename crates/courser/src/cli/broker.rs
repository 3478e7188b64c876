//! Which broker a command talks to, and how long it waits for it.

use std::{future::Future, time::Duration};

use anyhow::anyhow;
use courser_client::{Client, ConnectOptions, Error};
use tokio::time::timeout;

use crate::cli::usage;

/// How long a command waits for the connection: a broker that is there answers within milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A broker that could not be asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreachable {
    /// No connection came about.
    #[error("no broker at {url}: {why}")]
    Absent { url: String, why: String },
    /// It was asked, and said nothing: it hangs, or something in between does.
    #[error("no answer from {url} within {time:?}")]
    Silent { url: String, time: Duration },
    /// Something else listens there.
    #[error(
        "what listens at {url} is no broker, or it is the broker's HTTP port rather than its gRPC port"
    )]
    Other { url: String },
}

/// Completes what people type, `localhost:7420`, to a URL.
///
/// # Errors
/// Wrong usage, when it is no address. A name alone is none: whoever wrote it wanted a port, too.
pub(super) fn url(server: &str) -> anyhow::Result<String> {
    let wrong = |why: &str| usage(format!("{server:?} is not the address of a broker: {why}"));
    let (url, authority, port_needed) = match server.split_once("://") {
        Some(("http", rest)) => (server.to_owned(), rest.trim_end_matches('/'), false),
        Some(("https", _)) => return Err(wrong("there is no TLS yet, it must start with http://")),
        Some(_) => return Err(wrong("it must start with http://")),
        None => (format!("http://{server}"), server, true),
    };
    match host_and_port(authority) {
        Some((_, Some(_))) => Ok(url),
        Some((_, None)) if !port_needed => Ok(url),
        _ => Err(wrong(
            "it must look like localhost:7420 or http://localhost:7420",
        )),
    }
}

fn host_and_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match authority.rsplit_once(':') {
        // A colon within brackets belongs to an address of IPv6.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port_number(port)?)),
        _ => (authority, None),
    };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let well_formed = if bracketed {
        host[1..host.len() - 1]
            .parse::<std::net::Ipv6Addr>()
            .is_ok()
    } else {
        !host.is_empty() && host.chars().all(allowed)
    };
    well_formed.then_some((host, port))
}

/// Digits alone: a number may have a sign, a port has none.
fn port_number(port: &str) -> Option<u16> {
    let is_plain = port.bytes().all(|byte| byte.is_ascii_digit());
    port.parse().ok().filter(|_| is_plain)
}

pub(super) async fn connect(url: &str) -> anyhow::Result<Client> {
    let options = ConnectOptions {
        connect_timeout: CONNECT_TIMEOUT,
        ..ConnectOptions::default()
    };
    let connected = Client::connect_with(url, &options).await;
    connected.map_err(|error| match error {
        Error::Unreachable(why) => {
            let url = url.to_owned();
            Unreachable::Absent { url, why }.into()
        }
        other => other.into(),
    })
}

/// Waits for an answer, up to `time` when there is one.
pub(super) async fn answered(
    url: &str,
    time: Option<Duration>,
    command: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let ended = match time {
        None => command.await,
        Some(time) => timeout(time, command).await.unwrap_or_else(|_| {
            let url = url.to_owned();
            Err(Unreachable::Silent { url, time }.into())
        }),
    };
    ended.map_err(|error| {
        if speaks_no_grpc(&error) {
            let url = url.to_owned();
            return anyhow!(Unreachable::Other { url });
        }
        error
    })
}

/// Whether what answered speaks HTTP, but no gRPC: there is no other sign of it than these sentences.
fn speaks_no_grpc(error: &anyhow::Error) -> bool {
    let signs = ["grpc-status header missing", "frame with invalid size"];
    error.chain().any(|cause| {
        cause.downcast_ref::<Error>().is_some_and(|error| {
            let sentence = error.to_string();
            signs.iter().any(|sign| sentence.contains(sign))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_scheme_is_completed() {
        for (server, expected) in [
            ("localhost:7420", "http://localhost:7420"),
            ("http://a:1", "http://a:1"),
            ("http://a:1/", "http://a:1/"),
            ("http://broker", "http://broker"),
            ("[::1]:7420", "http://[::1]:7420"),
            ("http://[::1]", "http://[::1]"),
        ] {
            assert_eq!(url(server).unwrap(), expected);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for server in [
            "",
            "nonsense",
            ":7420",
            "a b:1",
            "host:99999",
            "host:port",
            "host:+80",
            "http://",
            "http://:7420",
            "http://a:1/metrics",
            "https://a:1",
            "ftp://a:1",
            "::1:7420",
            "[::1",
        ] {
            let said = url(server).unwrap_err().to_string();
            assert!(said.contains(&format!("{server:?}")), "{said}");
        }
    }
}
