//! Sockets.
//!
//! Listeners wait through io_uring, connections through an epoll set of their shard ([`Sockets`]) for which one wait is made through io_uring,
//! whatever number of them become ready. Waiting for each by itself cost a request to the ring, a completion and an interrupt for every small request: glommio
//! sets its rings up so that the kernel interrupts the thread for each completion. Measured with 64 connections and one record a request, that
//! was a fifth of the processor time.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use futures_lite::io::AsyncRead;
use glommio::net::TcpStream;
use rustix::event::{Timespec, epoll};

use crate::net::{receive, transfer};
use crate::task::Queue;

/// Events taken from the epoll set at once.
const EVENTS_MAX: usize = 256;

/// A listening socket. Waits until it is readable and then accepts, instead of asking io_uring to accept: an `accept` that its
/// caller gives up may already have taken a connection, which would then be lost.
#[derive(Debug)]
pub(crate) struct UringListener {
    listener: std::net::TcpListener,
    watch: Watch,
}

/// Waits until a descriptor is readable. glommio knows how to wait for readable streams only; on a duplicate that it takes for one a read
/// fails once the descriptor is readable, and that is the signal.
#[derive(Debug, Default)]
struct Watch(RefCell<Option<TcpStream>>);

impl Watch {
    fn poll_readable(&self, fd: impl AsFd, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut watch = self.0.borrow_mut();
        let stream = match &mut *watch {
            Some(stream) => stream,
            None => watch.insert(transfer(fd.as_fd().try_clone_to_owned()?)),
        };
        let polled = Pin::new(stream).poll_read(cx, &mut [0]);
        if polled.is_pending() {
            return Poll::Pending;
        }
        // Its next read would fail at once, readable or not.
        *watch = None;
        Poll::Ready(Ok(()))
    }
}

impl UringListener {
    pub(crate) fn from_std(listener: std::net::TcpListener) -> io::Result<UringListener> {
        listener.set_nonblocking(true)?;
        Ok(UringListener {
            listener,
            watch: Watch::default(),
        })
    }

    pub(crate) async fn accept(&self) -> io::Result<(std::net::TcpStream, SocketAddr)> {
        loop {
            match self.listener.accept() {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => return other,
            }
            poll_fn(|cx| self.watch.poll_readable(&self.listener, cx)).await?;
        }
    }
}

thread_local! {
    /// The sockets of this shard, as long as its executor runs.
    static SOCKETS: RefCell<Weak<Sockets>> = const { RefCell::new(Weak::new()) };
}

/// The connections of a shard, and the epoll set that says which are ready.
#[derive(Debug)]
struct Sockets {
    set: OwnedFd,
    places: RefCell<Places>,
}

#[derive(Debug, Default)]
struct Places {
    sockets: Vec<Option<Rc<Ready>>>,
    free: Vec<usize>,
}

/// What is known of a connection, from the edges that epoll reports: readiness is taken to last until the kernel refuses.
#[derive(Debug)]
struct Ready {
    readable: Cell<bool>,
    writable: Cell<bool>,
    /// The peer sends no more, or the connection broke: reading never waits again.
    over: Cell<bool>,
    reader: RefCell<Option<Waker>>,
    writer: RefCell<Option<Waker>>,
}

impl Sockets {
    /// Those of this shard; the first connection makes the set and the task that serves it.
    fn here() -> io::Result<Rc<Sockets>> {
        if let Some(here) = SOCKETS.with_borrow(Weak::upgrade) {
            return Ok(here);
        }
        let made = Rc::new(Sockets {
            set: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            places: RefCell::default(),
        });
        SOCKETS.set(Rc::downgrade(&made));
        super::spawn(Queue::Kafka, made.clone().serve());
        Ok(made)
    }

    /// Wakes whose connections are ready, until the executor ends.
    async fn serve(self: Rc<Self>) {
        let watch = Watch::default();
        loop {
            let woken = self.wake_ready();
            let waited = match woken {
                // There may be more than were taken.
                Ok(EVENTS_MAX) => continue,
                Ok(_) => poll_fn(|cx| watch.poll_readable(&self.set, cx)).await,
                Err(error) => Err(error),
            };
            if let Err(error) = waited {
                // No descriptor to be had just now: connections wait meanwhile.
                tracing::error!(%error, "cannot wait for connections");
                crate::time::sleep(crate::net::RETRY).await;
            }
        }
    }

    /// Takes what epoll reports now; how many connections that was.
    fn wake_ready(&self) -> io::Result<usize> {
        let mut space = [const { MaybeUninit::uninit() }; EVENTS_MAX];
        let none = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let (events, _) = match epoll::wait(&self.set, &mut space, Some(&none)) {
            Err(rustix::io::Errno::INTR) => return Ok(EVENTS_MAX),
            other => other?,
        };
        for event in &*events {
            let place = event.data.u64() as usize;
            let socket = self.places.borrow().sockets.get(place).cloned().flatten();
            // One that was dropped meanwhile is out of the set; a new one in its place is only woken for nothing.
            if let Some(socket) = socket {
                socket.note(event.flags);
            }
        }
        Ok(events.len())
    }

    fn add(&self, socket: &std::net::TcpStream) -> io::Result<(usize, Rc<Ready>)> {
        let ready = Rc::new(Ready {
            readable: Cell::new(true),
            writable: Cell::new(true),
            over: Cell::new(false),
            reader: RefCell::default(),
            writer: RefCell::default(),
        });
        let mut places = self.places.borrow_mut();
        let place = places.free.pop().unwrap_or_else(|| {
            places.sockets.push(None);
            places.sockets.len() - 1
        });
        let flags = epoll::EventFlags::IN
            | epoll::EventFlags::OUT
            | epoll::EventFlags::RDHUP
            | epoll::EventFlags::ET;
        let added = epoll::add(
            &self.set,
            socket,
            epoll::EventData::new_u64(place as u64),
            flags,
        );
        if let Err(error) = added {
            places.free.push(place);
            return Err(error.into());
        }
        places.sockets[place] = Some(ready.clone());
        Ok((place, ready))
    }

    fn remove(&self, place: usize, socket: &std::net::TcpStream) {
        // The socket may be open elsewhere too, and would go on to report.
        if let Err(error) = epoll::delete(&self.set, socket) {
            tracing::warn!(%error, "a connection stays in the epoll set");
        }
        let mut places = self.places.borrow_mut();
        places.sockets[place] = None;
        places.free.push(place);
    }
}

impl Ready {
    fn note(&self, flags: epoll::EventFlags) {
        use epoll::EventFlags as Is;
        let over = flags.intersects(Is::RDHUP | Is::HUP | Is::ERR);
        if over {
            self.over.set(true);
        }
        if over || flags.contains(Is::IN) {
            self.readable.set(true);
            wake(&self.reader);
        }
        if flags.intersects(Is::OUT | Is::HUP | Is::ERR) {
            self.writable.set(true);
            wake(&self.writer);
        }
    }

    /// Notes that a read brought fewer bytes than it could: the next edge says when there is more.
    fn drained(&self) {
        self.readable.set(self.over.get());
    }
}

fn wake(waiting: &RefCell<Option<Waker>>) {
    if let Some(waker) = waiting.take() {
        waker.wake();
    }
}

/// A connection. Reading and writing wait separately, so that two tasks may share it.
#[derive(Debug, Clone)]
pub(crate) struct UringStream(Rc<Connection>);

#[derive(Debug)]
struct Connection {
    socket: std::net::TcpStream,
    ready: Rc<Ready>,
    place: usize,
    sockets: Rc<Sockets>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.sockets.remove(self.place, &self.socket);
    }
}

impl UringStream {
    /// `stream` does not block.
    pub(crate) fn from_std(stream: std::net::TcpStream) -> io::Result<UringStream> {
        let sockets = Sockets::here()?;
        let (place, ready) = sockets.add(&stream)?;
        Ok(UringStream(Rc::new(Connection {
            socket: stream,
            ready,
            place,
            sockets,
        })))
    }

    pub(crate) async fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        let len = buf.len();
        self.receive(len, || (&self.0.socket).read(buf)).await
    }

    /// As [`crate::net::ReadHalf::read_more`].
    pub(crate) async fn read_more(&self, buf: &mut Vec<u8>, max: usize) -> io::Result<usize> {
        let len = max.min(buf.capacity() - buf.len());
        let fd = self.as_raw_fd();
        self.receive(len, || receive(fd, buf, max)).await
    }

    /// Does `read`, of at most `len` bytes, once there is something to be read.
    async fn receive(
        &self,
        len: usize,
        mut read: impl FnMut() -> io::Result<usize>,
    ) -> io::Result<usize> {
        let ready = &self.0.ready;
        let once = || {
            let result = read();
            if result.as_ref().is_ok_and(|n| *n < len) {
                ready.drained();
            }
            result
        };
        once_ready(&ready.readable, &ready.reader, once).await
    }

    pub(crate) async fn write(&self, buf: &[u8]) -> io::Result<usize> {
        let ready = &self.0.ready;
        let once = || (&self.0.socket).write(buf);
        once_ready(&ready.writable, &ready.writer, once).await
    }

    pub(crate) fn as_raw_fd(&self) -> RawFd {
        self.0.socket.as_raw_fd()
    }
}

/// Does `operation` whenever the connection is ready for it, until it does not refuse; a refusal says that it is not ready.
async fn once_ready(
    ready: &Cell<bool>,
    waiting: &RefCell<Option<Waker>>,
    mut operation: impl FnMut() -> io::Result<usize>,
) -> io::Result<usize> {
    poll_fn(|cx| {
        while ready.get() {
            match operation() {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready.set(false),
                other => return Poll::Ready(other),
            }
        }
        *waiting.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    })
    .await
}
