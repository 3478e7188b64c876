//! `courser serve`

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
};
use tracing::info;

use crate::{
    config::{Config, Layer},
    files, logging,
    serve::{Broker, Running},
};

/// Every flag is text here: the configuration reads them, so that all that is wrong is told at once.
#[derive(Debug, clap::Args)]
pub(super) struct Serve {
    /// The configuration file. Flags win over the environment, and that over the file.
    #[arg(long, value_name = "FILE", env = "COURSER_CONFIG")]
    config: Option<PathBuf>,
    /// The folder that keeps everything [default: ./courser-data].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Where clients connect, over gRPC [default: 127.0.0.1:7420].
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Where metrics and health are, over HTTP; `off` for none [default: 127.0.0.1:7421].
    #[arg(long, value_name = "ADDRESS:PORT")]
    http: Option<String>,
    /// A level, or a filter as `info,courser_engine=debug` [default: info].
    #[arg(long, value_name = "FILTER")]
    log_level: Option<String>,
    /// `human`, `json`, or `auto`: human on a terminal [default: auto].
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Bytes of the largest payload, plain or as `8MiB` [default: 4MiB].
    #[arg(long, value_name = "BYTES")]
    max_message_bytes: Option<String>,
    /// Threads that serve connections; 0 is one for each core [default: 0].
    #[arg(long, value_name = "COUNT")]
    worker_threads: Option<String>,
    /// Bytes of the latest messages kept in memory [default: 96MiB].
    #[arg(long, value_name = "BYTES")]
    recent_bytes: Option<String>,
    /// Bytes of the disk that stay free: nothing is published while there are fewer [default: auto, the
    /// larger of 1GiB and 5 % of the disk].
    #[arg(long, value_name = "BYTES")]
    min_free: Option<String>,
    /// Bytes of older messages that a start looks through for damage, the oldest first; 0 for none
    /// [default: 256MiB].
    #[arg(long, value_name = "BYTES")]
    check_at_start: Option<String>,
}

impl Serve {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let config = self.configuration()?;
        let for_people = logging::start(&config.log_level, config.log_format)?;
        files::raise_limit();
        let mut runtime = runtime::Builder::new_multi_thread();
        if config.worker_threads > 0 {
            runtime.worker_threads(config.worker_threads);
        }
        let runtime = runtime.enable_all().build()?;
        let served = runtime.block_on(serve(&config, for_people));
        // What held up the end for too long must not hold up the exit.
        runtime.shutdown_background();
        served
    }

    fn configuration(self) -> anyhow::Result<Config> {
        let mut layers = Vec::new();
        layers.extend(self.config.as_deref().map(Layer::file));
        layers.push(Layer::environment(std::env::vars_os()));
        layers.push(Layer::flags([
            ("data_dir", self.data_dir),
            ("listen", self.listen),
            ("http", self.http),
            ("log_level", self.log_level),
            ("log_format", self.log_format),
            ("max_message_bytes", self.max_message_bytes),
            ("worker_threads", self.worker_threads),
            ("recent_bytes", self.recent_bytes),
            ("min_free", self.min_free),
            ("check_at_start", self.check_at_start),
        ]));
        Ok(Config::resolve(layers)?)
    }
}

async fn serve(config: &Config, for_people: bool) -> anyhow::Result<()> {
    // Before anything else, so that no signal is missed while the log is replayed.
    let mut ends = Ends::new()?;
    let mut running = tokio::select! {
        started = Broker::start(config) => started?,
        // Nothing was served yet, and the store is made for being interrupted.
        () = ends.next() => return Ok(()),
    };
    tell_start(&running, &config.data_dir, for_people);
    tokio::select! {
        error = running.failed() => return Err(error.into()),
        () = ends.next() => info!("ending; a second signal ends at once"),
    }
    tokio::select! {
        ended = running.shutdown() => ended?,
        () = ends.next() => anyhow::bail!("ended by a second signal"),
    }
    info!("ended");
    Ok(())
}

fn tell_start(running: &Running, data_dir: &Path, for_people: bool) {
    let data = data_dir
        .canonicalize()
        .unwrap_or_else(|_| data_dir.to_owned());
    let data = data.display();
    let (grpc, http) = (running.grpc_addr, running.http_addr);
    let version = env!("CARGO_PKG_VERSION");
    if for_people {
        info!(target: logging::START, "courser {version} listens at {grpc}");
        if let Some(http) = http {
            info!(target: logging::START, "metrics and health are at http://{http}");
        }
        info!(target: logging::START, "its data is in {data}");
    } else {
        let http = http.map_or_else(|| "off".to_owned(), |http| http.to_string());
        info!(target: logging::START, %grpc, http, %data, version, "listening");
    }
    info!(target: logging::START, "try: courser queue create hello{}", server_flag(grpc));
}

/// What a command on this machine needs to find a broker that listens at `address`.
fn server_flag(address: SocketAddr) -> String {
    let address = match address {
        SocketAddr::V4(all) if all.ip().is_unspecified() => {
            (Ipv4Addr::LOCALHOST, all.port()).into()
        }
        SocketAddr::V6(all) if all.ip().is_unspecified() => {
            (Ipv6Addr::LOCALHOST, all.port()).into()
        }
        one => one,
    };
    if address == Config::default().listen {
        String::new()
    } else {
        format!(" --server {address}")
    }
}

/// The signals that end a broker.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
}

impl Ends {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_to_try_names_the_broker_unless_it_is_found_anyway() {
        for (address, flag) in [
            ("127.0.0.1:7420", ""),
            ("0.0.0.0:7420", ""),
            ("0.0.0.0:80", " --server 127.0.0.1:80"),
            ("[::]:7420", " --server [::1]:7420"),
            ("10.0.0.1:7420", " --server 10.0.0.1:7420"),
        ] {
            assert_eq!(server_flag(address.parse().unwrap()), flag, "{address}");
        }
    }
}
