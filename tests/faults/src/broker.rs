//! The real binary as a process of its own, with the interposer in it.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use courser_proto::v1::{admin_client::AdminClient, broker_client::BrokerClient};
use rustix::process::{Pid, Signal};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tonic::transport::Channel;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::control::Control;

/// How long a start may take, replay of the log included.
const START_MAX: Duration = Duration::from_secs(60);
/// How long an answer of the HTTP side may take.
const HTTP_MAX: Duration = Duration::from_secs(20);
/// Between two looks at something that is waited for.
pub(crate) const LOOK: Duration = Duration::from_millis(2);
/// Above any answer: the largest pull, and what is around it.
const WIRE_BYTES: usize = 64 * 1024 * 1024;

/// Where the programs are.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) broker: PathBuf,
    pub(crate) interposer: PathBuf,
}

/// A place for one broker: its data folder, its control page, its log.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) programs: Programs,
    pub(crate) folder: PathBuf,
    pub(crate) control: Control,
    /// Where the interposer writes down what happens.
    pub(crate) recording: Option<PathBuf>,
    /// Whether a start looks through what is older than its last checkpoint.
    pub(crate) is_looked_through: bool,
}

impl Place {
    /// In a folder that is there; the data folder inside is made.
    pub(crate) fn new(programs: &Programs, folder: &Path) -> Self {
        let folder = folder.canonicalize().unwrap();
        fs::create_dir_all(folder.join("data")).unwrap();
        let control = Control::create(&folder.join("control"));
        Self {
            programs: programs.clone(),
            folder,
            control,
            recording: None,
            is_looked_through: true,
        }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// From now on, events are recorded.
    pub(crate) fn record(&mut self) -> PathBuf {
        let path = self.folder.join("recording");
        self.recording = Some(path.clone());
        path
    }
}

/// How a broker ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) log: String,
}

impl Ended {
    /// Ended by a kill, not by itself.
    pub(crate) fn is_kill(&self) -> bool {
        use std::os::unix::process::ExitStatusExt as _;
        self.status.signal() == Some(9)
    }
}

/// A broker that runs until it is killed or dropped.
#[derive(Debug)]
pub(crate) struct Broker {
    child: Child,
    log: PathBuf,
    grpc: String,
    http: String,
}

impl Broker {
    /// Starts one and waits until it listens, or ends.
    pub(crate) async fn start(place: &Place) -> Result<Self, Ended> {
        let mut broker = Self::spawn(place);
        let deadline = Instant::now() + START_MAX;
        loop {
            let log = broker.log();
            if let (Some(grpc), Some(http)) = (field(&log, "grpc"), field(&log, "http")) {
                broker.grpc = format!("http://{grpc}");
                broker.http = http;
                assert!(place.control.loaded(), "the interposer was not loaded");
                return Ok(broker);
            }
            if let Some(status) = broker.child.try_wait().unwrap() {
                let log = broker.log();
                return Err(Ended { status, log });
            }
            assert!(Instant::now() < deadline, "it does not listen:\n{log}");
            sleep(LOOK).await;
        }
    }

    /// Starts one and does not wait.
    pub(crate) fn spawn(place: &Place) -> Self {
        let log = place.folder.join("broker.log");
        if log.exists() {
            let number = fs::read_dir(&place.folder).unwrap().count();
            fs::rename(&log, place.folder.join(format!("broker-{number}.log"))).unwrap();
        }
        let output = File::create(&log).unwrap();
        let mut command = Command::new(&place.programs.broker);
        command
            .env_clear()
            .env("LD_PRELOAD", &place.programs.interposer)
            .env("FAULT_FOLDER", place.data())
            .env("FAULT_CONTROL", place.folder.join("control"))
            .arg("serve")
            .arg("--data-dir")
            .arg(place.data())
            .args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"])
            .args(["--log-format", "json", "--worker-threads", "2"])
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        if !place.is_looked_through {
            command.env("COURSER_CHECK_AT_START", "0");
        }
        if let Some(recording) = &place.recording {
            command.env("FAULT_RECORD", recording);
        }
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self {
            child,
            log,
            grpc: String::new(),
            http: String::new(),
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) async fn client(&self) -> Option<BrokerClient<Channel>> {
        let channel = self.channel().await?;
        Some(
            BrokerClient::new(channel)
                .max_decoding_message_size(WIRE_BYTES)
                .max_encoding_message_size(WIRE_BYTES),
        )
    }

    pub(crate) async fn admin(&self) -> Option<AdminClient<Channel>> {
        Some(AdminClient::new(self.channel().await?))
    }

    /// Whether the health service of gRPC says that it serves.
    pub(crate) async fn serving(&self) -> Option<bool> {
        let mut health = HealthClient::new(self.channel().await?);
        let answer = health.check(HealthCheckRequest::default()).await.ok()?;
        Some(answer.into_inner().status == ServingStatus::Serving as i32)
    }

    async fn channel(&self) -> Option<Channel> {
        let endpoint = Channel::from_shared(self.grpc.clone()).unwrap();
        endpoint
            .connect_timeout(START_MAX)
            .timeout(START_MAX)
            .connect()
            .await
            .ok()
    }

    /// Code and body of a page of the HTTP side.
    pub(crate) async fn page(&self, path: &str) -> Option<(u16, String)> {
        let answer = timeout(HTTP_MAX, async {
            let mut stream = TcpStream::connect(&self.http).await.ok()?;
            let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.ok()?;
            Some(answer)
        });
        let answer = answer.await.ok()??;
        let code = answer.split(' ').nth(1)?.parse().ok()?;
        let body = answer.split_once("\r\n\r\n")?.1.to_owned();
        Some((code, body))
    }

    /// A figure of the metrics page without labels.
    pub(crate) async fn metric(&self, name: &str) -> Option<f64> {
        let (_, text) = self.page("/metrics").await?;
        let line = text.lines().find(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(' '))
        })?;
        line.rsplit(' ').next()?.parse().ok()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<Ended> {
        let status = self.child.try_wait().unwrap()?;
        let log = self.log();
        Some(Ended { status, log })
    }

    /// kill -9, and waits until the process is gone.
    pub(crate) fn kill(&mut self) -> Ended {
        // It may have ended before.
        drop(self.child.kill());
        let status = self.child.wait().unwrap();
        let log = self.log();
        Ended { status, log }
    }

    /// Ends it as an operator does, so that no call is cut off.
    pub(crate) async fn end(&mut self) -> Ended {
        self.signal(Signal::TERM);
        let deadline = Instant::now() + START_MAX;
        while Instant::now() < deadline {
            if let Some(ended) = self.ended() {
                return ended;
            }
            sleep(LOOK).await;
        }
        self.kill()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Processor time it has used.
    pub(crate) fn processor_time(&self) -> Duration {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = fs::read_to_string(path).unwrap();
        let rest = stat.rsplit(')').next().unwrap();
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        // A tick is 10 ms on every Linux that we know.
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A text of a line in JSON that says it listens.
fn field(log: &str, name: &str) -> Option<String> {
    let line = log.lines().find(|line| line.contains(r#""grpc":""#))?;
    let (_, rest) = line.split_once(&format!(r#""{name}":""#))?;
    Some(rest.split_once('"')?.0.to_owned())
}
