//! TCP.
//!
//! A listening socket is bound once per process, exclusively (no `SO_REUSEPORT`: it would let a second broker share the
//! port unnoticed). Accepted sockets are plain descriptors that may be handed to another shard, which makes a
//! [`Stream`] of them. The simulated network comes with the cluster: under `sim` these functions fail.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd};
use std::rc::Rc;
use std::time::Duration;

use crate::context::{self, EngineKind};

/// Pending connections the kernel keeps for us.
pub const LISTEN_BACKLOG: i32 = 1024;

/// How long to wait with what needs a descriptor when there is none.
pub(crate) const RETRY: Duration = Duration::from_millis(100);

/// Descriptors of the process that are kept for what is neither a connection nor of a shard; with those of shards at most half of all.
const DESCRIPTORS_RESERVED: usize = 256;
/// Descriptors kept for the files of each shard: segments that are flushed, with their indexes, and those that are read.
const DESCRIPTORS_OF_A_SHARD: usize = 640;

/// Connections that each of `shards` shards may have open: the process's limit of descriptors (`RLIMIT_NOFILE`) without
/// those that files need, shared out. At least one.
pub fn connections_max(shards: u16) -> usize {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    #[allow(unsafe_code, reason = "std does not tell limits")]
    // SAFETY: `limit` is a live variable that getrlimit fills in.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0;
    // Without an answer: what POSIX systems give at least.
    let descriptors = if known { limit.rlim_cur } else { 1024 };
    share(usize::try_from(descriptors).unwrap_or(usize::MAX), shards)
}

fn share(descriptors: usize, shards: u16) -> usize {
    let shards = usize::from(shards.max(1));
    let files = DESCRIPTORS_RESERVED + shards * DESCRIPTORS_OF_A_SHARD;
    let left = descriptors - files.min(descriptors / 2);
    (left / shards).max(1)
}

/// Binds `addr` and listens. Works on every thread; the socket becomes a [`Listener`] on a shard.
///
/// # Errors
/// `AddrInUse` when another process listens there; else as the operating system says.
pub fn bind(addr: SocketAddr) -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(addr)?;
    #[allow(unsafe_code, reason = "std offers no backlog")]
    // SAFETY: the descriptor is open; listen(2) again only raises the backlog above std's 128.
    let r = unsafe { libc::listen(listener.as_raw_fd(), LISTEN_BACKLOG) };
    if r != 0 {
        return Err(io::Error::last_os_error());
    }
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Lets the process open as many files and connections as it may ask for itself (the hard limit of `RLIMIT_NOFILE`):
/// the usual soft limit of 1,024 is there for programs that use `select`. Works on every thread.
///
/// # Errors
/// As the operating system says; the limit then stays what it was.
pub fn raise_descriptor_limit() -> io::Result<()> {
    #[allow(unsafe_code, reason = "std has no limits")]
    // SAFETY: both calls read or fill the structure, which lives in this frame.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) != 0 {
            return Err(io::Error::last_os_error());
        }
        limit.rlim_cur = limit.rlim_max;
        if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

#[derive(Debug)]
enum ListenerInner {
    Uring(crate::uring::UringListener),
    Epoll(tokio::net::TcpListener),
}

/// A listening socket on the current shard.
#[derive(Debug)]
pub struct Listener(ListenerInner);

impl Listener {
    /// Takes over a socket made by [`bind`].
    ///
    /// # Errors
    /// As the operating system says; `Unsupported` under `sim`.
    pub fn from_std(listener: std::net::TcpListener) -> io::Result<Listener> {
        match context::current() {
            EngineKind::Uring => Ok(Listener(ListenerInner::Uring(
                crate::uring::UringListener::from_std(listener)?,
            ))),
            EngineKind::Epoll => Ok(Listener(ListenerInner::Epoll(
                tokio::net::TcpListener::from_std(listener)?,
            ))),
            EngineKind::Sim => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// The next connection, as a descriptor that any shard can take over with [`Stream::from_std`].
    ///
    /// # Errors
    /// As the operating system says; `EMFILE` means: wait a little and try again.
    pub async fn accept(&self) -> io::Result<(std::net::TcpStream, SocketAddr)> {
        match &self.0 {
            ListenerInner::Uring(l) => l.accept().await,
            ListenerInner::Epoll(l) => {
                let (stream, peer) = l.accept().await?;
                Ok((stream.into_std()?, peer))
            }
        }
    }
}

#[derive(Debug, Clone)]
enum StreamInner {
    Uring(crate::uring::UringStream),
    Epoll(Rc<tokio::net::TcpStream>),
}

/// A TCP connection on the current shard, `TCP_NODELAY` set.
#[derive(Debug)]
pub struct Stream(StreamInner);

/// The reading half; one task reads.
#[derive(Debug)]
pub struct ReadHalf(StreamInner);

/// The writing half; one task writes.
#[derive(Debug)]
pub struct WriteHalf(StreamInner);

impl Stream {
    /// Takes over an accepted or connected socket.
    ///
    /// # Errors
    /// As the operating system says; `Unsupported` under `sim`.
    pub fn from_std(stream: std::net::TcpStream) -> io::Result<Stream> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        match context::current() {
            EngineKind::Uring => Ok(Stream(StreamInner::Uring(
                crate::uring::UringStream::from_std(stream)?,
            ))),
            EngineKind::Epoll => {
                let stream = tokio::net::TcpStream::from_std(stream)?;
                Ok(Stream(StreamInner::Epoll(Rc::new(stream))))
            }
            EngineKind::Sim => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Lets the kernel end the connection when it hears nothing from the peer's for `silent_max`: it asks an idle one
    /// (`SO_KEEPALIVE`), and waits no longer for what it sent to be taken (`TCP_USER_TIMEOUT`). Reads and writes then fail.
    ///
    /// # Errors
    /// As the operating system says.
    pub fn end_when_silent(&self, silent_max: Duration) -> io::Result<()> {
        let fd = match &self.0 {
            StreamInner::Uring(s) => s.as_raw_fd(),
            StreamInner::Epoll(s) => s.as_raw_fd(),
        };
        #[allow(unsafe_code, reason = "glommio lends no socket")]
        // SAFETY: the descriptor belongs to the stream, which is alive for the whole call.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let socket = socket2::SockRef::from(&fd);
        // Half of the time goes by before the first question, the rest is for four.
        let second = Duration::from_secs(1);
        let alive = socket2::TcpKeepalive::new()
            .with_time((silent_max / 2).max(second))
            .with_interval((silent_max / 8).max(second))
            .with_retries(4);
        socket.set_tcp_keepalive(&alive)?;
        socket.set_tcp_user_timeout(Some(silent_max))
    }

    /// Two halves for two tasks. The socket closes when both are dropped.
    pub fn split(self) -> (ReadHalf, WriteHalf) {
        (ReadHalf(self.0.clone()), WriteHalf(self.0))
    }
}

impl ReadHalf {
    /// Reads some bytes into `buf`; 0 when the peer has closed.
    ///
    /// # Errors
    /// As the operating system says.
    pub async fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &self.0 {
            StreamInner::Uring(s) => s.read(buf).await,
            StreamInner::Epoll(s) => loop {
                s.readable().await?;
                match s.try_read(buf) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    other => return other,
                }
            },
        }
    }

    /// Reads up to `max` bytes behind what is in `buf`, into capacity that it has; 0 when the peer has closed (or there is no room).
    ///
    /// # Errors
    /// As the operating system says.
    pub async fn read_more(&mut self, buf: &mut Vec<u8>, max: usize) -> io::Result<usize> {
        match &self.0 {
            StreamInner::Uring(s) => s.read_more(buf, max).await,
            StreamInner::Epoll(s) => loop {
                s.readable().await?;
                let receive = || receive(s.as_raw_fd(), buf, max);
                match s.try_io(tokio::io::Interest::READABLE, receive) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    other => return other,
                }
            },
        }
    }

    /// Fills `buf`.
    ///
    /// # Errors
    /// `UnexpectedEof` when the peer closes before; else as the operating system says.
    pub async fn read_exact(&mut self, buf: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < buf.len() {
            match self.read(&mut buf[done..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => done += n,
            }
        }
        Ok(())
    }

    /// Bytes that have arrived and can be read at once.
    pub fn arrived(&self) -> usize {
        let fd = match &self.0 {
            StreamInner::Uring(s) => s.as_raw_fd(),
            StreamInner::Epoll(s) => s.as_raw_fd(),
        };
        let mut bytes: libc::c_int = 0;
        #[allow(unsafe_code, reason = "std does not tell how much can be read")]
        // SAFETY: the descriptor belongs to the stream, which is alive; the call writes one integer, which lives here.
        let known = unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut bytes) } == 0;
        if known {
            usize::try_from(bytes).unwrap_or(0)
        } else {
            0
        }
    }
}

/// Receives up to `max` bytes into spare capacity of `buf`, without waiting. Memory that is only going to be overwritten need not be
/// zeroed first: of requests of 100 KB that took a twentieth of the time.
pub(crate) fn receive(fd: std::os::fd::RawFd, buf: &mut Vec<u8>, max: usize) -> io::Result<usize> {
    let spare = buf.spare_capacity_mut();
    let len = spare.len().min(max);
    #[allow(unsafe_code, reason = "std reads into initialised memory only")]
    // SAFETY: recv writes at most `len` bytes to `spare`, which is memory of `buf` that nothing refers to; as many as it says
    // are initialised afterwards, directly behind the old length.
    let n = unsafe {
        let n = libc::recv(fd, spare.as_mut_ptr().cast(), len, libc::MSG_DONTWAIT);
        if let Ok(n) = usize::try_from(n) {
            buf.set_len(buf.len() + n);
        }
        n
    };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

impl WriteHalf {
    /// Writes all of `buf`.
    ///
    /// # Errors
    /// As the operating system says.
    pub async fn write_all(&mut self, buf: &[u8]) -> io::Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let n = match &self.0 {
                StreamInner::Uring(s) => s.write(&buf[done..]).await?,
                StreamInner::Epoll(s) => {
                    s.writable().await?;
                    match s.try_write(&buf[done..]) {
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
                        other => other?,
                    }
                }
            };
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            done += n;
        }
        Ok(())
    }

    /// Closes both directions at once, which wakes the reading half.
    pub fn shutdown(&self) {
        let fd = match &self.0 {
            StreamInner::Uring(s) => s.as_raw_fd(),
            StreamInner::Epoll(s) => s.as_raw_fd(),
        };
        #[allow(
            unsafe_code,
            reason = "neither engine can shut down through a shared reference"
        )]
        // SAFETY: the descriptor belongs to the stream, which is alive for the whole call.
        unsafe {
            libc::shutdown(fd, libc::SHUT_RDWR);
        }
    }
}

/// Takes the descriptor out of a std socket and into another owner that closes it.
pub(crate) fn transfer<T: FromRawFd>(socket: impl IntoRawFd) -> T {
    #[allow(unsafe_code, reason = "glommio takes sockets only by descriptor")]
    // SAFETY: `into_raw_fd` gives up ownership of an open descriptor, which `T` takes over.
    unsafe {
        T::from_raw_fd(socket.into_raw_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_files() {
        assert_eq!(share(1024, 2), 256);
        assert_eq!(share(600, 1), 300);
        assert_eq!(share(65_536, 4), 15_680);
        assert_eq!(share(1, 8), 1);
        assert!(connections_max(1) > connections_max(64));
    }
}
