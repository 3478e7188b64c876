//! Sets up the log: one line for people on a terminal, one JSON object a line otherwise.

use std::{
    io::{self, IsTerminal as _},
    time::SystemTime,
};

use tracing_subscriber::{
    EnvFilter,
    filter::{LevelFilter, ParseError},
    fmt::{self, format::Writer, time::FormatTime},
    prelude::*,
};

use crate::config::LogFormat;

/// What the broker says of its start: shown at every level but `off`, because whoever starts it, and
/// every script that waits for it, needs to know where it listens.
pub const START: &str = "courser::start";

/// Reads a filter. What a field must be is compared, not matched as a pattern, which could take a minute to read.
pub(crate) fn filter(text: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::builder().with_regex(false).parse(text)
}

/// Starts logging to stderr. Only the first call has an effect. Answers whether it is for people.
///
/// # Errors
/// When `chosen` is no filter.
pub fn start(chosen: &str, format: LogFormat) -> anyhow::Result<bool> {
    let filter = if chosen == "off" {
        EnvFilter::default().add_directive(LevelFilter::OFF.into())
    } else {
        let filter = filter(chosen)?.add_directive(format!("{START}=info").parse()?);
        // What sled says of itself speaks of its inside; the store tells its faults in our words. Who
        // wants to see it names it: `info,sled=debug`.
        if chosen.contains("sled") {
            filter
        } else {
            filter.add_directive("sled=off".parse()?)
        }
    };
    let terminal = io::stderr().is_terminal();
    let human = match format {
        LogFormat::Human => true,
        LogFormat::Json => false,
        LogFormat::Auto => terminal,
    };
    let registry = tracing_subscriber::registry().with(filter);
    if human {
        let layer = fmt::layer()
            .with_writer(io::stderr)
            .with_ansi(terminal)
            .with_timer(Seconds)
            .with_target(false);
        let _ = registry.with(layer).try_init();
    } else {
        let layer = fmt::layer()
            .with_writer(io::stderr)
            .json()
            .flatten_event(true);
        let _ = registry.with(layer).try_init();
    }
    Ok(human)
}

/// `2026-01-31T12:00:00Z`: people do not read microseconds.
struct Seconds;

impl FormatTime for Seconds {
    #[expect(clippy::disallowed_methods, reason = "the log tells the time of day")]
    fn format_time(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        let now = humantime::format_rfc3339_seconds(SystemTime::now());
        write!(writer, "{now}")
    }
}
