//! What all rounds have in common: a folder to begin with, a load on it, and the judgement of what is
//! left.

use std::{path::Path, sync::Arc, time::Duration};

use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::{
    broker::{Broker, Ended, LOOK, Place, Programs},
    changes::{self, Worker},
    control::{Action, CREATE, Control, DRAFT, ENOSPC, Fault, LOG},
    drain,
    folder::{self, Tree},
    history::{History, Known, NEVER, Stamp},
    judge,
    load::{self, Consumers, Load},
    random::Random,
};

/// Behind everything that was answered.
pub(crate) const AFTER_ALL: Stamp = NEVER - 1;
/// Longer than any round: leases end by settling and by kills.
const LEASE: Duration = Duration::from_secs(3600);
/// How long the keeper may take to prepare a file or to rewrite one.
const KEEPER_MAX: Duration = Duration::from_secs(20);

/// Steps of the queue that is changed, in the worn folder.
const CHANGES: u32 = 30;

/// When a scenario ends whose broker lives on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// With the load.
    Loaded,
    /// After two checkpoints: the first may have begun before the harness saw that the broker listens.
    Checkpoints,
    /// When a segment was rewritten. In a fresh folder none will be: then after two checkpoints.
    Rewritten,
}

impl Until {
    /// With the load, or in so many of a hundred cases when a segment was rewritten.
    pub(crate) fn either(share: u64, random: &mut Random) -> Self {
        if random.percent(share) {
            Self::Rewritten
        } else {
            Self::Loaded
        }
    }

    /// The figure that says so, and how large it must be.
    fn metric(self, is_fresh: bool) -> Option<(&'static str, f64)> {
        match self {
            Self::Loaded => None,
            Self::Rewritten if !is_fresh => Some(("courser_store_segments_rewritten_total", 1.0)),
            Self::Checkpoints | Self::Rewritten => Some(("courser_store_checkpoints_total", 2.0)),
        }
    }
}

/// A folder that a round may begin with, and what is known of its messages.
#[derive(Clone, Debug, Default)]
pub(crate) struct Start {
    pub(crate) tree: Arc<Tree>,
    pub(crate) known: Known,
    pub(crate) is_fresh: bool,
}

/// The folders that rounds begin with.
#[derive(Clone, Debug)]
pub(crate) struct Starts {
    /// Nothing.
    pub(crate) fresh: Start,
    /// Killed under load: a checkpoint behind it, a log to be replayed, a segment that is mostly dead and
    /// will be rewritten, a spare one.
    pub(crate) worn: Start,
}

/// A round in a temporary folder, which is kept when something was wrong and somebody wants to look.
pub(crate) struct Round {
    pub(crate) place: Place,
    folder: TempDir,
}

impl Round {
    pub(crate) fn new(programs: &Programs, start: &Start) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("courser-faults-")
            .tempdir()
            .unwrap();
        folder::write(&start.tree, &folder.path().join("data"));
        let place = Place::new(programs, folder.path());
        Self { place, folder }
    }

    /// Keeps the folder, and says where.
    pub(crate) fn keep(self) -> String {
        self.folder.keep().display().to_string()
    }
}

/// Makes the worn folder.
///
/// What the keeper does besides comes when it comes. So that the folder always has a segment to be rewritten, no
/// spare file can be made until that one is full enough, and it cannot be rewritten in this life of the broker.
pub(crate) async fn prepare(programs: &Programs, random: &mut Random) -> Starts {
    let fresh = Start {
        is_fresh: true,
        ..Start::default()
    };
    let round = Round::new(programs, &fresh);
    let place = &round.place;
    let history = History::new(Known::default(), &place.control);
    let mut broker = Broker::start(place).await.expect("a first start");
    let admin = broker.admin().await;
    load::create_queues(&mut admin.expect("it runs"), LEASE)
        .await
        .expect("queues are made");
    let large = Load {
        requests: 100,
        bytes: (8, 12_000),
        pause_max: 0,
        ..Load::SMALL
    };
    let worker = Worker::begin(&broker, &history, random.fork(1)).await;
    let mut worker = worker.expect("it runs");
    for _ in 0..CHANGES {
        worker.step().await.expect("it runs");
    }
    place.control.arm(&no_files(LOG));
    let consumers = Consumers::start(&broker, &history, large, random).await;
    let consumers = consumers.expect("it runs");
    load::publish(&broker, &history, large, random).await;
    place.control.arm(&no_files(DRAFT));
    let log = place.data().join("log");
    let deadline = Instant::now() + KEEPER_MAX;
    while segments(&log) < 2 {
        assert!(Instant::now() < deadline, "no other segment is begun");
        // The keeper looks after a log that grows, and what comes next goes into the file that it prepares.
        load::publish(&broker, &history, Load::LITTLE, random).await;
        sleep(LOOK * 50).await;
    }
    load::publish(&broker, &history, Load::SMALL, random).await;
    consumers.stop().await;
    broker.kill();
    assert_eq!(segments(&log), 2, "a segment is full, and one in use");
    assert_eq!(place.control.unknown(), 0, "calls that are not modelled");
    let mut known = history.known();
    assert!(known.violations.is_empty(), "{:#?}", known.violations);
    known.rebase();
    let tree = Arc::new(folder::read(&place.data()).0);
    let worn = Start {
        tree,
        known,
        is_fresh: false,
    };
    Starts { fresh, worn }
}

/// No file can be made in this part of the folder.
fn no_files(classes: u64) -> Fault {
    Fault {
        kinds: CREATE,
        classes,
        call: 1,
        action: Action::FailOn(ENOSPC),
    }
}

/// How many segments a log has.
fn segments(log: &Path) -> usize {
    let entries = std::fs::read_dir(log).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|ending| ending == "seg"))
        .count()
}

/// Starts a broker and loads it, up to the end of the load or of the broker.
///
/// With `until` it goes on for longer: the consumers work on, for what they leave lives, and a segment is rewritten
/// when most of it is dead. `listening` is called once the broker listens.
pub(crate) async fn scenario(
    place: &Place,
    history: &History,
    load: Load,
    is_fresh: bool,
    until: Until,
    listening: &(dyn Fn() + Sync),
    random: &mut Random,
) -> Result<Broker, Ended> {
    let mut broker = Broker::start(place).await?;
    listening();
    if is_fresh
        && let Some(mut admin) = broker.admin().await
        && let Err(status) = load::create_queues(&mut admin, LEASE).await
    {
        return match gone(&mut broker).await {
            Some(ended) => Err(ended),
            None => {
                let refusal = (
                    status.code() as i32,
                    String::new(),
                    status.message().to_owned(),
                );
                history.refused(0, refusal);
                Ok(broker)
            }
        };
    }
    if let Some(consumers) = Consumers::start(&broker, history, load, random).await {
        load::busy(&broker, history, load, random).await;
        if let Some((metric, least)) = until.metric(is_fresh) {
            let reached = reached(&mut broker, &place.control, metric, least).await;
            if !reached && until == Until::Rewritten && !is_fresh {
                let what = format!("no segment was rewritten within {KEEPER_MAX:?}");
                history.violation(what);
            }
        }
        consumers.stop().await;
    }
    match broker.ended() {
        Some(ended) => Err(ended),
        None => Ok(broker),
    }
}

/// Waits until a figure is large enough. `false` when that does not come and no fault is to blame for it.
async fn reached(broker: &mut Broker, control: &Control, metric: &str, least: f64) -> bool {
    let began = Instant::now();
    while broker.ended().is_none() {
        let failed = broker.metric("courser_store_failed").await == Some(1.0);
        let reached = broker.metric(metric).await.is_some_and(|now| now >= least);
        if failed || reached {
            return true;
        }
        // What failed once may be left alone for good.
        let was_hit = control.hits() > 0;
        if was_hit && began.elapsed() > KEEPER_MAX / 4 {
            return true;
        }
        if began.elapsed() > KEEPER_MAX {
            return false;
        }
        sleep(LOOK * 5).await;
    }
    true
}

/// Waits until a segment was dropped or kept for reuse.
pub(crate) async fn dropped(broker: &Broker) {
    let deadline = Instant::now() + KEEPER_MAX / 2;
    while Instant::now() < deadline {
        let dropped = broker.metric("courser_store_segments_dropped_total").await;
        if dropped.is_some_and(|count| count > 0.0) {
            return;
        }
        sleep(LOOK * 5).await;
    }
}

/// How a broker ended that has just cut a connection, or `None` when it has not.
pub(crate) async fn gone(broker: &mut Broker) -> Option<Ended> {
    let deadline = Instant::now() + Duration::from_secs(1);
    while Instant::now() < deadline {
        if let Some(ended) = broker.ended() {
            return Some(ended);
        }
        sleep(LOOK).await;
    }
    None
}

/// Starts a broker without faults on what is left, drains it, and says all that is wrong with it.
pub(crate) async fn verify(place: &Place, known: &Known, cut: Stamp) -> Vec<String> {
    let mut wrong = known.violations.clone();
    let mut place = place.clone();
    place.recording = None;
    place.control.count(0, 0);
    place.control.lie(0);
    let mut broker = match Broker::start(&place).await {
        Ok(broker) => broker,
        Err(ended) => {
            wrong.push(format!("it does not start again: {ended:?}"));
            return wrong;
        }
    };
    match drain::all(&broker, known, &mut wrong).await {
        Ok(found) => wrong.extend(judge::judge(known, cut, &found)),
        Err(error) => wrong.push(format!("the drain failed: {error:#}\n{}", broker.log())),
    }
    match changes::wrong(&broker, known, cut).await {
        Ok(difference) => wrong.extend(difference),
        Err(error) => wrong.push(format!("{error:#}\n{}", broker.log())),
    }
    if let Some(ended) = broker.ended() {
        wrong.push(format!("it ended by itself: {ended:?}"));
    }
    broker.kill();
    wrong
}

/// Starts it once more after a drain: nothing may be there.
pub(crate) async fn verify_empty(place: &Place) -> Vec<String> {
    let broker = match Broker::start(place).await {
        Ok(broker) => broker,
        Err(ended) => return vec![format!("it does not start a third time: {ended:?}")],
    };
    match drain::all(&broker, &Known::default(), &mut Vec::new()).await {
        Ok(found) if found.iter().all(Vec::is_empty) => Vec::new(),
        Ok(found) => vec![format!("acked by the drain, and back: {found:?}")],
        Err(error) => vec![format!("the second drain failed: {error:#}")],
    }
}
