//! A data folder whose files were changed, as `courser verify` and `courser salvage` look at it: nothing
//! comes out that was not put in, whatever is intact comes out, and what is called sound is sound.
//!
//! The input is a list of changes to a valid folder. One in sixteen has an index: it takes six times as long,
//! as sled opens.
#![no_main]

use std::{
    collections::{BTreeSet, HashSet},
    fs,
    ops::Range,
    path::{Path, PathBuf},
    ptr,
    sync::LazyLock,
};

use courser_core::id::Seq;
use courser_fuzz::{
    Input, takes_at_most,
    written::{self, Entry, FORMAT, FRAMES, Frame, SEGMENTS, UPTO, Written, message},
};
use courser_store::{
    StoreError,
    fuzz::{self as store, segment_name},
    offline::{Salvaged, Saved, Verified, salvage, verify},
};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

/// Of so many inputs one has an index.
const INDEX_EVERY: u32 = 16;
/// Of one file, so that no input is slow.
const FILE_BYTES: usize = 16 * 1024;
/// What is read at once, for each of two places of the log, and what is remembered.
const MEMORY: usize = 8 * 1024 * 1024;
/// With what sled keeps.
const MEMORY_WITH_INDEX: usize = 64 * 1024 * 1024;
const HEADER: usize = 64;
const FRAME_HEADER: usize = 80;
/// Begins a frame, or a seal.
const MAGIC: [u32; 2] = [0x4d52_4643, 0x4c41_4553];

/// The segments, a spare file, FORMAT.
type Files = [Option<Vec<u8>>; 5];

struct Base {
    written: Written,
    /// Headers of segments, and those of frames with their meta parts.
    heads: HashSet<Vec<u8>>,
    /// Without an index, and with one.
    folders: [TempDir; 2],
    /// For a start.
    started: TempDir,
    /// The files of the index.
    index: Vec<(PathBuf, Vec<u8>)>,
}

static BASE: LazyLock<Base> = LazyLock::new(|| {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        // Where copies of the index go.
        tempfile::env::override_temp_dir(memory).expect("nobody has asked before");
    }
    let written = Written::new();
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    for folder in &folders {
        fs::create_dir(folder.path().join("log")).expect("the folder is ours");
    }
    // It cannot be read, so no copy of it is made and opened.
    fs::write(folders[0].path().join("index"), "no folder").expect("there is room");
    written.write_index(&folders[1].path().join("index"));
    let mut index = Vec::new();
    list(&folders[1].path().join("index"), &mut index);
    let heads = written.files().flat_map(intact);
    Base {
        heads: heads.map(|(_, head)| head.to_vec()).collect(),
        written,
        folders,
        started: tempfile::tempdir().expect("a folder"),
        index,
    }
});

/// What was written, in the versions that an input begins with.
struct Begun<'a> {
    segments: [&'a written::File; 3],
    files: Files,
}

impl<'a> Begun<'a> {
    fn new(base: &'a Base, start: u8) -> Self {
        let written = &base.written;
        let segments = [
            &written.first[usize::from(start & 1)],
            &written.second,
            &written.last[usize::from(start >> 1 & 1)],
        ];
        let [one, two, three] = segments.map(|segment| Some(segment.bytes.clone()));
        let rest = [&written.spare[..], FORMAT].map(|bytes| Some(bytes.to_vec()));
        let [spare, format] = rest;
        Self {
            segments,
            files: [one, two, three, spare, format],
        }
    }
}

/// What became of the folder, and what was said of it.
struct Looked<'a> {
    base: &'a Base,
    begun: Begun<'a>,
    files: Files,
    has_index: bool,
    root: &'a Path,
    verified: Verified,
    salvaged: Salvaged,
    saved: Vec<Saved>,
}

fuzz_target!(|data: &[u8]| {
    let base = &*BASE;
    let mut input = Input(data);
    let start = input.byte();
    let begun = Begun::new(base, start);
    let mut files = begun.files.clone();
    change(&mut files, base, &mut input);
    let has_index = crc32c::crc32c(data).is_multiple_of(INDEX_EVERY);
    let root = base.folders[usize::from(has_index)].path();
    for (path, bytes) in names().iter().zip(&files) {
        let path = root.join(path);
        match bytes {
            Some(bytes) => fs::write(path, bytes).expect("there is room"),
            None if path.exists() => fs::remove_file(path).expect("the file is ours"),
            None => {}
        }
    }
    let memory = if has_index { MEMORY_WITH_INDEX } else { MEMORY };
    let verified = takes_at_most(memory, || verify(root)).expect("damage is no error");
    let mut saved = Vec::new();
    let mut take = |one| {
        saved.push(one);
        Ok::<_, StoreError>(())
    };
    let salvaged = takes_at_most(memory, || salvage(root, &mut take)).expect("damage is no error");
    let looked = Looked {
        base,
        begun,
        files,
        has_index,
        root,
        verified,
        salvaged,
        saved,
    };
    looked.check_is_as_it_was();
    looked.check_is_one_story();
    looked.check();
});

/// Of the files, in the order of their changes.
fn names() -> &'static [PathBuf; 5] {
    static NAMES: LazyLock<[PathBuf; 5]> = LazyLock::new(|| {
        let [one, two, three] = SEGMENTS.map(|frame| Path::new("log").join(segment_name(frame)));
        [one, two, three, "log/7.spare".into(), "FORMAT".into()]
    });
    &NAMES
}

fn list(folder: &Path, into: &mut Vec<(PathBuf, Vec<u8>)>) {
    let entries = fs::read_dir(folder).expect("it can be listed");
    let mut paths: Vec<_> = entries
        .map(|entry| entry.expect("it can be listed").path())
        .collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            list(&path, into);
        } else {
            let bytes = fs::read(&path).expect("it can be read");
            into.push((path, bytes));
        }
    }
}

/// Changes the files as the input says.
fn change(files: &mut Files, base: &Base, input: &mut Input<'_>) {
    let written = &base.written;
    let sources = [
        &written.first[0],
        &written.first[1],
        &written.second,
        &written.last[0],
        &written.last[1],
    ];
    let mut changes = 0;
    while !input.is_empty() && changes < 32 {
        changes += 1;
        let what = input.byte();
        let number = usize::from(what >> 4) % files.len();
        if what & 15 == 0 {
            files[number] = None;
            continue;
        }
        let other = usize::from(input.byte());
        if what & 15 == 1 {
            let other = other % files.len();
            files.swap(number, other);
            continue;
        }
        let source = sources[other % sources.len()];
        let Some(file) = &mut files[number] else {
            continue;
        };
        if what & 15 == 2 {
            file.clone_from(&source.bytes);
            continue;
        }
        let at = input.short() % (file.len() + 1);
        match what & 15 {
            3 | 4 => {
                if let Some(byte) = file.get_mut(at) {
                    *byte ^= other as u8;
                }
            }
            5 | 6 => {
                let end = (at + input.short()).min(file.len());
                file[at..end].fill(0);
            }
            7 => file.truncate(at),
            8 => {
                let bytes = file.len() + other * 16;
                file.resize(bytes.min(FILE_BYTES), 0);
            }
            9 => {
                let from = input.short() % (source.bytes.len() + 1);
                let end = (from + input.short()).min(source.bytes.len());
                put(file, at, &source.bytes[from..end]);
            }
            10 => {
                // A frame, in a place where one may stand.
                let frames = &source.frames;
                let frame = &frames[usize::from(input.byte()) % frames.len()];
                let end = frame
                    .bodies
                    .last()
                    .map_or(frame.at + frame.head, written::Body::end);
                put(file, at & !15, &source.bytes[frame.at..end]);
            }
            _ => put(file, at, input.take(other)),
        }
    }
}

/// Writes bytes over others, up to the end of the file.
fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    let end = (at + bytes.len()).min(file.len());
    file[at..end].copy_from_slice(&bytes[..end - at]);
}

/// Where a whole frame of a segment stands that was written elsewhere in it, and how far it says to go.
type Displaced = Vec<Range<usize>>;

impl Looked<'_> {
    fn check_is_as_it_was(&self) {
        let mut found = Vec::new();
        list(self.root, &mut found);
        let files = names().iter().zip(&self.files);
        let files = files.filter_map(|(path, bytes)| {
            let bytes = bytes.as_deref()?;
            Some((self.root.join(path), bytes))
        });
        let mut expected: Vec<_> = files.collect();
        let index = if self.has_index {
            &self.base.index[..]
        } else {
            &[]
        };
        expected.extend(index.iter().map(|(path, bytes)| (path.clone(), &bytes[..])));
        if !self.has_index {
            expected.push((self.root.join("index"), b"no folder"));
        }
        expected.sort();
        let found = found.iter().map(|(path, bytes)| (path.clone(), &bytes[..]));
        assert!(found.eq(expected), "something was changed");
    }

    /// Both say the same.
    fn check_is_one_story(&self) {
        let (verified, salvaged) = (&self.verified, &self.salvaged);
        assert_eq!(salvaged.entries, self.saved.len() as u64);
        assert_eq!(verified.torn, salvaged.torn);
        assert!(verified.damages.starts_with(&salvaged.damages));
        let sum = |of: fn(&Saved) -> bool| self.saved.iter().filter(|one| of(one)).count() as u64;
        assert_eq!(salvaged.uncertain, sum(|one| !one.certain));
        assert_eq!(salvaged.without_queue, sum(|one| one.queue.is_none()));
        let unreadable: u64 = verified.queues.iter().map(|queue| queue.unreadable).sum();
        assert_eq!(verified.damaged, salvaged.damaged + unreadable);
        if salvaged.index_damaged {
            assert_eq!(verified.queues, [], "the log alone does not tell");
        } else {
            let entries: u64 = verified.queues.iter().map(|queue| queue.entries).sum();
            assert_eq!(entries, salvaged.entries + salvaged.unreadable);
        }
    }

    fn check(&self) {
        let Some(displaced) = self.displaced() else {
            return;
        };
        self.check_is_what_was_put_in();
        self.check_sound();
        self.check_torn(&displaced);
        self.check_start_agrees();
        self.check_certain();
        self.check_is_all(&displaced);
        if self.files == self.begun.files {
            self.check_is_well();
        }
    }

    /// Nothing else comes out, and nothing twice.
    fn check_is_what_was_put_in(&self) {
        let mut places = BTreeSet::new();
        for one in &self.saved {
            let position = one.message.position;
            assert!((1..=2 * FRAMES).contains(&position.0), "{position}");
            assert_eq!(one.message, message(position.0));
            if let Some(place) = place(one) {
                let stood = self.base.written.places.get(&place);
                assert_eq!(stood, Some(&position), "{place:?}");
                assert!(places.insert(place), "{place:?} comes twice");
            }
        }
    }

    /// What is not blamed is what was written.
    fn check_sound(&self) {
        let damages = &self.verified.damages;
        let [index, format] = ["index", "FORMAT"].map(|name| self.root.join(name));
        let is_told = damages.iter().any(|damage| damage.path == format);
        assert_eq!(is_told, self.files[4].as_deref() != Some(FORMAT));
        let is_of_log = |path| ![&index, &format].contains(&path);
        let is_sound = self.verified.damaged == damages.len() as u64
            && !damages.iter().any(|damage| is_of_log(&damage.path));
        if damages
            .iter()
            .any(|damage| damage.remedy.starts_with("the log beside it still"))
        {
            assert!(is_sound, "the index can be made anew");
            let file = self.files[0].as_deref().expect("it has its first frame");
            let whole = &self.base.written.first[0].bytes;
            assert_eq!(file[..HEADER], whole[..HEADER], "it has all its records");
        }
        if !is_sound {
            return;
        }
        let last = (0..3).rfind(|number| self.files[*number].is_some());
        let mut left = self.verified.log.frames as usize;
        for number in (0..3).filter(|number| self.files[*number].is_some()) {
            let segment = self.segment(number);
            assert!(self.has(number, 0, HEADER), "the header of {number}");
            let frames = if last == Some(number) {
                left
            } else {
                let seal = segment.seal.as_ref();
                assert!(seal.is_some_and(|seal| self.has_whole(number, seal)));
                segment.frames.len()
            };
            for frame in &segment.frames[..frames] {
                assert!(self.has_whole(number, frame), "frame {}", frame.number);
            }
            left = left.checked_sub(frames).expect("no more than there are");
        }
        assert_eq!(left, 0);
    }

    /// Only what nobody ever learned of is cut, and it does not come out.
    fn check_torn(&self, displaced: &[Displaced; 3]) {
        let Some(torn) = &self.salvaged.torn else {
            return;
        };
        let is_in = |path: &PathBuf| torn.path == self.root.join(path);
        let number = names().iter().position(is_in).expect("it is a segment");
        let mut later = (0..3).filter(|later| *later > number);
        let is_last = later.all(|later| self.files[later].is_none());
        assert!(is_last, "the last one that is there");
        assert!(self.salvaged.index_damaged || torn.frame > UPTO);
        for one in &self.saved {
            let frame = one.message.position.0.div_ceil(2);
            assert!(frame < torn.frame, "frame {frame} was cut");
        }
        if !displaced[number].is_empty() {
            return;
        }
        let segment = self.segment(number);
        for frame in segment.frames.iter().chain(&segment.seal) {
            if (frame.at as u64) < torn.offset {
                assert!(self.has_whole(number, frame), "frame {}", frame.number);
            } else {
                let knows = frame.durable >= torn.frame && self.has_head(number, frame);
                assert!(!knows, "frame {} knows it durable", frame.number);
                let is_next = frame.at as u64 == torn.offset && frame.number == torn.frame;
                assert!(!is_next || !self.has_whole(number, frame));
            }
        }
    }

    /// A start cuts the log where it is said to, and nothing where it finds damage.
    fn check_start_agrees(&self) {
        let Some(last) = (0..3).rfind(|number| self.files[*number].is_some()) else {
            return;
        };
        let is_rewritten = ptr::eq(self.segment(last), &self.base.written.first[1]);
        if is_rewritten || !self.has(last, 0, HEADER) {
            return;
        }
        let folder = self.base.started.path();
        for entry in fs::read_dir(folder).expect("the folder is ours") {
            fs::remove_file(entry.expect("the folder is ours").path()).expect("the file is ours");
        }
        let bytes = self.files[last].as_deref().unwrap_or_default();
        fs::write(folder.join(segment_name(SEGMENTS[last])), bytes).expect("there is room");
        let upto = SEGMENTS[last] - 1;
        let upto = if self.has_index { upto.max(UPTO) } else { upto };
        let torn = self.verified.torn.as_ref();
        match store::replay(folder, upto, &[]) {
            Ok(started) => {
                // What lost the life of its file is told, and cut without a word.
                assert!(torn.is_some() || started.torn_bytes == 0);
                assert!(torn.is_none_or(|torn| torn.frame == started.last_frame + 1));
            }
            // A start also asks frames that begin in another one, or are longer than the file, what was durable.
            Err(StoreError::Damaged { .. }) if has_overlap(bytes) => {}
            Err(error @ StoreError::Damaged { .. }) => {
                assert_eq!(torn, None, "{error}");
                let path = self.root.join(&names()[last]);
                let mut damages = self.verified.damages.iter();
                assert!(damages.any(|damage| damage.path == path), "{error}");
            }
            Err(other) => panic!("{other}"),
        }
    }

    /// What is certain is all that lived after some frame.
    fn check_certain(&self) {
        let certain: Vec<_> = self.saved.iter().filter(|one| one.certain).collect();
        if certain.is_empty() {
            return;
        }
        let entries = certain.len() + self.salvaged.unreadable as usize;
        let mut states = self.base.written.states.iter();
        let is_of_one = states.any(|state| {
            entries == state.len()
                && certain.iter().all(|one| {
                    let living = place(one).and_then(|place| state.get(&place));
                    living.is_some_and(|living| is_same(one, living))
                })
        });
        assert!(is_of_one, "{certain:#?}");
    }

    /// Each message that lives, and that nobody touched in a frame that nobody touched, comes out.
    fn check_is_all(&self, displaced: &[Displaced; 3]) {
        let states = &self.base.written.states;
        let of = |state: u64| states[state as usize].values().map(|one| one.position.0);
        // Whether the last frame counts or not.
        let lives: BTreeSet<_> = of(FRAMES - 1).collect();
        let lives: BTreeSet<_> = of(FRAMES).filter(|one| lives.contains(one)).collect();
        let saved = self.saved.iter().map(|one| one.message.position.0);
        let saved: BTreeSet<_> = saved.collect();
        for (number, displaced) in displaced.iter().enumerate() {
            // Of a frame out of its place the records do not count, and where the index is believed its
            // messages are looked for only if they do.
            if !displaced.is_empty() && !self.salvaged.index_damaged {
                continue;
            }
            let path = self.root.join(&names()[number]);
            let torn = self.salvaged.torn.as_ref().filter(|torn| torn.path == path);
            let end = torn.map_or(u64::MAX, |torn| torn.offset);
            for frame in &self.segment(number).frames {
                let is_covered = displaced.iter().any(|other| other.contains(&frame.at));
                if is_covered || !self.has_head(number, frame) || frame.at as u64 >= end {
                    continue;
                }
                for body in &frame.bodies {
                    let is_whole = self.has(number, body.at, body.end());
                    if is_whole && lives.contains(&body.position) {
                        assert!(saved.contains(&body.position), "message {}", body.position);
                    }
                }
            }
        }
    }

    /// Nothing was changed.
    fn check_is_well(&self) {
        let has_index = !self.salvaged.index_damaged;
        let (verified, salvaged) = (&self.verified, &self.salvaged);
        assert_eq!(verified.damaged, u64::from(!has_index));
        assert_eq!(
            verified.torn.is_some(),
            self.begun.segments[2].seal.is_none()
        );
        let frames = self.begun.segments.map(|segment| segment.frames.len());
        assert_eq!(
            verified.log.frames,
            frames.into_iter().sum::<usize>() as u64
        );
        assert_eq!((verified.log.segments, verified.log.spares), (3, 1));
        assert_eq!((salvaged.unreadable, salvaged.lost_frames), (0, 0));
        if has_index || ptr::eq(self.begun.segments[0], &self.base.written.first[0]) {
            let state = &self.base.written.states[FRAMES as usize - 1];
            assert_eq!(
                (salvaged.entries, salvaged.uncertain),
                (state.len() as u64, 0)
            );
        }
    }

    /// As it was written. The first one is what its header says.
    fn segment(&self, number: usize) -> &written::File {
        let header = |file: &written::File| {
            let found = self.files[number].as_deref().unwrap_or_default();
            found.starts_with(&file.bytes[..HEADER])
        };
        let versions = self.base.written.first.iter();
        let named = versions.filter(|_| number == 0).find(|file| header(file));
        named.unwrap_or(self.begun.segments[number])
    }

    /// Whether the file holds here what was written.
    fn has(&self, number: usize, from: usize, to: usize) -> bool {
        let found = self.files[number]
            .as_ref()
            .and_then(|file| file.get(from..to));
        found.is_some_and(|found| found == &self.segment(number).bytes[from..to])
    }

    /// Its header and meta part, and that the file does not end before it does.
    fn has_head(&self, number: usize, frame: &Frame) -> bool {
        let length = self.files[number].as_ref().map_or(0, Vec::len);
        length >= frame.end && self.has(number, frame.at, frame.at + frame.head)
    }

    fn has_whole(&self, number: usize, frame: &Frame) -> bool {
        let has_body = |body: &written::Body| self.has(number, body.at, body.end());
        self.has_head(number, frame) && frame.bodies.iter().all(has_body)
    }

    /// `None` when there is something with a right checksum that nobody wrote: libFuzzer sees the
    /// comparison, and may find the number.
    fn displaced(&self) -> Option<[Displaced; 3]> {
        let mut all = <[Displaced; 3]>::default();
        for (number, displaced) in all.iter_mut().enumerate() {
            let file = self.files[number].as_deref().unwrap_or_default();
            let here = &self.segment(number).bytes;
            for (at, bytes) in intact(file) {
                if here.get(at..at + bytes.len()) == Some(bytes) {
                    continue;
                }
                if !self.base.heads.contains(bytes) {
                    return None;
                }
                let is_header = at == 0;
                let name = if is_header { 24..32 } else { 16..24 };
                if bytes[name] != SEGMENTS[number].to_le_bytes() {
                    continue;
                }
                // What another version of the segment left covers everything.
                displaced.push(if is_header || bytes[8..16] != here[16..24] {
                    0..file.len()
                } else {
                    at..at + u32_at(bytes, 64) as usize
                });
            }
        }
        Some(all)
    }
}

/// All that may be the header of a segment, or header and meta part of a frame: its checksum is right.
fn intact(file: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let header = file.get(..HEADER).filter(|header| {
        let check = crc32c::crc32c(&header[..60]);
        check.to_le_bytes() == header[60..]
    });
    let frames = (HEADER..file.len()).step_by(16);
    let frames = frames.filter_map(|at| Some((at, intact_frame(&file[at..])?)));
    header.map(|header| (0, header)).into_iter().chain(frames)
}

fn intact_frame(bytes: &[u8]) -> Option<&[u8]> {
    if bytes.len() < FRAME_HEADER || !MAGIC.contains(&u32_at(bytes, 0)) {
        return None;
    }
    let all = bytes.get(..FRAME_HEADER.saturating_add(u32_at(bytes, 68) as usize))?;
    (crc32c::crc32c(&all[8..]) == u32_at(bytes, 4)).then_some(all)
}

/// Whether a frame of a segment begins in another one, or is longer than the file. Header and meta part of
/// both are whole.
fn has_overlap(file: &[u8]) -> bool {
    let mut end = HEADER;
    for (at, bytes) in intact(file).skip_while(|(at, _)| *at == 0) {
        let is_here = bytes[16..24] == file[24..32];
        if is_here && at < end {
            return true;
        }
        if is_here {
            end = at + u32_at(bytes, 64) as usize;
        }
    }
    end > file.len()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|n| bytes[at + n]))
}

/// Where it stood, when that is known.
fn place(one: &Saved) -> Option<(&'static str, Seq)> {
    let queue = one.queue.as_deref()?;
    let mut queues = written::QUEUES.into_iter();
    let queue = queues.find(|name| *name == queue);
    Some((queue.expect("there was such a queue"), one.seq))
}

fn is_same(one: &Saved, living: &Entry) -> bool {
    one.message.position == living.position
        && one.failures == living.failures
        && one.note.as_deref() == living.note.as_ref()
}
