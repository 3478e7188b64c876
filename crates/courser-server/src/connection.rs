//! Accepted connections: how many there may be, how long their peers may take, and their end.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, atomic::AtomicUsize},
    task::{Context, Poll},
    time::Duration,
};

use courser_engine::Cut;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, futures::OwnedNotified},
    time::{Instant, Sleep, sleep},
};
use tonic::codegen::http::Extensions;

use crate::{answers::Answers, closing::Signal, limits};

/// How long a peer may take.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Patience {
    /// For the opening; afterwards HTTP/2 pings.
    Opening,
    /// For each request, from the answer before. Bytes that trickle in do not count: one that sends its
    /// headers a byte at a time would keep its place for ever.
    Request,
}

/// Accepts connections, up to a number at once.
#[derive(Debug)]
pub(crate) struct Listener {
    inner: TcpListener,
    places: Arc<Semaphore>,
    max: usize,
    patience: Patience,
    cut: Signal,
}

impl Listener {
    /// Connections of `inner`, `max` at once, that end when `cut` is given.
    pub(crate) fn new(inner: TcpListener, max: usize, patience: Patience, cut: Signal) -> Self {
        Self {
            inner,
            places: Arc::new(Semaphore::new(max)),
            max,
            patience,
            cut,
        }
    }

    /// The next connection. Those beyond the number are closed at once.
    pub(crate) async fn next(&mut self) -> (Connection, SocketAddr) {
        loop {
            match self.inner.accept().await {
                Ok((stream, address)) => match Arc::clone(&self.places).try_acquire_owned() {
                    Ok(place) => return (self.connection(stream, place), address),
                    Err(_) => tracing::debug!(%address, "too many connections, one was closed"),
                },
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(limits::ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// How many there are now.
    pub(crate) fn open(&self) -> usize {
        self.max - self.places.available_permits()
    }

    fn connection(&self, stream: TcpStream, place: OwnedSemaphorePermit) -> Connection {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
        let way = Way::default();
        Connection {
            stream,
            deadline: Some(Box::pin(sleep(self.patience.time()))),
            patience: self.patience,
            received: 0,
            cut: self.cut.clone(),
            cutting: Box::pin(self.cut.listen()),
            going: Box::pin(way.out.listen()),
            way,
            _place: place,
        }
    }
}

impl Patience {
    fn time(self) -> Duration {
        match self {
            Self::Opening => limits::GRPC_OPENING_TIME_MAX,
            Self::Request => limits::HTTP_REQUEST_TIME_MAX,
        }
    }
}

/// An accepted connection. It fails when its peer takes too long, or when it is cut.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    /// Until when the peer has time; none once it has opened.
    deadline: Option<Pin<Box<Sleep>>>,
    patience: Patience,
    received: usize,
    cut: Signal,
    cutting: Pin<Box<OwnedNotified>>,
    /// With its own end, beside that of all.
    way: Way,
    going: Pin<Box<OwnedNotified>>,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    /// What its requests' handlers know of it.
    pub(crate) fn way(&self) -> Way {
        self.way.clone()
    }

    fn check_cut(&self) -> io::Result<()> {
        if self.cut.is_given() {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the broker has ended",
            ));
        }
        if self.way.is_ended() {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "it took nothing while others waited for the memory",
            ));
        }
        Ok(())
    }

    /// Called when there is nothing to read: wakes when the connection is to end.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.cutting.as_mut().poll(context).is_ready() {
            self.cutting = Box::pin(self.cut.listen());
        }
        if self.going.as_mut().poll(context).is_ready() {
            self.going = Box::pin(self.way.out.listen());
        }
        self.check_cut()?;
        match &mut self.deadline {
            Some(deadline) => deadline.as_mut().poll(context).map(|()| {
                Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the peer takes too long",
                ))
            }),
            None => Poll::Pending,
        }
    }

    fn note_received(&mut self, bytes: usize) {
        self.received = self.received.saturating_add(bytes);
        let opened = self.received >= limits::GRPC_OPENING_BYTES;
        if opened && matches!(self.patience, Patience::Opening) {
            self.deadline = None;
        }
    }

    fn note_sent(&mut self) {
        if let (Some(deadline), Patience::Request) = (&mut self.deadline, self.patience) {
            deadline
                .as_mut()
                .reset(Instant::now() + self.patience.time());
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_cut()?;
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Ready(Ok(())) => {
                self.note_received(buffer.filled().len() - before);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => self.poll_end(context),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check_cut()?;
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(1..)) = written {
            self.note_sent();
        }
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_cut()?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        if let Poll::Ready(Ok(1..)) = written {
            self.note_sent();
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The connection that a request came over, as its handler knows it.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    out: Signal,
    /// Pages of it are made one after the other: many of one connection would keep out those of all others.
    pages: Arc<Semaphore>,
    /// Bytes of requests that came over it and are not carried out.
    coming: Arc<AtomicUsize>,
    /// Bytes that came over its streams and that nobody has read.
    unread: Arc<AtomicUsize>,
}

impl Default for Way {
    fn default() -> Self {
        Self {
            out: Signal::default(),
            pages: Arc::new(Semaphore::new(1)),
            coming: Arc::default(),
            unread: Arc::default(),
        }
    }
}

impl Way {
    /// That of the request with these extensions.
    pub(crate) fn of(extensions: &Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or_default()
    }

    /// To end it.
    pub(crate) fn cut(&self) -> Cut {
        let out = self.out.clone();
        Cut::new(move || out.give())
    }

    pub(crate) fn end(&self) {
        self.out.give();
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.out.is_given()
    }

    /// Which connection it is, of all that there are.
    pub(crate) fn key(&self) -> usize {
        self.out.key()
    }

    /// Counts bytes of requests that came over it and are not carried out.
    pub(crate) fn coming(&self) -> &Arc<AtomicUsize> {
        &self.coming
    }

    /// Counts bytes that came over its streams and that nobody has read.
    pub(crate) fn unread(&self) -> &Arc<AtomicUsize> {
        &self.unread
    }

    /// What `making` makes, which is large: behind what other requests of this connection want, and when there is room among all
    /// `answers`.
    pub(crate) async fn page<T>(&self, answers: &Answers, making: impl Future<Output = T>) -> T {
        // It is never closed.
        let _turn = self.pages.acquire().await;
        let _place = answers.place().await;
        making.await
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        time::timeout,
    };

    use super::*;

    /// Both ends of a connection of the HTTP side.
    async fn connection() -> (Connection, TcpStream) {
        let inner = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = inner.local_addr().unwrap();
        let mut listener = Listener::new(inner, 1, Patience::Request, Signal::default());
        let (peer, (connection, _)) = tokio::join!(TcpStream::connect(address), listener.next());
        (connection, peer.unwrap())
    }

    /// Reads a byte as soon as it was sent.
    async fn pass_on(connection: &mut Connection, peer: &mut TcpStream) -> io::Result<u8> {
        peer.write_all(b"x").await.unwrap();
        connection.read_u8().await
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_trickle_in_do_not_keep_a_connection() {
        let (mut connection, mut peer) = connection().await;
        let tenth = limits::HTTP_REQUEST_TIME_MAX / 10;
        for _ in 0..9 {
            pass_on(&mut connection, &mut peer).await.unwrap();
            sleep(tenth).await;
        }
        let ended = timeout(2 * tenth, connection.read_u8()).await;
        assert_eq!(ended.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_gives_time_for_the_next_request() {
        let (mut connection, mut peer) = connection().await;
        for _ in 0..3 {
            sleep(limits::HTTP_REQUEST_TIME_MAX / 2).await;
            pass_on(&mut connection, &mut peer).await.unwrap();
            connection.write_u8(b'y').await.unwrap();
        }
    }
}
