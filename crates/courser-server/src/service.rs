//! The gRPC services.

mod admin;
mod broker;
mod confirms;
mod deliveries;
mod face;
mod watch;
mod words;

use courser_engine::request::Health;
use tokio::sync::watch::Receiver;

pub(crate) use self::{
    admin::AdminService,
    broker::BrokerService,
    face::{AdminFace, BrokerFace},
    words::InOurWords,
};

/// Returns when the broker shuts down.
async fn shut_down(mut health: Receiver<Health>) {
    drop(
        health
            .wait_for(|health| *health == Health::ShuttingDown)
            .await,
    );
}
