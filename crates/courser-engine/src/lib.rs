//! Runs the core: one engine thread that owns all broker state, a committer thread that makes it
//! durable, a loader and a keeper beside them.
//!
//! Start reading at [`BrokerHandle`].

mod command;
mod handle;
mod limits;
mod loader;
pub mod request;
mod start;
mod subscription;
pub mod tasks;

pub use handle::{BrokerHandle, Confirms, Publisher};
pub use start::{Options, start};
pub use subscription::{Settler, Subscription};
