//! The same load against Courser and its peers, in one run, beside what the machine allows.
//!
//! `bench/run` installs the peers and calls this. What is compared and why in this way: `README.md`.

#![allow(
    clippy::cast_precision_loss,
    reason = "counts here are far below 2^52, and what comes of them is a figure of three digits"
)]

mod chart;
mod disk;
mod echo;
mod load;
mod machine;
mod page;
mod payload;
mod process;
mod results;
mod run;
mod scenario;
mod server;
mod shape;
mod systems;
mod tally;
mod text;

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{bail, ensure};
use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::{results::Results, run::Plan, scenario::SystemId, server::Places};

#[derive(Debug, clap::Parser)]
#[command(about = "The same load against Courser and its peers")]
enum Command {
    /// Measure, and write the results and the page.
    Run {
        /// All when none is named.
        scenarios: Vec<String>,
        /// Only these.
        #[arg(long, value_delimiter = ',')]
        systems: Vec<SystemId>,
        /// One short repetition: shows that everything works, and nothing else.
        #[arg(long)]
        quick: bool,
        #[arg(long, default_value_t = 3)]
        repetitions: u32,
        /// Courser's binary.
        #[arg(long)]
        courser: PathBuf,
        /// Where the servers keep their data: on the disk that is to be measured.
        #[arg(long)]
        work: PathBuf,
        #[arg(long)]
        results: PathBuf,
        /// Where the page and the pictures go.
        #[arg(long)]
        docs: PathBuf,
    },
    /// Write the page from results.
    Page {
        #[arg(long)]
        results: PathBuf,
        #[arg(long)]
        docs: PathBuf,
    },
    /// The scenarios and their names.
    List,
    /// Serve Courser's contract and keep nothing.
    #[command(hide = true)]
    Echo { address: SocketAddr },
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    match Command::parse() {
        Command::Run {
            scenarios,
            systems,
            quick,
            repetitions,
            courser,
            work,
            results,
            docs,
        } => {
            let plan = Plan {
                scenarios,
                systems,
                repetitions: if quick { 1 } else { repetitions },
                quick,
                places: Places {
                    courser,
                    data: work.join("data"),
                    logs: work.join("logs"),
                },
                results,
            };
            let results = runtime.block_on(until_stopped(plan))?;
            page::write(&results, &docs)?;
            let unsound = results.unsound();
            ensure!(unsound.is_empty(), "not sound: {}", unsound.join(", "));
            Ok(())
        }
        Command::Page { results, docs } => page::write(&Results::read(&results)?, &docs),
        Command::List => {
            for scenario in scenario::all(&scenario::Times::full()) {
                println!("{:<24} {}", scenario.name, scenario.title);
            }
            Ok(())
        }
        Command::Echo { address } => runtime.block_on(echo::serve(address)),
    }
}

/// Servers are processes of their own: whoever stops this must not leave them behind. What is dropped
/// here ends its server.
async fn until_stopped(plan: Plan) -> anyhow::Result<Results> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        results = Box::pin(plan.run()) => results,
        _ = interrupt.recv() => bail!("interrupted"),
        _ = terminate.recv() => bail!("terminated"),
    }
}
