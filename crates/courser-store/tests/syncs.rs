//! Whether syncs reach the disk, as the kernel sees it.
//!
//! A binary of its own: until a child has begun its program it shares the open files of its parent, and with them the
//! locks of every store that is open there. A store that a test beside this one opens again would be found in use.

use std::process::Command;

use courser_store::{
    DiskOptions, DiskStore, Store,
    conformance::fixture::{checkpoint, commit, group, recover},
};

const SMALL: DiskOptions = DiskOptions {
    segment_bytes: 128 * 1024,
    check_bytes: 0,
};

/// What the other test watches.
#[test]
fn a_commit_and_a_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let store = DiskStore::open(folder.path(), SMALL).unwrap();
    recover(&store);
    let upto = commit(&store, &group(1..101));
    store.checkpoint(&checkpoint(101, 1..101), upto).unwrap();
}

/// What another test watches.
#[test]
fn a_start_in_a_folder_of_folders() {
    let folder = tempfile::tempdir().unwrap();
    let store = DiskStore::open(&folder.path().join("outer/middle/inner"), SMALL).unwrap();
    recover(&store);
}

/// Runs a test of this file under strace, and gives back what it said of its syncs; nothing where
/// strace cannot be run.
#[allow(clippy::print_stderr, reason = "a test that was skipped says so")]
fn watch(test: &str) -> Option<String> {
    let watched = Command::new("strace")
        .args(["-f", "-y", "-e", "trace=fsync,fdatasync,sync_file_range"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--test-threads=1"])
        .output();
    match watched {
        Ok(output) if output.status.success() => {
            Some(String::from_utf8_lossy(&output.stderr).into_owned())
        }
        other => {
            eprintln!("skipped: strace cannot be run here: {other:?}");
            None
        }
    }
}

#[test]
fn the_name_of_every_new_folder_is_synced() {
    let Some(calls) = watch("a_start_in_a_folder_of_folders") else {
        return;
    };
    for parent in ["/outer/middle>", "/outer>", "/outer/middle/inner>"] {
        let is_synced = |line: &str| line.contains("fsync(") && line.contains(parent);
        assert!(
            calls.lines().any(is_synced),
            "{parent} is not synced:\n{calls}"
        );
    }
    // The one that was there.
    let is_top =
        |line: &str| line.contains("fsync(") && line.contains(".tmp") && !line.contains("outer");
    assert!(calls.lines().any(is_top), "{calls}");
}

#[test]
fn log_and_index_are_really_synced() {
    let Some(calls) = watch("a_commit_and_a_checkpoint") else {
        return;
    };
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
