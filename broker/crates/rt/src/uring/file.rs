//! Direct files.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use glommio::io::{DmaFile, OpenOptions};

use crate::buf::{AlignedBuf, BLOCK_BYTES};
use crate::fs::{Durable, OpenMode};
use crate::task::CatchUnwind;

thread_local! {
    /// Devices that [`learn_device`] has seen on this thread.
    static DEVICES: RefCell<BTreeSet<u64>> = const { RefCell::new(BTreeSet::new()) };
}

/// A file written past the page cache by io_uring.
#[derive(Debug)]
pub(crate) struct UringFile(DmaFile);

impl UringFile {
    /// Opens `path`; `InvalidInput` or `Unsupported` where the file system has no direct I/O.
    pub(crate) async fn open(
        path: &Path,
        mode: OpenMode,
        durable: Durable,
    ) -> io::Result<UringFile> {
        let mut options = OpenOptions::new();
        options.read(true).write(mode != OpenMode::Read).mode(0o644);
        options.custom_flags(durable.flag());
        match mode {
            OpenMode::CreateNew => options.create_new(true),
            OpenMode::CreateOrOpen => options.create(true),
            OpenMode::Read | OpenMode::ReadWrite => &mut options,
        };
        learn_device(path).await?;
        let path = path.to_owned();
        // glommio reads /sys on the way and panics over what it does not expect there.
        let opened = CatchUnwind::new(async move { options.dma_open(&path).await }).await;
        match opened {
            Ok(file) => Ok(UringFile(file?)),
            Err(message) => Err(io::Error::new(io::ErrorKind::Unsupported, message)),
        }
    }

    pub(crate) fn alloc(&self, bytes: usize) -> AlignedBuf {
        let bytes = bytes.max(1).next_multiple_of(BLOCK_BYTES);
        AlignedBuf::from_uring(self.0.alloc_dma_buffer(bytes))
    }

    pub(crate) async fn write_at(&self, buf: AlignedBuf, position: u64) -> io::Result<()> {
        let mut rest = buf.into_uring(|bytes| self.0.alloc_dma_buffer(bytes));
        let mut at = position;
        loop {
            let len = rest.len();
            let shared = Rc::new(rest);
            let written = self.0.write_rc_at(shared.clone(), at).await?;
            if written >= len {
                return Ok(());
            }
            // A short write: the disk is nearly full. Only whole blocks can be gone on from.
            let whole = written / BLOCK_BYTES * BLOCK_BYTES;
            if whole == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            rest = self.0.alloc_dma_buffer(len - whole);
            rest.as_bytes_mut()
                .copy_from_slice(&shared.as_bytes()[whole..]);
            at += whole as u64;
        }
    }

    pub(crate) async fn read_at(&self, position: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(len);
        while out.len() < len {
            let at = position + out.len() as u64;
            let part = self.0.read_at_aligned(at, len - out.len()).await?;
            out.extend_from_slice(&part);
            if part.is_empty() || !part.len().is_multiple_of(BLOCK_BYTES) {
                break; // a partial block is the end of the file
            }
        }
        out.truncate(len);
        Ok(out)
    }

    pub(crate) async fn sync_data(&self) -> io::Result<()> {
        Ok(self.0.fdatasync().await?)
    }

    pub(crate) async fn preallocate(&self, bytes: u64) -> io::Result<()> {
        match self
            .0
            .pre_allocate(bytes, false)
            .await
            .map_err(io::Error::from)
        {
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput
                ) =>
            {
                if self.len().await? < bytes {
                    self.0.truncate(bytes).await?;
                }
                Ok(())
            }
            other => other,
        }
    }

    pub(crate) async fn len(&self) -> io::Result<u64> {
        Ok(self.0.file_size().await?)
    }

    pub(crate) fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    pub(crate) async fn close(self) -> io::Result<()> {
        Ok(self.0.close().await?)
    }
}

/// Lets glommio find out whether the device of `path` can be polled for completions. It does so once per thread and device, by
/// reading from the first file opened there, and an empty file leads it to a yes that fails every later operation.
/// So that first file is one with content and without a name. `Unsupported` where such a file cannot be made.
async fn learn_device(path: &Path) -> io::Result<()> {
    let dir = match path.parent() {
        Some(dir) if dir != Path::new("") => dir.to_owned(),
        _ => PathBuf::from("."),
    };
    let device = {
        let dir = dir.clone();
        super::blocking(move || std::fs::metadata(dir)).await?.dev()
    };
    if DEVICES.with_borrow(|known| known.contains(&device)) {
        return Ok(());
    }
    let unsupported = |e: io::Error| io::Error::new(io::ErrorKind::Unsupported, e);
    let made = super::blocking(move || nameless_file(&dir)).await;
    let file = made.map_err(unsupported)?;
    let name = format!("/proc/self/fd/{}", file.as_raw_fd());
    let opened = CatchUnwind::new(async move { DmaFile::open(name).await }).await;
    match opened {
        Ok(Ok(probe)) => probe.close().await?,
        Ok(Err(e)) => return Err(unsupported(e.into())),
        Err(message) => return Err(unsupported(io::Error::other(message))),
    }
    DEVICES.with_borrow_mut(|known| known.insert(device));
    Ok(())
}

/// A block of content on disk, in a file that is gone once it is closed.
fn nameless_file(dir: &Path) -> io::Result<std::fs::File> {
    let mut options = std::fs::OpenOptions::new();
    options
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_TMPFILE);
    let file = options.open(dir)?;
    file.write_all_at(&[1; BLOCK_BYTES], 0)?;
    file.sync_data()?;
    Ok(file)
}
