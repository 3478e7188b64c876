//! The suite, on the disk.

use super::OnDisk;
use crate::conformance;

#[test]
fn an_empty_store_is_empty() {
    conformance::an_empty_store_is_empty(&mut OnDisk::new());
}

#[test]
fn gives_back_every_record_in_order() {
    conformance::gives_back_every_record_in_order(&mut OnDisk::new());
}

#[test]
fn gives_back_groups_that_were_not_synced() {
    conformance::gives_back_groups_that_were_not_synced(&mut OnDisk::new());
}

#[test]
fn counts_on_from_where_it_was() {
    conformance::counts_on_from_where_it_was(&mut OnDisk::new());
}

#[test]
fn loads_messages_of_every_shape() {
    conformance::loads_messages_of_every_shape(&mut OnDisk::new());
}

#[test]
fn loads_in_any_order() {
    conformance::loads_in_any_order(&mut OnDisk::new());
}

#[test]
fn loads_what_was_committed_before_a_restart() {
    conformance::loads_what_was_committed_before_a_restart(&mut OnDisk::new());
}

#[test]
fn keeps_messages_larger_than_a_segment() {
    conformance::keeps_messages_larger_than_a_segment(&mut OnDisk::new());
}

#[test]
fn a_checkpoint_after_a_recovery_covers_what_was_replayed() {
    conformance::a_checkpoint_after_a_recovery_covers_what_was_replayed(&mut OnDisk::new());
}

#[test]
fn replays_only_what_came_after_the_checkpoint() {
    conformance::replays_only_what_came_after_the_checkpoint(&mut OnDisk::new());
}

#[test]
fn pages_what_was_checkpointed() {
    conformance::pages_what_was_checkpointed(&mut OnDisk::new());
}

#[test]
fn keeps_the_largest_notes_and_definitions() {
    conformance::keeps_the_largest_notes_and_definitions(&mut OnDisk::new());
}

#[test]
fn a_chunk_without_entries_takes_its_notes_along() {
    conformance::a_chunk_without_entries_takes_its_notes_along(&mut OnDisk::new());
}

#[test]
fn a_deleted_queue_takes_everything_along() {
    conformance::a_deleted_queue_takes_everything_along(&mut OnDisk::new());
}

#[test]
fn a_cut_checkpoint_loses_nothing() {
    conformance::a_cut_checkpoint_loses_nothing(&mut OnDisk::new());
}

#[test]
fn a_message_moved_in_a_cut_checkpoint_is_not_reclaimed() {
    conformance::a_message_moved_in_a_cut_checkpoint_is_not_reclaimed(&mut OnDisk::new());
}

#[test]
fn gives_space_back_when_nothing_lives() {
    conformance::gives_space_back_when_nothing_lives(&mut OnDisk::new());
}

#[test]
fn what_a_drained_queue_leaves_between_others_is_given_back() {
    conformance::what_a_drained_queue_leaves_between_others_is_given_back(&mut OnDisk::new());
}

#[test]
fn a_straggler_in_a_hundred_does_not_hold_the_rest() {
    conformance::a_straggler_in_a_hundred_does_not_hold_the_rest(&mut OnDisk::new());
}

#[test]
fn a_disk_without_room_gets_the_end_of_the_log_back() {
    conformance::a_disk_without_room_gets_the_end_of_the_log_back(&mut OnDisk::new());
}

#[test]
fn reclaims_nothing_before_a_checkpoint() {
    conformance::reclaims_nothing_before_a_checkpoint(&mut OnDisk::new());
}
