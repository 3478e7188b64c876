//! A disk that fails: EIO or ENOSPC at a chosen call, once or from then on.
//!
//! Either the broker can do without what failed and goes on, or it stops writing: publishes are refused
//! with a reason, health is red, the metrics say so. After a restart on a disk that works, everything
//! confirmed is there.

use std::time::Duration;

use courser_proto::v1::PublishRequest;
use tokio::time::{Instant, sleep};
use tonic::Code;

use crate::{
    broker::{Broker, LOOK, Programs},
    control::{
        ANYWHERE, Action, CREATE, EIO, ENOSPC, Fault, INDEX, LOG, MKDIR, OPEN, READ, RENAME, SYNC,
        TRUNCATE, UNLINK, WRITE,
    },
    cut::Recorded,
    folder,
    history::History,
    letter::Letter,
    load::Load,
    message,
    random::Random,
    rebuild::Mode,
    recording::Recording,
    report::Outcome,
    round::{self, AFTER_ALL, Round, Starts, Until},
};

/// Which calls, where, and about how many there are.
const CALLS: [(u64, u64, u64); 11] = [
    (WRITE, LOG, 200),
    (SYNC, LOG, 200),
    (WRITE, INDEX, 20),
    (SYNC, INDEX, 20),
    (CREATE, ANYWHERE, 6),
    (RENAME, ANYWHERE, 4),
    (UNLINK | TRUNCATE | MKDIR, ANYWHERE, 3),
    (READ, ANYWHERE, 60),
    (READ, INDEX, 12),
    (OPEN, ANYWHERE, 16),
    (WRITE | SYNC | CREATE | RENAME, ANYWHERE, 260),
];
/// How long a failure may take to be seen. What the broker can do without is not seen at all.
const SEEN_MAX: Duration = Duration::from_secs(2);
/// A producer that is none of the load's.
const PROBE: u32 = 9;

pub(crate) async fn run(
    programs: &Programs,
    starts: &Starts,
    number: u64,
    mut random: Random,
) -> Outcome {
    let (kinds, classes, calls) = CALLS[number as usize % CALLS.len()];
    let errno = if random.percent(50) { EIO } else { ENOSPC };
    let action = match random.within(0..8) {
        0 => Action::Short,
        1..=4 => Action::FailOnce(errno),
        _ => Action::FailOn(errno),
    };
    let fault = Fault {
        kinds,
        classes,
        call: random.within(1..calls + 1),
        action,
    };
    let start = if random.percent(25) {
        &starts.fresh
    } else {
        &starts.worn
    };
    let mut round = Round::new(programs, start);
    let recording = round.place.record();
    let base = folder::read(&round.place.data());
    let control = &round.place.control;
    control.arm(&fault);
    let history = History::new(start.known.clone(), control);
    let mut outcome = Outcome::new(format!("{fault:?}, fresh: {}", start.is_fresh));
    let load = Load {
        requests: 40,
        ..Load::SMALL
    };
    let until = Until::either(50, &mut random);
    let ran = round::scenario(
        &round.place,
        &history,
        load,
        start.is_fresh,
        until,
        &|| (),
        &mut random,
    );
    match ran.await {
        Ok(mut broker) => {
            outcome.hit = control.hits() > 0;
            if outcome.hit {
                outcome.kind = look(&mut broker, &history, &mut outcome.wrong).await;
            }
            broker.kill();
        }
        Err(ended) => {
            outcome.hit = control.hits() > 0;
            outcome.kind = "refused to start";
            let last = ended.log.lines().last().unwrap_or_default();
            let says_why = ["Input/output error", " is full: ", "cannot ", "damaged"]
                .iter()
                .any(|why| last.starts_with("error: ") && last.contains(why));
            let by_itself = ended.status.code().is_some_and(|code| code != 0);
            // sled panics when the sync of its last breath fails: not nice, and the end comes anyway.
            if !by_itself || !says_why {
                outcome.wrong.push(format!("it ended badly: {ended:?}"));
            }
        }
    }
    let known = history.known();
    outcome.totals = known.totals;
    if outcome.hit {
        // A sync that failed has covered nothing: the power goes, and only what was synced is there.
        let recorded = Recorded {
            base,
            recording: Recording::read(&recording, &round.place.data()),
            known: known.clone(),
        };
        let last = recorded.recording.last();
        let mode = Mode::any(last, &mut random);
        let (wrong, _) = recorded.judge(programs, last, mode, &mut random).await;
        let what = |wrong| format!("with the power cut ({mode:?}): {wrong}");
        outcome.wrong.extend(wrong.into_iter().map(what));
        outcome.cases += 1;
    }
    let verified = round::verify(&round.place, &known, AFTER_ALL).await;
    outcome.wrong.extend(verified);
    outcome.close(round)
}

/// What the broker does and says after a fault.
async fn look(broker: &mut Broker, history: &History, wrong: &mut Vec<String>) -> &'static str {
    let deadline = Instant::now() + SEEN_MAX;
    let seen = loop {
        if let Some(ended) = broker.ended() {
            wrong.push(format!("it ended by itself: {ended:?}"));
            return "ended";
        }
        let failed = broker.metric("courser_store_failed").await == Some(1.0);
        if failed || Instant::now() > deadline {
            break failed;
        }
        sleep(LOOK * 10).await;
    };
    let published = probe(broker, history).await;
    // What failed until then may have been nothing but a file prepared for later: then the probe's own write is the first.
    let failed = seen || broker.metric("courser_store_failed").await == Some(1.0);
    for path in ["/readyz", "/healthz"] {
        let page = broker.page(path).await;
        let is_right = match (&page, failed) {
            (Some((200, _)), false) => true,
            (Some((503, reason)), true) => reason.contains("the store has failed: "),
            _ => false,
        };
        if !is_right {
            wrong.push(format!("store failed: {failed}, and {path} says {page:?}"));
        }
    }
    let serving = broker.serving().await;
    if serving != Some(!failed) {
        wrong.push(format!(
            "store failed: {failed}, and the health service says {serving:?}"
        ));
    }
    match (published, failed) {
        (Ok(()), false) => "gone on without",
        (Err((Code::Unavailable | Code::ResourceExhausted, reason)), true)
            if !reason.is_empty() =>
        {
            "refused to write"
        }
        (published, _) => {
            wrong.push(format!(
                "store failed: {failed}, and a publish says {published:?}"
            ));
            "neither"
        }
    }
}

/// Publishes a message; code and sentence when it is refused.
async fn probe(broker: &Broker, history: &History) -> Result<(), (Code, String)> {
    let Some(mut client) = broker.client().await else {
        return Err((Code::Unknown, "no connection".to_owned()));
    };
    let number = history.sending(PROBE, 1, false);
    let letter = Letter {
        producer: PROBE,
        number,
    };
    let request = PublishRequest {
        messages: vec![message::write(letter, 100)],
        ..Default::default()
    };
    match client.publish(request).await {
        Ok(answer) => {
            history.confirmed(PROBE, number);
            for result in &answer.into_inner().results {
                history.told(letter, result);
            }
            Ok(())
        }
        Err(status) => Err((status.code(), status.message().to_owned())),
    }
}
