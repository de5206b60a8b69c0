//! Sockets.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use futures_lite::io::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;

use crate::net::{receive, transfer};

/// A listening socket. Waits until it is readable and then accepts, instead of asking io_uring to accept: an `accept` that its
/// caller gives up may already have taken a connection, which would then be lost.
#[derive(Debug)]
pub(crate) struct UringListener {
    listener: std::net::TcpListener,
    /// Watches a duplicate of the listener while somebody waits. glommio knows how to wait for readable streams only; on
    /// this one a read fails once the listener is readable, and that is the signal.
    watch: RefCell<Option<TcpStream>>,
}

impl UringListener {
    pub(crate) fn from_std(listener: std::net::TcpListener) -> io::Result<UringListener> {
        listener.set_nonblocking(true)?;
        Ok(UringListener {
            listener,
            watch: RefCell::new(None),
        })
    }

    pub(crate) async fn accept(&self) -> io::Result<(std::net::TcpStream, SocketAddr)> {
        loop {
            match self.listener.accept() {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => return other,
            }
            poll_fn(|cx| self.poll_readable(cx)).await?;
        }
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut watch = self.watch.borrow_mut();
        let stream = match &mut *watch {
            Some(stream) => stream,
            None => watch.insert(transfer(self.listener.try_clone()?)),
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

/// A connection. Reading and writing wait separately, so that two tasks may share it.
#[derive(Debug, Clone)]
pub(crate) struct UringStream(Rc<RefCell<TcpStream>>);

impl UringStream {
    pub(crate) fn from_std(stream: std::net::TcpStream) -> io::Result<UringStream> {
        Ok(UringStream(Rc::new(RefCell::new(transfer(stream)))))
    }

    pub(crate) async fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        retry(|cx| Pin::new(&mut *self.0.borrow_mut()).poll_read(cx, buf)).await
    }

    /// glommio reads into initialised memory only; it is asked to wait, by way of reading one byte.
    pub(crate) async fn read_more(&self, buf: &mut Vec<u8>, max: usize) -> io::Result<usize> {
        loop {
            match receive(self.as_raw_fd(), buf, max) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let mut first = [0];
                    let n = self.read(&mut first).await?;
                    buf.extend_from_slice(&first[..n]);
                    return Ok(n);
                }
                other => return other,
            }
        }
    }

    pub(crate) async fn write(&self, buf: &[u8]) -> io::Result<usize> {
        retry(|cx| Pin::new(&mut *self.0.borrow_mut()).poll_write(cx, buf)).await
    }

    pub(crate) fn as_raw_fd(&self) -> RawFd {
        self.0.borrow().as_raw_fd()
    }
}

/// Polls `operation` again when a signal interrupted it.
async fn retry(
    mut operation: impl FnMut(&mut Context<'_>) -> Poll<io::Result<usize>>,
) -> io::Result<usize> {
    loop {
        match poll_fn(&mut operation).await {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
