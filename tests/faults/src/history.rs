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

use courser_proto::v1::{Delivery, Entry, Message, PublishResult};

use crate::{
    changes::{Shape, Steps},
    control::Control,
    letter::Letter,
    load::CONSUMERS,
    message::{self, Given},
};

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
/// Behind everything that has happened.
pub(crate) const NOW: Stamp = NEVER - 1;
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
    pub(crate) given: Given,
    /// What was asked of the queue that is changed.
    pub(crate) steps: Steps,
    /// How often consumers began. When they end, what is on its way to them has failed unseen.
    pub(crate) consumed: u32,
    /// Leases ran out, too: consumers may then tell of two deliveries in either order, and of some not at all.
    pub(crate) leases_run_out: bool,
    /// Counts publishes that were asked and answered, for their order.
    moment: u64,
    /// Requests that were confirmed as BUFFERED, and since when. They become durable with the next SYNCED one.
    buffered: Vec<(u64, u32, Request)>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Producer {
    pub(crate) messages: Vec<Fate>,
    pub(crate) requests: Vec<Request>,
    /// The last message seen for the first time, by place.
    last_first: BTreeMap<Place, u32>,
}

/// Messages that were sent together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    /// Number of the first.
    pub(crate) first: u32,
    pub(crate) count: u32,
    is_buffered: bool,
    asked: u64,
}

impl Request {
    fn messages(self) -> Range<usize> {
        self.first as usize..(self.first + self.count) as usize
    }
}

/// What is known of one message.
#[derive(Clone, Debug)]
pub(crate) struct Fate {
    pub(crate) sent: Stamp,
    /// Answered OK, or seen. Unless it was sent as BUFFERED, it is durable then.
    pub(crate) confirmed: Stamp,
    /// It holds after a power cut.
    pub(crate) durable: Stamp,
    is_buffered: bool,
    pub(crate) at: [Settled; PLACES],
}

/// Who moves an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mover {
    /// The consumer with this lease, to the dead-letter queue.
    Lease(u64),
    /// The one who redrives, back from there.
    Redrive,
}

/// A move to the dead-letter queue, or back from there.
#[derive(Clone, Copy, Debug)]
struct Move {
    by: Mover,
    asked: Stamp,
    answered: Stamp,
}

impl Move {
    fn to_dead(self) -> bool {
        self.by != Mover::Redrive
    }

    /// It was asked of this broker, and is not answered.
    fn is_open(&self) -> bool {
        self.answered == NEVER && self.asked != BEFORE
    }
}

/// What is known of one entry.
#[derive(Clone, Debug)]
pub(crate) struct Settled {
    pub(crate) deliveries: u32,
    pub(crate) ack_sent: Stamp,
    pub(crate) acked: Stamp,
    /// As they were asked for, one after the other.
    moves: Vec<Move>,
    /// Nacks since it was redriven last: when they were answered, or [`NEVER`]. And how many there were in all.
    nacked: Vec<Stamp>,
    nacks_asked: u32,
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
        moves: Vec::new(),
        nacked: Vec::new(),
        nacks_asked: 0,
        lease: None,
    };

    /// Whether it may be in its queue, and whether in the dead-letter queue, behind event `cut`.
    pub(crate) fn may_live_or_be_dead(&self, cut: Stamp) -> (bool, bool) {
        let surely = self.moves.iter().rposition(|step| step.answered <= cut);
        let was_dead = surely.is_some_and(|at| self.moves[at].to_dead());
        let perhaps = &self.moves[surely.map_or(0, |at| at + 1)..];
        let may = |dead| {
            let may_move = |step: &Move| step.asked < cut && step.to_dead() == dead;
            was_dead == dead || perhaps.iter().any(may_move)
        };
        (may(false), may(true))
    }

    fn is_surely_dead(&self) -> bool {
        self.may_live_or_be_dead(NOW) == (false, true)
    }

    /// What the attempt of a delivery must be at least and at most, behind event `cut`. `ends` is how many consumers of
    /// its queue have ended, each of which may be a failure that nobody saw: they end one after the other, and what one
    /// held goes to the next.
    pub(crate) fn attempts(&self, cut: Stamp, ends: u32) -> (u32, u32) {
        let nacked = self.nacked.iter().filter(|at| **at <= cut).count();
        let least = 1 + u32::try_from(nacked).expect("few");
        (least, 1 + self.nacks_asked + ends)
    }
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
    /// Of those confirmed, how many as BUFFERED.
    pub(crate) buffered: u64,
    pub(crate) extended: u64,
    pub(crate) redriven: u64,
    /// Leases settled without results.
    pub(crate) told_later: u64,
    /// Queues made, filled, purged, paused, changed and deleted, beside the load.
    pub(crate) changed: u64,
}

impl Totals {
    /// What was asked of a broker, each about as much work for it.
    pub(crate) fn work(&self) -> u64 {
        self.sent + self.delivered + self.redriven + self.changed
    }

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
    pub(crate) fn sending(&self, producer: u32, count: u32, is_buffered: bool) -> u32 {
        let sent = self.control.events();
        let mut known = self.lock();
        known.moment += 1;
        let asked = known.moment;
        known.totals.sent += u64::from(count);
        let place = producer as usize;
        if known.producers.len() <= place {
            known.producers.resize_with(place + 1, Producer::default);
        }
        let producer = &mut known.producers[place];
        let first = u32::try_from(producer.messages.len()).expect("few enough");
        producer.requests.push(Request {
            first,
            count,
            is_buffered,
            asked,
        });
        let fate = Fate {
            sent,
            confirmed: NEVER,
            durable: NEVER,
            is_buffered,
            at: [const { Settled::NEVER }; PLACES],
        };
        let after = first as usize + count as usize;
        producer.messages.resize(after, fate);
        first
    }

    /// The request that begins with this message was confirmed.
    ///
    /// A log is read up to the first frame that is not whole. So a SYNCED request that is confirmed makes everything
    /// durable that was confirmed before it was asked.
    pub(crate) fn confirmed(&self, producer: u32, first: u32) {
        let stamp = self.control.events();
        let mut known = self.lock();
        let known = &mut *known;
        known.moment += 1;
        let requests = &known.producers[producer as usize].requests;
        let found = requests.iter().rev().find(|request| request.first == first);
        let request = *found.expect("it was sent");
        known.totals.confirmed += u64::from(request.count);
        for fate in known.fates(producer, request) {
            fate.confirmed = fate.confirmed.min(stamp);
        }
        if request.is_buffered {
            known.totals.buffered += u64::from(request.count);
            known.buffered.push((known.moment, producer, request));
            return;
        }
        let before = |(at, ..): &mut (u64, u32, Request)| *at < request.asked;
        let mut durable: Vec<_> = known.buffered.extract_if(.., before).collect();
        durable.push((known.moment, producer, request));
        for (_, producer, request) in durable {
            for fate in known.fates(producer, request) {
                fate.durable = fate.durable.min(stamp);
            }
        }
    }

    /// What a confirm says of one of its messages.
    pub(crate) fn told(&self, letter: Letter, result: &PublishResult) {
        let mut known = self.lock();
        let wrong = known.given.confirmed(letter, result);
        known.violations.extend(wrong);
        if result.queues as usize != PLACES {
            let what = format!("{letter:?} went to {} queues", result.queues);
            known.violations.push(what);
        }
    }

    /// A request with so many messages was refused: code, word, sentence.
    pub(crate) fn refused(&self, count: u32, refusal: (i32, String, String)) {
        let mut known = self.lock();
        known.totals.refused += u64::from(count);
        known.refusals.push(refusal);
    }

    /// Consumers begin.
    pub(crate) fn consuming(&self) {
        self.lock().consumed += 1;
    }

    /// A delivery came. Answers which message it is, if it is one that was sent.
    pub(crate) fn delivered(&self, place: Place, delivery: &Delivery) -> Option<Letter> {
        let stamp = self.control.events();
        let mut known = self.lock();
        known.totals.delivered += 1;
        let message = delivery.message.as_ref();
        let letter = known.read(message, &format!("place {place}"))?;
        known.judge_delivery(place, letter, delivery, stamp);
        Some(letter)
    }

    /// An entry of a dead-letter queue was looked at. Answers which message it is, if it is one that was sent.
    pub(crate) fn looked_at(&self, place: Place, entry: &Entry) -> Option<Letter> {
        let mut known = self.lock();
        let letter = known.read(entry.message.as_ref(), &format!("place {place}, looked at"))?;
        let dead = entry.dead_letter.clone().unwrap_or_default();
        let wrong = message::dead_difference(letter, QUEUES[place], &dead);
        known.violations.extend(wrong);
        let (_, may_be_dead) = known.settled(place, letter).may_live_or_be_dead(NOW);
        if !may_be_dead {
            let what = format!("place {place}: {letter:?} is dead, and nobody asked for that");
            known.violations.push(what);
        }
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
        known.leases_run_out = true;
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
    pub(crate) fn give_back(&self, place: Place, letter: Letter, failed: bool) {
        let mut known = self.lock();
        let settled = known.settled(place, letter);
        if failed {
            settled.nacks_asked += 1;
            settled.nacked.push(NEVER);
        }
        if let Some(lease) = &mut settled.lease {
            lease.given_back = true;
        }
    }

    pub(crate) fn nacked(&self, place: Place, letter: Letter) {
        let stamp = self.control.events();
        let mut known = self.lock();
        known.totals.nacked += 1;
        let mut nacked = known.settled(place, letter).nacked.iter_mut();
        if let Some(nacked) = nacked.find(|at| **at == NEVER) {
            *nacked = stamp;
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

    /// It was asked that an entry becomes a dead letter, or is redriven.
    pub(crate) fn move_sent(&self, place: Place, letter: Letter, by: Mover) {
        let asked = self.control.events();
        let mut known = self.lock();
        let settled = known.settled(place, letter);
        if by == Mover::Redrive {
            // It has not failed then, and whoever made it a dead letter does not hold it.
            settled.nacked.clear();
            if let Some(lease) = &mut settled.lease {
                lease.given_back = true;
            }
        }
        settled.moves.push(Move {
            by,
            asked,
            answered: NEVER,
        });
    }

    pub(crate) fn moved(&self, place: Place, letter: Letter, by: Mover) {
        let stamp = self.control.events();
        let mut known = self.lock();
        match by {
            Mover::Lease(_) => known.totals.dead_lettered += 1,
            Mover::Redrive => known.totals.redriven += 1,
        }
        let mut moves = known.settled(place, letter).moves.iter_mut();
        // Answers of two clients may be told in either order.
        let asked = moves.find(|step| step.by == by && step.is_open());
        asked.expect("it was asked for").answered = stamp;
    }

    /// It was refused, for the lease had run out.
    pub(crate) fn not_moved(&self, place: Place, letter: Letter, lease_id: u64) {
        let mut known = self.lock();
        let moves = &mut known.settled(place, letter).moves;
        moves.retain(|step| step.by != Mover::Lease(lease_id) || !step.is_open());
    }

    /// The queue that is changed is about to become so.
    pub(crate) fn changing(&self, after: Option<Shape>) {
        let asked = self.control.events();
        self.lock().steps.asked(asked, after);
    }

    pub(crate) fn changed(&self) {
        let stamp = self.control.events();
        let mut known = self.lock();
        known.totals.changed += 1;
        known.steps.answered(stamp);
    }

    /// Whether a fault has happened.
    pub(crate) fn was_hit(&self) -> bool {
        self.control.hits() > 0
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
                    let was_moved = settled.moves.iter().any(|step| step.asked == BEFORE);
                    let was_asked = settled.ack_sent == BEFORE || was_moved;
                    let is_settled = settled.acked != NEVER || settled.is_surely_dead();
                    if fate.confirmed != NEVER && !was_asked && !is_settled {
                        left.push(format!("place {place}: {producer}/{number} {settled:?}"));
                    }
                }
            }
        }
        left
    }

    fn fates(&mut self, producer: u32, request: Request) -> &mut [Fate] {
        &mut self.producers[producer as usize].messages[request.messages()]
    }

    /// Which message this is, if it is one that was sent, and what is wrong with it.
    fn read(&mut self, message: Option<&Message>, place: &str) -> Option<Letter> {
        let letter = message.and_then(|message| Letter::read(&message.payload));
        let Some((letter, message)) = letter
            .filter(|letter| self.fate(*letter).is_some())
            .zip(message)
        else {
            let what = format!("{place}: a payload that nobody sent came");
            self.violations.push(what);
            return None;
        };
        let wrong = self.given.came(letter, message);
        self.violations
            .extend(wrong.map(|wrong| format!("{place}: {wrong}")));
        Some(letter)
    }

    fn judge_delivery(&mut self, place: Place, letter: Letter, delivery: &Delivery, stamp: Stamp) {
        let fate = self.fate(letter).expect("it was looked up");
        fate.confirmed = fate.confirmed.min(stamp);
        if !fate.is_buffered {
            fate.durable = fate.durable.min(stamp);
        }
        let settled = &mut fate.at[place];
        let first = settled.deliveries == 0;
        settled.deliveries += 1;
        let settled = settled.clone();
        if settled.acked != NEVER {
            let what = format!("place {place}: {letter:?} was acked and came again");
            self.violations.push(what);
        }
        if delivery.dead_letter.is_some() || settled.is_surely_dead() {
            let what =
                format!("place {place}: {letter:?} was dead-lettered and came from its queue");
            self.violations.push(what);
        }
        let (least, most) = settled.attempts(NOW, (self.consumed - 1) * CONSUMERS[place]);
        if !self.leases_run_out && !(least..=most).contains(&delivery.attempt) {
            let what = format!(
                "place {place}: {letter:?} came with attempt {}, which is {least} to {most}",
                delivery.attempt
            );
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

    /// From now on all of this lies before the recording. The broker was killed, and the disk has all that it wrote.
    pub(crate) fn rebase(&mut self) {
        self.rebase_at(NOW);
    }

    /// The disk is as it was behind event `cut`, and that lies before the next recording. What was asked
    /// later never happened.
    pub(crate) fn rebase_at(&mut self, cut: Stamp) {
        self.totals = Totals::default();
        // What the disk does not have is lost, and what it has is on it.
        self.buffered.clear();
        // A broker that goes on from before a lease was given may give the same id.
        self.held.retain(|(stamp, _)| *stamp <= cut);
        for (stamp, _) in &mut self.held {
            *stamp = BEFORE;
        }
        self.steps.rebase_at(cut);
        let asked = |stamp: &mut Stamp| *stamp = if *stamp < cut { BEFORE } else { NEVER };
        let answered = |stamp: &mut Stamp| *stamp = if *stamp <= cut { BEFORE } else { NEVER };
        let producers = self.producers.iter_mut();
        for fate in producers.flat_map(|producer| producer.messages.iter_mut()) {
            asked(&mut fate.sent);
            fate.confirmed = fate.holds_since(cut);
            answered(&mut fate.confirmed);
            fate.durable = fate.confirmed;
            fate.is_buffered = false;
            for settled in &mut fate.at {
                asked(&mut settled.ack_sent);
                answered(&mut settled.acked);
                settled.moves.retain(|step| step.asked < cut);
                for step in &mut settled.moves {
                    asked(&mut step.asked);
                    answered(&mut step.answered);
                }
                settled.nacked.retain(|at| *at <= cut);
                settled.nacked.fill(BEFORE);
            }
        }
    }
}

impl Fate {
    /// Since when it must be there, behind event `cut`. A kill cuts behind all of them, and takes nothing that was
    /// written.
    pub(crate) fn holds_since(&self, cut: Stamp) -> Stamp {
        if cut == NOW {
            self.confirmed
        } else {
            self.durable
        }
    }
}
