//! Which messages came: a bit for each, set by whichever consumer gets it.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// Bits of a page: 128 KiB of memory for a million messages.
const PAGE_BITS: usize = 1 << 20;
/// Pages of a producer: all that a sequence number of 32 bits can name.
const PAGES: usize = (1 << 32) / PAGE_BITS;

/// The bits of all producers. Pages are made when their first message comes, for a run may be endless.
#[derive(Debug)]
pub(super) struct Tally(Vec<Box<[OnceLock<Page>]>>);

type Page = Box<[AtomicU64]>;

impl Tally {
    pub(super) fn new(producers: u16) -> Self {
        let pages = || (0..PAGES).map(|_| OnceLock::new()).collect();
        Self((0..producers).map(|_| pages()).collect())
    }

    /// Notes that a message came. `false` when it had come before.
    pub(super) fn note(&self, producer: u16, sequence: u32) -> bool {
        let Some(pages) = self.0.get(usize::from(producer)) else {
            return false;
        };
        let bit = sequence as usize;
        let page = pages[bit / PAGE_BITS]
            .get_or_init(|| (0..PAGE_BITS / 64).map(|_| AtomicU64::new(0)).collect());
        let mask = 1 << (bit % 64);
        page[bit % PAGE_BITS / 64].fetch_or(mask, Relaxed) & mask == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_new_once() {
        let tally = Tally::new(2);
        for sequence in [0, 63, 64, 1 << 20, u32::MAX] {
            assert!(tally.note(1, sequence));
            assert!(!tally.note(1, sequence));
            assert!(tally.note(0, sequence));
        }
    }
}
