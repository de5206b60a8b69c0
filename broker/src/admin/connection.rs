//! Connections of the admin address: so many at once, and none that sits idle for ever.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

use super::routes::UPLOAD_TIMEOUT;

/// The head of a request must be there whole so long after its first byte, and the first head so long after connecting:
/// connections are few.
const HEAD_MAX: Duration = Duration::from_secs(10);

/// Connections beyond the limit that are taken for whoever watches over the broker: they are told how it is, and nothing
/// else, and closed.
const RESERVED_MAX: usize = 16;

/// As [`HEAD_MAX`], on a reserved connection: others wait for its place.
const RESERVED_HEAD_MAX: Duration = Duration::from_secs(1);

/// A connection between two requests is closed after so long.
const KEEP_ALIVE_MAX: Duration = Duration::from_secs(20);

/// A request under way without a byte in either direction for so long is cut off. Longer than any request takes: while a module is compiled
/// nothing is said.
const IDLE_MAX: Duration = Duration::from_secs(30).saturating_add(UPLOAD_TIMEOUT);

/// How long accepting pauses after an error such as "too many open files".
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener that holds at most so many connections and a few reserved ones; more wait in the kernel's backlog.
#[derive(Debug)]
pub(super) struct BoundedListener {
    listener: TcpListener,
    permits: Arc<Semaphore>,
    reserved: Arc<Semaphore>,
}

/// Which of the two kinds a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// One of the many, for any request.
    Any,
    /// A reserved one, for the watched paths only.
    Reserved,
}

impl Connected<IncomingStream<'_, BoundedListener>> for Place {
    fn connect_info(stream: IncomingStream<'_, BoundedListener>) -> Place {
        stream.io().place
    }
}

impl BoundedListener {
    /// Takes a listener over.
    pub(super) fn new(listener: TcpListener, connections_max: usize) -> BoundedListener {
        BoundedListener {
            listener,
            permits: Arc::new(Semaphore::new(connections_max)),
            reserved: Arc::new(Semaphore::new(RESERVED_MAX)),
        }
    }

    /// A place for the next connection: a reserved one where all others are taken.
    async fn place(&self) -> (OwnedSemaphorePermit, Place) {
        let (any, reserved) = (self.permits.clone(), self.reserved.clone());
        let permit = tokio::select! {
            biased;
            permit = any.acquire_owned() => permit.map(|p| (p, Place::Any)),
            permit = reserved.acquire_owned() => permit.map(|p| (p, Place::Reserved)),
        };
        permit.expect("the semaphores are never closed")
    }
}

impl Listener for BoundedListener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let (permit, place) = self.place().await;
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    // Another may have ended while this one was waited for.
                    let (permit, place) = match self.permits.clone().try_acquire_owned() {
                        Ok(any) if place == Place::Reserved => (any, Place::Any),
                        _ => (permit, place),
                    };
                    return (Connection::new(stream, permit, place), peer);
                }
                Err(error) => {
                    tracing::debug!(%error, "accepting on the admin address failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Where a connection stands, as far as its bytes tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// A head is coming; so many bytes of what ends it have just come.
    Head(usize),
    /// A request is under way.
    Request,
    /// Something was answered; what comes next begins another head.
    Answered,
}

/// What ends a head.
const HEAD_END: [u8; 4] = *b"\r\n\r\n";

impl Phase {
    /// The phase after `bytes` were read. Bytes behind a head are its body, or a request that waits its turn.
    fn read(self, bytes: &[u8]) -> Phase {
        let mut ended = match self {
            Phase::Request => return Phase::Request,
            Phase::Answered => 0,
            Phase::Head(ended) => ended,
        };
        for byte in bytes {
            ended = match *byte {
                byte if byte == HEAD_END[ended] => ended + 1,
                b'\r' => 1,
                _ => 0,
            };
            if ended == HEAD_END.len() {
                return Phase::Request;
            }
        }
        Phase::Head(ended)
    }

    /// Whether a byte now puts the end of the time off: a head has its time as a whole.
    fn goes_on_from(self, before: Phase) -> bool {
        matches!((before, self), (Phase::Head(_), Phase::Head(_)))
    }

    fn time(self) -> Duration {
        match self {
            Phase::Head(_) => HEAD_MAX,
            Phase::Request => IDLE_MAX,
            Phase::Answered => KEEP_ALIVE_MAX,
        }
    }
}

/// A connection with its permit and its clock.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    phase: Phase,
    clock: Pin<Box<Sleep>>,
    place: Place,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    fn new(stream: TcpStream, permit: OwnedSemaphorePermit, place: Place) -> Connection {
        let head_max = match place {
            Place::Any => HEAD_MAX,
            Place::Reserved => RESERVED_HEAD_MAX,
        };
        // Answers are small; without it every one could wait for the peer's delayed acknowledgement.
        let _ = stream.set_nodelay(true);
        Connection {
            stream,
            phase: Phase::Head(0),
            clock: Box::pin(tokio::time::sleep(head_max)),
            place,
            _permit: permit,
        }
    }

    fn now_in(&mut self, phase: Phase) {
        if !phase.goes_on_from(self.phase) {
            self.clock.as_mut().reset(Instant::now() + phase.time());
        }
        self.phase = phase;
    }

    /// An error where the time is up; else registers to be woken then.
    fn in_time(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.clock.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }

    /// The outcome of writing bytes that begin with `start`.
    fn written(
        &mut self,
        cx: &mut Context<'_>,
        start: &[u8],
        progress: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if progress.is_ready() {
            // "100 Continue" only says that the body may come.
            if !start.starts_with(b"HTTP/1.1 100 ") {
                self.now_in(Phase::Answered);
            }
            return progress;
        }
        match self.in_time(cx) {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.in_time(cx)?;
        let before = buf.filled().len();
        let progress = Pin::new(&mut self.stream).poll_read(cx, buf);
        if progress.is_ready() {
            let phase = self.phase.read(&buf.filled()[before..]);
            self.now_in(phase);
        }
        progress
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written(cx, buf, progress)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        let start = bufs.first().map_or(&[][..], |buf| buf);
        self.written(cx, start, progress)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_ends_with_an_empty_line_however_it_is_cut() {
        let head = b"GET / HTTP/1.1\r\nhost: a\r\n\r\r\n\r\n";
        for cut in 0..head.len() {
            let phase = Phase::Head(0).read(&head[..cut]);
            assert!(matches!(phase, Phase::Head(_)), "ended after {cut}");
            assert_eq!(phase.read(&head[cut..]), Phase::Request);
        }
        assert_eq!(Phase::Answered.read(b"G"), Phase::Head(0));
        assert_eq!(Phase::Request.read(b"body"), Phase::Request);
    }

    #[test]
    fn request_whose_module_is_compiled_outlives_every_limit_of_the_connection() {
        let request = Phase::Head(0)
            .read(b"PUT / HTTP/1.1\r\n\r\n")
            .read(b"module");
        assert!(request.time() > UPLOAD_TIMEOUT);
    }

    #[test]
    fn places_beyond_the_limit_are_reserved_ones_and_come_back() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let bounded = BoundedListener::new(listener, 2);
            let mut held = Vec::new();
            for _ in 0..2 + RESERVED_MAX {
                held.push(bounded.place().await);
            }
            let kinds: Vec<Place> = held.iter().map(|(_, place)| *place).collect();
            assert_eq!(kinds[..2], [Place::Any; 2]);
            assert_eq!(kinds[2..], [Place::Reserved; RESERVED_MAX]);
            drop(held.remove(0));
            assert_eq!(bounded.place().await.1, Place::Any);
        });
    }

    #[test]
    fn head_that_trickles_in_is_cut_off() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        const TIME: Duration = Duration::from_millis(300);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("it is bound");
            let mut bounded = BoundedListener::new(listener, 128);
            let mut client = TcpStream::connect(address).await.expect("it listens");
            let (mut connection, _) = bounded.accept().await;
            connection.clock.as_mut().reset(Instant::now() + TIME);
            let trickle = Box::pin(async move {
                while client.write_all(b"x").await.is_ok() {
                    tokio::time::sleep(TIME / 10).await;
                }
            });
            let read = Box::pin(async move {
                let mut byte = [0; 1];
                loop {
                    if let Err(error) = connection.read_exact(&mut byte).await {
                        return error.kind();
                    }
                }
            });
            let both = futures_util::future::select(read, trickle);
            match tokio::time::timeout(20 * TIME, both).await {
                Ok(futures_util::future::Either::Left((kind, _))) => {
                    assert_eq!(kind, io::ErrorKind::TimedOut)
                }
                _ => panic!("bytes put the end off"),
            }
        });
    }
}
