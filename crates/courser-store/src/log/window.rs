//! A piece of a segment in memory, for reading many small things with few calls.

use std::{io, os::unix::fs::FileExt};

use crate::log::{
    load::Direct,
    segment::{BLOCK, Segment},
};

/// Reads ahead; what is asked for again is not read again.
pub(crate) struct Window {
    buffer: Vec<u8>,
    /// Where in the buffer that begins which it holds.
    base: usize,
    start: u64,
    filled: usize,
    /// Bytes to read at once, at least.
    ahead: usize,
}

impl Window {
    pub(crate) fn new(ahead: usize) -> Self {
        Self {
            buffer: Vec::new(),
            base: 0,
            start: 0,
            filled: 0,
            ahead,
        }
    }

    /// Forgets what it holds, and reads in other steps from now on. Its memory stays.
    pub(crate) fn reset(&mut self, ahead: usize) {
        self.filled = 0;
        self.ahead = ahead;
        self.buffer.shrink_to(4 * 1024 * 1024);
    }

    /// What lies there; `None` when the file ends before.
    pub(crate) fn get(
        &mut self,
        segment: &Segment,
        offset: u64,
        length: usize,
    ) -> io::Result<Option<&[u8]>> {
        if !self.holds(offset, length) {
            if !lies_within(segment, offset, length) {
                return Ok(None);
            }
            self.read(segment, offset, length)?;
        }
        Ok(self.held(offset, length))
    }

    /// The same, read past the page cache as far as that goes.
    pub(crate) fn get_direct(
        &mut self,
        segment: &Segment,
        direct: &mut Direct,
        offset: u64,
        length: usize,
    ) -> io::Result<Option<&[u8]>> {
        if !self.holds(offset, length) {
            if !lies_within(segment, offset, length) {
                return Ok(None);
            }
            let before = (offset % BLOCK as u64) as usize;
            let whole = (before + length).next_multiple_of(BLOCK);
            if self.buffer.len() < whole + BLOCK {
                self.buffer.resize(whole + BLOCK, 0);
            }
            self.base = self.buffer.as_ptr().align_offset(BLOCK).min(BLOCK);
            self.start = offset - before as u64;
            let into = &mut self.buffer[self.base..self.base + whole];
            self.filled = 0;
            self.filled = direct.read_all(segment, into, before + length, self.start)?;
        }
        Ok(self.held(offset, length))
    }

    /// What lies there, if it is in memory.
    pub(crate) fn held(&self, offset: u64, length: usize) -> Option<&[u8]> {
        self.holds(offset, length).then(|| {
            let from = self.base + (offset - self.start) as usize;
            &self.buffer[from..from + length]
        })
    }

    fn holds(&self, offset: u64, length: usize) -> bool {
        offset >= self.start
            && offset - self.start <= self.filled as u64
            && length <= self.filled - (offset - self.start) as usize
    }

    fn read(&mut self, segment: &Segment, offset: u64, length: usize) -> io::Result<()> {
        let wanted = length.max(self.ahead);
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted, 0);
        }
        (self.base, self.start, self.filled) = (0, offset, 0);
        while self.filled < wanted {
            let into = &mut self.buffer[self.filled..wanted];
            match segment.file.read_at(into, offset + self.filled as u64) {
                Ok(0) => break,
                Ok(read) => self.filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Never ask for memory because of a length that the file cannot have.
fn lies_within(segment: &Segment, offset: u64, length: usize) -> bool {
    offset
        .checked_add(length as u64)
        .is_some_and(|end| end <= segment.length())
}
