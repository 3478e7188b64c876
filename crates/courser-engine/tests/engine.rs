//! The engine over a store in memory, and over one that can be held up or made to fail.
//!
//! Nothing here sleeps: each test waits for what must happen.

use std::{
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use bytes::Bytes;
use courser_core::{
    error::{LeaseError, PublishError, QueueError},
    id::{ChunkNo, LeaseId, Position, QueueId, Seq},
    lease::{Settlement, Verdict},
    message::{Message, NewMessage},
    options::{Durability, QueueOptions},
    record::{Checkpoint, Chunk, Group},
    stats::{Peek, StateFilter},
};
use courser_engine::{
    BrokerHandle, Options, Subscription,
    request::{Delivery, Ended, Event, Health, Open, Publish, Redrive},
    start,
};
use courser_store::{
    FrameNo, MemoryStore, Reclaimed, Recover, Recovered, Store, StoreError, Usage,
};

/// A store whose commits wait while it is closed.
struct Gated {
    inner: MemoryStore,
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gated {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryStore::new(),
            open: Mutex::new(true),
            opened: Condvar::new(),
        })
    }

    fn set_open(&self, open: bool) {
        *self.open.lock().unwrap() = open;
        self.opened.notify_all();
    }
}

impl Store for Gated {
    fn recover(&self, into: &mut dyn Recover) -> Result<Recovered, StoreError> {
        self.inner.recover(into)
    }

    fn commit(&self, group: &Group, sync: bool) -> Result<FrameNo, StoreError> {
        let open = self.open.lock().unwrap();
        drop(self.opened.wait_while(open, |open| !*open).unwrap());
        self.inner.commit(group, sync)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.inner.sync()
    }

    fn load(&self, positions: &[Position]) -> Result<Vec<Option<Arc<Message>>>, StoreError> {
        self.inner.load(positions)
    }

    fn page(&self, queue: QueueId, number: ChunkNo) -> Result<Chunk, StoreError> {
        self.inner.page(queue, number)
    }

    fn checkpoint(&self, checkpoint: &Checkpoint, upto: FrameNo) -> Result<(), StoreError> {
        self.inner.checkpoint(checkpoint, upto)
    }

    fn reclaim(&self) -> Result<Reclaimed, StoreError> {
        self.inner.reclaim()
    }

    fn usage(&self) -> Usage {
        self.inner.usage()
    }
}

fn broker(store: impl Store) -> BrokerHandle {
    start(Arc::new(store), &Options::default()).unwrap()
}

/// A broker that keeps no message in memory: everything delivered is read from the store.
fn forgetful(store: impl Store) -> BrokerHandle {
    start(Arc::new(store), &Options { recent_bytes: 0 }).unwrap()
}

fn message(topic: &str, payload: &str) -> NewMessage {
    NewMessage {
        id: None,
        topic: topic.into(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        headers: Vec::new(),
        attributes: None,
    }
}

fn publish(topic: &str, payloads: &[&str]) -> Publish {
    Publish {
        messages: payloads
            .iter()
            .map(|payload| message(topic, payload))
            .collect(),
        mandatory: false,
        durability: Durability::Synced,
    }
}

fn numbered(topic: &str, count: usize) -> Publish {
    let payloads: Vec<_> = (0..count).map(|n| n.to_string()).collect();
    publish(
        topic,
        &payloads.iter().map(String::as_str).collect::<Vec<_>>(),
    )
}

fn open(queue: &str) -> Open {
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

async fn queue(broker: &BrokerHandle, name: &str) {
    broker
        .create_queue(name.to_owned(), QueueOptions::default())
        .await
        .unwrap();
}

async fn deliveries(subscription: &mut Subscription, count: usize) -> Vec<Delivery> {
    let mut all = Vec::new();
    while all.len() < count {
        match subscription.next().await.expect("the subscription goes on") {
            Event::Deliveries(deliveries) => all.extend(deliveries),
            Event::Settled(_) => {}
            Event::Drained => panic!("drained"),
            Event::Ended(ended) => panic!("ended: {ended:?}"),
        }
    }
    all
}

fn payloads(deliveries: &[Delivery]) -> Vec<String> {
    let text = |d: &Delivery| String::from_utf8(d.message.payload.to_vec()).unwrap();
    deliveries.iter().map(text).collect()
}

fn ack(deliveries: &[Delivery]) -> Vec<Settlement> {
    verdict(deliveries, &Verdict::Ack)
}

fn verdict(deliveries: &[Delivery], verdict: &Verdict) -> Vec<Settlement> {
    let settlement = |d: &Delivery| Settlement {
        lease_id: d.lease_id,
        verdict: verdict.clone(),
    };
    deliveries.iter().map(settlement).collect()
}

/// Asks until `done` holds of the queue.
async fn until(
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

#[tokio::test]
async fn what_is_published_is_delivered_in_order_and_gone_when_acked() {
    let broker = broker(MemoryStore::new());
    queue(&broker, "q").await;
    let published = broker
        .publish(publish("q", &["a", "b", "c"]))
        .await
        .unwrap();
    assert_eq!(
        published.iter().map(|p| p.queues).collect::<Vec<_>>(),
        [1, 1, 1]
    );
    assert_eq!(published[2].position.0, published[0].position.0 + 2);
    let mut subscription = broker.subscribe(open("q")).await.unwrap();
    let delivered = deliveries(&mut subscription, 3).await;
    assert_eq!(payloads(&delivered), ["a", "b", "c"]);
    assert!(subscription.settler().settle(ack(&delivered)).await);
    let Some(Event::Settled(settled)) = subscription.next().await else {
        panic!("no result")
    };
    assert_eq!((settled.ok.len(), settled.refused.len()), (3, 0));
    let view = broker.get_queue("q".to_owned()).await.unwrap();
    assert_eq!((view.ready, view.leased, view.totals.acked), (0, 0, 3));
}

#[tokio::test]
async fn neither_a_confirm_nor_a_delivery_leaves_before_its_group_is_durable() {
    let store = Gated::new();
    let broker = start(Arc::clone(&store) as Arc<dyn Store>, &Options::default()).unwrap();
    queue(&broker, "q").await;
    let mut subscription = broker.subscribe(open("q")).await.unwrap();
    store.set_open(false);
    let (publisher, mut confirms) = broker.publisher();
    assert!(publisher.send(7, publish("q", &["a"])).await);
    // The engine has applied it, which the next answer shows.
    until(&broker, "q", |view| view.leased == 1).await;
    let waker = futures_waker();
    let mut context = std::task::Context::from_waker(&waker);
    assert!(
        confirms
            .poll_many(&mut context, &mut Vec::new(), 1)
            .is_pending()
    );
    assert!(
        subscription
            .poll_events(&mut context, &mut Vec::new(), 1)
            .is_pending()
    );
    store.set_open(true);
    assert_eq!(confirms.next().await.unwrap().number, 7);
    assert_eq!(payloads(&deliveries(&mut subscription, 1).await), ["a"]);
}

fn futures_waker() -> std::task::Waker {
    std::task::Waker::noop().clone()
}

#[tokio::test]
async fn confirms_come_in_the_order_of_the_requests_also_of_refused_ones() {
    let broker = broker(MemoryStore::new());
    queue(&broker, "q").await;
    let (publisher, mut confirms) = broker.publisher();
    for number in 0..100 {
        let topic = if number % 3 == 0 { "nowhere" } else { "q" };
        let mut request = publish(topic, &["x"]);
        request.mandatory = true;
        assert!(publisher.send(number, request).await);
    }
    for number in 0..100 {
        let confirm = confirms.next().await.unwrap();
        assert_eq!(confirm.number, number);
        assert_eq!(confirm.result.is_err(), number % 3 == 0);
    }
}

#[tokio::test]
async fn a_restart_keeps_what_was_not_acked_and_only_that() {
    let store = MemoryStore::new();
    let first = broker(store.clone());
    queue(&first, "q").await;
    first.publish(publish("q", &["a", "b", "c"])).await.unwrap();
    let mut subscription = first.subscribe(open("q")).await.unwrap();
    let delivered = deliveries(&mut subscription, 3).await;
    let settled = first.settle(ack(&delivered[1..2])).await.unwrap();
    assert_eq!(settled.ok, [delivered[1].lease_id]);
    first.shutdown().await;

    let second = broker(store.reopened());
    let late = second.settle(ack(&delivered[..1])).await.unwrap();
    assert_eq!(late.refused, [(delivered[0].lease_id, LeaseError::Expired)]);
    let mut subscription = second.subscribe(open("q")).await.unwrap();
    let delivered = deliveries(&mut subscription, 2).await;
    assert_eq!(payloads(&delivered), ["a", "c"]);
    assert_eq!(delivered[0].attempt, 1, "a restart is no failed attempt");
}

#[tokio::test]
async fn a_backlog_that_is_not_in_memory_is_delivered_in_order() {
    let broker = forgetful(MemoryStore::new());
    queue(&broker, "q").await;
    for _ in 0..10 {
        broker.publish(numbered("q", 1_000)).await.unwrap();
    }
    let mut subscription = broker.subscribe(open("q")).await.unwrap();
    let mut all = Vec::new();
    while all.len() < 10_000 {
        let delivered = deliveries(&mut subscription, 1).await;
        broker.settle(ack(&delivered)).await.unwrap();
        all.extend(payloads(&delivered));
    }
    let expected: Vec<_> = (0..10_000).map(|n| (n % 1_000).to_string()).collect();
    assert_eq!(all, expected);
}

#[tokio::test]
async fn a_consumer_that_takes_nothing_is_handed_no_more_than_its_window() {
    let broker = broker(MemoryStore::new());
    queue(&broker, "q").await;
    let mut slow = broker
        .subscribe(Open {
            max_messages: 10_000,
            ..open("q")
        })
        .await
        .unwrap();
    for _ in 0..10 {
        broker.publish(numbered("q", 1_000)).await.unwrap();
    }
    until(&broker, "q", |view| view.leased == 4_096).await;
    let mut fast = broker.subscribe(open("q")).await.unwrap();
    let mut seen = 0;
    while seen < 10_000 - 4_096 {
        let delivered = deliveries(&mut fast, 1).await;
        seen += broker.settle(ack(&delivered)).await.unwrap().ok.len();
    }
    let delivered = deliveries(&mut slow, 4_096).await;
    assert_eq!(
        broker.settle(ack(&delivered)).await.unwrap().ok.len(),
        4_096
    );
    until(&broker, "q", |view| view.ready + view.leased == 0).await;
}

#[tokio::test]
async fn a_dropped_subscription_gives_back_at_once_and_charges_only_what_was_taken() {
    let broker = broker(MemoryStore::new());
    let options = QueueOptions {
        backoff: courser_core::options::Backoff {
            initial: Duration::ZERO,
            max: Duration::ZERO,
            ..Default::default()
        },
        ..QueueOptions::default()
    };
    broker.create_queue("q".to_owned(), options).await.unwrap();
    let mut first = broker.subscribe(open("q")).await.unwrap();
    broker.publish(publish("q", &["taken"])).await.unwrap();
    deliveries(&mut first, 1).await;
    broker.publish(publish("q", &["not taken"])).await.unwrap();
    until(&broker, "q", |view| view.leased == 2).await;
    drop(first);
    let mut second = broker.subscribe(open("q")).await.unwrap();
    let delivered = deliveries(&mut second, 2).await;
    assert_eq!(payloads(&delivered), ["taken", "not taken"]);
    assert_eq!(
        delivered.iter().map(|d| d.attempt).collect::<Vec<_>>(),
        [2, 1]
    );
}

#[tokio::test]
async fn a_pull_answers_at_once_or_when_something_comes_or_empty() {
    let broker = broker(MemoryStore::new());
    queue(&broker, "q").await;
    let nothing = broker.pull(open("q"), Duration::ZERO).await.unwrap();
    assert!(nothing.is_empty());
    let waiting = {
        let broker = broker.clone();
        tokio::spawn(async move { broker.pull(open("q"), Duration::from_secs(60)).await })
    };
    until(&broker, "q", |view| view.consumers.len() == 1).await;
    broker.publish(publish("q", &["a", "b"])).await.unwrap();
    let pulled = waiting.await.unwrap().unwrap();
    assert_eq!(payloads(&pulled), ["a", "b"]);
    assert_eq!(broker.settle(ack(&pulled)).await.unwrap().ok.len(), 2);
    let view = broker.get_queue("q".to_owned()).await.unwrap();
    assert_eq!((view.consumers.len(), view.leased), (0, 0));
}

#[tokio::test]
async fn a_pull_without_a_wait_reads_a_backlog_that_is_not_in_memory() {
    let broker = forgetful(MemoryStore::new());
    queue(&broker, "q").await;
    broker.publish(publish("q", &["a"])).await.unwrap();
    let pulled = broker.pull(open("q"), Duration::ZERO).await.unwrap();
    assert_eq!(payloads(&pulled), ["a"]);
}

#[tokio::test]
async fn a_pull_whose_client_went_away_holds_nothing() {
    let broker = broker(MemoryStore::new());
    queue(&broker, "q").await;
    let pull = {
        let broker = broker.clone();
        tokio::spawn(async move { broker.pull(open("q"), Duration::from_secs(60)).await })
    };
    until(&broker, "q", |view| view.consumers.len() == 1).await;
    pull.abort();
    assert!(pull.await.unwrap_err().is_cancelled());
    // Its place is gone before anything comes: nothing passes through it.
    until(&broker, "q", |view| view.consumers.is_empty()).await;
    broker.publish(publish("q", &["a"])).await.unwrap();
    let pulled = broker.pull(open("q"), Duration::ZERO).await.unwrap();
    assert_eq!(pulled[0].attempt, 1);
    let view = broker.get_queue("q".to_owned()).await.unwrap();
    assert_eq!((view.totals.delivered, view.totals.released), (1, 0));
}

#[tokio::test]
async fn a_pull_with_auto_ack_takes_no_more_than_it_asked_for() {
    let broker = broker(MemoryStore::new());
    queue(&broker, "q").await;
    broker
        .publish(publish("q", &["a", "b", "c"]))
        .await
        .unwrap();
    let two = Open {
        max_messages: 2,
        auto_ack: true,
        ..open("q")
    };
    let pulled = broker.pull(two, Duration::ZERO).await.unwrap();
    assert_eq!(payloads(&pulled), ["a", "b"]);
    let view = broker.get_queue("q".to_owned()).await.unwrap();
    assert_eq!((view.ready, view.totals.acked), (1, 2));
}

#[tokio::test]
async fn a_consumer_that_drains_hears_what_was_the_last_delivery() {
    let broker = forgetful(MemoryStore::new());
    queue(&broker, "q").await;
    broker.publish(publish("q", &["a", "b"])).await.unwrap();
    let mut subscription = broker.subscribe(open("q")).await.unwrap();
    assert!(subscription.settler().drain().await);
    let mut delivered = Vec::new();
    loop {
        match subscription.next().await.unwrap() {
            Event::Deliveries(more) => delivered.extend(more),
            Event::Drained => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(payloads(&delivered), ["a", "b"]);
    broker.publish(publish("q", &["c"])).await.unwrap();
    let settler = subscription.settler();
    assert!(settler.settle(ack(&delivered)).await);
    assert!(
        matches!(subscription.next().await, Some(Event::Settled(settled)) if settled.ok.len() == 2)
    );
    let view = broker.get_queue("q".to_owned()).await.unwrap();
    assert_eq!((view.ready, view.leased, view.totals.delivered), (1, 0, 2));
}

#[tokio::test]
async fn what_a_consumer_took_and_never_sent_goes_back_without_blame() {
    let broker = broker(MemoryStore::new());
    queue(&broker, "q").await;
    broker
        .publish(publish("q", &["sent", "unsent"]))
        .await
        .unwrap();
    let mut first = broker.subscribe(open("q")).await.unwrap();
    let taken = deliveries(&mut first, 2).await;
    first.leave(vec![taken[1].lease_id]);
    let mut second = broker.subscribe(open("q")).await.unwrap();
    let unsent = deliveries(&mut second, 1).await.remove(0);
    assert_eq!(
        (unsent.message.payload.as_ref(), unsent.attempt),
        (&b"unsent"[..], 1)
    );
    let view = broker.get_queue("q".to_owned()).await.unwrap();
    assert_eq!((view.totals.released, view.totals.disconnected), (1, 1));
}

#[tokio::test]
async fn a_failed_store_ends_subscriptions_refuses_writes_and_still_counts() {
    let store = MemoryStore::new();
    let broker = broker(store.clone());
    queue(&broker, "q").await;
    broker.publish(publish("q", &["a"])).await.unwrap();
    let mut subscription = broker.subscribe(open("q")).await.unwrap();
    let delivered = deliveries(&mut subscription, 1).await;
    store.fail_writes(true);
    let refused = broker.publish(publish("q", &["b"])).await.unwrap_err();
    assert!(matches!(refused, PublishError::Unavailable(_)), "{refused}");
    let mut health = broker.health();
    health
        .wait_for(|health| matches!(health, Health::StoreFailed(_)))
        .await
        .unwrap();
    while let Some(event) = subscription.next().await {
        assert!(matches!(
            event,
            Event::Ended(Ended::StoreFailed) | Event::Deliveries(_)
        ));
    }
    let refused = broker.settle(ack(&delivered)).await.unwrap_err();
    assert!(matches!(refused, QueueError::Unavailable(_)), "{refused}");
    assert!(broker.subscribe(open("q")).await.is_err());
    let snapshot = broker.snapshot().await.unwrap();
    assert!(snapshot.failure.is_some());

    let second = start(Arc::new(store.reopened()), &Options::default()).unwrap();
    let mut subscription = second.subscribe(open("q")).await.unwrap();
    assert_eq!(payloads(&deliveries(&mut subscription, 1).await), ["a"]);
}

#[tokio::test]
async fn shutdown_ends_subscriptions_and_answers_everybody() {
    let broker = broker(MemoryStore::new());
    queue(&broker, "q").await;
    let mut subscription = broker.subscribe(open("q")).await.unwrap();
    let pull = {
        let broker = broker.clone();
        tokio::spawn(async move { broker.pull(open("other"), Duration::from_secs(60)).await })
    };
    broker.shutdown().await;
    assert!(matches!(
        subscription.next().await,
        Some(Event::Ended(Ended::ShuttingDown))
    ));
    assert!(subscription.next().await.is_none());
    assert!(pull.await.unwrap().is_err());
    assert!(matches!(
        broker.publish(publish("q", &["a"])).await,
        Err(PublishError::Unavailable(_))
    ));
    assert!(broker.get_queue("q".to_owned()).await.is_err());
}

#[tokio::test]
async fn deleting_a_queue_ends_its_consumers() {
    let broker = broker(MemoryStore::new());
    queue(&broker, "q").await;
    let mut subscription = broker.subscribe(open("q")).await.unwrap();
    assert_eq!(
        broker.delete_queue("q".to_owned(), false).await.unwrap(),
        (0, 0)
    );
    assert!(matches!(
        subscription.next().await,
        Some(Event::Ended(Ended::QueueDeleted))
    ));
    let gone = broker.get_queue("q".to_owned()).await.unwrap_err();
    assert_eq!(
        gone,
        QueueError::NotFound {
            name: "q".to_owned()
        }
    );
}

#[tokio::test]
async fn dead_letters_are_redriven_in_steps_with_their_history() {
    let store = MemoryStore::new();
    let broker = forgetful(store);
    queue(&broker, "q").await;
    for _ in 0..3 {
        broker.publish(numbered("q", 1_000)).await.unwrap();
    }
    let mut subscription = broker.subscribe(open("q")).await.unwrap();
    let mut rejected = 0;
    while rejected < 3_000 {
        let delivered = deliveries(&mut subscription, 1).await;
        let reason = courser_core::lease::DeadLetterReason {
            reason: "poison".into(),
            description: "cannot be read".into(),
        };
        let verdicts = verdict(&delivered, &Verdict::DeadLetter(Box::new(reason)));
        rejected += broker.settle(verdicts).await.unwrap().ok.len();
    }
    drop(subscription);
    let peek = Peek {
        state: StateFilter::Any,
        after: Seq(0),
        limit: 2,
    };
    let peeked = broker.peek("q.dlq".to_owned(), peek).await.unwrap();
    assert_eq!(peeked.len(), 2);
    assert_eq!(peeked[1].message.as_ref().unwrap().payload, "1");
    let note = peeked[0].view.note.as_ref().unwrap();
    assert_eq!(&*note.dead_letter.as_ref().unwrap().reason, "poison");
    let redrive = Redrive {
        queue: "q.dlq".to_owned(),
        limit: Some(2_500),
        ..Redrive::default()
    };
    assert_eq!(broker.redrive(redrive.clone()).await.unwrap(), 2_500);
    let view = broker.get_queue("q".to_owned()).await.unwrap();
    assert_eq!((view.ready, view.dead), (2_500, 500));
    let again = broker.pull(open("q"), Duration::ZERO).await.unwrap();
    assert_eq!(
        (again[0].attempt, again[0].note.as_ref().unwrap().redrives),
        (1, 1)
    );
    let refused = broker
        .redrive(Redrive {
            queue: "q".to_owned(),
            ..Redrive::default()
        })
        .await
        .unwrap_err();
    assert!(
        matches!(refused, QueueError::NotDeadLetterQueue { .. }),
        "{refused}"
    );
}

#[tokio::test]
async fn auto_ack_settles_as_it_hands_over() {
    let store = MemoryStore::new();
    let broker = broker(store);
    queue(&broker, "q").await;
    broker.publish(numbered("q", 500)).await.unwrap();
    let mut subscription = broker
        .subscribe(Open {
            auto_ack: true,
            ..open("q")
        })
        .await
        .unwrap();
    let delivered = deliveries(&mut subscription, 500).await;
    assert!(
        delivered
            .iter()
            .all(|delivery| delivery.lease_id == LeaseId(0))
    );
    let view = broker.get_queue("q".to_owned()).await.unwrap();
    assert_eq!((view.ready, view.leased, view.totals.acked), (0, 0, 500));
}

#[tokio::test]
async fn a_message_that_reaches_no_queue_is_confirmed_as_such() {
    let broker = broker(MemoryStore::new());
    let published = broker.publish(publish("nowhere", &["a"])).await.unwrap();
    assert_eq!(published[0].queues, 0);
    assert_eq!(published[0].position, Position(1));
}

#[tokio::test]
async fn the_store_is_let_go_before_shutdown_returns() {
    for _ in 0..50 {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let watched = Arc::downgrade(&store);
        let broker = start(store, &Options::default()).unwrap();
        queue(&broker, "q").await;
        broker.shutdown().await;
        assert_eq!(watched.strong_count(), 0);
    }
}
