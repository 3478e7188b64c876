//! Power cuts: a load is recorded, cut at many events, and a broker is started on what may be left.

use std::sync::Arc;

use crate::{
    args::CUTS_OF_A_RECORDING,
    broker::Programs,
    control::{ANYWHERE, DRAFT, FOLDER, INDEX, LOG},
    folder,
    history::{History, Known},
    load::{self, Load},
    random::Random,
    rebuild::{Mode, rebuild},
    recording::{Kind, Recording},
    report::Outcome,
    round::{self, Round, Start, Starts, Until},
};

/// A recorded load.
pub(crate) struct Recorded {
    pub(crate) base: (folder::Tree, folder::Inodes),
    pub(crate) recording: Recording,
    pub(crate) known: Known,
}

/// Records a load. `lies` are the parts of the folder whose syncs only pretend.
async fn record(
    programs: &Programs,
    start: &Start,
    lies: u64,
    load: Load,
    until: Until,
    random: &mut Random,
    outcome: &mut Outcome,
) -> Recorded {
    let mut round = Round::new(programs, start);
    let path = round.place.record();
    let data = round.place.data();
    let base = folder::read(&data);
    let control = round.place.control.clone();
    control.lie(lies);
    let history = History::new(start.known.clone(), &control);
    match round::scenario(
        &round.place,
        &history,
        load,
        start.is_fresh,
        until,
        &|| (),
        random,
    )
    .await
    {
        Ok(mut broker) => {
            if load.is_large() {
                round::dropped(&broker).await;
                load::run(&broker, &history, load, random).await;
            }
            // Ended in order: a call that is cut off by a kill may be done and not written down.
            let ended = broker.end().await;
            if !ended.status.success() {
                outcome
                    .wrong
                    .push(format!("it did not end well: {ended:?}"));
            }
        }
        Err(ended) => outcome.wrong.push(format!("it ended by itself: {ended:?}")),
    }
    if control.unknown() > 0 {
        let what = format!("{} calls that are not modelled", control.unknown());
        outcome.wrong.push(what);
    }
    let known = history.known();
    let recording = Recording::read(&path, &data);
    // The proof that the recording is complete: with all of it, the folder comes out as it is.
    let all = rebuild(
        (&base.0, &base.1),
        &recording,
        recording.last(),
        Mode::All,
        random,
    );
    if let Some(difference) = folder::difference(&all, &folder::read(&data).0) {
        let what = format!("the recording is not what happened: {difference}");
        outcome.wrong.push(what);
    }
    outcome.totals = known.totals;
    outcome.wrong.extend(known.violations.clone());
    Recorded {
        base,
        recording,
        known,
    }
}

impl Recorded {
    /// Where to cut: anywhere, or right behind a sync, or right before one ends.
    fn cut(&self, random: &mut Random) -> i64 {
        let last = self.recording.last();
        let any = random.within(0..last.cast_unsigned() + 1).cast_signed();
        if random.percent(50) {
            return any;
        }
        let sync = self
            .recording
            .events
            .iter()
            .find(|event| event.number >= any && event.kind == Kind::Sync);
        sync.map_or(any, |sync| sync.number - i64::from(random.percent(30)))
    }

    /// A state that a cut may leave, to go on from.
    fn start(&self, random: &mut Random) -> (i64, Start) {
        let cut = self.cut(random);
        let mode = Mode::any(cut, random);
        let base = (&self.base.0, &self.base.1);
        let tree = Arc::new(rebuild(base, &self.recording, cut, mode, random));
        let mut known = self.known.clone();
        known.violations.clear();
        known.rebase_at(cut);
        // The queues are made, if they are not there.
        let start = Start {
            tree,
            known,
            is_fresh: true,
        };
        (cut, start)
    }

    /// Cuts; the folder of the first that was wrong.
    async fn cuts(
        &self,
        programs: &Programs,
        count: u64,
        random: &mut Random,
        outcome: &mut Outcome,
    ) -> Option<Round> {
        for _ in 0..count {
            let cut = self.cut(random);
            let mode = Mode::any(cut, random);
            let (wrong, round) = self.judge(programs, cut, mode, random).await;
            outcome.cases += 1;
            if !wrong.is_empty() {
                let events = self.recording.last();
                outcome.what += &format!("; cut at {cut} of {events}, {mode:?}");
                outcome.wrong.extend(wrong);
                return Some(round);
            }
        }
        None
    }

    /// What is wrong with a state that a cut may leave.
    pub(crate) async fn judge(
        &self,
        programs: &Programs,
        cut: i64,
        mode: Mode,
        random: &mut Random,
    ) -> (Vec<String>, Round) {
        let base = (&self.base.0, &self.base.1);
        let tree = rebuild(base, &self.recording, cut, mode, random);
        let start = Start {
            tree: Arc::new(tree),
            ..Start::default()
        };
        let round = Round::new(programs, &start);
        let mut known = self.known.clone();
        known.violations.clear();
        let wrong = round::verify(&round.place, &known, cut).await;
        (wrong, round)
    }
}

/// A load, and cuts in it; then the power goes a second time, while a broker starts on what one of them
/// left and works on.
pub(crate) async fn run(
    programs: &Programs,
    starts: &Starts,
    number: u64,
    mut random: Random,
) -> Outcome {
    let start = if number % 3 == 1 {
        &starts.fresh
    } else {
        &starts.worn
    };
    let mut outcome = Outcome::new(format!("cuts, fresh: {}", start.is_fresh));
    outcome.hit = true;
    outcome.cases = 0;
    // Now and then so much that segments are filled, dropped and used again.
    let load = if number % 5 == 4 {
        Load::LARGE
    } else {
        Load {
            requests: 80,
            ..Load::SMALL
        }
    };
    outcome.what += &format!(", large: {}", load.is_large());
    let until = Until::Rewritten;
    let recorded = record(programs, start, 0, load, until, &mut random, &mut outcome).await;
    let first = CUTS_OF_A_RECORDING * 3 / 5;
    if let Some(round) = recorded
        .cuts(programs, first, &mut random, &mut outcome)
        .await
    {
        return outcome.close(round);
    }
    let (cut, second) = recorded.start(&mut random);
    outcome.what += &format!("; gone on from a cut at {cut}");
    let totals = outcome.totals;
    let recorded = record(
        programs,
        &second,
        0,
        Load::SMALL,
        Until::Loaded,
        &mut random,
        &mut outcome,
    )
    .await;
    outcome.totals = totals;
    let rest = CUTS_OF_A_RECORDING - first;
    match recorded
        .cuts(programs, rest, &mut random, &mut outcome)
        .await
    {
        Some(round) => outcome.close(round),
        None => outcome,
    }
}

/// A store whose syncs only pretend: the judge must see it.
pub(crate) async fn broken(
    programs: &Programs,
    starts: &Starts,
    number: u64,
    mut random: Random,
) -> Outcome {
    const PARTS: [(u64, &str); 4] = [
        (ANYWHERE | DRAFT | FOLDER, "all syncs only pretend"),
        (LOG | DRAFT, "syncs of the log only pretend"),
        (INDEX, "syncs of the index only pretend"),
        (LOG | FOLDER, "syncs of the log and its folder only pretend"),
    ];
    let (lies, kind) = PARTS[number as usize % PARTS.len()];
    let mut outcome = Outcome::new(kind.to_owned());
    let load = Load {
        requests: 80,
        ..Load::SMALL
    };
    let recorded = record(
        programs,
        &starts.worn,
        lies,
        load,
        Until::Rewritten,
        &mut random,
        &mut outcome,
    )
    .await;
    outcome.hit = true;
    outcome.cases = 0;
    let last = recorded.recording.last();
    for cut in [last, last - last / 8, last / 2] {
        for mode in [Mode::Synced, Mode::Sectors] {
            outcome.cases += 1;
            let (wrong, _) = recorded.judge(programs, cut, mode, &mut random).await;
            if !wrong.is_empty() {
                outcome.kind = kind;
                return outcome;
            }
        }
    }
    let what = format!("{kind}, and nobody saw it in {} cuts", outcome.cases);
    outcome.wrong.push(what);
    outcome
}
