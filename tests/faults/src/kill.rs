//! kill -9 at the Nth call that changes the folder: under load, while opening, while replaying, in a
//! checkpoint, while a segment is rewritten.

use std::collections::HashMap;

use courser_process::Addresses;

use crate::{
    broker::{Broker, Ended, Programs},
    control::{
        ANYWHERE, Action, CHANGES, CREATE, DRAFT, Fault, INDEX, LOG, MKDIR, RENAME, SYNC, UNLINK,
        WRITE,
    },
    folder::{self, Inodes},
    history::History,
    load::Load,
    random::Random,
    recording::{Kind, Recording},
    report::Outcome,
    round::{self, AFTER_ALL, Round, Start, Starts, Until},
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
    /// Only the calls from when it listens.
    listening: bool,
}

const fn sweep(what: &'static str, kinds: u64, classes: u64) -> Sweep {
    Sweep {
        what,
        kinds,
        classes,
        is_fresh: false,
        opening: false,
        listening: false,
    }
}

const SWEEPS: [Sweep; 9] = [
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
    Sweep {
        listening: true,
        ..sweep("checkpoints", CHANGES, INDEX)
    },
    sweep("a segment rewritten", CHANGES, DRAFT),
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

/// Counts the calls of each sweep. An error when one has none, for it would try nothing.
pub(crate) async fn count(
    programs: &Programs,
    starts: &Starts,
    random: &mut Random,
) -> Result<Counts, String> {
    let mut counts = [0; SWEEPS.len()];
    for (sweep, count) in SWEEPS.iter().zip(&mut counts) {
        let start = sweep.start(starts);
        let round = Round::new(programs, start);
        let control = &round.place.control;
        control.count(sweep.kinds, sweep.classes);
        let history = History::new(start.known.clone(), control);
        let then = || {
            if sweep.listening {
                control.count(sweep.kinds, sweep.classes);
            }
        };
        let ran = if sweep.opening {
            Broker::start(&round.place).await
        } else {
            let until = sweep.until().unwrap_or(Until::Rewritten);
            let (load, fresh) = (Load::SMALL, sweep.is_fresh);
            round::scenario(&round.place, &history, load, fresh, until, &then, random).await
        };
        *count = control.matched();
        let what = sweep.what;
        ran.map_err(|ended| format!("the sweep \"{what}\" was to count, and it ended: {ended:?}"))?;
        if let Some(wrong) = history.known().violations.first() {
            return Err(format!("the sweep \"{what}\" was to count: {wrong}"));
        }
        if *count == 0 {
            return Err(format!("the sweep \"{what}\" saw no call without faults"));
        }
    }
    Ok(Counts(counts))
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

    /// How long a load must go on for the calls to come, where that matters.
    fn until(&self) -> Option<Until> {
        match self.classes {
            DRAFT => Some(Until::Rewritten),
            INDEX => Some(Until::Checkpoints),
            _ => None,
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
    let mut round = Round::new(programs, start);
    let recording = round.place.record();
    let names = folder::read(&round.place.data()).1;
    let control = &round.place.control;
    // Through all calls in turn when there are few, else by chance.
    let turn = number / SWEEPS.len() as u64;
    let call = if calls <= 64 {
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
    if !sweep.listening {
        control.arm(&fault);
    }
    let arm = || {
        if sweep.listening {
            control.arm(&fault);
        }
    };
    let history = History::new(start.known.clone(), control);
    let mut outcome = Outcome::new(format!("{}: {fault:?}", sweep.what));
    let until = sweep.until();
    let until = until.unwrap_or_else(|| Until::either(40, &mut random));
    let ended = match round::scenario(
        &round.place,
        &history,
        Load::SMALL,
        sweep.is_fresh,
        until,
        &arm,
        &mut random,
    )
    .await
    {
        Ok(mut broker) => broker.kill(),
        Err(ended) => ended,
    };
    outcome.hit = control.hits() > 0;
    if outcome.hit {
        let recording = Recording::read(&recording, &round.place.data());
        outcome.kind = phase(&recording, names, &ended);
    }
    round.place.recording = None;
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

/// In the middle of what the broker was killed, by the last thing that it did.
fn phase(recording: &Recording, names: Inodes, ended: &Ended) -> &'static str {
    let mut names: HashMap<u64, String> = names
        .files
        .into_iter()
        .map(|(name, inode)| (inode, name))
        .collect();
    let mut last = String::new();
    for event in &recording.events {
        match event.kind {
            Kind::Create | Kind::Mkdir => drop(names.insert(event.inode, event.path.clone())),
            Kind::Rename => {
                for name in names.values_mut().filter(|name| **name == event.path) {
                    name.clone_from(&event.second);
                }
            }
            _ => {}
        }
        last = match event.kind {
            Kind::Write | Kind::Sync | Kind::SyncFailed | Kind::Truncate => {
                names.get(&event.inode).cloned().unwrap_or_default()
            }
            _ => event.path.clone(),
        };
    }
    let listened = Addresses::told(&ended.log).is_some();
    let is_rewrite = last.starts_with("log/0") && last.ends_with(".tmp");
    match (listened, last.as_str()) {
        (false, _) => "opening",
        (true, _) if is_rewrite => "a rewrite",
        (true, name) if name.starts_with("index") => "a checkpoint",
        (true, name) if name.ends_with(".seg") => "a commit",
        (true, name) if name.ends_with(".spare") || name.ends_with(".tmp") => "a file prepared",
        (true, _) => "names",
    }
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
