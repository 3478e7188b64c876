//! What is printed: tables for people, JSON for programs.

mod json;
mod table;

use std::{
    borrow::Cow,
    io::{self, BufWriter, IsTerminal as _, Stdout, Write as _},
};

use clap::ValueEnum;
use serde_json::Value;

pub(super) use self::{
    json::{Name, to_json, utf8_or_base64},
    table::Table,
};

/// How answers are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Table,
    /// The answer's message, indented.
    Json,
    /// One object a line.
    Ndjson,
}

/// Standard output, whose end (a closed pipe) is an error and no panic.
pub(super) struct Output {
    pub(super) format: Format,
    /// Whether somebody looks at it.
    pub(super) terminal: bool,
    stdout: BufWriter<Stdout>,
}

impl Output {
    pub(super) fn new(format: Format) -> Self {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        Self {
            format,
            terminal,
            stdout: BufWriter::new(stdout),
        }
    }

    pub(super) fn line(&mut self, line: &str) -> io::Result<()> {
        writeln!(self.stdout, "{line}")
    }

    /// Bytes as they are, and a new line.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stdout.write_all(bytes)?;
        self.stdout.write_all(b"\n")
    }

    /// A line that steps back, on a terminal.
    pub(super) fn dimmed(&mut self, line: &str) -> io::Result<()> {
        if self.terminal {
            writeln!(self.stdout, "\x1b[2m{line}\x1b[0m")
        } else {
            writeln!(self.stdout, "{line}")
        }
    }

    pub(super) fn table(&mut self, table: &Table) -> io::Result<()> {
        writeln!(self.stdout, "{table}")
    }

    /// One value: indented, or one line with `ndjson`.
    pub(super) fn json(&mut self, value: &Value) -> io::Result<()> {
        if self.format == Format::Json {
            serde_json::to_writer_pretty(&mut self.stdout, value)?;
        } else {
            serde_json::to_writer(&mut self.stdout, value)?;
        }
        writeln!(self.stdout)
    }

    /// One value in one line, whatever the format: for answers that come one by one.
    pub(super) fn json_line(&mut self, value: &Value) -> io::Result<()> {
        serde_json::to_writer(&mut self.stdout, value)?;
        writeln!(self.stdout)
    }

    /// A message of the contract.
    pub(super) fn message<M: Name>(&mut self, message: &M) -> io::Result<()> {
        self.json(&to_json(message))
    }

    /// A list of the contract: the whole answer `{"field": [...]}`, or one item a line.
    pub(super) fn list<M: Name>(&mut self, field: &str, items: &[M]) -> io::Result<()> {
        let mut values = items.iter().map(to_json);
        if self.format == Format::Ndjson {
            return values.try_for_each(|value| self.json_line(&value));
        }
        let answer =
            serde_json::Map::from_iter([(field.to_owned(), Value::Array(values.collect()))]);
        self.json(&Value::Object(answer))
    }

    /// Everything is out.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.stdout.flush()
    }
}

/// Text of somebody else in a line for people: a control character would be an order to the terminal,
/// so it is spelled out (`\u{1b}`).
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    spelled_out(text, char::is_control)
}

/// The same for text of many lines: new lines and tabs stay.
pub(super) fn printable_lines(text: &str) -> Cow<'_, str> {
    spelled_out(text, |c| c.is_control() && !matches!(c, '\n' | '\t'))
}

fn spelled_out(text: &str, harmful: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&harmful) {
        return Cow::Borrowed(text);
    }
    let mut spelled = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if harmful(c) {
            spelled.extend(c.escape_default());
        } else {
            spelled.push(c);
        }
    }
    Cow::Owned(spelled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_spelled_out() {
        assert!(matches!(printable("grüße, 🦀"), Cow::Borrowed(_)));
        assert_eq!(printable("a\x1b[2Jb\nc"), r"a\u{1b}[2Jb\nc");
        assert_eq!(printable("\u{9b}31m\x7f"), r"\u{9b}31m\u{7f}");
        assert_eq!(printable_lines("a\tb\nc\rd\x07"), "a\tb\nc\\rd\\u{7}");
    }
}
