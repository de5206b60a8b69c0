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

/// A folder of machine code.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    dir: PathBuf,
}

impl Cache {
    pub(crate) fn new(dir: PathBuf) -> Cache {
        Cache { dir }
    }

    /// The code under `key`, verified. A damaged file is removed.
    pub(crate) fn get(&self, key: &str) -> io::Result<Option<File>> {
        let prefix = format!("{key}-");
        for (name, path) in self.files()? {
            let Some(digest) = name.strip_prefix(&prefix) else {
                continue;
            };
            let file = File::open(&path)?;
            if hex(&digest_of(&file)?) == digest.trim_end_matches(SUFFIX) {
                let _ = file.set_modified(std::time::SystemTime::now());
                return Ok(Some(file));
            }
            tracing::warn!(path = %path.display(), "machine code on disk is damaged; compiling it anew");
            fs::remove_file(&path)?;
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
        let unfinished = self
            .dir
            .join(format!("{key}-{digest}.{}.tmp", tidemill_rt::rand::u64()));
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&unfinished)?;
        file.write_all(code)?;
        file.sync_data()?;
        fs::rename(&unfinished, &path)?;
        File::open(&path)
    }

    fn files(&self) -> io::Result<Vec<(String, PathBuf)>> {
        let entries = match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut files = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if let Some(name) = path.file_name().and_then(|n| n.to_str()) {
                files.push((name.to_owned(), path.clone()));
            }
        }
        Ok(files)
    }

    fn make_room(&self, bytes: u64) -> io::Result<()> {
        let mut files = Vec::new();
        for (_, path) in self.files()? {
            let about = fs::metadata(&path)?;
            files.push((about.modified()?, about.len(), path));
        }
        files.sort();
        let mut total: u64 = files.iter().map(|(_, len, _)| len).sum();
        for (_, len, path) in files {
            if total + bytes <= CACHE_BYTES_MAX {
                break;
            }
            fs::remove_file(path)?;
            total -= len;
        }
        Ok(())
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
