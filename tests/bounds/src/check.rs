//! What was found beside what is allowed.

use std::{fmt::Display, time::Duration};

pub(crate) const MB: u64 = 1_000_000;

/// What came of all scenarios.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    /// Checks of time are printed and do not decide: the machine has other work.
    pub(crate) short: bool,
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

impl Checks {
    /// A size, which decides wherever it is measured.
    pub(crate) fn size(&mut self, what: &str, found: u64, bound: u64) {
        let is_ok = found <= bound;
        self.line(what, megabytes(found), megabytes(bound), Some(is_ok));
    }

    /// A duration, which decides on a machine that does nothing else.
    pub(crate) fn time(&mut self, what: &str, found: Duration, bound: Duration) {
        let is_ok = (!self.short).then_some(found <= bound);
        let [found, bound] = [found, bound].map(milliseconds);
        self.line(what, found, bound, is_ok);
    }

    /// A ratio that must be reached, on a machine that does nothing else.
    pub(crate) fn at_least(&mut self, what: &str, found: f64, bound: f64) {
        let is_ok = (!self.short).then_some(found >= bound);
        self.line(
            what,
            format!("{found:.2}"),
            format!("at least {bound:.2}"),
            is_ok,
        );
    }

    /// Something that holds or does not.
    pub(crate) fn holds(&mut self, what: &str, found: impl Display, is_ok: bool) {
        self.line(what, found, "as is right", Some(is_ok));
    }

    /// A scenario that could not be run to its end.
    pub(crate) fn broke(&mut self, what: &str, error: &anyhow::Error) {
        println!("  {what}: {error:#}  FAILED");
        self.failed += 1;
    }

    fn line(&mut self, what: &str, found: impl Display, bound: impl Display, is_ok: Option<bool>) {
        let verdict = match is_ok {
            Some(true) => {
                self.passed += 1;
                "ok"
            }
            Some(false) => {
                self.failed += 1;
                "MISSED"
            }
            None => "not decided here",
        };
        println!("  {what}: {found} (bound {bound})  {verdict}");
    }
}

/// A figure that nothing is held against.
pub(crate) fn told(what: &str, found: impl Display) {
    println!("  {what}: {found}");
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
pub(crate) fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / MB as f64)
}

pub(crate) fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}
