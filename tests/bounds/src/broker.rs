//! The real binary as a process of its own.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, bail};
use courser_client::Client;
use courser_process::{LOOK, Process, serve};
use tokio::{
    net::TcpListener,
    time::{Instant, sleep, timeout},
};

use crate::{load::PAYLOAD, probe::Probe};

/// How long a start may take before it counts as none.
const START_MAX: Duration = Duration::from_secs(300);
/// How long an answer of the HTTP side may take.
const HTTP_MAX: Duration = Duration::from_secs(60);

/// A broker that runs until it is ended or dropped.
#[derive(Debug)]
pub(crate) struct Broker {
    process: Process,
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
        // Asked from the start on whether it is ready, so it is told where to listen.
        let mut command = serve(Command::new(program), &data, &grpc);
        command.args(["--http", &http]);
        let process = Process::spawn(&mut command, log, output)
            .with_context(|| format!("cannot start {}", program.display()))?;
        let probe = Probe::start(process.id());
        let mut broker = Self {
            process,
            data,
            url: format!("http://{grpc}"),
            http,
            ready_after: Duration::ZERO,
            probe,
        };
        while !broker.is_ready().await {
            if let Some(status) = broker.process.ended() {
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
        timeout(HTTP_MAX, courser_process::page(&self.http, path)).await?
    }

    /// A figure of the metrics page without labels.
    pub(crate) async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let (_, text) = self.page("/metrics").await?;
        let value =
            courser_process::figure(&text, name).with_context(|| format!("no metric {name}"))?;
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
        self.process.kill()?;
        Ok(())
    }

    /// Ends it as an operator does.
    pub(crate) async fn end(mut self) -> anyhow::Result<()> {
        if self.process.end(START_MAX).await?.is_none() {
            bail!("it does not end: {}", self.last_words());
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let log = self.process.log();
        let lines: Vec<_> = log.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

async fn free_port() -> anyhow::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    Ok(listener.local_addr()?.to_string())
}
