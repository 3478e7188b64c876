//! Sets up the log: one line for people on a terminal, one JSON object a line otherwise.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::{EnvFilter, filter::LevelFilter, fmt, prelude::*};

use crate::config::LogFormat;

/// What the broker says of its start: shown at every level but `off`, because whoever starts it, and
/// every script that waits for it, needs to know where it listens.
pub const START: &str = "courser::start";

/// Starts logging to stderr. Only the first call has an effect.
///
/// # Errors
/// When `filter` is none.
pub fn start(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = if filter == "off" {
        EnvFilter::default().add_directive(LevelFilter::OFF.into())
    } else {
        EnvFilter::try_new(filter)?.add_directive(format!("{START}=info").parse()?)
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
            .with_target(false);
        let _ = registry.with(layer).try_init();
    } else {
        let layer = fmt::layer()
            .with_writer(io::stderr)
            .json()
            .flatten_event(true);
        let _ = registry.with(layer).try_init();
    }
    Ok(())
}
