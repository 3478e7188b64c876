//! What was sent, confirmed, seen and acked, and the judge of it.
//!
//! A message goes to several places: each is a queue together with its dead-letter queue, for an entry is
//! in one of the two. What the broker answered OK is binding; what was asked and not answered before the
//! kill may have happened or not.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::letter::Letter;

/// A queue and its dead-letter queue.
pub(crate) type Place = usize;

/// Shared by all clients; lives over every kill.
#[derive(Clone, Debug)]
pub(crate) struct History(Arc<Mutex<Known>>);

#[derive(Debug)]
struct Known {
    producers: Vec<Producer>,
    /// The places whose first deliveries are seen by one consumer, so that their order can be judged.
    in_order: Vec<Place>,
    violations: Vec<String>,
    totals: Totals,
}

#[derive(Debug, Default)]
struct Producer {
    messages: Vec<Fate>,
    /// Number of the first message of each request, and how many it has.
    requests: Vec<(u32, u32)>,
    /// The last message seen for the first time, by place.
    last_first: BTreeMap<Place, u32>,
}

/// What is known of one message. The places are bits.
#[derive(Clone, Copy, Debug, Default)]
struct Fate {
    confirmed: bool,
    seen: u8,
    ack_sent: u8,
    acked: u8,
    /// Delivered after the last kill.
    drained: u8,
}

/// For the closing line.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) sent: u64,
    pub(crate) confirmed: u64,
    pub(crate) delivered: u64,
    pub(crate) acked: u64,
    pub(crate) dead_lettered: u64,
}

impl History {
    pub(crate) fn new(producers: usize, in_order: &[Place]) -> Self {
        Self(Arc::new(Mutex::new(Known {
            producers: (0..producers).map(|_| Producer::default()).collect(),
            in_order: in_order.to_vec(),
            violations: Vec::new(),
            totals: Totals::default(),
        })))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request with so many messages is about to be sent; answers the number of the first.
    pub(crate) fn sending(&self, producer: u32, count: u32) -> u32 {
        let mut known = self.known();
        known.totals.sent += u64::from(count);
        let producer = &mut known.producers[producer as usize];
        let first = u32::try_from(producer.messages.len()).expect("few enough");
        producer.requests.push((first, count));
        let after = first as usize + count as usize;
        producer.messages.resize(after, Fate::default());
        first
    }

    pub(crate) fn confirmed(&self, producer: u32, first: u32, count: u32) {
        let mut known = self.known();
        known.totals.confirmed += u64::from(count);
        let messages = &mut known.producers[producer as usize].messages;
        for fate in &mut messages[first as usize..(first + count) as usize] {
            fate.confirmed = true;
        }
    }

    /// A delivery came. Answers which message it is, if it is one that was sent.
    pub(crate) fn delivered(&self, place: Place, payload: &[u8], dead: bool) -> Option<Letter> {
        let letter = Letter::read(payload);
        let mut known = self.known();
        known.totals.delivered += 1;
        known.totals.dead_lettered += u64::from(dead);
        let Some(letter) = letter else {
            known.violation(format!(
                "place {place}: a payload that nobody wrote was delivered"
            ));
            return None;
        };
        known.judge_delivery(place, letter);
        Some(letter)
    }

    pub(crate) fn ack_sent(&self, place: Place, letter: Letter) {
        self.known().fate(letter).ack_sent |= 1 << place;
    }

    pub(crate) fn acked(&self, place: Place, letter: Letter) {
        let mut known = self.known();
        known.totals.acked += 1;
        known.fate(letter).acked |= 1 << place;
    }

    /// A delivery during the last drain, when nothing is killed any more: once for each message.
    pub(crate) fn drained(&self, place: Place, letter: Letter) {
        let mut known = self.known();
        let fate = known.fate(letter);
        let again = fate.drained & (1 << place) != 0;
        fate.drained |= 1 << place;
        if again {
            known.violation(format!("place {place}: {letter:?} is there twice"));
        }
    }

    pub(crate) fn violation(&self, what: String) {
        self.known().violation(what);
    }

    /// The end: everything was drained.
    pub(crate) fn judge(&self, places: Place) {
        let mut known = self.known();
        let mut found = Vec::new();
        for (number, producer) in known.producers.iter().enumerate() {
            found.extend(
                producer
                    .judge(places)
                    .map(|what| format!("producer {number}: {what}")),
            );
        }
        for what in found {
            known.violation(what);
        }
    }

    /// Fails the test with what is wrong.
    pub(crate) fn assert_no_violation(&self) {
        let known = self.known();
        let shown: Vec<_> = known.violations.iter().take(20).collect();
        assert!(
            shown.is_empty(),
            "{} violations, the first: {shown:#?}",
            known.violations.len()
        );
    }

    pub(crate) fn totals(&self) -> Totals {
        self.known().totals
    }
}

impl Known {
    fn fate(&mut self, letter: Letter) -> &mut Fate {
        &mut self.producers[letter.producer as usize].messages[letter.number as usize]
    }

    fn violation(&mut self, what: String) {
        self.violations.push(what);
    }

    fn judge_delivery(&mut self, place: Place, letter: Letter) {
        let in_order = self.in_order.contains(&place);
        let producer = self.producers.get_mut(letter.producer as usize);
        let Some((producer, fate)) = producer.and_then(|producer| {
            let fate = producer.messages.get(letter.number as usize).copied()?;
            Some((producer, fate))
        }) else {
            return self.violation(format!("{letter:?} was never sent"));
        };
        let first = fate.seen & (1 << place) == 0;
        producer.messages[letter.number as usize].seen |= 1 << place;
        if first && in_order {
            let last = producer.last_first.insert(place, letter.number);
            if last.is_some_and(|last| last > letter.number) {
                self.violation(format!(
                    "place {place}: {letter:?} came first after {last:?}"
                ));
            }
        }
        if fate.acked & (1 << place) != 0 {
            self.violation(format!(
                "place {place}: {letter:?} was acked and came again"
            ));
        }
    }
}

impl Producer {
    fn judge(&self, places: Place) -> impl Iterator<Item = String> {
        let lost = self
            .messages
            .iter()
            .enumerate()
            .flat_map(move |(number, fate)| {
                (0..places).filter_map(move |place| {
                    let mut what = fate.judge(place, places)?;
                    what.insert_str(0, &format!("place {place}: message {number} "));
                    Some(what)
                })
            });
        let torn = self.requests.iter().filter_map(|&(first, count)| {
            let messages = &self.messages[first as usize..(first + count) as usize];
            let there = messages.iter().filter(|fate| fate.seen != 0).count();
            (there != 0 && there != messages.len()).then(|| {
                format!("of the {count} messages of one request from {first}, {there} are there")
            })
        });
        lost.chain(torn)
    }
}

impl Fate {
    fn judge(self, place: Place, places: Place) -> Option<String> {
        let bit = 1 << place;
        if self.confirmed && self.seen & bit == 0 {
            return Some("was confirmed and never came".to_owned());
        }
        if self.seen != 0 && self.seen != (1 << places) - 1 {
            return Some(format!("reached only some of its queues: {:b}", self.seen));
        }
        let open = self.seen & bit != 0 && self.ack_sent & bit == 0;
        if open && self.drained & bit == 0 {
            return Some("was never acked and is gone".to_owned());
        }
        None
    }
}
