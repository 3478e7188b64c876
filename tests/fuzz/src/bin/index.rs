//! The index: keys, values with their checksums, chunks, notes in parts, and what all of it adds up to.
#![no_main]

use courser_core::{
    id::{ChunkNo, QueueId, Seq},
    record::Chunk,
};
use courser_fuzz::{Input, assert_round_trip, takes_at_most};
use courser_store::fuzz::{self as store, Key};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((kind, bytes)) = data.split_first() else {
        return;
    };
    match kind % 9 {
        0 => {
            if let Some(key) = store::read_key(bytes) {
                assert_eq!(store::write_key(key), bytes);
                check_range(key);
            }
        }
        1 => order(Input(bytes)),
        2 => checksum(Input(bytes)),
        3 => chunk(Input(bytes)),
        4 => notes(Input(bytes)),
        5 => {
            if let Some(written) = store::rewrite_meta(bytes) {
                assert_eq!(store::rewrite_meta(&written), Some(written.clone()));
                assert!(written.len() <= bytes.len());
            }
        }
        6 => {
            let mut sealed = bytes.to_vec();
            store::seal_value(b"s", &mut sealed);
            if let Some(written) = store::rewrite_sum(&sealed) {
                assert_eq!(store::rewrite_sum(&written), Some(written.clone()));
                assert!(written.len() <= sealed.len());
            }
        }
        8 => {
            if let Some(written) = store::rewrite_holders(bytes) {
                assert_eq!(store::rewrite_holders(&written), Some(written.clone()));
                assert!(written.len() <= bytes.len());
            }
        }
        _ => sums(Input(bytes)),
    }
});

/// All parts of a note, and no others, are found by the number of its chunk.
fn check_range(key: Key) {
    let Key::Note(queue, seq, _) = key else {
        return;
    };
    let (key, chunk) = (store::write_key(key), seq.chunk());
    assert!(store::is_of_chunk(queue, chunk, &key), "{seq} {chunk}");
    for other in [chunk.0.wrapping_sub(1), chunk.0.wrapping_add(1)] {
        let other = ChunkNo(other);
        if other.first().chunk() == other {
            assert!(!store::is_of_chunk(queue, other, &key), "{seq} {other}");
        }
    }
}

/// Keys sort as what they say.
fn order(mut input: Input<'_>) {
    let mut key = || {
        let (kind, queue) = (input.byte(), QueueId(input.long() as u32));
        match kind % 3 {
            0 => Key::Chunk(queue, ChunkNo(input.long())),
            1 => Key::Note(queue, Seq(input.long()), input.short() as u16),
            _ => Key::Queue(queue, input.short() as u16),
        }
    };
    let (first, second) = (key(), key());
    let (one, other) = (store::write_key(first), store::write_key(second));
    assert_eq!(one.cmp(&other), first.cmp(&second));
    if let Key::Chunk(_, number) = first
        && number.first().chunk() != number
    {
        assert_eq!(store::read_key(&one), None, "no place lies in such a chunk");
    } else {
        assert_eq!(store::read_key(&one), Some(first));
    }
}

/// A value comes back from under its checksum, and one with a wrong bit does not.
fn checksum(mut input: Input<'_>) {
    let (bit, length) = (input.short(), usize::from(input.byte()));
    let (key, value) = (input.take(length), input.0);
    let mut sealed = value.to_vec();
    store::seal_value(key, &mut sealed);
    assert_eq!(store::open_value(key, &sealed).as_deref(), Some(value));
    let bit = bit % (sealed.len() * 8);
    sealed[bit / 8] ^= 1 << (bit % 8);
    assert_eq!(store::open_value(key, &sealed), None);
    // Nor is anything else taken that happens to lie there.
    if let Some(opened) = store::open_value(key, value) {
        let mut again = opened;
        store::seal_value(key, &mut again);
        assert_eq!(again, value);
    }
}

fn chunk(mut input: Input<'_>) {
    // Numbers at both ends of what there is.
    let number = match input.byte() % 3 {
        0 => ChunkNo(u64::from(input.byte())),
        1 => Seq(u64::MAX - input.long() % 1_000).chunk(),
        _ => ChunkNo(input.long()),
    };
    let bytes = input.0;
    let room = bytes.len() * 256 + 64 * 1024;
    let read = |bytes: &[u8]| store::read_chunk(bytes, number);
    let Ok(entries) = takes_at_most(room, || read(bytes)) else {
        return;
    };
    assert!(entries.iter().all(|entry| entry.seq.chunk() == number));
    assert!(
        entries.is_sorted_by(|a, b| a.seq < b.seq),
        "each place once, in order"
    );
    let write = |entries: &Vec<_>| store::write_chunk(number, entries);
    assert_round_trip(bytes, &entries, write, read);
    let kept = Chunk {
        entries,
        notes: Vec::new(),
    };
    let (loaded, alive, size) = courser_core::fuzz::load_chunk(number, &kept);
    assert_eq!(loaded, kept.entries);
    assert_eq!(alive as usize, loaded.len());
    assert_eq!(size, loaded.iter().map(|entry| u64::from(entry.size)).sum());
}

/// Notes as a scan finds them, in parts: those that are read are there whole.
fn notes(mut input: Input<'_>) {
    let mut items = Vec::new();
    let (mut seq, mut part) = (0, 0);
    while !input.is_empty() && items.len() < 64 {
        match input.byte() % 4 {
            0 => (seq, part) = (seq + 1, 0),
            1 => part += input.byte() as u16,
            _ => part += 1,
        }
        let length = usize::from(input.byte());
        let key = store::write_key(Key::Note(QueueId(1), Seq(seq), part));
        items.push((key, input.take(length).to_vec()));
    }
    let bytes: usize = items.iter().map(|(_, value)| value.len()).sum();
    let notes = takes_at_most(bytes * 256 + 64 * 1024, || store::read_notes(&items));
    for (_, note) in notes.unwrap_or_default() {
        let written = store::write_note(&note);
        assert!(written.len() <= bytes, "it is made of what is there");
        assert_eq!(store::read_note(&written).as_ref(), Ok(&*note));
    }
}

/// What values add up to does not depend on their order, and tells which are there.
fn sums(mut input: Input<'_>) {
    let mut items = Vec::new();
    while !input.is_empty() && items.len() < 16 {
        let (key, value) = (
            usize::from(input.byte() % 8),
            usize::from(input.byte() % 32),
        );
        let key = input.take(key).to_vec();
        let mut value = input.take(value).to_vec();
        store::seal_value(&key, &mut value);
        items.push((key, value));
    }
    let all = store::add_up(&items, &[]);
    items.reverse();
    assert_eq!(store::add_up(&items, &[]), all);
    let Some(removed) = items.pop() else {
        return;
    };
    let rest = store::add_up(&items, &[]);
    assert_ne!(rest, all, "what is missing is missed");
    items.push(removed.clone());
    assert_eq!(store::add_up(&items, &[removed]), rest);
}
