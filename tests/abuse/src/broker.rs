//! The real binary as a process of its own, and what is seen of it from outside.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use courser_proto::v1::{
    CreateQueueRequest, admin_client::AdminClient, broker_client::BrokerClient,
};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

/// How long a start may take.
const START_MAX: Duration = Duration::from_secs(30);
/// How long anything may take that is asked of a broker under abuse.
pub(crate) const SANE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(10);
const WIRE_BYTES: usize = 64 * 1024 * 1024;

/// A broker on an empty folder, which ends when this is dropped.
pub(crate) struct Broker {
    child: Child,
    folder: TempDir,
    pub(crate) grpc: String,
    pub(crate) http: String,
}

impl Broker {
    /// Starts one that may have so many files open, or as many as the system allows.
    pub(crate) async fn start(program: &Path, files: Option<u32>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let output = File::create(folder.path().join("log"))?;
        let mut command = match files {
            Some(files) => {
                let mut shell = Command::new("sh");
                let line = format!("ulimit -n {files}; exec \"$@\"");
                shell.args(["-c", line.as_str(), "sh"]).arg(program);
                shell
            }
            None => Command::new(program),
        };
        let child = command
            .env_clear()
            .arg("serve")
            .arg("--data-dir")
            .arg(folder.path().join("data"))
            .args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"])
            .args(["--log-format", "json"])
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("the broker does not start")?;
        let mut broker = Self {
            child,
            folder,
            grpc: String::new(),
            http: String::new(),
        };
        let deadline = Instant::now() + START_MAX;
        loop {
            let log = broker.log();
            if let (Some(grpc), Some(http)) = (field(&log, "grpc"), field(&log, "http")) {
                (broker.grpc, broker.http) = (grpc, http);
                return Ok(broker);
            }
            if broker.child.try_wait()?.is_some() || Instant::now() > deadline {
                bail!("the broker does not listen:\n{log}");
            }
            sleep(LOOK).await;
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// A connection of its own.
    pub(crate) async fn channel(&self) -> Result<Channel> {
        let endpoint = Channel::from_shared(format!("http://{}", self.grpc))?;
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
        let ended = self.child.try_wait()?;
        let log = self.log();
        ensure!(ended.is_none(), "it ended with {ended:?}:\n{}", tail(&log));
        ensure!(!log.contains("panicked"), "it panicked:\n{}", tail(&log));
        let mut health = HealthClient::new(self.channel().await?);
        let answer = health.check(HealthCheckRequest::default()).await?;
        let serves = answer.into_inner().status == ServingStatus::Serving as i32;
        ensure!(serves, "it does not serve");
        Ok(())
    }

    /// Resident bytes now and at most.
    pub(crate) fn memory(&self) -> Result<(u64, u64)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let of = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|rest| rest.trim_matches([':', ' ', '\t']).split(' ').next());
            Ok(kib.context("no such figure")?.parse::<u64>()? * 1024)
        };
        Ok((of("VmRSS")?, of("VmHWM")?))
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
        let folder = PathBuf::from(format!("/proc/{}/fd", self.child.id()));
        fs::read_dir(folder).map_or(0, Iterator::count)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub(crate) fn client(channel: Channel) -> BrokerClient<Channel> {
    BrokerClient::new(channel)
        .max_decoding_message_size(WIRE_BYTES)
        .max_encoding_message_size(WIRE_BYTES)
}

fn tail(log: &str) -> &str {
    let mut from = log.len().saturating_sub(4_000);
    while !log.is_char_boundary(from) {
        from += 1;
    }
    &log[from..]
}

/// A text of the line in JSON that says it listens.
fn field(log: &str, name: &str) -> Option<String> {
    let line = log.lines().find(|line| line.contains(r#""grpc":""#))?;
    let (_, rest) = line.split_once(&format!(r#""{name}":""#))?;
    Some(rest.split_once('"')?.0.to_owned())
}
