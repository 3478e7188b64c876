//! A set of numbers that lie close together, with a bit for each.

use std::collections::BTreeMap;

const BITS: u64 = 65_536;
const WORDS: usize = BITS as usize / 64;

/// Positions of messages, or places in a queue.
#[derive(Debug, Default)]
pub(super) struct Places(BTreeMap<u64, Box<[u64]>>);

impl Places {
    pub(super) fn insert(&mut self, number: u64) {
        let (block, word, bit) = split(number);
        let words = self.0.entry(block);
        words.or_insert_with(|| vec![0; WORDS].into_boxed_slice())[word] |= bit;
    }

    pub(super) fn remove(&mut self, number: u64) {
        let (block, word, bit) = split(number);
        if let Some(words) = self.0.get_mut(&block) {
            words[word] &= !bit;
        }
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        let (block, word, bit) = split(number);
        self.0
            .get(&block)
            .is_some_and(|words| words[word] & bit != 0)
    }
}

fn split(number: u64) -> (u64, usize, u64) {
    let within = number % BITS;
    (number / BITS, (within / 64) as usize, 1 << (within % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_is_there_until_it_is_taken_out() {
        let mut places = Places::default();
        for number in [0, 63, 64, 65_535, 65_536, u64::MAX] {
            assert!(!places.contains(number));
            places.insert(number);
            assert!(places.contains(number) && !places.contains(number ^ 1));
            places.remove(number);
            assert!(!places.contains(number));
        }
    }
}
