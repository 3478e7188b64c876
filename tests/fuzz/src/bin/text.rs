//! What people type: values of flags, addresses of brokers, the configuration in its file and in the
//! environment. And the time of a call, which their clients write into a header.
#![no_main]

use std::{ffi::OsString, os::unix::ffi::OsStringExt as _, path::Path, time::Duration};

use courser::{
    cli::fuzz as cli,
    config::{Config, Layer, SETTINGS},
};
use courser_fuzz::Input;
use courser_server::fuzz as server;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((kind, bytes)) = data.split_first() else {
        return;
    };
    if kind % 8 == 7 {
        return time(bytes);
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        environment(Input(bytes));
        return;
    };
    match kind % 8 {
        0 => duration(text),
        1 => url(text),
        2 => numbers(text),
        3 => {
            if let Ok((key, value)) = cli::pair(text) {
                assert!(!key.is_empty() && !key.contains('='));
                assert_eq!(format!("{key}={value}"), text);
            }
        }
        4 => shown(Input(bytes).long()),
        5 => environment(Input(bytes)),
        _ => configure(text),
    }
});

fn duration(text: &str) {
    let Ok(duration) = cli::duration(text) else {
        return;
    };
    // The plain number of the text, as far as it has the form of the manual.
    let plain = text.strip_suffix("ms").map(|number| (number, 1_u128));
    let plain = plain.or_else(|| text.strip_suffix('s').map(|number| (number, 1_000)));
    if let Some((number, millis)) = plain
        && let Ok(number) = number.parse::<u64>()
    {
        assert_eq!(
            duration.as_millis(),
            u128::from(number) * millis,
            "{text:?}"
        );
    }
    let seconds = format!("{}s", duration.as_secs());
    assert_eq!(
        cli::duration(&seconds),
        Ok(Duration::from_secs(duration.as_secs())),
        "{text:?}"
    );
    assert!(!text.trim_start().starts_with('-'), "it is never negative");
}

/// The value of `grpc-timeout`: up to eight digits and a unit, and for anything else the most that there is.
fn time(header: &[u8]) {
    const UNITS: [(u8, u128); 6] = [
        (b'H', 3_600_000_000_000),
        (b'M', 60_000_000_000),
        (b'S', 1_000_000_000),
        (b'm', 1_000_000),
        (b'u', 1_000),
        (b'n', 1),
    ];
    const MOST: Duration = Duration::from_secs(300);
    let said = header.split_last().and_then(|(last, digits)| {
        let (_, nanos) = UNITS.into_iter().find(|(unit, _)| unit == last)?;
        let is_number = (1..=8).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
        let digit = |number: u128, digit: &u8| number * 10 + u128::from(digit - b'0');
        is_number.then(|| digits.iter().fold(0, digit) * nanos)
    });
    let read = server::time_given(header);
    assert_eq!(read.map(|time| time.as_nanos()), said, "{header:?}");
    if let Some(time) = server::handler_time(header) {
        assert_eq!(time, read.map_or(MOST, |read| read.min(MOST)), "{header:?}");
    }
}

fn url(text: &str) {
    let Ok(url) = cli::url(text) else {
        return;
    };
    let uri: http::Uri = url
        .parse()
        .unwrap_or_else(|error| panic!("{url:?}: {error}"));
    assert_eq!(uri.scheme_str(), Some("http"));
    assert!(uri.host().is_some_and(|host| !host.is_empty()), "{url:?}");
    if !text.contains("://") {
        assert!(uri.port_u16().is_some(), "{url:?} has a port");
    }
    assert_eq!(cli::url(&url), Ok(url), "it is complete");
}

fn numbers(text: &str) {
    if let Ok(number) = cli::positive(text) {
        assert!(number > 0);
        assert_eq!(cli::positive(&number.to_string()), Ok(number));
    }
    if let Ok(factor) = cli::factor(text) {
        assert!((1.0..=10.0).contains(&factor));
        assert_eq!(cli::factor(&factor.to_string()), Ok(factor));
    }
}

fn shown(number: u64) {
    let [digits, size, age] = cli::shown(number);
    assert_eq!(digits.replace(',', ""), number.to_string());
    assert!(size.ends_with('B') && age.len() < 32);
}

fn configure(text: &str) {
    let layer = Layer::toml(Path::new("courser.toml"), text);
    assert_eq!(layer, Layer::toml(Path::new("courser.toml"), text));
    check(layer);
}

/// Whatever is accepted is within what is documented, and what is refused has a sentence for each fault.
fn check(layer: Layer) {
    match Config::resolve(vec![layer]) {
        Ok(config) => {
            assert!(!config.data_dir.as_os_str().is_empty());
            assert!((1..=64 << 20).contains(&config.max_message_bytes));
            assert!(config.worker_threads <= 1_024);
            assert!(config.recent_bytes >= 1 << 20);
            assert!(config.http != Some(config.listen) || config.listen.port() == 0);
        }
        Err(problems) => {
            assert!(!problems.0.is_empty());
            assert!(problems.0.iter().all(|problem| !problem.is_empty()));
            assert!(
                problems
                    .to_string()
                    .starts_with("the configuration is wrong")
            );
        }
    }
}

/// Variables of any names and values.
fn environment(mut input: Input<'_>) {
    let mut variables = Vec::new();
    while !input.is_empty() && variables.len() < 16 {
        let which = usize::from(input.byte());
        let name = match SETTINGS.get(which) {
            Some(setting) => format!("COURSER_{}", setting.to_ascii_uppercase()).into_bytes(),
            None => {
                let length = which % 32;
                [b"COURSER_", input.take(length)].concat()
            }
        };
        let length = usize::from(input.byte() % 64);
        let value = input.take(length).to_vec();
        variables.push((OsString::from_vec(name), OsString::from_vec(value)));
    }
    check(Layer::environment(variables));
}
