//! Files that are written in many parts at once, on a helper thread: the whole blocks of a large stretch past the page cache, what is
//! left at its two ends, and short stretches, through it.
//!
//! Through the page cache a byte is copied into memory that is fresh every time; measured, that was half of the processor
//! time of a busy producer's bytes. The kernel keeps both ways of writing coherent where, as here, they share no block.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::OnceLock;

use bytes::Bytes;

use crate::buf::{AlignedBuf, BLOCK_BYTES};

/// Stretches of at least so many bytes are written past the page cache: below, the file's second handle costs more.
const DIRECT_FROM_BYTES: u64 = 256 << 10;
/// Bytes of one write past the page cache, and of the buffer that a helper thread keeps for them. One request to the disk:
/// virtio takes 254 pages in one, and of a whole MiB the last two would go in a second.
const PIECE_BYTES: usize = 960 << 10;

thread_local! {
    static PIECE: RefCell<Option<AlignedBuf>> = const { RefCell::new(None) };
}

/// A file with a second handle for direct I/O, opened when it is first wanted.
#[derive(Debug)]
pub(crate) struct GatherFile {
    file: File,
    direct: OnceLock<Option<File>>,
}

/// A stretch of bytes in three parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Split {
    /// Bytes up to the first whole block.
    head: u64,
    /// Bytes in whole blocks.
    middle: u64,
    /// Bytes behind them.
    tail: u64,
}

impl Split {
    /// Splits `bytes` bytes, more than a block, that begin at byte `position` of their file.
    fn of(position: u64, bytes: u64) -> Split {
        let block = BLOCK_BYTES as u64;
        let head = position.next_multiple_of(block) - position;
        let tail = (position + bytes) % block;
        Split {
            head,
            middle: bytes - head - tail,
            tail,
        }
    }
}

impl GatherFile {
    pub(crate) fn new(file: File) -> GatherFile {
        GatherFile {
            file,
            direct: OnceLock::new(),
        }
    }

    /// The handle for everything else.
    pub(crate) fn std(&self) -> &File {
        &self.file
    }

    /// Writes `parts` one after the other from byte `position` on. Blocks the thread.
    pub(crate) fn write_all_at(&self, parts: &[Bytes], position: u64) -> io::Result<()> {
        let bytes: u64 = parts.iter().map(|part| part.len() as u64).sum();
        let direct = match bytes >= DIRECT_FROM_BYTES {
            true => self.direct(),
            false => None,
        };
        match (direct, parts) {
            (None, [part]) => self.file.write_all_at(part, position),
            (None, parts) => self.write_gathered(parts, position, &[(bytes, None)]),
            (Some(direct), parts) => {
                let split = Split::of(position, bytes);
                let ways = [
                    (split.head, None),
                    (split.middle, Some(direct)),
                    (split.tail, None),
                ];
                self.write_gathered(parts, position, &ways)
            }
        }
    }

    /// `None` where the file system has no direct I/O.
    fn direct(&self) -> Option<&File> {
        let open = || {
            // By way of the open handle: the file may have been renamed or unlinked.
            let name = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            let mut options = File::options();
            options.write(true).custom_flags(libc::O_DIRECT);
            options.open(name).ok()
        };
        self.direct.get_or_init(open).as_ref()
    }

    /// Writes the bytes of `parts` in pieces: as many as each of `ways` says, past the page cache with its handle if there is one.
    fn write_gathered(
        &self,
        parts: &[Bytes],
        position: u64,
        ways: &[(u64, Option<&File>)],
    ) -> io::Result<()> {
        let mut source = Source::new(parts);
        let kept = PIECE.take();
        let mut piece = kept.unwrap_or_else(|| AlignedBuf::zeroed(PIECE_BYTES));
        let mut at = position;
        let written = ways.iter().try_for_each(|(bytes, direct)| {
            let end = at + bytes;
            while at < end {
                let len = (end - at).min(piece.len() as u64) as usize;
                source.fill(&mut piece[..len]);
                match direct {
                    Some(direct) => self.write_direct(direct, &piece[..len], at)?,
                    None => self.file.write_all_at(&piece[..len], at)?,
                }
                at += len as u64;
            }
            Ok(())
        });
        PIECE.replace(Some(piece));
        written
    }

    fn write_direct(&self, direct: &File, blocks: &[u8], at: u64) -> io::Result<()> {
        match direct.write_all_at(blocks, at) {
            // It opened, but wants other blocks than ours, or went on after a short write.
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => self.file.write_all_at(blocks, at),
            other => other,
        }
    }
}

/// The bytes of parts, one after the other.
struct Source<'a> {
    parts: &'a [Bytes],
    /// Bytes of the first that were taken.
    taken: usize,
}

impl<'a> Source<'a> {
    fn new(parts: &'a [Bytes]) -> Source<'a> {
        Source { parts, taken: 0 }
    }

    /// Fills `out`, for which there are enough bytes.
    fn fill(&mut self, out: &mut [u8]) {
        let mut filled = 0;
        while filled < out.len() {
            let Some((part, later)) = self.parts.split_first() else {
                break;
            };
            let rest = &part[self.taken..];
            let n = rest.len().min(out.len() - filled);
            out[filled..filled + n].copy_from_slice(&rest[..n]);
            filled += n;
            self.taken += n;
            if self.taken == part.len() {
                self.parts = later;
                self.taken = 0;
            }
        }
        debug_assert_eq!(filled, out.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = BLOCK_BYTES as u64;

    #[test]
    fn parts_of_a_stretch_are_all_of_it_and_the_middle_is_whole_blocks() {
        for position in [0, 1, 17, BLOCK - 1, BLOCK, 5 * BLOCK + 4_000] {
            for bytes in [DIRECT_FROM_BYTES, DIRECT_FROM_BYTES + 1, 3_000_001] {
                let split = Split::of(position, bytes);
                assert_eq!(split.head + split.middle + split.tail, bytes);
                assert!(split.middle > 0 && split.middle.is_multiple_of(BLOCK));
                assert!((position + split.head).is_multiple_of(BLOCK));
                assert!(split.head < BLOCK && split.tail < BLOCK);
            }
        }
    }

    /// Appends stretches of many sizes, as a segment grows, and reads all back through the page cache.
    fn grows_as_written(dir: &std::path::Path) {
        let path = dir.join(format!("tidemill-gather-{}", std::process::id()));
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(true);
        let file = GatherFile::new(options.open(&path).expect("the folder is there"));
        let mut expected = Vec::new();
        for (round, len) in [10, 300_000, 5_000, 3_000_001, 262_144, 1, 1_048_576]
            .into_iter()
            .enumerate()
        {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 7 + round * 13) as u8).collect();
            let parts: Vec<Bytes> = bytes.chunks(70_001).map(Bytes::copy_from_slice).collect();
            let at = expected.len() as u64;
            file.write_all_at(&parts, at).expect("there is room");
            expected.extend_from_slice(&bytes);
            // What stands behind is written over, as after a flush that failed.
            file.write_all_at(&parts, at).expect("there is room");
        }
        file.std().sync_data().expect("it syncs");
        assert!(std::fs::read(&path).expect("it is there") == expected);
        std::fs::remove_file(&path).expect("it is there");
    }

    #[test]
    fn what_is_written_in_both_ways_is_read_as_one() {
        grows_as_written(std::path::Path::new(env!("CARGO_MANIFEST_DIR")));
        grows_as_written(&std::env::temp_dir());
        if std::path::Path::new("/dev/shm").is_dir() {
            grows_as_written(std::path::Path::new("/dev/shm"));
        }
    }
}
