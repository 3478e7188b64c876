//! The options of a queue as flags.

use std::time::Duration;

use clap::ValueEnum;
use courser_client::{QueueOptions, to_wire_duration, wire};

use crate::cli::{value, wording::Flags};

/// The flags of these options.
pub(in crate::cli) const FLAGS: Flags = &[
    ("bindings", "--bind"),
    ("lease", "--lease"),
    ("max_attempts", "--max-attempts"),
    ("backoff.initial", "--backoff"),
    ("backoff.max", "--backoff-max"),
    ("backoff.multiplier", "--backoff-multiplier"),
    ("backoff.jitter", "--backoff-jitter"),
    ("dead_letter.enabled", "--dead-letter"),
    ("durability", "--durability"),
    ("paused", "--paused"),
];

/// The flags of `create`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct CreateFlags {
    #[command(flatten)]
    options: OptionFlags,
}

/// The flags of `update`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct UpdateFlags {
    #[command(flatten)]
    pub(super) options: OptionFlags,
    /// No longer take what is published to topics of this pattern; may be repeated.
    #[arg(long, value_name = "PATTERN")]
    pub(super) unbind: Vec<String>,
    /// Drop all bindings, before those of --bind are added.
    #[arg(long)]
    pub(super) clear_bindings: bool,
}

#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Options of the queue")]
pub(super) struct OptionFlags {
    /// Take what is published to topics of this pattern; may be repeated. `*` is one token, `#` is any
    /// number of them.
    #[arg(long, value_name = "PATTERN")]
    pub(super) bind: Vec<String>,
    /// How long a delivery may stay unsettled: 1s to 12h; 30s unless given.
    #[arg(long, value_name = "DURATION", value_parser = value::duration, allow_hyphen_values = true)]
    lease: Option<Duration>,
    /// Failed attempts after which an entry is dead-lettered; 10 unless given, 0 is no limit.
    #[arg(long, value_name = "COUNT")]
    max_attempts: Option<u32>,
    /// The wait after the first failure; 1s unless given.
    #[arg(long, value_name = "DURATION", value_parser = value::duration, allow_hyphen_values = true)]
    backoff: Option<Duration>,
    /// The longest wait after a failure; 5m unless given.
    #[arg(long, value_name = "DURATION", value_parser = value::duration, allow_hyphen_values = true)]
    backoff_max: Option<Duration>,
    /// Growth of the wait from failure to failure: 1 to 10; 2 unless given.
    #[arg(long, value_name = "FACTOR", value_parser = value::factor)]
    backoff_multiplier: Option<f64>,
    /// Share by which the wait varies at random: 0 to 1; 0.2 unless given.
    #[arg(long, value_name = "SHARE")]
    backoff_jitter: Option<f64>,
    /// Whether it has a dead-letter queue; true unless given.
    #[arg(long, value_name = "BOOL", action = clap::ArgAction::Set)]
    dead_letter: Option<bool>,
    /// When publishes and settlements are answered; synced unless given.
    #[arg(long, value_enum, value_name = "WHEN")]
    durability: Option<Durability>,
    /// Take messages and deliver none.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", action = clap::ArgAction::Set)]
    paused: Option<bool>,
}

/// When publishes and settlements are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Durability {
    /// After the sync to the disk: survives power loss.
    Synced,
    /// After the write, before the sync: survives the end of the broker.
    Buffered,
}

impl From<Durability> for wire::Durability {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::Synced => Self::Synced,
            Durability::Buffered => Self::Buffered,
        }
    }
}

impl CreateFlags {
    pub(super) fn options(&self) -> QueueOptions {
        let (mut options, _paths) = self.options.options();
        let patterns = self.options.bind.iter().cloned();
        options.bindings = patterns.map(|pattern| wire::Binding { pattern }).collect();
        options
    }
}

impl UpdateFlags {
    /// The options that were given, without bindings, and the paths that name them.
    pub(super) fn options(&self) -> (QueueOptions, Vec<String>) {
        self.options.options()
    }

    pub(super) fn changes_bindings(&self) -> bool {
        self.clear_bindings || !self.unbind.is_empty() || !self.options.bind.is_empty()
    }
}

impl OptionFlags {
    fn options(&self) -> (QueueOptions, Vec<String>) {
        let mut backoff = wire::Backoff {
            initial: self.backoff.map(to_wire_duration),
            max: self.backoff_max.map(to_wire_duration),
            ..wire::Backoff::default()
        };
        set(&mut backoff.multiplier, self.backoff_multiplier);
        set(&mut backoff.jitter, self.backoff_jitter);
        let options = QueueOptions {
            lease: self.lease.map(to_wire_duration),
            max_attempts: self.max_attempts,
            backoff: Some(backoff),
            dead_letter: self.dead_letter.map(|enabled| wire::DeadLetterOptions {
                enabled: Some(enabled),
            }),
            durability: self
                .durability
                .map_or(wire::Durability::Unspecified, wire::Durability::from)
                .into(),
            paused: self.paused,
            ..QueueOptions::default()
        };
        let given = [
            ("lease", self.lease.is_some()),
            ("max_attempts", self.max_attempts.is_some()),
            ("backoff.initial", self.backoff.is_some()),
            ("backoff.max", self.backoff_max.is_some()),
            ("backoff.multiplier", self.backoff_multiplier.is_some()),
            ("backoff.jitter", self.backoff_jitter.is_some()),
            ("dead_letter", self.dead_letter.is_some()),
            ("durability", self.durability.is_some()),
            ("paused", self.paused.is_some()),
        ];
        let paths = given
            .iter()
            .filter(|(_, given)| *given)
            .map(|(path, _)| (*path).to_owned());
        (options, paths.collect())
    }
}

/// Fields of the wire with presence and without are set alike.
fn set<Field: From<f64>>(field: &mut Field, value: Option<f64>) {
    if let Some(value) = value {
        *field = value.into();
    }
}
