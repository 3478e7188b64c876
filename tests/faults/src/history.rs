//! What was sent, confirmed, delivered and settled, each with the event of the disk before which it
//! was asked or after which it was answered.
//!
//! A stamp is a number of the interposer's counter. What was asked at stamp `s` can be in no event up to
//! `s`; what was answered at stamp `s` must be in every state of the disk that has the events up to `s`.
//! So a state of the disk cut at event `k` must hold what was answered at `k` or before, may hold what was
//! asked before `k`, and must not hold anything else. A kill cuts behind all stamps.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{control::Control, letter::Letter};

/// A queue together with its dead-letter queue, for an entry is in one of the two.
pub(crate) type Place = usize;
pub(crate) const PLACES: usize = 2;
/// The queues, by place. Both are bound to all topics of the load.
pub(crate) const QUEUES: [&str; PLACES] = ["work", "copy"];
/// The place that one consumer drains, so that the order of first deliveries can be judged.
const IN_ORDER: Place = 1;

pub(crate) type Stamp = i64;
/// It has not happened.
pub(crate) const NEVER: Stamp = Stamp::MAX;
/// The ends of leases are told as times of the wall clock, which the kernel may slew.
const ROUNDED: Duration = Duration::from_millis(10);
/// It happened before the recording began.
pub(crate) const BEFORE: Stamp = -1;

#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub(crate) producers: Vec<Producer>,
    pub(crate) violations: Vec<String>,
    /// Refusals of publishes: code, word, sentence.
    pub(crate) refusals: Vec<(i32, String, String)>,
    /// Leases that nobody has settled, and when their deliveries came.
    pub(crate) held: Vec<(Stamp, u64)>,
    pub(crate) totals: Totals,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Producer {
    pub(crate) messages: Vec<Fate>,
    /// Number of the first message of each request, and how many it has.
    pub(crate) requests: Vec<(u32, u32)>,
    /// The last message seen for the first time, by place.
    last_first: BTreeMap<Place, u32>,
}

/// What is known of one message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fate {
    pub(crate) sent: Stamp,
    /// Answered OK, or seen, which also says that it is durable.
    pub(crate) confirmed: Stamp,
    pub(crate) at: [Settled; PLACES],
}

/// What is known of one entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settled {
    pub(crate) deliveries: u32,
    pub(crate) ack_sent: Stamp,
    pub(crate) acked: Stamp,
    pub(crate) dead_sent: Stamp,
    pub(crate) dead: Stamp,
    /// The last lease, where leases may run out.
    lease: Option<Lease>,
}

/// A lease as its delivery tells it.
#[derive(Clone, Copy, Debug)]
struct Lease {
    from: Duration,
    until: Duration,
    /// Its consumer has asked for that.
    given_back: bool,
}

impl Settled {
    const NEVER: Self = Self {
        deliveries: 0,
        ack_sent: NEVER,
        acked: NEVER,
        dead_sent: NEVER,
        dead: NEVER,
        lease: None,
    };
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) sent: u64,
    pub(crate) confirmed: u64,
    pub(crate) refused: u64,
    pub(crate) delivered: u64,
    pub(crate) acked: u64,
    pub(crate) dead_lettered: u64,
    pub(crate) nacked: u64,
    pub(crate) released: u64,
    /// Leases that nobody settled, and those that had run out before they were settled.
    pub(crate) kept: u64,
    pub(crate) ran_out: u64,
    pub(crate) refused_twice: u64,
}

impl Totals {
    /// Deliveries of which is known what became.
    pub(crate) fn ended(&self) -> u64 {
        self.acked + self.dead_lettered + self.nacked + self.released + self.kept + self.ran_out
    }
}

/// Shared by all clients of a broker.
#[derive(Clone, Debug)]
pub(crate) struct History {
    known: Arc<Mutex<Known>>,
    control: Control,
}

impl History {
    pub(crate) fn new(known: Known, control: &Control) -> Self {
        Self {
            known: Arc::new(Mutex::new(known)),
            control: control.clone(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy, for a judge.
    pub(crate) fn known(&self) -> Known {
        self.lock().clone()
    }

    pub(crate) fn violation(&self, what: String) {
        self.lock().violations.push(what);
    }

    /// A request with so many messages is about to be sent; answers the number of the first.
    pub(crate) fn sending(&self, producer: u32, count: u32) -> u32 {
        let sent = self.control.events();
        let mut known = self.lock();
        known.totals.sent += u64::from(count);
        let place = producer as usize;
        if known.producers.len() <= place {
            known.producers.resize_with(place + 1, Producer::default);
        }
        let producer = &mut known.producers[place];
        let first = u32::try_from(producer.messages.len()).expect("few enough");
        producer.requests.push((first, count));
        let fate = Fate {
            sent,
            confirmed: NEVER,
            at: [Settled::NEVER; PLACES],
        };
        let after = first as usize + count as usize;
        producer.messages.resize(after, fate);
        first
    }

    pub(crate) fn confirmed(&self, producer: u32, first: u32, count: u32) {
        let stamp = self.control.events();
        let mut known = self.lock();
        known.totals.confirmed += u64::from(count);
        let messages = &mut known.producers[producer as usize].messages;
        for fate in &mut messages[first as usize..(first + count) as usize] {
            fate.confirmed = fate.confirmed.min(stamp);
        }
    }

    /// A request with so many messages was refused: code, word, sentence.
    pub(crate) fn refused(&self, count: u32, refusal: (i32, String, String)) {
        let mut known = self.lock();
        known.totals.refused += u64::from(count);
        known.refusals.push(refusal);
    }

    /// A delivery came. Answers which message it is, if it is one that was sent.
    pub(crate) fn delivered(&self, place: Place, payload: &[u8], dead: bool) -> Option<Letter> {
        let stamp = self.control.events();
        let mut known = self.lock();
        known.totals.delivered += 1;
        let Some(letter) = Letter::read(payload).filter(|letter| known.fate(*letter).is_some())
        else {
            let what = format!("place {place}: a payload that nobody sent was delivered");
            known.violations.push(what);
            return None;
        };
        known.judge_delivery(place, letter, dead, stamp);
        Some(letter)
    }

    /// A lease is kept, and not settled.
    pub(crate) fn kept(&self, lease_id: u64) {
        let stamp = self.control.events();
        let mut known = self.lock();
        known.totals.kept += 1;
        known.held.push((stamp, lease_id));
    }

    /// The delivery that has just come holds its entry for this time: nobody else does, unless the one
    /// before had given it back. Two consumers may tell of theirs in either order.
    pub(crate) fn leased(&self, place: Place, letter: Letter, time: Range<Duration>) {
        let mut known = self.lock();
        let last = &mut known.settled(place, letter).lease;
        let new = Lease {
            from: time.start,
            until: time.end,
            given_back: false,
        };
        let (first, second) = match *last {
            Some(last) if last.from > new.from => (new, last),
            Some(last) => (last, new),
            None => {
                *last = Some(new);
                return;
            }
        };
        *last = Some(second);
        if !first.given_back && second.from + ROUNDED < first.until {
            let what = format!(
                "place {place}: {letter:?} came again while its lease ran: {first:?} {second:?}"
            );
            known.violations.push(what);
        }
    }

    /// A consumer is about to nack or release what it holds.
    pub(crate) fn give_back(&self, place: Place, letter: Letter) {
        if let Some(lease) = &mut self.lock().settled(place, letter).lease {
            lease.given_back = true;
        }
    }

    pub(crate) fn ack_sent(&self, place: Place, letter: Letter) {
        let stamp = self.control.events();
        let mut known = self.lock();
        let sent = &mut known.settled(place, letter).ack_sent;
        *sent = (*sent).min(stamp);
    }

    pub(crate) fn acked(&self, place: Place, letter: Letter) {
        let stamp = self.control.events();
        let mut known = self.lock();
        known.totals.acked += 1;
        let acked = &mut known.settled(place, letter).acked;
        if *acked != NEVER {
            let what = format!("place {place}: {letter:?} was acked twice, and both were OK");
            known.violations.push(what);
        } else {
            *acked = stamp;
        }
    }

    pub(crate) fn dead_sent(&self, place: Place, letter: Letter) {
        let stamp = self.control.events();
        let mut known = self.lock();
        let sent = &mut known.settled(place, letter).dead_sent;
        *sent = (*sent).min(stamp);
    }

    pub(crate) fn dead(&self, place: Place, letter: Letter) {
        let stamp = self.control.events();
        let mut known = self.lock();
        known.totals.dead_lettered += 1;
        let dead = &mut known.settled(place, letter).dead;
        *dead = (*dead).min(stamp);
    }
}

impl Known {
    pub(crate) fn fate(&mut self, letter: Letter) -> Option<&mut Fate> {
        let producer = self.producers.get_mut(letter.producer as usize)?;
        producer.messages.get_mut(letter.number as usize)
    }

    fn settled(&mut self, place: Place, letter: Letter) -> &mut Settled {
        let fate = self.fate(letter).expect("it was delivered");
        &mut fate.at[place]
    }

    /// What was confirmed, and neither acked nor dead-lettered as far as anybody was told. What was
    /// asked of an earlier broker may have happened.
    pub(crate) fn unsettled(&self) -> Vec<String> {
        let mut left = Vec::new();
        for (producer, sent) in self.producers.iter().enumerate() {
            for (number, fate) in sent.messages.iter().enumerate() {
                for (place, settled) in fate.at.iter().enumerate() {
                    let was_asked = settled.ack_sent == BEFORE || settled.dead_sent == BEFORE;
                    let is_settled = settled.acked != NEVER || settled.dead != NEVER;
                    if fate.confirmed != NEVER && !was_asked && !is_settled {
                        left.push(format!("place {place}: {producer}/{number} {settled:?}"));
                    }
                }
            }
        }
        left
    }

    fn judge_delivery(&mut self, place: Place, letter: Letter, dead: bool, stamp: Stamp) {
        let fate = self.fate(letter).expect("it was looked up");
        fate.confirmed = fate.confirmed.min(stamp);
        let settled = &mut fate.at[place];
        let first = settled.deliveries == 0;
        settled.deliveries += 1;
        let settled = *settled;
        if settled.acked != NEVER {
            let what = format!("place {place}: {letter:?} was acked and came again");
            self.violations.push(what);
        }
        if dead && settled.dead_sent == NEVER {
            let what = format!("place {place}: {letter:?} is dead, and nobody asked for that");
            self.violations.push(what);
        }
        if !dead && settled.dead != NEVER {
            let what =
                format!("place {place}: {letter:?} was dead-lettered and came from its queue");
            self.violations.push(what);
        }
        if first && place == IN_ORDER {
            let producer = &mut self.producers[letter.producer as usize];
            let last = producer.last_first.insert(place, letter.number);
            if last.is_some_and(|last| last > letter.number) {
                let what = format!("place {place}: {letter:?} came first after {last:?}");
                self.violations.push(what);
            }
        }
    }

    /// From now on all of this lies before the recording.
    pub(crate) fn rebase(&mut self) {
        self.rebase_at(NEVER - 1);
    }

    /// The disk is as it was behind event `cut`, and that lies before the next recording. What was asked
    /// later never happened.
    pub(crate) fn rebase_at(&mut self, cut: Stamp) {
        self.totals = Totals::default();
        // A broker that goes on from before a lease was given may give the same id.
        self.held.retain(|(stamp, _)| *stamp <= cut);
        for (stamp, _) in &mut self.held {
            *stamp = BEFORE;
        }
        let asked = |stamp: &mut Stamp| *stamp = if *stamp < cut { BEFORE } else { NEVER };
        let answered = |stamp: &mut Stamp| *stamp = if *stamp <= cut { BEFORE } else { NEVER };
        let producers = self.producers.iter_mut();
        for fate in producers.flat_map(|producer| producer.messages.iter_mut()) {
            asked(&mut fate.sent);
            answered(&mut fate.confirmed);
            for settled in &mut fate.at {
                asked(&mut settled.ack_sent);
                answered(&mut settled.acked);
                asked(&mut settled.dead_sent);
                answered(&mut settled.dead);
            }
        }
    }
}
