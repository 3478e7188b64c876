//! Every limit of the rules, each with the reason for its number.
//!
//! Limits of the door (sizes on the wire, connections, waits) stand in `courser-server`'s
//! `limits.rs`.

use std::time::Duration;

/// Bytes of a topic, queue name or pattern: what fits a metrics label and a file name.
pub const NAME_BYTES_MAX: usize = 255;
/// Bytes of a message id, so that an id never rivals its message.
pub const MESSAGE_ID_BYTES_MAX: usize = 256;
/// Pairs of headers of a message: more is a payload in disguise.
pub const HEADERS_MAX: usize = 100;
/// Bytes of a header's key.
pub const HEADER_KEY_BYTES_MAX: usize = 256;
/// Bytes of all headers of a message together.
pub const HEADERS_BYTES_MAX: usize = 64 * 1024;
/// Bytes of an attribute such as `content_type` or `correlation_id`.
pub const ATTRIBUTE_BYTES_MAX: usize = 256;
/// Bytes of a payload unless configured otherwise.
pub const PAYLOAD_BYTES_DEFAULT: usize = 4 * 1024 * 1024;
/// Bytes of a payload that may be configured at most: one message must never crowd out all others.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Messages of one publish request.
pub const PUBLISH_MESSAGES_MAX: usize = 1_000;
/// Bytes of one publish request, unless it is a single message of the configured size.
pub const PUBLISH_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Queues of a broker, dead-letter queues included: each costs memory and metrics.
pub const QUEUES_MAX: usize = 100_000;
/// Bindings of a queue.
pub const BINDINGS_MAX: usize = 1_000;
/// Topics whose routes are remembered; beyond that they are worked out again.
pub const ROUTE_CACHE_TOPICS_MAX: usize = 16_384;

/// The default lease: NATS, SQS and Service Bus agree on it.
pub const LEASE_DEFAULT: Duration = Duration::from_secs(30);
/// The shortest lease: below it, a pause of a consumer's process is a redelivery.
pub const LEASE_MIN: Duration = Duration::from_secs(1);
/// The longest lease, and the longest single extension.
pub const LEASE_MAX: Duration = Duration::from_secs(12 * 3600);
/// How long a lease may last with all its extensions.
pub const LEASE_TOTAL_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Failed attempts before an entry is dead-lettered: with the default backoff ten span 8.5 minutes.
pub const ATTEMPTS_DEFAULT: u32 = 10;
/// The largest limit of attempts that is not "no limit".
pub const ATTEMPTS_MAX: u32 = 1_000;
/// The first wait after a failure.
pub const BACKOFF_INITIAL_DEFAULT: Duration = Duration::from_secs(1);
/// The longest wait after a failure by default.
pub const BACKOFF_MAX_DEFAULT: Duration = Duration::from_secs(300);
/// The longest wait that may be asked for, as a backoff or as `retry_after`.
pub const BACKOFF_MAX: Duration = Duration::from_secs(24 * 3600);
/// The largest growth of the wait from one failure to the next.
pub const BACKOFF_MULTIPLIER_MAX: f64 = 10.0;

/// Failed attempts of an entry that are remembered.
pub const ATTEMPTS_KEPT: usize = 20;
/// Bytes kept of an error text or a description.
pub const ERROR_BYTES_KEPT: usize = 512;
/// Bytes of a dead-letter reason: it becomes a metrics label.
pub const REASON_BYTES_MAX: usize = 64;
/// Reasons counted apart for each queue; further ones are counted as `other`.
pub const REASONS_COUNTED_MAX: usize = 20;

/// Unsettled deliveries of a consumer unless it asks otherwise.
pub const CREDIT_MESSAGES_DEFAULT: u32 = 100;
/// Unsettled deliveries that a consumer may ask for.
pub const CREDIT_MESSAGES_MAX: u32 = 10_000;
/// Unsettled bytes of a consumer unless it asks otherwise.
pub const CREDIT_BYTES_DEFAULT: u64 = 16 * 1024 * 1024;
/// Unsettled bytes that a consumer may ask for.
pub const CREDIT_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Bytes of a consumer's name.
pub const CONSUMER_NAME_BYTES_MAX: usize = 256;
/// Consumers of one queue.
pub const CONSUMERS_PER_QUEUE_MAX: usize = 10_000;
/// Leases of one queue at once: what is leased is held in memory.
pub const LEASES_PER_QUEUE_MAX: usize = 1_000_000;
/// Lease ids in one settle request.
pub const SETTLE_LEASES_MAX: usize = 10_000;
/// Lease ids that ran out and are remembered by name, so that a late answer hears EXPIRED.
pub const EXPIRED_LEASES_KEPT: usize = 10_000;

/// Records that there is room for before the first one comes, if there were as many the last time.
pub const ROOM_KEPT: usize = 4_096;

/// Leases that lie side by side by their ids, 96 bytes each; those that outlive them cost a cache miss for each look.
/// Forty consumers of which each holds its usual thousand stay within.
pub const LATEST_LEASES_MAX: usize = 65_536;

/// Entries of a chunk: at 20 bytes each a chunk stays far below the index's 16 KiB a value.
pub const CHUNK_ENTRIES: u64 = 256;
/// Chunks of a queue that stay in memory ahead of its consumers once they are in the index; none when it
/// has no consumer.
pub const WINDOW_CHUNKS: u64 = 4;
/// Leases that run out and delays that pass in one turn, so that commands have their turn in between.
pub const TIMEOUTS_AT_ONCE: usize = 4_096;
/// Delays remembered beside twice those that count, before the others are cleared out.
pub const DUE_CLEARED_AT: usize = 1_024;
/// Deliveries handed to one consumer before the next one has its turn.
pub const DELIVERY_QUANTUM: usize = 64;
/// Bytes handed to a consumer's connection and not yet taken by it, below which it is handed one more message: a
/// client that stops reading holds no more than this in memory and a message, beside what came in one request with
/// those, which the engine bounds for all. A little more than the largest message
/// that a broker takes unless it is told otherwise: one is on its way while the next is read. What waits for its
/// sync counts too, so this is also what one consumer gets for each sync under load.
pub const UNSENT_BYTES_MAX: u64 = (4 * 1024 + 64) * 1024;
/// Deliveries handed to a consumer's connection and not yet taken by it.
pub const UNSENT_MESSAGES_MAX: u64 = 4_096;
/// Bytes handed to the connections of all consumers and not yet taken by them, up to which each consumer has
/// all of its own bound: eight that stop reading.
pub const UNSENT_FREELY_BYTES: u64 = 32 * 1024 * 1024;
/// The bound of each consumer beyond that: a message, or several small ones, so that those that take go on.
pub const UNSENT_SHARE_BYTES: u64 = 16 * 1024;
/// Bytes of all beyond which only consumers that have taken something before are handed more: the rest of
/// the room is for those.
pub const UNSENT_SPARINGLY_BYTES: u64 = 96 * 1024 * 1024;
/// Bytes of all beyond which nobody is handed anything; the message that reaches it may go beyond.
pub const UNSENT_ALL_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// What those may have together, in the last part of the room, whose connections have taken nothing yet:
/// pulls, whose answers are taken as a whole or not at all, and consumers that begin. Without it, those that
/// take a message now and then would keep them out for ever. Small beside that part, which is for those that
/// take.
pub const UNSENT_NEW_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// A connection that is slower than this many bytes a second may be cut while a large message is on its way:
/// it is not known what of a message was taken. Most are small enough for the usual time.
pub const UNSENT_PACE_BYTES: u64 = 1024 * 1024;
/// How long a connection may take nothing of what it was handed while others wait for its room.
pub const UNSENT_TIME_MAX: Duration = Duration::from_secs(10);
/// How often it is looked for such connections while there is need.
pub const UNSENT_LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Entries moved in one step of a redrive, so that others have their turn in between.
pub const REDRIVE_STEP: usize = 1_000;
/// Chunks looked through in one step of a redrive that finds little of what it looks for.
pub const REDRIVE_CHUNKS: usize = 64;
/// Entries in one answer of a peek.
pub const PEEK_ENTRIES_MAX: usize = 1_000;
/// Bytes of messages in one answer of a peek.
pub const PEEK_BYTES_MAX: u64 = 16 * 1024 * 1024;
