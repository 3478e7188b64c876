//! Every limit of the door, each with the reason for its number.
//!
//! Limits of the rules (names, messages, leases) stand in `courser-core`'s `limits.rs`.

use std::time::Duration;

use courser_core::limits::PUBLISH_BYTES_MAX;

/// Streams at once on one gRPC connection: a client with more to do opens another connection.
pub(crate) const STREAMS_PER_CONNECTION_MAX: u32 = 256;
/// Streams that a peer may open and reset before they were accepted: the guard against rapid reset.
pub(crate) const PENDING_ACCEPT_RESET_STREAMS_MAX: usize = 20;
/// Streams that we reset because of a peer's mistakes before its connection ends: the guard against a
/// flood of provoked resets.
pub(crate) const LOCAL_ERROR_RESET_STREAMS_MAX: usize = 1_024;
/// Bytes of the headers of one request.
pub(crate) const HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;
/// Bytes that a stream may have in its connection on their way to the peer, beyond which it gives no more: more would not be
/// faster, and each consumer has as much.
pub(crate) const SEND_BUFFER_BYTES_MAX: usize = 400 * 1024;
/// Bytes of one HTTP/2 frame that a peer may send: with the protocol's 16 KiB, a batch of 64 KiB costs
/// four reads and four wake-ups. A frame is buffered whole, so this also bounds what a peer can
/// make a connection hold before a message is complete.
pub(crate) const FRAME_BYTES_MAX: u32 = 256 * 1024;
/// Bytes that a peer may send on one stream ahead of us: 1 ms of a fast network, or a batch.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// Bytes that a peer may send on one connection ahead of us: several streams at full speed.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// The same of as many connections as have so much: those that come when there are more have less.
pub(crate) const CONNECTION_WINDOWS_BYTES: u32 = 256 * 1024 * 1024;
/// The least that a stream has: what HTTP/2 gives it until the peer has heard of another. With less, a request that came before
/// that can leave its stream without a window for ever.
pub(crate) const STREAM_WINDOW_BYTES_MIN: u32 = 65_535;
/// How long a gRPC connection may be silent before it is pinged.
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// How long the answer to a ping may take before the peer counts as gone.
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a handler may take until its answer begins: the longest pull, and room for a large
/// redrive. What streams do afterwards is not counted.
pub(crate) const HANDLER_TIME_MAX: Duration = Duration::from_secs(300);

/// gRPC connections at once: 10,000 that are idle, and room for others. Further ones are closed at once.
/// Each costs a task, its buffers and a file of the process, so there may be fewer: see
/// [`connections_max`].
pub(crate) const GRPC_CONNECTIONS_MAX: usize = 12_288;
/// HTTP connections at once: scrapers and probes are few.
pub(crate) const HTTP_CONNECTIONS_MAX: usize = 256;
/// How long a peer may take to send the opening bytes of HTTP/2.
pub(crate) const GRPC_OPENING_TIME_MAX: Duration = Duration::from_secs(10);
/// The opening bytes of HTTP/2, "PRI * HTTP/2.0" and so on.
pub(crate) const GRPC_OPENING_BYTES: usize = 24;
/// How long an HTTP peer may take from one answer to the end of its next request: longer than the usual
/// interval of a scraper.
pub(crate) const HTTP_REQUEST_TIME_MAX: Duration = Duration::from_secs(75);
/// How long the answer to an HTTP request may take to be made.
pub(crate) const HTTP_ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// A wait after a failed accept, for example when there are no more file descriptors.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What the framing and the fields beside the messages may take in a request.
pub(crate) const REQUEST_FRAMING_BYTES: usize = 1024 * 1024;
/// What the framing, attempts and dead-letter notes may take in an answer: 1,000 entries with 20
/// attempts of 800 bytes each.
pub(crate) const ANSWER_FRAMING_BYTES: usize = 32 * 1024 * 1024;
/// Bytes of the text of a refusal: gRPC sends it in a header, three times over.
pub(crate) const REFUSAL_BYTES_MAX: usize = 1_024;
/// When a client that was refused for lack of room may try again.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How long the first request of a Subscribe may take to come.
pub(crate) const OPEN_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a subscription may be silent before the broker says that it is alive.
pub(crate) const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);
/// Bytes of messages merged into one answer of a subscription: enough to make the framing cheap, and
/// no more, for it is copied once.
pub(crate) const DELIVERIES_BYTES: u64 = 512 * 1024;
/// Messages merged into one answer of a subscription.
pub(crate) const DELIVERIES_MAX: usize = 1_000;
/// Bytes of the answers of a stream that go out together: more gain nothing.
pub(crate) const ANSWERS_BYTES: usize = 32 * 1024;
/// Events taken from the engine at once.
pub(crate) const EVENTS_AT_ONCE: usize = 64;

/// Requests of one PublishStream taken ahead of their confirms.
pub(crate) const CONFIRMS_WAITING_MAX: u32 = 10_000;
/// Messages that count as one request more in that bound, for each has its own result.
pub(crate) const MESSAGES_PER_CONFIRM_UNIT: usize = 16;
/// Confirms in one answer of a PublishStream.
pub(crate) const CONFIRMS_AT_ONCE: usize = 1_024;
/// Results of messages in one answer of a PublishStream, about 256 KiB of them.
pub(crate) const RESULTS_AT_ONCE: usize = 4_096;

/// Messages of one pull.
pub(crate) const PULL_MESSAGES_MAX: u32 = 1_000;
/// Messages of one pull that does not say how many.
pub(crate) const PULL_MESSAGES_DEFAULT: u32 = 1;
/// Bytes of one pull.
pub(crate) const PULL_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// How long a pull may wait: below the patience of most proxies.
pub(crate) const PULL_WAIT_MAX: Duration = Duration::from_secs(60);

/// Queues in one page of a list.
pub(crate) const PAGE_QUEUES_MAX: u32 = 1_000;
/// Bytes of one page of a list, for a queue may have many bindings.
pub(crate) const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Entries of a peek that does not say how many.
pub(crate) const PEEK_ENTRIES_DEFAULT: u32 = 10;
/// Entries named in one redrive.
pub(crate) const REDRIVE_ENTRIES_MAX: usize = 1_000;
/// Queues named in one WatchStats.
pub(crate) const WATCH_QUEUES_MAX: usize = 1_000;
/// Queues shown by a WatchStats that names none.
pub(crate) const WATCH_ALL_QUEUES_MAX: usize = 10_000;
/// How often WatchStats answers.
pub(crate) const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Queues with metrics of their own; what is beyond is summed up, for every queue is 70 lines or more.
pub(crate) const METRICS_QUEUES_MAX: usize = 10_000;

/// How long open connections may last once the broker has ended: their last answers are on the way.
pub(crate) const CLOSING_TIME_MAX: Duration = Duration::from_secs(4);
/// How long the faces may take to notice that their connections were cut.
pub(crate) const CUT_TIME_MAX: Duration = Duration::from_secs(1);

/// gRPC and HTTP connections at once in a process that may have `files_max` files open: five of eight for
/// connections, and the others for the store, which has a file for each 64 MiB of its log. A store that
/// cannot open a file has failed, and no number of connections may bring that about.
pub(crate) fn connections_max(files_max: usize) -> (usize, usize) {
    let http = HTTP_CONNECTIONS_MAX.min(files_max / 8);
    let grpc = GRPC_CONNECTIONS_MAX.min(files_max / 8 * 5 - http);
    (grpc.max(1), http.max(1))
}

/// Bytes that a peer may send ahead of us, on its connection and on each stream of it, when there are so many
/// connections: what nobody reads yet is in memory, and 12,288 connections with 4 MiB each would be 48 GiB. A stream
/// has a quarter of its connection's: h2 ends a connection when what many small frames take beside their bytes, while nobody reads
/// them, is half of its window.
pub(crate) fn windows(connections: usize) -> (u32, u32) {
    let connections = u32::try_from(connections).unwrap_or(u32::MAX).max(1);
    let window = (CONNECTION_WINDOWS_BYTES / connections)
        .clamp(4 * STREAM_WINDOW_BYTES_MIN, CONNECTION_WINDOW_BYTES);
    (window, (window / 4).min(STREAM_WINDOW_BYTES))
}

/// Bytes of one gRPC request when a payload may have `message_bytes`.
pub(crate) fn request_bytes_max(message_bytes: usize) -> usize {
    message_bytes.max(PUBLISH_BYTES_MAX) + REQUEST_FRAMING_BYTES
}

/// Bytes of one gRPC answer: a message of the largest size that was ever allowed, for it may be stored
/// since the broker was configured for more than now.
pub(crate) const ANSWER_BYTES_MAX: usize =
    courser_core::limits::PAYLOAD_BYTES_MAX + ANSWER_FRAMING_BYTES;

/// Bytes of answers without deliveries that lie with connections and are not taken, of all of them: eight of the largest
/// pages. Beyond that pages wait, and connections are ended of which nothing was taken for a while, until it is half; at twice as
/// much, whoever has taken least lately.
pub(crate) const ANSWERS_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// How long nothing of an answer may be taken while others wait for its room.
pub(crate) const ANSWER_STILL_MAX: Duration = Duration::from_secs(1);
/// Bytes of such an answer that go to a connection at once: as large as a frame, so that whoever reads slowly is
/// seen to read.
pub(crate) const ANSWER_PIECE_BYTES: usize = 256 * 1024;
/// Bytes that the result of one settlement takes until it is sent, about: a refused one has its sentence.
pub(crate) const RESULT_BYTES: usize = 64;
/// Bytes of one of them that count as one step: nearly all have less, and count for nothing.
pub(crate) const ANSWER_STEP_BYTES: usize = 16 * 1024;
/// Pages, peeks, and texts of all metrics that are made at once: what is being made does not count yet.
pub(crate) const PAGES_AT_ONCE: usize = 4;

/// Bytes of one request of the Admin service. The largest one that is allowed, 1,000 bindings or names of
/// queues, takes 265 KB; an empty binding takes 2 bytes, and 24 once it is decoded.
pub(crate) const ADMIN_REQUEST_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of one request to reflection, which answers with it, and of health: names of services.
pub(crate) const SMALL_REQUEST_BYTES_MAX: usize = 4 * 1024;
/// Bytes of such requests that may come at once: they lie with their stream until its answers are taken, of all calls together 1 GiB.
pub(crate) const SMALL_FRAME_BYTES_MAX: usize = 2 * SMALL_REQUEST_BYTES_MAX;

/// Bytes of requests that have arrived whole and wait for the engine, of all streams together, beyond which nothing more is
/// read: as much as the engine takes at once, so that it has what to do.
pub(crate) const WAITING_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Calls under way over all connections, streams among them: one of each of the most queues that there may be, and some. An idle one
/// takes 2 to 8 KB.
pub(crate) const CALLS_MAX: usize = 128 * 1024;
/// Calls of each connection that do not count there: who has few is let in, whatever others do.
pub(crate) const CALLS_FREE: usize = 8;

/// Bytes of the headers of a call beyond which only those are kept that are read.
pub(crate) const CALL_HEADER_BYTES: usize = 2 * 1024;

/// WatchStats of the whole broker at once: each keeps the names that it watches, of up to 255 KB.
pub(crate) const WATCHES_MAX: usize = 256;

/// KiB for what becomes of publishes from when they are read until the engine has them, of all calls together; as many for what
/// becomes of settlements until they are answered, and as many for changes of the Admin service.
pub(crate) const BECOMING_KIB_MAX: u32 = 128 * 1024;
/// Who has no more of that waits for nobody: of all the calls that there may be it is less than 1 GiB.
pub(crate) const BECOMING_BYTES_FREE: usize = 4 * 1024;

/// The KiB that so many bytes count for there.
pub(crate) fn becoming_kib(bytes: usize) -> u32 {
    let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
    kib.min(BECOMING_KIB_MAX)
}

/// Bytes that may become of each byte of a request of the Admin service: an empty binding or name takes two, and 24 and more
/// once it is read.
pub(crate) const ADMIN_GROWTH: usize = 24;

/// Bytes of requests that have come over one connection and are not carried out, with which it waits for no other: of all connections
/// 768 MiB.
pub(crate) const COMING_BYTES_FREE: usize = 64 * 1024;

/// How often a stream that waits until it may be read on looks whether its connection has less.
pub(crate) const ROOM_LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// How long a request may take from its first byte to its last while we wait for it: 16 MiB come within
/// that over 5 Mbit/s.
pub(crate) const ARRIVAL_TIME_MAX: Duration = Duration::from_secs(30);

/// Bytes of requests that have not arrived whole, of all streams together, when a payload may have
/// `message_bytes`: 16 of the largest, or a thousand publishers in the midst of a batch of 256 KiB.
pub(crate) fn arriving_bytes_max(message_bytes: usize) -> usize {
    16 * request_bytes_max(message_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_of_all_connections_together_are_bounded() {
        assert_eq!(windows(0), (4 << 20, 1 << 20));
        assert_eq!(windows(64), (4 << 20, 1 << 20));
        assert_eq!(windows(128), (2 << 20, 512 << 10));
        assert_eq!(windows(1_024), (256 << 10, 64 << 10));
        assert_eq!(windows(usize::MAX), (262_140, 65_535));
        let all: u64 = (1..=GRPC_CONNECTIONS_MAX)
            .map(|connections| u64::from(windows(connections).0))
            .sum();
        assert!(all < 4 << 30, "{all}");
    }

    #[test]
    fn connections_leave_three_of_eight_files_to_the_store() {
        for files_max in [0, 1, 2, 64, 1_024, 4_096, 65_536, usize::MAX] {
            let (grpc, http) = connections_max(files_max);
            assert!(grpc >= 1 && http >= 1);
            assert!(grpc + http <= (files_max / 8 * 5).max(2), "{files_max}");
        }
        assert_eq!(connections_max(1_024), (512, 128));
        assert_eq!(connections_max(20_000), (12_244, 256));
        assert_eq!(
            connections_max(65_536),
            (GRPC_CONNECTIONS_MAX, HTTP_CONNECTIONS_MAX)
        );
    }
}
