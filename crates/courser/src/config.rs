//! What the broker is told, in two stages.
//!
//! First [`Layer`]s: what was written in the file, the environment and the flags, as text, each value
//! knowing where it came from. Then [`Config`]: what we run with, typed and checked. A layer is a
//! table of text rather than a struct that serde fills, because serde stops at the first mistake, and
//! whoever repairs a configuration wants to hear of all of them.

mod environment;
mod layer;
mod value;

use std::{fmt, net::SocketAddr, path::PathBuf};

use courser_core::limits;

pub use self::layer::{Layer, Origin};

/// Every setting, by its name in the file. In the environment it is `COURSER_` and upper case, on
/// the command line `--` and with dashes.
pub const SETTINGS: [&str; 10] = [
    "data_dir",
    "listen",
    "http",
    "log_level",
    "log_format",
    "max_message_bytes",
    "worker_threads",
    "recent_bytes",
    "min_free",
    "check_at_start",
];

/// Those that a file may give as a number; all others are text.
const NUMBERS: [&str; 5] = [
    "max_message_bytes",
    "worker_threads",
    "recent_bytes",
    "min_free",
    "check_at_start",
];

/// Bytes of the latest messages that may be kept in memory at least: less, and every consumer reads
/// from the disk.
const RECENT_BYTES_MIN: usize = 1024 * 1024;
/// Threads that may be asked for; far more than any machine that this is meant for has.
const WORKER_THREADS_MAX: usize = 1_024;

/// What the broker runs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where messages are kept.
    pub data_dir: PathBuf,
    /// Where gRPC is served.
    pub listen: SocketAddr,
    /// Where metrics and health are served over HTTP; `None` is nowhere.
    pub http: Option<SocketAddr>,
    /// A level, or a filter as `info,courser_engine=debug`.
    pub log_level: String,
    /// How the log is written.
    pub log_format: LogFormat,
    /// Bytes of the largest payload taken.
    pub max_message_bytes: usize,
    /// Threads that serve connections; 0 is one for each core.
    pub worker_threads: usize,
    /// Bytes of the latest messages kept in memory.
    pub recent_bytes: usize,
    /// Bytes of the disk that are to stay free; `None` is by the size of the disk.
    pub min_free: Option<u64>,
    /// Bytes of older messages that a start looks through for damage.
    pub check_at_start: u64,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
    /// `Human` on a terminal, `Json` otherwise.
    Auto,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("./courser-data"),
            listen: SocketAddr::from(([127, 0, 0, 1], 7420)),
            http: Some(SocketAddr::from(([127, 0, 0, 1], 7421))),
            log_level: "info".to_owned(),
            log_format: LogFormat::Auto,
            max_message_bytes: limits::PAYLOAD_BYTES_DEFAULT,
            worker_threads: 0,
            recent_bytes: courser_engine::Options::default().recent_bytes,
            min_free: None,
            check_at_start: courser_store::DiskOptions::default().check_bytes,
        }
    }
}

impl Config {
    /// Applies layers over the defaults, the last one winning.
    ///
    /// # Errors
    /// Everything that is wrong in any of them, also where another layer would have won.
    pub fn resolve(layers: Vec<Layer>) -> Result<Self, Problems> {
        let mut config = Self::default();
        let mut problems = Vec::new();
        for layer in layers {
            for (setting, value) in &layer.values {
                if let Err(why) = config.set(setting, value) {
                    let name = layer.origin.name_of(setting);
                    problems.push(format!("{name} is {value:?}, but {why}"));
                }
            }
            problems.extend(layer.problems);
        }
        if config.http == Some(config.listen) && config.listen.port() != 0 {
            problems.push(format!("listen and http are both {}", config.listen));
        }
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(Problems(problems))
        }
    }

    fn set(&mut self, setting: &str, value: &str) -> Result<(), String> {
        match setting {
            "data_dir" => self.data_dir = value::path(value)?,
            "listen" => self.listen = value::address(value)?,
            "http" => self.http = value::address_or_off(value)?,
            "log_level" => self.log_level = value::log_filter(value)?,
            "log_format" => self.log_format = value::log_format(value)?,
            "max_message_bytes" => {
                self.max_message_bytes = value::bytes(value, 1, limits::PAYLOAD_BYTES_MAX)?;
            }
            "worker_threads" => {
                self.worker_threads = value::count(value, WORKER_THREADS_MAX)?;
            }
            "recent_bytes" => {
                self.recent_bytes = value::bytes(value, RECENT_BYTES_MIN, usize::MAX)?;
            }
            "min_free" => self.min_free = value::bytes_or_auto(value)?,
            "check_at_start" => {
                self.check_at_start = value::bytes(value, 0, usize::MAX)? as u64;
            }
            _ => return Err("there is no such setting".to_owned()),
        }
        Ok(())
    }
}

/// Everything that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [problem] => write!(f, "the configuration is wrong: {problem}"),
            problems => {
                write!(
                    f,
                    "the configuration is wrong in {} places:",
                    problems.len()
                )?;
                problems
                    .iter()
                    .try_for_each(|problem| write!(f, "\n  - {problem}"))
            }
        }
    }
}

impl std::error::Error for Problems {}

#[cfg(test)]
mod tests;
