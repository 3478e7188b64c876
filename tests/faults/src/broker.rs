//! The real binary as a process of its own, with the interposer in it.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

pub(crate) use courser_process::LOOK;
use courser_process::{Addresses, FREE_PORT, NotListening, Process, serve};
use courser_proto::v1::{admin_client::AdminClient, broker_client::BrokerClient};
use rustix::process::Signal;
use tokio::time::timeout;
use tonic::transport::Channel;

use crate::control::Control;

/// How long a start may take, replay of the log included.
const START_MAX: Duration = Duration::from_secs(60);
/// How long an answer of the HTTP side may take.
const HTTP_MAX: Duration = Duration::from_secs(20);

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
    process: Process,
    addresses: Addresses,
}

impl Broker {
    /// Starts one and waits until it listens, or ends.
    pub(crate) async fn start(place: &Place) -> Result<Self, Ended> {
        let mut process = spawn(place);
        match process.listening(START_MAX).await {
            Ok(addresses) => {
                assert!(place.control.loaded(), "the interposer was not loaded");
                Ok(Self { process, addresses })
            }
            Err(NotListening::Ended(status)) => {
                let log = process.log();
                Err(Ended { status, log })
            }
            Err(NotListening::Late) => panic!("it does not listen:\n{}", process.log()),
        }
    }

    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    pub(crate) async fn client(&self) -> Option<BrokerClient<Channel>> {
        Some(courser_process::client(self.channel().await?))
    }

    pub(crate) async fn admin(&self) -> Option<AdminClient<Channel>> {
        Some(AdminClient::new(self.channel().await?))
    }

    /// Whether the health service of gRPC says that it serves.
    pub(crate) async fn serving(&self) -> Option<bool> {
        courser_process::serves(self.channel().await?).await.ok()
    }

    async fn channel(&self) -> Option<Channel> {
        let endpoint = courser_process::endpoint(&self.addresses.grpc).unwrap();
        endpoint
            .connect_timeout(START_MAX)
            .timeout(START_MAX)
            .connect()
            .await
            .ok()
    }

    /// Code and body of a page of the HTTP side.
    pub(crate) async fn page(&self, path: &str) -> Option<(u16, String)> {
        let page = courser_process::page(&self.addresses.http, path);
        timeout(HTTP_MAX, page).await.ok()?.ok()
    }

    /// A figure of the metrics page without labels.
    pub(crate) async fn metric(&self, name: &str) -> Option<f64> {
        let (_, text) = self.page("/metrics").await?;
        courser_process::figure(&text, name)?.parse().ok()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<Ended> {
        let status = self.process.ended()?;
        let log = self.log();
        Some(Ended { status, log })
    }

    /// kill -9, and waits until the process is gone.
    pub(crate) fn kill(&mut self) -> Ended {
        let status = self.process.kill().unwrap();
        let log = self.log();
        Ended { status, log }
    }

    /// Ends it as an operator does, so that no call is cut off.
    pub(crate) async fn end(&mut self) -> Ended {
        match self.process.end(START_MAX).await.unwrap() {
            Some(status) => {
                let log = self.log();
                Ended { status, log }
            }
            None => self.kill(),
        }
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal).unwrap();
    }

    /// Processor time it has used.
    pub(crate) fn processor_time(&self) -> Duration {
        courser_process::processor_time(self.process.id()).unwrap()
    }
}

/// Starts one and does not wait.
fn spawn(place: &Place) -> Process {
    let log = place.folder.join("broker.log");
    if log.exists() {
        let number = fs::read_dir(&place.folder).unwrap().count();
        fs::rename(&log, place.folder.join(format!("broker-{number}.log"))).unwrap();
    }
    let output = File::create(&log).unwrap();
    let program = Command::new(&place.programs.broker);
    let mut command = serve(program, &place.data(), FREE_PORT);
    command
        .env("LD_PRELOAD", &place.programs.interposer)
        .env("FAULT_FOLDER", place.data())
        .env("FAULT_CONTROL", place.folder.join("control"))
        .args(["--http", FREE_PORT, "--worker-threads", "2"]);
    if !place.is_looked_through {
        command.env("COURSER_CHECK_AT_START", "0");
    }
    if let Some(recording) = &place.recording {
        command.env("FAULT_RECORD", recording);
    }
    Process::spawn(&mut command, log, output).unwrap_or_else(|error| panic!("{command:?}: {error}"))
}
