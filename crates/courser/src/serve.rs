//! Runs a broker.
//!
//! The start: bind both ports (the cheapest thing that can fail), then open and recover the store on a
//! thread that may block, then serve. Whoever connects during a long recovery waits in the backlog.
//!
//! The end: the server stops taking and tells the engine, which ends subscriptions and makes durable
//! what is on its way. [`Running::shutdown`] gives that [`SHUTDOWN_MAX`].

use std::{io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use courser_engine::BrokerHandle;
use courser_store::{Store, StoreError};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle, time::timeout};
use tracing::warn;

pub use crate::config::Config;
use crate::files;

/// How long the end of a broker may take before it is cut short. What is confirmed is durable already.
pub const SHUTDOWN_MAX: Duration = Duration::from_secs(9);

/// Why a broker could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A port could not be bound.
    #[error("cannot listen on {address} for {what}: {}", bind_failure(.cause))]
    Bind {
        /// `gRPC` or `HTTP`.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why not.
        cause: io::Error,
    },
    /// The data folder could not be opened or recovered.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The faces failed.
    #[error("cannot serve: {0}")]
    Serve(String),
    /// The store failed while the broker ran, and it has ended since.
    #[error("ended after its store had failed: {0}; what was confirmed before is on the disk")]
    StoreFailed(String),
}

fn bind_failure(cause: &io::Error) -> String {
    match cause.kind() {
        io::ErrorKind::AddrInUse => {
            "the port is in use, perhaps by another broker; choose another one with --listen or --http"
                .to_owned()
        }
        _ => cause.to_string(),
    }
}

/// Starts brokers.
#[derive(Debug)]
pub struct Broker;

/// A broker that runs. Dropping it stops the faces without waiting for the end.
#[derive(Debug)]
pub struct Running {
    /// Where gRPC is served: the real port when port 0 was asked for.
    pub grpc_addr: SocketAddr,
    /// Where HTTP is served.
    pub http_addr: Option<SocketAddr>,
    handle: BrokerHandle,
    stop: oneshot::Sender<()>,
    server: JoinHandle<Result<(), Error>>,
}

impl Broker {
    /// Starts a broker in this process.
    ///
    /// # Errors
    /// When a port or the data folder cannot be had.
    pub async fn start(config: &Config) -> Result<Running, Error> {
        let (grpc, grpc_addr) = bind("gRPC", config.listen).await?;
        let http = match config.http {
            Some(address) => Some(bind("HTTP", address).await?),
            None => None,
        };
        let (http, http_addr) = http.unzip();
        let handle = recover(config).await?;
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move {
            // Dropped without a word is an end as well.
            let _ = stopped.await;
        };
        let options = courser_server::ServerOptions {
            max_message_bytes: config.max_message_bytes,
            files_max: files::limit(),
            version: env!("CARGO_PKG_VERSION"),
        };
        let serving = courser_server::serve(handle.clone(), options, grpc, http, shutdown);
        let server = tokio::spawn(async {
            serving
                .await
                .map_err(|error| Error::Serve(error.to_string()))
        });
        Ok(Running {
            grpc_addr,
            http_addr,
            handle,
            stop,
            server,
        })
    }
}

impl Running {
    /// Waits until the broker ends by itself, which it does only when something is broken.
    ///
    /// # Errors
    /// What is broken.
    pub async fn failed(&mut self) -> Error {
        match (&mut self.server).await {
            Ok(Err(error)) => error,
            Ok(Ok(())) => Error::Serve("the server ended".to_owned()),
            Err(error) => Error::Serve(error.to_string()),
        }
    }

    /// Ends the broker: everything confirmed is on the disk, the folder is free for the next one.
    ///
    /// # Errors
    /// When the faces failed on the way, or the store had failed before or failed on the way.
    pub async fn shutdown(self) -> Result<(), Error> {
        let Self {
            handle,
            stop,
            server,
            ..
        } = self;
        let _ = stop.send(());
        let end = async {
            let served = server.await;
            // The server has asked for this already; asking again waits for the end of it.
            handle.shutdown().await;
            served
        };
        match timeout(SHUTDOWN_MAX, end).await {
            Ok(Ok(served)) => served?,
            Ok(Err(error)) => return Err(Error::Serve(error.to_string())),
            Err(_) => {
                warn!("clients or the disk held up the end for too long; ending without them");
            }
        }
        match handle.failure().get() {
            Some(how) => Err(Error::StoreFailed(how.to_owned())),
            None => Ok(()),
        }
    }
}

async fn bind(what: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let bound = async {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bound.await.map_err(|cause| Error::Bind {
        what,
        address,
        cause,
    })
}

/// Opens the data folder and replays its log, which may take a while and blocks.
async fn recover(config: &Config) -> Result<BrokerHandle, Error> {
    let data_dir = config.data_dir.clone();
    let store_options = courser_store::DiskOptions {
        check_bytes: config.check_at_start,
        ..Default::default()
    };
    let options = courser_engine::Options {
        recent_bytes: config.recent_bytes,
        min_free: config.min_free,
        ..Default::default()
    };
    let started = tokio::task::spawn_blocking(move || {
        courser_engine::start(open_store(&data_dir, store_options)?, &options)
    });
    Ok(started
        .await
        .map_err(|error| Error::Serve(error.to_string()))??)
}

fn open_store(
    data_dir: &Path,
    options: courser_store::DiskOptions,
) -> Result<Arc<dyn Store>, StoreError> {
    if data_dir.exists() && !data_dir.is_dir() {
        return Err(StoreError::Foreign {
            path: data_dir.display().to_string(),
            why: "it is a file, and a folder is needed".to_owned(),
        });
    }
    Ok(Arc::new(courser_store::DiskStore::open(data_dir, options)?))
}

#[cfg(test)]
mod tests {
    use courser_core::options::QueueOptions;
    use courser_store::MemoryStore;

    use super::*;

    fn running(store: MemoryStore) -> Running {
        let handle = courser_engine::start(Arc::new(store), &Default::default()).unwrap();
        Running {
            grpc_addr: ([127, 0, 0, 1], 0).into(),
            http_addr: None,
            handle,
            stop: oneshot::channel().0,
            server: tokio::spawn(async { Ok(()) }),
        }
    }

    #[tokio::test]
    async fn the_end_of_a_broker_whose_store_failed_says_so() {
        running(MemoryStore::new()).shutdown().await.unwrap();

        let store = MemoryStore::new();
        let broker = running(store.clone());
        store.fail_writes(true);
        let refused = broker
            .handle
            .create_queue("q".to_owned(), QueueOptions::default());
        refused.await.unwrap_err();
        let error = broker.shutdown().await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "ended after its store had failed: cannot write memory: the store was told to fail; what was \
             confirmed before is on the disk"
        );
    }
}
