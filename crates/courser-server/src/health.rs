//! Whether the broker is well, as grpc.health.v1 and the probes tell it.

use courser_engine::{BrokerHandle, request::Health};
use courser_proto::v1::{admin_server::AdminServer, broker_server::BrokerServer};
use tonic::server::NamedService;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    closing::Signal,
    service::{AdminService, BrokerService},
};

/// What is reported on: the broker as a whole, and each service.
const REPORTED: [&str; 3] = [
    "",
    <BrokerServer<BrokerService> as NamedService>::NAME,
    <AdminServer<AdminService> as NamedService>::NAME,
];

/// The health of the broker and of its faces together.
#[derive(Clone, Debug)]
pub(crate) struct HealthView {
    handle: BrokerHandle,
    closing: Signal,
}

impl HealthView {
    pub(crate) fn new(handle: BrokerHandle, closing: Signal) -> Self {
        Self { handle, closing }
    }

    pub(crate) fn now(&self) -> Health {
        if self.closing.is_given() {
            return Health::ShuttingDown;
        }
        let health = self.handle.health();
        let now = health.borrow().clone();
        // An engine that came to harm leaves without a word.
        match now {
            Health::Serving | Health::DiskLow if health.has_changed().is_err() => {
                Health::StoreFailed("the broker has ended".to_owned())
            }
            now => now,
        }
    }

    /// Returns when the engine has ended, for whatever reason.
    pub(crate) async fn ended(self) {
        let mut changes = self.handle.health();
        while changes.changed().await.is_ok() {}
    }

    /// Reports for as long as the broker lives, whenever something changes. Afterwards nothing is
    /// reported on any more, which ends whoever watches.
    pub(crate) async fn report(self, mut reporter: HealthReporter, ended: Signal) {
        let mut changes = self.handle.health();
        loop {
            let status = match self.now() {
                Health::Serving => ServingStatus::Serving,
                Health::DiskLow | Health::StoreFailed(_) | Health::ShuttingDown => {
                    ServingStatus::NotServing
                }
            };
            for name in REPORTED {
                reporter.set_service_status(name, status).await;
            }
            tokio::select! {
                () = ended.clone().given() => break,
                () = self.closing.clone().given(), if !self.closing.is_given() => {}
                changed = changes.changed() => if changed.is_err() {
                    ended.clone().given().await;
                    break;
                },
            }
        }
        for name in REPORTED {
            reporter.clear_service_status(name).await;
        }
    }
}
