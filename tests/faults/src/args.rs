//! The command line.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use clap::{Parser as _, ValueEnum as _};

use crate::{broker::Programs, flip::FLIPS_OF_A_FOLDER, random};

/// Faults under the real binary, with a history of everything and a judge over it.
#[derive(Debug, clap::Parser)]
#[command(
    bin_name = "tests/faults/run",
    args_override_self = true,
    after_help = "FAULTS_KEEP=1 in the environment keeps the folder of a failed round."
)]
struct Line {
    /// N kills, N / 2 cuts, N / 4 failing disks, N flips, N / 100 of each of the others.
    #[arg(long, value_name = "N")]
    rounds: Option<u64>,
    /// What tests/run runs; so does no number of rounds.
    #[arg(long, conflicts_with = "rounds")]
    short: bool,
    /// As it is printed when it begins; another each time when none is given.
    #[arg(long)]
    seed: Option<u64>,
    /// Only these classes.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Class>,
    /// Only this round of each class: with --seed and --only it repeats a failure.
    #[arg(long, value_name = "ROUND")]
    at: Option<u64>,
    /// Rounds at once, but for those that are about time.
    #[arg(long, value_name = "N", default_value = "2")]
    jobs: NonZeroUsize,
    /// The broker under test; the one beside this program when none is named.
    #[arg(long, value_name = "PATH")]
    broker: Option<PathBuf>,
    /// What stands between the broker and the system; the one beside this program when none is named.
    #[arg(long, value_name = "PATH")]
    interposer: Option<PathBuf>,
}

/// Cuts made in one recording.
pub(crate) const CUTS_OF_A_RECORDING: u64 = 20;

/// A class of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Class {
    Kill = 1,
    Cut,
    /// A store whose syncs only pretend, which must fail.
    Broken,
    Errno,
    Stop,
    Clock,
    Flip,
    Slow,
}

impl Class {
    pub(crate) fn is_about_time(self) -> bool {
        matches!(self, Self::Stop | Self::Clock | Self::Slow)
    }

    /// Of a hundred rounds, in how many the fault must have happened at least. It does in about 80 of the kills and 60 of
    /// the failing disks: the others choose a call that does not come. The rest choose none, and always have theirs;
    /// only a flip may hit what nobody reads, and a round has many.
    pub(crate) fn hits_least(self) -> u64 {
        match self {
            Self::Kill => 40,
            Self::Errno => 10,
            Self::Flip => 90,
            Self::Cut | Self::Broken | Self::Stop | Self::Clock | Self::Slow => 100,
        }
    }
}

pub(crate) struct Args {
    pub(crate) seed: u64,
    /// How many rounds of each class; a round of cuts has many.
    pub(crate) rounds: Vec<(Class, u64)>,
    pub(crate) at: Option<u64>,
    pub(crate) jobs: usize,
    pub(crate) programs: Programs,
}

fn rounds_of(class: Class, rounds: u64) -> u64 {
    match class {
        Class::Kill => rounds,
        Class::Cut => (rounds / 2).div_ceil(CUTS_OF_A_RECORDING),
        Class::Broken => (rounds / 100).max(4),
        Class::Errno => rounds / 4,
        Class::Flip => rounds.div_ceil(FLIPS_OF_A_FOLDER),
        Class::Stop | Class::Clock | Class::Slow => (rounds / 100).max(1),
    }
}

fn short_of(class: Class) -> u64 {
    match class {
        Class::Kill => 60,
        Class::Cut => 60 / CUTS_OF_A_RECORDING,
        Class::Broken => 4,
        Class::Errno => 24,
        Class::Flip => 2,
        Class::Slow => 2,
        Class::Stop | Class::Clock => 1,
    }
}

impl Args {
    /// Ends the program where it is wrong, or help is all that was asked for.
    pub(crate) fn read() -> Result<Self, String> {
        let line = Line::parse();
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let beside = |name| own.with_file_name(name);
        let of = |class: Class| match line.rounds {
            Some(rounds) => rounds_of(class, rounds),
            None => short_of(class),
        };
        let only = match &line.only[..] {
            [] => Class::value_variants(),
            only => only,
        };
        Ok(Self {
            seed: line.seed.unwrap_or_else(random::seed),
            rounds: only.iter().map(|class| (*class, of(*class))).collect(),
            at: line.at,
            jobs: line.jobs.get(),
            programs: Programs {
                broker: there(line.broker.as_deref().unwrap_or(&beside("courser")))?,
                interposer: there(
                    line.interposer
                        .as_deref()
                        .unwrap_or(&beside("libcourser_interpose.so")),
                )?,
            },
        })
    }
}

fn there(program: &Path) -> Result<PathBuf, String> {
    let path = program.canonicalize();
    path.map_err(|error| format!("{}: {error}", program.display()))
}
