//! Every limit of the engine, each with the reason for its number.

use std::time::Duration;

/// Commands waiting for the engine; whoever sends more waits.
pub(crate) const COMMANDS_WAITING_MAX: usize = 4_096;
/// Commands taken in one turn: more would let deliveries wait.
pub(crate) const COMMANDS_PER_TURN: usize = 256;
/// KiB of messages between a publisher's request and its confirm, over the whole broker. One message
/// of the largest size must fit.
pub(crate) const PUBLISH_KIB_MAX: u32 = 128 * 1024;
/// KiB of messages between the requests of one pipelined publisher and their confirms.
pub(crate) const STREAM_KIB_MAX: u32 = 16 * 1024;
/// KiB that a request counts for at least, which bounds a publisher to 8,192 requests on their way.
pub(crate) const REQUEST_KIB_MIN: u32 = 2;
/// Settle requests of one subscription whose results it has not taken.
pub(crate) const SETTLES_WAITING_MAX: usize = 64;
/// Turns that wait for the committer: one is being written while the next gather.
pub(crate) const TURNS_WAITING_MAX: usize = 64;
/// Bytes of messages in a turn that the engine commits itself when the committer has nothing.
pub(crate) const LITTLE_BYTES: usize = 16 * 1024;
/// Records in such a turn.
pub(crate) const LITTLE_RECORDS: usize = 16;
/// Turns that such a thread makes for one command that it brings, with what little comes while it does.
pub(crate) const CARRIED_TURNS_MAX: usize = 4;
/// Commands, all little, that a connection's thread carries out in one turn, and that may wait behind a turn which the
/// engine commits itself: more are a load, for which the committer works beside the engine.
pub(crate) const LITTLE_WAITING: usize = 4;
/// How long settles may wait for the next publish, to be synced with it.
pub(crate) const JOIN_WAIT: Duration = Duration::from_micros(500);
/// They wait while a publish has come in each such time of late.
pub(crate) const JOIN_PACE: Duration = Duration::from_micros(400);
/// Entries handed over within [`RUSH_INTERVAL`] out of queues that are left with more than credit, with which consumers
/// count as behind: 25,600 a second. Fewer cost too little to let publishes wait for them.
pub(crate) const RUSH_ENTRIES: usize = 256;
/// The time in which they are counted.
pub(crate) const RUSH_INTERVAL: Duration = Duration::from_millis(10);
/// How often the task of a publish then yields, so that what else is ready goes first. After once it may be the next to
/// run, before what the network has just told of; more than twice gain nothing.
pub(crate) const STEPS_BACK: usize = 2;
/// How long a connection's thread may be at that before others are woken to hear what arrives, and how often that is
/// looked at.
pub(crate) const WATCH_INTERVAL: Duration = Duration::from_millis(5);
/// A commit that took longer says that the disk is slow: then the engine waits for none.
pub(crate) const QUICK_COMMIT: Duration = Duration::from_millis(2);
/// Bytes of messages in one group: larger ones gain nothing and delay the first confirm.
pub(crate) const GROUP_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Records in one group, beyond the last turn's: a record with its history can have 16 KiB.
pub(crate) const GROUP_RECORDS_MAX: usize = 65_536;
/// How often the room on the disk is looked at while something is written, or while there is too little.
pub(crate) const SPACE_INTERVAL: Duration = Duration::from_secs(1);
/// The same while nothing is written: others may fill the disk.
pub(crate) const IDLE_SPACE_INTERVAL: Duration = Duration::from_secs(3);
/// Bytes written after which it is looked at all the same.
pub(crate) const SPACE_BYTES: u64 = 32 * 1024 * 1024;
/// Bytes that stay free of the disk unless the operator says otherwise: one checkpoint and what is on
/// its way have room in them.
pub(crate) const FREE_BYTES: u64 = 1024 * 1024 * 1024;
/// The share of the disk that stays free when that is more: one in so many.
pub(crate) const FREE_SHARE: u64 = 20;
/// Peeks at once: each has up to 16 MiB of messages in memory.
pub(crate) const PEEKS_AT_ONCE: usize = 4;
/// Bytes of the latest messages kept in memory for consumers that keep up; others are read from the
/// log.
pub(crate) const RECENT_BYTES_MAX: usize = 96 * 1024 * 1024;
/// The latest messages kept in memory, however small.
pub(crate) const RECENT_MESSAGES_MAX: usize = 262_144;
/// Bytes of messages that are in memory only because one that they came with is on its way to a consumer; beyond that,
/// each goes in memory of its own. More than consumers that take what they get leave behind.
pub(crate) const LEFT_BEHIND_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Bytes of messages in one request to the loader.
pub(crate) const LOAD_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Bytes of messages committed since the last checkpoint that make the next one due: a restart
/// replays about this much.
pub(crate) const CHECKPOINT_BYTES: u64 = 256 * 1024 * 1024;
/// Records committed since the last checkpoint that make the next one due.
pub(crate) const CHECKPOINT_RECORDS: u64 = 2_000_000;
/// Entries that came since the last checkpoint that make the next one due: until then they are in
/// memory, with about 50 bytes each.
pub(crate) const CHECKPOINT_ENTRIES: u64 = 1_000_000;
/// Bytes of messages within [`REST_INTERVAL`] below which the broker counts as idle, and gives back the
/// memory of recent messages.
pub(crate) const IDLE_BYTES: usize = 1024 * 1024;
/// How often it is looked at whether the broker is idle, as long as there is something to give back.
pub(crate) const REST_INTERVAL: Duration = Duration::from_secs(3);
/// Such looks at the disk after a checkpoint that no other follows: the first sees the load before it.
pub(crate) const RESTS: u32 = 2;
/// Entries handed over in one turn: more would let commands wait.
pub(crate) const DELIVERIES_PER_TURN: usize = 4_096;
/// Entries after which the publishes of a turn wait for the next: no more than are handed over in one.
pub(crate) const ENTRIES_PER_TURN: usize = DELIVERIES_PER_TURN;
/// How long a change may wait for its checkpoint, and dead segments for being dropped.
pub(crate) const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(3);
/// The same for the first one after a start.
pub(crate) const FIRST_CHECKPOINT_INTERVAL: Duration = Duration::from_millis(100);
/// How long a BUFFERED publish may wait for its sync.
pub(crate) const BUFFERED_SYNC_INTERVAL: Duration = Duration::from_millis(500);
