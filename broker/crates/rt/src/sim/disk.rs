//! The simulated disk: a tree of files and directories, each with what is visible and what a crash would leave.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use super::content::{Change, Content};
use super::rng::{self, Rng};
use crate::fs::Space;

pub(crate) type NodeId = u64;

const ROOT: NodeId = 0;

/// Kinds of disk operations, for [`SimDisk::fail_next`] and [`SimDisk::set_latency`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DiskOp {
    /// Opening or making a file.
    Open,
    /// Reading a file.
    Read,
    /// Writing to a file.
    Write,
    /// `sync_data` of a file.
    Sync,
    /// `set_len` or `preallocate` of a file.
    SetLen,
    /// Making, renaming, removing, listing names.
    Names,
    /// `sync_dir`.
    SyncDir,
}

#[derive(Debug, Default)]
pub(crate) struct FileNode {
    pub(crate) visible: Content,
    durable: Content,
    /// Finished and not synced, oldest first.
    unsynced: Vec<Change>,
    /// Number of the first entry of `unsynced` since the file was made.
    unsynced_from: u64,
    in_flight: BTreeMap<u64, Change>,
    allocated: u64,
}

impl FileNode {
    /// Takes effect for readers; durable after a sync that begins later.
    pub(crate) fn finish(&mut self, change: Change) {
        change.apply(&mut self.visible);
        self.unsynced.push(change);
    }

    pub(crate) fn begin_write(&mut self, number: u64, change: Change) {
        self.in_flight.insert(number, change);
    }

    pub(crate) fn finish_write(&mut self, number: u64) {
        if let Some(change) = self.in_flight.remove(&number) {
            self.finish(change);
        }
    }

    /// A write failed: some of it may have arrived.
    pub(crate) fn fail_write(&mut self, number: u64, rng: &mut Rng) {
        if let Some(change) = self.in_flight.remove(&number) {
            let mut visible = std::mem::take(&mut self.visible);
            change.settle(&mut visible, &mut rng.clone());
            self.visible = visible;
            change.settle(&mut self.durable, rng);
        }
    }

    /// What a sync that begins now covers.
    pub(crate) fn sync_point(&self) -> u64 {
        self.unsynced_from + self.unsynced.len() as u64
    }

    pub(crate) fn finish_sync(&mut self, point: u64) {
        for change in self.take_covered(point) {
            change.apply(&mut self.durable);
        }
    }

    /// As Linux does: pages whose writing failed count as clean, and no later sync writes them.
    pub(crate) fn fail_sync(&mut self, point: u64, rng: &mut Rng) {
        for change in self.take_covered(point) {
            change.settle(&mut self.durable, rng);
        }
    }

    fn take_covered(&mut self, point: u64) -> Vec<Change> {
        let count = point.saturating_sub(self.unsynced_from) as usize;
        self.unsynced_from += count as u64;
        self.unsynced.drain(..count).collect()
    }

    fn crash(&mut self, rng: &mut Rng) {
        let in_flight = std::mem::take(&mut self.in_flight).into_values();
        for change in self.unsynced.drain(..).chain(in_flight) {
            change.settle(&mut self.durable, rng);
        }
        self.unsynced_from = 0;
        self.visible = self.durable.clone();
        self.allocated = self.allocated.min(self.visible.len());
    }
}

#[derive(Debug, Default)]
struct DirNode {
    visible: BTreeMap<String, NodeId>,
    durable: BTreeMap<String, NodeId>,
}

#[derive(Debug)]
enum Node {
    File(FileNode),
    Dir(DirNode),
}

/// One change of names that a crash keeps or loses whole: what each name means after it.
#[derive(Debug)]
struct NameChange(Vec<(NodeId, String, Option<NodeId>)>);

#[derive(Debug)]
struct Fault {
    op: DiskOp,
    path_part: String,
    times: u32,
    kind: io::ErrorKind,
}

#[derive(Debug)]
pub(crate) struct Disk {
    nodes: BTreeMap<NodeId, Node>,
    names: Vec<NameChange>,
    next: u64,
    /// Rises when the process dies; handles of before are void.
    pub(crate) generation: u64,
    capacity: Option<u64>,
    faults: Vec<Fault>,
    latency: BTreeMap<DiskOp, (Duration, Duration)>,
}

impl Disk {
    pub(crate) fn new() -> Disk {
        let us = Duration::from_micros;
        let latency = [
            (DiskOp::Open, (us(5), us(100))),
            (DiskOp::Read, (us(5), us(300))),
            (DiskOp::Write, (us(5), us(500))),
            (DiskOp::Sync, (us(50), us(3000))),
            (DiskOp::SetLen, (us(5), us(100))),
            (DiskOp::Names, (us(5), us(100))),
            (DiskOp::SyncDir, (us(50), us(3000))),
        ];
        Disk {
            nodes: BTreeMap::from([(ROOT, Node::Dir(DirNode::default()))]),
            names: Vec::new(),
            next: ROOT + 1,
            generation: 0,
            capacity: None,
            faults: Vec::new(),
            latency: BTreeMap::from(latency),
        }
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    pub(crate) fn latency(&self, op: DiskOp, rng: &mut Rng) -> Duration {
        let (from, to) = self.latency.get(&op).copied().unwrap_or_default();
        let spread = to.saturating_sub(from).as_nanos() as u64;
        from + Duration::from_nanos(rng.below(spread + 1))
    }

    /// The fault planned for this operation, if there is one; it is used up.
    pub(crate) fn fault(&mut self, op: DiskOp, path: &str) -> io::Result<()> {
        let hit = |f: &Fault| f.op == op && f.times > 0 && path.contains(&f.path_part);
        let Some(fault) = self.faults.iter_mut().find(|f| hit(f)) else {
            return Ok(());
        };
        fault.times -= 1;
        let kind = fault.kind;
        self.faults.retain(|f| f.times > 0);
        Err(io::Error::new(
            kind,
            format!("simulated fault: {op:?} of {path}"),
        ))
    }

    /// Takes room on the disk for a file that is to hold `end` bytes.
    pub(crate) fn allocate(&mut self, id: NodeId, end: u64) -> io::Result<()> {
        let used = self.used();
        let capacity = self.capacity.unwrap_or(u64::MAX);
        let file = self.file_mut(id)?;
        let more = end.saturating_sub(file.allocated);
        if more > 0 && used.saturating_add(more) > capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        file.allocated += more;
        Ok(())
    }

    pub(crate) fn shrink(&mut self, id: NodeId, len: u64) -> io::Result<()> {
        let file = self.file_mut(id)?;
        file.allocated = file.allocated.min(len);
        Ok(())
    }

    pub(crate) fn space(&self) -> Space {
        let bytes = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let capacity = self.capacity.unwrap_or(u64::MAX);
        Space {
            total_bytes: bytes(capacity),
            usable_bytes: bytes(capacity.saturating_sub(self.used())),
        }
    }

    fn used(&self) -> u64 {
        let mut total = 0;
        self.walk(&mut |_, id| {
            if let Some(Node::File(f)) = self.nodes.get(&id) {
                total += f.allocated;
            }
        });
        total
    }

    pub(crate) fn file(&self, id: NodeId) -> io::Result<&FileNode> {
        match self.nodes.get(&id) {
            Some(Node::File(f)) => Ok(f),
            Some(Node::Dir(_)) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(crate) fn file_mut(&mut self, id: NodeId) -> io::Result<&mut FileNode> {
        match self.nodes.get_mut(&id) {
            Some(Node::File(f)) => Ok(f),
            Some(Node::Dir(_)) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn dir(&self, id: NodeId) -> io::Result<&DirNode> {
        match self.nodes.get(&id) {
            Some(Node::Dir(d)) => Ok(d),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn dir_mut(&mut self, id: NodeId) -> &mut DirNode {
        match self.nodes.get_mut(&id) {
            Some(Node::Dir(d)) => d,
            _ => {
                unreachable!("names are changed in directories only, and nodes stay until a crash")
            }
        }
    }

    pub(crate) fn lookup(&self, path: &Path) -> io::Result<NodeId> {
        let mut id = ROOT;
        for name in parts(path) {
            id = *self
                .dir(id)?
                .visible
                .get(&name)
                .ok_or(io::ErrorKind::NotFound)?;
        }
        Ok(id)
    }

    /// The directory that `path` lies in, and its name there.
    fn place(&self, path: &Path) -> io::Result<(NodeId, String)> {
        let mut names = parts(path);
        let name = names.pop().ok_or(io::ErrorKind::InvalidInput)?;
        let dir = self.lookup(&names.iter().collect::<PathBuf>())?;
        self.dir(dir)?;
        Ok((dir, name))
    }

    fn change_names(&mut self, change: NameChange) {
        for (dir, name, to) in &change.0 {
            let names = &mut self.dir_mut(*dir).visible;
            match to {
                Some(id) => names.insert(name.clone(), *id),
                None => names.remove(name),
            };
        }
        self.names.push(change);
    }

    fn add(&mut self, dir: NodeId, name: String, node: Node) -> NodeId {
        let id = self.number();
        self.nodes.insert(id, node);
        self.change_names(NameChange(vec![(dir, name, Some(id))]));
        id
    }

    pub(crate) fn create_file(&mut self, path: &Path) -> io::Result<NodeId> {
        let (dir, name) = self.place(path)?;
        Ok(self.add(dir, name, Node::File(FileNode::default())))
    }

    pub(crate) fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        let mut id = ROOT;
        for name in parts(path) {
            let found = self.dir(id)?.visible.get(&name).copied();
            id = found.unwrap_or_else(|| self.add(id, name, Node::Dir(DirNode::default())));
        }
        self.dir(id).map(|_| ())
    }

    pub(crate) fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        self.file(self.lookup(path)?)?;
        let (dir, name) = self.place(path)?;
        self.change_names(NameChange(vec![(dir, name, None)]));
        Ok(())
    }

    /// Removes what lies below name by name, as the operating system would, then the directory.
    pub(crate) fn remove_dir_all(&mut self, path: &Path) -> io::Result<()> {
        let id = self.lookup(path)?;
        let (dir, name) = self.place(path)?;
        self.empty_dir(id)?;
        self.change_names(NameChange(vec![(dir, name, None)]));
        Ok(())
    }

    fn empty_dir(&mut self, id: NodeId) -> io::Result<()> {
        for (name, child) in self.dir(id)?.visible.clone() {
            if matches!(self.nodes.get(&child), Some(Node::Dir(_))) {
                self.empty_dir(child)?;
            }
            self.change_names(NameChange(vec![(id, name, None)]));
        }
        Ok(())
    }

    pub(crate) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let id = self.lookup(from)?;
        let (from_dir, from_name) = self.place(from)?;
        let (to_dir, to_name) = self.place(to)?;
        if (from_dir, &from_name) == (to_dir, &to_name) {
            return Ok(());
        }
        let removed = (from_dir, from_name, None);
        let made = (to_dir, to_name, Some(id));
        self.change_names(NameChange(vec![removed, made]));
        Ok(())
    }

    pub(crate) fn list_dir(&self, path: &Path) -> io::Result<Vec<String>> {
        let dir = self.dir(self.lookup(path)?)?;
        Ok(dir.visible.keys().cloned().collect())
    }

    /// Makes the names in `dir` durable. A rename out of or into it counts whole, in both directories.
    pub(crate) fn sync_dir(&mut self, dir: NodeId) {
        let mut settled = BTreeSet::new();
        let mut rest = Vec::new();
        let mut synced = Vec::new();
        for change in std::mem::take(&mut self.names).into_iter().rev() {
            if change.0.iter().any(|(d, _, _)| *d == dir) {
                settled.extend(change.0.iter().map(|(d, n, _)| (*d, n.clone())));
                synced.push(change);
                continue;
            }
            // An older change of a name that a synced change has settled must not come back.
            let mut change = change;
            change
                .0
                .retain(|(d, n, _)| !settled.contains(&(*d, n.clone())));
            rest.push(change);
        }
        rest.reverse();
        self.names = rest;
        synced.into_iter().rev().for_each(|c| self.make_durable(c));
    }

    fn make_durable(&mut self, change: NameChange) {
        for (dir, name, to) in change.0 {
            let names = &mut self.dir_mut(dir).durable;
            match to {
                Some(id) => names.insert(name, id),
                None => names.remove(&name),
            };
        }
    }

    /// The power is gone and back.
    pub(crate) fn crash(&mut self, rng: &mut Rng) {
        for change in std::mem::take(&mut self.names) {
            if rng.coin() {
                self.make_durable(change);
            }
        }
        for node in self.nodes.values_mut() {
            match node {
                Node::File(f) => f.crash(rng),
                Node::Dir(d) => d.visible = d.durable.clone(),
            }
        }
        let mut reachable = BTreeSet::from([ROOT]);
        self.walk(&mut |_, id| {
            reachable.insert(id);
        });
        self.nodes.retain(|id, _| reachable.contains(id));
        self.close_handles();
    }

    pub(crate) fn close_handles(&mut self) {
        self.generation += 1;
    }

    /// Visits everything below the root, directories first, names in order.
    fn walk(&self, visit: &mut dyn FnMut(&Path, NodeId)) {
        self.walk_from(Path::new("/"), ROOT, visit);
    }

    fn walk_from(&self, path: &Path, id: NodeId, visit: &mut dyn FnMut(&Path, NodeId)) {
        let Ok(dir) = self.dir(id) else { return };
        for (name, child) in &dir.visible {
            let path = path.join(name);
            visit(&path, *child);
            self.walk_from(&path, *child, visit);
        }
    }
}

/// The names that `path` goes through, from the root; `.` and `..` resolved.
fn parts(path: &Path) -> Vec<String> {
    let mut out = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name.to_string_lossy().into_owned()),
            Component::ParentDir => drop(out.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    out
}

/// A test's hand on the disk of a [`super::Sim`]: works outside and inside the simulation, at once and without latency.
#[derive(Debug, Clone)]
pub struct SimDisk(Rc<RefCell<Disk>>);

impl SimDisk {
    pub(crate) fn new(disk: Rc<RefCell<Disk>>) -> SimDisk {
        SimDisk(disk)
    }

    /// Every file, sorted, as a reader would see them now.
    pub fn files(&self) -> Vec<PathBuf> {
        let disk = self.0.borrow();
        let mut out = Vec::new();
        disk.walk(&mut |path, id| {
            if disk.file(id).is_ok() {
                out.push(path.to_owned());
            }
        });
        out.sort();
        out
    }

    /// The whole content of a file, as a reader would see it now.
    ///
    /// # Errors
    /// `NotFound`, `IsADirectory`.
    pub fn read(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        let disk = self.0.borrow();
        Ok(disk.file(disk.lookup(path.as_ref())?)?.visible.all())
    }

    /// Puts a file there, durably, with its directories, replacing what stood there.
    ///
    /// # Errors
    /// `NotADirectory`, `IsADirectory`.
    pub fn put(&self, path: impl AsRef<Path>, content: &[u8]) -> io::Result<()> {
        let mut disk = self.0.borrow_mut();
        let path = path.as_ref();
        if let Some(parent) = path.parent() {
            disk.create_dir_all(parent)?;
        }
        let id = match disk.lookup(path) {
            Ok(id) => id,
            Err(_) => disk.create_file(path)?,
        };
        let file = disk.file_mut(id)?;
        file.finish(Change::SetLen(0));
        file.finish(Change::Write {
            position: 0,
            data: content.into(),
        });
        file.finish_sync(file.sync_point());
        file.allocated = content.len() as u64;
        for dir in path.ancestors().skip(1) {
            let dir = disk.lookup(dir)?;
            disk.sync_dir(dir);
        }
        Ok(())
    }

    /// Inverts `count` bytes of a file at byte `position`, for readers and for what a crash leaves: a disk that forgets.
    /// Writes still waiting for their sync are not touched.
    ///
    /// # Errors
    /// `NotFound`; `InvalidInput` when the file ends before.
    pub fn flip_bytes(
        &self,
        path: impl AsRef<Path>,
        position: u64,
        count: usize,
    ) -> io::Result<()> {
        let mut disk = self.0.borrow_mut();
        let id = disk.lookup(path.as_ref())?;
        let file = disk.file_mut(id)?;
        if position + count as u64 > file.visible.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for content in [&mut file.visible, &mut file.durable] {
            let flipped: Vec<u8> = content.read(position, count).iter().map(|b| !b).collect();
            if !flipped.is_empty() {
                content.write(position, &flipped);
            }
        }
        Ok(())
    }

    /// Lets the next `times` operations of kind `op` on paths that contain `path_part` fail with `kind`. A failed write may have
    /// written a part. A failed sync leaves what it covered kept, lost or torn, and, as on Linux, no later sync repairs that.
    pub fn fail_next(&self, op: DiskOp, path_part: &str, times: u32, kind: io::ErrorKind) {
        self.0.borrow_mut().faults.push(Fault {
            op,
            path_part: path_part.to_owned(),
            times,
            kind,
        });
    }

    /// Forgets every fault planned by [`SimDisk::fail_next`].
    pub fn heal(&self) {
        self.0.borrow_mut().faults.clear();
    }

    /// Sets how many bytes fit on the disk; `None` for no limit. Writes and `preallocate` beyond fail with `StorageFull`.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.0.borrow_mut().capacity = bytes;
    }

    /// Bytes taken by files that have a name: written or preallocated. Holes made by `set_len` are free.
    pub fn used(&self) -> u64 {
        self.0.borrow().used()
    }

    /// Sets how long operations of kind `op` take in virtual time: each a random time from `from` to `to`.
    pub fn set_latency(&self, op: DiskOp, from: Duration, to: Duration) {
        self.0.borrow_mut().latency.insert(op, (from, to));
    }

    /// A number that depends on every name and every byte a reader could see.
    pub fn digest(&self) -> u64 {
        let disk = self.0.borrow();
        let mut digest = 0;
        disk.walk(&mut |path, id| {
            let content = disk.file(id).map_or(1, |f| f.visible.hash());
            digest = rng::mix(digest ^ rng::hash(path.to_string_lossy().as_bytes()) ^ content);
        });
        digest
    }
}
