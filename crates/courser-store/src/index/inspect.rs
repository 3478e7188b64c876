//! Reading an index that may be damaged, to the end: what is wrong is told, and the rest is read.
//!
//! sled writes when it opens, so this is for a copy of the folder only.

use std::{path::Path, sync::Arc};

use courser_core::{
    id::{ChunkNo, QueueId},
    record::{Chunk, QueueState},
};

use super::{
    Index, META_VERSION, META_VERSION_UNSUMMED, Parts, anew, decode_meta, definition,
    drop_leftovers, entry, holders, keys, open_sled, sum, sum::Sum, take_note_part,
};
use crate::{
    StoreError,
    codec::{Malformed, Reader, note},
    index::{Holder, Meta, anew::Form},
    lock::{Mutex, RwLock},
};

/// What a copy of an index holds.
#[derive(Debug, Default)]
pub(crate) struct Inspected {
    /// `None` when there is none, as in a new index, or it cannot be read.
    pub(crate) meta: Option<Meta>,
    /// The segments that hold something that lives, as far as that is written and can be read.
    pub(crate) holders: Vec<Holder>,
    pub(crate) queues: Vec<QueueState>,
    pub(crate) keys: u64,
    pub(crate) chunks: u64,
    pub(crate) notes: u64,
}

/// Takes a sentence of what is wrong.
pub(crate) type Tell<'a> = dyn FnMut(String) + 'a;
/// Takes a chunk with its notes.
pub(crate) type VisitWhole<'a> = dyn FnMut(QueueId, ChunkNo, Chunk) -> Result<(), StoreError> + 'a;

impl Index {
    /// Opens the copy of an index. Whether it adds up is asked by [`inspect`](Self::inspect).
    pub(crate) fn open_copy(folder: &Path) -> Result<Self, StoreError> {
        anew::settle(folder)?;
        drop_leftovers(folder)?;
        let index = Self {
            db: RwLock::new(Arc::new(open_sled(folder, folder)?)),
            folder: folder.to_owned(),
            sum: Mutex::default(),
            floor_bytes: u64::MAX,
        };
        let meta = index.db().call(|db| db.get(keys::META))?;
        if meta.as_ref().and_then(|meta| meta.first()) == Some(&META_VERSION_UNSUMMED) {
            index.make_anew(Form::Unsummed)?;
        }
        Ok(index)
    }

    /// Reads every value, and tells of each that is not what was written, and whether all of them add
    /// up to what the last batch wrote. On an error `found` has what was read before.
    pub(crate) fn inspect(
        &self,
        found: &mut Inspected,
        tell: &mut Tell<'_>,
    ) -> Result<(), StoreError> {
        self.find_names(found);
        let mut kept = None;
        let mut sum = Sum::default();
        let mut parts = <[Parts; 3]>::default();
        for item in self.db().items(|db| db.iter())? {
            let (key, sealed) = item?;
            if key == keys::SUM {
                match Sum::decode(keys::SUM, &sealed) {
                    Ok(sum) => kept = Some(sum),
                    Err(error) => tell(format!("the sum of all values: {error}")),
                }
                continue;
            }
            found.keys += 1;
            sum.add(&key, &sealed);
            let read =
                sum::open(&key, &sealed).and_then(|value| look(&key, value, found, &mut parts));
            if let Err(error) = read {
                tell(format!("{}: {error}", name_of(&key)));
            }
        }
        match kept {
            None if found.keys > 0 => tell("the sum of all values: it is missing".to_owned()),
            Some(kept) if kept != sum => tell(
                "what its values add up to: some of what it held is not there any more".to_owned(),
            ),
            _ => {}
        }
        Ok(())
    }

    /// Reads what the index says of itself and of its queues, before all that is larger and may not be
    /// readable to the end: their keys sort behind most others, and an entry without the name of its
    /// queue is worth little. What is wrong with them is told when everything is read.
    fn find_names(&self, found: &mut Inspected) {
        if let Ok(Some(sealed)) = self.db().call(|db| db.get(keys::META)) {
            let meta = sum::open(keys::META, &sealed);
            found.meta = meta.and_then(|value| decode_meta(value, META_VERSION)).ok();
        }
        found.holders = self.holders().ok().flatten().unwrap_or_default();
        let mut parts = Parts::default();
        let Ok(items) = self.db().items(|db| db.scan_prefix(keys::QUEUES)) else {
            return;
        };
        for (key, sealed) in items.map_while(Result::ok) {
            let state =
                sum::open(&key, &sealed).and_then(|value| take_queue_part(&mut parts, &key, value));
            found.queues.extend(state.ok().flatten());
        }
    }

    /// Visits all chunks that can be read, with their notes, in the order of queues and places.
    pub(crate) fn readable_chunks(&self, visit: &mut VisitWhole<'_>) -> Result<(), StoreError> {
        for item in self.db().items(|db| db.scan_prefix(keys::CHUNKS))? {
            let (key, sealed) = item?;
            let Some((queue, number)) = keys::parse_chunk(&key) else {
                continue;
            };
            let mut chunk = Chunk::default();
            let read = sum::open(&key, &sealed)
                .and_then(|value| entry::take_chunk(value, number, &mut chunk.entries));
            if read.is_err() {
                continue;
            }
            let mut parts = Parts::default();
            // Where notes break off, the entries are still worth having.
            let notes = self.db().items(|db| db.range(keys::notes(queue, number)))?;
            for (key, sealed) in notes.map_while(Result::ok) {
                let note = sum::open(&key, &sealed)
                    .and_then(|value| take_note_part(&mut parts, &key, value));
                chunk.notes.extend(note.ok().flatten());
            }
            visit(queue, number, chunk)?;
        }
        Ok(())
    }
}

/// Decodes one value.
fn look(
    key: &[u8],
    value: &[u8],
    found: &mut Inspected,
    parts: &mut [Parts; 3],
) -> Result<(), Malformed> {
    let [lists, queues, notes] = parts;
    if key == keys::META {
        decode_meta(value, META_VERSION)?;
    } else if let Some((_, number)) = keys::parse_chunk(key) {
        entry::take_chunk(value, number, &mut Vec::new())?;
        found.chunks += 1;
    } else if let Some((_, _, part)) = keys::parse_note(key) {
        if let Some(whole) = notes.add(part, value)? {
            note::take_note(&mut Reader::new(whole))?;
            found.notes += 1;
        }
    } else if keys::parse_holders(key).is_some() {
        holders::take_part(lists, key, value)?;
    } else if keys::parse_queue(key).is_some() {
        take_queue_part(queues, key, value)?;
    } else {
        return Err(Malformed("nothing of ours has such a key"));
    }
    Ok(())
}

/// The queue, when this was its last part.
fn take_queue_part(
    parts: &mut Parts,
    key: &[u8],
    value: &[u8],
) -> Result<Option<QueueState>, Malformed> {
    let (_, part) = keys::parse_queue(key).ok_or(Malformed("a key is too short"))?;
    let whole = parts.add(part, value)?;
    whole.map(definition::take_state).transpose()
}

/// What a key stands for, for people.
fn name_of(key: &[u8]) -> String {
    if key == keys::META {
        "what the index says of itself".to_owned()
    } else if keys::parse_holders(key).is_some() {
        "the list of the segments that hold something that lives".to_owned()
    } else if let Some((queue, number)) = keys::parse_chunk(key) {
        let first = number.first();
        format!("the entries from {first} on of the queue with id {queue}")
    } else if let Some((queue, seq, _)) = keys::parse_note(key) {
        format!("the note of entry {seq} of the queue with id {queue}")
    } else if let Some((queue, _)) = keys::parse_queue(key) {
        format!("the definition of the queue with id {queue}")
    } else {
        "a value".to_owned()
    }
}
