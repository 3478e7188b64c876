//! How much memory and disk the real binary takes, and how long it takes to be there.
//!
//! ```text
//!   load.rs    publishers and consumers -----> broker.rs   the binary, a process of its own
//!      ^                                          |
//!   backlog.rs  drained.rs  stragglers.rs         v
//!   churn.rs    queues.rs   stuck.rs     <---- probe.rs    its memory, and its folder
//!   steady.rs
//!      |
//!      v
//!   check.rs   each figure beside its bound
//! ```
//!
//! `tests/bounds/run` builds and runs it; `docs/performance.md` has the figures.

#![expect(clippy::print_stdout, reason = "the figures")]

mod args;
mod backlog;
mod broker;
mod check;
mod churn;
mod curve;
mod drained;
mod load;
mod probe;
mod queues;
mod steady;
mod stragglers;
mod stuck;

use std::{fs, path::Path, process::ExitCode};

use anyhow::Context as _;
use clap::Parser as _;

use crate::{
    args::{Args, Scenario},
    check::Checks,
};

/// What every scenario is given.
struct Context<'a> {
    args: &'a Args,
    /// A folder of its own, gone afterwards.
    folder: &'a Path,
    checks: &'a mut Checks,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    if runtime.block_on(all(&args)) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs all scenarios; whether every bound held.
async fn all(args: &Args) -> bool {
    let mut checks = Checks {
        short: args.short,
        ..Checks::default()
    };
    for scenario in args.scenarios() {
        println!("{}:", scenario.name());
        if let Err(error) = one(args, *scenario, &mut checks).await {
            checks.broke(&scenario.name(), &error);
        }
    }
    println!("{} passed, {} failed", checks.passed, checks.failed);
    checks.failed == 0
}

async fn one(args: &Args, scenario: Scenario, checks: &mut Checks) -> anyhow::Result<()> {
    fs::create_dir_all(&args.folder).context("the folder for data")?;
    let folder = tempfile::tempdir_in(&args.folder)?;
    let context = Context {
        args,
        folder: folder.path(),
        checks,
    };
    match scenario {
        Scenario::Backlog => backlog::run(context).await,
        Scenario::Drained => drained::run(context).await,
        Scenario::Stragglers => stragglers::run(context).await,
        Scenario::Churn => churn::run(context).await,
        Scenario::Queues => queues::run(context).await,
        Scenario::Stuck => stuck::run(context).await,
        Scenario::Steady => steady::run(context).await,
    }
}
