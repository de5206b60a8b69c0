//! Letting old files go: removing or keeping them for the next use, and carrying forward what pins them (rule S7).

use std::collections::BTreeMap;

use bytes::Bytes;
use tidemill_model::RingId;
use tidemill_rt::fs;
use tidemill_rt::task::{self, Queue};

use crate::catalog::{Oldest, Room};
use crate::error::LogError;
use crate::files;
use crate::format::Frame;
use crate::log::{ShardLog, Stalled, file_bytes};
use crate::recover::read_entries;

impl ShardLog {
    /// Removes the oldest files as far as nothing in them is needed, carrying forward what pins them.
    pub(crate) fn remove_files(&self) {
        let needed = self.oldest() == Oldest::Needed;
        if needed || self.0.closing.get() || self.0.removing.replace(true) {
            return;
        }
        let log = self.clone();
        let remove = async move {
            let mut stalled = Stalled::default();
            while let Err(e) = log.remove_oldest().await {
                // What it did is done; the rest is begun anew.
                if let Err(e) = stalled.wait(&log, e).await {
                    log.0.fail(&e);
                    break;
                }
            }
            if !log.0.closing.get() {
                stalled.ended(&log);
            }
            log.0.removing.set(false);
            log.0.idle.notify_all();
        };
        drop(task::spawn(Queue::Background, remove));
    }

    fn oldest(&self) -> Oldest {
        let state = self.0.state.borrow();
        state.catalog.oldest(Room {
            left: state.room_left,
            file_bytes: file_bytes(&self.0.config, 0),
            group_bytes: self.0.config.group_bytes_max as u64,
        })
    }

    async fn remove_oldest(&self) -> Result<(), LogError> {
        loop {
            match self.oldest() {
                Oldest::Needed => return Ok(()),
                Oldest::Carry(sequence) => self.carry_file(sequence).await?,
                Oldest::Free(sequence) => {
                    let spare = self.retire(sequence).await?;
                    let mut state = self.0.state.borrow_mut();
                    state.catalog.remove_file(sequence);
                    state.stats.removed_files += 1;
                    state.stats.recycled_files += u64::from(spare);
                }
            }
        }
    }

    /// Takes a file out of the sequence: it becomes the next spare where one is wanted, else it is removed. Removing 64 MiB holds up
    /// the syncs of the log on the same file system by ten to twenty ms, reserving them anew does so too, and a file that
    /// was written before is synced faster. True when it was kept.
    async fn retire(&self, sequence: u64) -> Result<bool, LogError> {
        let inner = &*self.0;
        let dir = &inner.config.dir;
        let path = files::path_of(dir, sequence);
        let bytes = inner.state.borrow().catalog.bytes_of(sequence);
        let wanted = inner.state.borrow().spare.is_none()
            && bytes == file_bytes(&inner.config, 0)
            && !inner.closing.get()
            && !inner.making_spare.replace(true);
        if !wanted {
            fs::remove_file(&path)
                .await
                .map_err(LogError::io("remove", &path))?;
            // Before the next one goes: a crash must not leave a gap in the sequence.
            fs::sync_dir(dir).await.map_err(LogError::io("sync", dir))?;
            return Ok(false);
        }
        let kept = files::reuse(dir, &path, bytes).await;
        inner.making_spare.set(false);
        inner.idle.notify_all();
        let spare = kept?;
        let is_kept = spare.is_some();
        inner.state.borrow_mut().spare = spare;
        Ok(is_kept)
    }

    /// Appends what is needed of a file once more; when this returns, it is durable in newer files.
    async fn carry_file(&self, sequence: u64) -> Result<(), LogError> {
        // From here on truncations are remembered, and those appended before are in the catalog after the barrier.
        self.0.state.borrow_mut().voided = Some(BTreeMap::new());
        self.barrier().await;
        let pinned = self.0.state.borrow().catalog.pinned(sequence);
        for ring in pinned.small {
            self.carry_small(ring);
        }
        if !pinned.entries.is_empty() {
            let dir = &self.0.config.dir;
            for (ring, entries) in read_entries(dir, sequence, pinned.entries).await? {
                self.carry_entries(ring, entries).await;
            }
        }
        self.barrier().await;
        let mut state = self.0.state.borrow_mut();
        state.voided = None;
        state.catalog.note_carried(sequence);
        Ok(())
    }

    /// Appends the latest vote and purge of a ring once more.
    fn carry_small(&self, ring: RingId) {
        let state = self.0.state.borrow();
        let vote = state.votes.get(&ring).cloned();
        let purge = state.purges.get(&ring).cloned();
        drop(state);
        let vote = vote.map(|data| Frame::Vote { data });
        let purge = purge.map(|(upto, data)| Frame::Purge { upto, data });
        let frames = vote.into_iter().chain(purge).collect();
        self.append(ring, frames, Box::new(|| {}));
    }

    /// Appends copies of entries, about a group at a time, so that what others append in between does not wait for all of them.
    async fn carry_entries(&self, ring: RingId, entries: BTreeMap<u64, Bytes>) {
        let (mut frames, mut bytes) = (Vec::new(), 0);
        for (index, data) in entries {
            bytes += data.len();
            frames.push((index, data));
            if bytes >= self.0.config.group_bytes_max {
                self.append_copies(ring, std::mem::take(&mut frames));
                bytes = 0;
                self.barrier().await;
            }
        }
        self.append_copies(ring, frames);
    }

    /// Nothing is awaited between the look at what is still valid and the append.
    fn append_copies(&self, ring: RingId, entries: Vec<(u64, Bytes)>) {
        let mut state = self.0.state.borrow_mut();
        let purged = state.purges.get(&ring).map_or(0, |p| p.0);
        let voided = state.voided.as_ref().and_then(|v| v.get(&ring)).copied();
        let (from, to) = (purged, voided.unwrap_or(u64::MAX));
        let frames: Vec<_> = entries
            .into_iter()
            .filter(|(index, _)| (purged == 0 || *index > from) && *index <= to)
            .map(|(index, data)| Frame::Carried { index, data })
            .collect();
        state.stats.carried_bytes += frames.iter().map(|f| f.encoded_len() as u64).sum::<u64>();
        drop(state);
        self.append(ring, frames, Box::new(|| {}));
    }
}
