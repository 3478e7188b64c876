//! As much of AMQP 0-9-1 as a load needs: publishes and acks leave in one write for many, and what
//! comes is read as it lies in the buffer. `lapin` takes about thirty microseconds of processor time for
//! a message, which on a machine shared with the server would be taken from RabbitMQ.

use anyhow::{bail, ensure};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
const FRAME_END: u8 = 0xce;
/// Type, channel, size, and the end.
const FRAME_OVERHEAD: usize = 8;

type Method = (u16, u16);
const CONNECTION_START: Method = (10, 10);
const CONNECTION_START_OK: Method = (10, 11);
const CONNECTION_TUNE: Method = (10, 30);
const CONNECTION_TUNE_OK: Method = (10, 31);
const CONNECTION_OPEN: Method = (10, 40);
const CONNECTION_OPEN_OK: Method = (10, 41);
const CONNECTION_CLOSE: Method = (10, 50);
const CONNECTION_CLOSE_OK: Method = (10, 51);
const CHANNEL_OPEN: Method = (20, 10);
const CHANNEL_OPEN_OK: Method = (20, 11);
const CHANNEL_CLOSE: Method = (20, 40);
const CONFIRM_SELECT: Method = (85, 10);
const CONFIRM_SELECT_OK: Method = (85, 11);
const BASIC_QOS: Method = (60, 10);
const BASIC_QOS_OK: Method = (60, 11);
const BASIC_CONSUME: Method = (60, 20);
const BASIC_CONSUME_OK: Method = (60, 21);
const BASIC_PUBLISH: Method = (60, 40);
const BASIC_DELIVER: Method = (60, 60);
const BASIC_ACK: Method = (60, 80);

/// In the header of a message: only the delivery mode follows.
const HAS_DELIVERY_MODE: u16 = 1 << 12;
const PERSISTENT: u8 = 2;

/// A connection with one channel.
#[derive(Debug)]
pub(crate) struct Link {
    stream: TcpStream,
    frame_max: usize,
    coming: BytesMut,
    going: BytesMut,
    /// The delivery whose parts are coming: its tag, its size and what is there of it.
    partial: Option<(u64, usize, BytesMut)>,
}

/// What came.
#[derive(Debug)]
pub(crate) enum Event {
    Confirm { tag: u64, multiple: bool },
    Delivery { tag: u64, payload: Bytes },
}

impl Link {
    pub(crate) async fn connect(port: u16) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let mut link = Self {
            stream,
            frame_max: 4_096,
            coming: BytesMut::with_capacity(256 * 1024),
            going: BytesMut::with_capacity(256 * 1024),
            partial: None,
        };
        link.going.put_slice(b"AMQP\x00\x00\x09\x01");
        link.flush().await?;
        link.answer(CONNECTION_START).await?;
        link.method(0, CONNECTION_START_OK, |to| {
            to.put_u32(0);
            short(to, "PLAIN");
            long(to, b"\0guest\0guest");
            short(to, "en_US");
        });
        link.flush().await?;
        let mut tune = link.answer(CONNECTION_TUNE).await?;
        let (channels, frame_max) = (tune.get_u16(), tune.get_u32());
        link.frame_max = frame_max as usize;
        link.method(0, CONNECTION_TUNE_OK, |to| {
            to.put_u16(channels);
            to.put_u32(frame_max);
            // No heartbeats.
            to.put_u16(0);
        });
        link.method(0, CONNECTION_OPEN, |to| {
            short(to, "/");
            to.put_slice(&[0, 0]);
        });
        link.flush().await?;
        link.answer(CONNECTION_OPEN_OK).await?;
        link.call(CHANNEL_OPEN, CHANNEL_OPEN_OK, |to| to.put_u8(0))
            .await?;
        Ok(link)
    }

    pub(crate) async fn confirms(&mut self) -> anyhow::Result<()> {
        self.call(CONFIRM_SELECT, CONFIRM_SELECT_OK, |to| to.put_u8(0))
            .await
    }

    pub(crate) async fn consume(&mut self, queue: &str, prefetch: u16) -> anyhow::Result<()> {
        self.call(BASIC_QOS, BASIC_QOS_OK, |to| {
            to.put_u32(0);
            to.put_u16(prefetch);
            to.put_u8(0);
        })
        .await?;
        self.call(BASIC_CONSUME, BASIC_CONSUME_OK, |to| {
            to.put_u16(0);
            short(to, queue);
            short(to, "bench");
            to.put_u8(0);
            to.put_u32(0);
        })
        .await
    }

    /// Puts a publish into what leaves with the next [`Link::flush`].
    pub(crate) fn publish(&mut self, exchange: &str, key: &str, payload: &[u8]) {
        self.method(1, BASIC_PUBLISH, |to| {
            to.put_u16(0);
            short(to, exchange);
            short(to, key);
            to.put_u8(0);
        });
        self.frame(HEADER, 1, |to| {
            to.put_u16(60);
            to.put_u16(0);
            to.put_u64(payload.len() as u64);
            to.put_u16(HAS_DELIVERY_MODE);
            to.put_u8(PERSISTENT);
        });
        for part in payload.chunks(self.frame_max - FRAME_OVERHEAD) {
            self.frame(BODY, 1, |to| to.put_slice(part));
        }
    }

    /// The same for an ack.
    pub(crate) fn ack(&mut self, tag: u64, multiple: bool) {
        self.method(1, BASIC_ACK, |to| {
            to.put_u64(tag);
            to.put_u8(multiple.into());
        });
    }

    pub(crate) async fn flush(&mut self) -> anyhow::Result<()> {
        self.stream.write_all_buf(&mut self.going).await?;
        self.going.clear();
        Ok(())
    }

    /// Waits until something is read. Dropping the future loses nothing.
    pub(crate) async fn read(&mut self) -> anyhow::Result<()> {
        self.coming.reserve(64 * 1024);
        let read = self.stream.read_buf(&mut self.coming).await?;
        ensure!(read > 0, "RabbitMQ closed the connection");
        Ok(())
    }

    /// The next event of what was read.
    pub(crate) fn event(&mut self) -> anyhow::Result<Option<Event>> {
        while let Some((kind, mut payload)) = self.next_frame()? {
            match kind {
                METHOD => {
                    let method = (payload.get_u16(), payload.get_u16());
                    if let Some(event) = self.take_method(method, payload)? {
                        return Ok(Some(event));
                    }
                }
                HEADER => {
                    payload.advance(4);
                    let size = usize::try_from(payload.get_u64())?;
                    if let Some(partial) = &mut self.partial {
                        partial.1 = size;
                    }
                }
                BODY => {
                    if let Some(event) = self.take_body(payload) {
                        return Ok(Some(event));
                    }
                }
                HEARTBEAT => {}
                other => bail!("a frame of kind {other}"),
            }
        }
        Ok(None)
    }

    fn take_method(&mut self, method: Method, mut payload: Bytes) -> anyhow::Result<Option<Event>> {
        match method {
            BASIC_ACK => Ok(Some(Event::Confirm {
                tag: payload.get_u64(),
                multiple: payload.get_u8() != 0,
            })),
            BASIC_DELIVER => {
                let consumer = usize::from(payload.get_u8());
                payload.advance(consumer);
                self.partial = Some((payload.get_u64(), 0, BytesMut::new()));
                Ok(None)
            }
            other => bail!("RabbitMQ said {other:?}: {}", closing(other, payload)),
        }
    }

    fn take_body(&mut self, payload: Bytes) -> Option<Event> {
        let (tag, size, mut parts) = self.partial.take()?;
        if parts.is_empty() && payload.len() == size {
            return Some(Event::Delivery { tag, payload });
        }
        parts.reserve(size - parts.len());
        parts.put(payload);
        if parts.len() < size {
            self.partial = Some((tag, size, parts));
            return None;
        }
        let payload = parts.freeze();
        Some(Event::Delivery { tag, payload })
    }

    pub(crate) async fn close(mut self) -> anyhow::Result<()> {
        self.method(0, CONNECTION_CLOSE, |to| {
            to.put_u16(200);
            short(to, "done");
            to.put_u32(0);
        });
        self.flush().await?;
        loop {
            while let Some((kind, mut payload)) = self.next_frame()? {
                if kind == METHOD && (payload.get_u16(), payload.get_u16()) == CONNECTION_CLOSE_OK {
                    return Ok(());
                }
            }
            self.read().await?;
        }
    }

    async fn call(
        &mut self,
        method: Method,
        answer: Method,
        fill: impl FnOnce(&mut BytesMut),
    ) -> anyhow::Result<()> {
        self.method(1, method, fill);
        self.flush().await?;
        self.answer(answer).await?;
        Ok(())
    }

    async fn answer(&mut self, wanted: Method) -> anyhow::Result<Bytes> {
        loop {
            if let Some((kind, mut payload)) = self.next_frame()? {
                let method = (payload.get_u16(), payload.get_u16());
                if kind != METHOD || method != wanted {
                    bail!("not {wanted:?} but {}", closing(method, payload));
                }
                return Ok(payload);
            }
            self.read().await?;
        }
    }

    fn next_frame(&mut self) -> anyhow::Result<Option<(u8, Bytes)>> {
        let Some((head, _)) = self.coming.split_first_chunk::<7>() else {
            return Ok(None);
        };
        let (kind, size) = (head[0], &head[3..]);
        let size = u32::from_be_bytes(size.try_into()?) as usize;
        if self.coming.len() < size + FRAME_OVERHEAD {
            self.coming.reserve(size + FRAME_OVERHEAD);
            return Ok(None);
        }
        let mut frame = self.coming.split_to(size + FRAME_OVERHEAD).freeze();
        ensure!(frame[size + 7] == FRAME_END, "a frame without an end");
        frame.advance(7);
        frame.truncate(size);
        Ok(Some((kind, frame)))
    }

    fn method(&mut self, channel: u16, method: Method, fill: impl FnOnce(&mut BytesMut)) {
        self.frame(METHOD, channel, |to| {
            to.put_u16(method.0);
            to.put_u16(method.1);
            fill(to);
        });
    }

    fn frame(&mut self, kind: u8, channel: u16, fill: impl FnOnce(&mut BytesMut)) {
        let to = &mut self.going;
        to.put_u8(kind);
        to.put_u16(channel);
        let at = to.len();
        to.put_u32(0);
        fill(to);
        let size = u32::try_from(to.len() - at - 4).expect("a frame is below 4 GiB");
        to[at..at + 4].copy_from_slice(&size.to_be_bytes());
        to.put_u8(FRAME_END);
    }
}

/// What a close says.
fn closing(method: Method, mut payload: Bytes) -> String {
    if !matches!(method, CONNECTION_CLOSE | CHANNEL_CLOSE) || payload.len() < 3 {
        return format!("{method:?}");
    }
    let (code, length) = (payload.get_u16(), usize::from(payload.get_u8()));
    let text = &payload[..length.min(payload.len())];
    format!("{code} {}", String::from_utf8_lossy(text))
}

fn short(to: &mut BytesMut, text: &str) {
    to.put_u8(u8::try_from(text.len()).expect("names here are short"));
    to.put_slice(text.as_bytes());
}

fn long(to: &mut BytesMut, text: &[u8]) {
    to.put_u32(u32::try_from(text.len()).expect("texts here are short"));
    to.put_slice(text);
}
