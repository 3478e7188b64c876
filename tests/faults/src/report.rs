//! What rounds found, counted and told.

use std::collections::BTreeMap;

use crate::{args::Class, history::Totals, round::Round};

/// Violations shown of one round.
const SHOWN: usize = 8;
/// Of fewer rounds, chance may leave out most faults.
const ROUNDS_JUDGED: u64 = 24;

/// What came of a round.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// What was done, to be read when something was wrong.
    pub(crate) what: String,
    /// Whether the fault happened.
    pub(crate) hit: bool,
    pub(crate) wrong: Vec<String>,
    pub(crate) totals: Totals,
    /// How it went, to be counted.
    pub(crate) kind: &'static str,
    /// The same, of rounds with many cases.
    pub(crate) kinds: BTreeMap<&'static str, u64>,
    /// Cuts or mutations in it.
    pub(crate) cases: u64,
    pub(crate) kept: Option<String>,
}

impl Outcome {
    pub(crate) fn new(what: String) -> Self {
        Self {
            what,
            hit: false,
            wrong: Vec::new(),
            totals: Totals::default(),
            kind: "",
            kinds: BTreeMap::new(),
            cases: 1,
            kept: None,
        }
    }

    /// The end of a round; its folder is kept when something was wrong.
    pub(crate) fn close(mut self, round: Round) -> Self {
        if !self.wrong.is_empty() && std::env::var_os("FAULTS_KEEP").is_some() {
            self.kept = Some(round.keep());
        }
        self
    }
}

/// All rounds of one class.
#[derive(Debug, Default)]
pub(crate) struct Sum {
    pub(crate) rounds: u64,
    pub(crate) failed: u64,
    pub(crate) cases: u64,
    pub(crate) hits: u64,
    totals: Totals,
    kinds: BTreeMap<&'static str, u64>,
}

impl Sum {
    pub(crate) fn add(&mut self, outcome: &Outcome) {
        self.rounds += 1;
        self.cases += outcome.cases;
        self.failed += u64::from(!outcome.wrong.is_empty());
        self.hits += u64::from(outcome.hit);
        let (sum, one) = (&mut self.totals, outcome.totals);
        sum.sent += one.sent;
        sum.confirmed += one.confirmed;
        sum.refused += one.refused;
        sum.delivered += one.delivered;
        sum.acked += one.acked;
        sum.dead_lettered += one.dead_lettered;
        sum.nacked += one.nacked;
        sum.released += one.released;
        sum.kept += one.kept;
        sum.ran_out += one.ran_out;
        sum.refused_twice += one.refused_twice;
        sum.buffered += one.buffered;
        sum.extended += one.extended;
        sum.redriven += one.redriven;
        sum.told_later += one.told_later;
        sum.changed += one.changed;
        for (kind, count) in &outcome.kinds {
            *self.kinds.entry(kind).or_default() += count;
        }
        if !outcome.kind.is_empty() {
            *self.kinds.entry(outcome.kind).or_default() += 1;
        }
    }

    /// What is wrong with rounds in most of which nothing happened: they have shown nothing.
    pub(crate) fn too_few_hits(&self, class: Class) -> Option<String> {
        let least = class.hits_least();
        let is_judged = self.rounds >= ROUNDS_JUDGED || least == 100;
        let too_few = is_judged && self.hits * 100 < self.rounds * least;
        too_few.then(|| {
            format!(
                "FAILED {class:?}: the fault happened in {} of {} rounds, and must in {least} of 100",
                self.hits, self.rounds
            )
        })
    }

    pub(crate) fn text(&self) -> String {
        let Totals {
            sent,
            confirmed,
            refused,
            delivered,
            acked,
            dead_lettered,
            nacked,
            released,
            kept,
            ran_out,
            refused_twice,
            buffered,
            extended,
            redriven,
            told_later,
            changed,
        } = self.totals;
        format!(
            "{} rounds, {} cases, the fault happened in {}, {} failed; sent {sent}, confirmed {confirmed}, \
             of these buffered {buffered}, refused {refused}, delivered {delivered}, acked {acked}, \
             dead-lettered {dead_lettered}, redriven {redriven}, nacked {nacked}, released {released}, \
             kept {kept}, extended {extended}, settled without results {told_later}, queues changed {changed}, \
             settled too late {ran_out}, settled twice and refused {refused_twice} {:?}",
            self.rounds, self.cases, self.hits, self.failed, self.kinds
        )
    }
}

/// A failed round, for people.
pub(crate) fn failure(class: &str, number: u64, outcome: &Outcome) -> String {
    let mut text = format!("FAILED {class} round {number}: {}\n", outcome.what);
    for wrong in outcome.wrong.iter().take(SHOWN) {
        text += &format!("  - {wrong}\n");
    }
    if outcome.wrong.len() > SHOWN {
        text += &format!("  and {} more\n", outcome.wrong.len() - SHOWN);
    }
    if let Some(kept) = &outcome.kept {
        text += &format!("  its folder is {kept}\n");
    }
    text
}
