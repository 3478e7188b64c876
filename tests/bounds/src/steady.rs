//! A steady load for a long time: memory and disk stay where they are.

use std::{fmt::Write as _, fs, path::Path, time::Duration};

use anyhow::Context as _;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::{
    Context,
    broker::Broker,
    check::{MB, megabytes, told},
    curve,
    load::{self, Consumers, Policy},
    probe::disk,
};

const QUEUE: &str = "steady";
/// What the short form does: fast, so that the latest messages that the broker keeps are as many as may be
/// before the second quarter.
const SHORT: Duration = Duration::from_secs(20);
const SHORT_RATE: u64 = 15_000;
/// What the mean of the last quarter may be above that of the second one.
const GROWTH_PERCENT: u64 = 110;
const GROWTH_BYTES: u64 = 8 * MB;
/// The disk goes up and down by a segment of the log.
const DISK_BYTES: u64 = 64 * 1024 * 1024;

/// One look at the broker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) seconds: f64,
    pub(crate) resident: u64,
    pub(crate) own: u64,
    pub(crate) disk: u64,
    pub(crate) index: u64,
}

pub(crate) async fn run(context: Context<'_>) -> anyhow::Result<()> {
    let Context {
        args,
        folder,
        checks,
    } = context;
    let (during, rate, every) = if args.short {
        (SHORT, SHORT_RATE, Duration::from_millis(500))
    } else {
        let during = Duration::from_secs(60 * args.minutes.get());
        (during, args.rate.get(), Duration::from_secs(5))
    };
    let broker = Broker::start(&args.broker, folder).await?;
    load::create(&broker.client().await?, QUEUE).await?;
    let mut consumers = Consumers::of(&broker.url, QUEUE, Policy::Nack).await?;
    let load = load::pace(&broker.url, QUEUE, rate, during);
    let (published, samples) =
        tokio::join!(load, watch(&broker, during, every, args.curve.as_deref()));
    let (published, samples) = (published?, samples?);
    told("published and confirmed", published);
    // One in a hundred came twice.
    consumers
        .wait_for(published + published.div_ceil(100))
        .await?;
    told("delivered and settled", consumers.received());
    told("samples", samples.len());
    for (what, of, more) in [
        (
            "resident",
            (|s| s.resident) as fn(&Sample) -> u64,
            GROWTH_BYTES,
        ),
        ("resident, anonymous", |s| s.own, GROWTH_BYTES),
        ("disk", |s| s.disk, DISK_BYTES),
        ("disk of the index", |s| s.index, GROWTH_BYTES),
    ] {
        let [first, second, third, last] = quarters(&samples, of);
        let means = [first, second, third, last].map(megabytes).join(", ");
        told(&format!("{what}, means of the quarters"), means);
        let bound = second * GROWTH_PERCENT / 100 + more;
        checks.size(&format!("{what}, mean of the last quarter"), last, bound);
        told(
            &format!("{what}, slope from the second quarter on"),
            format!("{:+.3} MB a minute", slope(&samples, of)),
        );
    }
    Ok(())
}

/// Looks at the broker from time to time, and keeps what it saw where it can be read meanwhile.
async fn watch(
    broker: &Broker,
    during: Duration,
    every: Duration,
    curve: Option<&Path>,
) -> anyhow::Result<Vec<Sample>> {
    let started = Instant::now();
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut samples = Vec::new();
    while started.elapsed() < during {
        ticks.tick().await;
        let memory = broker.probe.now();
        samples.push(Sample {
            seconds: started.elapsed().as_secs_f64(),
            resident: memory.all,
            own: memory.own,
            disk: disk(&broker.data).blocks,
            index: disk(&broker.index()).blocks,
        });
        if let Some(curve) = curve {
            keep(&samples, curve)?;
        }
    }
    Ok(samples)
}

fn keep(samples: &[Sample], curve: &Path) -> anyhow::Result<()> {
    let mut table = String::from("seconds,resident,anonymous,disk,index\n");
    for sample in samples {
        writeln!(
            table,
            "{:.0},{},{},{},{}",
            sample.seconds, sample.resident, sample.own, sample.disk, sample.index
        )?;
    }
    fs::write(curve.with_extension("csv"), table).context("the samples")?;
    fs::write(curve.with_extension("svg"), curve::draw(samples)).context("the curve")
}

/// The means of four equal parts.
fn quarters(samples: &[Sample], of: fn(&Sample) -> u64) -> [u64; 4] {
    let part = samples.len().div_ceil(4).max(1);
    [0, 1, 2, 3].map(|quarter| {
        let part = samples.iter().skip(quarter * part).take(part);
        let count = part.clone().count().max(1) as u64;
        part.map(of).sum::<u64>() / count
    })
}

/// The slope of the straight line that lies best, without the first quarter.
#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn slope(samples: &[Sample], of: fn(&Sample) -> u64) -> f64 {
    let points: Vec<(f64, f64)> = samples
        .iter()
        .skip(samples.len() / 4)
        .map(|sample| (sample.seconds / 60.0, of(sample) as f64 / MB as f64))
        .collect();
    let count = points.len() as f64;
    let mean = |pick: fn(&(f64, f64)) -> f64| points.iter().map(pick).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let above: f64 = points
        .iter()
        .map(|point| (point.0 - x) * (point.1 - y))
        .sum();
    let below: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    if below > 0.0 { above / below } else { 0.0 }
}
