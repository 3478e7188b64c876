//! A recording of the interposer, read: `tests/interpose/src/record.rs` has the layout.

use std::{fs, ops::Range, path::Path};

const HEAD: usize = 56;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Write,
    Sync,
    SyncFailed,
    Create,
    Rename,
    Unlink,
    Mkdir,
    Truncate,
}

/// Something that was done to the folder.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) number: i64,
    pub(crate) kind: Kind,
    pub(crate) inode: u64,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    /// Of a sync: the last event before it began.
    pub(crate) since: i64,
    /// From the root of the data folder.
    pub(crate) path: String,
    pub(crate) second: String,
    /// Where its bytes are; `None` is zeros.
    data: Option<Range<usize>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Recording {
    pub(crate) events: Vec<Event>,
    bytes: Vec<u8>,
}

impl Recording {
    /// Reads one; an event that was cut off by a kill is left out.
    pub(crate) fn read(path: &Path, root: &Path) -> Self {
        let bytes = fs::read(path).unwrap();
        let root = root.to_str().expect("a path in UTF-8");
        let mut events = Vec::new();
        let mut at = 0;
        while let Some((event, next)) = event(&bytes, at, root) {
            events.push(event);
            at = next;
        }
        Self { events, bytes }
    }

    /// The number of the last event.
    pub(crate) fn last(&self) -> i64 {
        self.events.last().map_or(0, |event| event.number)
    }

    /// Bytes that a write wrote; `None` is zeros.
    pub(crate) fn data(&self, event: &Event) -> Option<&[u8]> {
        event.data.clone().map(|range| &self.bytes[range])
    }
}

fn event(bytes: &[u8], at: usize, root: &str) -> Option<(Event, usize)> {
    let head = bytes.get(at..at + HEAD)?;
    let long = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
    let short = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
    let kind = match short(8) {
        1 => Kind::Write,
        2 => Kind::Sync,
        3 => Kind::SyncFailed,
        4 => Kind::Create,
        5 => Kind::Rename,
        6 => Kind::Unlink,
        7 => Kind::Mkdir,
        8 => Kind::Truncate,
        other => panic!("an event of kind {other}"),
    };
    let length = long(32);
    let path_end = at + HEAD + short(48) as usize;
    let second_end = path_end + short(52) as usize;
    let name = |range: Range<usize>| -> Option<String> {
        let path = std::str::from_utf8(bytes.get(range)?).expect("paths in UTF-8");
        let inside = path.strip_prefix(root).unwrap_or(path);
        Some(inside.trim_start_matches('/').to_owned())
    };
    let path = name(at + HEAD..path_end)?;
    let second = name(path_end..second_end)?;
    let has_data = kind == Kind::Write && short(12) == 0;
    let end = if has_data {
        second_end + length as usize
    } else {
        second_end
    };
    bytes.get(second_end..end)?;
    let event = Event {
        number: long(0).cast_signed(),
        kind,
        inode: long(16),
        offset: long(24),
        length,
        since: long(40).cast_signed(),
        path,
        second,
        data: has_data.then_some(second_end..end),
    };
    Some((event, end))
}
