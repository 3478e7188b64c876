//! The command line.

use std::path::PathBuf;

use crate::{broker::Programs, flip::FLIPS_OF_A_FOLDER, random};

pub(crate) const USAGE: &str = "\
tests/faults/run [--short | --rounds N] [--seed S]
                 [--only kill,cut,broken,errno,stop,clock,slow,flip]
                 [--at ROUND] [--jobs N] [--broker PATH] [--interposer PATH]

  --rounds N   N kills, N / 2 cuts, N / 4 failing disks, N flips, N / 100 of each of the
               others
  --short      what tests/run runs
  --at ROUND   only this round of each class; with --seed and --only it repeats a failure
  FAULTS_KEEP=1 in the environment keeps the folder of a failed round";

/// Cuts made in one recording.
pub(crate) const CUTS_OF_A_RECORDING: u64 = 20;

/// A class of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "kill" => Self::Kill,
            "cut" => Self::Cut,
            "broken" => Self::Broken,
            "errno" => Self::Errno,
            "stop" => Self::Stop,
            "clock" => Self::Clock,
            "flip" => Self::Flip,
            "slow" => Self::Slow,
            _ => return None,
        })
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

const ALL: [Class; 8] = [
    Class::Kill,
    Class::Cut,
    Class::Broken,
    Class::Errno,
    Class::Stop,
    Class::Clock,
    Class::Slow,
    Class::Flip,
];

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
    pub(crate) fn read() -> Result<Self, String> {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let beside = own.parent().expect("a program lies in a folder");
        let mut programs = Programs {
            broker: beside.join("courser"),
            interposer: beside.join("libcourser_interpose.so"),
        };
        let (mut seed, mut rounds, mut at, mut jobs) = (None, None, None, 2);
        let mut only = ALL.to_vec();
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            if arg == "--short" {
                continue;
            }
            let value = args.next().ok_or_else(|| format!("{arg} needs a value"))?;
            let number = || value.parse::<u64>().map_err(|_| format!("{arg}: a number"));
            match arg.as_str() {
                "--rounds" => rounds = Some(number()?),
                "--seed" => seed = Some(number()?),
                "--at" => at = Some(number()?),
                "--jobs" => jobs = number()?.max(1) as usize,
                "--broker" => programs.broker = PathBuf::from(value),
                "--interposer" => programs.interposer = PathBuf::from(value),
                "--only" => {
                    only = value
                        .split(',')
                        .map(|name| Class::named(name).ok_or(format!("no class {name}")))
                        .collect::<Result<_, _>>()?;
                }
                _ => return Err(format!("no option {arg}")),
            }
        }
        for program in [&mut programs.broker, &mut programs.interposer] {
            *program = program
                .canonicalize()
                .map_err(|_| format!("{} is not there", program.display()))?;
        }
        let of = |class: Class| match rounds {
            Some(rounds) => rounds_of(class, rounds),
            None => short_of(class),
        };
        Ok(Self {
            seed: seed.unwrap_or_else(random::seed),
            rounds: only.into_iter().map(|class| (class, of(class))).collect(),
            at,
            jobs,
            programs,
        })
    }
}
