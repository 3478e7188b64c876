//! Values of flags, and how figures are shown to people.

use std::time::Duration;

/// Reads `30s`, `1.5s`, `500ms`, `1h 30m`; a plain `0` too.
pub(super) fn duration(value: &str) -> Result<Duration, String> {
    if value == "0" {
        return Ok(Duration::ZERO);
    }
    let expected = || "a duration as 500ms, 30s, 1.5s, 5m or 1h30m is needed".to_owned();
    humantime::parse_duration(value).or_else(|_| fraction(value).ok_or_else(expected))
}

/// `1.5s`, which `humantime` does not read.
fn fraction(value: &str) -> Option<Duration> {
    let unit_at = value.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = value.split_at(unit_at);
    // A whole number that `humantime` refuses is too large, and would be rounded here.
    if !number.contains('.') {
        return None;
    }
    // No sign: `-0` would be a duration too.
    if !number.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()
}

/// Reads `5`; 0 too.
pub(super) fn whole(value: &str) -> Result<u64, String> {
    let number = value.parse();
    number.map_err(|_| "a whole number is needed".to_owned())
}

/// Reads `5`; not 0.
pub(super) fn positive(value: &str) -> Result<u64, String> {
    let number = whole(value).ok().filter(|number| *number > 0);
    number.ok_or_else(|| "a whole number from 1 on is needed".to_owned())
}

/// Reads a factor. On the wire 0 is one that was not given, so it cannot be left to the broker.
pub(super) fn factor(value: &str) -> Result<f64, String> {
    let factor = value.parse().ok();
    factor
        .filter(|factor| (1.0..=10.0).contains(factor))
        .ok_or_else(|| "a number from 1 to 10 is needed".to_owned())
}

/// Reads `key=value`.
pub(super) fn pair(value: &str) -> Result<(String, String), String> {
    match value.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a pair as key=value is needed".to_owned()),
    }
}

/// `1h 5m`: the two largest units, as long as somebody looks at it.
pub(super) fn age(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
    let first = units.iter().position(|(_, unit)| seconds >= *unit);
    let Some(first) = first else {
        return format!("{}ms", duration.as_millis());
    };
    let (name, unit) = units[first];
    let mut text = format!("{}{name}", seconds / unit);
    if let Some((name, smaller)) = units.get(first + 1) {
        let rest = seconds % unit / smaller;
        if rest > 0 {
            text.push_str(&format!(" {rest}{name}"));
        }
    }
    text
}

/// `1,234,567`
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 message`, `1,234 messages`
pub(super) fn count(count: u64, one: &str, many: &str) -> String {
    let noun = if count == 1 { one } else { many };
    format!("{} {noun}", number(count))
}

/// `1.5 MiB`
#[allow(
    clippy::cast_precision_loss,
    reason = "shown with one digit after the point"
)]
pub(super) fn size(bytes: u64) -> String {
    let units = [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{:.1} {name}", bytes as f64 / *unit as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_units_and_fractions() {
        for (text, milliseconds) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("1.5s", 1_500),
            ("0.5m", 30_000),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
            ("0", 0),
            ("0s", 0),
            ("2d", 172_800_000),
        ] {
            assert_eq!(
                duration(text),
                Ok(Duration::from_millis(milliseconds)),
                "{text}"
            );
        }
        for text in [
            "",
            "5",
            "s",
            "1 parsec",
            "-1s",
            "-0s",
            "+1.5s",
            ".s",
            "1e400s",
            "99995999599050050ms",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_factor_is_from_1_to_10() {
        assert_eq!(factor("1"), Ok(1.0));
        assert_eq!(factor("1.5"), Ok(1.5));
        for text in ["0", "0.5", "11", "-2", "NaN", "x"] {
            assert!(factor(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_header_may_have_equals_signs_in_its_value() {
        assert_eq!(pair("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(pair("a").is_err());
        assert!(pair("=a").is_err());
    }

    #[test]
    fn figures_are_readable() {
        assert_eq!(age(Duration::from_millis(250)), "250ms");
        assert_eq!(age(Duration::from_secs(59)), "59s");
        assert_eq!(age(Duration::from_secs(3_900)), "1h 5m");
        assert_eq!(age(Duration::from_secs(7_200)), "2h");
        assert_eq!(age(Duration::from_secs(3 * 86_400)), "3d");
        assert_eq!(number(0), "0");
        assert_eq!(number(999), "999");
        assert_eq!(number(1_234_567), "1,234,567");
        assert_eq!(count(0, "entry", "entries"), "0 entries");
        assert_eq!(count(1, "entry", "entries"), "1 entry");
        assert_eq!(count(1_234, "entry", "entries"), "1,234 entries");
        assert_eq!(size(1_023), "1023 B");
        assert_eq!(size(1_536), "1.5 KiB");
    }
}
