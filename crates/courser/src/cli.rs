//! The command line: one file for each group of commands.

mod bench;
mod broker;
mod consume;
mod dlq;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod health;
mod offline;
mod output;
mod publish;
mod queue;
mod serve;
mod value;
mod wording;

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use clap_complete::Shell;
use tokio::runtime;

use self::{
    broker::Unreachable,
    output::{Format, Output},
    wording::Flags,
};
use crate::config::Problems;

/// Exit codes: scripts depend on them.
const REFUSED: u8 = 1;
const WRONG_USAGE: u8 = 2;
const UNREACHABLE: u8 = 3;

/// How long `health` may take in all: whoever probes asks again soon.
const HEALTH_TIME_MAX: Duration = Duration::from_secs(4);
/// How long a command may take that changes or shows a little: the broker answers within milliseconds,
/// unless its disk is slow.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(20);

/// Courser, a message broker: durable queues with leases, retries and dead letters.
///
/// Start a broker with `courser serve`; the other commands talk to one, except `verify` and `salvage`,
/// which look at the data folder of one that is stopped.
///
/// Exit codes: 0 done, 1 refused, 2 wrong usage, 3 the broker cannot be reached.
#[derive(Debug, Parser)]
#[command(
    name = "courser",
    version,
    propagate_version = false,
    max_term_width = 100
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Args)]
struct Global {
    /// Where the broker is.
    #[arg(
        long,
        global = true,
        env = "COURSER_SERVER",
        value_name = "URL",
        default_value = "http://127.0.0.1:7420",
        help_heading = "Global options"
    )]
    server: String,
    /// How answers are printed: `table` for people, `json` is the answer's message, `ndjson` one
    /// object a line.
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value = "table",
        help_heading = "Global options"
    )]
    output: Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a broker.
    Serve(serve::Serve),
    /// Publish messages to a topic.
    Publish(publish::Publish),
    /// Take messages from a queue and settle them.
    Consume(consume::Consume),
    /// Create, show and change queues.
    #[command(subcommand)]
    Queue(queue::Queue),
    /// Look at dead letters and bring them back.
    #[command(subcommand)]
    Dlq(dlq::Dlq),
    /// Ask the broker whether it serves.
    Health,
    /// Measure throughput and latency.
    Bench(bench::Bench),
    /// Check a data folder while no broker runs.
    Verify(offline::Verify),
    /// Get the messages out of a damaged data folder.
    Salvage(offline::Salvage),
    /// Print the completions for a shell.
    Completions {
        /// Which shell.
        shell: Shell,
    },
}

/// Runs the command line.
#[must_use]
pub fn main() -> ExitCode {
    let cli = command_line(Cli::command()).get_matches();
    let cli = Cli::from_arg_matches(&cli).unwrap_or_else(|error| error.exit());
    let flags = cli.command.flags();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(tell(&error, flags)),
    }
}

/// `--limit -1` is a wrong number, not an unknown flag.
fn command_line(command: clap::Command) -> clap::Command {
    let command = command.allow_negative_numbers(true);
    command.mut_subcommands(command_line)
}

fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Serve(serve) => serve.run(),
        Command::Verify(verify) => verify.run(cli.global.output),
        Command::Salvage(salvage) => salvage.run(),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "courser", &mut io::stdout());
            Ok(())
        }
        Command::Bench(bench) => bench
            .runtime()?
            .block_on(bench.run(&broker::url(&cli.global.server)?, cli.global.output)),
        command => {
            let runtime = runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let url = broker::url(&cli.global.server)?;
            let time_max = command.time_max();
            let asking = ask(&url, command, cli.global.output);
            let answered = runtime.block_on(broker::answered(&url, time_max, asking));
            // Reading stdin holds a thread of the runtime that nothing can wake.
            runtime.shutdown_background();
            answered
        }
    }
}

impl Command {
    /// How long it may take. None: it waits by design, or for as much as there is to do; a broker that
    /// is gone is noticed by the pings of the connection.
    fn time_max(&self) -> Option<Duration> {
        match self {
            Self::Health => Some(HEALTH_TIME_MAX),
            Self::Queue(queue) if queue.is_short() => Some(ANSWER_TIME_MAX),
            Self::Dlq(dlq) if dlq.is_short() => Some(ANSWER_TIME_MAX),
            _ => None,
        }
    }

    /// Its flags that set fields of what the broker is asked.
    fn flags(&self) -> Flags {
        match self {
            Self::Publish(publish) => publish.flags(),
            Self::Consume(_) => consume::FLAGS,
            Self::Queue(_) => queue::FLAGS,
            Self::Dlq(_) => dlq::FLAGS,
            _ => &[],
        }
    }
}

async fn ask(url: &str, command: Command, format: Format) -> anyhow::Result<()> {
    let client = broker::connect(url).await?;
    let mut output = Output::new(format);
    match command {
        Command::Publish(publish) => publish.run(&client, &mut output).await,
        Command::Consume(consume) => consume.run(&client, &mut output).await,
        Command::Queue(queue) => queue.run(&client, &mut output).await,
        Command::Dlq(dlq) => dlq.run(&client, &mut output).await,
        Command::Health => health::run(&client, &mut output).await,
        Command::Serve(_)
        | Command::Bench(_)
        | Command::Verify(_)
        | Command::Salvage(_)
        | Command::Completions { .. } => {
            unreachable!("these commands have no connection of this kind")
        }
    }
}

/// A command that was used wrongly in a way that the parser cannot see.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

fn usage(sentence: impl Into<String>) -> anyhow::Error {
    Usage(sentence.into()).into()
}

/// Says what went wrong, in a line, and answers the exit code.
fn tell(error: &anyhow::Error, flags: Flags) -> u8 {
    let broken_pipe = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>());
    if broken_pipe
        .into_iter()
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
    {
        // Whoever read our output has seen enough, as `head` does.
        return 0;
    }
    let (code, hint) = judge(error);
    let mut stderr = io::stderr().lock();
    let _ = writeln!(stderr, "error: {}", sentence(error, flags));
    if let Some(hint) = hint {
        let _ = writeln!(stderr, "  hint: {hint}");
    }
    code
}

/// An error with its causes, each said once: many say their cause already.
fn sentence(error: &anyhow::Error, flags: Flags) -> String {
    let mut sentence = String::new();
    for cause in error.chain().map(|cause| wording::worded(cause, flags)) {
        if sentence.is_empty() {
            sentence = cause;
        } else if !sentence.contains(&cause) {
            sentence = format!("{sentence}: {cause}");
        }
    }
    sentence
}

fn judge(error: &anyhow::Error) -> (u8, Option<&'static str>) {
    use courser_client::Error;
    match error.downcast_ref::<Unreachable>() {
        Some(Unreachable::Absent { .. }) => {
            let hint = "start one with `courser serve`, or name another with --server URL";
            return (UNREACHABLE, Some(hint));
        }
        Some(_) => return (UNREACHABLE, None),
        None => {}
    }
    let client = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<Error>());
    match client {
        Some(Error::Unreachable(_)) => (UNREACHABLE, None),
        Some(Error::Address { .. }) => (WRONG_USAGE, None),
        Some(refused) => (REFUSED, refused.code().and_then(hint)),
        None if error.is::<Usage>() || error.is::<Problems>() => (WRONG_USAGE, None),
        None => (REFUSED, None),
    }
}

fn hint(code: courser_client::Code) -> Option<&'static str> {
    match code {
        courser_client::Code::NotFound => Some("`courser queue list` shows what there is"),
        courser_client::Code::Unimplemented => {
            Some("the broker does not know this call; is it an older version?")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        command_line(Cli::command()).debug_assert();
    }

    #[test]
    fn what_does_not_wait_by_design_has_a_deadline() {
        let time_max = |line: &str| {
            let words = line.split(' ');
            Cli::try_parse_from(words).unwrap().command.time_max()
        };
        assert_eq!(time_max("courser health"), Some(HEALTH_TIME_MAX));
        for line in [
            "courser queue list",
            "courser queue show a",
            "courser queue create a",
            "courser queue update a --lease 1m",
            "courser queue pause a",
            "courser queue resume a",
            "courser queue peek a",
            "courser dlq list",
            "courser dlq show a",
        ] {
            assert_eq!(time_max(line), Some(ANSWER_TIME_MAX), "{line}");
        }
        for line in [
            "courser consume a",
            "courser dlq redrive a",
            "courser publish a -",
        ] {
            assert_eq!(time_max(line), None, "{line}");
        }
    }

    #[test]
    fn a_cause_is_said_once() {
        let cause = io::Error::other("the disk is full");
        let error = anyhow::Error::new(cause).context("cannot write: the disk is full");
        assert_eq!(sentence(&error, &[]), "cannot write: the disk is full");
        let error = error.context("cannot start");
        assert_eq!(
            sentence(&error, &[]),
            "cannot start: cannot write: the disk is full"
        );
    }
}
