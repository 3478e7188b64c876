//! What a client is told of a refusal: a code, one sentence, and a word that never changes.
//!
//! The words in use, by code. A retired one is noted here and not used again.
//!
//! | Code | Words |
//! |---|---|
//! | INVALID_ARGUMENT | `INVALID_FIELD` |
//! | NOT_FOUND | `QUEUE_NOT_FOUND`, `QUEUE_DELETED` |
//! | ALREADY_EXISTS | `QUEUE_EXISTS`, `NAME_TAKEN` |
//! | FAILED_PRECONDITION | `UNROUTABLE`, `DEAD_LETTER_QUEUE`, `NOT_DEAD_LETTER_QUEUE`, `QUEUE_NOT_EMPTY` |
//! | RESOURCE_EXHAUSTED | `TOO_MANY_QUEUES`, `TOO_MANY_CONSUMERS` |
//! | DEADLINE_EXCEEDED | `NOT_OPENED` |
//! | UNAVAILABLE | `SHUTTING_DOWN`, `STORE_FAILED` |
//! | INTERNAL | `INTERNAL` |

use std::collections::HashMap;

use courser_engine::request::{Ended, PublishError, QueueError};
use courser_proto::v1;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{
    convert::{InvalidField, beginning},
    limits,
};

const DOMAIN: &str = "courser";
const SHUTTING_DOWN: &str = "the broker is shutting down";

impl From<InvalidField> for Status {
    fn from(error: InvalidField) -> Self {
        let mut details = details("INVALID_FIELD");
        let sentence = cut(&error.to_string());
        details.add_bad_request_violation(cut(&error.field), cut(&error.problem));
        Self::with_error_details(Code::InvalidArgument, sentence, details)
    }
}

pub(crate) fn publish_error_to_status(error: &PublishError) -> Status {
    let (code, reason) = publish_code(error);
    refusal(code, reason, &error.to_string())
}

pub(crate) fn publish_error_to_proto(error: &PublishError) -> v1::PublishError {
    let (code, reason) = publish_code(error);
    v1::PublishError {
        code: code.into(),
        reason: reason.to_owned(),
        message: cut(&error.to_string()),
    }
}

fn publish_code(error: &PublishError) -> (Code, &'static str) {
    match error {
        PublishError::Unroutable { .. } => (Code::FailedPrecondition, "UNROUTABLE"),
        PublishError::Invalid { .. } => (Code::InvalidArgument, "INVALID_FIELD"),
        PublishError::Unavailable { reason } => (Code::Unavailable, unavailable_word(reason)),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it stands in map_err")]
pub(crate) fn queue_error_to_status(error: QueueError) -> Status {
    let (code, reason) = match &error {
        QueueError::NotFound { .. } => (Code::NotFound, "QUEUE_NOT_FOUND"),
        QueueError::Exists { .. } => (Code::AlreadyExists, "QUEUE_EXISTS"),
        QueueError::NameTaken { .. } => (Code::AlreadyExists, "NAME_TAKEN"),
        QueueError::Option(option) => {
            return InvalidField::new(option.field, &option.allowed).into();
        }
        QueueError::TooManyQueues { .. } => (Code::ResourceExhausted, "TOO_MANY_QUEUES"),
        QueueError::TooManyConsumers { .. } => (Code::ResourceExhausted, "TOO_MANY_CONSUMERS"),
        QueueError::IsDeadLetterQueue { .. } => (Code::FailedPrecondition, "DEAD_LETTER_QUEUE"),
        QueueError::NotDeadLetterQueue { .. } => {
            (Code::FailedPrecondition, "NOT_DEAD_LETTER_QUEUE")
        }
        QueueError::NotEmpty { .. } => (Code::FailedPrecondition, "QUEUE_NOT_EMPTY"),
        QueueError::Unavailable { reason } => (Code::Unavailable, unavailable_word(reason)),
    };
    refusal(code, reason, &error.to_string())
}

/// Why a subscription to `queue` ended from the broker's side.
pub(crate) fn ended_to_status(ended: Ended, queue: &str) -> Status {
    match ended {
        Ended::QueueDeleted => refusal(
            Code::NotFound,
            "QUEUE_DELETED",
            &format!("queue {queue:?} was deleted"),
        ),
        Ended::ShuttingDown => shutting_down(),
        Ended::StoreFailed => refusal(
            Code::Unavailable,
            "STORE_FAILED",
            "the store has failed, nothing can be settled until the broker is restarted",
        ),
    }
}

pub(crate) fn shutting_down() -> Status {
    refusal(Code::Unavailable, "SHUTTING_DOWN", SHUTTING_DOWN)
}

pub(crate) fn not_opened() -> Status {
    let sentence = format!(
        "the first request, `open`, did not come within {:?}",
        limits::OPEN_TIME_MAX
    );
    refusal(Code::DeadlineExceeded, "NOT_OPENED", &sentence)
}

/// A handler of ours came to harm. The harm itself is told to the operator only.
pub(crate) fn internal() -> Status {
    refusal(
        Code::Internal,
        "INTERNAL",
        "the broker made a mistake, its log says more",
    )
}

/// The engine says in a sentence which of the two it is.
fn unavailable_word(sentence: &str) -> &'static str {
    if sentence.contains("shutting down") {
        "SHUTTING_DOWN"
    } else {
        "STORE_FAILED"
    }
}

fn refusal(code: Code, reason: &str, sentence: &str) -> Status {
    let mut details = details(reason);
    if code == Code::ResourceExhausted {
        details.set_retry_info(Some(limits::RETRY_AFTER));
    }
    Status::with_error_details(code, cut(sentence), details)
}

fn details(reason: &str) -> ErrorDetails {
    ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new())
}

/// The text goes into a header, and peers take only so many bytes of these.
fn cut(text: &str) -> String {
    if text.len() <= limits::REFUSAL_BYTES_MAX {
        return text.to_owned();
    }
    format!(
        "{}...",
        beginning(text, limits::REFUSAL_BYTES_MAX - "...".len())
    )
}
