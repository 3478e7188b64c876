//! Space: what the store takes follows what lives in it.

use courser_core::id::Position;

use super::{
    Harness,
    fixture::{checkpoint, fill, load_one, message, reclaim_all, reclaim_with, recover},
};
use crate::Store;

/// Everything was removed: nothing but slack is left.
pub fn gives_space_back_when_nothing_lives(harness: &mut impl Harness) {
    let store = harness.open();
    recover(&store);
    let upto = fill(&store, 1, 10_001);
    let full = store.usage().log_bytes;
    assert!(full >= 10_000_000, "{full}");
    store
        .checkpoint(&checkpoint(10_001, 1..10_001), upto)
        .expect("the checkpoint is finished");
    reclaim_all(&store);
    assert!(store.usage().log_bytes >= 10_000_000, "what lives stays");
    for _ in 0..3 {
        store
            .checkpoint(&checkpoint(10_001, 0..0), upto)
            .expect("the checkpoint is finished");
        reclaim_all(&store);
    }
    let left = store.usage().log_bytes;
    assert!(left <= harness.slack(), "{left} bytes are left");
    let store = harness.reopen(store);
    let (_, recovered) = recover(&store);
    assert_eq!(recovered.next_position, Position(10_001));
    assert!(store.usage().log_bytes <= harness.slack());
    fill(&store, 10_001, 10_101);
    assert_eq!(load_one(&store, 10_001), message(10_001, 1_000));
}

/// One message in a hundred lives: twice their bytes at most are kept.
pub fn a_straggler_in_a_hundred_does_not_hold_the_rest(harness: &mut impl Harness) {
    let store = harness.open();
    recover(&store);
    let upto = fill(&store, 1, 20_001);
    for _ in 0..3 {
        let living = (1..20_001).step_by(100);
        store
            .checkpoint(&checkpoint(20_001, living), upto)
            .expect("the checkpoint is finished");
        reclaim_all(&store);
    }
    let left = store.usage().log_bytes;
    assert!(
        left <= 2 * 200 * 1_100 + harness.slack(),
        "{left} bytes are left"
    );
    check_every(&store, 100);
    let store = harness.reopen(store);
    recover(&store);
    check_every(&store, 100);

    // Of the rest half again, more than once.
    for step in [200, 400, 800] {
        let living = (1..20_001).step_by(step);
        store
            .checkpoint(&checkpoint(20_001, living), upto)
            .expect("the checkpoint is finished");
        reclaim_all(&store);
        check_every(&store, step);
    }
}

/// Six messages of ten live, and nothing changes any more: a fifth more than their bytes is kept.
pub fn what_a_drained_queue_leaves_between_others_is_given_back(harness: &mut impl Harness) {
    let store = harness.open();
    recover(&store);
    let upto = fill(&store, 1, 10_001);
    let lives = |position: &u64| position % 10 < 6;
    for _ in 0..3 {
        store
            .checkpoint(&checkpoint(10_001, (1..10_001).filter(lives)), upto)
            .expect("the checkpoint is finished");
        reclaim_all(&store);
    }
    let left = store.usage().log_bytes;
    let living = 6_000 * 1_100;
    assert!(
        left <= living + living / 5 + harness.slack(),
        "{left} bytes are left"
    );
    for position in (1..10_001).filter(lives) {
        assert_eq!(load_one(&store, position), message(position, 1_000));
    }
}

fn check_every(store: &impl Store, step: usize) {
    for position in (1..20_001).step_by(step) {
        assert_eq!(load_one(store, position), message(position, 1_000));
    }
}

/// The disk has no room: what is at the end of the log is given back like everything else, once it is dead and the
/// index knows.
pub fn a_disk_without_room_gets_the_end_of_the_log_back(harness: &mut impl Harness) {
    let store = harness.open();
    recover(&store);
    let upto = fill(&store, 1, 101);
    let not_yet = fill(&store, 101, 102);
    store
        .checkpoint(&checkpoint(101, (1..101).step_by(10)), upto)
        .expect("the checkpoint is finished");
    reclaim_with(&store, u64::MAX);
    // The index is not past it.
    assert_eq!(load_one(&store, 101), message(101, 1_000));

    // A tenth lives.
    let living = || (1..102).step_by(10);
    store
        .checkpoint(&checkpoint(102, living()), not_yet)
        .expect("the checkpoint is finished");
    reclaim_with(&store, u64::MAX);
    let left = store.usage().log_bytes;
    assert!(left <= 11 * 1_200 + 4_096, "{left} bytes are left");
    for position in living() {
        assert_eq!(load_one(&store, position), message(position, 1_000));
    }

    store
        .checkpoint(&checkpoint(102, 0..0), not_yet)
        .expect("the checkpoint is finished");
    reclaim_with(&store, u64::MAX);
    let left = store.usage().log_bytes;
    assert!(left <= 4_096, "{left} bytes are left");

    let store = harness.reopen(store);
    let (_, recovered) = recover(&store);
    assert_eq!(recovered.next_position, Position(102));
    assert_eq!(recovered.last_frame, not_yet);
    fill(&store, 102, 202);
    let store = harness.reopen(store);
    let (found, _) = recover(&store);
    assert_eq!(found.records.len(), 100);
    assert_eq!(load_one(&store, 201), message(201, 1_000));
}

/// What was recovered may be moved about: nothing is given back before the index says so again.
pub fn reclaims_nothing_before_a_checkpoint(harness: &mut impl Harness) {
    let store = harness.open();
    recover(&store);
    fill(&store, 1, 2_001);
    reclaim_all(&store);
    let store = harness.reopen(store);
    recover(&store);
    reclaim_all(&store);
    for position in [1, 2, 777, 2_000] {
        assert_eq!(load_one(&store, position), message(position, 1_000));
    }
}
