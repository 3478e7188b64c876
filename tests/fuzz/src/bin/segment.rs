//! A log on the disk whose files were changed: what a replay gives back is a beginning of what was
//! written, or an error, and never something else. Nor does a load.
//!
//! The input is a list of changes to two valid segments of four frames each. Where it mends checksums
//! after its changes, nothing is asked but that nothing panics or takes much memory.
#![no_main]

use std::{fs, path::PathBuf, sync::LazyLock};

use courser_core::{
    id::{Position, QueueId, Seq},
    record::{ChunkEntry, Group, Record},
    time::Timestamp,
};
use courser_fuzz::{Input, takes_at_most, written::message};
use courser_store::fuzz::{self as store, At};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

const FRAMES: u64 = 8;
const LIFE: u64 = 0x0123_4567_89ab_cdef;
const HEADER: usize = 64;
const FRAME_HEADER: usize = 80;
/// Of one file, so that no input is slow.
const FILE_BYTES: usize = 16 * 1024;
/// What a replay and the loads after it read ahead, and what zeroes a tail.
const BUFFERS: usize = 8 * 1024 * 1024;

struct Base {
    folder: TempDir,
    groups: Vec<Group>,
    files: [Vec<u8>; 2],
}

static BASE: LazyLock<Base> = LazyLock::new(|| {
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let groups: Vec<_> = (1..=FRAMES).map(group).collect();
    Base {
        folder: folder.expect("a folder for the log"),
        files: [file(&groups, 1), file(&groups, FRAMES / 2 + 1)],
        groups,
    }
});

/// Messages two by two, and an ack of the first of them in every second group.
fn group(number: u64) -> Group {
    let queue = QueueId(1);
    let positions = [number * 2 - 1, number * 2];
    let mut records: Vec<_> = positions.map(|n| Record::Enqueued(queue, entry(n))).into();
    if number.is_multiple_of(2) {
        let seq = Seq(number);
        records.push(Record::Removed { queue, seq });
    }
    Group {
        messages: positions.map(|n| message(n).into()).into(),
        records,
        next_position: Position(number * 2 + 1),
    }
}

fn entry(n: u64) -> ChunkEntry {
    ChunkEntry {
        seq: Seq(n),
        position: Position(n),
        enqueued_at: Timestamp::from_micros(1_000 * n),
        size: 20,
        failures: 0,
        ready_at: Timestamp::ZERO,
    }
}

/// Four frames from this one on. Every second one was written before the one before it was synced.
fn file(groups: &[Group], first: u64) -> Vec<u8> {
    let at = |number| At {
        life: LIFE + first,
        segment: first,
        number,
        durable: (number - 1) & !1,
    };
    let position = first * 2 - 1;
    let mut bytes = store::segment_header(LIFE + first, first, position, None);
    let last = first + FRAMES / 2 - 1;
    for number in first..=last {
        let group = &groups[number as usize - 1];
        bytes.extend(store::write_frame(group, number * 2 - 1, at(number)));
    }
    bytes.extend(store::write_seal(at(last + 1), last * 2 + 1));
    bytes
}

fuzz_target!(|data: &[u8]| {
    let base = &*BASE;
    let mut input = Input(data);
    let start = input.byte();
    let upto = u64::from(start) % (FRAMES + 1);
    let mut files = base.files.clone();
    if start & 0x80 != 0 {
        // A broker that was killed leaves no seal.
        let end = files[1].len() - FRAME_HEADER;
        files[1].truncate(end);
    }
    let before = files.clone();
    let mended = change(&mut files, &mut input);
    let folder = base.folder.path();
    for entry in fs::read_dir(folder).expect("the folder is ours") {
        fs::remove_file(entry.expect("the folder is ours").path()).expect("the file is ours");
    }
    for (number, bytes) in [1, FRAMES / 2 + 1].into_iter().zip(&files) {
        let path: PathBuf = folder.join(store::segment_name(number));
        fs::write(path, bytes).expect("there is room");
    }
    let positions: Vec<_> = (0..=2 * FRAMES + 1).map(Position).collect();
    let replayed = takes_at_most(BUFFERS, || store::replay(folder, upto, &positions));
    let Ok(replayed) = replayed else {
        assert_ne!(files, before, "an untouched log is read");
        return;
    };
    if mended || has_collision(&files, base) {
        return;
    }
    let expected = base.groups[upto as usize..].iter();
    assert!(replayed.last_frame >= upto && replayed.last_frame <= FRAMES);
    assert_eq!(replayed.groups.len() as u64, replayed.last_frame - upto);
    for (found, written) in replayed.groups.iter().zip(expected) {
        assert_eq!(found, &written.records);
    }
    for (position, loaded) in positions.iter().zip(&replayed.loaded) {
        if let Ok(Some(loaded)) = loaded {
            assert_eq!(**loaded, message(position.0));
        }
        let frame = position.0.div_ceil(2);
        if frame > upto && (1..=replayed.last_frame).contains(&frame) {
            assert!(matches!(loaded, Ok(Some(_))), "{position}: {loaded:?}");
        }
    }
    if let Some((damage, is_found_again)) = &replayed.met {
        assert!(is_found_again, "{damage}");
    }
    if files[1] == before[1] {
        assert_eq!(
            replayed.last_frame, FRAMES,
            "nothing before the last file is cut"
        );
    }
});

/// Changes the files as the input says. Answers whether checksums were mended.
fn change(files: &mut [Vec<u8>; 2], input: &mut Input<'_>) -> bool {
    let mut mended = false;
    let mut changes = 0;
    while !input.is_empty() && changes < 32 {
        changes += 1;
        let what = input.byte();
        let file = &mut files[usize::from(what >> 7)];
        let at = input.short() % (file.len() + 1);
        match what % 7 {
            0 => {
                if let Some(byte) = file.get_mut(at) {
                    *byte ^= input.byte();
                }
            }
            1 => {
                let end = (at + input.short()).min(file.len());
                file[at..end].fill(0);
            }
            2 => file.truncate(at),
            3 => {
                let bytes = file.len() + usize::from(input.byte()) * 16;
                file.resize(bytes.min(FILE_BYTES), 0);
            }
            4 => {
                let to = input.short() % (file.len() + 1);
                let end = (at + input.short()).min(file.len());
                let end = end.min(at + file.len() - to);
                file.copy_within(at..end.max(at), to);
            }
            5 => {
                let length = usize::from(input.byte());
                let bytes = input.take(length);
                let end = (at + bytes.len()).min(file.len());
                file[at..end].copy_from_slice(&bytes[..end - at]);
            }
            _ => mended |= mend(file, at & !15),
        }
    }
    mended
}

/// Makes the checksum of what stands here right, as a frame, or as the header of the file.
fn mend(file: &mut [u8], at: usize) -> bool {
    if at == 0 && file.len() >= HEADER {
        let check = crc32c::crc32c(&file[..60]);
        file[60..64].copy_from_slice(&check.to_le_bytes());
        return true;
    }
    let Some(frame) = file
        .get_mut(at..)
        .filter(|frame| frame.len() >= FRAME_HEADER)
    else {
        return false;
    };
    let end = FRAME_HEADER.saturating_add(number(frame, 68));
    if end > frame.len() {
        return false;
    }
    let check = crc32c::crc32c(&frame[8..end]);
    frame[4..8].copy_from_slice(&check.to_le_bytes());
    true
}

/// Whether a checksum is right although what it covers is not what was written: libFuzzer sees the
/// comparison, and may find the number.
fn has_collision(files: &[Vec<u8>; 2], base: &Base) -> bool {
    files.iter().zip(&base.files).any(|(file, written)| {
        let header = file.len() >= HEADER
            && file[..HEADER] != written[..HEADER]
            && file[60..64] == crc32c::crc32c(&file[..60]).to_le_bytes();
        header
            || (HEADER..file.len()).step_by(16).any(|at| {
                let frame = &file[at..];
                if frame.len() < FRAME_HEADER {
                    return false;
                }
                let end = FRAME_HEADER.saturating_add(number(frame, 68));
                end <= frame.len()
                    && frame[4..8] == crc32c::crc32c(&frame[8..end]).to_le_bytes()
                    && !written.windows(end).any(|window| window == &frame[..end])
            })
    })
}

fn number(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(std::array::from_fn(|n| bytes[at + n])) as usize
}
