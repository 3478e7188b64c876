//! Runs text scripts in virtual time: one command a line, and after `->` what it must answer.
//!
//! ```text
//! queue q lease=30s max_attempts=3       options are in commands.rs; no backoff and no jitter unless told
//! subscribe alice                        to the first queue, unless one is named
//! publish q a, b:5000, 1..600            names of messages, with their size in bytes when it matters
//! deliver -> alice: a(1), b(1), 1..98(1) the number is the attempt
//! 30s                                    time jumps from timeout to timeout
//! ack alice a -> error: has ended        part of the sentence; no `->` means that it must go well
//! ```

use std::time::Duration;

use courser_core::time::Timestamp;

use crate::world::World;

/// Runs a script.
#[track_caller]
pub(crate) fn check(script: &str) {
    let mut world = World::default();
    for (number, line) in script.lines().enumerate() {
        let line = line.split("//").next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let (command, expected) = match line.split_once("->") {
            None => (line, None),
            Some((command, expected)) => (command.trim(), Some(expected.trim())),
        };
        let answer = world.run(command, expected.unwrap_or_default());
        assert!(
            fits(&answer, expected),
            "line {number} of the script: {line}\n    answered: {answer}"
        );
    }
}

fn fits(answer: &str, expected: Option<&str>) -> bool {
    match expected {
        None => !answer.starts_with("error:"),
        Some(expected) => match expected.strip_prefix("error:") {
            Some(part) => answer.starts_with("error:") && answer.contains(part.trim()),
            None => answer == expected,
        },
    }
}

/// When scripts begin.
pub(crate) const START: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

/// `30s`, `1500ms`, `7d`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().ok()?;
    let micros = match &text[digits..] {
        "us" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        "m" => 60_000_000,
        "h" => 3_600_000_000,
        "d" => 86_400_000_000,
        _ => return None,
    };
    Some(Duration::from_micros(number * micros))
}

/// A moment as scripts say it.
pub(crate) fn moment(at: Timestamp) -> String {
    span(at.since(START))
}

/// A duration as scripts say it.
pub(crate) fn span(duration: Duration) -> String {
    match u64::try_from(duration.as_micros()).unwrap() {
        micros if micros.is_multiple_of(1_000_000) => format!("{}s", micros / 1_000_000),
        micros if micros.is_multiple_of(1_000) => format!("{}ms", micros / 1_000),
        micros => format!("{micros}us"),
    }
}

/// Names with something said of each, where runs of numbers of which the same is said are drawn together.
pub(crate) fn list(items: &[(String, String)]) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut at = 0;
    while at < items.len() {
        let (name, said) = &items[at];
        let mut end = at + 1;
        if let Ok(first) = name.parse::<usize>() {
            while items.get(end) == Some(&((first + end - at).to_string(), said.clone())) {
                end += 1;
            }
        }
        let last = &items[end - 1].0;
        let run = if end - at > 1 {
            format!("{name}..{last}")
        } else {
            name.clone()
        };
        parts.push(run + said);
        at = end;
    }
    if parts.is_empty() {
        "nothing".to_owned()
    } else {
        parts.join(", ")
    }
}
