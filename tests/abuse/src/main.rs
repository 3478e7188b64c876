//! Load and abuse of the real binary. While each scenario runs, a good client publishes and consumes
//! (`good.rs`): everything it sends must be confirmed and delivered within 10 s. The broker's memory stays under
//! the bound of the scenario and comes down after it, it does not panic, and it serves at the end.
//!
//! `tests/abuse/run` builds and runs it; `docs/abuse.md` says what it shows.

#![expect(
    clippy::print_stdout,
    reason = "the seed, figures, and the closing line"
)]

mod broker;
mod calls;
mod good;
mod hostile;
mod load;
mod pages;
mod peer;
#[path = "../../crash/random.rs"]
#[expect(dead_code, reason = "it is shared with suites that need all of it")]
mod random;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Result, ensure};
use clap::Parser as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{broker::Broker, good::Good, random::Random};

/// How much of everything.
pub(crate) struct Scale {
    pub(crate) idle: usize,
    pub(crate) hold_idle: Duration,
    pub(crate) consumers: usize,
    pub(crate) messages: usize,
    /// Messages of 256 KiB for consumers that do not take them.
    pub(crate) big: usize,
    pub(crate) stuck: usize,
    pub(crate) hold_stuck: Duration,
    /// Queues that are listed.
    pub(crate) pages: usize,
    pub(crate) hold_pages: Duration,
    pub(crate) publishers: usize,
    pub(crate) flood: Duration,
    /// Streams that stay open after one request.
    pub(crate) rested: usize,
    pub(crate) calls: usize,
    /// Of each kind of attack that goes on.
    pub(crate) attack: Duration,
    pub(crate) garbage: usize,
    pub(crate) slow: usize,
    pub(crate) hold_slow: Duration,
}

impl Scale {
    const SHORT: Self = Self {
        idle: 2_000,
        hold_idle: Duration::from_secs(1),
        consumers: 1_000,
        messages: 20_000,
        big: 1_200,
        stuck: 400,
        hold_stuck: Duration::from_secs(14),
        pages: 300,
        hold_pages: Duration::from_secs(8),
        publishers: 20,
        flood: Duration::from_secs(5),
        rested: 400,
        calls: 8_000,
        attack: Duration::from_secs(3),
        garbage: 600,
        slow: 90,
        hold_slow: Duration::from_secs(1),
    };
    const LONG: Self = Self {
        idle: 10_000,
        hold_idle: Duration::from_secs(40),
        consumers: 1_000,
        messages: 200_000,
        big: 4_000,
        stuck: 1_000,
        hold_stuck: Duration::from_secs(45),
        pages: 1_000,
        hold_pages: Duration::from_secs(40),
        publishers: 100,
        flood: Duration::from_secs(20),
        rested: 2_000,
        calls: 150_000,
        attack: Duration::from_secs(20),
        garbage: 20_000,
        slow: 900,
        hold_slow: Duration::from_secs(40),
    };
}

/// A name, what the broker may hold at most and afterwards in MB, and its limit of files.
const SCENARIOS: [(&str, u64, u64, Option<u32>); 14] = [
    ("idle", 700, 300, None),
    ("crowd", 150, 120, Some(1_024)),
    ("consumers", 400, 250, None),
    ("never-reads", 600, 200, None),
    ("pages", 1_800, 200, None),
    ("flood", 900, 400, None),
    ("requests", 1_600, 200, None),
    ("settles", 1_600, 200, None),
    ("rested", 500, 200, None),
    ("calls", 1_800, 200, None),
    ("reset", 300, 200, None),
    ("garbage", 300, 200, None),
    ("headers", 300, 200, None),
    ("slowloris", 300, 200, None),
];

/// Load and abuse of the real binary.
#[derive(Debug, clap::Parser)]
#[command(bin_name = "tests/abuse/run", args_override_self = true)]
struct Args {
    /// What tests/run runs; so does neither this nor the other.
    #[arg(long, conflicts_with = "long")]
    short: bool,
    /// All counts in full.
    #[arg(long)]
    long: bool,
    /// Only these.
    #[arg(long, value_delimiter = ',', value_parser = SCENARIOS.map(|(name, ..)| name))]
    only: Vec<String>,
    /// As it is printed when it begins; another each time when none is given.
    #[arg(long, default_value_t = random::seed(), hide_default_value = true)]
    seed: u64,
    /// The broker under test.
    #[arg(long, value_name = "PATH", value_parser = there)]
    broker: PathBuf,
}

impl Args {
    fn scale(&self) -> Scale {
        if self.long { Scale::LONG } else { Scale::SHORT }
    }
}

fn there(path: &str) -> Result<PathBuf, std::io::Error> {
    PathBuf::from(path).canonicalize()
}

fn main() -> ExitCode {
    let args = Args::parse();
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    );
    if let Err(error) = raised {
        println!(
            "the limit of open files stays at {:?}: {error}",
            limit.current
        );
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) if runtime.block_on(all(&args)) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Runs all scenarios; whether nothing was wrong.
async fn all(args: &Args) -> bool {
    println!("seed {}", args.seed);
    let (mut passed, mut failed) = (0, 0);
    for (number, scenario) in SCENARIOS.iter().enumerate() {
        let name = scenario.0;
        if !args.only.is_empty() && !args.only.iter().any(|only| only == name) {
            continue;
        }
        // Each has its own sequence, so that it can be repeated alone.
        let mut random = Random::new(args.seed).fork(number as u64);
        match one(args, *scenario, &mut random).await {
            Ok(text) => {
                passed += 1;
                println!("{name}: {text}");
            }
            Err(error) => {
                failed += 1;
                println!("FAILED {name}: {error:#}");
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    failed == 0
}

async fn one(
    args: &Args,
    (name, most, after, files): (&str, u64, u64, Option<u32>),
    random: &mut Random,
) -> Result<String> {
    const MB: u64 = 1_000_000;
    let mut broker = Broker::start(&args.broker, files).await?;
    let good = Good::start(&broker).await?;
    let scale = &args.scale();
    let figures = match name {
        "idle" => load::idle(&broker, scale).await,
        "crowd" => load::crowd(&broker, scale).await,
        "consumers" => load::consumers(&broker, scale).await,
        "never-reads" => load::never_reads(&broker, scale).await,
        "pages" => pages::pages(&broker, scale).await,
        "flood" => load::flood(&broker, scale).await,
        "requests" => calls::requests(&broker, scale).await,
        "settles" => calls::settles(&broker, scale).await,
        "rested" => calls::rested(&broker, scale).await,
        "calls" => calls::calls(&broker, scale).await,
        "reset" => hostile::reset(&broker, scale).await,
        "garbage" => hostile::garbage(&broker, scale, random).await,
        "headers" => hostile::headers(&broker, scale).await,
        _ => hostile::slowloris(&broker, scale).await,
    };
    let served = good.finish().await;
    let (_, peak) = broker.memory()?;
    broker.check().await?;
    let (figures, served) = (figures?, served?);
    ensure!(
        peak <= most * MB,
        "it held {} MB, {most} are allowed; {figures}",
        peak / MB
    );
    let left = broker.memory_below(after * MB).await?;
    Ok(format!(
        "{figures}; {served}; memory at most {} MB, {} MB afterwards",
        peak / MB,
        left / MB
    ))
}
