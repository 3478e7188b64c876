//! The real binary as a process of its own.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use courser_client::Client;
use rustix::process::{Pid, Signal};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};

use crate::{load::PAYLOAD, probe::Probe};

/// How long a start may take before it counts as none.
const START_MAX: Duration = Duration::from_secs(300);
/// Between two looks at something that is waited for.
const LOOK: Duration = Duration::from_millis(2);
/// How long an answer of the HTTP side may take.
const HTTP_MAX: Duration = Duration::from_secs(60);

/// A broker that runs until it is ended or dropped.
#[derive(Debug)]
pub(crate) struct Broker {
    child: Child,
    log: PathBuf,
    pub(crate) data: PathBuf,
    pub(crate) url: String,
    http: String,
    /// From the start of the process to the first 200 of `/readyz`.
    pub(crate) ready_after: Duration,
    pub(crate) probe: Probe,
}

impl Broker {
    /// Starts one on `folder/data`, and waits until it is ready.
    pub(crate) async fn start(program: &Path, folder: &Path) -> anyhow::Result<Self> {
        let data = folder.join("data");
        let log = folder.join("broker.log");
        let output = File::options().create(true).append(true).open(&log)?;
        let [grpc, http] = [free_port().await?, free_port().await?];
        let started = Instant::now();
        let child = Command::new(program)
            .env_clear()
            .arg("serve")
            .arg("--data-dir")
            .arg(&data)
            .args(["--listen", &grpc, "--http", &http])
            .args(["--log-format", "json"])
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let probe = Probe::start(child.id());
        let mut broker = Self {
            child,
            log,
            data,
            url: format!("http://{grpc}"),
            http,
            ready_after: Duration::ZERO,
            probe,
        };
        while !broker.is_ready().await {
            if let Some(status) = broker.child.try_wait()? {
                bail!("it ended with {status}: {}", broker.last_words());
            }
            if started.elapsed() > START_MAX {
                bail!("it is not ready: {}", broker.last_words());
            }
            sleep(LOOK).await;
        }
        broker.ready_after = started.elapsed();
        Ok(broker)
    }

    pub(crate) async fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::connect(&self.url).await?)
    }

    pub(crate) fn index(&self) -> PathBuf {
        self.data.join("index")
    }

    async fn is_ready(&self) -> bool {
        matches!(self.page("/readyz").await, Ok((200, _)))
    }

    /// Code and body of a page of the HTTP side.
    pub(crate) async fn page(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let answer = async {
            let mut stream = TcpStream::connect(&self.http).await?;
            let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            anyhow::Ok(answer)
        };
        let answer = timeout(HTTP_MAX, answer).await??;
        let code = answer.split(' ').nth(1).context("no status")?.parse()?;
        let (_, body) = answer.split_once("\r\n\r\n").context("no body")?;
        Ok((code, body.to_owned()))
    }

    /// A figure of the metrics page without labels.
    pub(crate) async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let (_, text) = self.page("/metrics").await?;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .with_context(|| format!("no metric {name}"))?;
        Ok(value.parse()?)
    }

    /// Bytes of the payloads in these queues, as the broker counts its entries.
    pub(crate) async fn live(&self, queues: &[&str]) -> anyhow::Result<u64> {
        let client = self.client().await?;
        let mut entries = 0;
        for queue in queues {
            let stats = client.get_queue(*queue).await?.stats.unwrap_or_default();
            entries += stats.ready + stats.delayed + stats.leased;
        }
        Ok(entries * PAYLOAD)
    }

    /// kill -9.
    pub(crate) fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Ends it as an operator does.
    pub(crate) async fn end(mut self) -> anyhow::Result<()> {
        rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let deadline = Instant::now() + START_MAX;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!("it does not end: {}", self.last_words());
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may have ended before.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

async fn free_port() -> anyhow::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    Ok(listener.local_addr()?.to_string())
}
