//! Refusals in the words of the command line: the broker names the field that is wrong, as `max_attempts`,
//! and whoever typed `--max-attempts` looks for that.

use courser_client::Error;

/// Fields of the contract, each with the flag that sets it.
pub(super) type Flags = &'static [(&'static str, &'static str)];

/// What the fields are in, which whoever typed the command did not name.
const AROUND: [&str; 2] = ["options.", "open."];

/// What an error says, with flags in the place of fields where the broker names these.
pub(super) fn worded(error: &(dyn std::error::Error + 'static), flags: Flags) -> String {
    let sentence = error.to_string();
    let reason = error.downcast_ref::<Error>().and_then(Error::reason);
    match reason {
        Some("INVALID_FIELD" | "QUEUE_EXISTS") => with_flags(&sentence, flags),
        _ => sentence,
    }
}

/// Looks at each word outside of quotes. A field of one plain word is told from a word like others by its
/// place: at the beginning, or behind a colon or a semicolon.
fn with_flags(sentence: &str, flags: Flags) -> String {
    let mut text = String::with_capacity(sentence.len());
    let (mut is_quoted, mut begins) = (false, true);
    for word in sentence.split_inclusive(' ') {
        let (field, end) = split_end(word);
        match flag_of(field, flags) {
            Some(flag) if !is_quoted && (begins || field.contains(['.', '_'])) => {
                text.push_str(flag);
                text.push_str(end);
            }
            _ => text.push_str(word),
        }
        is_quoted ^= quotes(word) % 2 == 1;
        begins = word.trim_end().ends_with([':', ';']);
    }
    text
}

/// A word, and the space and the punctuation behind it.
fn split_end(word: &str) -> (&str, &str) {
    let field = word.trim_end_matches([' ', ':', ';', ',', '.']);
    word.split_at(field.len())
}

/// How many quotation marks there are that begin or end a quotation.
fn quotes(word: &str) -> usize {
    let mut escaped = false;
    let marks = word.chars().filter(|c| {
        let counts = *c == '"' && !escaped;
        escaped = *c == '\\' && !escaped;
        counts
    });
    marks.count()
}

/// The flag of a field, whichever of several it is: `messages[0].headers`, `options.bindings[1].pattern`.
fn flag_of(field: &str, flags: Flags) -> Option<&'static str> {
    let inner = field
        .strip_prefix("messages[")
        .and_then(|rest| rest.split_once("]."))
        .map_or(field, |(_, inner)| inner);
    let inner = AROUND
        .iter()
        .find_map(|around| inner.strip_prefix(around))
        .unwrap_or(inner);
    let inner = inner.split('[').next().unwrap_or(inner);
    let found = flags.iter().find(|(name, _)| *name == inner);
    found.map(|(_, flag)| *flag)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: Flags = &[
        ("bindings", "--bind"),
        ("lease", "--lease"),
        ("max_attempts", "--max-attempts"),
        ("backoff.initial", "--backoff"),
        ("backoff.max", "--backoff-max"),
        ("headers", "--header"),
        ("type", "--type"),
    ];

    #[test]
    fn a_field_is_called_as_its_flag() {
        for (said, worded) in [
            (
                "options.max_attempts must be from 0 to 1000, where 0 is no limit",
                "--max-attempts must be from 0 to 1000, where 0 is no limit",
            ),
            (
                "options.backoff.max must be from backoff.initial to 24h",
                "--backoff-max must be from --backoff to 24h",
            ),
            (
                "options.bindings[1].pattern must not be empty",
                "--bind must not be empty",
            ),
            (
                "messages[0].headers: a key must have at most 256 bytes, has 300",
                "--header: a key must have at most 256 bytes, has 300",
            ),
            (
                "messages[7].type must have at most 256 bytes",
                "--type must have at most 256 bytes",
            ),
            (
                "queue \"a\" exists with other options: lease is 30s, not 60s; backoff.initial is 1s, not 2s",
                "queue \"a\" exists with other options: --lease is 30s, not 60s; --backoff is 1s, not 2s",
            ),
        ] {
            assert_eq!(with_flags(said, FLAGS), worded);
        }
    }

    #[test]
    fn what_is_no_field_stays() {
        for said in [
            "name must not be empty",
            "no type of lease is like that",
            "queue \"a: lease max_attempts \\\" lease\" exists with other options",
            "options.unknown must be 1",
        ] {
            assert_eq!(with_flags(said, FLAGS), said);
        }
    }
}
