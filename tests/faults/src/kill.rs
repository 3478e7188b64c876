//! kill -9 at the Nth call that changes the folder: under load, while opening, while replaying, in a
//! checkpoint, while a segment is rewritten.

use crate::{
    broker::{Broker, Programs},
    control::{
        ANYWHERE, Action, CHANGES, CREATE, Fault, INDEX, LOG, MKDIR, RENAME, SYNC, UNLINK, WRITE,
    },
    history::History,
    load::Load,
    random::Random,
    report::Outcome,
    round::{self, AFTER_ALL, Round, Start, Starts},
};

/// Which calls a sweep goes through.
#[derive(Clone, Copy, Debug)]
struct Sweep {
    what: &'static str,
    kinds: u64,
    classes: u64,
    is_fresh: bool,
    /// Only the calls before it listens.
    opening: bool,
}

const fn sweep(what: &'static str, kinds: u64, classes: u64) -> Sweep {
    Sweep {
        what,
        kinds,
        classes,
        is_fresh: false,
        opening: false,
    }
}

const SWEEPS: [Sweep; 8] = [
    Sweep {
        is_fresh: true,
        ..sweep("a first start", CHANGES, ANYWHERE)
    },
    Sweep {
        opening: true,
        ..sweep("opening and replaying", CHANGES, ANYWHERE)
    },
    sweep("any call", CHANGES, ANYWHERE),
    sweep("writes of the log", WRITE, LOG),
    sweep("syncs", SYNC, ANYWHERE),
    sweep("the index: checkpoints", CHANGES, INDEX),
    sweep(
        "names: segments made, dropped, rewritten",
        CREATE | RENAME | UNLINK | MKDIR,
        ANYWHERE,
    ),
    sweep(
        "folders and files of the log",
        SYNC | RENAME | UNLINK | CREATE,
        LOG,
    ),
];

/// How many calls each sweep has, as counted without faults.
#[derive(Clone, Debug)]
pub(crate) struct Counts([u64; SWEEPS.len()]);

/// Counts the calls of each sweep.
pub(crate) async fn count(programs: &Programs, starts: &Starts, random: &mut Random) -> Counts {
    let mut counts = [1; SWEEPS.len()];
    for (sweep, count) in SWEEPS.iter().zip(&mut counts) {
        let start = sweep.start(starts);
        let round = Round::new(programs, start);
        let control = &round.place.control;
        control.count(sweep.kinds, sweep.classes);
        let history = History::new(start.known.clone(), control);
        if sweep.opening {
            drop(
                Broker::start(&round.place)
                    .await
                    .expect("a start without faults"),
            );
        } else {
            let load = Load::SMALL;
            round::scenario(&round.place, &history, load, sweep.is_fresh, true, random)
                .await
                .expect("a load without faults");
        }
        *count = control.matched().max(1);
    }
    Counts(counts)
}

impl Counts {
    pub(crate) fn text(&self) -> String {
        let each = SWEEPS.iter().zip(self.0);
        let each: Vec<String> = each
            .map(|(sweep, count)| format!("{} {count}", sweep.what))
            .collect();
        each.join(", ")
    }
}

impl Sweep {
    fn start<'a>(&self, starts: &'a Starts) -> &'a Start {
        if self.is_fresh {
            &starts.fresh
        } else {
            &starts.worn
        }
    }
}

/// A round: one kill at a chosen call, perhaps more while it starts again, and the judgement.
pub(crate) async fn run(
    programs: &Programs,
    starts: &Starts,
    counts: &Counts,
    number: u64,
    mut random: Random,
) -> Outcome {
    let which = number as usize % SWEEPS.len();
    let (sweep, calls) = (SWEEPS[which], counts.0[which]);
    let start = sweep.start(starts);
    let round = Round::new(programs, start);
    let control = &round.place.control;
    // Through all calls in turn when there are few, else by chance.
    let turn = number / SWEEPS.len() as u64;
    let call = if turn * 3 < calls * 3 && calls <= 64 {
        turn % calls + 1
    } else {
        random.within(1..calls + 1)
    };
    let actions = [Action::KillBefore, Action::KillAfter, Action::KillTorn];
    let fault = Fault {
        kinds: sweep.kinds,
        classes: sweep.classes,
        call,
        action: actions[random.within(0..3) as usize],
    };
    control.arm(&fault);
    let history = History::new(start.known.clone(), control);
    let mut outcome = Outcome::new(format!("{}: {fault:?}", sweep.what));
    let ended = match round::scenario(
        &round.place,
        &history,
        Load::SMALL,
        sweep.is_fresh,
        random.percent(40),
        &mut random,
    )
    .await
    {
        Ok(mut broker) => broker.kill(),
        Err(ended) => ended,
    };
    outcome.hit = control.hits() > 0;
    if !ended.is_kill() {
        outcome.wrong.push(format!("it ended by itself: {ended:?}"));
    }
    while random.percent(35) {
        again(&round, &mut random, &mut outcome).await;
    }
    let known = history.known();
    outcome.totals = known.totals;
    outcome
        .wrong
        .extend(round::verify(&round.place, &known, AFTER_ALL).await);
    if random.percent(15) {
        outcome
            .wrong
            .extend(round::verify_empty(&round.place).await);
    }
    outcome.close(round)
}

/// Another kill while it starts on what the last one left.
async fn again(round: &Round, random: &mut Random, outcome: &mut Outcome) {
    let fault = Fault {
        kinds: CHANGES,
        classes: ANYWHERE,
        call: random.within(1..60),
        action: Action::KillTorn,
    };
    round.place.control.arm(&fault);
    outcome.what += &format!(", then at call {} of the next start", fault.call);
    let ended = match Broker::start(&round.place).await {
        Ok(mut broker) => broker.kill(),
        Err(ended) => ended,
    };
    if !ended.is_kill() {
        outcome
            .wrong
            .push(format!("a start ended by itself: {ended:?}"));
    }
}
