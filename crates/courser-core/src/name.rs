//! Names of topics and queues, and patterns over them.

use std::{fmt, sync::Arc};

use crate::limits::NAME_BYTES_MAX;

/// What the dead-letter queue of a queue is called.
pub const DEAD_LETTER_SUFFIX: &str = ".dlq";

/// A name or pattern that is not formed as it must be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("must not be empty")]
    Empty,
    /// Too long.
    #[error("must have at most 255 bytes, has {bytes}")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// Two dots in a row, or one at an end.
    #[error("must not have an empty token: tokens are separated by single dots")]
    EmptyToken,
    /// A character that is not allowed.
    #[error(
        "must not contain {character:?}: white space, control characters and wildcards are not allowed"
    )]
    Character {
        /// The first of them.
        character: char,
    },
    /// `$` is kept for the broker's own names.
    #[error("must not start with '$'")]
    Dollar,
    /// `*` or `#` within a token.
    #[error("must have a wildcard as a whole token: '*' is one token, '#' is zero or more")]
    Wildcard,
    /// Names of dead-letter queues are the broker's.
    #[error("must not end in '.dlq': that is the dead-letter queue of another queue")]
    DeadLetter,
}

/// Whether `name` may be a topic or the name of a queue.
///
/// # Errors
/// Says what is wrong with it.
pub fn check_name(name: &str) -> Result<(), NameError> {
    check_length(name)?;
    if name.starts_with('$') {
        return Err(NameError::Dollar);
    }
    check_tokens(name)
}

/// Checks what stands between the dots, and that there is something.
fn check_tokens(name: &str) -> Result<(), NameError> {
    // Nearly every name is plain ASCII, and this runs for every message published.
    let mut token_bytes = 0;
    for character in name.chars() {
        match character {
            '.' if token_bytes == 0 => return Err(NameError::EmptyToken),
            '.' => token_bytes = 0,
            '*' | '#' => return Err(NameError::Character { character }),
            c if c.is_whitespace() || c.is_control() => {
                return Err(NameError::Character { character });
            }
            _ => token_bytes += 1,
        }
    }
    if token_bytes == 0 {
        Err(NameError::EmptyToken)
    } else {
        Ok(())
    }
}

fn check_length(name: &str) -> Result<(), NameError> {
    match name.len() {
        0 => Err(NameError::Empty),
        bytes if bytes > NAME_BYTES_MAX => Err(NameError::TooLong { bytes }),
        _ => Ok(()),
    }
}

/// A topic with wildcards: `*` is one token, `#` zero or more.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern(Arc<str>);

impl Pattern {
    /// A pattern, if `text` is formed as one.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn new(text: &str) -> Result<Self, NameError> {
        check_length(text)?;
        if text.starts_with('$') {
            return Err(NameError::Dollar);
        }
        for token in text.split('.') {
            match token {
                "" => return Err(NameError::EmptyToken),
                "*" | "#" => {}
                _ if token.contains(['*', '#']) => return Err(NameError::Wildcard),
                _ => check_tokens(token)?,
            }
        }
        Ok(Self(text.into()))
    }

    /// The pattern that matches only `name`, which must be a checked name.
    #[must_use]
    pub fn exact(name: &str) -> Self {
        Self(name.into())
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its tokens in order.
    pub fn tokens(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
