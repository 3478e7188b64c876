//! What can go wrong, told apart by what the caller can do about it.

use std::error::Error as _;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::wire;

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The address given is none.
    #[error("{url:?} is not an address of a broker: {why}")]
    Address {
        /// What was given.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// No answer came: the broker cannot be reached, or the connection broke. Whether a call that
    /// was on its way took effect is not known.
    #[error("the broker cannot be reached: {0}")]
    Unreachable(String),
    /// The broker answered no, and nothing of the call took effect.
    #[error(transparent)]
    Refused(Box<Refusal>),
    /// The broker answered that it failed: its store did, or it is shutting down. Whether a call that
    /// was on its way took effect is not known.
    #[error(transparent)]
    Failed(Box<Refusal>),
    /// A lease could not be settled.
    #[error(transparent)]
    Settle(Box<SettleError>),
}

/// What the broker said instead of doing it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The gRPC code.
    pub code: Code,
    /// The stable upper-case word of `google.rpc.ErrorInfo`; empty when something else than the
    /// broker answered, for example a proxy.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
}

/// One lease that was not settled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("lease {lease_id} was not settled: {message}")]
pub struct SettleError {
    /// Which lease.
    pub lease_id: u64,
    /// What is the matter with it.
    pub outcome: wire::SettleOutcome,
    /// A sentence for people.
    pub message: String,
}

impl Error {
    /// Whether the broker was not there to answer, rather than answering no.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }

    /// Whether it is certain that nothing of the call took effect. Otherwise it may have, and to
    /// publish again may be to publish twice.
    #[must_use]
    pub fn is_definite(&self) -> bool {
        match self {
            Self::Address { .. } | Self::Refused(_) | Self::Settle(_) => true,
            Self::Unreachable(_) | Self::Failed(_) => false,
        }
    }

    /// The code of what the broker said.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        self.refusal().map(|refusal| refusal.code)
    }

    /// The stable upper-case word of what the broker said.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.refusal().map(|refusal| &*refusal.reason)
    }

    fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) | Self::Failed(refusal) => Some(refusal),
            Self::Address { .. } | Self::Unreachable(_) | Self::Settle(_) => None,
        }
    }

    fn said(refusal: Refusal) -> Self {
        match refusal.code {
            Code::Unavailable
            | Code::Internal
            | Code::Unknown
            | Code::DataLoss
            | Code::Cancelled
            | Code::DeadlineExceeded => Self::Failed(Box::new(refusal)),
            _ => Self::Refused(Box::new(refusal)),
        }
    }

    pub(crate) fn stream_ended() -> Self {
        Self::Unreachable("the broker ended the stream".to_owned())
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        let reason = status
            .get_details_error_info()
            .map_or_else(String::new, |info| info.reason);
        // A status that the broker sent has no source; one that was made on this side, because the
        // connection failed, has.
        let local = status.source().is_some()
            || (reason.is_empty() && matches!(status.code(), Code::Unavailable | Code::Cancelled));
        if local {
            return Self::Unreachable(root_cause(&status));
        }
        Self::said(Refusal {
            code: status.code(),
            reason,
            message: status.message().to_owned(),
        })
    }
}

impl From<wire::PublishError> for Error {
    fn from(error: wire::PublishError) -> Self {
        Self::said(Refusal {
            code: Code::from_i32(error.code),
            reason: error.reason,
            message: error.message,
        })
    }
}

impl From<wire::SettleRefusal> for Error {
    fn from(refusal: wire::SettleRefusal) -> Self {
        let outcome = refusal.outcome();
        let message = if refusal.message.is_empty() {
            match outcome {
                wire::SettleOutcome::Expired => "it has run out".to_owned(),
                wire::SettleOutcome::Unknown => "there is no such lease".to_owned(),
                _ => "it was refused".to_owned(),
            }
        } else {
            refusal.message
        };
        Self::Settle(Box::new(SettleError {
            lease_id: refusal.lease_id,
            outcome,
            message,
        }))
    }
}

/// The innermost sentence says most: "connection refused" rather than "transport error".
fn root_cause(status: &Status) -> String {
    let mut cause = status.source();
    let mut sentence = status.message().to_owned();
    while let Some(error) = cause {
        sentence = error.to_string();
        cause = error.source();
    }
    sentence
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn a_refusal_carries_its_code_its_reason_and_its_sentence() {
        let details = ErrorDetails::with_error_info("QUEUE_NOT_FOUND", "courser", []);
        let error = Error::from(Status::with_error_details(
            Code::NotFound,
            "queue \"a\" does not exist",
            details,
        ));
        assert_eq!(error.code(), Some(Code::NotFound));
        assert_eq!(error.reason(), Some("QUEUE_NOT_FOUND"));
        assert_eq!(error.to_string(), "queue \"a\" does not exist");
        assert!(error.is_definite());
    }

    #[test]
    fn a_broker_that_has_failed_has_refused_nothing() {
        let details = ErrorDetails::with_error_info("SHUTTING_DOWN", "courser", []);
        let said = Status::with_error_details(Code::Unavailable, "shutting down", details);
        let in_a_confirm = wire::PublishError {
            code: Code::Unavailable.into(),
            reason: "STORE_FAILED".to_owned(),
            message: "the store has failed".to_owned(),
        };
        for (error, reason) in [
            (Error::from(said), "SHUTTING_DOWN"),
            (Error::from(in_a_confirm), "STORE_FAILED"),
        ] {
            assert!(matches!(error, Error::Failed(_)), "{error:?}");
            assert!(!error.is_unreachable() && !error.is_definite());
            assert_eq!(error.code(), Some(Code::Unavailable));
            assert_eq!(error.reason(), Some(reason));
        }
    }

    #[test]
    fn unavailable_is_an_answer_only_when_the_broker_says_it() {
        let error = Error::from(Status::unavailable("connection reset"));
        assert!(error.is_unreachable() && !error.is_definite());
    }
}
