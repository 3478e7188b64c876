//! Whether syncs reach the disk, as the kernel sees it.

use std::process::Command;

use super::OnDisk;
use crate::{
    Store,
    conformance::{
        Harness,
        fixture::{checkpoint, commit, group, recover},
    },
};

/// What the other test watches.
#[test]
fn a_commit_and_a_checkpoint() {
    let mut harness = OnDisk::new();
    let store = harness.open();
    recover(&store);
    let upto = commit(&store, &group(1..101));
    store.checkpoint(&checkpoint(101, 1..101), upto).unwrap();
}

#[test]
#[allow(clippy::print_stderr, reason = "a test that was skipped says so")]
fn log_and_index_are_really_synced() {
    let watched = Command::new("strace")
        .args(["-f", "-y", "-e", "trace=fdatasync,sync_file_range"])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "disk::tests::sync::a_commit_and_a_checkpoint",
            "--test-threads=1",
        ])
        .output();
    let output = match watched {
        Ok(output) if output.status.success() => output,
        other => {
            eprintln!("skipped: strace cannot be run here: {other:?}");
            return;
        }
    };
    let calls = String::from_utf8_lossy(&output.stderr);
    let synced = |name: &str| {
        calls
            .lines()
            .filter(|line| line.contains("fdatasync(") && line.contains(name))
            .count()
    };
    assert!(synced(".seg>") >= 1, "the log is not synced:\n{calls}");
    // The epoch, the chunks, and what the checkpoint says of itself.
    assert!(
        synced("/index/db>") >= 3,
        "the index is not synced:\n{calls}"
    );
    assert!(
        !calls.contains("sync_file_range("),
        "sled's own sync was called:\n{calls}"
    );
}
