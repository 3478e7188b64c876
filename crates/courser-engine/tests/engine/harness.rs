//! Stores that can be held up, and small things to say to a broker.

use std::{
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use courser_core::{
    error::PublishError,
    id::{ChunkNo, Position, QueueId},
    lease::{Settlement, Verdict},
    message::{NewMessage, SharedMessage},
    options::{Durability, QueueOptions},
    record::{Checkpoint, Chunk, Group, QueueState, Record},
};
use courser_engine::{
    BrokerHandle, Clock, Options, Subscription,
    request::{Delivery, Event, Open, Publish, Published},
    start,
};
use courser_store::{
    FrameNo, MemoryStore, Pager, Reclaimed, Recover, Recovered, Space, Store, StoreError, Usage,
};
use tokio::{sync::watch, task::JoinHandle};

/// The name of the engine's thread.
pub(crate) const ENGINE: &str = "courser-engine";

/// A store whose commits wait while it is closed, and which counts its syncs.
pub(crate) struct Gated {
    inner: MemoryStore,
    open: Mutex<bool>,
    opened: Condvar,
    /// The name of the thread whose commit waits.
    waiting: Mutex<Option<String>>,
    pub(crate) syncs: AtomicU64,
    /// It has no message any more.
    pub(crate) has_lost: AtomicBool,
    /// Bytes that the disk has left.
    pub(crate) free: AtomicU64,
    /// What was to stay free of it when it was last reclaimed; 0 before.
    kept_free: watch::Sender<u64>,
}

impl Gated {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryStore::new(),
            open: Mutex::new(true),
            opened: Condvar::new(),
            waiting: Mutex::new(None),
            syncs: AtomicU64::new(0),
            has_lost: AtomicBool::new(false),
            free: AtomicU64::new(1 << 40),
            kept_free: watch::Sender::default(),
        })
    }

    pub(crate) fn set_open(&self, open: bool) {
        *self.open.lock().unwrap() = open;
        self.opened.notify_all();
    }

    /// Waits until it is reclaimed with so much that is to stay free.
    pub(crate) async fn reclaimed(&self, keep_free: u64) {
        let mut kept_free = self.kept_free.subscribe();
        let reclaimed = kept_free.wait_for(|kept| *kept == keep_free);
        let reclaimed = tokio::time::timeout(Duration::from_secs(20), reclaimed).await;
        reclaimed.expect("it is reclaimed in time").unwrap();
    }

    /// The name of the thread whose commit waits for the store to be opened, once there is one.
    pub(crate) async fn waiting(&self) -> String {
        loop {
            if let Some(name) = self.waiting.lock().unwrap().clone() {
                return name;
            }
            tokio::task::yield_now().await;
        }
    }
}

impl Store for Gated {
    fn recover(&self, into: &mut dyn Recover) -> Result<Recovered, StoreError> {
        self.inner.recover(into)
    }

    fn commit(&self, group: &Group, sync: bool) -> Result<FrameNo, StoreError> {
        let open = self.open.lock().unwrap();
        if !*open {
            let name = std::thread::current().name().map(str::to_owned);
            *self.waiting.lock().unwrap() = name;
        }
        drop(self.opened.wait_while(open, |open| !*open).unwrap());
        *self.waiting.lock().unwrap() = None;
        self.syncs.fetch_add(u64::from(sync), Ordering::SeqCst);
        self.inner.commit(group, sync)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        self.inner.sync()
    }

    fn load(&self, positions: &[Position]) -> Result<Vec<Option<SharedMessage>>, StoreError> {
        if self.has_lost.load(Ordering::SeqCst) {
            return Ok(vec![None; positions.len()]);
        }
        self.inner.load(positions)
    }

    fn page(&self, queue: QueueId, number: ChunkNo) -> Result<Chunk, StoreError> {
        self.inner.page(queue, number)
    }

    fn checkpoint(&self, checkpoint: &Checkpoint, upto: FrameNo) -> Result<(), StoreError> {
        self.inner.checkpoint(checkpoint, upto)
    }

    fn reclaim(&self, keep_free: u64) -> Result<Reclaimed, StoreError> {
        self.kept_free.send_replace(keep_free);
        self.inner.reclaim(keep_free)
    }

    fn usage(&self) -> Usage {
        self.inner.usage()
    }

    fn space(&self) -> Option<Space> {
        Some(Space {
            free: self.free.load(Ordering::SeqCst),
            total: 1 << 40,
        })
    }
}

pub(crate) fn broker(store: impl Store) -> BrokerHandle {
    start(Arc::new(store), &Options::default()).unwrap()
}

/// A broker whose time passes only by the clock that comes with it.
pub(crate) fn paused(store: Arc<dyn Store>) -> (BrokerHandle, Clock) {
    paused_with(store, &Options::default())
}

/// The same with other options.
pub(crate) fn paused_with(store: Arc<dyn Store>, options: &Options) -> (BrokerHandle, Clock) {
    let clock = Clock::paused();
    let options = Options {
        clock: Some(clock.clone()),
        ..options.clone()
    };
    (start(store, &options).unwrap(), clock)
}

/// A publish whose commit, by the thread of this name, waits until `store` is opened, and how many were
/// published before it came to that.
pub(crate) async fn publish_held_up(
    store: &Gated,
    broker: &BrokerHandle,
    thread: &str,
    before_each: impl Fn(),
) -> (JoinHandle<Result<Vec<Published>, PublishError>>, usize) {
    let mut before = 0;
    loop {
        before_each();
        store.set_open(false);
        let broker = broker.clone();
        let published = tokio::spawn(async move { broker.publish(publish("q", &["x"])).await });
        if store.waiting().await == thread {
            return (published, before);
        }
        // There was something else to do.
        store.set_open(true);
        published.await.unwrap().unwrap();
        before += 1;
    }
}

/// A broker that keeps no message in memory: everything delivered is read from the store.
pub(crate) fn forgetful(store: impl Store) -> BrokerHandle {
    forgetful_over(Arc::new(store))
}

/// The same over a store that others have too.
pub(crate) fn forgetful_over(store: Arc<dyn Store>) -> BrokerHandle {
    start(
        store,
        &Options {
            recent_bytes: 0,
            ..Options::default()
        },
    )
    .unwrap()
}

pub(crate) fn message(topic: &str, payload: &str) -> NewMessage {
    NewMessage {
        id: None,
        topic: topic.into(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        headers: Vec::new(),
        attributes: None,
    }
}

pub(crate) fn publish(topic: &str, payloads: &[&str]) -> Publish {
    Publish {
        messages: payloads
            .iter()
            .map(|payload| message(topic, payload))
            .collect(),
        mandatory: false,
        durability: Durability::Synced,
        without_results: false,
    }
}

pub(crate) fn numbered(topic: &str, count: usize) -> Publish {
    let payloads: Vec<_> = (0..count).map(|n| n.to_string()).collect();
    publish(
        topic,
        &payloads.iter().map(String::as_str).collect::<Vec<_>>(),
    )
}

pub(crate) fn open(queue: &str) -> Open {
    Open {
        queue: queue.to_owned(),
        consumer: "test".to_owned(),
        max_messages: 1_000,
        max_bytes: 16 * 1024 * 1024,
        limit: None,
        lease: None,
        auto_ack: false,
    }
}

pub(crate) async fn queue(broker: &BrokerHandle, name: &str) {
    broker
        .create_queue(name.to_owned(), QueueOptions::default())
        .await
        .unwrap();
}

pub(crate) async fn deliveries(subscription: &mut Subscription, count: usize) -> Vec<Delivery> {
    let mut all = Vec::new();
    while all.len() < count {
        match subscription.next().await.expect("the subscription goes on") {
            Event::Deliveries(deliveries) => all.extend(deliveries),
            Event::Settled(..) | Event::Refused(..) | Event::Recalled => {}
            Event::Drained => panic!("drained"),
            Event::Ended(ended) => panic!("ended: {ended:?}"),
        }
    }
    all
}

pub(crate) fn payloads(deliveries: &[Delivery]) -> Vec<String> {
    let text = |d: &Delivery| String::from_utf8(d.message.payload.to_vec()).unwrap();
    deliveries.iter().map(text).collect()
}

pub(crate) fn ack(deliveries: &[Delivery]) -> Vec<Settlement> {
    verdict(deliveries, &Verdict::Ack)
}

pub(crate) fn verdict(deliveries: &[Delivery], verdict: &Verdict) -> Vec<Settlement> {
    let settlement = |d: &Delivery| Settlement {
        lease_id: d.lease_id,
        verdict: verdict.clone(),
    };
    deliveries.iter().map(settlement).collect()
}

/// Asks until `done` holds of the queue.
pub(crate) async fn until(
    broker: &BrokerHandle,
    queue: &str,
    done: impl Fn(&courser_core::stats::QueueView) -> bool,
) {
    let wait = async {
        while !done(&broker.get_queue(queue.to_owned()).await.unwrap()) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .expect("the condition holds in time");
}

/// Takes what a recovery gives back, and looks at none of it.
pub(crate) struct Nobody;

impl Recover for Nobody {
    fn queue(&mut self, _state: QueueState) {}

    fn chunk(&mut self, _queue: QueueId, _number: ChunkNo, _chunk: &Chunk) {}

    fn record(&mut self, _record: Record, _page: &mut Pager<'_>) -> Result<(), StoreError> {
        Ok(())
    }
}
