//! What `tests/fuzz` reaches of the command line: thin wrappers, built only for it.

use std::time::Duration;

use courser_client::Message;
use courser_store::offline::Saved;

use crate::cli::{broker, offline, publish, value};

/// Reads a duration.
///
/// # Errors
/// What is needed; so below.
pub fn duration(text: &str) -> Result<Duration, String> {
    value::duration(text)
}

/// Reads a whole number from 1 on.
///
/// # Errors
/// What is needed.
pub fn positive(text: &str) -> Result<u64, String> {
    value::positive(text)
}

/// Reads a factor.
///
/// # Errors
/// What is needed.
pub fn factor(text: &str) -> Result<f64, String> {
    value::factor(text)
}

/// Reads `key=value`.
///
/// # Errors
/// What is needed.
pub fn pair(text: &str) -> Result<(String, String), String> {
    value::pair(text)
}

/// Completes the address of a broker to a URL.
///
/// # Errors
/// What is wrong with it.
pub fn url(text: &str) -> Result<String, String> {
    broker::url(text).map_err(|error| error.to_string())
}

/// Shows a number, a size and an age to people.
#[must_use]
pub fn shown(number: u64) -> [String; 3] {
    [
        value::number(number),
        value::size(number),
        value::age(Duration::from_millis(number)),
    ]
}

/// Writes what was salvaged, as `courser salvage` does.
#[must_use]
pub fn salvage(saved: &Saved) -> Vec<u8> {
    let mut lines = Vec::new();
    offline::write_line(&mut lines, saved).expect("there is room for it");
    lines
}

/// Reads a line of these, as `courser publish --from-salvage` does.
///
/// # Errors
/// What is wrong with it, and its number.
pub fn salvaged(number: u64, line: &[u8]) -> Result<Message, String> {
    publish::salvaged::message(number, line).map_err(|error| format!("{error:#}"))
}
