//! The Rust client of Courser.
//!
//! ```no_run
//! # async fn example() -> Result<(), courser_client::Error> {
//! use courser_client::{Client, ConsumerOptions, Message, PublisherOptions};
//!
//! let client = Client::connect("http://127.0.0.1:7420").await?;
//! client.create_queue("orders", Default::default()).await?;
//!
//! let publisher = client.publisher(PublisherOptions::default()).await?;
//! let confirmation = publisher.publish(Message { topic: "orders".into(), ..Default::default() }).await?;
//! println!("safe on the disk at position {}", confirmation.await?.position);
//!
//! let mut consumer = client.consumer(ConsumerOptions::new("orders")).await?;
//! while let Some(delivery) = consumer.next().await? {
//!     delivery.ack().await?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Two ways to do the same, for two needs:
//!
//! - [`Publisher`] and [`Consumer`] take and give single messages and batch them on the way, without
//!   timers: what comes while something is on its way leaves together.
//! - [`PublishSender`] and [`Subscription`] are the batches themselves, without anything paid for each
//!   message: for bridges and load generators.
//!
//! Payloads are [`bytes::Bytes`] and are never copied here before they are encoded.
#![warn(missing_docs)]

mod admin;
mod batch;
mod client;
mod codec;
mod consumer;
mod deliveries;
mod error;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
mod publish;
mod publisher;
mod responses;
mod settler;
mod subscription;
mod time;

/// The messages of the wire, as the contract in `proto/courser/v1/` defines them.
pub use courser_proto::v1 as wire;
pub use courser_proto::v1::{Message, PublishResult, QueueOptions};
pub use tonic::Code;

pub use crate::{
    admin::StatsWatch,
    batch::Confirmation,
    client::{Client, ConnectOptions},
    consumer::{Consumer, Delivery},
    deliveries::{DeliveryBatch, DeliveryView, Received},
    error::{Error, Refusal, SettleError},
    publish::{PublishConfirms, PublishSender},
    publisher::{Publisher, PublisherOptions},
    settler::Settlement,
    subscription::{ConsumerOptions, SettleSender, Subscription},
    time::{from_wire_duration, to_wire_duration},
};
