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
    round::{self, Round, Start, Starts},
};

/// A recorded load.
struct Recorded {
    base: (folder::Tree, folder::Inodes),
    recording: Recording,
    known: Known,
}

/// Records a load. `lies` are the parts of the folder whose syncs only pretend.
async fn record(
    programs: &Programs,
    start: &Start,
    lies: u64,
    load: Load,
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
        true,
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
            broker.kill();
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

    /// What is wrong with a state that a cut may leave.
    async fn judge(
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

/// A load, and cuts in it.
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
    let recorded = record(programs, start, 0, load, &mut random, &mut outcome).await;
    outcome.hit = true;
    outcome.cases = CUTS_OF_A_RECORDING;
    let mut last = None;
    for _ in 0..CUTS_OF_A_RECORDING {
        let cut = recorded.cut(&mut random);
        let mode = Mode::any(cut, &mut random);
        let (wrong, round) = recorded.judge(programs, cut, mode, &mut random).await;
        if !wrong.is_empty() {
            let events = recorded.recording.last();
            outcome.what += &format!("; cut at {cut} of {events}, {mode:?}");
            outcome.wrong.extend(wrong);
            last = Some(round);
            break;
        }
    }
    match last {
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
