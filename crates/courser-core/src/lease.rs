//! A consumer's hold on an entry, and what it can say of it.

use std::time::Duration;

use crate::id::LeaseId;

/// What a consumer says of one lease.
#[derive(Clone, Debug, PartialEq)]
pub struct Settlement {
    /// Which lease.
    pub lease_id: LeaseId,
    /// What of it.
    pub verdict: Verdict,
}

/// Ways to settle. All within their limits.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Done: forget the entry.
    Ack,
    /// Give back without blame.
    Release,
    /// Failed.
    Nack(Box<Nack>),
    /// Give up on it.
    DeadLetter(Box<DeadLetterReason>),
    /// Hold it for this long from now.
    Extend(Duration),
}

/// A failure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nack {
    /// Instead of the queue's backoff.
    pub retry_after: Option<Duration>,
    /// What went wrong.
    pub error: Box<str>,
}

/// Why to give up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterReason {
    /// A short word.
    pub reason: Box<str>,
    /// A sentence.
    pub description: Box<str>,
}
