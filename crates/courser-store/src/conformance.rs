//! What every store must do, as functions: each takes a [`Harness`] and panics when the store does
//! not.
//!
//! A store runs them all with [`all`], or a line each, as both stores of this crate do.

mod checkpoints;
pub mod fixture;
mod records;
mod space;

use courser_core::record::Checkpoint;

pub use self::{checkpoints::*, records::*, space::*};
use crate::{FrameNo, Store};

/// How the suite opens a store and kills it.
pub trait Harness {
    /// What is tested.
    type Store: Store;

    /// Opens a new store, empty. The suite recovers it.
    fn open(&mut self) -> Self::Store;

    /// The process that had the store open is killed, and the next one opens what it left.
    fn reopen(&mut self, store: Self::Store) -> Self::Store;

    /// Lets a checkpoint fail after so many steps of it are in the index. `false` when a checkpoint
    /// of this store has no steps, and nothing was done.
    fn cut_checkpoint(
        &mut self,
        store: &Self::Store,
        checkpoint: &Checkpoint,
        upto: FrameNo,
        steps: usize,
    ) -> bool;

    /// Bytes that the store may hold when nothing lives in it.
    fn slack(&self) -> u64;
}

/// Runs the whole suite, each case on a store of its own.
pub fn all<H: Harness>(mut harness: impl FnMut() -> H) {
    an_empty_store_is_empty(&mut harness());
    gives_back_every_record_in_order(&mut harness());
    gives_back_groups_that_were_not_synced(&mut harness());
    counts_on_from_where_it_was(&mut harness());
    loads_messages_of_every_shape(&mut harness());
    loads_in_any_order(&mut harness());
    loads_what_was_committed_before_a_restart(&mut harness());
    keeps_messages_larger_than_a_segment(&mut harness());
    replays_only_what_came_after_the_checkpoint(&mut harness());
    a_checkpoint_after_a_recovery_covers_what_was_replayed(&mut harness());
    pages_what_was_checkpointed(&mut harness());
    keeps_the_largest_notes_and_definitions(&mut harness());
    a_chunk_without_entries_takes_its_notes_along(&mut harness());
    a_deleted_queue_takes_everything_along(&mut harness());
    a_cut_checkpoint_loses_nothing(&mut harness());
    a_message_moved_in_a_cut_checkpoint_is_not_reclaimed(&mut harness());
    gives_space_back_when_nothing_lives(&mut harness());
    a_straggler_in_a_hundred_does_not_hold_the_rest(&mut harness());
    what_a_drained_queue_leaves_between_others_is_given_back(&mut harness());
    a_disk_without_room_gets_the_end_of_the_log_back(&mut harness());
    reclaims_nothing_before_a_checkpoint(&mut harness());
}
