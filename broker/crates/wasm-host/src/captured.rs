//! What a guest writes to its standard output and error: kept, bounded, and made log lines.

#![allow(
    clippy::disallowed_types,
    reason = "the engine wants its streams to be Send"
)]

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// Bytes kept of what a call writes; the last ones, which hold the reason of a panic.
const CAPTURED_BYTES_MAX: usize = 8 << 10;
/// Bytes offered to the guest for one write.
const WRITE_BYTES_MAX: usize = 64 << 10;

/// The last bytes written to a stream. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Captured(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    /// Bytes written before those that are not there any more.
    lost: u64,
}

impl Captured {
    /// Takes what was written since the last time, bytes that are no UTF-8 as `\xNN`, and how many bytes before it were lost.
    pub(crate) fn take(&self) -> (String, u64) {
        let Kept { bytes, lost } = std::mem::take(&mut *self.lock());
        let mut text = String::with_capacity(bytes.len());
        for chunk in bytes.utf8_chunks() {
            text.push_str(chunk.valid());
            for byte in chunk.invalid() {
                text.push_str(&format!("\\x{byte:02x}"));
            }
        }
        (text, lost)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, bytes: &[u8]) {
        let mut kept = self.lock();
        let never_kept = bytes.len().saturating_sub(CAPTURED_BYTES_MAX);
        kept.bytes.extend_from_slice(&bytes[never_kept..]);
        let excess = kept.bytes.len().saturating_sub(CAPTURED_BYTES_MAX);
        kept.bytes.drain(..excess);
        kept.lost += (never_kept + excess) as u64;
    }
}

impl IsTerminal for Captured {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Captured {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Captured {
    async fn ready(&mut self) {}
}

impl OutputStream for Captured {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.push(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES_MAX)
    }
}

impl AsyncWrite for Captured {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.push(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_shown_not_lost() {
        let captured = Captured::default();
        captured.push(b"caf\xc3\xa9 \xff\x1b[2J");
        assert_eq!(captured.take(), ("caf\u{e9} \\xff\u{1b}[2J".into(), 0));
        assert_eq!(captured.take(), (String::new(), 0));
    }

    #[test]
    fn of_more_than_is_kept_the_last_is_there_and_the_rest_is_counted() {
        let captured = Captured::default();
        for piece in [10, CAPTURED_BYTES_MAX + 7, 5] {
            captured.push(&vec![b'x'; piece]);
        }
        let (text, lost) = captured.take();
        assert_eq!((text.len(), lost), (CAPTURED_BYTES_MAX, 10 + 7 + 5));
        assert_eq!(captured.take(), (String::new(), 0));
    }
}
