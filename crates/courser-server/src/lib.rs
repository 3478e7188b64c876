//! The faces of a broker: its gRPC services, and an HTTP side for metrics and probes.
//!
//! Nothing is decided here. A request is checked and put into the words of the core (`convert`), handed
//! to the [`BrokerHandle`], and its answer is put into the words of the wire (`convert`, `status`).
#![warn(missing_docs)]

mod answers;
mod arrival;
mod calls;
mod closing;
mod connection;
mod convert;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod health;
mod http;
mod leaving;
mod limits;
mod metrics;
mod serve;
mod service;
mod status;
mod transport;
mod waiting;
mod wire;

use courser_core::limits::PAYLOAD_BYTES_DEFAULT;
#[cfg(doc)]
use courser_engine::BrokerHandle;

pub use serve::{ServeError, serve};

/// What the faces can be told.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Bytes that the payload of a message may have.
    pub max_message_bytes: usize,
    /// Files that the process may have open. Connections take no more than half of them.
    pub files_max: usize,
    /// The version of the broker, as it is shown to clients and in metrics.
    pub version: &'static str,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            max_message_bytes: PAYLOAD_BYTES_DEFAULT,
            files_max: usize::MAX,
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}
