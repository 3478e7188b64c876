//! What the kernel says of a process.

use std::{fs, time::Duration};

use anyhow::Context as _;

/// Resident memory at one moment, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// `VmRSS`: everything, pages of files included.
    pub all: u64,
    /// `VmHWM`: the most that `all` ever was.
    pub most: u64,
    /// `RssAnon`: what the process took for itself.
    pub own: u64,
}

/// Memory that a process holds. An error when it has ended, also before it is waited for.
pub fn memory(id: u32) -> anyhow::Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{id}/status"))?;
    let field = |name: &str| {
        let mut lines = status.lines();
        let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.strip_suffix("kB"));
        let kib: u64 = kib.with_context(|| format!("no {name}"))?.trim().parse()?;
        anyhow::Ok(kib * 1024)
    };
    Ok(Memory {
        all: field("VmRSS")?,
        most: field("VmHWM")?,
        own: field("RssAnon")?,
    })
}

/// Processor time that a process has used, in steps of 10 ms. An error when it is gone.
pub fn processor_time(id: u32) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
    // The name before it may hold anything, spaces and brackets too.
    let (_, rest) = stat.rsplit_once(')').context("no name")?;
    let mut times = rest.split_whitespace().skip(11);
    let mut ticks = || anyhow::Ok(times.next().context("no time")?.parse::<u64>()?);
    // Of the process, and of the kernel for it. A tick is 10 ms on every Linux that we know.
    Ok(Duration::from_millis((ticks()? + ticks()?) * 10))
}
