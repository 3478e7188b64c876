//! The judge: what a broker holds after a fault, against the history.

use std::collections::BTreeMap;

use crate::{
    history::{Fate, Known, PLACES, Place, QUEUES, Request, Settled, Stamp},
    letter::Letter,
    load::CONSUMERS,
};

/// What was found in one place, in the order in which it came.
pub(crate) type Found = [Vec<Entry>; PLACES];

#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) letter: Letter,
    /// It was in the dead-letter queue.
    pub(crate) dead: bool,
    pub(crate) attempt: u32,
}

/// What must be, may be and must not be at a cut.
struct Law {
    cut: Stamp,
}

impl Law {
    fn must_exist(&self, fate: &Fate) -> bool {
        fate.holds_since(self.cut) <= self.cut
    }

    fn may_exist(&self, fate: &Fate) -> bool {
        fate.sent < self.cut
    }

    fn may_be_gone(&self, settled: &Settled) -> bool {
        settled.ack_sent < self.cut
    }

    fn must_be_gone(&self, settled: &Settled) -> bool {
        settled.acked <= self.cut
    }

    /// What is wrong with an entry of this fate that was found so often, dead so often.
    fn entry(&self, fate: &Fate, place: Place, count: u32, dead: u32) -> Option<&'static str> {
        let settled = &fate.at[place];
        if count > 1 {
            return Some("is there twice");
        }
        if count == 0 {
            let lost = self.must_exist(fate) && !self.may_be_gone(settled);
            return lost.then_some("was confirmed and is lost");
        }
        if !self.may_exist(fate) {
            return Some("is there, and was not sent yet");
        }
        if self.must_be_gone(settled) {
            return Some("was acked and came again");
        }
        match (settled.may_live_or_be_dead(self.cut), dead) {
            ((false, _), 0) => Some("was dead-lettered, and is back in its queue"),
            ((_, false), 1) => Some("is dead, and nobody asked for that, or it was redriven"),
            _ => None,
        }
    }

    /// What is wrong with the attempt with which an entry was found.
    fn attempt(&self, known: &Known, place: Place, entry: &Entry) -> Option<String> {
        let letter = entry.letter;
        let fate = &known.producers[letter.producer as usize].messages[letter.number as usize];
        let (least, most) = if entry.dead {
            (1, 1)
        } else {
            fate.at[place].attempts(self.cut, known.consumed * CONSUMERS[place])
        };
        let is_less = entry.attempt < least;
        let is_more = entry.attempt > most && !known.leases_run_out;
        (is_less || is_more).then(|| {
            format!(
                "{}: {letter:?} came with attempt {}, which is {least} to {most}",
                QUEUES[place], entry.attempt
            )
        })
    }
}

/// All that is wrong with what was found in a state of the disk cut behind event `cut`.
pub(crate) fn judge(known: &Known, cut: Stamp, found: &Found) -> Vec<String> {
    let law = Law { cut };
    let mut wrong = Vec::new();
    let mut counts: BTreeMap<(Place, Letter), (u32, u32)> = BTreeMap::new();
    for (place, entries) in found.iter().enumerate() {
        for entry in entries {
            let count = counts.entry((place, entry.letter)).or_default();
            count.0 += 1;
            count.1 += u32::from(entry.dead);
            wrong.extend(law.attempt(known, place, entry));
        }
    }
    for (number, producer) in known.producers.iter().enumerate() {
        for (at, fate) in producer.messages.iter().enumerate() {
            let letter = letter(number, at);
            for (place, queue) in QUEUES.iter().enumerate() {
                let (count, dead) = counts.get(&(place, letter)).copied().unwrap_or_default();
                if let Some(what) = law.entry(fate, place, count, dead) {
                    wrong.push(format!("{queue}: {letter:?} {what}: {fate:?}"));
                }
            }
        }
        for request in &producer.requests {
            wrong.extend(whole(&law, known, number, *request, &counts));
        }
    }
    wrong.extend(order(known, found));
    wrong
}

fn letter(producer: usize, number: usize) -> Letter {
    Letter {
        producer: u32::try_from(producer).expect("few"),
        number: u32::try_from(number).expect("few"),
    }
}

/// A request is there as a whole, in all of its queues, or not at all.
fn whole(
    law: &Law,
    known: &Known,
    producer: usize,
    request: Request,
    counts: &BTreeMap<(Place, Letter), (u32, u32)>,
) -> Option<String> {
    let Request { first, count, .. } = request;
    let entries = (first..first + count).flat_map(|number| {
        let fate = &known.producers[producer].messages[number as usize];
        (0..PLACES).map(move |place| (number as usize, place, fate))
    });
    let is_there =
        |number: usize, place: Place| counts.contains_key(&(place, letter(producer, number)));
    let (mut there, mut missing) = (0, 0);
    for (number, place, fate) in entries {
        if is_there(number, place) {
            there += 1;
        } else if !law.may_be_gone(&fate.at[place]) {
            missing += 1;
        }
    }
    (there > 0 && missing > 0).then(|| {
        format!(
            "producer {producer}: of the request from {first} with {count}, {there} entries are there and {missing} are not"
        )
    })
}

/// What was never delivered before comes in the order of publishing, by producer.
fn order(known: &Known, found: &Found) -> Vec<String> {
    let mut wrong = Vec::new();
    for (place, entries) in found.iter().enumerate() {
        let mut last = BTreeMap::new();
        for Entry { letter, dead, .. } in entries {
            let fate = &known.producers[letter.producer as usize].messages[letter.number as usize];
            if *dead || fate.at[place].deliveries > 0 {
                continue;
            }
            let before = last.insert(letter.producer, letter.number);
            if before.is_some_and(|before| before > letter.number) {
                wrong.push(format!(
                    "{}: {letter:?} came first, after {before:?}",
                    QUEUES[place]
                ));
            }
        }
    }
    wrong
}
