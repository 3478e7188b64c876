//! Commands that come alone: who carries them out, and what that must not change.

use std::{
    collections::VecDeque,
    future::Future as _,
    io::{Read as _, Write as _},
    pin::pin,
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::Duration,
};

use courser_core::{
    id::{ChunkNo, LeaseId, Position, QueueId},
    message::SharedMessage,
    options::{Backoff, QueueOptions},
    record::{Checkpoint, Chunk, Group},
};
use courser_engine::{
    BrokerHandle, Clock, Options, Subscription,
    request::{Event, Open, Publish},
    start,
};
use courser_store::{
    FrameNo, MemoryStore, Reclaimed, Recover, Recovered, Space, Store, StoreError, Usage,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::unconstrained,
};

use crate::harness::{
    ENGINE, Gated, ack, deliveries, numbered, open, paused, payloads, publish, publish_held_up,
    queue, until,
};

const CONNECTION: &str = "tokio-rt-worker";

/// What the thread of this name carries out is committed before it is confirmed or delivered.
async fn check_told_when_committed(thread: &str) {
    let store = Gated::new();
    let broker = start(Arc::clone(&store) as Arc<dyn Store>, &Options::default()).unwrap();
    queue(&broker, "q").await;
    let mut subscription = broker.subscribe(open("q")).await.unwrap();
    let (published, before) = publish_held_up(&store, &broker, thread, || {}).await;
    let syncs = store.syncs.load(Ordering::SeqCst);
    deliveries(&mut subscription, before).await;
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(
        subscription
            .poll_events(&mut context, &mut Vec::new(), 1)
            .is_pending()
    );
    // What comes meanwhile is done afterwards, and lost to nobody.
    let second = {
        let broker = broker.clone();
        tokio::spawn(async move { broker.publish(publish("q", &["y"])).await })
    };
    assert!(!published.is_finished());
    store.set_open(true);
    published.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    assert!(store.syncs.load(Ordering::SeqCst) >= syncs + 2);
    let last = deliveries(&mut subscription, 2).await;
    assert_eq!(payloads(&last), ["x", "y"]);
}

#[tokio::test]
async fn a_little_that_comes_alone_is_committed_before_it_is_confirmed_or_delivered() {
    check_told_when_committed(ENGINE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_connection_carries_out_is_committed_before_it_is_confirmed_or_delivered() {
    check_told_when_committed(CONNECTION).await;
}

#[tokio::test]
async fn a_disk_that_holds_up_the_engine_costs_no_lease_whose_ack_has_come() {
    let store = Gated::new();
    let (broker, clock) = paused(Arc::clone(&store) as Arc<dyn Store>);
    queue(&broker, "q").await;
    broker.publish(publish("q", &["a"])).await.unwrap();
    let lease = Duration::from_secs(1);
    let open = Open {
        lease: Some(lease),
        max_messages: 1,
        ..open("q")
    };
    let mut subscription = broker.subscribe(open).await.unwrap();
    let delivered = deliveries(&mut subscription, 1).await;
    let (published, _) = publish_held_up(&store, &broker, ENGINE, || {}).await;
    let mut settled = pin!(broker.settle(ack(&delivered)));
    // The ack is on its way to the engine.
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(settled.as_mut().poll(&mut context).is_pending());
    clock.advance(lease + Duration::from_millis(1));
    store.set_open(true);
    published.await.unwrap().unwrap();
    assert_eq!(settled.await.unwrap().ok, [delivered[0].lease_id]);
    let view = broker.get_queue("q".to_owned()).await.unwrap();
    assert_eq!((view.totals.acked, view.totals.expired), (1, 0));
}

/// So many messages that the committer takes them.
fn large(topic: &str, count: usize) -> Publish {
    let payloads: Vec<_> = (0..count).map(|n| format!("{n:>1024}")).collect();
    publish(topic, &Vec::from_iter(payloads.iter().map(String::as_str)))
}

/// A disk holds up what is to be delivered for longer than its lease: what is delivered then has one that runs.
async fn check_delivered_with_a_lease_that_runs(count: usize) {
    let store = Gated::new();
    let (broker, clock) = paused(Arc::clone(&store) as Arc<dyn Store>);
    queue(&broker, "q").await;
    let lease = Duration::from_secs(1);
    let open = Open {
        lease: Some(lease),
        ..open("q")
    };
    let mut subscription = broker.subscribe(open).await.unwrap();
    store.set_open(false);
    let publisher = broker.clone();
    let request = if count > 1 { large } else { numbered };
    let published = tokio::spawn(async move { publisher.publish(request("q", count)).await });
    store.waiting().await;
    for _ in 0..3 {
        clock.advance(lease + Duration::from_millis(1));
    }
    store.set_open(true);
    published.await.unwrap().unwrap();
    let delivered = deliveries(&mut subscription, count).await;
    let settled = broker.settle(ack(&delivered)).await.unwrap();
    assert_eq!((settled.ok.len(), settled.refused), (count, vec![]));
    assert!(delivered.iter().all(|of| of.attempt == 1));
    let number = |of: String| of.trim().parse().unwrap();
    let numbers: Vec<usize> = payloads(&delivered).into_iter().map(number).collect();
    assert_eq!(numbers, Vec::from_iter(0..count));
    let view = broker.get_queue("q".to_owned()).await.unwrap();
    assert_eq!(
        (view.totals.acked, view.totals.expired, view.leased),
        (count as u64, 0, 0)
    );
}

#[tokio::test]
async fn a_disk_that_holds_up_the_engine_for_longer_than_a_lease_blames_nobody() {
    check_delivered_with_a_lease_that_runs(1).await;
}

#[tokio::test]
async fn a_disk_that_holds_up_the_committer_for_longer_than_a_lease_blames_nobody() {
    check_delivered_with_a_lease_that_runs(100).await;
}

#[tokio::test]
async fn what_goes_back_from_a_consumer_that_waited_for_the_disk_comes_in_its_order() {
    let store = Gated::new();
    let (broker, clock) = paused(Arc::clone(&store) as Arc<dyn Store>);
    queue(&broker, "q").await;
    let open = Open {
        lease: Some(Duration::from_secs(1)),
        ..open("q")
    };
    let mut subscription = broker.subscribe(open).await.unwrap();
    store.set_open(false);
    let publish = || {
        let broker = broker.clone();
        tokio::spawn(async move { broker.publish(large("q", 20)).await })
    };
    let first = publish();
    until(&broker, "q", |view| view.leased == 20).await;
    clock.advance(Duration::from_millis(900));
    let second = publish();
    until(&broker, "q", |view| view.leased == 40).await;
    // The leases of the first have run out, those of the second have not.
    clock.advance(Duration::from_millis(600));
    store.set_open(true);
    let first = first.await.unwrap().unwrap();
    let second = second.await.unwrap().unwrap();
    let delivered = deliveries(&mut subscription, 40).await;
    let order: Vec<_> = delivered.iter().map(|of| of.message.position).collect();
    let published: Vec<_> = first.iter().chain(&second).map(|of| of.position).collect();
    assert_eq!(order, published);
    let settled = broker.settle(ack(&delivered)).await.unwrap();
    assert_eq!((settled.ok.len(), settled.refused), (40, vec![]));
    let view = broker.get_queue("q".to_owned()).await.unwrap();
    assert_eq!((view.totals.expired, view.leased, view.ready), (0, 0, 0));
}

/// Two ends of a connection.
async fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_served_while_the_disk_holds_up_one_of_their_threads() {
    let (stream, mut far) = connection().await;
    // Its end here does without the runtime, whose timers would not come either.
    let mut stream = stream.into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    tokio::spawn(async move {
        while let Ok(byte) = far.read_u8().await {
            far.write_u8(byte).await.unwrap();
        }
    });
    let store = Gated::new();
    let broker = start(Arc::clone(&store) as Arc<dyn Store>, &Options::default()).unwrap();
    queue(&broker, "q").await;
    // The thread that waits for the network is the one that publishes: nobody else is awake.
    let (mut publisher, mut far) = connection().await;
    let (confirm, mut confirms) = mpsc::channel(1);
    tokio::spawn(async move {
        while far.read_u8().await.is_ok() {
            broker.publish(publish("q", &["x"])).await.unwrap();
            confirm.send(()).await.unwrap();
        }
    });
    for byte in 0..5 {
        loop {
            store.set_open(false);
            publisher.write_u8(byte).await.unwrap();
            if store.waiting().await == CONNECTION {
                break;
            }
            store.set_open(true);
            confirms.recv().await.unwrap();
        }
        stream.write_all(&[byte]).unwrap();
        let mut echoed = [0];
        stream.read_exact(&mut echoed).expect("it is served");
        assert_eq!(echoed, [byte]);
        store.set_open(true);
        confirms.recv().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_begins_with_such_a_command_ends_in_time() {
    let store = Gated::new();
    let (broker, clock) = paused(Arc::clone(&store) as Arc<dyn Store>);
    let options = QueueOptions {
        backoff: Backoff {
            initial: Duration::ZERO,
            max: Duration::ZERO,
            ..Default::default()
        },
        ..QueueOptions::default()
    };
    broker.create_queue("q".to_owned(), options).await.unwrap();
    // Sooner than anything else that the engine's thread wakes for.
    let lease = Duration::from_millis(20);
    let consumer = Open {
        lease: Some(lease),
        max_messages: 1,
        ..open("q")
    };
    let mut subscription = broker.subscribe(consumer).await.unwrap();
    let moment = || clock.advance(Duration::from_micros(100));
    let (published, _) = publish_held_up(&store, &broker, CONNECTION, moment).await;
    store.set_open(true);
    published.await.unwrap().unwrap();
    deliveries(&mut subscription, 1).await;
    clock.advance(lease + Duration::from_millis(1));
    let again = deliveries(&mut subscription, 1).await;
    assert_eq!(again[0].attempt, 2);
}

/// A consumer of `q`, and somebody who publishes to it a message each tenth of a millisecond.
struct Often {
    store: Arc<Gated>,
    broker: BrokerHandle,
    clock: Clock,
    subscription: Subscription,
    acked: u64,
}

impl Often {
    async fn start() -> Self {
        let store = Gated::new();
        let (broker, clock) = paused(Arc::clone(&store) as Arc<dyn Store>);
        queue(&broker, "q").await;
        let subscription = broker.subscribe(open("q")).await.unwrap();
        Self {
            store,
            broker,
            clock,
            subscription,
            acked: 0,
        }
    }

    async fn publish(&self, count: usize) {
        for _ in 0..count {
            self.clock.advance(Duration::from_micros(100));
            self.broker.publish(publish("q", &["x"])).await.unwrap();
        }
    }

    /// Acks a message so long after it was published, and answers its lease once the ack is carried out.
    async fn ack_one(&mut self, after: Duration) -> LeaseId {
        self.broker.publish(publish("q", &["x"])).await.unwrap();
        let next = deliveries(&mut self.subscription, 1).await.remove(0);
        let lease = next.lease_id;
        self.clock.advance(after);
        assert!(self.subscription.settler().settle(ack(&[next])).await);
        self.acked += 1;
        // What is looked at comes after what was acked before.
        let view = self.broker.get_queue("q".to_owned()).await.unwrap();
        assert_eq!(view.totals.acked, self.acked);
        lease
    }

    fn syncs(&self) -> u64 {
        self.store.syncs.load(Ordering::SeqCst)
    }

    /// An ack that is not synced yet. Now and then the committer is not quite done with a publish before, and takes
    /// the ack at once.
    async fn ack_that_waits(&mut self) -> LeaseId {
        loop {
            self.publish(20).await;
            let before = self.syncs();
            let lease = self.ack_one(Duration::ZERO).await;
            // One of the publish in it.
            if self.syncs() == before + 1 {
                return lease;
            }
            self.settled(lease).await;
        }
    }

    /// Waits until a lease is said to be settled.
    async fn settled(&mut self, lease: LeaseId) {
        while let Some(event) = self.subscription.next().await {
            if matches!(event, Event::Settled(settled, _) if settled.ok.contains(&lease)) {
                return;
            }
        }
        panic!("nothing is said of {lease:?}");
    }

    /// Nothing is said of a lease.
    fn check_nothing_said(&mut self) {
        let mut events = Vec::new();
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        while let Poll::Ready(count) = self
            .subscription
            .poll_events(&mut context, &mut events, 100)
        {
            assert_ne!(count, 0);
        }
        let settled = events
            .iter()
            .any(|event| matches!(event, Event::Settled(..)));
        assert!(!settled, "before it is durable");
    }
}

async fn check_acks_join_publishes() {
    let mut often = Often::start().await;
    let mut are_together = false;
    for _ in 0..10 {
        let lease = often.ack_that_waits().await;
        often.check_nothing_said();
        let before = often.syncs();
        often.publish(1).await;
        often.settled(lease).await;
        are_together = often.syncs() == before + 1;
        if are_together {
            break;
        }
        // The committer had taken the ack, and had not come to its sync when that was looked at.
    }
    assert!(are_together, "they are never synced together");
    // No publish comes.
    let lease = often.ack_that_waits().await;
    often.clock.advance(Duration::from_millis(1));
    often.settled(lease).await;
    // Nor has one come for a while.
    often.publish(20).await;
    let lease = often.ack_one(Duration::from_millis(1)).await;
    often.settled(lease).await;
    // One that waits when the broker ends is there afterwards.
    let lease = often.ack_that_waits().await;
    often.broker.shutdown().await;
    often.settled(lease).await;
}

#[tokio::test]
async fn acks_are_synced_with_the_next_publish_when_publishes_come_often() {
    check_acks_join_publishes().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_when_connections_carry_them_out() {
    check_acks_join_publishes().await;
}

/// Everybody brings little commands at once, again and again: nobody is forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_finds_the_seat_taken_is_carried_out_by_who_leaves_it() {
    let store = MemoryStore::new();
    let broker = start(Arc::new(store), &Options::default()).unwrap();
    queue(&broker, "q").await;
    let publishers: Vec<_> = (0..8)
        .map(|_| {
            let broker = broker.clone();
            tokio::spawn(async move {
                for _ in 0..500 {
                    broker.publish(publish("q", &["x"])).await.unwrap();
                }
            })
        })
        .collect();
    let mut subscription = broker.subscribe(open("q")).await.unwrap();
    let settler = subscription.settler();
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let mut waiting = VecDeque::new();
    let (mut acked, mut unanswered) = (0, 0);
    while acked < 8 * 500 {
        // Of those that wait for their answer there may be 64.
        if unanswered < 60
            && let Some(delivery) = waiting.pop_front()
        {
            // A task that is dropped in the midst of it leaves nothing behind.
            let settling = settler.settle(ack(std::slice::from_ref(&delivery)));
            let _ = pin!(unconstrained(settling)).poll(&mut context);
            unanswered += 1;
            continue;
        }
        match subscription.next().await.unwrap() {
            Event::Deliveries(deliveries) => waiting.extend(deliveries),
            Event::Settled(settled, _) => {
                assert!(settled.refused.is_empty());
                acked += settled.ok.len();
                unanswered -= settled.ok.len();
            }
            other => panic!("{other:?}"),
        }
    }
    for publisher in publishers {
        publisher.await.unwrap();
    }
    let view = broker.get_queue("q".to_owned()).await.unwrap();
    assert_eq!(view.totals.acked, 8 * 500);
}

/// Panics in the commit of a message with this payload.
struct Panicking(MemoryStore);

const PANICS: &str = "panic";

impl Store for Panicking {
    fn recover(&self, into: &mut dyn Recover) -> Result<Recovered, StoreError> {
        self.0.recover(into)
    }

    fn commit(&self, group: &Group, sync: bool) -> Result<FrameNo, StoreError> {
        assert!(
            group.messages.iter().all(|m| m.payload != PANICS),
            "it was asked to"
        );
        self.0.commit(group, sync)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.0.sync()
    }

    fn load(&self, positions: &[Position]) -> Result<Vec<Option<SharedMessage>>, StoreError> {
        self.0.load(positions)
    }

    fn page(&self, queue: QueueId, number: ChunkNo) -> Result<Chunk, StoreError> {
        self.0.page(queue, number)
    }

    fn checkpoint(&self, checkpoint: &Checkpoint, upto: FrameNo) -> Result<(), StoreError> {
        self.0.checkpoint(checkpoint, upto)
    }

    fn reclaim(&self, keep_free: u64) -> Result<Reclaimed, StoreError> {
        self.0.reclaim(keep_free)
    }

    fn usage(&self) -> Usage {
        self.0.usage()
    }

    fn space(&self) -> Option<Space> {
        self.0.space()
    }
}

/// Everybody hears that the engine has ended by a panic, and nobody waits for it.
async fn check_end_by_a_panic() {
    let store: Arc<dyn Store> = Arc::new(Panicking(MemoryStore::new()));
    let watched = Arc::downgrade(&store);
    let broker = start(store, &Options::default()).unwrap();
    queue(&broker, "q").await;
    let mut subscription = broker.subscribe(open("q")).await.unwrap();
    let mut health = broker.health();
    // The committer is done with what came before, and has seen that the disk is quick.
    for _ in 0..20 {
        broker.publish(publish("q", &["a"])).await.unwrap();
    }
    let panicking = {
        let broker = broker.clone();
        tokio::spawn(async move { broker.publish(publish("q", &[PANICS])).await })
    };
    assert!(panicking.await.map_or(true, |published| published.is_err()));
    while health.changed().await.is_ok() {}
    while subscription.next().await.is_some() {}
    assert!(broker.publish(publish("q", &["a"])).await.is_err());
    assert!(broker.get_queue("q".to_owned()).await.is_err());
    broker.shutdown().await;
    while watched.strong_count() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_panic_of_the_engine_is_its_end() {
    check_end_by_a_panic().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_of_who_carries_out_a_command_is_the_end_of_the_engine() {
    for _ in 0..10 {
        check_end_by_a_panic().await;
    }
}
