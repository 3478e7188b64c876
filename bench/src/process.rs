//! What `/proc` tells of processes.

use std::fs;

/// Sums over some processes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Use {
    /// Seconds of processor time, user and system.
    pub(crate) cpu: f64,
    /// Bytes that were resident, each process at its highest.
    pub(crate) memory: f64,
}

/// `root` and all its descendants.
pub(crate) fn tree(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|id| Some((id, stat(id)?.get(1)?.parse().ok()?)))
        .collect();
    let mut found = vec![root];
    let mut index = 0;
    while let Some(parent) = found.get(index).copied() {
        found.extend(parents.iter().filter(|of| of.1 == parent).map(|of| of.0));
        index += 1;
    }
    found
}

pub(crate) fn used(ids: &[u32]) -> Use {
    let mut sum = Use::default();
    for id in ids {
        sum.cpu += cpu(*id).unwrap_or_default();
        let kibibytes = number(&format!("/proc/{id}/status"), "VmHWM:").unwrap_or_default();
        sum.memory += kibibytes * 1024.0;
    }
    sum
}

/// The fields after the name, which may contain anything: the first is the state.
fn stat(id: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

#[allow(clippy::cast_precision_loss, reason = "ticks are few")]
fn cpu(id: u32) -> Option<f64> {
    let stat = stat(id)?;
    let ticks: u64 = stat.get(11)?.parse::<u64>().ok()? + stat.get(12)?.parse::<u64>().ok()?;
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn number(file: &str, name: &str) -> Option<f64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}
