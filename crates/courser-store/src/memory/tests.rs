//! The suite, on the store in memory.

use courser_core::record::Checkpoint;

use crate::{
    FrameNo, MemoryStore,
    conformance::{self, Harness},
};

struct InMemory;

impl Harness for InMemory {
    type Store = MemoryStore;

    fn open(&mut self) -> MemoryStore {
        MemoryStore::new()
    }

    fn reopen(&mut self, store: MemoryStore) -> MemoryStore {
        store.reopened()
    }

    fn cut_checkpoint(&mut self, _: &MemoryStore, _: &Checkpoint, _: FrameNo, _: usize) -> bool {
        false
    }

    fn slack(&self) -> u64 {
        0
    }
}

#[test]
fn an_empty_store_is_empty() {
    conformance::an_empty_store_is_empty(&mut InMemory);
}

#[test]
fn gives_back_every_record_in_order() {
    conformance::gives_back_every_record_in_order(&mut InMemory);
}

#[test]
fn gives_back_groups_that_were_not_synced() {
    conformance::gives_back_groups_that_were_not_synced(&mut InMemory);
}

#[test]
fn counts_on_from_where_it_was() {
    conformance::counts_on_from_where_it_was(&mut InMemory);
}

#[test]
fn loads_messages_of_every_shape() {
    conformance::loads_messages_of_every_shape(&mut InMemory);
}

#[test]
fn loads_in_any_order() {
    conformance::loads_in_any_order(&mut InMemory);
}

#[test]
fn loads_what_was_committed_before_a_restart() {
    conformance::loads_what_was_committed_before_a_restart(&mut InMemory);
}

#[test]
fn keeps_messages_larger_than_a_segment() {
    conformance::keeps_messages_larger_than_a_segment(&mut InMemory);
}

#[test]
fn a_checkpoint_after_a_recovery_covers_what_was_replayed() {
    conformance::a_checkpoint_after_a_recovery_covers_what_was_replayed(&mut InMemory);
}

#[test]
fn replays_only_what_came_after_the_checkpoint() {
    conformance::replays_only_what_came_after_the_checkpoint(&mut InMemory);
}

#[test]
fn pages_what_was_checkpointed() {
    conformance::pages_what_was_checkpointed(&mut InMemory);
}

#[test]
fn keeps_the_largest_notes_and_definitions() {
    conformance::keeps_the_largest_notes_and_definitions(&mut InMemory);
}

#[test]
fn a_chunk_without_entries_takes_its_notes_along() {
    conformance::a_chunk_without_entries_takes_its_notes_along(&mut InMemory);
}

#[test]
fn a_deleted_queue_takes_everything_along() {
    conformance::a_deleted_queue_takes_everything_along(&mut InMemory);
}

#[test]
fn a_cut_checkpoint_loses_nothing() {
    conformance::a_cut_checkpoint_loses_nothing(&mut InMemory);
}

#[test]
fn a_message_moved_in_a_cut_checkpoint_is_not_reclaimed() {
    conformance::a_message_moved_in_a_cut_checkpoint_is_not_reclaimed(&mut InMemory);
}

#[test]
fn gives_space_back_when_nothing_lives() {
    conformance::gives_space_back_when_nothing_lives(&mut InMemory);
}

#[test]
fn what_a_drained_queue_leaves_between_others_is_given_back() {
    conformance::what_a_drained_queue_leaves_between_others_is_given_back(&mut InMemory);
}

#[test]
fn a_straggler_in_a_hundred_does_not_hold_the_rest() {
    conformance::a_straggler_in_a_hundred_does_not_hold_the_rest(&mut InMemory);
}

#[test]
fn a_disk_without_room_gets_the_end_of_the_log_back() {
    conformance::a_disk_without_room_gets_the_end_of_the_log_back(&mut InMemory);
}

#[test]
fn reclaims_nothing_before_a_checkpoint() {
    conformance::reclaims_nothing_before_a_checkpoint(&mut InMemory);
}
