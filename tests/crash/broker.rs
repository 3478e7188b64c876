//! The real binary as a process of its own, to be killed.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use courser_process::{Addresses, FREE_PORT, NotListening, Process, serve};
use courser_proto::v1::{admin_client::AdminClient, broker_client::BrokerClient};
use tokio::time::timeout;
use tonic::transport::Channel;

/// How long a start may take, replay of the log included.
const START_MAX: Duration = Duration::from_secs(60);
/// How long a page of the HTTP side may take.
const HTTP_MAX: Duration = Duration::from_secs(60);
/// A load needs none.
const NO_HTTP: [&str; 2] = ["--http", "off"];

/// A broker that runs until it is killed or dropped.
#[derive(Debug)]
pub(crate) struct Broker {
    process: Process,
    /// Of one that was waited for.
    addresses: Option<Addresses>,
}

impl Broker {
    /// Starts one and waits until it listens.
    pub(crate) async fn start(folder: &Path, round: u64) -> Self {
        Self::start_with(folder, round, &NO_HTTP).await
    }

    /// The same with other flags than those of a load.
    pub(crate) async fn start_with(folder: &Path, round: u64, flags: &[&str]) -> Self {
        let mut broker = Self::spawn_with(folder, round, flags);
        match broker.process.listening(START_MAX).await {
            Ok(addresses) => broker.addresses = Some(addresses),
            Err(NotListening::Ended(status)) => {
                panic!("the broker ended with {status:?}:\n{}", broker.log())
            }
            Err(NotListening::Late) => panic!("the broker does not listen:\n{}", broker.log()),
        }
        broker
    }

    /// Starts one and does not wait.
    pub(crate) fn spawn(folder: &Path, round: u64) -> Self {
        Self::spawn_with(folder, round, &NO_HTTP)
    }

    fn spawn_with(folder: &Path, round: u64, flags: &[&str]) -> Self {
        let log = folder.join(format!("broker-{round}.log"));
        let output = File::create(&log).unwrap();
        let mut command = serve(Command::new(binary()), &folder.join("data"), FREE_PORT);
        command.args(flags);
        let process = Process::spawn(&mut command, log, output)
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self {
            process,
            addresses: None,
        }
    }

    fn addresses(&self) -> &Addresses {
        let addresses = self.addresses.as_ref();
        addresses.expect("it was waited for until it listens")
    }

    /// Code and body of a page of the HTTP side, when it was started with one.
    pub(crate) async fn page(&self, path: &str) -> (u16, String) {
        let page = courser_process::page(&self.addresses().http, path);
        let page = timeout(HTTP_MAX, page).await.expect("a page in time");
        page.unwrap()
    }

    /// A figure of the metrics page without labels.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.page("/metrics").await;
        courser_process::figure(&text, name)
            .unwrap_or_else(|| panic!("no metric {name}:\n{text}"))
            .parse()
            .unwrap()
    }

    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    pub(crate) async fn connect(&self) -> Option<BrokerClient<Channel>> {
        Some(courser_process::client(self.channel().await?))
    }

    pub(crate) async fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel().await.expect("the broker runs"))
    }

    async fn channel(&self) -> Option<Channel> {
        let endpoint = courser_process::endpoint(&self.addresses().grpc).unwrap();
        endpoint.connect().await.ok()
    }

    /// Checks that it has not ended by itself, which no load may bring about.
    pub(crate) fn assert_alive(&mut self) {
        let ended = self.process.ended();
        assert!(
            ended.is_none(),
            "the broker ended by itself: {ended:?}\n{}",
            self.log()
        );
    }

    /// kill -9, and waits until the process is gone.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
    }
}

/// `COURSER_BIN`, or a release build.
fn binary() -> PathBuf {
    let binary = std::env::var_os("COURSER_BIN").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/courser"),
        PathBuf::from,
    );
    assert!(
        binary.exists(),
        "{} is not there: cargo build --release, or set COURSER_BIN",
        binary.display()
    );
    binary
}
