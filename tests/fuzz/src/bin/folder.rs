//! What a start finds in a data folder beside what it keeps: its FORMAT, the names of segments, and where
//! damage was met.
#![no_main]

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt as _, path::Path, sync::LazyLock};

use courser_fuzz::takes_at_most;
use courser_store::{
    StoreError,
    fuzz::{read_mark, segment_name, segment_number, take_folder},
};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

const FORMAT: &[u8] = b"courser data folder\nversion 1\n";
/// Whatever lies there: a FORMAT of many gigabytes is refused like any other.
const ROOM: usize = 16 * 1024;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    folder.expect("a folder")
});

fuzz_target!(|data: &[u8]| {
    let Some((kind, bytes)) = data.split_first() else {
        return;
    };
    match kind % 4 {
        0 => {
            let path = Path::new(OsStr::from_bytes(bytes));
            if let Some(frame) = segment_number(path) {
                let name = segment_name(frame);
                assert_eq!(
                    path.file_name(),
                    Some(OsStr::new(&name)),
                    "one name for each"
                );
            }
        }
        1 => format(bytes),
        3 => {
            let text = String::from_utf8_lossy(bytes);
            if let Some((file, offset)) = read_mark(&text) {
                assert!(!file.contains('\n'));
                let again = format!("{file}\n{offset}\n");
                assert_eq!(read_mark(&again), Some((file, offset)));
            }
        }
        // A large one.
        _ => format(&bytes.repeat(1 + ROOM / bytes.len().max(1))),
    }
});

fn format(bytes: &[u8]) {
    let folder = FOLDER.path();
    let path = folder.join("FORMAT");
    fs::write(&path, bytes).expect("there is room");
    let taken = takes_at_most(ROOM, || take_folder(folder));
    match taken {
        Ok(_) => assert_eq!(bytes, FORMAT),
        Err(StoreError::Foreign { why, .. }) => {
            assert_ne!(bytes, FORMAT);
            assert!(why.len() < 1_024, "a sentence, not a book");
        }
        Err(other) => panic!("{other}"),
    }
    assert_eq!(
        fs::read(&path).expect("it is there"),
        bytes,
        "it is left as it is"
    );
}
