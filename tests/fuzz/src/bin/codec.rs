//! The encodings of the log: frames, messages, records, notes and definitions of queues.
//!
//! No bytes may panic a reader or make it take much more memory than they are themselves, and what is
//! read stands for what it was read from.
#![no_main]

use courser_core::{id::Position, record::Group};
use courser_fuzz::{assert_round_trip, assert_same, takes_at_most};
use courser_store::fuzz::{self as store, At, Frame};
use libfuzzer_sys::fuzz_target;

const HEADER: usize = 80;
const MAGIC: &[u8] = b"CFRM";
const AT: At = At {
    life: 7,
    segment: 1,
    number: 1,
    durable: 0,
};

fuzz_target!(|data: &[u8]| {
    let Some((kind, bytes)) = data.split_first() else {
        return;
    };
    let room = bytes.len() * 256 + 64 * 1024;
    match kind % 6 {
        0 => frame(bytes),
        1 => frame(&with_checksums(bytes.to_vec())),
        2 => {
            let position = Position(9);
            let read = |bytes: &[u8]| store::read_message(bytes, position);
            if let Ok(message) = takes_at_most(room, || read(bytes)) {
                assert_round_trip(bytes, &message, store::write_message, read);
            }
        }
        3 => records(bytes, room),
        4 => {
            if let Ok(note) = takes_at_most(room, || store::read_note(bytes)) {
                assert_round_trip(bytes, &note, store::write_note, store::read_note);
            }
        }
        _ => {
            if let Ok(state) = takes_at_most(room, || store::read_queue(bytes)) {
                assert_round_trip(bytes, &state, store::write_queue, store::read_queue);
            }
        }
    }
});

fn records(bytes: &[u8], room: usize) {
    let Some((&count, bytes)) = bytes.split_first() else {
        return;
    };
    let count = usize::from(count);
    let Ok((read, taken)) = takes_at_most(room, || store::read_records(bytes, count)) else {
        return;
    };
    assert_eq!(read.len(), count);
    let again = |bytes: &[u8]| {
        let (records, taken) = store::read_records(bytes, count)?;
        assert_eq!(taken, bytes.len(), "no byte is left of what we wrote");
        Ok(records)
    };
    assert_round_trip(
        &bytes[..taken],
        &read,
        |records| store::write_records(records),
        again,
    );
}

fn frame(bytes: &[u8]) {
    let room = bytes.len() * 256 + 64 * 1024;
    let Ok(Some(frame)) = takes_at_most(room, || store::read_frame(bytes)) else {
        return;
    };
    assert!(frame.total <= bytes.len() && frame.total.is_multiple_of(16));
    let Frame {
        messages, records, ..
    } = &frame;
    let group = Group {
        messages: messages.iter().cloned().map(Into::into).collect(),
        records: records.clone(),
        next_position: Position(frame.next),
    };
    let written = store::write_frame(&group, 0, AT);
    let same = store::read_frame(&written).expect("it was just written");
    let same = same.expect("its checksums are right");
    assert_eq!(same.total, written.len());
    assert_same(&same.messages, messages);
    assert_same(&same.records, records);
    assert_eq!(store::write_frame(&group, 0, AT), written);
}

/// The same as a frame whose checksums are right, as far as it has the form of one.
fn with_checksums(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.len() / 16 * 16);
    if bytes.len() < HEADER {
        return bytes;
    }
    let room = bytes.len() - HEADER;
    bytes[..4].copy_from_slice(MAGIC);
    put(&mut bytes, 64, HEADER + room);
    let meta = number(&bytes, 68).min(room);
    put(&mut bytes, 68, meta);
    let messages = number(&bytes, 72);
    let (mut at, mut body) = (HEADER, HEADER + meta);
    for _ in 0..messages {
        let Some((_, length_at)) = varint(&bytes[..HEADER + meta], at) else {
            break;
        };
        let Some((length, check_at)) = varint(&bytes[..HEADER + meta], length_at) else {
            break;
        };
        let end = usize::try_from(length)
            .ok()
            .and_then(|length| body.checked_add(length));
        let Some(range) = end.filter(|end| *end <= bytes.len()).map(|end| body..end) else {
            break;
        };
        at = check_at + 4;
        if at > HEADER + meta {
            break;
        }
        body = range.end;
        let check = crc32c::crc32c(&bytes[range]) as usize;
        put(&mut bytes, check_at, check);
    }
    let check = crc32c::crc32c(&bytes[8..HEADER + meta]) as usize;
    put(&mut bytes, 4, check);
    bytes
}

fn number(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(std::array::from_fn(|n| bytes[at + n])) as usize
}

fn put(bytes: &mut [u8], at: usize, number: usize) {
    bytes[at..at + 4].copy_from_slice(&(number as u32).to_le_bytes());
}

/// A varint, and where the next thing is.
fn varint(bytes: &[u8], mut at: usize) -> Option<(u64, usize)> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(at)?;
        at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some((value, at));
        }
    }
    None
}
