//! What a simulated file holds: sparse pages, and what a crash makes of writes that were not synced.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::rng::{self, Rng};

const PAGE_BYTES: usize = 4096;

/// What a disk writes whole or not at all, in bytes.
pub(crate) const SECTOR_BYTES: usize = 512;

/// Bytes of a file; what was never written is zero and takes no memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Content {
    len: u64,
    pages: BTreeMap<u64, Box<[u8; PAGE_BYTES]>>,
}

impl Content {
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn write(&mut self, position: u64, data: &[u8]) {
        for (page, within, part) in pieces(position, data.len()) {
            let bytes = self
                .pages
                .entry(page)
                .or_insert_with(|| Box::new([0; PAGE_BYTES]));
            let count = part.len();
            bytes[within..within + count].copy_from_slice(&data[part]);
        }
        self.extend(position + data.len() as u64);
    }

    /// Makes the content at least `len` bytes long, with zeros.
    pub(crate) fn extend(&mut self, len: u64) {
        self.len = self.len.max(len);
    }

    pub(crate) fn set_len(&mut self, len: u64) {
        if len < self.len {
            let first_gone = len.div_ceil(PAGE_BYTES as u64);
            self.pages.split_off(&first_gone);
            let within = (len % PAGE_BYTES as u64) as usize;
            if let Some(page) = self.pages.get_mut(&(len / PAGE_BYTES as u64)) {
                page[within..].fill(0);
            }
        }
        self.len = len;
    }

    /// Up to `len` bytes at `position`; fewer at the end.
    pub(crate) fn read(&self, position: u64, len: usize) -> Vec<u8> {
        let len = self.len.saturating_sub(position).min(len as u64) as usize;
        let mut out = vec![0; len];
        for (page, within, part) in pieces(position, len) {
            if let Some(bytes) = self.pages.get(&page) {
                let count = part.len();
                out[part].copy_from_slice(&bytes[within..within + count]);
            }
        }
        out
    }

    /// The first byte at or after `position` of a page that was written.
    pub(crate) fn next_data(&self, position: u64) -> Option<u64> {
        let (page, _) = self.pages.range(position / PAGE_BYTES as u64..).next()?;
        let at = position.max(page * PAGE_BYTES as u64);
        (at < self.len).then_some(at)
    }

    pub(crate) fn all(&self) -> Vec<u8> {
        self.read(0, self.len as usize)
    }

    pub(crate) fn hash(&self) -> u64 {
        self.pages.iter().fold(self.len, |h, (number, bytes)| {
            if bytes.iter().all(|b| *b == 0) {
                return h;
            }
            rng::mix(h ^ rng::mix(*number) ^ rng::hash(&**bytes))
        })
    }
}

/// The pages that `len` bytes at `position` touch: page number, place within the page, place within the data.
fn pieces(position: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    chunks(position, len, PAGE_BYTES).map(move |part| {
        let at = position + part.start as u64;
        let page = at / PAGE_BYTES as u64;
        (page, (at % PAGE_BYTES as u64) as usize, part)
    })
}

/// Cuts `len` bytes at `position` where multiples of `unit` lie.
fn chunks(position: u64, len: usize, unit: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        if start >= len {
            return None;
        }
        let into = ((position + start as u64) % unit as u64) as usize;
        let end = len.min(start + unit - into);
        let part = start..end;
        start = end;
        Some(part)
    })
}

/// One change of a file's content.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Write { position: u64, data: Rc<[u8]> },
    SetLen(u64),
}

impl Change {
    pub(crate) fn apply(&self, content: &mut Content) {
        match self {
            Change::Write { position, data } => content.write(*position, data),
            Change::SetLen(len) => content.set_len(*len),
        }
    }

    /// What reaches the disk of a change that was never synced: all, nothing, or some sectors. Metadata and data are
    /// written apart, so that the length may cover bytes that never came; they read as zeros.
    pub(crate) fn settle(&self, content: &mut Content, rng: &mut Rng) {
        let (position, data) = match self {
            Change::Write { position, data } => (*position, data),
            Change::SetLen(_) => {
                if rng.coin() {
                    self.apply(content);
                }
                return;
            }
        };
        match rng.below(4) {
            0 => self.apply(content),
            1 => {}
            2 => {
                let sectors = data.len().div_ceil(SECTOR_BYTES) as u64;
                let kept = rng.below(sectors + 1) as usize;
                for part in chunks(position, data.len(), SECTOR_BYTES).take(kept) {
                    content.write(position + part.start as u64, &data[part]);
                }
            }
            _ => {
                for part in chunks(position, data.len(), SECTOR_BYTES) {
                    if rng.coin() {
                        content.write(position + part.start as u64, &data[part]);
                    }
                }
            }
        }
        if rng.coin() {
            content.extend(position + data.len() as u64);
        }
    }
}
