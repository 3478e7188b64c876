//! The segment that is being written, in whole blocks.
//!
//! Much at once is written past the page cache (`O_DIRECT`), which costs a copy less, and no pages that
//! the kernel first has to find, and so is a little that is synced at once, which is on the disk sooner:
//! `docs/decisions/0050-past-the-page-cache.md`. That needs whole blocks at
//! multiples of a block, from memory that is aligned alike. So each write begins with the block that the
//! last frame ended in, whose bytes are written again as they were, and ends with zeros up to the end of a
//! block. A power cut may leave a sector as it was or as it was to be: in both, what was committed is the same.

use std::{fs::File, io, os::unix::fs::FileExt, sync::Arc};

use super::segment::{self, BLOCK, Segment};
use crate::StoreError;

/// Bytes that the memory for a write keeps: of a group of the usual size, with its last turn.
const MEMORY_KEPT: usize = 16 * 1024 * 1024;
/// From this many bytes on, going past the page cache is cheaper than copying into it.
const DIRECT_BYTES: usize = 64 * 1024;

/// The end of the log.
pub(crate) struct Active {
    pub(crate) segment: Arc<Segment>,
    /// Where the next frame goes. After a start a seal may stand there: it is overwritten.
    pub(crate) offset: u64,
    /// What stands in the block of `offset`, up to there.
    tail: Vec<u8>,
    direct: Direct,
}

/// The same file, past the page cache.
enum Direct {
    /// Nothing large was written yet.
    Untried,
    Open(File),
    /// Not every file system has it.
    Refused,
}

impl Active {
    /// A segment that has only its header.
    pub(crate) fn start(segment: Arc<Segment>) -> Self {
        let tail = segment.header.encode().to_vec();
        Self {
            segment,
            offset: segment::HEADER,
            tail,
            direct: Direct::Untried,
        }
    }

    /// A segment that was written up to `offset` before this start.
    pub(crate) fn resume(segment: Arc<Segment>, offset: u64) -> Result<Self, StoreError> {
        let of_block = offset % BLOCK as u64;
        let mut tail = vec![0; of_block as usize];
        segment
            .file
            .read_exact_at(&mut tail, offset - of_block)
            .map_err(|error| segment.io("read", error))?;
        Ok(Self {
            segment,
            offset,
            tail,
            direct: Direct::Untried,
        })
    }

    /// Whether its blocks were written before, so that a sync has no metadata to write.
    pub(crate) fn is_prepared(&self, segment_bytes: u64) -> bool {
        self.segment.length() >= segment_bytes
    }

    /// Writes the next frame, of `total` bytes, which `put` puts behind what is there, and which is to be on the
    /// disk `at_once` or some time later.
    pub(crate) fn write(
        &mut self,
        total: u64,
        at_once: bool,
        blocks: &mut Blocks,
        put: impl FnOnce(&mut Vec<u8>),
    ) -> io::Result<()> {
        let start = self.offset - self.tail.len() as u64;
        let whole = self.tail.len() + total as usize;
        let bytes = blocks.fill(&self.tail, whole, put);
        // Where the file does not grow, what is synced at once is sooner on the disk by itself than out of the cache.
        let is_inside = start + bytes.len() as u64 <= self.segment.length();
        let written = if whole >= DIRECT_BYTES || (at_once && is_inside) {
            self.write_direct(bytes, start)?
        } else {
            0
        };
        // Zeros are no reason for a file to grow.
        let room = self.segment.length().saturating_sub(start) as usize;
        let end = bytes.len().min(room.max(whole)).max(written);
        if written < end {
            self.segment
                .file
                .write_all_at(&bytes[written..end], start + written as u64)?;
        }
        self.segment.grow(start + end as u64);
        self.tail.clear();
        self.tail
            .extend_from_slice(&bytes[whole - whole % BLOCK..whole]);
        self.offset += total;
        Ok(())
    }

    /// Writes past the page cache what can be written so; answers how much that was.
    fn write_direct(&mut self, bytes: &[u8], start: u64) -> io::Result<usize> {
        if matches!(self.direct, Direct::Untried) {
            let opened = self.segment.open_direct(File::options().write(true));
            self.direct = opened.map_or(Direct::Refused, Direct::Open);
        }
        let Direct::Open(file) = &self.direct else {
            return Ok(0);
        };
        match file.write_at(bytes, start) {
            // The rest takes the other way: it need not be a multiple of a block any more.
            Ok(written) => Ok(written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                self.direct = Direct::Refused;
                Ok(0)
            }
            Err(error) => Err(error),
        }
    }
}

/// Memory that begins at a multiple of a block, used again and again.
#[derive(Default)]
pub(crate) struct Blocks(Vec<u8>);

impl Blocks {
    /// `tail` and what `put` puts behind it, `whole` bytes together, and zeros up to the end of a block.
    fn fill(&mut self, tail: &[u8], whole: usize, put: impl FnOnce(&mut Vec<u8>)) -> &[u8] {
        let buffer = &mut self.0;
        buffer.clear();
        buffer.shrink_to(MEMORY_KEPT);
        let length = whole.next_multiple_of(BLOCK);
        // Nothing that is added below moves it.
        buffer.reserve(length + BLOCK);
        let aligned = buffer.as_ptr().align_offset(BLOCK).min(BLOCK);
        buffer.resize(aligned, 0);
        buffer.extend_from_slice(tail);
        put(buffer);
        debug_assert_eq!(buffer.len(), aligned + whole, "a frame has its length");
        buffer.resize(aligned + length, 0);
        &buffer[aligned..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_and_whole() {
        let mut blocks = Blocks::default();
        for (tail, more) in [(0, 1), (100, 4_000), (4_095, 1), (17, 3 * BLOCK)] {
            let bytes = blocks.fill(&vec![1; tail], tail + more, |out| {
                out.resize(out.len() + more, 2);
            });
            assert_eq!(bytes.as_ptr().align_offset(BLOCK), 0);
            assert!(bytes.len().is_multiple_of(BLOCK) && bytes.len() - tail - more < BLOCK);
            assert!(bytes[..tail].iter().all(|byte| *byte == 1));
            assert!(bytes[tail..tail + more].iter().all(|byte| *byte == 2));
            assert!(bytes[tail + more..].iter().all(|byte| *byte == 0));
        }
    }
}
