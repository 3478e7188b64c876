//! A piece of a segment in memory, for reading many small things with few calls.

use std::{io, os::unix::fs::FileExt};

use crate::log::segment::Segment;

/// Reads ahead; what is asked for again is not read again.
pub(crate) struct Window {
    buffer: Vec<u8>,
    start: u64,
    filled: usize,
    /// Bytes to read at once, at least.
    ahead: usize,
}

impl Window {
    pub(crate) fn new(ahead: usize) -> Self {
        Self {
            buffer: Vec::new(),
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
            // Never ask for memory because of a length that the file cannot have.
            if offset
                .checked_add(length as u64)
                .is_none_or(|end| end > segment.length())
            {
                return Ok(None);
            }
            self.read(segment, offset, length)?;
        }
        if !self.holds(offset, length) {
            return Ok(None);
        }
        let from = (offset - self.start) as usize;
        Ok(Some(&self.buffer[from..from + length]))
    }

    /// What lies there, if it is in memory.
    pub(crate) fn held(&self, offset: u64, length: usize) -> Option<&[u8]> {
        self.holds(offset, length).then(|| {
            let from = (offset - self.start) as usize;
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
        (self.start, self.filled) = (offset, 0);
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
