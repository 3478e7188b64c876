//! What a client is told of a refusal: a code, one sentence, and a word that never changes.
//!
//! The words in use, by code. A retired one is noted here and not used again.
//!
//! | Code | Words |
//! |---|---|
//! | INVALID_ARGUMENT | `INVALID_FIELD`, `REQUEST_TOO_LARGE`, `MALFORMED_REQUEST` |
//! | NOT_FOUND | `QUEUE_NOT_FOUND`, `QUEUE_DELETED` |
//! | ALREADY_EXISTS | `QUEUE_EXISTS`, `NAME_TAKEN` |
//! | FAILED_PRECONDITION | `UNROUTABLE`, `DEAD_LETTER_QUEUE`, `NOT_DEAD_LETTER_QUEUE`, `QUEUE_NOT_EMPTY` |
//! | RESOURCE_EXHAUSTED | `TOO_MANY_QUEUES`, `TOO_MANY_CONSUMERS`, `TOO_MUCH_ARRIVING`, `TOO_MANY_CALLS`, `TOO_MANY_WATCHES`, `DISK_LOW` |
//! | DEADLINE_EXCEEDED | `NOT_OPENED`, `ARRIVES_TOO_SLOWLY`, `TAKES_TOO_LONG` |
//! | UNAVAILABLE | `SHUTTING_DOWN`, `STORE_FAILED` |
//! | INTERNAL | `INTERNAL` |

use std::{collections::HashMap, time::Duration};

use courser_core::error::Unavailable;
use courser_engine::{
    Failure,
    request::{Ended, PublishError, QueueError},
};
use courser_proto::v1;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{
    convert::{InvalidField, beginning},
    limits,
};

const DOMAIN: &str = "courser";
const STORE_FAILED: &str = "STORE_FAILED";
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

/// The same when the store has failed, and it is known how.
pub(crate) fn publish_error_after(how: Option<&str>, error: &PublishError) -> v1::PublishError {
    let mut told = publish_error_to_proto(error);
    if let (Some(how), PublishError::Unavailable(Unavailable::StoreFailed)) = (how, error) {
        told.message = cut(&store_failed(how));
    }
    told
}

fn publish_code(error: &PublishError) -> (Code, &'static str) {
    match error {
        PublishError::Unroutable { .. } => (Code::FailedPrecondition, "UNROUTABLE"),
        PublishError::DiskLow { .. } => (Code::ResourceExhausted, "DISK_LOW"),
        PublishError::Invalid { .. } => (Code::InvalidArgument, "INVALID_FIELD"),
        PublishError::Unavailable(why) => (Code::Unavailable, unavailable_word(*why)),
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
        QueueError::Unavailable(why) => (Code::Unavailable, unavailable_word(*why)),
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
            STORE_FAILED,
            "the store has failed, nothing can be settled until the broker is restarted",
        ),
    }
}

/// A refusal for the failure of the store, with how it failed; any other as it is.
pub(crate) fn with_failure(status: Status, failure: &Failure) -> Status {
    match failure.get() {
        Some(how)
            if status.code() == Code::Unavailable
                && status
                    .get_details_error_info()
                    .is_some_and(|info| info.reason == STORE_FAILED) =>
        {
            refusal(Code::Unavailable, STORE_FAILED, &store_failed(how))
        }
        _ => status,
    }
}

fn store_failed(how: &str) -> String {
    format!(
        "the store failed: {how}; nothing is written until that is mended and the broker is restarted"
    )
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

/// A refusal of the library below us, when `status` is one: those have no details. Elsewhere these two
/// codes mean a range that was missed and a harm of ours; here it is the request that is wrong, and
/// sending it again does not help.
pub(crate) fn in_our_words(status: Status, request_bytes_max: usize) -> Status {
    match status.code() {
        Code::OutOfRange if status.details().is_empty() => {
            let sentence = format!("the request must have at most {request_bytes_max} bytes");
            refusal(Code::InvalidArgument, "REQUEST_TOO_LARGE", &sentence)
        }
        Code::Internal if status.details().is_empty() => {
            let why = status.message().trim_end_matches('.');
            let sentence = format!("the request cannot be read: {why}");
            refusal(Code::InvalidArgument, "MALFORMED_REQUEST", &sentence)
        }
        _ => status,
    }
}

/// A call that takes one message was given none.
pub(crate) fn no_message() -> Status {
    Status::internal("it has no message")
}

/// A call that takes one message was given more.
pub(crate) fn more_than_one() -> Status {
    let sentence = "the request cannot be read: a second message follows, and this call takes one";
    refusal(Code::InvalidArgument, "MALFORMED_REQUEST", sentence)
}

pub(crate) fn arrives_too_slowly() -> Status {
    let sentence = format!(
        "the request did not arrive whole within {:?}",
        limits::ARRIVAL_TIME_MAX
    );
    refusal(Code::DeadlineExceeded, "ARRIVES_TOO_SLOWLY", &sentence)
}

/// What was under way is given up, and may have been done all the same.
pub(crate) fn takes_too_long(time: Duration) -> Status {
    let sentence = format!("the call was not answered within {time:?}");
    refusal(Code::DeadlineExceeded, "TAKES_TOO_LONG", &sentence)
}

pub(crate) fn too_much_arriving(max: usize) -> Status {
    let sentence =
        format!("requests that have not arrived whole hold {max} bytes already, no more are taken");
    refusal(Code::ResourceExhausted, "TOO_MUCH_ARRIVING", &sentence)
}

pub(crate) fn too_many_calls() -> Status {
    let (max, free) = (limits::CALLS_MAX, limits::CALLS_FREE);
    let sentence = format!(
        "{max} calls are under way already, streams among them: no more are taken on a connection that has {free}"
    );
    refusal(Code::ResourceExhausted, "TOO_MANY_CALLS", &sentence)
}

pub(crate) fn too_many_watches() -> Status {
    let max = limits::WATCHES_MAX;
    let sentence = format!("figures are watched by {max} calls already, no more are taken");
    refusal(Code::ResourceExhausted, "TOO_MANY_WATCHES", &sentence)
}

/// What lies unread of a stream is given up for what others send.
pub(crate) fn unread_in_the_way() -> Status {
    let sentence = format!(
        "what came over this stream lies unread since {:?}, for earlier requests are not confirmed or their confirms not taken, and others need the room",
        limits::ARRIVAL_TIME_MAX
    );
    refusal(Code::ResourceExhausted, "TOO_MUCH_ARRIVING", &sentence)
}

/// A call of health or reflection brings more at once than it may say.
pub(crate) fn too_much_at_once() -> Status {
    let max = limits::SMALL_FRAME_BYTES_MAX;
    let sentence = format!("requests of this call must have at most {max} bytes that come at once");
    refusal(Code::InvalidArgument, "REQUEST_TOO_LARGE", &sentence)
}

/// A handler of ours came to harm. The harm itself is told to the operator only.
pub(crate) fn internal() -> Status {
    refusal(
        Code::Internal,
        "INTERNAL",
        "the broker made a mistake, its log says more",
    )
}

fn unavailable_word(why: Unavailable) -> &'static str {
    match why {
        Unavailable::ShuttingDown => "SHUTTING_DOWN",
        Unavailable::StoreFailed => STORE_FAILED,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(status: &Status, code: Code, reason: &str, sentence: &str) {
        assert_eq!((status.code(), status.message()), (code, sentence));
        let details = status.get_error_details();
        let info = details.error_info().expect("every refusal has one");
        assert_eq!(
            (info.reason.as_str(), info.domain.as_str()),
            (reason, "courser")
        );
        let retry = details.retry_info().is_some();
        assert_eq!(retry, code == Code::ResourceExhausted);
    }

    #[test]
    fn an_invalid_field_is_named_in_the_sentence_and_in_the_details() {
        let status = Status::from(InvalidField::new("open.queue", "must not be empty"));
        let sentence = "open.queue must not be empty";
        check(&status, Code::InvalidArgument, "INVALID_FIELD", sentence);
        let details = status.get_error_details();
        let violations = &details.bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, "open.queue");
    }

    #[test]
    fn refusals_of_the_library_below_are_put_into_our_words() {
        let found = Status::out_of_range("Error, decoded message length too large");
        let status = in_our_words(found, 100);
        let sentence = "the request must have at most 100 bytes";
        check(
            &status,
            Code::InvalidArgument,
            "REQUEST_TOO_LARGE",
            sentence,
        );
        let found = Status::internal("Unexpected EOF decoding stream.");
        let status = in_our_words(found, 100);
        let sentence = "the request cannot be read: Unexpected EOF decoding stream";
        check(
            &status,
            Code::InvalidArgument,
            "MALFORMED_REQUEST",
            sentence,
        );
        let status = in_our_words(internal(), 100);
        assert_eq!(status.code(), Code::Internal, "ours stay as they are");
    }

    #[test]
    fn refusals_of_queues_have_codes_and_words() {
        let name = || "orders".to_owned();
        let status = queue_error_to_status(QueueError::NotFound { name: name() });
        check(
            &status,
            Code::NotFound,
            "QUEUE_NOT_FOUND",
            "there is no queue \"orders\"",
        );
        let status = queue_error_to_status(QueueError::TooManyQueues { max: 7 });
        let sentence = "there are 7 queues already, no more are allowed";
        check(
            &status,
            Code::ResourceExhausted,
            "TOO_MANY_QUEUES",
            sentence,
        );
        let status = queue_error_to_status(QueueError::NotDeadLetterQueue { name: name() });
        let sentence = "\"orders\" is not a dead-letter queue";
        check(
            &status,
            Code::FailedPrecondition,
            "NOT_DEAD_LETTER_QUEUE",
            sentence,
        );
        let options = courser_core::options::QueueOptions {
            max_attempts: 1_001,
            ..Default::default()
        };
        let status = queue_error_to_status(options.check().unwrap_err().into());
        let sentence = "options.max_attempts must be from 0 to 1000, where 0 is no limit";
        check(&status, Code::InvalidArgument, "INVALID_FIELD", sentence);
    }

    #[test]
    fn the_end_of_a_subscription_says_why() {
        let status = ended_to_status(Ended::QueueDeleted, "q");
        check(
            &status,
            Code::NotFound,
            "QUEUE_DELETED",
            "queue \"q\" was deleted",
        );
        let status = ended_to_status(Ended::ShuttingDown, "q");
        check(
            &status,
            Code::Unavailable,
            "SHUTTING_DOWN",
            "the broker is shutting down",
        );
        let status = ended_to_status(Ended::StoreFailed, "q");
        assert_eq!(
            status.get_error_details().error_info().unwrap().reason,
            "STORE_FAILED"
        );
    }

    #[test]
    fn refusals_of_publishes_are_the_same_in_both_forms() {
        let error = PublishError::Unroutable {
            index: 2,
            topic: "t".to_owned(),
        };
        let status = publish_error_to_status(&error);
        let sentence = "messages[2] would reach no queue: none is bound to topic \"t\"";
        check(&status, Code::FailedPrecondition, "UNROUTABLE", sentence);
        let proto = publish_error_to_proto(&error);
        assert_eq!((proto.code, proto.reason.as_str()), (9, "UNROUTABLE"));
        assert_eq!(proto.message, sentence);
        let (free, min_free) = (10, 20);
        let status = publish_error_to_status(&PublishError::DiskLow { free, min_free });
        assert!(status.message().contains("10 bytes left"), "{status}");
        assert_eq!(status.code(), Code::ResourceExhausted);
        let status = publish_error_to_status(&Unavailable::ShuttingDown.into());
        check(&status, Code::Unavailable, "SHUTTING_DOWN", SHUTTING_DOWN);
    }

    #[test]
    fn a_long_sentence_is_cut() {
        let differences = vec!["é".repeat(1_000)];
        let error = QueueError::Exists {
            name: "q".to_owned(),
            differences,
        };
        let status = queue_error_to_status(error);
        assert!(status.message().len() <= limits::REFUSAL_BYTES_MAX);
        assert!(status.message().ends_with("..."));
    }
}
