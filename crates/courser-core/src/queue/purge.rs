//! Removing many entries at once: what whole chunks hold goes without being read.

use super::Queue;
use crate::{
    chunk::State,
    id::{ChunkNo, Seq},
    queue::Pager,
};

impl Queue {
    /// Removes ready and delayed entries, oldest first, up to `limit`. Answers how many, the place
    /// before which all others are gone, and those that were leased.
    pub(crate) fn purge(&mut self, limit: u64, pager: &mut Pager<'_>) -> (u64, Seq, Vec<Seq>) {
        let (mut purged, mut before, mut kept) = (0, Seq(1), Vec::new());
        let numbers: Vec<_> = self.chunks.keys().copied().collect();
        for number in numbers {
            let Some(chunk) = self.chunks.get(&number) else {
                continue;
            };
            let alive = u64::from(chunk.alive);
            if chunk.pinned == 0 && purged + alive <= limit && number != self.next_seq.chunk() {
                self.drop_whole(number);
                purged += alive;
                before = ChunkNo(number.0 + 1).first();
                continue;
            }
            if purged == limit || self.load(number, pager).is_none() {
                break;
            }
            purged += self.purge_chunk(number, limit - purged, &mut before, &mut kept);
        }
        (purged, before.min(self.next_seq), kept)
    }

    /// Forgets a chunk in which nothing is leased or given back.
    fn drop_whole(&mut self, number: ChunkNo) {
        if let Some(chunk) = self.chunks.get(&number) {
            self.alive -= u64::from(chunk.alive);
            self.delayed -= u64::from(chunk.delayed);
            self.bytes -= chunk.bytes;
            self.drop_chunk(number);
        }
    }

    fn purge_chunk(
        &mut self,
        number: ChunkNo,
        limit: u64,
        before: &mut Seq,
        kept: &mut Vec<Seq>,
    ) -> u64 {
        let mut purged = 0;
        let states: Vec<_> = self
            .chunks
            .get(&number)
            .map(|chunk| {
                chunk
                    .iter(number)
                    .map(|(seq, entry)| (seq, entry.state))
                    .collect()
            })
            .unwrap_or_default();
        for (seq, state) in states {
            if matches!(state, State::Leased(_)) {
                kept.push(seq);
            } else if purged < limit {
                self.remove(seq);
                purged += 1;
            } else {
                break;
            }
            *before = Seq(seq.0 + 1);
        }
        purged
    }

    /// Removes all entries before a place, but for some: a purge that the log tells of.
    pub(crate) fn replay_purge(&mut self, before: Seq, kept: &[Seq], pager: &mut Pager<'_>) {
        let numbers: Vec<_> = self
            .chunks
            .range(..=before.chunk())
            .map(|(n, _)| *n)
            .collect();
        for number in numbers {
            let end = ChunkNo(number.0 + 1).first();
            let next_kept = kept.get(kept.partition_point(|seq| *seq < number.first()));
            let keeps = next_kept.is_some_and(|seq| *seq < end);
            if end <= before && !keeps && number != self.next_seq.chunk() {
                self.drop_whole(number);
                continue;
            }
            let Some(chunk) = self.load(number, pager) else {
                continue;
            };
            let gone: Vec<_> = chunk
                .iter(number)
                .map(|(seq, _)| seq)
                .filter(|seq| *seq < before && kept.binary_search(seq).is_err())
                .collect();
            for seq in gone {
                self.remove(seq);
            }
        }
    }
}
