//! The command line.

use std::path::PathBuf;

pub(crate) const USAGE: &str = "\
tests/bounds/run [--short] [--only backlog,drained,stragglers,churn,queues,stuck,steady]
                 [--minutes N] [--rate N] [--curve FILE] [--folder FOLDER] [--broker PATH]

  --short       scaled down, without the checks of time: what tests/run runs
  --minutes N   of `steady`: 60
  --rate N      messages a second of `steady`: 5000
  --curve FILE  where `steady` leaves its picture (FILE.svg) and its samples (FILE.csv)
  --folder      where the data folders are made: target/bounds. Not a file system in memory";

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    Backlog,
    Drained,
    Stragglers,
    Churn,
    Queues,
    Stuck,
    Steady,
}

const ALL: [Scenario; 7] = [
    Scenario::Backlog,
    Scenario::Drained,
    Scenario::Stragglers,
    Scenario::Churn,
    Scenario::Queues,
    Scenario::Stuck,
    Scenario::Steady,
];

impl Scenario {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Backlog => "backlog",
            Self::Drained => "drained",
            Self::Stragglers => "stragglers",
            Self::Churn => "churn",
            Self::Queues => "queues",
            Self::Stuck => "stuck",
            Self::Steady => "steady",
        }
    }

    fn named(name: &str) -> Result<Self, String> {
        ALL.into_iter()
            .find(|scenario| scenario.name() == name)
            .ok_or(format!("no scenario {name}"))
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Args {
    pub(crate) short: bool,
    pub(crate) only: Vec<Scenario>,
    pub(crate) minutes: u64,
    pub(crate) rate: u64,
    pub(crate) curve: Option<PathBuf>,
    pub(crate) folder: PathBuf,
    pub(crate) broker: PathBuf,
}

impl Args {
    pub(crate) fn read() -> Result<Self, String> {
        let mut read = Self {
            short: false,
            only: ALL.to_vec(),
            minutes: 60,
            rate: 5_000,
            curve: None,
            folder: PathBuf::from("target/bounds"),
            broker: PathBuf::from("target/release/courser"),
        };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            if arg == "--short" {
                read.short = true;
                continue;
            }
            let value = args.next().ok_or_else(|| format!("{arg} needs a value"))?;
            let number = || {
                let number = value.parse::<u64>().ok().filter(|number| *number > 0);
                number.ok_or_else(|| format!("{arg} needs a number above 0"))
            };
            match arg.as_str() {
                "--minutes" => read.minutes = number()?,
                "--rate" => read.rate = number()?,
                "--curve" => read.curve = Some(PathBuf::from(value)),
                "--folder" => read.folder = PathBuf::from(value),
                "--broker" => read.broker = PathBuf::from(value),
                "--only" => {
                    read.only = value
                        .split(',')
                        .map(Scenario::named)
                        .collect::<Result<_, _>>()?;
                }
                _ => return Err(format!("no option {arg}")),
            }
        }
        read.broker = read
            .broker
            .canonicalize()
            .map_err(|_| format!("{} is not there", read.broker.display()))?;
        Ok(read)
    }
}
