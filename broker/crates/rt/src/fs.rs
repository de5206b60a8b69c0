//! Files and directories.
//!
//! [`DirectFile`] is for the write-ahead log: aligned, past the page cache. [`File`] is for everything else:
//! any position, through the page cache, on a helper thread. Neither calls back before the kernel (or the
//! simulated disk) is done, and nothing is durable before `sync_data` said so; a *name* is durable after
//! [`sync_dir`] on its directory.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::buf::AlignedBuf;
use crate::context::{self, EngineKind};
use crate::gather::GatherFile;
use crate::{sim, task, time, writer};

/// Pause before a directory that could not be opened is tried again.
const OPEN_AGAIN: Duration = Duration::from_millis(100);

/// Whether the system says that there is no room, on the disk or within the user's quota.
pub fn is_full(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Whether the system is short of something that may come back by itself, so that the same can work later: room, descriptors of
/// this process or of the machine, memory. To be asked of everything but a failed sync (rule S10).
pub fn is_shortage(e: &io::Error) -> bool {
    let of_handles = matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
    is_full(e) || of_handles || e.kind() == io::ErrorKind::OutOfMemory
}

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// It must exist; reads only.
    Read,
    /// It must exist; reads and writes.
    ReadWrite,
    /// It must not exist; it is made, for reads and writes.
    CreateNew,
    /// It is made if it does not exist; reads and writes; its content stays.
    CreateOrOpen,
}

impl OpenMode {
    /// The mode to try again with after an open that may already have made the file.
    fn after_refusal(self) -> OpenMode {
        match self {
            OpenMode::CreateNew => OpenMode::CreateOrOpen,
            other => other,
        }
    }

    pub(crate) fn options(self) -> std::fs::OpenOptions {
        let mut o = std::fs::OpenOptions::new();
        o.read(true).write(self != OpenMode::Read);
        match self {
            OpenMode::CreateNew => o.create_new(true),
            OpenMode::CreateOrOpen => o.create(true).truncate(false),
            OpenMode::Read | OpenMode::ReadWrite => &mut o,
        };
        o
    }
}

#[derive(Debug, Clone)]
enum FileInner {
    Std(Arc<GatherFile>),
    Sim(sim::SimFile),
}

/// A file read and written at any position, through the page cache as a rule.
#[derive(Debug, Clone)]
pub struct File(FileInner);

impl File {
    /// Opens `path`.
    ///
    /// # Errors
    /// As the operating system says.
    pub async fn open(path: &Path, mode: OpenMode) -> io::Result<File> {
        if context::current() == EngineKind::Sim {
            return Ok(File(FileInner::Sim(sim::SimFile::open(path, mode).await?)));
        }
        let path = path.to_owned();
        let file = task::blocking(move || mode.options().open(path)).await?;
        Ok(File(FileInner::Std(Arc::new(GatherFile::new(file)))))
    }

    /// Writes all of `parts`, one after the other, at byte `position`; much at once goes past the page cache, where that can be.
    ///
    /// # Errors
    /// As the operating system says; the file may then hold any part of the data.
    pub async fn write_all_at(&self, parts: Vec<bytes::Bytes>, position: u64) -> io::Result<()> {
        match &self.0 {
            FileInner::Sim(f) => {
                let whole = parts.concat();
                f.write_at(&whole, position).await
            }
            FileInner::Std(f) => {
                let f = f.clone();
                task::blocking(move || f.write_all_at(&parts, position)).await
            }
        }
    }

    /// Reads up to `len` bytes at byte `position`; fewer at the end of the file.
    ///
    /// # Errors
    /// As the operating system says.
    pub async fn read_at(&self, position: u64, len: usize) -> io::Result<Vec<u8>> {
        match &self.0 {
            FileInner::Sim(f) => f.read_at(position, len).await,
            FileInner::Std(f) => {
                let f = f.clone();
                task::blocking(move || read_up_to(f.std(), position, len)).await
            }
        }
    }

    /// Makes everything written so far durable (`fdatasync`).
    ///
    /// # Errors
    /// As the operating system says. After an error nothing written since the last success may be taken for durable:
    /// the caller ends the process (rule S10).
    pub async fn sync_data(&self) -> io::Result<()> {
        match &self.0 {
            FileInner::Sim(f) => f.sync_data().await,
            FileInner::Std(f) => {
                let f = f.clone();
                task::blocking(move || f.std().sync_data()).await
            }
        }
    }

    /// Cuts or extends (with zeros) the file to `bytes`.
    ///
    /// # Errors
    /// As the operating system says.
    pub async fn set_len(&self, bytes: u64) -> io::Result<()> {
        match &self.0 {
            FileInner::Sim(f) => f.set_len(bytes).await,
            FileInner::Std(f) => {
                let f = f.clone();
                task::blocking(move || f.std().set_len(bytes)).await
            }
        }
    }

    /// Length in bytes.
    ///
    /// # Errors
    /// As the operating system says.
    pub async fn len(&self) -> io::Result<u64> {
        match &self.0 {
            FileInner::Sim(f) => f.len(),
            FileInner::Std(f) => {
                let f = f.clone();
                task::blocking(move || f.std().metadata().map(|m| m.len())).await
            }
        }
    }
}

fn read_up_to(f: &std::fs::File, position: u64, len: usize) -> io::Result<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let mut buf = vec![0; len];
    let mut done = 0;
    while done < len {
        match f.read_at(&mut buf[done..], position + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    buf.truncate(done);
    Ok(buf)
}

#[derive(Debug)]
enum DirectInner {
    Uring(crate::uring::UringFile),
    Std(Arc<std::fs::File>),
    Sim(sim::SimFile),
}

/// When the writes of a [`DirectFile`] are durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durable {
    /// Once `sync_data` says so.
    WhenSynced,
    /// When they return (`O_DSYNC`). Measured against a sync after each write: a seventh less time and less than half of the
    /// context switches, because it is one request to the kernel and needs no thread of io_uring's.
    WhenWritten,
}

impl Durable {
    /// The flag for open(2).
    pub(crate) fn flag(self) -> i32 {
        match self {
            Durable::WhenSynced => 0,
            Durable::WhenWritten => libc::O_DSYNC,
        }
    }
}

/// A file written and read in whole blocks past the page cache (where the file system allows it).
#[derive(Debug)]
pub struct DirectFile {
    inner: DirectInner,
    durable: Durable,
}

impl DirectFile {
    /// Opens `path`.
    ///
    /// # Errors
    /// As the operating system says.
    pub async fn open(path: &Path, mode: OpenMode, durable: Durable) -> io::Result<DirectFile> {
        let inner = match context::current() {
            EngineKind::Sim => DirectInner::Sim(sim::SimFile::open(path, mode).await?),
            EngineKind::Uring => {
                match crate::uring::UringFile::open(path, mode, durable).await {
                    Ok(f) => DirectInner::Uring(f),
                    // No direct I/O on this file system. With CreateNew the refused open has made the name.
                    Err(e) if refuses_direct(&e) => {
                        Self::open_std(path, mode.after_refusal(), durable).await?
                    }
                    Err(e) => return Err(e),
                }
            }
            EngineKind::Epoll => Self::open_std(path, mode, durable).await?,
        };
        Ok(DirectFile { inner, durable })
    }

    async fn open_std(path: &Path, mode: OpenMode, durable: Durable) -> io::Result<DirectInner> {
        let path = path.to_owned();
        let f = task::blocking(move || open_direct(&path, mode, durable)).await?;
        Ok(DirectInner::Std(Arc::new(f)))
    }

    /// A buffer of `bytes` rounded up to whole blocks, of unspecified content, for this file.
    pub fn alloc(&self, bytes: usize) -> AlignedBuf {
        match &self.inner {
            DirectInner::Uring(f) => f.alloc(bytes),
            DirectInner::Std(_) | DirectInner::Sim(_) => AlignedBuf::zeroed(bytes),
        }
    }

    /// Writes all of `buf` at byte `position`, a multiple of the block size. On `epoll` the writes of files whose writes are durable
    /// have a thread of their own, so that no read keeps them waiting.
    ///
    /// # Errors
    /// As the operating system says; the file may then hold any part of the data. Of a file whose writes are durable
    /// ([`Durable::WhenWritten`]) an error may be one of a sync: see [`File::sync_data`].
    pub async fn write_at(&self, buf: AlignedBuf, position: u64) -> io::Result<()> {
        match &self.inner {
            DirectInner::Uring(f) => f.write_at(buf, position).await,
            DirectInner::Sim(f) => {
                sim::SimFile::check_aligned(position, buf.len())?;
                f.write_at(&buf, position).await?;
                match self.durable {
                    Durable::WhenWritten => f.sync_data().await,
                    Durable::WhenSynced => Ok(()),
                }
            }
            DirectInner::Std(f) => {
                let f = f.clone();
                let write = move || std::os::unix::fs::FileExt::write_all_at(&*f, &buf, position);
                match (context::current(), self.durable) {
                    (EngineKind::Epoll, Durable::WhenWritten) => writer::run(write).await,
                    _ => task::blocking(write).await,
                }
            }
        }
    }

    /// Reads up to `len` bytes at byte `position`, both multiples of the block size; fewer at the end of the file.
    ///
    /// # Errors
    /// As the operating system says.
    pub async fn read_at(&self, position: u64, len: usize) -> io::Result<Vec<u8>> {
        match &self.inner {
            DirectInner::Uring(f) => f.read_at(position, len).await,
            DirectInner::Sim(f) => {
                sim::SimFile::check_aligned(position, len)?;
                f.read_at(position, len).await
            }
            DirectInner::Std(f) => {
                let f = f.clone();
                task::blocking(move || read_direct(&f, position, len)).await
            }
        }
    }

    /// Makes everything written so far durable (`fdatasync`). Errors as [`File::sync_data`].
    pub async fn sync_data(&self) -> io::Result<()> {
        match &self.inner {
            DirectInner::Uring(f) => f.sync_data().await,
            DirectInner::Sim(f) => f.sync_data().await,
            DirectInner::Std(f) => {
                let f = f.clone();
                task::blocking(move || f.sync_data()).await
            }
        }
    }

    /// Reserves `bytes` of disk for the file and makes it that long, so that later writes change no metadata.
    ///
    /// # Errors
    /// As the operating system says (`StorageFull` when there is no room).
    pub async fn preallocate(&self, bytes: u64) -> io::Result<()> {
        match &self.inner {
            DirectInner::Uring(f) => f.preallocate(bytes).await,
            DirectInner::Sim(f) => f.preallocate(bytes).await,
            DirectInner::Std(f) => {
                let f = f.clone();
                task::blocking(move || fallocate(&f, bytes)).await
            }
        }
    }

    /// Length in bytes.
    ///
    /// # Errors
    /// As the operating system says.
    pub async fn len(&self) -> io::Result<u64> {
        match &self.inner {
            DirectInner::Uring(f) => f.len().await,
            DirectInner::Sim(f) => f.len(),
            DirectInner::Std(f) => {
                let f = f.clone();
                task::blocking(move || f.metadata().map(|m| m.len())).await
            }
        }
    }

    /// The first byte at or after `position` that may have been written; `None` when there is none to the end. What lies
    /// between reads as zeros. A file system that does not know says `position`. For start-up: on `uring` the shard
    /// waits for the file system's answer, which is in memory as a rule.
    ///
    /// # Errors
    /// As the operating system says.
    pub async fn next_data(&self, position: u64) -> io::Result<Option<u64>> {
        match &self.inner {
            DirectInner::Uring(f) => next_data(f.as_raw_fd(), position),
            DirectInner::Sim(f) => f.next_data(position),
            DirectInner::Std(f) => {
                let f = f.clone();
                task::blocking(move || next_data(f.as_raw_fd(), position)).await
            }
        }
    }

    /// Closes the file; on `uring` a file dropped without this is closed later, by the engine.
    ///
    /// # Errors
    /// As the operating system says.
    pub async fn close(self) -> io::Result<()> {
        match self.inner {
            DirectInner::Uring(f) => f.close().await,
            DirectInner::Sim(_) | DirectInner::Std(_) => Ok(()),
        }
    }
}

fn next_data(fd: RawFd, position: u64) -> io::Result<Option<u64>> {
    let from = libc::off_t::try_from(position).map_err(|_| io::ErrorKind::InvalidInput)?;
    #[allow(unsafe_code, reason = "std does not offer SEEK_DATA")]
    // SAFETY: plain numbers; the descriptor is open as long as its file is borrowed. Nothing here uses the file's own position.
    let found = unsafe { libc::lseek(fd, from, libc::SEEK_DATA) };
    if found >= 0 {
        return Ok(Some(found as u64));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENXIO) => Ok(None),
        Some(libc::EINVAL | libc::EOPNOTSUPP) => Ok(Some(position)),
        _ => Err(error),
    }
}

fn refuses_direct(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
    )
}

/// Opens with `O_DIRECT`, or without it where the file system refuses (tmpfs): slower, as durable.
fn open_direct(path: &Path, mode: OpenMode, durable: Durable) -> io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = libc::O_DIRECT | durable.flag();
    match mode.options().custom_flags(flags).open(path) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
            // With CreateNew the refused open may have made the name.
            let mut options = mode.after_refusal().options();
            options.custom_flags(durable.flag()).open(path)
        }
        other => other,
    }
}

fn read_direct(f: &std::fs::File, position: u64, len: usize) -> io::Result<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let mut buf = AlignedBuf::zeroed(len);
    let mut done = 0;
    while done < len {
        match f.read_at(&mut buf[done..], position + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
        if !done.is_multiple_of(crate::buf::BLOCK_BYTES) {
            break; // a partial block is the end of the file, and direct reads cannot go on from there
        }
    }
    Ok(buf[..done.min(len)].to_vec())
}

fn fallocate(f: &std::fs::File, bytes: u64) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    #[allow(unsafe_code, reason = "posix_fallocate has no safe binding in std")]
    // SAFETY: the descriptor is open for the whole call; fallocate touches no memory of ours.
    let e = unsafe { libc::posix_fallocate(f.as_raw_fd(), 0, bytes as libc::off_t) };
    match e {
        0 => Ok(()),
        libc::EOPNOTSUPP | libc::EINVAL => f.set_len(bytes),
        e => Err(io::Error::from_raw_os_error(e)),
    }
}

/// An exclusive lock on a file, held until dropped or until the process ends in whatever way.
#[derive(Debug)]
pub struct LockFile(#[allow(dead_code, reason = "held for its lock")] Option<std::fs::File>);

/// Locks `path` (made if missing) for this process; `None` when another process holds it.
///
/// # Errors
/// As the operating system says.
pub async fn try_lock(path: &Path) -> io::Result<Option<LockFile>> {
    if context::current() == EngineKind::Sim {
        return Ok(Some(LockFile(None)));
    }
    let path = path.to_owned();
    task::blocking(move || {
        let file = OpenMode::CreateOrOpen.options().open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(LockFile(Some(file)))),
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(e)) => Err(e),
        }
    })
    .await
}

/// Keeps writers away: takes a shared lock on the lock file at `path`, which must be there and is not changed. `None` when
/// somebody has it to himself.
///
/// # Errors
/// As the operating system says; `NotFound` when there is no such file.
pub async fn try_lock_shared(path: &Path) -> io::Result<Option<LockFile>> {
    if context::current() == EngineKind::Sim {
        return Ok(Some(LockFile(None)));
    }
    let path = path.to_owned();
    task::blocking(move || {
        let file = OpenMode::Read.options().open(path)?;
        match file.try_lock_shared() {
            Ok(()) => Ok(Some(LockFile(Some(file)))),
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(e)) => Err(e),
        }
    })
    .await
}

macro_rules! path_op {
    ($(#[$doc:meta])* $name:ident -> $ret:ty, $sim:path, $std:expr) => {
        $(#[$doc])*
        ///
        /// # Errors
        /// As the operating system says.
        pub async fn $name(path: &Path) -> io::Result<$ret> {
            if context::current() == EngineKind::Sim {
                return $sim(path).await;
            }
            let path = path.to_owned();
            task::blocking(move || $std(&path)).await
        }
    };
}

path_op!(
    /// Makes a directory and its parents.
    create_dir_all -> (), sim::create_dir_all, |p: &PathBuf| std::fs::create_dir_all(p)
);
path_op!(
    /// Removes a file.
    remove_file -> (), sim::remove_file, |p: &PathBuf| std::fs::remove_file(p)
);
path_op!(
    /// Removes a directory with everything in it.
    remove_dir_all -> (), sim::remove_dir_all, |p: &PathBuf| std::fs::remove_dir_all(p)
);
path_op!(
    /// Whether something of this name exists.
    exists -> bool, sim::exists, |p: &PathBuf| std::fs::exists(p)
);
path_op!(
    /// The names in a directory, sorted.
    list_dir -> Vec<String>, sim::list_dir, list_std
);
path_op!(
    /// A whole file.
    read -> Vec<u8>, sim::read, |p: &PathBuf| std::fs::read(p)
);

/// Makes the names in a directory durable. While the process is short of descriptors to open it with, it is tried again: nothing was
/// synced before that, so nothing is in doubt.
///
/// # Errors
/// As the operating system says.
pub async fn sync_dir(path: &Path) -> io::Result<()> {
    let mut told = false;
    loop {
        match open_dir(path).await {
            Err(error) if is_shortage(&error) => {
                if !told {
                    tracing::error!(%error, path = %path.display(), "a directory cannot be opened to be synced; trying again");
                }
                told = true;
                time::sleep(OPEN_AGAIN).await;
            }
            Err(e) => return Err(e),
            Ok(None) => return sim::sync_dir(path).await,
            Ok(Some(dir)) => return task::blocking(move || dir.sync_all()).await,
        }
    }
}

/// Opens a directory; `None` under simulation, where they are not opened.
async fn open_dir(path: &Path) -> io::Result<Option<std::fs::File>> {
    if context::current() == EngineKind::Sim {
        return sim::open_dir(path).map(|()| None);
    }
    let path = path.to_owned();
    task::blocking(move || std::fs::File::open(path).map(Some)).await
}

/// Room on a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Its size in bytes.
    pub total_bytes: i64,
    /// What this process may still write, in bytes.
    pub usable_bytes: i64,
}

/// The room on the file system that holds `path`. Under simulation the disk has no end unless it was given one.
///
/// # Errors
/// As the operating system says.
pub async fn space(path: &Path) -> io::Result<Space> {
    if context::current() == EngineKind::Sim {
        return sim::space(path).await;
    }
    let path = path.to_owned();
    task::blocking(move || space_std(&path)).await
}

#[allow(
    unsafe_code,
    reason = "statvfs(3) fills in a structure of the caller; the standard library does not have it"
)]
fn space_std(path: &Path) -> io::Result<Space> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let mut found = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends with a zero byte, and there is room for the answer.
    if unsafe { libc::statvfs(path.as_ptr(), found.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so it has filled the answer in.
    let found = unsafe { found.assume_init() };
    let bytes =
        |blocks: u64| i64::try_from(blocks.saturating_mul(found.f_frsize)).unwrap_or(i64::MAX);
    Ok(Space {
        total_bytes: bytes(found.f_blocks),
        usable_bytes: bytes(found.f_bavail),
    })
}

fn list_std(path: &PathBuf) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Renames a file, replacing what stands at the new name. Durable after [`sync_dir`].
///
/// # Errors
/// As the operating system says.
pub async fn rename(from: &Path, to: &Path) -> io::Result<()> {
    if context::current() == EngineKind::Sim {
        return sim::rename(from, to).await;
    }
    let (from, to) = (from.to_owned(), to.to_owned());
    task::blocking(move || std::fs::rename(from, to)).await
}

async fn write_and_name(tmp: &Path, path: &Path, parts: Vec<bytes::Bytes>) -> io::Result<()> {
    let file = File::open(tmp, OpenMode::CreateOrOpen).await?;
    file.set_len(0).await?;
    file.write_all_at(parts, 0).await?;
    file.sync_data().await?;
    drop(file);
    rename(tmp, path).await
}

/// Replaces the file at `path` with `parts`, durably: after success the new content is there, after a crash the old or
/// the new one, never a mixture. Writes `path` with `.tmp` added, syncs, renames, syncs the directory.
///
/// # Errors
/// As the operating system says.
pub async fn write_atomic(path: &Path, parts: Vec<bytes::Bytes>) -> io::Result<()> {
    let mut tmp = path.as_os_str().to_owned();
    tmp.push(".tmp");
    let tmp = PathBuf::from(tmp);
    if let Err(e) = write_and_name(&tmp, path, parts).await {
        // On a full disk the half-written file would take the room that others need. Gone or not, the error is the same.
        let _ = remove_file(&tmp).await;
        return Err(e);
    }
    match path.parent() {
        Some(dir) => sync_dir(dir).await,
        None => Ok(()),
    }
}
