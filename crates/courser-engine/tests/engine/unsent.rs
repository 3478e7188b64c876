//! What all consumers together have not taken: bounded, with room for those that take, and an end for those
//! that are in the way.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use courser_core::{
    id::{ChunkNo, Position, QueueId},
    limits::{UNSENT_FREELY_BYTES, UNSENT_SPARINGLY_BYTES, UNSENT_TIME_MAX},
    message::SharedMessage,
    record::{Checkpoint, Chunk, Group},
};
use courser_engine::{
    BrokerHandle, Clock, Cut, Subscription, Unsent,
    request::{Delivery, Event, Open},
};
use courser_store::{
    FrameNo, MemoryStore, Reclaimed, Recover, Recovered, Space, Store, StoreError, Usage,
};

use crate::harness::*;

const BYTES: usize = 2 * 1024 * 1024;
const COUNT: usize = 60;

#[tokio::test]
async fn consumers_that_take_go_on_beside_those_that_do_not_and_these_are_ended_for_others() {
    let (broker, clock) = paused(Arc::new(MemoryStore::new()));
    queue(&broker, "big").await;
    queue(&broker, "small").await;
    let mut taker = broker.subscribe(open("small")).await.unwrap();
    broker.publish(numbered("small", 1)).await.unwrap();
    deliveries(&mut taker, 1).await;

    let cuts = Arc::<AtomicUsize>::default();
    let mut stuck = Vec::new();
    // As long as this one asks, and was given nothing, it is not in the way.
    let blameless = Arc::<AtomicUsize>::default();
    let its_cuts = Arc::clone(&blameless);
    let cut = Cut::new(move || {
        its_cuts.fetch_add(1, Ordering::SeqCst);
    });
    stuck.push(broker.subscribe_over(open("big"), cut).await.unwrap());
    stuck[0].asking().store(true, Ordering::SeqCst);
    for _ in 1..COUNT {
        let cuts = Arc::clone(&cuts);
        let cut = Cut::new(move || {
            cuts.fetch_add(1, Ordering::SeqCst);
        });
        stuck.push(broker.subscribe_over(open("big"), cut).await.unwrap());
    }
    let body = "x".repeat(BYTES);
    for _ in 0..COUNT {
        broker.publish(publish("big", &[&body])).await.unwrap();
    }
    let fit = fit() as u64;
    until(&broker, "big", |view| view.leased == fit).await;
    for _ in 0..50 {
        broker.publish(numbered("small", 1)).await.unwrap();
        deliveries(&mut taker, 1).await;
    }
    let leased = broker.get_queue("big".to_owned()).await.unwrap().leased;
    assert_eq!(leased, fit, "the room is for those that take");

    // One that is new is served once those are ended that have taken nothing for long.
    let mut new = broker
        .subscribe(Open {
            limit: Some(1),
            ..open("big")
        })
        .await
        .unwrap();
    until_cut(&broker, &clock, &cuts).await;
    let delivered = deliveries(&mut new, 1).await;
    assert_eq!(delivered[0].message.payload.len(), BYTES);
    assert_eq!(blameless.load(Ordering::SeqCst), 0, "that of one that asks");

    drop(stuck);
    until(&broker, "big", |view| view.leased == 1).await;
    let mut all = broker.subscribe(open("big")).await.unwrap();
    for _ in 1..COUNT {
        let delivered = deliveries(&mut all, 1).await;
        assert_eq!(
            delivered[0].attempt, 1,
            "nobody is charged for what was never sent"
        );
        broker.settle(ack(&delivered)).await.unwrap();
    }
}

#[tokio::test]
async fn what_a_pull_answered_counts_until_it_is_let_go_of() {
    let (broker, _clock) = paused(Arc::new(MemoryStore::new()));
    queue(&broker, "big").await;
    let body = "x".repeat(BYTES);
    for _ in 0..COUNT {
        broker.publish(publish("big", &[&body])).await.unwrap();
    }
    let one = Open {
        max_messages: 1,
        ..open("big")
    };
    let mut held = Vec::new();
    while held.len() < COUNT {
        let pulled = broker.pull_over(one.clone(), Duration::ZERO, Cut::default());
        let pulled = pulled.await.unwrap();
        if pulled.deliveries.is_empty() {
            break;
        }
        held.push(pulled);
    }
    assert_eq!(held.len(), fit());
    held.pop();
    until(&broker, "big", |view| view.consumers.len() == held.len()).await;
    let pulled = broker.pull_over(one, Duration::ZERO, Cut::default()).await;
    assert_eq!(pulled.unwrap().deliveries.len(), 1);
}

/// Lets time pass until one is cut, which comes when others have waited for long, and not before.
async fn until_cut(broker: &BrokerHandle, clock: &Clock, cuts: &AtomicUsize) {
    let step = Duration::from_secs(1);
    let mut waited = Duration::ZERO;
    while cuts.load(Ordering::SeqCst) == 0 {
        assert!(waited < 2 * UNSENT_TIME_MAX, "nobody is cut for others");
        clock.advance(step);
        waited += step;
        // An answer shows that the engine has seen the time.
        broker.get_queue("big".to_owned()).await.unwrap();
    }
    assert!(waited >= UNSENT_TIME_MAX, "cut after {waited:?}");
}

/// The next deliveries of it, given to a connection that takes nothing.
async fn given(subscription: &mut Subscription) -> Unsent {
    let mut events = Vec::new();
    poll_fn(|context| subscription.poll_events(context, &mut events, 1)).await;
    match &events[..] {
        [Event::Deliveries(deliveries)] => subscription.admit(deliveries).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// How many messages new consumers may hold all together.
fn fit() -> usize {
    usize::try_from(UNSENT_SPARINGLY_BYTES.div_ceil(BYTES as u64)).unwrap()
}

/// A queue with so many messages.
async fn fill(broker: &BrokerHandle, name: &str, count: usize) {
    queue(broker, name).await;
    let body = "x".repeat(BYTES);
    for _ in 0..count {
        broker.publish(publish(name, &[&body])).await.unwrap();
    }
}

/// A consumer that has nothing after many turns of the engine gets nothing.
async fn assert_waits(broker: &BrokerHandle, queue: &str) {
    for _ in 0..50 {
        let view = broker.get_queue(queue.to_owned()).await.unwrap();
        assert_eq!(
            view.leased, 0,
            "what connections hold is no room for others"
        );
    }
}

#[tokio::test]
async fn what_a_connection_holds_counts_when_its_consumer_is_gone_and_it_is_cut_for_others() {
    let (broker, clock) = paused(Arc::new(MemoryStore::new()));
    fill(&broker, "big", COUNT).await;
    let cuts = Arc::<AtomicUsize>::default();
    let mut held = Vec::new();
    for _ in 0..fit() {
        let cuts = Arc::clone(&cuts);
        let cut = Cut::new(move || {
            cuts.fetch_add(1, Ordering::SeqCst);
        });
        let one = Open {
            limit: Some(1),
            ..open("big")
        };
        let mut subscription = broker.subscribe_over(one, cut).await.unwrap();
        held.push(given(&mut subscription).await);
        subscription.leave(Vec::new());
        until(&broker, "big", |view| view.consumers.is_empty()).await;
    }

    let mut new = broker.subscribe(open("big")).await.unwrap();
    assert_waits(&broker, "big").await;
    until_cut(&broker, &clock, &cuts).await;
    let delivered = deliveries(&mut new, 1).await;
    assert_eq!(delivered[0].attempt, 1, "it was never sent");
}

#[tokio::test]
async fn what_connections_hold_counts_when_the_queue_is_gone_until_they_have_let_go_of_it() {
    let (broker, _clock) = paused(Arc::new(MemoryStore::new()));
    // Few enough to be in memory: what waits for the disk when its queue is gone is held by nobody.
    fill(&broker, "gone", fit()).await;
    let mut stuck = Vec::new();
    for _ in 0..fit() {
        stuck.push(broker.subscribe(open("gone")).await.unwrap());
    }
    until(&broker, "gone", |view| view.leased == fit() as u64).await;
    fill(&broker, "big", COUNT).await;
    // Half of them have given it to their connections, the others have not come to that.
    let mut held = Vec::new();
    for subscription in &mut stuck[..fit() / 2] {
        held.push(given(subscription).await);
    }
    let deleted = broker.delete_queue("gone".to_owned(), false).await;
    deleted.unwrap();

    let mut new = broker.subscribe(open("big")).await.unwrap();
    assert_waits(&broker, "big").await;
    drop(stuck);
    deliveries(&mut new, 1).await;
    drop(held);
    deliveries(&mut new, 1).await;
}

/// Deliveries that a consumer was given, none of which its connection has taken.
async fn untaken(subscription: &mut Subscription, count: usize) -> Vec<Delivery> {
    let mut events = Vec::new();
    let mut untaken = Vec::new();
    while untaken.len() < count {
        poll_fn(|context| subscription.poll_events(context, &mut events, 1)).await;
        for event in events.drain(..) {
            match event {
                Event::Deliveries(deliveries) => untaken.extend(deliveries),
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(untaken.len(), count);
    untaken
}

#[tokio::test]
async fn what_is_taken_in_the_turn_in_which_a_shortage_ends_and_the_next_begins_is_heard_of() {
    let store = Gated::new();
    let (broker, _clock) = paused(Arc::clone(&store) as Arc<dyn Store>);
    queue(&broker, "q").await;
    // Each consumer is handed three, as long as all of them together have few.
    const EACH: usize = 3;
    let few = usize::try_from(UNSENT_FREELY_BYTES).unwrap() / BYTES;
    fill(&broker, "first", EACH).await;
    let mut first = broker.subscribe(open("first")).await.unwrap();
    let of_first = untaken(&mut first, EACH).await;
    let of_first: Vec<_> = of_first
        .iter()
        .map(|delivery| first.admit(std::slice::from_ref(delivery)).unwrap())
        .collect();
    let rest = few - 1 - EACH;
    fill(&broker, "stuck", rest).await;
    let mut stuck = Vec::new();
    for _ in 0..rest / EACH {
        stuck.push(broker.subscribe(open("stuck")).await.unwrap());
    }
    until(&broker, "stuck", |view| view.leased == rest as u64).await;
    // From its first one on, room is short.
    fill(&broker, "second", EACH).await;
    let mut second = broker.subscribe(open("second")).await.unwrap();
    let of_second = untaken(&mut second, 1).await;
    let of_second = second.admit(&of_second).unwrap();
    fill(&broker, "last", EACH).await;

    // In one turn: it is not short any more, another one takes something, and it is short again.
    let (published, _) = publish_held_up(&store, &broker, ENGINE, || {}).await;
    let mut of_first = of_first.into_iter();
    drop(of_second);
    drop(of_first.next());
    store.set_open(true);
    published.await.unwrap().unwrap();
    until(&broker, "second", |view| view.leased == EACH as u64).await;

    drop(of_first);
    let mut last = broker.subscribe(open("last")).await.unwrap();
    let given = tokio::time::timeout(Duration::from_secs(20), untaken(&mut last, 2)).await;
    given.expect("there is room in plenty");
}

/// A store in which the first body that is asked for is gone.
#[derive(Default)]
struct Lacking {
    inner: MemoryStore,
    asked: AtomicBool,
}

impl Store for Lacking {
    fn recover(&self, into: &mut dyn Recover) -> Result<Recovered, StoreError> {
        self.inner.recover(into)
    }

    fn commit(&self, group: &Group, sync: bool) -> Result<FrameNo, StoreError> {
        self.inner.commit(group, sync)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.inner.sync()
    }

    fn load(&self, positions: &[Position]) -> Result<Vec<Option<SharedMessage>>, StoreError> {
        let mut messages = self.inner.load(positions)?;
        if !self.asked.swap(true, Ordering::SeqCst) {
            messages[0] = None;
        }
        Ok(messages)
    }

    fn page(&self, queue: QueueId, number: ChunkNo) -> Result<Chunk, StoreError> {
        self.inner.page(queue, number)
    }

    fn checkpoint(&self, checkpoint: &Checkpoint, upto: FrameNo) -> Result<(), StoreError> {
        self.inner.checkpoint(checkpoint, upto)
    }

    fn reclaim(&self, keep_free: u64) -> Result<Reclaimed, StoreError> {
        self.inner.reclaim(keep_free)
    }

    fn usage(&self) -> Usage {
        self.inner.usage()
    }

    fn space(&self) -> Option<Space> {
        self.inner.space()
    }
}

#[tokio::test]
async fn a_consumer_that_waits_for_a_message_that_is_gone_gets_the_next() {
    let broker = forgetful(Lacking::default());
    queue(&broker, "q").await;
    // The second does not fit beside the first.
    let bodies = ["a", "b"].map(|name| name.repeat(700 * 1024));
    for body in &bodies {
        broker.publish(publish("q", &[body])).await.unwrap();
    }
    let auto_ack = Open {
        auto_ack: true,
        ..open("q")
    };
    let mut consumer = broker.subscribe(auto_ack).await.unwrap();
    let next = tokio::time::timeout(Duration::from_secs(10), deliveries(&mut consumer, 1));
    let next = next.await.expect("the next one comes");
    assert!(payloads(&next)[0] == bodies[1]);
}
