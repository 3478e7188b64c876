//! Between the words of the wire and the words of the core, both ways. Whatever comes in is checked
//! here, and a refusal names the field.

mod consume;
mod entry;
mod publish;
mod queue;

use std::time::Duration;

use courser_core::{
    name::{DEAD_LETTER_SUFFIX, NameError, check_name},
    options::Durability,
    time::Timestamp,
};
use courser_proto::v1;

pub(crate) use self::{consume::*, entry::*, publish::*, queue::*};

/// A field of a request that is outside its limits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub(crate) struct InvalidField {
    /// Its path: `messages[3].topic`.
    pub(crate) field: String,
    /// What is allowed, and what is there.
    pub(crate) problem: String,
}

impl InvalidField {
    #[expect(
        clippy::needless_pass_by_value,
        reason = "what is formatted on the way is a value"
    )]
    pub(crate) fn new(field: impl Into<String>, problem: impl ToString) -> Self {
        Self {
            field: field.into(),
            problem: problem.to_string(),
        }
    }

    /// The same, for a field of the message that `path` leads to.
    pub(crate) fn within(self, path: &str) -> Self {
        Self {
            field: format!("{path}.{}", self.field),
            problem: self.problem,
        }
    }
}

type Checked<T> = Result<T, InvalidField>;

/// A duration with microseconds; what is finer is cut off.
pub(crate) fn duration_from_proto(
    field: &str,
    duration: prost_types::Duration,
) -> Checked<Duration> {
    let seconds = u64::try_from(duration.seconds);
    let nanos = u32::try_from(duration.nanos)
        .ok()
        .filter(|nanos| *nanos < 1_000_000_000);
    match (seconds, nanos) {
        (Ok(seconds), Some(nanos)) => Ok(Duration::new(seconds, nanos / 1_000 * 1_000)),
        _ => Err(InvalidField::new(
            field,
            format_args!(
                "must be a duration that is not negative, is {} s and {} ns",
                duration.seconds, duration.nanos
            ),
        )),
    }
}

/// A duration from `min` to `max`; `allowed` says these in words.
fn duration_within(
    field: &str,
    duration: prost_types::Duration,
    (min, max): (Duration, Duration),
    allowed: &str,
) -> Checked<Duration> {
    let duration = duration_from_proto(field, duration)?;
    if duration < min || duration > max {
        let problem = format_args!("must be from {allowed}, is {duration:?}");
        return Err(InvalidField::new(field, problem));
    }
    Ok(duration)
}

#[expect(
    clippy::cast_possible_wrap,
    reason = "nanoseconds of a second fit, and so do microseconds"
)]
pub(crate) fn duration_to_proto(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: duration.subsec_nanos() as i32,
    }
}

#[expect(
    clippy::cast_possible_wrap,
    reason = "nanoseconds of a second, and 2^64 microseconds, fit"
)]
pub(crate) fn timestamp_to_proto(timestamp: Timestamp) -> prost_types::Timestamp {
    let micros = timestamp.as_micros();
    prost_types::Timestamp {
        seconds: (micros / 1_000_000) as i64,
        nanos: (micros % 1_000_000) as i32 * 1_000,
    }
}

pub(crate) fn durability_from_proto(field: &str, durability: i32) -> Checked<Durability> {
    match v1::Durability::try_from(durability) {
        Ok(v1::Durability::Unspecified | v1::Durability::Synced) => Ok(Durability::Synced),
        Ok(v1::Durability::Buffered) => Ok(Durability::Buffered),
        Err(_) => Err(unknown_value(field, "Durability", durability)),
    }
}

pub(crate) fn durability_to_proto(durability: Durability) -> v1::Durability {
    match durability {
        Durability::Synced => v1::Durability::Synced,
        Durability::Buffered => v1::Durability::Buffered,
    }
}

fn unknown_value(field: &str, kind: &str, value: i32) -> InvalidField {
    InvalidField::new(field, format_args!("must be a value of {kind}, is {value}"))
}

/// The name of a queue that somebody asks for, which may be a dead-letter queue.
pub(crate) fn queue_name_from_proto(field: &str, name: String) -> Checked<String> {
    check_name(name.strip_suffix(DEAD_LETTER_SUFFIX).unwrap_or(&name))
        .map_err(|error| InvalidField::new(field, error))?;
    Ok(name)
}

/// The name of a queue that somebody makes.
pub(crate) fn new_queue_name_from_proto(field: &str, name: String) -> Checked<String> {
    check_name(&name).map_err(|error| InvalidField::new(field, error))?;
    if name.ends_with(DEAD_LETTER_SUFFIX) {
        return Err(InvalidField::new(field, NameError::DeadLetter));
    }
    Ok(name)
}

/// A text of at most `max` bytes.
fn text_at_most(field: &str, text: String, max: usize) -> Checked<String> {
    if text.len() > max {
        return Err(too_long(field, text.len(), max));
    }
    Ok(text)
}

fn too_long(field: &str, bytes: usize, max: usize) -> InvalidField {
    InvalidField::new(
        field,
        format_args!("must have at most {max} bytes, has {bytes}"),
    )
}

/// At most `max` things.
pub(crate) fn count_at_most(field: &str, count: usize, max: usize, things: &str) -> Checked<()> {
    if count > max {
        let problem = format_args!("must have at most {max} {things}, has {count}");
        return Err(InvalidField::new(field, problem));
    }
    Ok(())
}

/// A number from 1 to `max`, where 0 is `default`.
fn number_or<T>(field: &str, number: T, max: T, default: T) -> Checked<T>
where
    T: Copy + PartialOrd + Default + std::fmt::Display,
{
    if number == T::default() {
        Ok(default)
    } else if number <= max {
        Ok(number)
    } else {
        let problem = format_args!("must be from 1 to {max}, or 0 for {default}, is {number}");
        Err(InvalidField::new(field, problem))
    }
}

/// The beginning of `text`, at most `max` bytes of it.
pub(crate) fn cut(text: String, max: usize) -> Box<str> {
    if text.len() <= max {
        return text.into_boxed_str();
    }
    beginning(&text, max).into()
}

/// As much of `text` as fits `max` bytes without breaking a character.
pub(crate) fn beginning(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
pub(crate) mod tests;
