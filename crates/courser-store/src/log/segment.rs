//! One file of the log.
//!
//! ```text
//! 00000000000000000001.seg      named by its first frame number
//!
//!  0  magic      u64   "COURSLOG"
//!  8  version    u32
//! 12  flags      u32   1: holds only what lived when it was rewritten
//! 16  life       u64   random; every frame repeats it
//! 24  frame      u64   first frame number
//! 32  position   u64   no message in it is before this position
//! 40  weight     u64   bytes that lived when it was rewritten, otherwise 0
//! 48  (zeros)
//! 60  checksum   u32   CRC32C of the bytes before
//! 64  frames, each at a multiple of 16
//!     seal       when it is finished (`frame.rs`)
//!     (zeros, or what an earlier life of the file left)
//! ```
//!
//! The header is durable before the file gets its name, so a segment without a good header is damaged.

use std::{
    fs::{File, OpenOptions},
    hash::{BuildHasher, RandomState},
    io,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use crate::{StoreError, lock::Mutex, log::frame::Place};

pub(crate) const HEADER: u64 = 64;
/// What any device takes as a unit: its own blocks have 512 or 4,096 bytes.
pub(super) const BLOCK: usize = 4096;
const MAGIC: [u8; 8] = *b"COURSLOG";
const VERSION: u32 = 1;
const REWRITTEN: u32 = 1;
/// Anchors are at least this far apart.
const ANCHOR_BYTES: u64 = 64 * 1024;

/// What a segment's file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) life: u64,
    pub(crate) frame: u64,
    pub(crate) position: u64,
    /// `Some` in a file that was rewritten.
    pub(crate) weight: Option<u64>,
}

impl SegmentHeader {
    /// A header with a life of its own.
    pub(crate) fn new(frame: u64, position: u64, weight: Option<u64>) -> Self {
        // Keyed by the operating system's random numbers: nobody outside can guess it.
        let life = RandomState::new().hash_one(frame);
        Self {
            life,
            frame,
            position,
            weight,
        }
    }

    pub(crate) fn encode(&self) -> [u8; HEADER as usize] {
        let mut out = [0; HEADER as usize];
        out[0..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        let flags = if self.weight.is_some() { REWRITTEN } else { 0 };
        out[12..16].copy_from_slice(&flags.to_le_bytes());
        out[16..24].copy_from_slice(&self.life.to_le_bytes());
        out[24..32].copy_from_slice(&self.frame.to_le_bytes());
        out[32..40].copy_from_slice(&self.position.to_le_bytes());
        out[40..48].copy_from_slice(&self.weight.unwrap_or(0).to_le_bytes());
        let checksum = crc32c::crc32c(&out[..60]);
        out[60..].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8; HEADER as usize]) -> Result<Self, &'static str> {
        let u32_at = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|n| bytes[at + n]));
        let u64_at =
            |at: usize| u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|n| bytes[at + n]));
        if bytes[..8] != MAGIC || u32_at(60) != crc32c::crc32c(&bytes[..60]) {
            return Err("the header of the segment is not what was written");
        }
        if u32_at(8) != VERSION {
            return Err("the segment is of a version that this broker does not know");
        }
        let weight = (u32_at(12) & REWRITTEN != 0).then(|| u64_at(40));
        Ok(Self {
            life: u64_at(16),
            frame: u64_at(24),
            position: u64_at(32),
            weight,
        })
    }
}

/// A file, whatever its name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }
}

/// The start of a frame that a search for a position may begin at.
#[derive(Clone, Copy, Debug)]
struct Anchor {
    first: u64,
    offset: u64,
}

/// Where frames are, as far as is known.
#[derive(Debug, Default)]
struct Anchors {
    list: Vec<Anchor>,
    /// Whether all frames were looked at.
    complete: bool,
}

/// An open segment. Readers hold it while the file is replaced, recycled or cut short under them.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) header: SegmentHeader,
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    /// Bytes of the file.
    length: AtomicU64,
    /// Where the last whole frame ends, of those that are known.
    end: AtomicU64,
    /// Set before the file is recycled or cut short: what is read from then on is another life's, or nothing.
    retired: AtomicBool,
    anchors: Mutex<Anchors>,
    /// Up to here all frame headers were found to be what was written.
    pub(crate) checked: AtomicU64,
    /// Entries of the index that refer to a message in here.
    pub(crate) live_entries: AtomicU64,
    /// The bytes of these messages, about; a message counts once for each entry.
    pub(crate) live_bytes: AtomicU64,
    /// The most that `live_bytes` was since the messages in here were last counted one by one.
    pub(crate) live_bytes_max: AtomicU64,
    /// What `live_bytes` was when the keeper looked last.
    pub(crate) live_bytes_seen: AtomicU64,
}

impl Segment {
    /// A segment that is just being written.
    pub(crate) fn new(path: PathBuf, file: File, header: SegmentHeader, length: u64) -> Self {
        let anchors = Anchors {
            list: Vec::new(),
            complete: true,
        };
        Self {
            header,
            path,
            file,
            length: length.into(),
            end: HEADER.into(),
            retired: false.into(),
            anchors: Mutex::new(anchors),
            checked: HEADER.into(),
            live_entries: 0.into(),
            live_bytes: 0.into(),
            live_bytes_max: 0.into(),
            live_bytes_seen: 0.into(),
        }
    }

    /// Opens what is on the disk. `frame` is the number in its name.
    pub(crate) fn open(path: PathBuf, frame: u64) -> Result<Self, StoreError> {
        Self::open_with(File::options().read(true).write(true), path, frame)
    }

    /// The same, for reading only.
    pub(crate) fn open_to_read(path: PathBuf, frame: u64) -> Result<Self, StoreError> {
        Self::open_with(File::options().read(true), path, frame)
    }

    fn open_with(options: &OpenOptions, path: PathBuf, frame: u64) -> Result<Self, StoreError> {
        let file = options
            .open(&path)
            .map_err(|error| StoreError::io("open", &path, error))?;
        let length = file
            .metadata()
            .map_err(|error| StoreError::io("open", &path, error))?
            .len();
        let mut bytes = [0; HEADER as usize];
        let header = match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => SegmentHeader::decode(&bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err("the segment is shorter than its header")
            }
            Err(error) => return Err(StoreError::io("read", &path, error)),
        };
        let header = header.map_err(|why| StoreError::damaged(&path, 0, why))?;
        if header.frame != frame {
            return Err(StoreError::damaged(
                &path,
                24,
                "the segment has the name of another one",
            ));
        }
        Ok(Self::reopened(path, file, header, length))
    }

    /// Opens a file whose header is damaged, by what its first intact frame says of it. `None` when
    /// there is none.
    pub(crate) fn open_by_frames(path: PathBuf, frame: u64) -> Result<Option<Self>, StoreError> {
        let file = File::open(&path).map_err(|error| StoreError::io("open", &path, error))?;
        let metadata = file.metadata();
        let length = metadata
            .map_err(|error| StoreError::io("open", &path, error))?
            .len();
        let unknown = SegmentHeader {
            life: 0,
            frame,
            position: 0,
            weight: None,
        };
        let mut segment = Self::reopened(path, file, unknown, length);
        let Some(head) = super::scan::first_of(&segment)? else {
            return Ok(None);
        };
        (segment.header.life, segment.header.position) = (head.life, head.first);
        Ok(Some(segment))
    }

    /// A segment whose frames were not looked at.
    pub(crate) fn reopened(path: PathBuf, file: File, header: SegmentHeader, length: u64) -> Self {
        let segment = Self::new(path, file, header, length);
        segment.anchors.lock().complete = false;
        segment
    }

    /// The same file past the page cache, for whole blocks at multiples of a block; `None` where the file system
    /// has no such thing, or the name is another file's by now.
    pub(super) fn open_direct(&self, options: &OpenOptions) -> Option<File> {
        let mut options = options.clone();
        let direct = options.custom_flags(libc::O_DIRECT).open(&self.path).ok()?;
        let is_same = FileId::of(&self.file).ok()? == FileId::of(&direct).ok()?;
        is_same.then_some(direct)
    }

    /// The place of a frame with this number.
    pub(crate) fn place(&self, number: u64, durable: u64, epoch: u64) -> Place {
        Place {
            life: self.header.life,
            segment: self.header.frame,
            number,
            durable,
            epoch,
        }
    }

    pub(crate) fn length(&self) -> u64 {
        self.length.load(Ordering::Acquire)
    }

    pub(crate) fn set_length(&self, length: u64) {
        self.length.store(length, Ordering::Release);
    }

    /// The file has at least so many bytes.
    pub(crate) fn grow(&self, length: u64) {
        self.length.fetch_max(length, Ordering::AcqRel);
    }

    /// Where the last frame ends, as far as is known.
    pub(crate) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    /// A frame was appended, or found behind those that were known.
    pub(crate) fn add_frame(&self, offset: u64, first: u64, end: u64) {
        let mut anchors = self.anchors.lock();
        let is_far = anchors
            .list
            .last()
            .is_none_or(|last| offset - last.offset >= ANCHOR_BYTES);
        if is_far {
            anchors.list.push(Anchor { first, offset });
        }
        drop(anchors);
        self.grow(end);
        self.end.store(end, Ordering::Release);
    }

    /// All frames are known.
    pub(crate) fn set_complete(&self) {
        self.anchors.lock().complete = true;
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.anchors.lock().complete
    }

    /// Forgets the frames that are known, to look at them from the first.
    pub(crate) fn clear_anchors(&self) {
        *self.anchors.lock() = Anchors::default();
        self.end.store(HEADER, Ordering::Release);
    }

    /// Where to begin a search for this position; `None` when it is before every frame.
    pub(crate) fn anchor(&self, position: u64) -> Option<u64> {
        let anchors = self.anchors.lock();
        let after = anchors
            .list
            .partition_point(|anchor| anchor.first <= position);
        anchors.list[..after].last().map(|anchor| anchor.offset)
    }

    pub(crate) fn damaged(&self, offset: u64, why: &str) -> StoreError {
        StoreError::damaged(&self.path, offset, why)
    }

    pub(crate) fn io(&self, action: &'static str, error: io::Error) -> StoreError {
        StoreError::io(action, &self.path, error)
    }
}

/// The name of the segment that starts with this frame.
pub(crate) fn name(frame: u64) -> String {
    format!("{frame:020}.seg")
}

/// The frame number in a segment's name.
pub(crate) fn number(path: &Path) -> Option<u64> {
    let file = path.file_name()?.to_str()?;
    let frame = file.strip_suffix(".seg")?.parse().ok()?;
    // A sign would be read too, and two files have one number.
    (file == name(frame)).then_some(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_has_one_name() {
        assert_eq!(number(Path::new(&name(7))), Some(7));
        for other in [
            "+0000000000000000007.seg",
            "7.seg",
            "000000000000000000007.seg",
            "00000000000000000007",
        ] {
            assert_eq!(number(Path::new(other)), None, "{other}");
        }
    }
}
