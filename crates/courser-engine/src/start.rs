//! Starts the broker: recovers what the store keeps, then lets the threads run.
//!
//! ```text
//!   faces --commands--> engine --turns--> committer --checkpoints--> keeper
//!     ^                  |  ^                |                         |
//!     |                loads |               |                         |
//!     |                  v  |                |                         |
//!     |                loader                |                         |
//!     +------------- what is said, once it is durable                  |
//!                        ^-------------- checkpoint done --------------+
//! ```
//!
//! A little turn the engine commits itself, when the committer has nothing.
//!
//! Shutdown goes the same way: the engine ends and lets go of the committer, which writes what waits; both let
//! go of the keeper, which applies the last checkpoint.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError, mpsc as std_mpsc},
    thread,
};

use courser_core::{
    broker::Broker,
    id::{ChunkNo, QueueId},
    random::Random,
    record::{Chunk, QueueState, Record},
};
use courser_store::{FrameNo, Pager, Recover, Recovered, Store, StoreError};
use tokio::{
    runtime,
    sync::{Semaphore, watch},
};
use uuid::Uuid;

use crate::{
    clock::Clock,
    committer::{Commits, Committer, Log},
    door::{Door, Seat},
    engine::{Engine, Progress},
    failure::Failure,
    handle::BrokerHandle,
    inbox::Inbox,
    keeper::Keeper,
    limits,
    loader::Loader,
    pace::Pace,
    recent::{Committed, Recent},
    request::{CommitStats, Health},
    room::Lookout,
    rush::{IsRush, Rush},
    watch::Watch,
};

/// What the engine can be told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of the latest messages kept in memory.
    pub recent_bytes: usize,
    /// Bytes of the disk that are to stay free: nothing is published while there are fewer. `None` is
    /// the larger of 1 GiB and a twentieth of the disk.
    pub min_free: Option<u64>,
    /// The time that leases and everything else go by. `None` is the machine's.
    pub clock: Option<Clock>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            recent_bytes: limits::RECENT_BYTES_MAX,
            min_free: None,
            clock: None,
        }
    }
}

/// Recovers what `store` keeps and starts the threads. Blocks while it recovers.
///
/// # Errors
/// When the store cannot be recovered, or a thread cannot be started.
pub fn start(store: Arc<dyn Store>, options: &Options) -> Result<BrokerHandle, StoreError> {
    let mut seed = seed();
    let mut target = Recovery {
        broker: Broker::new(0, seed),
        error: None,
    };
    let recovered = store.recover(&mut target)?;
    if let Some(error) = target.error {
        return Err(error);
    }
    let Recovered {
        next_position,
        next_queue,
        epoch,
        replayed,
        last_frame,
        torn_bytes,
    } = recovered;
    let mut broker = target.broker;
    broker.finish_recovery(epoch, next_position, next_queue);
    tracing::info!(
        queues = broker.queue_count(),
        next_position = next_position.0,
        epoch,
        replayed,
        torn_bytes,
        "recovered"
    );
    seed ^= epoch;
    launch(store, broker, last_frame, replayed > 0, seed, options)
}

/// Starts the threads around a recovered broker.
fn launch(
    store: Arc<dyn Store>,
    broker: Broker,
    last_frame: FrameNo,
    replayed: bool,
    seed: u64,
    options: &Options,
) -> Result<BrokerHandle, StoreError> {
    let clock = options.clock.clone().unwrap_or_else(Clock::start);
    let failure = Failure::default();
    let failed = failure.clone();
    let stats = Arc::new(Mutex::new(CommitStats::default()));
    let (turns, turns_waiting) = std_mpsc::sync_channel(limits::TURNS_WAITING_MAX);
    let (checkpoints, checkpoints_waiting) = std_mpsc::channel();
    let (loads, loads_waiting) = std_mpsc::channel();
    let (health, health_watch) = watch::channel(Health::Serving);
    let health = Arc::new(health);
    let mut lookout = Lookout::new(Arc::clone(&store), Arc::clone(&health), options.min_free);
    let is_short = lookout.look(clock.now());
    let room = lookout.room();
    let committed = Committed::new(broker.next_position());

    // Where those who bring commands run.
    let connections = runtime::Handle::try_current()
        .ok()
        .filter(|runtime| runtime.metrics().num_workers() > 1);
    let seat = Arc::new(Seat::default());
    let door = Door {
        inbox: Arc::new(Inbox::new()),
        seat: Arc::clone(&seat),
        watch: connections.as_ref().map(|_| Watch::default()),
    };

    let commits = Arc::new(Commits::new(Log {
        store: Arc::clone(&store),
        checkpoints,
        door: door.clone(),
        failure: failure.clone(),
        stats: Arc::clone(&stats),
        clock: clock.clone(),
        committed: committed.clone(),
        lookout,
        last_frame,
        sync_at: None,
    }));
    let committer = Committer {
        turns: turns_waiting,
        commits: Arc::clone(&commits),
    };
    let keeper = Keeper {
        store: Arc::clone(&store),
        checkpoints: checkpoints_waiting,
        room: room.clone(),
        door: door.clone(),
        failure: failure.clone(),
        stats: Arc::clone(&stats),
    };
    let loader = Loader {
        store: Arc::clone(&store),
        loads: loads_waiting,
        door: door.clone(),
        failure: failure.clone(),
    };
    let recent = Recent::new(broker.next_position(), options.recent_bytes, committed);
    let mut progress = Progress::default();
    if replayed {
        progress.note_replay(clock.now());
    }
    if is_short {
        progress.note_shortage(clock.now());
    }
    let is_rush = IsRush::default();
    let engine = Engine {
        broker,
        door: door.clone(),
        turns,
        commits,
        loads,
        store,
        failure,
        health,
        room,
        clock,
        random: Random::new(seed),
        recent,
        stats,
        outlets: Default::default(),
        handed: Vec::new(),
        was_short: false,
        publishes: VecDeque::new(),
        redrives: VecDeque::new(),
        progress,
        again: false,
        behind: 0,
        joining: Default::default(),
        joins_until: None,
        pace: Pace::default(),
        rush: Rush::new(is_rush.clone()),
        wakes_at: None,
        shutdown: Vec::new(),
    };
    *seat.lock().unwrap_or_else(PoisonError::into_inner) = Some(engine);
    let end = End(door.clone());
    let mut threads = vec![
        spawn("courser-commit", move || committer.run())?,
        spawn("courser-keep", move || keeper.run())?,
        spawn("courser-load", move || loader.run())?,
    ];
    if let (Some(watch), Some(connections)) = (door.watch.clone(), connections) {
        let looking = watch.clone();
        let thread = spawn("courser-watch", move || {
            // A task that comes from outside wakes a thread, which looks at the network when it is done.
            looking.run(|| drop(connections.spawn(async {})));
        })?;
        watch.is_run_by(thread.thread());
        threads.push(thread);
    }
    let runtime = runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|source| cannot_start("the engine's runtime", source))?;
    spawn("courser-engine", move || {
        if runtime.block_on(Engine::run(&end.0, threads)).is_none() {
            tracing::error!("the engine has ended by a panic");
        }
    })?;
    let on_their_way = Arc::new(Semaphore::new(limits::PUBLISH_KIB_MAX as usize));
    Ok(BrokerHandle {
        door,
        on_their_way,
        is_rush,
        peeks: Arc::new(Semaphore::new(limits::PEEKS_AT_ONCE)),
        health: health_watch,
        failure: failed,
    })
}

/// Lets go of the engine, however its thread ends: everybody hears of that, and the store is free.
struct End(Door);

impl Drop for End {
    fn drop(&mut self) {
        let seat = &self.0.seat;
        let engine = seat.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(engine);
        self.0.inbox.end();
        if let Some(watch) = &self.0.watch {
            watch.end();
        }
    }
}

fn spawn(
    name: &str,
    run: impl FnOnce() + Send + 'static,
) -> Result<thread::JoinHandle<()>, StoreError> {
    let builder = thread::Builder::new().name(name.to_owned());
    builder
        .spawn(run)
        .map_err(|source| cannot_start(name, source))
}

fn cannot_start(what: &str, source: std::io::Error) -> StoreError {
    StoreError::Io {
        action: "start",
        path: what.to_owned(),
        source,
    }
}

/// Not a secret: for jitter and for the random part of message ids.
fn seed() -> u64 {
    let (high, low) = Uuid::now_v7().as_u64_pair();
    high.rotate_left(32) ^ low
}

/// Fills a broker with what a store gives back.
struct Recovery {
    broker: Broker,
    error: Option<StoreError>,
}

impl Recover for Recovery {
    fn queue(&mut self, state: QueueState) {
        self.broker.restore_queue(state);
    }

    fn chunk(&mut self, queue: QueueId, number: ChunkNo, chunk: &Chunk) {
        self.broker.restore_chunk(queue, number, chunk);
    }

    fn record(&mut self, record: Record, page: &mut Pager<'_>) -> Result<(), StoreError> {
        let error = &mut self.error;
        let mut pager = |queue, number| match page(queue, number) {
            Ok(chunk) => Some(chunk),
            Err(failed) => {
                error.get_or_insert(failed);
                None
            }
        };
        self.broker.replay(record, &mut pager);
        self.error.take().map_or(Ok(()), Err)
    }
}
