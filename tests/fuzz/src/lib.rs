//! Shared by the targets: how much memory a decoder takes, whether what was read stands for what it was
//! read from, and what is made of an input.

pub mod made;
mod memory;
pub mod written;

use std::fmt::Debug;

pub use memory::takes_at_most;

/// Compares by what is shown where floating-point numbers are not equal to themselves.
#[track_caller]
pub fn assert_same<T: PartialEq + Debug>(left: &T, right: &T) {
    if left != right {
        assert_eq!(format!("{left:?}"), format!("{right:?}"));
    }
}

/// Holds a decoder and its encoder against each other. `read` is what was read from `bytes`.
///
/// What is written of it must read as the same. It must be these very bytes, or shorter: some numbers
/// have longer forms, which are read and never written.
#[track_caller]
pub fn assert_round_trip<T: PartialEq + Debug>(
    bytes: &[u8],
    read: &T,
    write: impl Fn(&T) -> Vec<u8>,
    again: impl Fn(&[u8]) -> Result<T, String>,
) {
    let written = write(read);
    match again(&written) {
        Ok(same) => assert_same(&same, read),
        Err(error) => panic!("what was written cannot be read: {error}; {read:?}"),
    }
    assert!(
        written.len() <= bytes.len(),
        "it grew from {} to {} bytes",
        bytes.len(),
        written.len()
    );
    if written.len() == bytes.len() {
        assert_eq!(written, bytes, "two encodings of one length mean the same");
    }
}

/// Reads small numbers and pieces from the input of a target, and zeros behind its end.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// A byte.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    /// Two bytes.
    pub fn short(&mut self) -> usize {
        usize::from(u16::from_le_bytes([self.byte(), self.byte()]))
    }

    /// Eight bytes.
    pub fn long(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    /// So many bytes, or what is left.
    pub fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
