//! How messages lie on a stream of gRPC, and how they are put together from what comes of them.
//!
//! tonic copies what comes into a buffer that each stream has and keeps, as large as the largest message that it
//! ever had. Here a message has memory of its own. Source: gRPC over HTTP/2, "Length-Prefixed-Message".

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// Before each message: whether it is compressed in one byte, and its length in four.
pub const PREFIX_BYTES: usize = 5;

/// Why messages cannot be put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// This flag says that one is compressed.
    #[error("a message is compressed (its flag is {0}), which was not agreed on")]
    Compressed(u8),
    /// One says that it has so many bytes, which are too many.
    #[error("a message of {0} bytes")]
    TooLarge(usize),
    /// Nothing comes after the beginning of one.
    #[error("the stream ended within a message")]
    Ended,
}

/// What came of a stream and was not taken.
#[derive(Debug)]
pub struct Gathered {
    /// The beginning of a message, with room for all of it.
    begun: BytesMut,
    /// What came behind that; nothing while it is not whole.
    rest: Bytes,
    bytes_max: usize,
}

impl Gathered {
    /// Nothing yet, of messages of at most so many bytes.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self {
            begun: BytesMut::new(),
            rest: Bytes::new(),
            bytes_max,
        }
    }

    /// More came, after `take` had nothing more.
    pub fn add(&mut self, data: Bytes) {
        debug_assert!(self.rest.is_empty(), "all that is whole is taken first");
        self.rest = data;
    }

    /// The next message, if it is there, without what is before it. Memory that is no other message's is kept for the next.
    ///
    /// # Errors
    /// It is compressed or too large.
    pub fn take(&mut self) -> Result<Option<Bytes>, FrameError> {
        loop {
            let is_begun = !self.begun.is_empty();
            let there = if is_begun { &*self.begun } else { &*self.rest };
            let length = self.length(there)?;
            let whole = PREFIX_BYTES + length.unwrap_or_default();
            if length.is_some() && there.len() >= whole {
                if !is_begun {
                    self.gather(whole);
                }
                let mut taken = self.begun.split();
                taken.advance(PREFIX_BYTES);
                return Ok(Some(taken.freeze()));
            }
            if self.rest.is_empty() {
                return Ok(None);
            }
            self.gather(whole);
        }
    }

    /// Keeps no memory for the next message, right after one was taken.
    pub fn let_go(&mut self) {
        if self.begun.is_empty() {
            self.begun = BytesMut::new();
        }
    }

    /// Nothing comes any more.
    ///
    /// # Errors
    /// A message has begun.
    pub fn end(&self) -> Result<(), FrameError> {
        if self.begun.is_empty() && self.rest.is_empty() {
            return Ok(());
        }
        Err(FrameError::Ended)
    }

    /// Gathers what there is of so many bytes.
    fn gather(&mut self, whole: usize) {
        let missing = whole - self.begun.len();
        self.begun.reserve(missing);
        let there = missing.min(self.rest.len());
        self.begun.extend_from_slice(&self.rest.split_to(there));
        if self.rest.is_empty() {
            // The connection goes on reading into the buffer that it came in.
            self.rest = Bytes::new();
        }
    }

    /// The length of the message that begins here, if it is known.
    fn length(&self, there: &[u8]) -> Result<Option<usize>, FrameError> {
        let Some((&[compressed, a, b, c, d], _)) = there.split_first_chunk::<PREFIX_BYTES>() else {
            return Ok(None);
        };
        if compressed != 0 {
            return Err(FrameError::Compressed(compressed));
        }
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > self.bytes_max {
            return Err(FrameError::TooLarge(length));
        }
        Ok(Some(length))
    }
}

/// A message as it lies on a stream.
#[must_use]
pub fn in_frame(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    frame.put_u8(0);
    // None is larger than four bytes can say: nobody takes one.
    frame.put_u32(message.len() as u32);
    frame.put_slice(message);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 300;

    /// What is taken of all bytes of a stream that come in frames of so many.
    fn take_all(all: &[u8], frame: usize) -> Result<Vec<Bytes>, FrameError> {
        let mut gathered = Gathered::new(MOST);
        let mut taken = Vec::new();
        for frame in all.chunks(frame) {
            gathered.add(Bytes::copy_from_slice(frame));
            while let Some(message) = gathered.take()? {
                taken.push(message);
            }
        }
        gathered.end().map(|()| taken)
    }

    fn encoded(messages: &[&[u8]]) -> Vec<u8> {
        messages
            .iter()
            .flat_map(|message| in_frame(message))
            .collect()
    }

    #[test]
    fn messages_are_the_same_however_they_are_cut_into_frames() {
        let large = vec![7; MOST];
        let messages: [&[u8]; 5] = [b"one", b"", &large, b"", b"four"];
        let all = encoded(&messages);
        for frame in 1..=all.len() {
            assert_eq!(take_all(&all, frame).unwrap(), messages, "{frame}");
        }
    }

    #[test]
    fn a_stream_that_ends_within_a_message_has_failed() {
        let all = encoded(&[b"one", b"two"]);
        for end in 1..all.len() {
            let read = take_all(&all[..end], 3);
            // Between the two it may end.
            assert_eq!(read.is_ok(), end == 8, "{end}: {read:?}");
        }
    }

    #[test]
    fn what_is_compressed_or_too_large_is_refused() {
        let of = |prefix: [u8; 5]| take_all(&prefix, 5).unwrap_err();
        assert_eq!(of([1, 0, 0, 0, 1]), FrameError::Compressed(1));
        assert_eq!(of([0, 0, 0, 1, 45]), FrameError::TooLarge(301));
        assert_eq!(of([0, 0, 0, 1, 44]), FrameError::Ended);
    }

    #[test]
    fn memory_is_kept_for_the_next_message_until_it_is_let_go() {
        let mut gathered = Gathered::new(MOST);
        let mut keeps_after = |lets_go: bool| {
            gathered.add(encoded(&[&[7; 200]]).into());
            drop(gathered.take().unwrap().unwrap());
            assert_eq!(gathered.take().unwrap(), None);
            if lets_go {
                gathered.let_go();
            }
            gathered.begun.try_reclaim(200)
        };
        assert!(keeps_after(false));
        assert!(!keeps_after(true));
    }

    #[test]
    fn what_has_begun_is_not_let_go() {
        let mut gathered = Gathered::new(MOST);
        let all = encoded(&[b"one"]);
        gathered.add(Bytes::copy_from_slice(&all[..6]));
        assert_eq!(gathered.take().unwrap(), None);
        gathered.let_go();
        assert_eq!(gathered.end(), Err(FrameError::Ended));
        gathered.add(Bytes::copy_from_slice(&all[6..]));
        assert_eq!(gathered.take().unwrap().unwrap(), b"one"[..]);
        assert_eq!(gathered.end(), Ok(()));
    }
}
