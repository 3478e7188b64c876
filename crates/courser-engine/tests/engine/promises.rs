//! What is said is true: order, durability, restarts, failures, the end.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use courser_core::{
    error::{LeaseError, PublishError, QueueError},
    id::{LeaseId, Position},
    lease::{Nack, Settlement, Verdict},
    options::Durability,
};
use courser_engine::{
    BrokerHandle, Options, Subscription,
    request::{Ended, Event, Health, Open, Publish},
    start,
};
use courser_store::{MemoryStore, Store};

use crate::harness::{
    Gated, Nobody, ack, broker, deliveries, forgetful_over, numbered, open, paused_with, payloads,
    publish, queue, until, verdict,
};

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
    let Some(Event::Settled(settled, _)) = subscription.next().await else {
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
    // More than the engine would commit itself: it answers while that waits.
    let many = ["a"; 20];
    assert!(publisher.send(7, publish("q", &many)).await);
    // The engine has applied it, which the next answer shows.
    until(&broker, "q", |view| view.leased == 20).await;
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
    assert_eq!(payloads(&deliveries(&mut subscription, 20).await), many);
}

async fn gated_with_two_queues() -> (Arc<Gated>, BrokerHandle) {
    let store = Gated::new();
    let broker = start(Arc::clone(&store) as Arc<dyn Store>, &Options::default()).unwrap();
    queue(&broker, "q").await;
    queue(&broker, "other").await;
    (store, broker)
}

/// Publishes more than the engine would commit itself, and waits until that is handed over; its commit waits for the store.
async fn publish_behind_the_gate(broker: &BrokerHandle, store: &Gated) {
    store.set_open(false);
    let (publisher, _confirms) = broker.publisher();
    assert!(publisher.send(1, publish("other", &["x"; 20])).await);
    until(broker, "other", |view| view.ready == 20).await;
}

/// Nothing has come by now.
fn assert_has_nothing(subscription: &mut Subscription) {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let mut events = Vec::new();
    let polled = subscription.poll_events(&mut context, &mut events, 1);
    assert!(polled.is_pending(), "{events:?}");
}

async fn one_at_a_time(broker: &BrokerHandle) -> Subscription {
    let window = Open {
        max_messages: 1,
        ..open("q")
    };
    broker.subscribe(window).await.unwrap()
}

#[tokio::test]
async fn what_is_in_the_log_is_delivered_while_the_next_group_is_on_its_way() {
    let (store, broker) = gated_with_two_queues().await;
    broker.publish(publish("q", &["a", "b"])).await.unwrap();
    publish_behind_the_gate(&broker, &store).await;
    let mut subscription = broker.subscribe(open("q")).await.unwrap();
    let early = tokio::time::timeout(Duration::from_secs(20), deliveries(&mut subscription, 2));
    let early = early.await.expect("it waits for no commit");
    assert_eq!(payloads(&early), ["a", "b"]);
    // What is not in the log waits, and what is handed over behind it does not overtake it.
    let (publisher, _confirms) = broker.publisher();
    assert!(publisher.send(2, publish("q", &["c"])).await);
    until(&broker, "q", |view| view.leased == 3).await;
    let released = verdict(&early[..1], &Verdict::Release);
    assert!(subscription.settler().settle(released).await);
    until(&broker, "q", |view| view.totals.delivered == 4).await;
    assert_has_nothing(&mut subscription);
    store.set_open(true);
    let rest = deliveries(&mut subscription, 2).await;
    assert_eq!(payloads(&rest), ["c", "a"]);
}

#[tokio::test]
async fn a_result_says_that_settles_without_results_before_it_are_durable() {
    let (store, broker) = gated_with_two_queues().await;
    let payloads = ["x"; 200];
    broker.publish(publish("q", &payloads)).await.unwrap();
    let mut subscription = broker.subscribe(open("q")).await.unwrap();
    let held = deliveries(&mut subscription, payloads.len()).await;
    let settler = subscription.settler();
    publish_behind_the_gate(&broker, &store).await;
    // More than may wait for results.
    for one in held.chunks(1) {
        assert!(settler.settle_without_results(ack(one)).await);
    }
    let all = payloads.len() as u64;
    until(&broker, "q", |view| view.totals.acked == all).await;
    assert!(settler.settle(Vec::new()).await);
    // The engine has taken it, which the next answer shows.
    broker.get_queue("q".to_owned()).await.unwrap();
    assert_has_nothing(&mut subscription);
    store.set_open(true);
    match subscription.next().await {
        Some(Event::Settled(settled, _)) => {
            assert_eq!((settled.ok.len(), settled.refused.len()), (0, 0));
        }
        other => panic!("{other:?} is no result"),
    }
    // What is refused is told.
    assert!(settler.settle_without_results(ack(&held[..2])).await);
    match subscription.next().await {
        Some(Event::Refused(refused, _)) => {
            let known =
                |held: &courser_engine::request::Delivery| (held.lease_id, LeaseError::Unknown);
            assert_eq!(refused, held[..2].iter().map(known).collect::<Vec<_>>());
        }
        other => panic!("{other:?} is no refusal"),
    }
    assert_has_nothing(&mut subscription);
}

#[tokio::test]
async fn what_became_of_a_message_is_not_delivered_before_that_is_durable() {
    let (store, broker) = gated_with_two_queues().await;
    broker
        .publish(publish("q", &["a", "b", "c"]))
        .await
        .unwrap();
    let mut first = one_at_a_time(&broker).await;
    let mut second = one_at_a_time(&broker).await;
    let a = deliveries(&mut first, 1).await;
    let b = deliveries(&mut second, 1).await;
    let mut dead = broker.subscribe(open("q.dlq")).await.unwrap();
    publish_behind_the_gate(&broker, &store).await;
    // One is dead-lettered, one has failed, one is acked as it is handed over.
    let reason = Verdict::DeadLetter(Box::default());
    assert!(first.settler().drain().await);
    assert!(first.settler().settle(verdict(&a, &reason)).await);
    until(&broker, "q.dlq", |view| view.leased == 1).await;
    assert_has_nothing(&mut dead);
    let nack = Verdict::Nack(Box::new(Nack {
        retry_after: Some(Duration::ZERO),
        ..Nack::default()
    }));
    assert!(second.settler().settle(verdict(&b, &nack)).await);
    until(&broker, "q", |view| view.totals.delivered == 3).await;
    assert_has_nothing(&mut second);
    let greedy = Open {
        auto_ack: true,
        ..open("q")
    };
    let mut greedy = broker.subscribe(greedy).await.unwrap();
    until(&broker, "q", |view| view.ready == 0).await;
    assert_has_nothing(&mut greedy);
    store.set_open(true);
    assert_eq!(payloads(&deliveries(&mut dead, 1).await), ["a"]);
    let again = deliveries(&mut second, 1).await;
    assert_eq!(
        (payloads(&again), again[0].attempt),
        (vec!["b".to_owned()], 2)
    );
    assert_eq!(payloads(&deliveries(&mut greedy, 1).await), ["c"]);
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
async fn requests_that_wait_for_their_turn_are_refused_in_order_when_the_store_fails() {
    let store = MemoryStore::new();
    let broker = broker(store.clone());
    queue(&broker, "q").await;
    let (publisher, mut confirms) = broker.publisher();
    for number in 0..60 {
        // Each is a quarter of what a turn publishes.
        assert!(publisher.send(number, numbered("q", 1_000)).await);
        store.fail_writes(number >= 20);
    }
    let mut has_failed = false;
    for number in 0..60 {
        let confirm = confirms.next().await.unwrap();
        assert_eq!(confirm.number, number);
        assert!(!has_failed || confirm.result.is_err());
        has_failed |= confirm.result.is_err();
    }
    assert!(has_failed);
}

#[tokio::test]
async fn a_shutdown_makes_durable_what_waits_for_its_turn() {
    let store = MemoryStore::new();
    let first = broker(store.clone());
    queue(&first, "q").await;
    let (publisher, mut confirms) = first.publisher();
    for number in 0..20 {
        assert!(publisher.send(number, numbered("q", 1_000)).await);
    }
    first.shutdown().await;
    for number in 0..20 {
        let confirm = confirms.next().await.unwrap();
        assert_eq!(confirm.number, number);
        assert_eq!(confirm.result.unwrap().len(), 1_000);
    }
    let second = broker(store.reopened());
    until(&second, "q", |view| view.ready == 20_000).await;
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
async fn a_message_that_is_not_in_the_log_yet_is_kept_for_who_waits_for_it() {
    let store = Gated::new();
    let broker = start(
        Arc::clone(&store) as Arc<dyn Store>,
        &Options {
            recent_bytes: 0,
            ..Options::default()
        },
    )
    .unwrap();
    queue(&broker, "q").await;
    let mut subscription = broker.subscribe(open("q")).await.unwrap();
    store.set_open(false);
    // More than the engine would commit itself.
    let mut many = ["a"; 20];
    many[19] = "b";
    let published = {
        let broker = broker.clone();
        tokio::spawn(async move { broker.publish(publish("q", &many)).await })
    };
    // All are handed over while the commit of their group waits.
    until(&broker, "q", |view| view.leased == 20).await;
    for _ in 0..3 {
        broker.get_queue("q".to_owned()).await.unwrap();
    }
    store.set_open(true);
    assert_eq!(published.await.unwrap().unwrap().len(), 20);
    let delivered = deliveries(&mut subscription, 20).await;
    assert_eq!(payloads(&delivered), many);
}

/// Does `work` until the store is synced.
async fn until_synced(store: &Gated, work: impl AsyncFn()) {
    let before = store.syncs.load(Ordering::SeqCst);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while store.syncs.load(Ordering::SeqCst) == before {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the sync never came"
        );
        work().await;
    }
}

#[tokio::test]
async fn a_stream_of_work_without_sync_does_not_put_off_the_sync() {
    let store = Gated::new();
    let broker = start(Arc::clone(&store) as Arc<dyn Store>, &Options::default()).unwrap();
    queue(&broker, "q").await;
    let publish_buffered = async || {
        let buffered = Publish {
            durability: Durability::Buffered,
            ..publish("q", &["a"])
        };
        broker.publish(buffered).await.unwrap();
    };
    until_synced(&store, publish_buffered).await;
    publish_buffered().await;
    // What writes nothing does not take the sync along either.
    until_synced(&store, async || {
        let nobody = Settlement {
            lease_id: LeaseId(7),
            verdict: Verdict::Ack,
        };
        assert!(broker.settle(vec![nobody]).await.unwrap().ok.is_empty());
    })
    .await;
}

#[tokio::test]
async fn what_a_start_replayed_the_next_one_does_not() {
    let store = MemoryStore::new();
    let first = broker(store.clone());
    queue(&first, "q").await;
    first.publish(publish("q", &["a"])).await.unwrap();
    // The process is killed: nothing was checkpointed.
    let killed = store.reopened();
    let second = start(Arc::new(killed.clone()), &Options::default()).unwrap();
    second.shutdown().await;
    let third = killed.reopened();
    assert_eq!(third.recover(&mut Nobody).unwrap().replayed, 0);
}

const MIN_FREE: u64 = 1_000_000;

fn with_min_free() -> Options {
    Options {
        min_free: Some(MIN_FREE),
        ..Options::default()
    }
}

#[tokio::test]
async fn a_disk_that_is_nearly_full_takes_no_messages_and_lets_consumers_go_on() {
    let store = Gated::new();
    let broker = start(Arc::clone(&store) as Arc<dyn Store>, &with_min_free()).unwrap();
    let mut health = broker.health();
    queue(&broker, "q").await;
    broker.publish(publish("q", &["a"])).await.unwrap();
    store.free.store(999_999, Ordering::SeqCst);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    let refused = loop {
        assert!(tokio::time::Instant::now() < deadline, "it never looked");
        if let Err(error) = broker.publish(publish("q", &["b"])).await {
            break error;
        }
    };
    let (free, min_free) = (999_999, MIN_FREE);
    assert_eq!(refused, PublishError::DiskLow { free, min_free });
    health
        .wait_for(|health| *health == Health::DiskLow)
        .await
        .unwrap();
    assert_eq!(broker.snapshot().await.unwrap().space.free, free);

    let mut subscription = broker.subscribe(open("q")).await.unwrap();
    let delivered = deliveries(&mut subscription, 1).await;
    assert!(!broker.settle(ack(&delivered)).await.unwrap().ok.is_empty());
    // Just enough is not enough yet: it would stop again at once.
    store.free.store(1_070_000, Ordering::SeqCst);
    health
        .wait_for(|health| *health == Health::Serving)
        .await
        .unwrap();
    broker.publish(publish("q", &["c"])).await.unwrap();
}

#[tokio::test]
async fn a_broker_at_rest_sees_that_others_fill_the_disk_and_gives_back_what_it_can() {
    let store = Gated::new();
    let (broker, clock) = paused_with(Arc::clone(&store) as Arc<dyn Store>, &with_min_free());
    store.free.store(MIN_FREE - 1, Ordering::SeqCst);
    let mut health = broker.health();
    let is_low = health.wait_for(|health| *health == Health::DiskLow);
    let is_low = tokio::time::timeout(Duration::from_secs(20), is_low).await;
    is_low.expect("it looks").unwrap();
    let space = broker.snapshot().await.unwrap().space;
    assert_eq!(space.free, MIN_FREE - 1);
    // It hears of the shortage a little after it is told.
    let passes = async {
        loop {
            clock.advance(Duration::from_secs(3));
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = passes => {}
        () = store.reclaimed(MIN_FREE) => {}
    }
}

#[tokio::test]
async fn a_start_on_a_disk_that_is_nearly_full_gives_back_what_it_can() {
    let store = Gated::new();
    store.free.store(MIN_FREE - 1, Ordering::SeqCst);
    let (_broker, clock) = paused_with(Arc::clone(&store) as Arc<dyn Store>, &with_min_free());
    clock.advance(Duration::from_secs(3));
    store.reclaimed(MIN_FREE).await;
}

#[tokio::test]
async fn a_message_that_is_not_there_fails_the_store_and_is_not_tried_for_ever() {
    let store = Gated::new();
    let broker = forgetful_over(Arc::clone(&store) as Arc<dyn Store>);
    queue(&broker, "q").await;
    broker.publish(publish("q", &["a", "b"])).await.unwrap();
    store.has_lost.store(true, Ordering::SeqCst);
    let mut subscription = broker.subscribe(open("q")).await.unwrap();
    let ended = subscription.next().await;
    assert!(matches!(ended, Some(Event::Ended(Ended::StoreFailed))));
    let snapshot = broker.snapshot().await.unwrap();
    let failure = snapshot.failure.unwrap();
    for named in [
        "message 1 of queue `q`",
        "courser verify",
        "courser salvage",
    ] {
        assert!(failure.contains(named), "{failure}");
    }
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
async fn a_message_that_reaches_no_queue_is_confirmed_as_such() {
    let broker = broker(MemoryStore::new());
    let published = broker.publish(publish("nowhere", &["a"])).await.unwrap();
    assert_eq!(published[0].queues, 0);
    assert_eq!(published[0].position, Position(0));
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
