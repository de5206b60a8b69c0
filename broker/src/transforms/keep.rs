//! Which modules stay on disk: those that a kept version of a transform uses, those that somebody is about to use, and for a while
//! all others.
//!
//! Shard 0 sweeps. A module goes when no shard's image and no deployment under way has named it for `transforms.module_retention`, by
//! the monotonic clock and counted within this life of the process: neither a clock that was set nor the time between an upload and
//! its deploy takes one away that is wanted. Storing, pinning and removing take turns (`module_changes`), so that a deploy finds its
//! module either whole and kept, or not at all.
//!
//! A start needs no module that is not in the image it comes to: applying a deploy of long ago reads no file, and the image is complete
//! before the first sweep.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{Either, select};
use tidemill_rt::fs::{self, File, OpenMode};
use tidemill_rt::task::{self, Queue};
use tidemill_rt::time::{self, Instant};

use super::modules;
use crate::metrics::{Counter, Sample};
use crate::shard::Shard;

/// Modules that one sweep removes at most; the others wait for the next.
const REMOVED_AT_ONCE: usize = 1_000;
/// Sweeps are so many to `transforms.module_retention` ...
const SWEEPS_EACH: u32 = 4;
/// ... and at least this often.
const SWEEP_EVERY_MAX: Duration = Duration::from_secs(300);
/// What a process that was killed may have left of a module it wrote.
const UNFINISHED: &str = ".wasm.tmp";
const SUFFIX: &str = ".wasm";

/// The modules of the node, by hash, and what is about to use them.
#[derive(Debug, Default)]
pub(crate) struct ModuleKeep {
    /// How many are about to use a module.
    pins: Rc<RefCell<BTreeMap<String, u32>>>,
    known: RefCell<Known>,
    removed: Counter,
    failed: Counter,
    swept: Cell<bool>,
}

/// Keeps a module on disk until it is dropped.
#[derive(Debug)]
pub(crate) struct Pin {
    pins: Rc<RefCell<BTreeMap<String, u32>>>,
    hash: String,
}

impl Pin {
    /// Keeps it until the process ends: what was proposed with it may still take effect.
    pub(crate) fn until_the_end(self) {
        std::mem::forget(self);
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.pins.borrow_mut();
        match pins.get_mut(&self.hash) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(pins.remove(&self.hash)),
        }
    }
}

impl ModuleKeep {
    /// Keeps `hash` from now on. On shard 0 with the turn of `module_changes`, or a sweep that has looked already removes it.
    pub(crate) fn pin(&self, hash: &str) -> Pin {
        *self.pins.borrow_mut().entry(hash.to_owned()).or_default() += 1;
        Pin {
            pins: self.pins.clone(),
            hash: hash.to_owned(),
        }
    }

    fn is_pinned(&self, hash: &str) -> bool {
        self.pins.borrow().contains_key(hash)
    }

    /// Notes that a module of so many bytes was stored, with the turn of `module_changes`.
    pub(crate) fn stored(&self, hash: &str, bytes: u64) {
        self.known.borrow_mut().stored(hash, bytes);
    }

    fn collect(&self, out: &mut Vec<Sample>) {
        let known = self.known.borrow();
        let bytes: u64 = known.on_disk.values().sum();
        for (family, value) in [
            ("tidemill_modules", known.on_disk.len() as u64),
            ("tidemill_module_bytes", bytes),
            ("tidemill_modules_removed_total", self.removed.get()),
            ("tidemill_module_removal_failures_total", self.failed.get()),
        ] {
            out.push(Sample::plain(family, Vec::new(), value as f64));
        }
    }
}

/// What is on disk, in bytes, and since when nobody needs it. Pure.
#[derive(Debug, Default)]
struct Known {
    on_disk: BTreeMap<String, u64>,
    unneeded: BTreeMap<String, Instant>,
}

impl Known {
    fn stored(&mut self, hash: &str, bytes: u64) {
        self.on_disk.insert(hash.to_owned(), bytes);
        self.unneeded.remove(hash);
    }

    fn gone(&mut self, hash: &str) {
        self.on_disk.remove(hash);
        self.unneeded.remove(hash);
    }

    /// The modules that nobody has needed for `keep`, those first that were not needed for longest.
    fn due(&mut self, needed: &BTreeSet<String>, now: Instant, keep: Duration) -> Vec<String> {
        let on_disk = &self.on_disk;
        self.unneeded
            .retain(|hash, _| on_disk.contains_key(hash) && !needed.contains(hash));
        for hash in on_disk.keys().filter(|hash| !needed.contains(*hash)) {
            self.unneeded.entry(hash.clone()).or_insert(now);
        }
        let mut due: Vec<(Instant, &String)> = self
            .unneeded
            .iter()
            .filter(|(_, since)| now.since(**since) >= keep)
            .map(|(hash, since)| (*since, hash))
            .collect();
        due.sort();
        due.into_iter().map(|(_, hash)| hash.clone()).collect()
    }
}

impl Shard {
    /// Sweeps now and from time to time, until the shard stops. On shard 0, once clients are served.
    pub(crate) fn start_module_sweeps(self: &Rc<Shard>) {
        let shard = self.clone();
        drop(task::spawn(Queue::Background, async move {
            let every = shard.info.settings.transforms.module_retention / SWEEPS_EACH;
            let every = every.min(SWEEP_EVERY_MAX);
            loop {
                if let Err(error) = shard.sweep_modules().await {
                    shard.transforms.modules.failed.add(1);
                    tracing::warn!(%error, "modules that nobody needs stay on disk; trying again");
                }
                let pause = time::sleep(every);
                if let Either::Left(_) = select(pin!(shard.stopped()), pin!(pause)).await {
                    return;
                }
            }
        }));
    }

    /// Keeps a module that a deployment is about to use. On shard 0.
    pub(crate) async fn pin_module(&self, hash: &str) -> Pin {
        let _turn = self.module_changes.acquire(1).await;
        self.transforms.modules.pin(hash)
    }

    async fn sweep_modules(self: &Rc<Shard>) -> Result<(), String> {
        self.look_at_modules().await?;
        let in_use = self.handle.on_all(|shard| {
            let used = shard.modules_used_here();
            async move { used }
        });
        let mut needed: BTreeSet<String> = BTreeSet::new();
        for used in in_use.await.map_err(|e| e.to_string())? {
            needed.extend(used);
        }
        needed.extend(self.modules_decided());
        let keep = self.info.settings.transforms.module_retention;
        let keeper = &self.transforms.modules;
        let due = keeper.known.borrow_mut().due(&needed, Instant::now(), keep);
        for hash in due.into_iter().take(REMOVED_AT_ONCE) {
            self.remove_module(&hash).await?;
        }
        Ok(())
    }

    /// Brings what is known in line with the folder, and removes what was left half written there.
    async fn look_at_modules(&self) -> Result<(), String> {
        let dir = &self.info.modules_dir;
        let _turn = self.module_changes.acquire(1).await;
        let keeper = &self.transforms.modules;
        let names = match fs::list_dir(dir).await {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            listed => listed.map_err(|e| format!("{}: {e}", dir.display()))?,
        };
        let mut found = BTreeMap::new();
        for name in names {
            let path = dir.join(&name);
            let failed = |e: std::io::Error| format!("{}: {e}", path.display());
            if name.ends_with(UNFINISHED) {
                fs::remove_file(&path).await.map_err(failed)?;
                continue;
            }
            let hash = name.strip_suffix(SUFFIX).unwrap_or_default();
            if modules::path(dir, hash).is_none() {
                continue;
            }
            let known = keeper.known.borrow().on_disk.get(hash).copied();
            let bytes = match known {
                Some(bytes) => bytes,
                None => {
                    let file = File::open(&path, OpenMode::Read).await.map_err(failed)?;
                    file.len().await.map_err(failed)?
                }
            };
            found.insert(hash.to_owned(), bytes);
        }
        keeper.known.borrow_mut().on_disk = found;
        keeper.swept.set(true);
        Ok(())
    }

    /// Modules that this shard's image names, or that it is loading.
    fn modules_used_here(&self) -> Vec<String> {
        let image = self.image();
        let mut used: Vec<String> = image.modules().into_iter().map(str::to_owned).collect();
        used.extend(self.transforms.modules.pins.borrow().keys().cloned());
        let active = self.transforms.active.borrow();
        used.extend(active.values().map(|a| a.spec.module.clone()));
        used
    }

    /// Modules that the controller's newest image names.
    fn modules_decided(&self) -> BTreeSet<String> {
        let image = self.controller_here().image();
        image.modules().into_iter().map(str::to_owned).collect()
    }

    async fn remove_module(&self, hash: &str) -> Result<(), String> {
        let Some(path) = modules::path(&self.info.modules_dir, hash) else {
            return Ok(());
        };
        let keeper = &self.transforms.modules;
        let still_due = || {
            let known = keeper.known.borrow();
            known.unneeded.contains_key(hash)
                && !keeper.is_pinned(hash)
                && !self.controller_here().image().modules().contains(hash)
        };
        let turn = self.module_changes.acquire(1).await;
        if !still_due() {
            return Ok(());
        }
        let removed = fs::remove_file(&path).await;
        if let Err(e) = removed
            && e.kind() != std::io::ErrorKind::NotFound
        {
            return Err(format!("{}: {e}", path.display()));
        }
        keeper.known.borrow_mut().gone(hash);
        keeper.removed.add(1);
        drop(turn);
        tracing::info!(module = %hash, "a module that no version of a transform needs was removed");
        let (factory, hash) = (self.transforms.factory.clone(), hash.to_owned());
        let forgotten = task::blocking(move || factory.forget(&hash)).await;
        forgotten.map_err(|e| format!("machine code of module {}: {e}", path.display()))
    }

    /// Adds what is known of modules on disk to `out`.
    pub(crate) fn collect_modules(&self, out: &mut Vec<Sample>) {
        if self.transforms.modules.swept.get() {
            self.transforms.modules.collect(out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    const KEEP: Duration = Duration::from_secs(10);

    #[test]
    fn module_goes_once_nobody_has_needed_it_for_long_enough() {
        let mut known = Known::default();
        known.stored("a", 1);
        known.stored("b", 2);
        assert!(known.due(&set(&["a"]), at(100), KEEP).is_empty());
        assert!(known.due(&set(&["a"]), at(109), KEEP).is_empty());
        assert_eq!(known.due(&set(&["a"]), at(110), KEEP), ["b"]);
        known.gone("b");
        assert!(known.due(&set(&["a"]), at(200), KEEP).is_empty());
    }

    #[test]
    fn module_that_is_stored_again_or_needed_meanwhile_is_kept_as_long_as_a_new_one() {
        let mut known = Known::default();
        known.stored("a", 1);
        assert!(known.due(&set(&[]), at(0), KEEP).is_empty());
        known.stored("a", 1);
        assert!(known.due(&set(&[]), at(10), KEEP).is_empty());
        assert!(known.due(&set(&["a"]), at(19), KEEP).is_empty());
        assert!(known.due(&set(&[]), at(20), KEEP).is_empty());
        assert_eq!(known.due(&set(&[]), at(30), KEEP), ["a"]);
    }

    #[test]
    fn file_that_somebody_else_removed_is_forgotten() {
        let mut known = Known::default();
        known.stored("a", 1);
        known.due(&set(&[]), at(0), KEEP);
        known.on_disk.clear();
        assert!(known.due(&set(&[]), at(50), KEEP).is_empty());
        assert!(known.unneeded.is_empty());
    }

    #[test]
    fn module_stays_pinned_until_the_last_that_is_about_to_use_it_is_done() {
        let keep = ModuleKeep::default();
        let (one, two) = (keep.pin("a"), keep.pin("a"));
        drop(one);
        assert!(keep.is_pinned("a"));
        drop(two);
        assert!(!keep.is_pinned("a"));
        keep.pin("a").until_the_end();
        assert!(keep.is_pinned("a"));
    }
}
