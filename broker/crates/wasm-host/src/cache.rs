//! Machine code on disk, by content of the module and configuration of the engine.
//!
//! A file is named `<key>-<digest>.code`; the digest is the SHA-256 of what is in it, checked before the engine maps it, because the
//! engine trusts machine code. Files are readable by their owner only; who can write them can do as the broker does.
//!
//! Runs on the compile threads, which no engine of `rt` runs, hence `std::fs`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Bytes of machine code kept; beyond it, the files unused for longest go. Code in use stays mapped.
const CACHE_BYTES_MAX: u64 = 1 << 30;
const SUFFIX: &str = ".code";
/// Of files that are being written.
const UNFINISHED: &str = ".tmp";

/// A folder of machine code. Several threads use it at once, so any file may be gone at any time.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// The cache in `dir`, which no other process uses: what one left unfinished there is removed.
    pub(crate) fn new(dir: PathBuf) -> Cache {
        let cache = Cache { dir };
        let swept = cache.files(UNFINISHED).and_then(|files| {
            files
                .iter()
                .try_for_each(|(_, path)| there(fs::remove_file(path)).map(drop))
        });
        if let Err(error) = swept {
            tracing::warn!(%error, "unfinished machine code stays on disk");
        }
        cache
    }

    /// The code under `key`, verified. A damaged file is removed.
    pub(crate) fn get(&self, key: &str) -> io::Result<Option<File>> {
        let prefix = format!("{key}-");
        for (name, path) in self.files(SUFFIX)? {
            let Some(digest) = name.strip_prefix(&prefix) else {
                continue;
            };
            let Some(file) = there(File::open(&path))? else {
                continue;
            };
            if hex(&digest_of(&file)?) == digest.trim_end_matches(SUFFIX) {
                let _ = file.set_modified(std::time::SystemTime::now());
                return Ok(Some(file));
            }
            tracing::warn!(path = %path.display(), "machine code on disk is damaged; compiling it anew");
            there(fs::remove_file(&path))?;
        }
        Ok(None)
    }

    /// Keeps `code` under `key`: whole under its name or not at all.
    pub(crate) fn put(&self, key: &str, code: &[u8]) -> io::Result<File> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)?;
        self.make_room(code.len() as u64)?;
        let digest = hex(&Sha256::digest(code));
        let path = self.dir.join(format!("{key}-{digest}{SUFFIX}"));
        let unfinished = self.dir.join(format!(
            "{key}-{digest}.{}{UNFINISHED}",
            tidemill_rt::rand::u64()
        ));
        let written = write(&unfinished, &path, code);
        if written.is_err() {
            // As full as the disk is, this gives something back.
            let _ = fs::remove_file(&unfinished);
        }
        written
    }

    /// Removes the code of every key that begins with `prefix` and a dash.
    pub(crate) fn remove(&self, prefix: &str) -> io::Result<()> {
        let prefix = format!("{prefix}-");
        for (name, path) in self.files(SUFFIX)? {
            if name.starts_with(&prefix) {
                there(fs::remove_file(path))?;
            }
        }
        Ok(())
    }

    /// Names and paths of the files whose names end in `suffix`.
    fn files(&self, suffix: &str) -> io::Result<Vec<(String, PathBuf)>> {
        let entries = match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut files = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if let Some(name) = path.file_name().and_then(|n| n.to_str())
                && name.ends_with(suffix)
            {
                files.push((name.to_owned(), path.clone()));
            }
        }
        Ok(files)
    }

    fn make_room(&self, bytes: u64) -> io::Result<()> {
        let mut files = Vec::new();
        for (_, path) in self.files(SUFFIX)? {
            let Some(about) = there(fs::metadata(&path))? else {
                continue;
            };
            files.push((about.modified()?, about.len(), path));
        }
        files.sort();
        let mut total: u64 = files.iter().map(|(_, len, _)| len).sum();
        for (_, len, path) in files {
            if total + bytes <= CACHE_BYTES_MAX {
                break;
            }
            there(fs::remove_file(path))?;
            total -= len;
        }
        Ok(())
    }
}

/// Writes `code` to `unfinished` and gives it the name `path`. What is opened is what was written, whatever becomes of the name.
fn write(unfinished: &Path, path: &Path, code: &[u8]) -> io::Result<File> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(unfinished)?;
    file.write_all(code)?;
    file.sync_data()?;
    let readable = File::open(unfinished)?;
    fs::rename(unfinished, path)?;
    Ok(readable)
}

/// The result of something done to a file; `None` when another thread has removed it meanwhile.
fn there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

/// Where an open file can be opened again, whatever became of its name.
pub(crate) fn path_of(file: &File) -> PathBuf {
    use std::os::fd::AsRawFd;
    Path::new("/proc/self/fd").join(file.as_raw_fd().to_string())
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn digest_of(mut file: &File) -> io::Result<[u8; 32]> {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(digest.finalize().into()),
            n => digest.update(&buffer[..n]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("tidemill-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn file_that_another_thread_is_writing_is_left_alone() {
        let dir = dir("cache-unfinished");
        let cache = Cache::new(dir.clone());
        let unfinished = dir.join("key-0123.77.tmp");
        fs::write(&unfinished, b"half of").unwrap();
        assert!(cache.get("key").unwrap().is_none());
        assert!(unfinished.exists());
        let file = cache.put("key", b"code").unwrap();
        assert_eq!(
            digest_of(&file).unwrap(),
            <[u8; 32]>::from(Sha256::digest(b"code"))
        );
        assert!(cache.get("key").unwrap().is_some());
        assert!(unfinished.exists());
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_a_killed_process_left_unfinished_is_swept_at_the_start() {
        let dir = dir("cache-sweep");
        let (kept, unfinished) = (dir.join("key-0123.code"), dir.join("key-0123.77.tmp"));
        fs::write(&kept, b"code").unwrap();
        fs::write(&unfinished, b"half of").unwrap();
        drop(Cache::new(dir.clone()));
        assert!(kept.exists() && !unfinished.exists());
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn threads_that_put_get_and_damage_the_same_code_disturb_nobody() {
        let dir = dir("cache-threads");
        let cache = Cache::new(dir.clone());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..200 {
                        let file = match cache.get("key").unwrap() {
                            Some(file) => file,
                            None => cache.put("key", b"code").unwrap(),
                        };
                        assert_eq!(file.metadata().unwrap().len(), 4);
                        if round % 3 == 0 {
                            for (_, path) in cache.files(SUFFIX).unwrap() {
                                there(fs::remove_file(path)).unwrap();
                            }
                        }
                    }
                });
            }
        });
        fs::remove_dir_all(&dir).unwrap();
    }
}
