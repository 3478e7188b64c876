//! A peer that writes the frames of HTTP/2 by hand, and only those that it likes.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::broker::SANE;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// Bytes of one frame that a peer sends.
const FRAME: usize = 128 * 1024;
/// The window of a connection until the broker makes it larger.
const WINDOW_AT_FIRST: usize = 65_535;

/// The largest window of a stream.
const WINDOW: u32 = 0x7fff_ffff;

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len())
        .unwrap_or(u32::MAX)
        .to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn number(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .fold(0, |all, byte| all << 8 | u32::from(*byte))
}

/// A header as a literal.
pub(crate) fn literal(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0);
    for text in [name, value] {
        integer(block, text.len());
        block.extend(text.as_bytes());
    }
}

/// An integer of HPACK with a prefix of seven bits.
fn integer(block: &mut Vec<u8>, value: usize) {
    if value < 127 {
        block.push(value as u8);
        return;
    }
    block.push(127);
    let mut rest = value - 127;
    while rest >= 128 {
        block.push((rest % 128 + 128) as u8);
        rest /= 128;
    }
    block.push(rest as u8);
}

/// The headers of a call.
pub(crate) fn call(path: &str, content_type: &str) -> Vec<u8> {
    // :method POST and :scheme http, of the static table.
    let mut block = vec![0x83, 0x86];
    for (name, value) in [
        (":path", path),
        (":authority", "abuse"),
        ("content-type", content_type),
        ("te", "trailers"),
    ] {
        literal(&mut block, name, value);
    }
    block
}

/// A request of gRPC with its prefix.
pub(crate) fn grpc(message: &impl prost::Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    let mut all = vec![0];
    all.extend((bytes.len() as u32).to_be_bytes());
    all.extend(bytes);
    all
}

/// Bytes that may be sent.
pub(crate) struct Windows {
    /// Now, on the whole connection.
    connection: usize,
    /// At first, on each stream.
    stream: usize,
}

/// A connection on which frames are written by hand.
pub(crate) struct Peer(pub(crate) TcpStream);

impl Peer {
    pub(crate) async fn connect(address: &str) -> Result<Self> {
        Ok(Self(connect(address).await?))
    }

    /// One that has begun HTTP/2, with the largest windows.
    pub(crate) async fn open(address: &str) -> Result<Self> {
        Self::open_with(address, WINDOW).await
    }

    /// The same with so large a window of each stream.
    pub(crate) async fn open_with(address: &str, stream_window: u32) -> Result<Self> {
        let mut peer = Self::connect(address).await?;
        let mut opening = PREFACE.to_vec();
        let mut window = 4u16.to_be_bytes().to_vec();
        window.extend(stream_window.to_be_bytes());
        opening.extend(frame(SETTINGS, 0, 0, &window));
        let more = (WINDOW - 65_535).to_be_bytes();
        opening.extend(frame(WINDOW_UPDATE, 0, 0, &more));
        peer.0.write_all(&opening).await?;
        Ok(peer)
    }

    /// Sends; whether it was not thrown out, nor held up for long.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        let sent = timeout(Duration::from_secs(5), self.0.write_all(bytes)).await;
        matches!(sent, Ok(Ok(())))
    }

    /// Takes part in what keeps a connection, until it ends; the number of frames that came.
    pub(crate) async fn keep(mut self) -> u64 {
        let mut frames = 0;
        while self.receive().await.is_some() {
            frames += 1;
        }
        frames
    }

    /// Takes what the broker opens with: what it lets the connection and each stream send.
    pub(crate) async fn windows(&mut self) -> Option<Windows> {
        let mut windows = Windows {
            connection: WINDOW_AT_FIRST,
            stream: WINDOW_AT_FIRST,
        };
        let mut is_settled = false;
        while !is_settled || windows.connection == WINDOW_AT_FIRST {
            let (kind, stream, payload) = self.receive().await?;
            match kind {
                SETTINGS if !payload.is_empty() => {
                    is_settled = true;
                    let of_stream = payload.chunks(6).find(|setting| setting[..2] == [0, 4]);
                    if let Some(setting) = of_stream {
                        windows.stream = number(setting.get(2..)?) as usize;
                    }
                }
                WINDOW_UPDATE if stream == 0 => {
                    windows.connection += number(payload.get(..4)?) as usize;
                }
                _ => {}
            }
        }
        Some(windows)
    }

    /// Sends the body of a call and, if it `ends`, its end, within the windows of the connection and of the stream; whether the connection
    /// lasted.
    pub(crate) async fn send_body(
        &mut self,
        windows: &mut Windows,
        stream: u32,
        mut body: &[u8],
        ends: bool,
    ) -> bool {
        let (window, mut of_stream) = (&mut windows.connection, windows.stream);
        while !body.is_empty() {
            let now = body.len().min(FRAME).min(*window).min(of_stream);
            if now == 0 {
                let Some((kind, on, payload)) = self.receive().await else {
                    return false;
                };
                let more = || payload.get(..4).map_or(0, number) as usize;
                match kind {
                    WINDOW_UPDATE if on == 0 => *window += more(),
                    WINDOW_UPDATE if on == stream => of_stream += more(),
                    _ => {}
                }
                continue;
            }
            let (piece, rest) = body.split_at(now);
            let flags = if ends && rest.is_empty() {
                END_STREAM
            } else {
                0
            };
            if !self.send(&frame(DATA, flags, stream, piece)).await {
                return false;
            }
            (body, *window, of_stream) = (rest, *window - now, of_stream - now);
        }
        true
    }

    /// The next frame, answered if that keeps the connection: kind, stream, payload.
    async fn receive(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.0.read_exact(&mut payload).await.ok()?;
        let (kind, flags) = (head[3], head[4]);
        if let SETTINGS | PING = kind
            && flags & ACK == 0
        {
            let echo = if kind == PING { &payload[..] } else { &[] };
            self.0.write_all(&frame(kind, ACK, 0, echo)).await.ok()?;
        }
        Some((kind, number(&head[5..]), payload))
    }

    /// Reads until the other side ends the connection, up to a time; whether it did.
    pub(crate) async fn ends_within(&mut self, time: Duration) -> bool {
        let mut buffer = vec![0; 16 * 1024];
        let end = async { while let Ok(1..) = self.0.read(&mut buffer).await {} };
        timeout(time, end).await.is_ok()
    }
}

pub(crate) async fn connect(address: &str) -> Result<TcpStream> {
    let stream = timeout(SANE, TcpStream::connect(address)).await;
    stream
        .context("no connection within 30 s")?
        .context("no connection")
}
