//! What a process holds in memory, and a folder on the disk.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use courser_process::Memory;
use tokio::{
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval},
};

/// How often memory is looked at.
const EVERY: Duration = Duration::from_millis(100);

/// Looks at the memory of a process until dropped, and keeps the highest.
#[derive(Debug)]
pub(crate) struct Probe {
    pid: u32,
    peak: Arc<Mutex<Memory>>,
    task: JoinHandle<()>,
}

impl Probe {
    pub(crate) fn start(pid: u32) -> Self {
        let peak = Arc::new(Mutex::new(Memory::default()));
        let kept = Arc::clone(&peak);
        let task = tokio::spawn(async move {
            let mut ticks = interval(EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            loop {
                ticks.tick().await;
                let now = memory(pid);
                let mut peak = kept.lock().unwrap_or_else(PoisonError::into_inner);
                peak.all = peak.all.max(now.all);
                peak.most = peak.most.max(now.most);
                peak.own = peak.own.max(now.own);
            }
        });
        Self { pid, peak, task }
    }

    pub(crate) fn now(&self) -> Memory {
        memory(self.pid)
    }

    /// Bytes that it read from the disk so far.
    pub(crate) fn read(&self) -> u64 {
        let io = fs::read_to_string(format!("/proc/{}/io", self.pid)).unwrap_or_default();
        let line = io.lines().find_map(|line| line.strip_prefix("read_bytes:"));
        line.and_then(|bytes| bytes.trim().parse().ok())
            .unwrap_or(0)
    }

    /// The highest since the last time this was asked.
    pub(crate) fn take_peak(&self) -> Memory {
        let mut peak = self.peak.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *peak)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a process holds; nothing once it has ended.
fn memory(pid: u32) -> Memory {
    courser_process::memory(pid).unwrap_or_default()
}

/// What a folder takes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Disk {
    /// Blocks that are its own.
    pub(crate) blocks: u64,
    /// Lengths of its files.
    pub(crate) apparent: u64,
}

/// Files that go while it is looked at count for nothing.
pub(crate) fn disk(folder: &Path) -> Disk {
    let mut disk = Disk::default();
    let Ok(entries) = fs::read_dir(folder) else {
        return disk;
    };
    for entry in entries.flatten() {
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        disk.blocks += metadata.blocks() * 512;
        if metadata.is_dir() {
            let inside = self::disk(&entry.path());
            disk.blocks += inside.blocks;
            disk.apparent += inside.apparent;
        } else {
            disk.apparent += metadata.len();
        }
    }
    disk
}

/// Takes what a folder holds out of the page cache, as after a start of the machine. What a host below keeps
/// stays there.
pub(crate) fn forget(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            forget(&entry.path())?;
        } else {
            let file = File::open(entry.path())?;
            // Only what is on the disk can go.
            file.sync_all()?;
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        }
    }
    Ok(())
}

/// Waits until a folder takes no more than `bound`; answers how long that took, and what it takes then.
pub(crate) async fn wait_below(folder: &Path, bound: u64, longest: Duration) -> (Duration, Disk) {
    let started = Instant::now();
    loop {
        let disk = disk(folder);
        let took = started.elapsed();
        if disk.blocks <= bound || took >= longest {
            return (took, disk);
        }
        tokio::time::sleep(EVERY).await;
    }
}
