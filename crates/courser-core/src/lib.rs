//! The rules of Courser as plain values: queues, routing, leases, dead letters.
//!
//! Nothing here knows a clock, a disk, a task or a wire: time and randomness are handed in, and the
//! same calls give the same outputs. Start reading at [`broker::Broker`], then `queue.rs`.
#![warn(missing_docs)]

pub mod broker;
mod chunk;
mod consumer;
pub mod error;
#[cfg(feature = "fuzz")]
pub mod fuzz;
pub mod histogram;
pub mod id;
pub mod lease;
pub mod limits;
pub mod message;
pub mod name;
pub mod options;
mod queue;
pub mod random;
mod rate;
pub mod record;
mod routing;
pub mod stats;
pub mod time;
