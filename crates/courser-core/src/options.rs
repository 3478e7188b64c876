//! What a queue can be told, with the defaults and the limits of each option.

use std::{fmt, sync::Arc, time::Duration};

use crate::{id::QueueId, limits, name::Pattern, time::Timestamp};

/// When an answer may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Durability {
    /// After the batch that it depends on is synced to the disk.
    #[default]
    Synced,
    /// After that batch is written, before it is synced.
    Buffered,
}

/// How an entry waits after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// After the first failure.
    pub initial: Duration,
    /// At most, before jitter.
    pub max: Duration,
    /// Growth from one failure to the next.
    pub multiplier: f64,
    /// Share of the wait by which it may be shorter or longer.
    pub jitter: f64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            initial: limits::BACKOFF_INITIAL_DEFAULT,
            max: limits::BACKOFF_MAX_DEFAULT,
            multiplier: 2.0,
            jitter: 0.2,
        }
    }
}

impl Backoff {
    /// The wait after the `failures`th failure. `random` is uniform in `0.0..1.0`.
    #[must_use]
    pub fn wait(&self, failures: u32, random: f64) -> Duration {
        let exponent = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
        // Bounded, for no wait times infinity is not a number.
        let growth = self.multiplier.powi(exponent).min(f64::MAX);
        let grown = self.initial.as_secs_f64() * growth;
        let wait = grown.min(self.max.as_secs_f64()) * (1.0 + self.jitter * (2.0 * random - 1.0));
        Duration::from_secs_f64(wait.clamp(0.0, limits::BACKOFF_MAX.as_secs_f64()))
    }
}

/// All options of a queue.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueOptions {
    /// Beside these it is bound to the topic of its own name. Sorted, without duplicates.
    pub bindings: Vec<Pattern>,
    /// How long a delivery may stay unsettled.
    pub lease: Duration,
    /// Failed attempts after which an entry is dead-lettered; 0 is no limit.
    pub max_attempts: u32,
    /// What an entry waits after a failed attempt.
    pub backoff: Backoff,
    /// Whether it has a dead-letter queue.
    pub dead_letter: bool,
    /// When publishes to it and settlements of it may be answered.
    pub durability: Durability,
    /// Takes messages and delivers none.
    pub paused: bool,
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self {
            bindings: Vec::new(),
            lease: limits::LEASE_DEFAULT,
            max_attempts: limits::ATTEMPTS_DEFAULT,
            backoff: Backoff::default(),
            dead_letter: true,
            durability: Durability::Synced,
            paused: false,
        }
    }
}

impl QueueOptions {
    /// The options of a dead-letter queue when it is made: no limit of attempts, for nothing comes
    /// after it.
    #[must_use]
    pub fn for_dead_letters() -> Self {
        Self {
            max_attempts: 0,
            dead_letter: false,
            ..Self::default()
        }
    }

    /// Whether every option is within its limits.
    ///
    /// # Errors
    /// Names the first option that is not, and what is allowed.
    pub fn check(&self) -> Result<(), OptionError> {
        let Backoff {
            initial,
            max,
            multiplier,
            jitter,
        } = self.backoff;
        let error = |field, allowed: &str| {
            Err(OptionError {
                field,
                allowed: allowed.to_owned(),
            })
        };
        if self.bindings.len() > limits::BINDINGS_MAX {
            return error("options.bindings", "must be at most 1000");
        }
        if !(limits::LEASE_MIN..=limits::LEASE_MAX).contains(&self.lease) {
            return error("options.lease", "must be from 1s to 12h");
        }
        if self.max_attempts > limits::ATTEMPTS_MAX {
            return error(
                "options.max_attempts",
                "must be from 0 to 1000, where 0 is no limit",
            );
        }
        if initial > limits::BACKOFF_MAX {
            return error("options.backoff.initial", "must be from 0s to 24h");
        }
        if max > limits::BACKOFF_MAX || max < initial {
            return error("options.backoff.max", "must be from backoff.initial to 24h");
        }
        if !(1.0..=limits::BACKOFF_MULTIPLIER_MAX).contains(&multiplier) {
            return error("options.backoff.multiplier", "must be from 1 to 10");
        }
        if !(0.0..=1.0).contains(&jitter) {
            return error("options.backoff.jitter", "must be from 0 to 1");
        }
        Ok(())
    }

    /// The options in which `self` and `other` differ, each with both values, for people.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        let mut compare = |field: &str, ours: &dyn fmt::Debug, theirs: &dyn fmt::Debug| {
            let (ours, theirs) = (format!("{ours:?}"), format!("{theirs:?}"));
            if ours != theirs {
                differences.push(format!("{field} is {ours}, not {theirs}"));
            }
        };
        compare("bindings", &self.bindings, &other.bindings);
        compare("lease", &self.lease, &other.lease);
        compare("max_attempts", &self.max_attempts, &other.max_attempts);
        compare(
            "backoff.initial",
            &self.backoff.initial,
            &other.backoff.initial,
        );
        compare("backoff.max", &self.backoff.max, &other.backoff.max);
        compare(
            "backoff.multiplier",
            &self.backoff.multiplier,
            &other.backoff.multiplier,
        );
        compare(
            "backoff.jitter",
            &self.backoff.jitter,
            &other.backoff.jitter,
        );
        compare("dead_letter.enabled", &self.dead_letter, &other.dead_letter);
        compare("durability", &self.durability, &other.durability);
        compare("paused", &self.paused, &other.paused);
        differences
    }
}

/// An option outside its limits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {allowed}")]
pub struct OptionError {
    /// The path of the field.
    pub field: &'static str,
    /// What is allowed.
    pub allowed: String,
}

/// A queue apart from what is in it.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueDefinition {
    /// Its number.
    pub id: QueueId,
    /// Its name.
    pub name: Arc<str>,
    /// What it was told.
    pub options: QueueOptions,
    /// When it was made.
    pub created_at: Timestamp,
    /// The queue whose dead letters it keeps.
    pub dead_letter_of: Option<QueueId>,
    /// The queue that keeps its dead letters.
    pub dead_letter_queue: Option<QueueId>,
}
