//! What the figures were taken on.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

/// The machine, without its name.
pub(crate) fn describe(data: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    fs::create_dir_all(data)?;
    let name = rustix::system::uname();
    let cores = std::thread::available_parallelism()?.to_string();
    let facts = [
        ("kernel", name.release().to_string_lossy().into_owned()),
        ("cores", cores),
        (
            "processor",
            line("/proc/cpuinfo", "model name").unwrap_or_default(),
        ),
        (
            "memory",
            line("/proc/meminfo", "MemTotal").unwrap_or_default(),
        ),
        (
            "system",
            line("/etc/os-release", "PRETTY_NAME").unwrap_or_default(),
        ),
        (
            "file system",
            output(
                "findmnt",
                &["-n", "-o", "FSTYPE", "-T", &data.to_string_lossy()],
            )
            .unwrap_or_default(),
        ),
        (
            "date",
            output("date", &["-u", "+%Y-%m-%d %H:%M UTC"]).unwrap_or_default(),
        ),
    ];
    Ok(named(facts))
}

pub(crate) fn versions(courser: &Path) -> BTreeMap<String, String> {
    let package = |name: &str| {
        output("dpkg-query", &["-W", "-f", "${Version}", name])
            .unwrap_or_else(|| "not installed".to_owned())
    };
    named([
        (
            "Courser",
            [
                output(&courser.to_string_lossy(), &["--version"]),
                output("git", &["rev-parse", "--short", "HEAD"]),
            ]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(", commit "),
        ),
        ("RabbitMQ", package("rabbitmq-server")),
        ("Erlang", package("erlang-base")),
        ("NATS", package("nats-server")),
        ("Redis", package("redis-server")),
    ])
}

fn named<const N: usize>(facts: [(&str, String); N]) -> BTreeMap<String, String> {
    facts
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn line(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    let (_, value) = line.split_once([':', '='])?;
    Some(value.trim().trim_matches('"').to_owned())
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
