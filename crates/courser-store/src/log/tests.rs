//! What a power cut, a rotten block or a recycled file does to the log.

use std::{fs, io, path::PathBuf};

use courser_core::{
    id::{Position, QueueId, Seq},
    record::{Group, Record},
};
use tempfile::TempDir;

use super::{Live, Log, replay::Replayed, segment};
use crate::{
    StoreError,
    conformance::fixture::{entry, group, message},
};

const SEGMENT_BYTES: u64 = 64 * 1024;

struct Opened {
    log: Log,
    records: Vec<Record>,
    replayed: Replayed,
}

fn try_open(folder: &TempDir) -> Result<Opened, StoreError> {
    let log = Log::open(folder.path(), SEGMENT_BYTES)?;
    let mut records = Vec::new();
    let replayed = log.replay(0, 1, 1, &mut |group| {
        records.extend(group);
        Ok(())
    })?;
    Ok(Opened {
        log,
        records,
        replayed,
    })
}

fn open(folder: &TempDir) -> Opened {
    try_open(folder).unwrap()
}

/// Two messages of 30 bytes, and the record of each.
fn small(position: u64) -> Group {
    let positions = [position, position + 1];
    Group {
        messages: positions.map(|position| message(position, 30)).to_vec(),
        records: positions
            .map(|n| Record::Enqueued(QueueId(1), entry(n, n)))
            .to_vec(),
        next_position: Position(position + 2),
    }
}

fn first_file(folder: &TempDir) -> PathBuf {
    folder.path().join(segment::name(1))
}

/// Three synced frames: the bytes of their file, and where each frame ends.
fn three_frames() -> (Vec<u8>, [usize; 4]) {
    let folder = tempfile::tempdir().unwrap();
    let Opened { log, .. } = open(&folder);
    let mut ends = [segment::HEADER as usize; 4];
    for n in 0..3 {
        log.commit(&small(1 + 2 * n), true).unwrap();
        ends[n as usize + 1] = fs::metadata(first_file(&folder)).unwrap().len() as usize;
    }
    (fs::read(first_file(&folder)).unwrap(), ends)
}

fn folder_with(bytes: &[u8]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(first_file(&folder), bytes).unwrap();
    folder
}

/// Opens, expects these many frames, appends one more, and expects that one behind them.
#[track_caller]
fn check_goes_on_after(bytes: &[u8], frames: u64) -> Replayed {
    let folder = folder_with(bytes);
    let Opened {
        log,
        records,
        replayed,
    } = open(&folder);
    assert_eq!(records.len() as u64, 2 * frames);
    assert_eq!(
        replayed.next_position,
        if frames == 0 { 1 } else { 1 + 2 * frames }
    );
    assert_eq!(log.commit(&small(101), true).unwrap(), frames + 1);
    drop(log);
    let Opened {
        log,
        records,
        replayed: again,
    } = open(&folder);
    assert_eq!(records.len() as u64, 2 * frames + 2);
    assert_eq!(again.torn_bytes, 0, "it was cut for good");
    let loaded = log.load(&[Position(1), Position(102)]).unwrap();
    assert_eq!(loaded[1], Some(message(102, 30)));
    assert_eq!(loaded[0].is_some(), frames > 0);
    replayed
}

#[test]
fn a_tail_is_cut_wherever_it_tears() {
    let (bytes, ends) = three_frames();
    for cut in ends[2]..ends[3] {
        check_goes_on_after(&bytes[..cut], 2);
        let mut zeroed = bytes.clone();
        zeroed[cut..].fill(0);
        zeroed.resize(SEGMENT_BYTES as usize, 0);
        let in_padding = zeroed[..bytes.len()] == bytes;
        let replayed = check_goes_on_after(&zeroed, if in_padding { 3 } else { 2 });
        assert!(
            in_padding || cut < ends[2] + 16 || replayed.torn_bytes > 0,
            "cut at {cut}"
        );
    }
    check_goes_on_after(&bytes, 3);
}

#[test]
fn a_flipped_byte_in_the_last_frame_cuts_it() {
    let (bytes, ends) = three_frames();
    for at in ends[2]..ends[3] {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x55;
        let folder = folder_with(&flipped);
        let frames = open(&folder).records.len() / 2;
        let may_be_padding = at >= ends[3] - 15 && bytes[at] == 0;
        assert!(
            frames == 2 || (frames == 3 && may_be_padding),
            "{frames} frames, byte {at}"
        );
    }
}

#[test]
fn a_flipped_byte_in_a_durable_frame_is_damage() {
    let (bytes, ends) = three_frames();
    for at in ends[0]..ends[1] - 15 {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x55;
        let error = try_open(&folder_with(&flipped)).map(|_| ()).unwrap_err();
        assert!(
            matches!(error, StoreError::Damaged { .. }),
            "byte {at}: {error}"
        );
        assert!(
            error.to_string().contains("restore it from a backup"),
            "{error}"
        );
    }
}

#[test]
fn a_flipped_byte_in_the_header_of_a_segment_is_damage() {
    let (bytes, _) = three_frames();
    for at in 0..segment::HEADER as usize {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x55;
        let error = try_open(&folder_with(&flipped)).map(|_| ()).unwrap_err();
        assert!(
            matches!(error, StoreError::Damaged { .. }),
            "byte {at}: {error}"
        );
    }
}

#[test]
fn frames_that_were_not_synced_are_cut_together() {
    let folder = tempfile::tempdir().unwrap();
    let Opened { log, .. } = open(&folder);
    log.commit(&small(1), true).unwrap();
    let end = fs::metadata(first_file(&folder)).unwrap().len() as usize;
    for n in 1..4 {
        log.commit(&small(1 + 2 * n), false).unwrap();
    }
    drop(log);
    let mut bytes = fs::read(first_file(&folder)).unwrap();
    bytes[end + 100] ^= 1;
    // Of three frames the first is broken; the one that takes its place has its length.
    let torn = bytes.len() - end;
    assert_eq!(check_goes_on_after(&bytes, 1).torn_bytes, torn as u64);
}

#[test]
fn a_recycled_file_shows_nothing_of_its_earlier_life() {
    let folder = tempfile::tempdir().unwrap();
    let Opened { log, .. } = open(&folder);
    for n in 0..100 {
        log.commit(&small(1 + 2 * n), true).unwrap();
    }
    log.prepare_spare().unwrap();
    // Fills the prepared file, and ends up in the next one.
    for n in 100..400 {
        log.commit(&small(1 + 2 * n), true).unwrap();
    }
    let segments = log.segments();
    assert_eq!(segments.len(), 3);
    log.drop_segment(&segments[1]).unwrap();
    assert_eq!(log.spares.lock().count(), 1, "a whole file is kept");
    let last = log.commit(&small(801), true).unwrap();
    let recycled = log.segments().pop().unwrap();
    assert_eq!(
        (recycled.header.frame, recycled.length()),
        (last, SEGMENT_BYTES)
    );
    assert_eq!(log.load(&[Position(300)]).unwrap(), [None]);
    drop(log);
    let log = Log::open(folder.path(), SEGMENT_BYTES).unwrap();
    let mut records = Vec::new();
    let replayed = log.replay(last - 1, 1, 1, &mut |group| {
        records.extend(group);
        Ok(())
    });
    assert_eq!(
        replayed.unwrap(),
        Replayed {
            next_position: 803,
            torn_bytes: 0,
            last_frame: last,
            epoch: 2
        }
    );
    assert_eq!(records, small(801).records);
}

#[test]
fn a_reader_of_a_recycled_file_finds_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let Opened { log, .. } = open(&folder);
    log.commit(&group(1..40), true).unwrap();
    log.commit(&group(40..80), true).unwrap();
    let old = log.segments().remove(0);
    log.drop_segment(&old).unwrap();
    fs::write(&old.path, vec![7; SEGMENT_BYTES as usize]).unwrap();
    log.segments.write().insert(0, old);
    assert_eq!(log.load(&[Position(5)]).unwrap().len(), 1);
}

#[test]
fn a_missing_segment_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    let Opened { log, .. } = open(&folder);
    for n in 0..5 {
        log.commit(&group(1 + 50 * n..51 + 50 * n), true).unwrap();
    }
    let segments = log.segments();
    assert!(segments.len() >= 4);
    drop(log);
    fs::remove_file(&segments[1].path).unwrap();
    assert!(matches!(try_open(&folder), Err(StoreError::Damaged { .. })));
    for segment in segments {
        let _ = fs::remove_file(&segment.path);
    }
    let log = Log::open(folder.path(), SEGMENT_BYTES).unwrap();
    let replayed = log.replay(5, 1, 1, &mut |_| Ok(()));
    assert!(matches!(replayed, Err(StoreError::Damaged { .. })));
}

#[test]
fn a_finished_segment_without_its_seal_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    let Opened { log, .. } = open(&folder);
    for n in 0..5 {
        log.commit(&group(1 + 50 * n..51 + 50 * n), true).unwrap();
    }
    let first = log.segments().remove(0);
    drop(log);
    let length = fs::metadata(&first.path).unwrap().len();
    fs::File::options()
        .write(true)
        .open(&first.path)
        .unwrap()
        .set_len(length - 1)
        .unwrap();
    assert!(matches!(try_open(&folder), Err(StoreError::Damaged { .. })));
}

#[test]
fn a_rotten_message_is_never_served() {
    let folder = tempfile::tempdir().unwrap();
    let Opened { log, .. } = open(&folder);
    log.commit(&group(1..31), true).unwrap();
    let path = first_file(&folder);
    let mut bytes = fs::read(&path).unwrap();
    let payload = message(7, 1_000).payload.clone();
    let at = bytes
        .windows(64)
        .position(|window| window == &payload[..64])
        .unwrap();
    bytes[at + 50] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = log.load(&[Position(7)]).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("message 7"), "{error}");
    assert_eq!(log.load(&[Position(8)]).unwrap(), [Some(message(8, 1_000))]);
}

#[test]
fn a_rotten_length_is_damage_and_not_memory() {
    let folder = tempfile::tempdir().unwrap();
    let Opened { log, .. } = open(&folder);
    for n in 0..5 {
        log.commit(&group(1 + 50 * n..51 + 50 * n), true).unwrap();
    }
    drop(log);
    let path = first_file(&folder);
    let mut bytes = fs::read(&path).unwrap();
    // Of the first frame the lengths of all of it, and of its meta part.
    bytes[64 + 64..64 + 68].copy_from_slice(&0x6000_0000_u32.to_le_bytes());
    bytes[64 + 68..64 + 72].copy_from_slice(&0x5000_0000_u32.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let log = Log::open(folder.path(), SEGMENT_BYTES).unwrap();
    log.replay(4, 1, 1, &mut |_| Ok(())).unwrap();
    let used = log.usage();
    let error = log.load(&[Position(7)]).unwrap_err();
    assert!(
        matches!(error, StoreError::Damaged { offset: 64, .. }),
        "{error}"
    );
    assert_eq!(log.usage(), used);
}

/// A group of large messages, of these sizes.
fn large(first: u64, sizes: &[usize]) -> Group {
    let numbered = (first..).zip(sizes);
    let messages: Vec<_> = numbered
        .map(|(position, size)| message(position, *size))
        .collect();
    Group {
        next_position: Position(first + messages.len() as u64),
        messages,
        records: Vec::new(),
    }
}

#[test]
fn large_messages_are_read_wherever_they_lie_and_after_a_rewrite() {
    let folder = tempfile::tempdir().unwrap();
    let Opened { log, .. } = open(&folder);
    let sizes = [300_000, 262_144, 4_096 * 70, 300_001, 1_000_000];
    let groups = [large(1, &sizes), large(6, &sizes[..2])];
    for group in &groups {
        log.commit(group, true).unwrap();
    }
    let all: Vec<_> = groups.iter().flat_map(|group| &group.messages).collect();
    let check = |positions: &[u64]| {
        for &position in positions {
            let loaded = log.load(&[Position(position)]).unwrap();
            assert_eq!(loaded[0].as_ref(), Some(all[position as usize - 1]));
        }
    };
    check(&[1, 2, 3, 4, 5, 6, 7, 1]);
    let first = log.segments().remove(0);
    let live = Live {
        positions: vec![Position(2), Position(5)],
        bytes: 1_262_144,
    };
    assert!(log.rewrite(&first, &live).unwrap());
    drop(first);
    // The file that was replaced takes no room any more.
    assert_eq!(removed_and_open(&folder), 0);
    check(&[5, 2, 7, 2]);
}

/// Files of the folder that were removed and are open.
fn removed_and_open(folder: &TempDir) -> usize {
    let open = fs::read_dir("/proc/self/fd").unwrap();
    let open = open.filter_map(|open| fs::read_link(open.unwrap().path()).ok());
    open.filter(|path| path.starts_with(folder.path()))
        .filter(|path| path.to_string_lossy().ends_with(" (deleted)"))
        .count()
}

#[test]
fn neighbours_are_read_together_wherever_they_lie() {
    let folder = tempfile::tempdir().unwrap();
    let Opened { log, .. } = open(&folder);
    let sizes: Vec<_> = (0..400)
        .map(|n| [10, 1_000, 5_000, 70_000][n % 4])
        .collect();
    let groups = [large(1, &sizes), large(401, &sizes[..150])];
    for group in &groups {
        log.commit(group, true).unwrap();
    }
    let all: Vec<_> = groups.iter().flat_map(|group| &group.messages).collect();
    let check = |positions: &[usize]| {
        let wanted: Vec<_> = positions.iter().map(|at| Position(*at as u64)).collect();
        let loaded = log.load(&wanted).unwrap();
        for (position, message) in positions.iter().zip(&loaded) {
            assert_eq!(message.as_ref(), Some(all[position - 1]), "{position}");
        }
    };
    check(&(1..=550).collect::<Vec<_>>());
    check(&(1..=550).step_by(3).collect::<Vec<_>>());
    check(&[399, 400, 401, 402, 8, 4, 550]);

    let mut bytes = fs::read(first_file(&folder)).unwrap();
    bytes[1_000_000] ^= 1;
    fs::write(first_file(&folder), bytes).unwrap();
    let error = log.load(&(1..=400).map(Position).collect::<Vec<_>>());
    assert!(
        matches!(error, Err(StoreError::Damaged { .. })),
        "{error:?}"
    );
    check(&(401..=550).collect::<Vec<_>>());
}

#[test]
fn a_large_rotten_message_is_never_served() {
    let folder = tempfile::tempdir().unwrap();
    let Opened { log, .. } = open(&folder);
    let group = large(1, &[300_000, 300_000]);
    log.commit(&group, true).unwrap();
    let mut bytes = fs::read(first_file(&folder)).unwrap();
    bytes[200_000] ^= 1;
    fs::write(first_file(&folder), bytes).unwrap();
    let error = log.load(&[Position(1)]).unwrap_err();
    assert!(error.to_string().contains("message 1"), "{error}");
    let second = log.load(&[Position(2)]).unwrap();
    assert_eq!(second, [Some(group.messages[1].clone())]);
}

#[test]
fn records_without_messages_find_no_message() {
    let folder = tempfile::tempdir().unwrap();
    let Opened { log, .. } = open(&folder);
    let removed = |seq| Record::Removed {
        queue: QueueId(1),
        seq: Seq(seq),
    };
    let empty = |seq, next| Group {
        messages: Vec::new(),
        records: vec![removed(seq); 3_000],
        next_position: Position(next),
    };
    log.commit(&small(1), false).unwrap();
    for seq in 0..60 {
        log.commit(&empty(seq, 3), false).unwrap();
    }
    log.commit(&small(3), false).unwrap();
    for seq in 0..60 {
        log.commit(&empty(seq, 9), false).unwrap();
    }
    log.commit(&small(9), false).unwrap();
    assert!(log.segments().len() > 3);
    let loaded = log
        .load(&[1, 2, 3, 4, 5, 8, 9, 10, 11].map(Position))
        .unwrap();
    let there: Vec<_> = loaded.iter().map(Option::is_some).collect();
    assert_eq!(
        there,
        [true, true, true, true, false, false, true, true, false]
    );
}

#[test]
fn a_closed_log_goes_on_where_it_ended() {
    let folder = tempfile::tempdir().unwrap();
    for n in 0..5 {
        let Opened { log, records, .. } = open(&folder);
        assert_eq!(records.len() as u64, 2 * n);
        assert_eq!(log.commit(&small(1 + 2 * n), n % 2 == 0).unwrap(), n + 1);
        log.close().unwrap();
        assert_eq!(log.segments().len(), 1, "a seal ends no segment for good");
    }
    let Opened { log, replayed, .. } = open(&folder);
    assert_eq!((replayed.torn_bytes, replayed.epoch), (0, 6));
    assert_eq!(log.load(&[Position(9)]).unwrap(), [Some(message(9, 30))]);
}

#[test]
fn a_flipped_byte_anywhere_in_a_closed_log_is_found() {
    let good = tempfile::tempdir().unwrap();
    let Opened { log, .. } = open(&good);
    for n in 0..3 {
        log.commit(&small(1 + 2 * n), n == 0).unwrap();
    }
    log.close().unwrap();
    let bytes = fs::read(first_file(&good)).unwrap();
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x55;
        if let Ok(Opened { records, .. }) = try_open(&folder_with(&flipped)) {
            assert_eq!(records.len(), 6, "byte {at}");
        }
    }
}

#[test]
fn what_a_power_cut_left_behind_a_seal_never_follows_a_new_frame() {
    let (bytes, ends) = three_frames();
    // The second frame was never written, a seal of the time before still stands in its place, and
    // the third one was.
    let folder = folder_with(&bytes[..ends[1]]);
    let Opened { log, .. } = open(&folder);
    log.close().unwrap();
    let mut sealed = fs::read(first_file(&folder)).unwrap();
    sealed.resize(ends[2], 0);
    sealed.extend_from_slice(&unsynced(&bytes, &ends));
    fs::write(first_file(&folder), &sealed).unwrap();

    let Opened { log, replayed, .. } = open(&folder);
    assert!(replayed.torn_bytes > 0);
    log.commit(&small(3), true).unwrap();
    drop(log);
    assert_eq!(open(&folder).records.len(), 4);
}

/// The third of three frames, as if the second had not been synced before it.
fn unsynced(bytes: &[u8], ends: &[usize; 4]) -> Vec<u8> {
    let mut frame = bytes[ends[2]..ends[3]].to_vec();
    frame[32..40].copy_from_slice(&1_u64.to_le_bytes());
    let meta = u32::from_le_bytes(frame[68..72].try_into().unwrap()) as usize;
    let checksum = crc32c::crc32c(&frame[8..80 + meta]);
    frame[4..8].copy_from_slice(&checksum.to_le_bytes());
    frame
}

#[test]
fn a_header_that_leads_past_a_message_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    let Opened { log, .. } = open(&folder);
    for n in 0..5 {
        log.commit(&group(1 + 50 * n..51 + 50 * n), true).unwrap();
    }
    let first = log.segments().remove(0);
    drop(log);
    // `next` of its frame says that it ends before its messages begin.
    let mut bytes = fs::read(&first.path).unwrap();
    bytes[segment::HEADER as usize + 56] = 0;
    fs::write(&first.path, bytes).unwrap();
    let log = Log::open(folder.path(), SEGMENT_BYTES).unwrap();
    log.replay(2, 1, 1, &mut |_| Ok(())).unwrap();
    let error = log.load(&[Position(7)]).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert_eq!(
        log.load(&[Position(251), Position(9_999)]).unwrap(),
        [None, None]
    );
}

#[test]
fn records_that_a_rewrite_dropped_are_missed() {
    let folder = tempfile::tempdir().unwrap();
    let Opened { log, .. } = open(&folder);
    for n in 0..5 {
        log.commit(&group(1 + 50 * n..51 + 50 * n), true).unwrap();
    }
    let first = log.segments().remove(0);
    let live = Live {
        positions: vec![Position(3)],
        bytes: 1_048,
    };
    assert!(log.rewrite(&first, &live).unwrap());
    assert!(!log.is_whole());
    drop(log);
    // An index that was at frame 1 and fell back to the beginning.
    let error = try_open(&folder).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("lost its records"), "{error}");
}

#[test]
fn a_log_without_a_segment_in_its_middle_is_not_whole() {
    let folder = tempfile::tempdir().unwrap();
    let Opened { log, .. } = open(&folder);
    for n in 0..5 {
        log.commit(&group(1 + 50 * n..51 + 50 * n), true).unwrap();
    }
    assert!(log.is_whole());
    let segments = log.segments();
    assert!(segments.len() > 2);
    log.drop_segment(&segments[1]).unwrap();
    assert!(!log.is_whole());
}

#[test]
fn an_end_in_order_leaves_no_spare_file() {
    let folder = tempfile::tempdir().unwrap();
    let Opened { log, .. } = open(&folder);
    log.commit(&group(1..200), true).unwrap();
    log.prepare_spare().unwrap();
    assert_eq!(log.spares.lock().count(), 1);
    log.close().unwrap();
    let left = fs::read_dir(folder.path()).unwrap();
    let is_spare = |name: std::ffi::OsString| name.to_string_lossy().contains("spare");
    assert!(!left.map(|file| file.unwrap().file_name()).any(is_spare));
}

#[test]
fn a_disk_without_room_has_no_spare_file() {
    let folder = tempfile::tempdir().unwrap();
    let Opened { log, .. } = open(&folder);
    for n in 0..200 {
        log.commit(&small(1 + 2 * n), true).unwrap();
    }
    log.prepare_spare().unwrap();
    assert_eq!(log.spares.lock().count(), 1);
    log.allow_spares(false).unwrap();
    assert_eq!(log.spares.lock().count(), 0);
    log.prepare_spare().unwrap();
    log.finish_early(401, |_| true).unwrap();
    let [first, _] = &log.segments()[..] else {
        panic!("two segments")
    };
    log.drop_segment(first).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    let left = log.usage();
    assert_eq!(left, (segment::HEADER, 1));
    log.allow_spares(true).unwrap();
    for n in 200..300 {
        log.commit(&small(1 + 2 * n), true).unwrap();
    }
    log.prepare_spare().unwrap();
    assert_eq!(log.spares.lock().count(), 1);
}

#[test]
fn a_full_disk_takes_the_spare_files_before_anything_fails() {
    let folder = tempfile::tempdir().unwrap();
    let Opened { log, .. } = open(&folder);
    for n in 0..100 {
        log.commit(&small(1 + 2 * n), true).unwrap();
    }
    log.prepare_spare().unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    let mut tries = 0;
    let mut write = || {
        tries += 1;
        match fs::read_dir(folder.path())?.count() {
            1 => Ok(()),
            _ => Err(io::Error::from(io::ErrorKind::StorageFull)),
        }
    };
    log.with_room(&mut write).unwrap();
    assert_eq!(tries, 2);
    log.prepare_spare().unwrap();
    assert_eq!(log.spares.lock().count(), 0, "the disk is full");
    // What fails otherwise, or when there is nothing to give up, fails.
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
        let mut tries = 0;
        let write = || {
            tries += 1;
            Err::<(), _>(io::Error::from(kind))
        };
        assert_eq!(log.with_room(write).unwrap_err().kind(), kind);
        assert_eq!(tries, 1);
    }
}

#[test]
fn asking_for_what_is_not_there_yet_disturbs_nobody() {
    let folder = tempfile::tempdir().unwrap();
    // In a prepared file zeros stand where the next frame comes.
    let log = Log::open(folder.path(), 16 * 1024 * 1024).unwrap();
    log.replay(0, 1, 1, &mut |_| Ok(())).unwrap();
    for n in 0..100 {
        log.commit(&small(1 + 2 * n), false).unwrap();
    }
    log.prepare_spare().unwrap();
    assert_eq!(log.spares.lock().count(), 1);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for n in 100..30_000 {
                log.commit(&small(1 + 2 * n), false).unwrap();
            }
        });
        while !writer.is_finished() {
            let loaded = log.load(&[Position(1), Position(1_000_000)]).unwrap();
            assert_eq!(loaded, [Some(message(1, 30)), None]);
        }
    });
}
