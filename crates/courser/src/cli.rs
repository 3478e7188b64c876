//! The command line: one file for each group of commands.

mod bench;
mod consume;
mod dlq;
mod health;
mod output;
mod publish;
mod queue;
mod serve;
mod value;

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use courser_client::{Client, ConnectOptions};
use tokio::runtime;

use self::output::{Format, Output};
use crate::config::Problems;

/// Exit codes: scripts depend on them.
const REFUSED: u8 = 1;
const WRONG_USAGE: u8 = 2;
const UNREACHABLE: u8 = 3;

/// How long a command waits for the connection: a broker that is there answers within milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Courser, a message broker: durable queues with leases, retries and dead letters.
///
/// Start a broker with `courser serve`; every other command talks to one.
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
    /// Print the completions for a shell.
    Completions {
        /// Which shell.
        shell: Shell,
    },
}

/// Runs the command line.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(tell(&error)),
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Serve(serve) => serve.run(),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "courser", &mut io::stdout());
            Ok(())
        }
        Command::Bench(bench) => bench
            .runtime()?
            .block_on(bench.run(&address(&cli.global.server), cli.global.output)),
        command => {
            let runtime = runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let answered = runtime.block_on(ask(command, &cli.global));
            // Reading stdin holds a thread of the runtime that nothing can wake.
            runtime.shutdown_background();
            answered
        }
    }
}

async fn ask(command: Command, global: &Global) -> anyhow::Result<()> {
    let client = connect(&address(&global.server)).await?;
    let mut output = Output::new(global.output);
    match command {
        Command::Publish(publish) => publish.run(&client, &mut output).await,
        Command::Consume(consume) => consume.run(&client, &mut output).await,
        Command::Queue(queue) => queue.run(&client, &mut output).await,
        Command::Dlq(dlq) => dlq.run(&client, &mut output).await,
        Command::Health => health::run(&client, &mut output).await,
        Command::Serve(_) | Command::Bench(_) | Command::Completions { .. } => {
            unreachable!("these commands have no connection of this kind")
        }
    }
}

async fn connect(url: &str) -> anyhow::Result<Client> {
    let options = ConnectOptions {
        connect_timeout: CONNECT_TIMEOUT,
        ..ConnectOptions::default()
    };
    Client::connect_with(url, &options)
        .await
        .with_context(|| Unreachable(url.to_owned()))
}

/// People type `localhost:7420`.
fn address(server: &str) -> String {
    if server.contains("://") {
        server.to_owned()
    } else {
        format!("http://{server}")
    }
}

/// The context of a connection that did not come about: which one.
#[derive(Debug)]
struct Unreachable(String);

impl std::fmt::Display for Unreachable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "no broker at {}", self.0)
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
fn tell(error: &anyhow::Error) -> u8 {
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
    let _ = writeln!(stderr, "error: {error:#}");
    if let Some(hint) = hint {
        let _ = writeln!(stderr, "  hint: {hint}");
    }
    code
}

fn judge(error: &anyhow::Error) -> (u8, Option<&'static str>) {
    use courser_client::Error;
    let client = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<Error>());
    match client {
        Some(Error::Unreachable(_)) => {
            let hint = "start one with `courser serve`, or name another with --server URL";
            (
                UNREACHABLE,
                error.downcast_ref::<Unreachable>().map(|_| hint),
            )
        }
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
        Cli::command().debug_assert();
    }

    #[test]
    fn a_server_without_scheme_is_completed() {
        assert_eq!(address("localhost:7420"), "http://localhost:7420");
        assert_eq!(address("http://a:1"), "http://a:1");
    }
}
