//! The `sim` engine: deterministic execution, virtual time, a faulty disk.

#![allow(dead_code, unused_variables, clippy::todo, missing_docs, reason = "being written")]

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::fs::OpenMode;
use crate::time::Instant;

/// Wall-clock time at the start of a simulation, in ms since the Unix epoch.
pub const SIM_EPOCH_MS: i64 = 1_750_000_000_000;

pub(crate) fn now_nanos() -> u64 { todo!() }
pub(crate) fn fill_random(buf: &mut [u8]) { todo!() }
pub(crate) fn spawn(f: impl Future<Output = ()> + 'static) { todo!() }
pub(crate) struct SimSleep;
impl SimSleep {
    pub(crate) fn until(deadline: Instant) -> SimSleep { todo!() }
}
impl Future for SimSleep {
    type Output = ();
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> { todo!() }
}
#[derive(Debug, Clone)]
pub(crate) struct SimFile;
impl SimFile {
    pub(crate) fn open(path: &Path, mode: OpenMode) -> io::Result<SimFile> { todo!() }
    pub(crate) async fn write_at(&self, data: &[u8], position: u64) -> io::Result<()> { todo!() }
    pub(crate) async fn read_at(&self, position: u64, len: usize) -> io::Result<Vec<u8>> { todo!() }
    pub(crate) async fn sync_data(&self) -> io::Result<()> { todo!() }
    pub(crate) fn set_len(&self, bytes: u64) -> io::Result<()> { todo!() }
    pub(crate) fn len(&self) -> u64 { todo!() }
}
pub(crate) fn create_dir_all(path: &Path) -> io::Result<()> { todo!() }
pub(crate) fn remove_file(path: &Path) -> io::Result<()> { todo!() }
pub(crate) fn remove_dir_all(path: &Path) -> io::Result<()> { todo!() }
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> { todo!() }
pub(crate) fn exists(path: &Path) -> io::Result<bool> { todo!() }
pub(crate) fn list_dir(path: &Path) -> io::Result<Vec<String>> { todo!() }
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> { todo!() }
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> { todo!() }
