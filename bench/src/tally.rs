//! Which messages came: a bit for each, set by whichever consumer gets it.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

const PAGE_BITS: usize = 1 << 20;
const PAGES: usize = (1 << 32) / PAGE_BITS;

type Page = Box<[AtomicU64]>;

/// The bits of every queue and producer. Pages are made when their first message comes.
#[derive(Debug)]
pub(crate) struct Tally {
    producers: usize,
    pages: Vec<Box<[OnceLock<Page>]>>,
}

impl Tally {
    pub(crate) fn new(queues: u16, producers: u16) -> Self {
        let producers = usize::from(producers);
        let pages = || (0..PAGES).map(|_| OnceLock::new()).collect();
        Self {
            producers,
            pages: (0..usize::from(queues) * producers)
                .map(|_| pages())
                .collect(),
        }
    }

    /// Notes that a message came. `false` when it had come before.
    pub(crate) fn note(&self, queue: u16, producer: u16, sequence: u32) -> bool {
        let index = usize::from(queue) * self.producers + usize::from(producer);
        let bit = sequence as usize;
        let page = self.pages[index][bit / PAGE_BITS]
            .get_or_init(|| (0..PAGE_BITS / 64).map(|_| AtomicU64::new(0)).collect());
        let mask = 1 << (bit % 64);
        page[bit % PAGE_BITS / 64].fetch_or(mask, Relaxed) & mask == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_new_once_in_each_queue() {
        let tally = Tally::new(2, 2);
        for sequence in [0, 63, 64, 1 << 20, u32::MAX] {
            assert!(tally.note(0, 1, sequence));
            assert!(!tally.note(0, 1, sequence));
            assert!(tally.note(0, 0, sequence));
            assert!(tally.note(1, 1, sequence));
        }
    }
}
