//! What the door takes from a peer that is no client: frames by hand, over the bare connection.
//!
//! Each protection is tested by doing what it protects from. Beside a peer that is thrown out, everybody
//! else is served as before.

use bytes::{Buf as _, BufMut as _};
use courser_proto::v1::{Open, PeekEntriesRequest, SubscribeRequest, subscribe_request};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::{
    Code, Request, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};
use tonic_types::StatusExt as _;

use crate::harness::{Broker, assert_refused, open, payload, until, within};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const INITIAL_WINDOW: u8 = 4;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const FRAME_SIZE_ERROR: u32 = 6;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;
const ENHANCE_YOUR_CALM: u32 = 11;

const FRAME_BYTES_MAX: usize = 256 * 1024;

#[derive(Debug)]
struct Frame {
    kind: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    /// The error code of a frame that ends a stream or a connection.
    fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The headers of a call, and more of them, each as a literal.
fn call(path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    // :method POST and :scheme http, of the static table.
    let mut block = vec![0x83, 0x86];
    let headers = [
        (":path", path),
        (":authority", "test"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    for (name, value) in headers.iter().chain(more) {
        literal(&mut block, name, value);
    }
    block
}

fn literal(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0);
    for text in [name, value] {
        assert!(text.len() < 127, "longer ones have longer lengths");
        block.push(u8::try_from(text.len()).unwrap());
        block.extend(text.as_bytes());
    }
}

/// A message of gRPC.
fn grpc(message: &impl prost::Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    let mut request = vec![0];
    request.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
    request.extend(bytes);
    request
}

/// The first request of a subscription, as a message of gRPC.
fn opening(open: Open) -> Vec<u8> {
    let kind = Some(subscribe_request::Kind::Open(open));
    grpc(&SubscribeRequest { kind })
}

/// The streams that a client opens have odd numbers.
fn streams() -> impl Iterator<Item = u32> {
    (1..).step_by(2)
}

/// A connection on which frames are written by hand.
struct Peer(TcpStream);

impl Peer {
    async fn take_one_byte_of_each_stream(&mut self) {
        let window = [&[0, INITIAL_WINDOW][..], &1_u32.to_be_bytes()].concat();
        self.send(&frame(SETTINGS, 0, 0, &window)).await;
    }

    /// Waits for a byte of a stream; `false` when the connection ends before.
    async fn gets_a_byte_of(&mut self, stream: u32) -> bool {
        within("a byte", async {
            while let Some(frame) = self.receive().await {
                if frame.kind == DATA && frame.stream == stream {
                    return true;
                }
            }
            false
        })
        .await
    }

    async fn connect(broker: &Broker) -> Self {
        let mut stream = TcpStream::connect(broker.grpc).await.unwrap();
        let mut opening = PREFACE.to_vec();
        opening.extend(frame(SETTINGS, 0, 0, &[]));
        stream.write_all(&opening).await.unwrap();
        Self(stream)
    }

    /// It may be thrown out while it writes.
    async fn send(&mut self, bytes: &[u8]) {
        drop(self.0.write_all(bytes).await);
    }

    async fn receive(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.0.read_exact(&mut payload).await.ok()?;
        Some(Frame {
            kind: head[3],
            stream: u32::from_be_bytes(head[5..].try_into().unwrap()),
            payload,
        })
    }

    /// The next frame of this kind.
    async fn expect(&mut self, kind: u8) -> Frame {
        within("a frame", async {
            loop {
                let frame = self.receive().await.expect("the connection is open");
                if frame.kind == kind {
                    return frame;
                }
            }
        })
        .await
    }
}

async fn assert_others_are_served(broker: &Broker) {
    broker.publish("orders", "a").await;
    assert_eq!(payload(&broker.pull("orders").await), "a");
}

#[tokio::test]
async fn the_limits_of_a_connection_are_told_at_its_start() {
    let broker = Broker::start().await;
    let mut peer = Peer::connect(&broker).await;
    let settings = peer.expect(SETTINGS).await.payload;
    let settings: Vec<(u16, u32)> = settings
        .chunks_exact(6)
        .map(|setting| {
            let (id, value) = setting.split_at(2);
            (
                u16::from_be_bytes(id.try_into().unwrap()),
                u32::from_be_bytes(value.try_into().unwrap()),
            )
        })
        .collect();
    for (what, id, value) in [
        ("streams at once", 3, 256),
        ("the window of a stream", 4, 1024 * 1024),
        ("bytes of a frame", 5, FRAME_BYTES_MAX as u32),
        ("bytes of headers", 6, 16 * 1024),
    ] {
        assert!(settings.contains(&(id, value)), "{what}: {settings:?}");
    }
}

#[tokio::test]
async fn the_window_of_a_connection_is_told_at_its_start() {
    let broker = Broker::start().await;
    let mut peer = Peer::connect(&broker).await;
    let update = peer.expect(WINDOW_UPDATE).await;
    let more = u32::from_be_bytes(update.payload[..].try_into().unwrap());
    assert_eq!((update.stream, more), (0, 4 * 1024 * 1024 - 65_535));
}

#[tokio::test]
async fn headers_without_an_end_end_the_connection() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let mut peer = Peer::connect(&broker).await;
    let open = call("/courser.v1.Broker/Pull", &[]);
    let mut more = Vec::new();
    literal(&mut more, "x", "y");
    peer.send(&frame(HEADERS, 0, 1, &open)).await;
    peer.send(&frame(CONTINUATION, 0, 1, &more).repeat(1_000))
        .await;
    assert_eq!(peer.expect(GOAWAY).await.code(), ENHANCE_YOUR_CALM);
    assert_others_are_served(&broker).await;
}

#[tokio::test]
async fn headers_that_are_too_large_are_refused() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let mut peer = Peer::connect(&broker).await;
    let value = "y".repeat(100);
    let mut block = call("/courser.v1.Broker/Pull", &[]);
    // 16 KiB are allowed, 32 bytes of each pair are for the pair itself.
    (0..130).for_each(|_| literal(&mut block, "x", &value));
    peer.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block))
        .await;
    let refused = peer.expect(HEADERS).await;
    // A status as a literal, with the name of the static table.
    assert!(
        refused.payload.windows(3).any(|text| text == b"431") || refused.payload.len() < 16,
        "{refused:?}"
    );
    assert_others_are_served(&broker).await;
}

#[tokio::test]
async fn http_1_is_not_spoken_on_the_grpc_side() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let mut stream = TcpStream::connect(broker.grpc).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    drop(within("the end", stream.read_to_end(&mut answer)).await);
    assert!(!answer.starts_with(b"HTTP/1"), "{answer:?}");
    assert_others_are_served(&broker).await;
}

/// What lies in the buffers of HTTP/2 and of gRPC is inside the bound of a consumer: with a window of 64 KiB
/// it holds four mebibytes and a message in the broker, whatever is done.
#[tokio::test]
async fn a_stream_that_takes_nothing_holds_its_bound_with_all_buffers_on_the_way() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    broker.create("others").await;
    let body = "x".repeat(64 * 1024 - 100);
    for _ in 0..120 {
        broker.publish("orders", &body).await;
    }
    let mut peer = Peer::connect(&broker).await;
    let request = opening(Open {
        max_messages: 1_000,
        max_bytes: 256 << 20,
        ..open("orders")
    });
    let subscribe = call("/courser.v1.Broker/Subscribe", &[]);
    peer.send(&frame(HEADERS, END_HEADERS, 1, &subscribe)).await;
    peer.send(&frame(DATA, 0, 1, &request)).await;
    broker
        .wait_for_stats("orders", "leases", |s| s.leased >= 64)
        .await;
    // Time for more, if more were to come.
    for _ in 0..50 {
        broker.publish("others", "a").await;
        assert_eq!(payload(&broker.pull("others").await), "a");
    }
    let leased = broker.stats("orders").await.leased;
    // 4 MiB and 64 KiB are 65 of them, and one goes beyond.
    assert!(leased <= 66, "{leased} messages of 64 KiB");
}

/// With a window of one byte, HTTP/2 takes a message as a whole and sends one byte of it. Then the consumer
/// says its last, and is gone; what it was given stays, and the message is free for the next stream.
#[tokio::test]
async fn streams_that_end_and_take_nothing_hold_no_more_than_those_that_go_on() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    broker.publish("orders", &"x".repeat(4_000_000)).await;
    let mut peer = Peer::connect(&broker).await;
    peer.take_one_byte_of_each_stream().await;
    let subscribe = call("/courser.v1.Broker/Subscribe", &[]);
    let request = opening(Open {
        max_bytes: 16 << 20,
        ..open("orders")
    });
    // 96 MiB are 25 messages and a part.
    for (stream, count) in streams().zip(1..=26) {
        peer.send(&frame(HEADERS, END_HEADERS, stream, &subscribe))
            .await;
        peer.send(&frame(DATA, 0, stream, &request)).await;
        broker
            .wait_for_stats("orders", "a delivery", |s| s.delivered_total == count)
            .await;
        // It has it once a byte of it is there.
        assert!(peer.gets_a_byte_of(stream).await, "the connection is open");
        peer.send(&frame(DATA, END_STREAM, stream, &[])).await;
        broker
            .wait_for_stats("orders", "no lease", |s| s.leased == 0)
            .await;
    }
    // There is no room for anybody new now, until this connection is cut.
    within("the end", async { while peer.receive().await.is_some() {} }).await;
    assert_eq!(broker.pull("orders").await.attempt, 1);
    assert_others_are_served(&broker).await;
}

/// A page of entries is large, whoever asks for it needs not read it, and HTTP/2 has it as a whole in memory once one
/// byte may go. 128 MiB are 33 of them and a part.
#[tokio::test]
async fn pages_that_nobody_takes_end_their_connection() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    broker.create("large").await;
    broker.publish("large", &"x".repeat(4_000_000)).await;
    let peek = call("/courser.v1.Admin/PeekEntries", &[]);
    let request = grpc(&PeekEntriesRequest {
        queue: "large".to_owned(),
        ..PeekEntriesRequest::default()
    });
    let (mut first, mut second) = (Peer::connect(&broker).await, Peer::connect(&broker).await);
    for (peer, pages) in [(&mut first, 8), (&mut second, 25)] {
        peer.take_one_byte_of_each_stream().await;
        for stream in streams().take(pages) {
            peer.send(&frame(HEADERS, END_HEADERS, stream, &peek)).await;
            peer.send(&frame(DATA, END_STREAM, stream, &request)).await;
            assert!(peer.gets_a_byte_of(stream).await, "there is room");
        }
    }
    // One is beyond that, and the next waits; the one that has taken nothing for longest goes, and that is not enough.
    for stream in [101, 103] {
        second
            .send(&frame(HEADERS, END_HEADERS, stream, &peek))
            .await;
        second
            .send(&frame(DATA, END_STREAM, stream, &request))
            .await;
    }
    for peer in [&mut first, &mut second] {
        within("the end", async { while peer.receive().await.is_some() {} }).await;
    }
    assert_others_are_served(&broker).await;
}

#[tokio::test]
async fn streams_beyond_the_number_of_a_connection_are_refused() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let mut peer = Peer::connect(&broker).await;
    let open = call("/courser.v1.Broker/Subscribe", &[]);
    let calls: Vec<u8> = streams()
        .take(257)
        .flat_map(|stream| frame(HEADERS, END_HEADERS, stream, &open))
        .collect();
    peer.send(&calls).await;
    let refused = peer.expect(RST_STREAM).await;
    assert_eq!((refused.stream, refused.code()), (513, REFUSED_STREAM));
    assert_others_are_served(&broker).await;
}

/// Costs the peer nothing, and a server without a guard a handler each time.
#[tokio::test]
async fn a_flood_of_streams_that_are_reset_at_once_ends_the_connection() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let mut peer = Peer::connect(&broker).await;
    let open = call("/courser.v1.Broker/Pull", &[]);
    let flood: Vec<u8> = streams()
        .take(1_000)
        .flat_map(|stream| {
            let mut frames = frame(HEADERS, END_HEADERS, stream, &open);
            frames.extend(frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes()));
            frames
        })
        .collect();
    peer.send(&flood).await;
    assert_eq!(peer.expect(GOAWAY).await.code(), ENHANCE_YOUR_CALM);
    assert_others_are_served(&broker).await;
}

#[tokio::test]
async fn a_flood_of_mistakes_that_have_to_be_answered_ends_the_connection() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let mut peer = Peer::connect(&broker).await;
    // A length is announced, and the stream is ended without a byte.
    let wrong = call("/courser.v1.Broker/Pull", &[("content-length", "7")]);
    let flood: Vec<u8> = streams()
        .take(2_000)
        .flat_map(|stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &wrong))
        .collect();
    peer.send(&flood).await;
    assert_eq!(peer.expect(GOAWAY).await.code(), ENHANCE_YOUR_CALM);
    assert_others_are_served(&broker).await;
}

#[tokio::test]
async fn a_frame_that_is_too_large_ends_the_connection() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    let mut peer = Peer::connect(&broker).await;
    let open = call("/courser.v1.Broker/Publish", &[]);
    peer.send(&frame(HEADERS, END_HEADERS, 1, &open)).await;
    peer.send(&frame(DATA, 0, 1, &vec![0; FRAME_BYTES_MAX + 1]))
        .await;
    assert_eq!(peer.expect(GOAWAY).await.code(), FRAME_SIZE_ERROR);
    assert_others_are_served(&broker).await;
}

#[tokio::test]
async fn a_peer_that_never_says_anything_is_thrown_out() {
    let broker = Broker::start().await;
    let mut stream = TcpStream::connect(broker.grpc).await.unwrap();
    // What HTTP/2 begins with, but for its end.
    stream.write_all(&PREFACE[..20]).await.unwrap();
    let mut answer = Vec::new();
    drop(within("the end", stream.read_to_end(&mut answer)).await);
}

#[tokio::test]
async fn http_connections_beyond_their_number_are_closed_and_others_take_their_place() {
    let broker = Broker::start().await;
    let mut idle = Vec::new();
    for _ in 0..256 {
        idle.push(TcpStream::connect(broker.http).await.unwrap());
    }
    let mut beyond = TcpStream::connect(broker.http).await.unwrap();
    let mut answer = Vec::new();
    let closed = within("the end", beyond.read_to_end(&mut answer)).await;
    assert!(answer.is_empty(), "{closed:?} {answer:?}");
    idle.clear();
    until("a place", || async {
        let mut stream = TcpStream::connect(broker.http).await.unwrap();
        let request = b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let mut answer = Vec::new();
        drop(stream.write_all(request).await);
        drop(stream.read_to_end(&mut answer).await);
        answer.starts_with(b"HTTP/1.1 200").then_some(())
    })
    .await;
}

/// Sends bytes as they are, and takes any answer.
struct Raw;

impl Codec for Raw {
    type Encode = &'static [u8];
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = &'static [u8];
    type Error = Status;

    fn encode(&mut self, bytes: &'static [u8], buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(bytes);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        buffer.advance(buffer.remaining());
        Ok(Some(()))
    }
}

#[tokio::test]
async fn a_request_that_cannot_be_read_is_refused_in_the_words_of_the_contract() {
    let broker = Broker::start().await;
    broker.create("orders").await;
    for path in [
        "/courser.v1.Broker/Publish",
        "/courser.v1.Broker/PublishStream",
        "/courser.v1.Broker/Subscribe",
        "/courser.v1.Admin/CreateQueue",
    ] {
        let mut client = tonic::client::Grpc::new(broker.channel());
        client.ready().await.unwrap();
        // A field of eight bytes that has two.
        let request = Request::new(tokio_stream::once(&b"\x09\x01\x02"[..]));
        let answer = client.streaming(request, path.parse().unwrap(), Raw).await;
        let refused = match answer {
            Ok(answer) => within("the end", answer.into_inner().message())
                .await
                .unwrap_err(),
            Err(status) => status,
        };
        assert_refused(&refused, Code::InvalidArgument, "cannot be read");
        let info = refused.get_details_error_info().unwrap();
        assert_eq!(info.reason, "MALFORMED_REQUEST", "{path}");
    }
    assert_others_are_served(&broker).await;
}
