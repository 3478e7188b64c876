//! Runs the core: one engine thread that owns all broker state, a committer thread that makes it
//! durable, a loader and a keeper beside them.
//!
//! Start reading at [`BrokerHandle`], then `engine.rs`, then `committer.rs`.

mod clock;
mod command;
mod committer;
mod door;
mod engine;
mod failure;
mod handle;
mod inbox;
mod keeper;
mod limits;
mod loader;
mod memory;
mod pace;
mod recent;
pub mod request;
mod room;
mod rush;
mod start;
mod subscription;
pub mod tasks;
mod turn;
mod watch;

pub use clock::Clock;
pub use failure::Failure;
pub use handle::{BrokerHandle, Confirms, Hold, Publisher, Pulled};
pub use start::{Options, start};
pub use subscription::{Cut, Settler, Subscription, Unsent};
