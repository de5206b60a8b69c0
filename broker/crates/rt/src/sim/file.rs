//! File operations as a task of a simulation makes them: with latency, faults, and no return once the power is out.

use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::rc::Rc;

use super::content::Change;
use super::disk::{Disk, DiskOp, FileNode, NodeId};
use super::exec::{self, SimSleep, World};
use super::rng;
use crate::buf::BLOCK_BYTES;
use crate::fs::{OpenMode, Space};
use crate::time::Instant;

/// An open file of the simulated disk.
#[derive(Clone)]
pub(crate) struct SimFile {
    disk: Rc<RefCell<Disk>>,
    node: NodeId,
    generation: u64,
    path: Rc<str>,
    writable: bool,
}

impl std::fmt::Debug for SimFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimFile({})", self.path)
    }
}

/// One step of the disk; does not return when the power goes or is out.
async fn disk_step(world: &World) {
    if !world.count_disk_step() {
        std::future::pending::<()>().await;
    }
}

/// The time that `op` takes, and the fault planned for it.
async fn take_time(world: &Rc<World>, op: DiskOp, path: &str) -> io::Result<()> {
    let latency = world.disk.borrow().latency(op, &mut world.rng.borrow_mut());
    world.note(rng::hash(path.as_bytes()) ^ op as u64);
    SimSleep::until(Instant::now() + latency).await;
    if world.power_out.get() {
        std::future::pending::<()>().await;
    }
    world.disk.borrow_mut().fault(op, path)
}

/// An operation that changes the disk: begins, takes its time, has its effect.
async fn change<T>(
    op: DiskOp,
    path: &Path,
    effect: impl FnOnce(&mut Disk) -> io::Result<T>,
) -> io::Result<T> {
    let world = exec::current();
    disk_step(&world).await;
    take_time(&world, op, &path.to_string_lossy()).await?;
    let result = effect(&mut world.disk.borrow_mut());
    disk_step(&world).await;
    result
}

/// A write that has begun. When its task goes away, the disk finishes it all the same, unless the power is out.
struct InFlight {
    world: Rc<World>,
    node: NodeId,
    number: u64,
    finished: bool,
}

impl InFlight {
    fn end(&mut self, effect: impl FnOnce(&mut FileNode, u64)) {
        self.finished = true;
        if let Ok(file) = self.world.disk.borrow_mut().file_mut(self.node) {
            effect(file, self.number);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if !self.finished && !self.world.power_out.get() {
            self.end(FileNode::finish_write);
        }
    }
}

impl SimFile {
    pub(crate) async fn open(path: &Path, mode: OpenMode) -> io::Result<SimFile> {
        let world = exec::current();
        let node = change(DiskOp::Open, path, |disk| match (disk.lookup(path), mode) {
            (Ok(_), OpenMode::CreateNew) => Err(io::ErrorKind::AlreadyExists.into()),
            (Ok(id), _) => disk.file(id).map(|_| id),
            (Err(e), OpenMode::CreateNew | OpenMode::CreateOrOpen)
                if e.kind() == io::ErrorKind::NotFound =>
            {
                disk.create_file(path)
            }
            (Err(e), _) => Err(e),
        })
        .await?;
        Ok(SimFile {
            disk: world.disk.clone(),
            node,
            generation: world.disk.borrow().generation,
            path: path.to_string_lossy().into(),
            writable: mode != OpenMode::Read,
        })
    }

    fn check(&self, writes: Writes) -> io::Result<()> {
        if self.disk.borrow().generation != self.generation {
            return Err(io::Error::other("this handle is from before the crash"));
        }
        match writes {
            Writes::Yes if !self.writable => Err(io::ErrorKind::PermissionDenied.into()),
            _ => Ok(()),
        }
    }

    /// What direct I/O demands of places and lengths.
    pub(crate) fn check_aligned(position: u64, len: usize) -> io::Result<()> {
        if position.is_multiple_of(BLOCK_BYTES as u64) && len.is_multiple_of(BLOCK_BYTES) {
            return Ok(());
        }
        Err(io::Error::from_raw_os_error(libc::EINVAL))
    }

    pub(crate) async fn write_at(&self, data: &[u8], position: u64) -> io::Result<()> {
        self.check(Writes::Yes)?;
        let world = exec::current();
        world.note(rng::hash(data) ^ position);
        let mut write = self.begin_write(&world, data, position)?;
        disk_step(&world).await;
        if let Err(e) = take_time(&world, DiskOp::Write, &self.path).await {
            write.end(|file, number| file.fail_write(number, &mut world.rng.borrow_mut()));
            return Err(e);
        }
        write.end(FileNode::finish_write);
        disk_step(&world).await;
        Ok(())
    }

    fn begin_write(&self, world: &Rc<World>, data: &[u8], position: u64) -> io::Result<InFlight> {
        let mut disk = self.disk.borrow_mut();
        disk.allocate(self.node, position + data.len() as u64)?;
        let number = disk.number();
        let change = Change::Write {
            position,
            data: data.into(),
        };
        disk.file_mut(self.node)?.begin_write(number, change);
        Ok(InFlight {
            world: world.clone(),
            node: self.node,
            number,
            finished: false,
        })
    }

    pub(crate) async fn read_at(&self, position: u64, len: usize) -> io::Result<Vec<u8>> {
        self.check(Writes::No)?;
        let world = exec::current();
        take_time(&world, DiskOp::Read, &self.path).await?;
        Ok(self
            .disk
            .borrow()
            .file(self.node)?
            .visible
            .read(position, len))
    }

    pub(crate) async fn sync_data(&self) -> io::Result<()> {
        self.check(Writes::No)?;
        let world = exec::current();
        let point = self.disk.borrow().file(self.node)?.sync_point();
        disk_step(&world).await;
        if let Err(e) = take_time(&world, DiskOp::Sync, &self.path).await {
            let mut disk = self.disk.borrow_mut();
            disk.file_mut(self.node)?
                .fail_sync(point, &mut world.rng.borrow_mut());
            return Err(e);
        }
        self.disk
            .borrow_mut()
            .file_mut(self.node)?
            .finish_sync(point);
        disk_step(&world).await;
        Ok(())
    }

    pub(crate) async fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.check(Writes::Yes)?;
        change(DiskOp::SetLen, self.path.as_ref().as_ref(), |disk| {
            disk.shrink(self.node, bytes)?;
            disk.file_mut(self.node)?.finish(Change::SetLen(bytes));
            Ok(())
        })
        .await
    }

    /// Takes room for `bytes` and makes the file at least that long.
    pub(crate) async fn preallocate(&self, bytes: u64) -> io::Result<()> {
        self.check(Writes::Yes)?;
        change(DiskOp::SetLen, self.path.as_ref().as_ref(), |disk| {
            disk.allocate(self.node, bytes)?;
            let file = disk.file_mut(self.node)?;
            let len = bytes.max(file.visible.len());
            file.finish(Change::SetLen(len));
            Ok(())
        })
        .await
    }

    pub(crate) fn next_data(&self, position: u64) -> io::Result<Option<u64>> {
        self.check(Writes::No)?;
        let disk = self.disk.borrow();
        Ok(disk.file(self.node)?.visible.next_data(position))
    }

    pub(crate) fn len(&self) -> io::Result<u64> {
        self.check(Writes::No)?;
        Ok(self.disk.borrow().file(self.node)?.visible.len())
    }
}

#[derive(Clone, Copy)]
enum Writes {
    Yes,
    No,
}

pub(crate) async fn create_dir_all(path: &Path) -> io::Result<()> {
    change(DiskOp::Names, path, |disk| disk.create_dir_all(path)).await
}

pub(crate) async fn remove_file(path: &Path) -> io::Result<()> {
    change(DiskOp::Names, path, |disk| disk.remove_file(path)).await
}

pub(crate) async fn remove_dir_all(path: &Path) -> io::Result<()> {
    change(DiskOp::Names, path, |disk| disk.remove_dir_all(path)).await
}

pub(crate) async fn rename(from: &Path, to: &Path) -> io::Result<()> {
    change(DiskOp::Names, from, |disk| disk.rename(from, to)).await
}

/// Whether a directory could be opened now.
pub(crate) fn open_dir(path: &Path) -> io::Result<()> {
    let world = exec::current();
    let mut disk = world.disk.borrow_mut();
    disk.fault(DiskOp::Open, &format!("{}/", path.display()))
}

/// Names changed while the sync runs may become durable too, as on a real disk.
pub(crate) async fn sync_dir(path: &Path) -> io::Result<()> {
    change(DiskOp::SyncDir, path, |disk| {
        let dir = disk.lookup(path)?;
        disk.list_dir(path)?;
        disk.sync_dir(dir);
        Ok(())
    })
    .await
}

pub(crate) async fn exists(path: &Path) -> io::Result<bool> {
    let world = exec::current();
    take_time(&world, DiskOp::Names, &path.to_string_lossy()).await?;
    match world.disk.borrow().lookup(path) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

pub(crate) async fn list_dir(path: &Path) -> io::Result<Vec<String>> {
    let world = exec::current();
    take_time(&world, DiskOp::Names, &path.to_string_lossy()).await?;
    world.disk.borrow().list_dir(path)
}

pub(crate) async fn read(path: &Path) -> io::Result<Vec<u8>> {
    let world = exec::current();
    take_time(&world, DiskOp::Read, &path.to_string_lossy()).await?;
    let disk = world.disk.borrow();
    Ok(disk.file(disk.lookup(path)?)?.visible.all())
}

pub(crate) async fn space(path: &Path) -> io::Result<Space> {
    let world = exec::current();
    take_time(&world, DiskOp::Names, &path.to_string_lossy()).await?;
    let disk = world.disk.borrow();
    disk.lookup(path)?;
    Ok(disk.space())
}
