//! The real binary as a process of its own, and what is seen of it from outside.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use courser_process::{Addresses, FREE_PORT, Process, client, memory, serve};
use courser_proto::v1::{
    CreateQueueRequest, admin_client::AdminClient, broker_client::BrokerClient,
};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

/// How long a start may take.
const START_MAX: Duration = Duration::from_secs(30);
/// How long anything may take that is asked of a broker under abuse.
pub(crate) const SANE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(10);

/// A broker on an empty folder, which ends when this is dropped.
pub(crate) struct Broker {
    process: Process,
    /// Goes after the process, which stands before it.
    _folder: TempDir,
    pub(crate) grpc: String,
    pub(crate) http: String,
}

impl Broker {
    /// Starts one that may have so many files open, or as many as the system allows.
    pub(crate) async fn start(program: &Path, files: Option<u32>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let command = match files {
            Some(files) => {
                let mut shell = Command::new("sh");
                let line = format!("ulimit -n {files}; exec \"$@\"");
                shell.args(["-c", line.as_str(), "sh"]).arg(program);
                shell
            }
            None => Command::new(program),
        };
        let mut command = serve(command, &folder.path().join("data"), FREE_PORT);
        command.args(["--http", FREE_PORT]);
        let log = folder.path().join("log");
        let output = File::create(&log)?;
        let mut process =
            Process::spawn(&mut command, log, output).context("the broker does not start")?;
        let listening = process.listening(START_MAX).await;
        let Addresses { grpc, http } = listening
            .map_err(|why| anyhow!("the broker does not listen, {why:?}:\n{}", process.log()))?;
        Ok(Self {
            process,
            _folder: folder,
            grpc,
            http,
        })
    }

    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    /// A connection of its own.
    pub(crate) async fn channel(&self) -> Result<Channel> {
        let endpoint = courser_process::endpoint(&self.grpc)?;
        Ok(endpoint.connect_timeout(SANE).connect().await?)
    }

    pub(crate) async fn client(&self) -> Result<BrokerClient<Channel>> {
        Ok(client(self.channel().await?))
    }

    pub(crate) async fn admin(&self) -> Result<AdminClient<Channel>> {
        Ok(AdminClient::new(self.channel().await?))
    }

    pub(crate) async fn create(&self, queue: &str) -> Result<()> {
        let request = CreateQueueRequest {
            name: queue.to_owned(),
            ..Default::default()
        };
        self.admin().await?.create_queue(request).await?;
        Ok(())
    }

    /// That it runs, serves, and never panicked.
    pub(crate) async fn check(&mut self) -> Result<()> {
        let ended = self.process.ended();
        let log = self.log();
        ensure!(ended.is_none(), "it ended with {ended:?}:\n{}", tail(&log));
        ensure!(!log.contains("panicked"), "it panicked:\n{}", tail(&log));
        let serves = courser_process::serves(self.channel().await?).await?;
        ensure!(serves, "it does not serve");
        Ok(())
    }

    /// Resident bytes now and at most.
    pub(crate) fn memory(&self) -> Result<(u64, u64)> {
        let memory = memory(self.process.id())?;
        Ok((memory.all, memory.most))
    }

    /// Waits until it holds no more than so many bytes; what it holds then.
    pub(crate) async fn memory_below(&self, bytes: u64) -> Result<u64> {
        let deadline = Instant::now() + SANE;
        loop {
            let (now, _) = self.memory()?;
            if now <= bytes {
                return Ok(now);
            }
            ensure!(
                Instant::now() < deadline,
                "it still holds {} MB afterwards, {} MB are allowed",
                now / 1_000_000,
                bytes / 1_000_000
            );
            sleep(LOOK).await;
        }
    }

    /// Files that it has open.
    pub(crate) fn files(&self) -> usize {
        let folder = PathBuf::from(format!("/proc/{}/fd", self.process.id()));
        fs::read_dir(folder).map_or(0, Iterator::count)
    }
}

fn tail(log: &str) -> &str {
    let mut from = log.len().saturating_sub(4_000);
    while !log.is_char_boundary(from) {
        from += 1;
    }
    &log[from..]
}
