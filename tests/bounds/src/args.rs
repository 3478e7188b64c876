//! The command line.

use std::{num::NonZeroU64, path::PathBuf};

use clap::ValueEnum as _;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Scenario {
    Backlog,
    Drained,
    Stragglers,
    Churn,
    Queues,
    Stuck,
    Steady,
}

impl Scenario {
    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Bounds of memory, disk and time, with the real binary.
#[derive(Clone, Debug, clap::Parser)]
#[command(bin_name = "tests/bounds/run", args_override_self = true)]
pub(crate) struct Args {
    /// Scaled down, without the checks of time: what tests/run runs.
    #[arg(long)]
    pub(crate) short: bool,
    /// Only these.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Scenario>,
    /// Of `steady`.
    #[arg(long, value_name = "N", default_value = "60")]
    pub(crate) minutes: NonZeroU64,
    /// Messages a second of `steady`.
    #[arg(long, value_name = "N", default_value = "5000")]
    pub(crate) rate: NonZeroU64,
    /// Where `steady` leaves its picture (FILE.svg) and its samples (FILE.csv).
    #[arg(long, value_name = "FILE")]
    pub(crate) curve: Option<PathBuf>,
    /// Where the data folders are made. Not a file system in memory.
    #[arg(long, default_value = "target/bounds")]
    pub(crate) folder: PathBuf,
    /// The broker under test.
    #[arg(long, value_name = "PATH", default_value = "target/release/courser", value_parser = there)]
    pub(crate) broker: PathBuf,
}

impl Args {
    pub(crate) fn scenarios(&self) -> &[Scenario] {
        match &self.only[..] {
            [] => Scenario::value_variants(),
            only => only,
        }
    }
}

fn there(path: &str) -> Result<PathBuf, std::io::Error> {
    PathBuf::from(path).canonicalize()
}
