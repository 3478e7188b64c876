//! The real binary on a small file system of its own that gets full.
//!
//! With `min_free`, publishing stops before the disk is full, and goes on when consumers have made room, also when that
//! is less than a file of the log takes; a broker at rest sees that others fill the disk. Without
//! it the disk gets really full: files that only wait for reuse are given up, then the store fails, the broker says so and goes on answering, and after a kill -9
//! and with more room everything confirmed is there.
//!
//! The file system is ext4 in a file, or tmpfs where that cannot be mounted. It takes root; who is not is told
//! by a NOTE.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use courser_proto::v1::{
    Binding, CreateQueueRequest, GetServerInfoRequest, Message, PublishRequest, QueueOptions,
};
use tempfile::TempDir;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    broker::Broker,
    drain,
    history::History,
    letter::Letter,
    load::{self, Load},
    random::{self, Random},
};

const MIB: u64 = 1 << 20;
const DISK_BYTES: u64 = 192 * MIB;
/// Of a file of the log.
const SEGMENT_BYTES: u64 = 64 * MIB;
const MIN_FREE: u64 = 64 * MIB;
/// With this one there is less than a file of the log beyond it.
const MOST_FREE: u64 = 110 * MIB;
/// Goes when the broker needs room again.
const BALLAST_BYTES: u64 = 40 * MIB;
/// So many that the index cannot take them without growing.
const QUEUES: usize = 100;
/// Of each of these.
const PATTERNS: usize = 200;
const QUEUE: &str = "work";
const PLACE: usize = 0;
/// Messages of one request, and bytes of each, where the disk is to be nearly full.
const BATCH: u32 = 4;
const PAYLOAD: usize = 64 << 10;
/// The same where it is not to be.
const LITTLE: usize = 1 << 10;
/// What makes the disk really full: the messages of one producer would do so four times.
const FLOOD: Load = Load {
    batch_max: 4,
    bytes: (32 << 10, 96 << 10),
    messages_max: 12_000,
    nack: 0,
    release: 0,
    dead_letter: 0,
    keep: 0,
};
const FLOOD_PRODUCERS: u32 = 2;
/// Publishes alone, when the flood is over.
const PROBE: u32 = FLOOD_PRODUCERS;
/// How long anything that is waited for may take.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Between two looks at something that is waited for.
const LOOK: Duration = Duration::from_millis(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "mounts a file system: run by tests/run crash"]
async fn a_disk_that_is_nearly_full_takes_messages_again_when_consumers_have_made_room() {
    nearly_full(MIN_FREE, 16 * MIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "mounts a file system: run by tests/run crash"]
async fn a_disk_with_less_room_than_a_file_of_the_log_takes_messages_again_as_well() {
    nearly_full(MOST_FREE, 8 * MIB).await;
}

/// Of the disk so much is to stay free, and there is room for so many bytes of messages before.
async fn nearly_full(min_free: u64, room: u64) {
    let Some(disk) = Disk::mount(DISK_BYTES) else {
        return;
    };
    let history = History::new(1, &[PLACE]);
    let mut broker = start(&disk, 0, &format!("{}MiB", min_free / MIB)).await;
    create_queue(&broker, QUEUE, vec![format!("{QUEUE}.*")]).await;
    for round in 0..4 {
        let before = history.totals().confirmed;
        let refusal = publish_until_refused(&broker, &history, 0).await;
        assert_eq!(refusal.code(), Code::ResourceExhausted, "{refusal:?}");
        assert_eq!(reason(&refusal), "DISK_LOW", "{refusal:?}");
        assert!(refusal.message().contains("the disk has"), "{refusal:?}");
        assert!(refusal.message().contains("room"), "{refusal:?}");
        let confirmed = history.totals().confirmed - before;
        // Later it is refused again sooner, or later: files are given back and made while it publishes.
        assert!(
            round > 0 || confirmed * PAYLOAD as u64 > room,
            "there was room for {confirmed} messages only"
        );
        until_page(&broker, "/readyz", 503).await;
        assert_eq!(broker.page("/healthz").await.0, 200);
        let free = broker.metric("courser_disk_free_bytes").await;
        // With a sixteenth more it would be taken again.
        let enough = min_free + min_free / 16;
        assert!(free < enough as f64, "{free} bytes are free");
        let told = broker.metric("courser_disk_min_free_bytes").await;
        assert_eq!(told, min_free as f64);

        within("the drain", drain::one(&broker, &history, QUEUE, PLACE)).await;
        let totals = history.totals();
        assert_eq!(
            totals.delivered, totals.confirmed,
            "each that was confirmed once, and none that was refused"
        );
        let drained = Instant::now();
        until_page(&broker, "/readyz", 200).await;
        eprintln!(
            "nearly full, round {round}: {confirmed} confirmed, refused with {free} bytes free, \
             room {:?} after the drain",
            drained.elapsed()
        );
        publish(&broker, &history, 0).await.unwrap();
    }
    within("the drain", drain::one(&broker, &history, QUEUE, PLACE)).await;
    history.judge(1);
    history.assert_no_violation();
    assert_eq!(broker.metric("courser_store_failed").await, 0.0);
    broker.assert_alive();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "mounts a file system: run by tests/run crash"]
async fn a_broker_at_rest_sees_that_others_fill_the_disk_and_that_they_make_room() {
    let Some(disk) = Disk::mount(DISK_BYTES) else {
        return;
    };
    let free = DISK_BYTES - BALLAST_BYTES;
    let broker = start(&disk, 0, &free.to_string()).await;
    until_page(&broker, "/readyz", 200).await;
    let ballast = disk.ballast(BALLAST_BYTES);
    until_page(&broker, "/readyz", 503).await;
    assert!(broker.metric("courser_disk_free_bytes").await < free as f64);
    fs::remove_file(ballast).unwrap();
    until_page(&broker, "/readyz", 200).await;
}

/// What waits for reuse is given up before a write fails, that of the index included.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "mounts a file system: run by tests/run crash"]
async fn a_full_disk_takes_the_spare_files_of_the_log_before_the_store_fails() {
    let Some(disk) = Disk::mount(2 * DISK_BYTES) else {
        return;
    };
    let history = History::new(1, &[PLACE]);
    let mut broker = start(&disk, 0, "0").await;
    create_queue(&broker, QUEUE, vec![format!("{QUEUE}.*")]).await;
    // One that was taken into use has room, so that the other one stays.
    until("two prepared files", async || {
        publish_of(&broker, &history, 0, LITTLE).await.unwrap();
        disk.has_prepared("seg") && disk.has_prepared("spare")
    })
    .await;
    // What is given up from now on is not taken by this.
    let ballast = disk.ballast(disk.free());
    // The index grows.
    for number in 0..QUEUES {
        let name = format!("{QUEUE}{number}");
        let patterns = (0..PATTERNS).map(|n| format!("{}{n:03}", "x".repeat(250)));
        create_queue(&broker, &name, patterns.collect()).await;
    }
    until("the spare file is given up", async || {
        !disk.has_prepared("spare")
    })
    .await;
    let checkpoints = broker.metric("courser_store_checkpoints_total").await;
    until("a checkpoint", async || {
        publish_of(&broker, &history, 0, LITTLE).await.unwrap();
        broker.metric("courser_store_checkpoints_total").await > checkpoints
    })
    .await;
    assert_eq!(broker.page("/healthz").await.0, 200);
    fs::remove_file(ballast).unwrap();
    within("the drain", drain::one(&broker, &history, QUEUE, PLACE)).await;
    history.judge(1);
    history.assert_no_violation();
    broker.assert_alive();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "mounts a file system: run by tests/run crash"]
async fn what_was_confirmed_is_there_after_the_disk_was_full_and_a_kill_9() {
    let Some(disk) = Disk::mount(DISK_BYTES) else {
        return;
    };
    let seed = random::seed();
    eprintln!("really full: COURSER_CRASH_SEED={seed}");
    let history = History::new(PROBE as usize + 1, &[PLACE]);
    let mut broker = start(&disk, 0, "0").await;
    // Not before: a broker takes no folder that holds something of others.
    let ballast = disk.ballast(BALLAST_BYTES);
    create_queue(&broker, QUEUE, vec![format!("{QUEUE}.*")]).await;
    flood(&broker, &history, &mut Random::new(seed)).await;

    let refusal = publish(&broker, &history, PROBE).await.unwrap_err();
    assert_eq!(refusal.code(), Code::Unavailable, "{refusal:?}");
    assert_eq!(reason(&refusal), "STORE_FAILED", "{refusal:?}");
    assert!(refusal.message().contains("is full"), "{refusal:?}");
    for probe in ["/healthz", "/readyz"] {
        let body = until_page(&broker, probe, 503).await;
        assert!(body.contains("is full"), "{probe}: {body}");
    }
    assert_eq!(broker.metric("courser_store_failed").await, 1.0);
    let failure = store_failure(&broker).await;
    assert!(failure.contains("is full"), "{failure}");
    broker.assert_alive();
    broker.kill();
    let left = history.totals();
    history.assert_no_violation();
    assert!(left.confirmed > 500, "there was hardly any load: {left:?}");

    fs::remove_file(ballast).unwrap();
    let started = Instant::now();
    let mut broker = start(&disk, 1, "0").await;
    let started = started.elapsed();
    until_page(&broker, "/readyz", 200).await;
    assert_eq!(broker.page("/healthz").await.0, 200);
    assert_eq!(broker.metric("courser_store_failed").await, 0.0);
    within("the drain", drain::one(&broker, &history, QUEUE, PLACE)).await;
    publish(&broker, &history, PROBE).await.unwrap();
    within("the drain", drain::one(&broker, &history, QUEUE, PLACE)).await;
    history.judge(1);
    eprintln!(
        "really full: {failure:?}, {:?}, started again in {started:?}",
        history.totals()
    );
    history.assert_no_violation();
    broker.assert_alive();
}

async fn start(disk: &Disk, round: u64, min_free: &str) -> Broker {
    let flags = ["--http", "127.0.0.1:0", "--min-free", min_free];
    Broker::start_with(disk.folder.path(), round, &flags).await
}

async fn create_queue(broker: &Broker, name: &str, patterns: Vec<String>) {
    let request = CreateQueueRequest {
        name: name.to_owned(),
        options: Some(QueueOptions {
            bindings: patterns
                .into_iter()
                .map(|pattern| Binding { pattern })
                .collect(),
            ..Default::default()
        }),
    };
    broker.admin().await.create_queue(request).await.unwrap();
}

/// Publishes for as long as it is taken; answers the first refusal.
async fn publish_until_refused(broker: &Broker, history: &History, producer: u32) -> Status {
    let request = u64::from(BATCH) * PAYLOAD as u64;
    for _ in 0..DISK_BYTES / request {
        if let Err(refusal) = publish(broker, history, producer).await {
            return refusal;
        }
    }
    panic!("more was taken than the disk has");
}

/// One request.
async fn publish(broker: &Broker, history: &History, producer: u32) -> Result<(), Status> {
    publish_of(broker, history, producer, PAYLOAD).await
}

/// The same of messages with so many bytes each.
async fn publish_of(
    broker: &Broker,
    history: &History,
    producer: u32,
    bytes: usize,
) -> Result<(), Status> {
    let mut client = broker.connect().await.expect("the broker runs");
    let first = history.sending(producer, BATCH);
    let messages = (first..first + BATCH).map(|number| Message {
        topic: format!("{QUEUE}.{producer}"),
        payload: Letter { producer, number }.write(bytes),
        ..Default::default()
    });
    let request = PublishRequest {
        messages: messages.collect(),
        ..Default::default()
    };
    within("a confirm", client.publish(request)).await?;
    history.confirmed(producer, first, BATCH);
    Ok(())
}

/// Several publish at once, many requests ahead of their confirms, until they are told UNAVAILABLE.
async fn flood(broker: &Broker, history: &History, random: &mut Random) {
    let mut producers = JoinSet::new();
    for producer in 0..FLOOD_PRODUCERS {
        let client = broker.connect().await.expect("the broker runs");
        let random = random.fork(u64::from(producer));
        let history = history.clone();
        producers.spawn(load::produce(client, history, FLOOD, producer, random));
    }
    within("a full disk", producers.join_all()).await;
}

async fn store_failure(broker: &Broker) -> String {
    let mut admin = broker.admin().await;
    let info = admin.get_server_info(GetServerInfoRequest {});
    let info = within("an answer", info).await.unwrap();
    info.into_inner().store_failure
}

/// The stable word of a refusal.
fn reason(refusal: &Status) -> String {
    let info = refusal.get_details_error_info();
    info.map(|info| info.reason).unwrap_or_default()
}

/// Waits until a page answers with this code; answers its body.
async fn until_page(broker: &Broker, path: &str, code: u16) -> String {
    let deadline = Instant::now() + WAIT_MAX;
    loop {
        let (found, body) = broker.page(path).await;
        if found == code {
            return body;
        }
        assert!(
            Instant::now() < deadline,
            "{path} is {found} and not {code}: {body}\n{}",
            broker.log()
        );
        sleep(LOOK).await;
    }
}

/// Tries until it is so.
async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let tries = async {
        while !is_so().await {
            sleep(LOOK).await;
        }
    };
    within(what, tries).await;
}

async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match timeout(WAIT_MAX, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what} did not come within {WAIT_MAX:?}"),
    }
}

/// A file system that is mounted until this is dropped, which must be after the broker on it has ended: a
/// variable that is declared later is dropped before.
#[derive(Debug)]
struct Disk {
    /// Keeps the image, what the broker says, and `data`, where it is mounted.
    folder: TempDir,
}

impl Disk {
    fn mount(bytes: u64) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        fs::create_dir(&data).unwrap();
        let ext4 = mount_ext4(&folder.path().join("image"), &data, bytes);
        let mounted = match &ext4 {
            Ok(()) => Ok("ext4".to_owned()),
            Err(ext4) => mount_tmpfs(&data, bytes)
                .map(|()| format!("tmpfs, for ext4 cannot be mounted ({ext4})"))
                .map_err(|tmpfs| format!("{ext4}; {tmpfs}")),
        };
        // The name of the test stands on the line, and a note begins one.
        match mounted {
            Ok(kind) => {
                eprintln!("\na file system of {} MiB: {kind}", bytes / MIB);
                Some(Self { folder })
            }
            Err(why) => {
                eprintln!(
                    "\nNOTE: a full disk was not tested: no file system can be mounted: {why}"
                );
                None
            }
        }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Bytes that are free.
    fn free(&self) -> u64 {
        let mut stat = Command::new("stat");
        stat.args(["--file-system", "--format", "%a %S"])
            .arg(self.data());
        let said = run(&mut stat).unwrap();
        let (blocks, size) = said.trim().split_once(' ').unwrap();
        blocks.parse::<u64>().unwrap() * size.parse::<u64>().unwrap()
    }

    /// A file that takes so much room, or all there is, until it is removed.
    fn ballast(&self, bytes: u64) -> PathBuf {
        let path = self.data().join("ballast");
        let mut file = File::create(&path).unwrap();
        let mut left = bytes;
        while left > 0 {
            let step = left.min(MIB);
            match file.write_all(&vec![0x5a; step as usize]) {
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                written => written.unwrap(),
            }
            left -= step;
        }
        file.sync_all().unwrap();
        path
    }

    /// Whether a file of the log with this ending was filled with zeros before it was needed.
    fn has_prepared(&self, ending: &str) -> bool {
        let log = fs::read_dir(self.data().join("log")).unwrap();
        log.map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|it| it == ending))
            // It may have another name by now.
            .any(|path| fs::metadata(path).is_ok_and(|file| file.len() == SEGMENT_BYTES))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let data = self.data();
        // Whoever still looks into it must not keep it for ever.
        let ended = run(Command::new("umount").arg(&data))
            .or_else(|_| run(Command::new("umount").arg("--lazy").arg(&data)));
        if let Err(why) = ended {
            eprintln!("{} stays mounted: {why}", data.display());
        }
    }
}

fn mount_ext4(image: &Path, data: &Path, bytes: u64) -> Result<(), String> {
    File::create(image).unwrap().set_len(bytes).unwrap();
    // Nothing is kept for root, who this is, and nothing is made later.
    let options = "lazy_itable_init=0,lazy_journal_init=0";
    run(Command::new("mkfs.ext4")
        .args(["-q", "-F", "-m", "0", "-E", options])
        .arg(image))?;
    run(Command::new("mount")
        .args(["-t", "ext4", "-o", "loop"])
        .args([image, data]))?;
    Ok(())
}

fn mount_tmpfs(data: &Path, bytes: u64) -> Result<(), String> {
    run(Command::new("mount")
        .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
        .arg(data))?;
    Ok(())
}

/// Runs a command; answers what it said, as an error when it did not succeed.
fn run(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|why| format!("{name}: {why}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{name}: {}", said.trim().replace('\n', ", ")))
}
