//! The real binary as a process of its own, to be killed.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use courser_proto::v1::{admin_client::AdminClient, broker_client::BrokerClient};
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

/// How long a start may take, replay of the log included.
const START_MAX: Duration = Duration::from_secs(60);
/// Above any answer: the largest pull, and what is around it.
const WIRE_BYTES: usize = 64 * 1024 * 1024;

/// A broker that runs until it is killed or dropped.
#[derive(Debug)]
pub(crate) struct Broker {
    child: Child,
    log: PathBuf,
    address: String,
}

impl Broker {
    /// Starts one and waits until it listens.
    pub(crate) async fn start(folder: &Path, round: u64) -> Self {
        let mut broker = Self::spawn(folder, round);
        broker.address = broker.listening().await;
        broker
    }

    /// Starts one and does not wait.
    pub(crate) fn spawn(folder: &Path, round: u64) -> Self {
        let log = folder.join(format!("broker-{round}.log"));
        let output = File::create(&log).unwrap();
        let mut command = Command::new(binary());
        // The settings of the test itself are none of the broker's.
        command
            .env_clear()
            .arg("serve")
            .arg("--data-dir")
            .arg(folder.join("data"))
            .args([
                "--listen",
                "127.0.0.1:0",
                "--http",
                "off",
                "--log-format",
                "json",
            ])
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self {
            child,
            log,
            address: String::new(),
        }
    }

    /// The address it says that it listens on.
    async fn listening(&mut self) -> String {
        let deadline = Instant::now() + START_MAX;
        loop {
            let log = self.log();
            if let Some((_, rest)) = log.split_once(r#""grpc":""#) {
                return format!("http://{}", rest.split('"').next().unwrap());
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "the broker ended with {ended:?}:\n{log}");
            assert!(
                Instant::now() < deadline,
                "the broker does not listen:\n{log}"
            );
            sleep(Duration::from_millis(2)).await;
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) async fn connect(&self) -> Option<BrokerClient<Channel>> {
        let channel = self.channel().await?;
        Some(
            BrokerClient::new(channel)
                .max_decoding_message_size(WIRE_BYTES)
                .max_encoding_message_size(WIRE_BYTES),
        )
    }

    pub(crate) async fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel().await.expect("the broker runs"))
    }

    async fn channel(&self) -> Option<Channel> {
        Channel::from_shared(self.address.clone())
            .unwrap()
            .connect()
            .await
            .ok()
    }

    /// Checks that it has not ended by itself, which no load may bring about.
    pub(crate) fn assert_alive(&mut self) {
        let ended = self.child.try_wait().unwrap();
        assert!(
            ended.is_none(),
            "the broker ended by itself: {ended:?}\n{}",
            self.log()
        );
    }

    /// kill -9, and waits until the process is gone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
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
