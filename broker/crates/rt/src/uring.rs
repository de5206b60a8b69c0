//! The `uring` engine: everything that says *glommio*.

#![allow(dead_code, unused_variables, clippy::todo, reason = "being written")]

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use crate::buf::AlignedBuf;
use crate::fs::OpenMode;
use crate::task::Queue;

pub(crate) fn probe() -> Result<(), String> {
    Err("engine not built yet".to_owned())
}
pub(crate) fn prepare_process() {}
pub(crate) fn run<T, F, Fut>(shard: u16, cpu: Option<usize>, main: F) -> T
where
    T: Send + 'static,
    F: Fn(u16) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = T> + 'static,
{
    todo!()
}
pub(crate) fn sleep(d: Duration) -> Pin<Box<dyn Future<Output = ()>>> {
    todo!()
}
pub(crate) fn spawn(queue: Queue, f: impl Future<Output = ()> + 'static) {
    todo!()
}
pub(crate) async fn blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    todo!()
}
#[derive(Debug)]
pub(crate) struct UringFile;
impl UringFile {
    pub(crate) async fn open(path: &Path, mode: OpenMode) -> io::Result<UringFile> { todo!() }
    pub(crate) fn alloc(&self, bytes: usize) -> AlignedBuf { todo!() }
    pub(crate) async fn write_at(&self, buf: AlignedBuf, position: u64) -> io::Result<()> { todo!() }
    pub(crate) async fn read_at(&self, position: u64, len: usize) -> io::Result<Vec<u8>> { todo!() }
    pub(crate) async fn sync_data(&self) -> io::Result<()> { todo!() }
    pub(crate) async fn preallocate(&self, bytes: u64) -> io::Result<()> { todo!() }
    pub(crate) async fn len(&self) -> io::Result<u64> { todo!() }
    pub(crate) async fn close(self) -> io::Result<()> { todo!() }
}
#[derive(Debug)]
pub(crate) struct UringListener;
impl UringListener {
    pub(crate) fn from_std(l: std::net::TcpListener) -> io::Result<UringListener> { todo!() }
    pub(crate) async fn accept(&self) -> io::Result<(std::net::TcpStream, SocketAddr)> { todo!() }
}
#[derive(Debug, Clone)]
pub(crate) struct UringStream;
impl UringStream {
    pub(crate) fn from_std(s: std::net::TcpStream) -> io::Result<UringStream> { todo!() }
    pub(crate) async fn read(&self, buf: &mut [u8]) -> io::Result<usize> { todo!() }
    pub(crate) async fn write(&self, buf: &[u8]) -> io::Result<usize> { todo!() }
    pub(crate) fn as_raw_fd(&self) -> RawFd { todo!() }
}
