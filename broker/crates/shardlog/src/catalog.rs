//! What each file of the log still holds, and what must happen for the oldest one to go. Pure.

use std::collections::{BTreeMap, BTreeSet};

use tidemill_model::RingId;
use tidemill_rt::buf::BLOCK_BYTES;

use crate::format::{Frame, GROUP_HEADER_BYTES};

/// Votes and purges are carried forward when that frees this many times their bytes.
const SMALL_PER_FREED: u64 = 4;
/// Entries are carried forward when that frees this many times their bytes: at most an eighth is written on top ...
const ENTRIES_PER_FREED: u64 = 8;
/// ... and when so many files wait behind them: what is only about to be flushed is not copied.
const ENTRIES_FILES_MIN: u64 = 4;

/// Entries of one ring in one file.
#[derive(Debug, Clone, Copy)]
struct Held {
    first: u64,
    last: u64,
    /// Bytes of their frames; those void or purged since are still counted.
    bytes: u64,
}

#[derive(Debug)]
struct Contents {
    /// Bytes of disk.
    bytes: u64,
    rings: BTreeMap<RingId, Held>,
}

/// Where the latest frame of a kind stands.
#[derive(Debug, Clone, Copy)]
struct Latest {
    file: u64,
    /// Bytes of the frame.
    bytes: u64,
    /// Index up to which it purges; nothing for a vote.
    upto: u64,
}

/// What each file holds that is still needed, and what pins it.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    files: BTreeMap<u64, Contents>,
    votes: BTreeMap<RingId, Latest>,
    purges: BTreeMap<RingId, Latest>,
}

/// What must happen for the oldest file to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Oldest {
    /// It is needed, it is the only one, or carrying forward what is needed of it would not free enough.
    Needed,
    /// What is needed of this file is to be carried forward first.
    Carry(u64),
    /// This file can be removed.
    Free(u64),
}

/// What is needed of one file.
#[derive(Debug, Default)]
pub(crate) struct Pinned {
    /// Rings whose latest vote or purge stands in it.
    pub(crate) small: BTreeSet<RingId>,
    /// Per ring, the first and the last index of entries in it; some between may not be needed.
    pub(crate) entries: BTreeMap<RingId, (u64, u64)>,
}

/// Room for what is carried.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// Bytes left in the newest file.
    pub(crate) left: u64,
    /// Bytes of a new file.
    pub(crate) file_bytes: u64,
    /// Bytes of a group.
    pub(crate) group_bytes: u64,
}

impl Room {
    /// Bytes of blocks that frames of `bytes` take at most, of which each may go into a group of its own when it is large.
    fn written(&self, bytes: u64) -> u64 {
        if bytes == 0 {
            return 0;
        }
        let block = BLOCK_BYTES as u64;
        let groups = bytes / (self.group_bytes / 2).max(1);
        (bytes + GROUP_HEADER_BYTES as u64).next_multiple_of(block) + groups * 2 * block
    }

    /// Bytes of disk that writing `written` takes at most. Two files that follow each other are together more than half full.
    fn disk(&self, written: u64) -> u64 {
        match written <= self.left {
            true => 0,
            false => 2 * written + self.file_bytes,
        }
    }
}

/// The part of a frame that the catalog keeps; bytes are those of the whole frame.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mark {
    Entry { index: u64, bytes: u64 },
    Truncate { after: u64 },
    Vote { bytes: u64 },
    Purge { upto: u64, bytes: u64 },
}

impl Mark {
    pub(crate) fn of(frame: &Frame) -> Mark {
        let bytes = frame.encoded_len() as u64;
        match frame {
            Frame::Entry { index, .. } | Frame::Carried { index, .. } => Mark::Entry {
                index: *index,
                bytes,
            },
            Frame::Vote { .. } => Mark::Vote { bytes },
            Frame::Purge { upto, .. } => Mark::Purge { upto: *upto, bytes },
            Frame::Truncate { after } => Mark::Truncate { after: *after },
        }
    }
}

impl Catalog {
    pub(crate) fn add_file(&mut self, sequence: u64, bytes: u64) {
        let rings = BTreeMap::new();
        self.files.insert(sequence, Contents { bytes, rings });
    }

    pub(crate) fn resize_file(&mut self, sequence: u64, bytes: u64) {
        if let Some(file) = self.files.get_mut(&sequence) {
            file.bytes = bytes;
        }
    }

    pub(crate) fn remove_file(&mut self, sequence: u64) {
        self.files.remove(&sequence);
    }

    /// Notes that a frame is durable in file `sequence`.
    pub(crate) fn note(&mut self, sequence: u64, ring: RingId, mark: Mark) {
        match mark {
            Mark::Entry { index, bytes } => {
                if let Some(file) = self.files.get_mut(&sequence) {
                    let held = file.rings.entry(ring).or_insert(Held {
                        first: index,
                        last: index,
                        bytes: 0,
                    });
                    held.first = held.first.min(index);
                    held.last = held.last.max(index);
                    held.bytes += bytes;
                }
            }
            Mark::Truncate { after } => {
                for file in self.files.values_mut() {
                    if let Some(held) = file.rings.get_mut(&ring) {
                        held.last = held.last.min(after);
                    }
                    file.rings.retain(|_, held| held.first <= held.last);
                }
            }
            Mark::Vote { bytes } => {
                let file = sequence;
                let upto = 0;
                self.votes.insert(ring, Latest { file, bytes, upto });
            }
            Mark::Purge { upto, bytes } => {
                let file = sequence;
                if self.purges.get(&ring).is_none_or(|p| upto >= p.upto) {
                    self.purges.insert(ring, Latest { file, bytes, upto });
                }
            }
        }
    }

    /// Notes that everything that was needed of a file stands in newer ones as well.
    pub(crate) fn note_carried(&mut self, sequence: u64) {
        if let Some(file) = self.files.get_mut(&sequence) {
            file.rings.clear();
        }
    }

    fn purged(&self, ring: RingId) -> Option<u64> {
        self.purges.get(&ring).map(|p| p.upto)
    }

    /// Bytes of votes and purges that stand in each file.
    fn small_bytes(&self) -> BTreeMap<u64, u64> {
        let mut bytes = BTreeMap::new();
        for latest in self.votes.values().chain(self.purges.values()) {
            *bytes.entry(latest.file).or_default() += latest.bytes;
        }
        bytes
    }

    /// Bytes of entries of a file that are needed, at most.
    fn needed_bytes(&self, file: &Contents) -> u64 {
        let needed = |(ring, held): &(&RingId, &Held)| self.purged(**ring) < Some(held.last);
        let rings = file.rings.iter().filter(needed);
        rings.map(|(_, held)| held.bytes).sum()
    }

    /// What to do about the oldest file. What pins it is carried forward when the files that become free by that are worth it: each
    /// round frees more disk than it takes, so rounds come to an end, however little of the log is not needed.
    pub(crate) fn oldest(&self, room: Room) -> Oldest {
        let Some((&first, _)) = self.files.first_key_value() else {
            return Oldest::Needed;
        };
        let small_of = self.small_bytes();
        let (mut written, mut entries, mut freed) = (0, 0, 0);
        let newest = self.files.len() - 1;
        for (count, (sequence, file)) in self.files.iter().take(newest).enumerate() {
            // Each file is carried by itself, votes and purges before entries.
            let here = [
                small_of.get(sequence).copied().unwrap_or(0),
                self.needed_bytes(file),
            ];
            written += here.iter().map(|bytes| room.written(*bytes)).sum::<u64>();
            entries += here[1];
            freed += file.bytes;
            if written == 0 {
                return Oldest::Free(first);
            }
            let worth = match entries {
                0 => written * SMALL_PER_FREED <= freed,
                _ => count as u64 + 1 >= ENTRIES_FILES_MIN && written * ENTRIES_PER_FREED <= freed,
            };
            if worth && room.disk(written) < freed {
                return Oldest::Carry(first);
            }
        }
        Oldest::Needed
    }

    /// What is needed of a file.
    pub(crate) fn pinned(&self, sequence: u64) -> Pinned {
        let mut pinned = Pinned::default();
        let latest = self.votes.iter().chain(self.purges.iter());
        let here = latest.filter(|(_, latest)| latest.file == sequence);
        pinned.small.extend(here.map(|(ring, _)| *ring));
        if let Some(file) = self.files.get(&sequence) {
            for (ring, held) in &file.rings {
                let first = self
                    .purged(*ring)
                    .map_or(held.first, |p| held.first.max(p + 1));
                if first <= held.last {
                    pinned.entries.insert(*ring, (first, held.last));
                }
            }
        }
        pinned
    }

    pub(crate) fn bytes_of(&self, sequence: u64) -> u64 {
        self.files.get(&sequence).map_or(0, |file| file.bytes)
    }

    pub(crate) fn count(&self) -> u64 {
        self.files.len() as u64
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.bytes).sum()
    }
}
