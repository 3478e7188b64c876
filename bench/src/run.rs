//! One run: every scenario, every repetition, every system in turn.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use tokio::time::sleep;

use crate::{
    disk::{self, Disk},
    load::{Measured, Run, System, load},
    machine, process,
    process::Use,
    results::{Checks, Record, Results},
    scenario::{self, Course, Measure, Scenario, SystemId, Times},
    server::{Places, Server},
    shape::{Publish, Shape},
    systems::{courser::Courser, nats::Nats, rabbitmq::RabbitMq, redis::Redis},
};

/// In RabbitMQ's documentation, 100 to 300 is what usually gives the best throughput.
const RABBITMQ_PREFETCH: usize = 300;
/// Connections of each producer in the row that shows what more of them bring.
const REDIS_POOL: usize = 4;
/// How long a server may take to count the last acks.
const LEFT_MAX: Duration = Duration::from_secs(15);
/// Between two runs, so that what the disk still writes is not the next one's burden.
const PAUSE: Duration = Duration::from_secs(1);

/// What is to be done.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) scenarios: Vec<String>,
    /// Only these, or all of the scenario.
    pub(crate) systems: Vec<SystemId>,
    pub(crate) repetitions: u32,
    pub(crate) quick: bool,
    pub(crate) places: Places,
    pub(crate) results: PathBuf,
}

impl Plan {
    pub(crate) async fn run(&self) -> anyhow::Result<Results> {
        let times = if self.quick {
            Times::quick()
        } else {
            Times::full()
        };
        let all = scenario::all(&times);
        for name in &self.scenarios {
            let known = all.iter().any(|scenario| scenario.name == name);
            anyhow::ensure!(known, "there is no scenario {name}");
        }
        // Scenarios that are not run again stay as they were.
        let mut results = Results::read(&self.results).unwrap_or_default();
        results.machine = machine::describe(&self.places.data)?;
        results.versions = machine::versions(&self.places.courser);
        for scenario in all {
            if self.scenarios.is_empty() || self.scenarios.iter().any(|name| name == scenario.name)
            {
                self.scenario(&scenario, &times, &mut results).await?;
            }
        }
        Ok(results)
    }

    async fn scenario(
        &self,
        scenario: &Scenario,
        times: &Times,
        results: &mut Results,
    ) -> anyhow::Result<()> {
        println!("{}: {}", scenario.name, scenario.title);
        let systems: Vec<_> = scenario
            .systems
            .iter()
            .copied()
            .filter(|system| self.systems.is_empty() || self.systems.contains(system))
            .collect();
        let again = |record: &Record| {
            record.scenario == scenario.name
                && systems.iter().any(|system| system.name() == record.system)
        };
        results.records.retain(|record| !again(record));
        for repetition in 1..=self.repetitions {
            // Nobody always comes after the same neighbour.
            let first = repetition as usize % systems.len().max(1);
            for system in systems.iter().cycle().skip(first).take(systems.len()) {
                let record = self.once(scenario, *system, repetition, times).await;
                show(scenario, *system, &record);
                results.records.push(record);
                results.write(&self.results)?;
            }
        }
        Ok(())
    }

    async fn once(
        &self,
        scenario: &Scenario,
        system: SystemId,
        repetition: u32,
        times: &Times,
    ) -> Record {
        let measured = self.measure(scenario, system, times).await;
        // What was written and is gone must not be written by the kernel during the next run.
        let _ = fs::remove_dir_all(self.places.data.join(system.name()));
        rustix::fs::sync();
        sleep(PAUSE).await;
        let (values, checks, failed) = match measured {
            Ok((values, checks)) => (values, checks, None),
            Err(error) => (
                BTreeMap::new(),
                Checks::default(),
                Some(format!("{error:#}")),
            ),
        };
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Record {
            scenario: scenario.name.to_owned(),
            system: system.name().to_owned(),
            repetition,
            at: at.unwrap_or_default().as_secs(),
            values,
            checks,
            failed,
        }
    }

    async fn measure(
        &self,
        scenario: &Scenario,
        system: SystemId,
        times: &Times,
    ) -> anyhow::Result<(BTreeMap<String, f64>, Checks)> {
        let (Course::Live(shape) | Course::Backlog(shape)) = &scenario.course;
        if system == SystemId::Disk {
            let disk = disk::measure(&self.places.data.join("disk"), times.disk)?;
            return Ok((disk_values(disk, shape), Checks::default()));
        }
        let server = Server::start(system, &self.places, shape.is_large())?;
        let port = server.port;
        let course = OneCourse {
            server: &server,
            course: &scenario.course,
            warm_up: times.warm_up,
        };
        match system {
            SystemId::Courser | SystemId::Echo => {
                let url = format!("http://127.0.0.1:{port}");
                let echo = system == SystemId::Echo;
                course.run(&Courser { url, echo }).await
            }
            SystemId::Redis | SystemId::RedisPooled => {
                let url = format!("redis://127.0.0.1:{port}");
                let pooled = system == SystemId::RedisPooled;
                let connections = if pooled { REDIS_POOL } else { 1 };
                course.run(&Redis { url, connections }).await
            }
            SystemId::Nats => {
                let url = format!("nats://127.0.0.1:{port}");
                course.run(&Nats { url }).await
            }
            SystemId::RabbitMq | SystemId::RabbitMqMultiple => {
                let rabbitmq = RabbitMq {
                    port,
                    prefetch: RABBITMQ_PREFETCH,
                    acks_multiple: system == SystemId::RabbitMqMultiple,
                };
                course.run(&rabbitmq).await
            }
            SystemId::Disk => unreachable!("was measured above"),
        }
    }
}

/// A scenario on one server.
struct OneCourse<'a> {
    server: &'a Server,
    course: &'a Course,
    warm_up: Duration,
}

impl OneCourse<'_> {
    async fn run<S: System>(&self, system: &S) -> anyhow::Result<(BTreeMap<String, f64>, Checks)> {
        let (Course::Live(shape) | Course::Backlog(shape)) = self.course;
        self.warm_up(system, shape).await?;
        prepare(system, shape).await?;
        match self.course {
            Course::Live(shape) => self.live(system, shape).await,
            Course::Backlog(shape) => self.backlog(system, shape).await,
        }
    }

    /// A short load on a queue of its own: connections, caches and code that is met first.
    async fn warm_up<S: System>(&self, system: &S, shape: &Shape) -> anyhow::Result<()> {
        let shape = Shape {
            name: "warm",
            consumers: shape.consumers.max(1),
            publish: Publish::For(self.warm_up),
            ..shape.clone()
        };
        prepare(system, &shape).await?;
        let run = Run::new(&shape);
        load(system, &shape, &run).await.context("warming up")?;
        Ok(())
    }

    async fn live<S: System>(
        &self,
        system: &S,
        shape: &Shape,
    ) -> anyhow::Result<(BTreeMap<String, f64>, Checks)> {
        let before = Moment::now(self.server);
        let measured = load(system, shape, &Run::new(shape)).await?;
        let after = Moment::now(self.server);
        let mut values = BTreeMap::new();
        let mut put = |measure: Measure, value| values.insert(measure.key().to_owned(), value);
        // Deliveries count where there are any, confirms where nobody consumes.
        let (messages, took) = if shape.consumers > 0 {
            (measured.received, measured.consuming)
        } else {
            (measured.published, measured.publishing)
        };
        let rate = per_second(messages, took);
        put(Measure::Rate, rate);
        put(Measure::Megabytes, rate * shape.size as f64 / 1e6);
        put(Measure::ConfirmP50, millis(&measured.confirm, 0.5));
        put(Measure::ConfirmP99, millis(&measured.confirm, 0.99));
        if shape.consumers > 0 {
            put(Measure::DeliveryP50, millis(&measured.delivery, 0.5));
            put(Measure::DeliveryP99, millis(&measured.delivery, 0.99));
        }
        values.extend(after.since(before, messages, measured.published));
        let checks = check(system, shape, measured).await?;
        Ok((values, checks))
    }

    async fn backlog<S: System>(
        &self,
        system: &S,
        shape: &Shape,
    ) -> anyhow::Result<(BTreeMap<String, f64>, Checks)> {
        let run = Run::new(shape);
        let before = Moment::now(self.server);
        let filling = Shape {
            consumers: 0,
            ..shape.clone()
        };
        let filled = load(system, &filling, &run).await.context("filling")?;
        let draining = Shape {
            publish: Publish::Nothing,
            ..shape.clone()
        };
        let drained = load(system, &draining, &run).await.context("draining")?;
        let after = Moment::now(self.server);
        let mut values = BTreeMap::new();
        let fill = per_second(filled.published, filled.publishing);
        let drain = per_second(drained.received, drained.consuming);
        values.insert(Measure::FillRate.key().to_owned(), fill);
        values.insert(Measure::DrainRate.key().to_owned(), drain);
        values.extend(after.since(before, drained.received, filled.published));
        let measured = Measured {
            published: filled.published,
            ..drained
        };
        let checks = check(system, shape, measured).await?;
        Ok((values, checks))
    }
}

/// A server that has opened its port may still refuse for a moment.
async fn prepare<S: System>(system: &S, shape: &Shape) -> anyhow::Result<()> {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        match system.prepare(shape).await {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > until => return Err(error.context("preparing")),
            Err(_) => sleep(Duration::from_millis(200)).await,
        }
    }
}

async fn check<S: System>(system: &S, shape: &Shape, measured: Measured) -> anyhow::Result<Checks> {
    let until = Instant::now() + LEFT_MAX;
    let mut left = None;
    if shape.consumers > 0 {
        left = system.left(shape).await?;
        while left.unwrap_or(0) > 0 && Instant::now() < until {
            sleep(Duration::from_millis(100)).await;
            left = system.left(shape).await?;
        }
    }
    Ok(Checks {
        published: measured.published,
        received: measured.received,
        missing: measured.missing,
        duplicates: measured.duplicates,
        foreign: measured.foreign,
        unsettled: measured.unsettled,
        left,
    })
}

/// What server and load have used so far.
#[derive(Clone, Copy)]
struct Moment {
    server: Use,
    load: Use,
    /// Bytes on the device.
    written: Option<f64>,
}

impl Moment {
    /// The device last, as it waits for what is still in memory.
    fn now(server: &Server) -> Self {
        Self {
            server: server.used(),
            load: process::used(&[std::process::id()]),
            written: disk::device_written(&server.folder),
        }
    }

    fn since(self, before: Self, messages: u64, published: u64) -> BTreeMap<String, f64> {
        let messages = messages.max(1) as f64;
        let published = published.max(1) as f64;
        let on_device = self.written.zip(before.written);
        let written =
            on_device.map(|(after, before)| (Measure::Written, (after - before) / published));
        let values = [
            (
                Measure::ServerCpu,
                (self.server.cpu - before.server.cpu) * 1e6 / messages,
            ),
            (
                Measure::LoadCpu,
                (self.load.cpu - before.load.cpu) * 1e6 / messages,
            ),
            (Measure::Memory, self.server.memory / 1e6),
        ];
        values
            .into_iter()
            .chain(written)
            .map(|(measure, value)| (measure.key().to_owned(), value))
            .collect()
    }
}

fn disk_values(disk: Disk, shape: &Shape) -> BTreeMap<String, f64> {
    let values = [
        (Measure::Rate.key(), disk.limit() / shape.size as f64),
        (Measure::Megabytes.key(), disk.limit() / 1e6),
        ("growing_megabytes_per_second", disk.growing / 1e6),
        ("in_place_megabytes_per_second", disk.in_place / 1e6),
    ];
    values
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

fn per_second(messages: u64, took: Duration) -> f64 {
    if took.is_zero() {
        0.0
    } else {
        messages as f64 / took.as_secs_f64()
    }
}

fn millis(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1e6
}

fn show(scenario: &Scenario, system: SystemId, record: &Record) {
    let repetition = record.repetition;
    let mut line = format!("  {repetition} {:<24}", system.title());
    if let Some(why) = &record.failed {
        println!("{line} FAILED: {why}");
        return;
    }
    for measure in scenario.measures {
        if let Some(value) = record.values.get(measure.key()) {
            let value = crate::text::figure(*value);
            line.push_str(&format!("  {} {value}", measure.title()));
        }
    }
    if !record.checks.are_clean() {
        line.push_str(&format!("  NOT CLEAN: {:?}", record.checks));
    }
    println!("{line}");
}
