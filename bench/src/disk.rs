//! What the disk takes: writes of 256 KiB, each followed by fdatasync.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::Path,
    time::{Duration, Instant},
};

const WRITE_BYTES: usize = 256 * 1024;
/// The file is this large before the second measurement, which writes over it again and again.
const FILE_BYTES: u64 = 256 * 1024 * 1024;

/// What `/proc/diskstats` counts in, whatever the device has.
const SECTOR_BYTES: f64 = 512.0;

/// Bytes a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Disk {
    /// Into a file that grows: its size has to be made durable, too.
    pub(crate) growing: f64,
    /// Over what was written before: a log that uses its segments again has this.
    pub(crate) in_place: f64,
}

impl Disk {
    /// The limit is the better of the two.
    pub(crate) fn limit(self) -> f64 {
        self.growing.max(self.in_place)
    }
}

pub(crate) fn measure(folder: &Path, time: Duration) -> anyhow::Result<Disk> {
    fs::create_dir_all(folder)?;
    let path = folder.join("limit");
    let file = File::create(&path)?;
    let growing = write(&file, time / 2, u64::MAX)?;
    while file.metadata()?.len() < FILE_BYTES {
        let end = file.metadata()?.len();
        file.write_all_at(&block(), end)?;
    }
    file.sync_all()?;
    let in_place = write(&file, time / 2, FILE_BYTES)?;
    drop(file);
    fs::remove_file(path)?;
    Ok(Disk { growing, in_place })
}

/// Bytes that the device under `folder` has written since it is there, everything that waits in memory
/// included; `None` where the kernel keeps no such count, as for a file system without a device of its own.
///
/// Not `write_bytes` of `/proc/PID/io`: that counts a page whenever it is touched, and as many as
/// the kernel manages together, so that writing over one file again and again looks like twice the work.
pub(crate) fn device_written(folder: &Path) -> Option<f64> {
    rustix::fs::sync();
    let device = fs::metadata(folder).ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let counts = fs::read_to_string("/proc/diskstats").ok()?;
    counts.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let here: (u32, u32) = (fields.first()?.parse().ok()?, fields.get(1)?.parse().ok()?);
        let sectors: f64 = fields.get(9)?.parse().ok()?;
        (here == (major, minor)).then_some(sectors * SECTOR_BYTES)
    })
}

/// Data that no disk can make smaller than it is.
fn block() -> Vec<u8> {
    let payloads = crate::payload::Payloads::new(WRITE_BYTES);
    payloads.make(&[crate::payload::Header {
        nanos: 0,
        run: 0,
        producer: 0,
        sequence: 0,
    }])[0]
        .to_vec()
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
fn write(file: &File, time: Duration, wrap: u64) -> anyhow::Result<f64> {
    let (block, started) = (block(), Instant::now());
    let mut written = 0_u64;
    while started.elapsed() < time {
        file.write_all_at(&block, written % wrap)?;
        file.sync_data()?;
        written += WRITE_BYTES as u64;
    }
    Ok(written as f64 / started.elapsed().as_secs_f64())
}
