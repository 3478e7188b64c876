//! Reads one value of a setting. An error says what was expected, and follows "but".

use std::{net::SocketAddr, path::PathBuf};

use crate::{config::LogFormat, logging};

pub(super) fn path(value: &str) -> Result<PathBuf, String> {
    if value.is_empty() {
        return Err("a folder is needed".to_owned());
    }
    Ok(PathBuf::from(value))
}

pub(super) fn address(value: &str) -> Result<SocketAddr, String> {
    value
        .parse()
        .map_err(|_| "an address and a port are needed, as 127.0.0.1:7420 or [::]:7420".to_owned())
}

pub(super) fn address_or_off(value: &str) -> Result<Option<SocketAddr>, String> {
    if value == "off" {
        return Ok(None);
    }
    let address = address(value).map_err(|why| format!("{why}, or off"))?;
    Ok(Some(address))
}

pub(super) fn log_filter(value: &str) -> Result<String, String> {
    let expected = "a level (error, warn, info, debug, trace, off) or a filter as \
                    info,courser_engine=debug is needed";
    // The parser takes any word for the name of a module, so a misspelt level would silence
    // everything.
    let levels = ["error", "warn", "info", "debug", "trace", "off"];
    let known = value.split(',').all(|part| {
        let level = part.rsplit('=').next().unwrap_or(part).trim();
        levels.contains(&level.to_ascii_lowercase().as_str())
    });
    // The parser also counts characters where it cuts bytes, and panics at a letter beyond ASCII.
    if known && value.is_ascii() && logging::filter(value).is_ok() {
        Ok(value.to_owned())
    } else {
        Err(expected.to_owned())
    }
}

pub(super) fn log_format(value: &str) -> Result<LogFormat, String> {
    match value {
        "human" => Ok(LogFormat::Human),
        "json" => Ok(LogFormat::Json),
        "auto" => Ok(LogFormat::Auto),
        _ => Err("human, json or auto is needed".to_owned()),
    }
}

pub(super) fn count(value: &str, max: usize) -> Result<usize, String> {
    let count = value.parse().ok().filter(|count| *count <= max);
    count.ok_or_else(|| format!("a number from 0 to {max} is needed"))
}

/// Bytes, or `None` for `auto`.
pub(super) fn bytes_or_auto(value: &str) -> Result<Option<u64>, String> {
    if value == "auto" {
        return Ok(None);
    }
    bytes(value, 0, usize::MAX)
        .map(|bytes| Some(bytes as u64))
        .map_err(|why| format!("{why}, or auto"))
}

/// A number of bytes: plain, or with `KiB`, `MiB` or `GiB`.
pub(super) fn bytes(value: &str, min: usize, max: usize) -> Result<usize, String> {
    let units = [
        ("KiB", 1024),
        ("MiB", 1024 * 1024),
        ("GiB", 1024 * 1024 * 1024),
    ];
    let (number, unit) = units
        .iter()
        .find_map(|(name, unit)| Some((value.strip_suffix(name)?.trim_end(), *unit)))
        .unwrap_or((value, 1));
    let bytes = number
        .parse::<usize>()
        .ok()
        .and_then(|number| number.checked_mul(unit));
    bytes
        .filter(|bytes| (min..=max).contains(bytes))
        .ok_or_else(|| {
            let allowed = if max == usize::MAX {
                format!("at least {min}")
            } else {
                format!("from {min} to {max}")
            };
            format!("a number of bytes {allowed} is needed, plain or as 4MiB")
        })
}
