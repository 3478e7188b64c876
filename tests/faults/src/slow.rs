//! A disk that is only slow: each call takes longer, or each so manieth, or one hangs for longer than
//! leases last; under load, in a checkpoint, while a segment is rewritten, or from before a start on.
//!
//! The broker waits for it, and uses no processor meanwhile. What is published is confirmed or refused. An
//! entry comes again when its lease has run out or was given back, and only then. Once the disk is as
//! before, so is the broker.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use courser_proto::v1::{QueueStats, admin_client::AdminClient};
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

use crate::{
    broker::{Broker, LOOK, Place, Programs},
    changes,
    control::{ANYWHERE, Action, CHANGES, DRAFT, Fault, INDEX, LOG, OPEN, READ, SYNC, WRITE},
    drain,
    figures::{self, COMES_MAX, Usage, dead_lettered, idle},
    history::{History, QUEUES, Totals},
    load::{self, Consumers, Load},
    others::Others,
    random::Random,
    report::Outcome,
    round::{self, AFTER_ALL, Round, Starts},
};

/// As short as leases may be.
const LEASE: Duration = Duration::from_secs(1);
/// A disk whose calls take longer does so for three leases.
const SLOW: Duration = Duration::from_secs(3);
/// What a message or a delivery may cost, in a slow broker with an interposer in it.
const WORK: Duration = Duration::from_micros(100);
/// How late the harness may look, on a machine that is busy.
const LOOKED_LATE: Duration = Duration::from_millis(200);
/// Threads of the broker that may wait for the disk at once.
const CALLERS: u32 = 6;
/// Once the disk is as before a load may take so many times as long, and a moment more.
const SLOWER_MAX: u32 = 3;
const SLOWER: Duration = Duration::from_secs(1);

const LOAD: Load = Load {
    lease: Some(LEASE),
    ..Load::SMALL
};

pub(crate) async fn run(
    programs: &Programs,
    starts: &Starts,
    number: u64,
    mut random: Random,
) -> Outcome {
    let Slowness { kind, from, fault } = slowness(number, &mut random);
    let start = if from != From::Rewrite && random.percent(50) {
        &starts.fresh
    } else {
        &starts.worn
    };
    let round = Round::new(programs, start);
    let history = History::new(start.known.clone(), &round.place.control);
    let mut outcome = Outcome::new(format!("{fault:?}, fresh: {}", start.is_fresh));
    outcome.kind = kind;
    let scene = Scene {
        place: &round.place,
        history: &history,
        from,
        fault,
        is_fresh: start.is_fresh,
    };
    if let Err(error) = scene.play(&mut outcome, &mut random).await {
        outcome.wrong.push(format!("{error:#}"));
    }
    let known = history.known();
    outcome.totals = known.totals;
    let verified = round::verify(&round.place, &known, AFTER_ALL).await;
    outcome.wrong.extend(verified);
    outcome.close(round)
}

/// When the disk begins to be slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    /// Under load.
    Load,
    /// Before the broker starts, until it listens.
    Start,
    /// When a segment is rewritten, which may be soon after the start.
    Rewrite,
}

/// What is slow, and how.
struct Slowness {
    kind: &'static str,
    from: From,
    fault: Fault,
}

fn slowness(number: u64, random: &mut Random) -> Slowness {
    let millis = |range, random: &mut Random| Duration::from_millis(random.within(range));
    let hung = |random: &mut Random| Action::Delay(LEASE + millis(500..2500, random), 0);
    let (kind, from, action) = match number % 6 {
        0 => ("one hung", From::Load, hung(random)),
        1 => {
            let action = Action::Delay(millis(10..40, random), 1);
            ("each was slow", From::Load, action)
        }
        2 => {
            let every = random.within(2..12);
            let action = Action::Delay(millis(50..600, random), every);
            ("some were slow", From::Load, action)
        }
        3 => ("a checkpoint hung", From::Load, hung(random)),
        4 => ("a rewrite hung", From::Rewrite, hung(random)),
        _ => {
            let slow = Action::Delay(millis(1..10, random), 1);
            let action = if random.percent(50) {
                slow
            } else {
                hung(random)
            };
            ("a slow start", From::Start, action)
        }
    };
    let (kinds, classes, calls) = match (kind, random.within(0..4)) {
        // Each checkpoint has as many calls and more.
        ("a checkpoint hung", _) => (CHANGES, INDEX, 1..8),
        ("a rewrite hung", _) => (CHANGES, DRAFT, 1..3),
        ("a slow start", _) => (CHANGES | READ | OPEN, ANYWHERE, 1..30),
        (_, 0) => (WRITE, LOG, 1..40),
        (_, 1) => (SYNC, LOG, 1..40),
        _ => (CHANGES | READ | OPEN, ANYWHERE, 1..40),
    };
    let fault = Fault {
        kinds,
        classes,
        call: random.within(calls),
        action,
    };
    Slowness { kind, from, fault }
}

struct Scene<'a> {
    place: &'a Place,
    history: &'a History,
    from: From,
    fault: Fault,
    is_fresh: bool,
}

impl Scene<'_> {
    /// Everything up to the kill of the broker.
    async fn play(&self, outcome: &mut Outcome, random: &mut Random) -> anyhow::Result<()> {
        let history = self.history;
        let mut slow_since = Instant::now();
        if self.from != From::Load {
            self.place.control.arm(&self.fault);
        }
        let broker = Broker::start(self.place).await;
        let broker = broker.map_err(|ended| anyhow::anyhow!("it did not start: {ended:?}"))?;
        // A start may have made fewer calls than it would take to come to a slow one: then the load does.
        let mut is_slow = self.from != From::Start;
        if self.from == From::Start {
            is_slow = self.place.control.hits() == 0;
            if !is_slow {
                self.no_call_hangs().await?;
                self.end_slow_time(slow_since)?;
            }
        }
        let mut admin = broker.admin().await.context("it does not answer")?;
        if self.is_fresh {
            load::create_queues(&mut admin, LEASE).await?;
        }
        let consumers = Consumers::start(&broker, history, LOAD, random).await;
        let _consumers = consumers.context("it does not answer")?;
        let others = Others::start(&broker, history, LOAD, random).await;
        let mut before = Duration::ZERO;
        if self.from == From::Load {
            before = self.publish(&broker, random).await?;
            slow_since = Instant::now();
            self.place.control.arm(&self.fault);
        }
        if is_slow {
            self.slow_time(&broker, slow_since, random).await?;
        }
        if self.from != From::Load {
            before = self.publish(&broker, random).await?;
        }
        outcome.hit = true;
        others.finish().await;
        // It is as before: everything is settled, the figures add up, and the next load is as fast.
        let (stats, totals) = rest(&mut admin, history).await?;
        changes::all_answered(history)?;
        ensure!(
            totals.told_later > 0,
            "nothing was settled without results: {totals:?}"
        );
        let late = check(&stats, &totals)?;
        let left = history.known().unsettled();
        ensure!(
            left.is_empty(),
            "nothing is left, and not settled: {left:?}"
        );
        outcome.kinds.insert("leases ran out", stats.expired_total);
        outcome.kinds.insert("settled late, OK", late);
        outcome
            .kinds
            .insert("given back unsent", stats.released_total - totals.released);
        idle(&broker).await?;
        ensure!(
            broker.serving().await == Some(true)
                && broker.metric("courser_store_failed").await == Some(0.0),
            "a disk that was slow is taken for one that failed"
        );
        let after = self.publish(&broker, random).await?;
        ensure!(
            after < before * SLOWER_MAX + SLOWER,
            "a load took {before:?} before the disk was slow, and {after:?} afterwards"
        );
        Ok(())
    }

    /// Publishes a load; answers how long that took.
    async fn publish(&self, broker: &Broker, random: &mut Random) -> anyhow::Result<Duration> {
        let began = Instant::now();
        load::publish(broker, self.history, LOAD, random).await;
        let Totals {
            sent,
            confirmed,
            refused,
            ..
        } = self.history.lock().totals;
        ensure!(
            sent == confirmed + refused,
            "{sent} were sent, {confirmed} confirmed and {refused} refused"
        );
        Ok(began.elapsed())
    }

    /// Publishes for as long as the disk is slow, and looks what the broker uses of a processor.
    async fn slow_time(
        &self,
        broker: &Broker,
        since: Instant,
        random: &mut Random,
    ) -> anyhow::Result<()> {
        let is_over = AtomicBool::new(false);
        let publishing = async {
            while !is_over.load(Ordering::Acquire) {
                self.publish(broker, random).await?;
            }
            Ok(())
        };
        let watching = async {
            let watched = self.watch(broker, since).await;
            is_over.store(true, Ordering::Release);
            watched
        };
        tokio::try_join!(publishing, watching)?;
        Ok(())
    }

    /// Ends the slow time, and looks what the broker used of a processor in it.
    async fn watch(&self, broker: &Broker, since: Instant) -> anyhow::Result<()> {
        let control = &self.place.control;
        let (_, every) = self.delay();
        wait("the disk is not slow", || control.hits() > 0).await?;
        let usage = Usage::begin(broker);
        let before = self.history.lock().totals;
        self.no_call_hangs().await?;
        if every > 0 {
            sleep(SLOW).await;
        }
        self.end_slow_time(since)?;
        let after = self.history.lock().totals;
        let work = after.work() - before.work();
        usage.check(broker, WORK * u32::try_from(work)?)
    }

    /// Waits for a call that is to hang to be through.
    async fn no_call_hangs(&self) -> anyhow::Result<()> {
        if self.delay().1 > 0 {
            return Ok(());
        }
        wait("a call hangs", || self.place.control.waiting() == 0).await
    }

    /// The disk is as before: it must have been slow for as long as was chosen.
    fn end_slow_time(&self, since: Instant) -> anyhow::Result<()> {
        let control = &self.place.control;
        let (delay, _) = self.delay();
        let hits = u32::try_from(control.hits())?;
        control.count(0, 0);
        let passed = since.elapsed();
        ensure!(hits > 0, "no call was slow");
        ensure!(
            delay * hits <= (passed + LOOKED_LATE) * CALLERS.min(hits),
            "{hits} calls were to take {delay:?} longer each, and {passed:?} passed"
        );
        Ok(())
    }

    /// How much longer a call takes, and which ones after the first do.
    fn delay(&self) -> (Duration, u64) {
        let Action::Delay(delay, every) = self.fault.action else {
            unreachable!("a slow disk has no other");
        };
        (delay, every)
    }
}

async fn wait(what: &str, is_over: impl Fn() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + COMES_MAX;
    while !is_over() {
        ensure!(Instant::now() < deadline, "{what} for {COMES_MAX:?}");
        sleep(LOOK).await;
    }
    Ok(())
}

/// Waits until nothing is left and all that was asked is answered; answers what both sides counted.
async fn rest(
    admin: &mut AdminClient<Channel>,
    history: &History,
) -> anyhow::Result<(QueueStats, Totals)> {
    let deadline = Instant::now() + COMES_MAX;
    loop {
        let mut sum = QueueStats::default();
        for queue in QUEUES {
            let stats = drain::stats(admin, queue).await?;
            add(&mut sum, &stats.context("the queue is there")?);
        }
        let totals = history.lock().totals;
        let left = sum.ready + sum.delayed + sum.leased;
        if left == 0 && totals.delivered == totals.ended() {
            return Ok((sum, totals));
        }
        ensure!(
            Instant::now() < deadline,
            "it does not come to rest: {sum:?}, and the consumers counted {totals:?}"
        );
        sleep(LOOK * 5).await;
    }
}

fn add(sum: &mut QueueStats, one: &QueueStats) {
    sum.ready += one.ready;
    sum.delayed += one.delayed;
    sum.leased += one.leased;
    sum.delivered_total += one.delivered_total;
    sum.acked_total += one.acked_total;
    sum.nacked_total += one.nacked_total;
    sum.released_total += one.released_total;
    sum.expired_total += one.expired_total;
    sum.disconnected_total += one.disconnected_total;
    for (reason, count) in &one.dead_lettered_total {
        *sum.dead_lettered_total.entry(reason.clone()).or_default() += count;
    }
}

/// What the broker counted is what its consumers did; answers how many leases they settled late.
fn check(stats: &QueueStats, totals: &Totals) -> anyhow::Result<u64> {
    let says = |what: &str| format!("{what}: {stats:?}, and the consumers counted {totals:?}");
    let unsent = stats.released_total.checked_sub(totals.released);
    let unsent = unsent.with_context(|| says("not all that was released is counted so"))?;
    let late = stats
        .expired_total
        .checked_sub(totals.ran_out + totals.kept);
    let late = late
        .with_context(|| says("leases ran out that were delivered, and not all are counted so"))?;
    figures::all_ended(stats, totals.delivered + unsent, late)?;
    ensure!(
        stats.acked_total == totals.acked
            && stats.nacked_total == totals.nacked
            && dead_lettered(stats) == totals.dead_lettered
            && stats.disconnected_total == 0
            && late <= totals.acked + totals.dead_lettered,
        "{}",
        says("settled otherwise than counted")
    );
    Ok(late)
}
