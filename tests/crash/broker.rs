//! The real binary as a process of its own, to be killed.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use courser_proto::v1::{admin_client::AdminClient, broker_client::BrokerClient};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tonic::transport::Channel;

/// How long a start may take, replay of the log included.
const START_MAX: Duration = Duration::from_secs(60);
/// How long a page of the HTTP side may take.
const HTTP_MAX: Duration = Duration::from_secs(60);
/// A load needs none.
const NO_HTTP: [&str; 2] = ["--http", "off"];
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
        Self::start_with(folder, round, &NO_HTTP).await
    }

    /// The same with other flags than those of a load.
    pub(crate) async fn start_with(folder: &Path, round: u64, flags: &[&str]) -> Self {
        let mut broker = Self::spawn_with(folder, round, flags);
        broker.address = format!("http://{}", broker.listening().await);
        broker
    }

    /// Starts one and does not wait.
    pub(crate) fn spawn(folder: &Path, round: u64) -> Self {
        Self::spawn_with(folder, round, &NO_HTTP)
    }

    fn spawn_with(folder: &Path, round: u64, flags: &[&str]) -> Self {
        let log = folder.join(format!("broker-{round}.log"));
        let output = File::create(&log).unwrap();
        let mut command = Command::new(binary());
        // The settings of the test itself are none of the broker's.
        command
            .env_clear()
            .arg("serve")
            .arg("--data-dir")
            .arg(folder.join("data"))
            .args(["--listen", "127.0.0.1:0", "--log-format", "json"])
            .args(flags)
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
            if let Some(address) = self.told("grpc") {
                return address;
            }
            let log = self.log();
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "the broker ended with {ended:?}:\n{log}");
            assert!(
                Instant::now() < deadline,
                "the broker does not listen:\n{log}"
            );
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// A field of the line that says where it listens.
    fn told(&self, field: &str) -> Option<String> {
        let log = self.log();
        let (_, rest) = log.split_once(&format!(r#""{field}":""#))?;
        let (value, _) = rest.split_once('"')?;
        Some(value.to_owned())
    }

    /// Code and body of a page of the HTTP side, when it was started with one.
    pub(crate) async fn page(&self, path: &str) -> (u16, String) {
        let answer = async {
            let http = self.told("http").expect("it says where it listens");
            let mut stream = TcpStream::connect(http).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let answer = timeout(HTTP_MAX, answer).await.expect("a page in time");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let code = head.split(' ').nth(1).expect("a status").parse().unwrap();
        (code, body.to_owned())
    }

    /// A figure of the metrics page without labels.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.page("/metrics").await;
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .unwrap_or_else(|| panic!("no metric {name}:\n{text}"))
            .parse()
            .unwrap()
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
