//! The data directory of a node: where everything lies, its lock and its identity.
//!
//! ```text
//! DIR/identity                                  who this is (text)
//! DIR/lock                                      held while a broker runs on it
//! DIR/shard-N/log/<sequence>.log                write-ahead log of shard N
//! DIR/shard-N/rings/<ring>.checkpoint           checkpoints
//! DIR/shard-N/partitions/<topic id>-<index>/    segments
//! DIR/modules/<sha256>.wasm                     modules of transforms
//! DIR/code-cache/                               machine code, can be deleted
//! ```

use std::io;
use std::path::{Path, PathBuf};

use tidemill_model::{PartitionId, RingId, ShardId};
use tidemill_rt::fs::{self, File, LockFile, OpenMode};

use crate::identity::{FORMAT_VERSION, IDENTITY_BYTES_MAX, Identity, IdentityError};

const IDENTITY: &str = "identity";
const LOCK: &str = "lock";
/// What a first start that was cut short may leave.
const LEFT_OVER: [&str; 2] = [LOCK, "identity.tmp"];

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The operating system refused.
    #[error("cannot use data directory {}: cannot {action}: {source}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// This user may not write there.
    #[error("data directory {} is not writable ({source}); give this user write access, or name another with --data-dir", path.display())]
    NotWritable {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Another broker runs on it.
    #[error("another tidemill{} runs on data directory {}; stop it, or name another with --data-dir", pid_text(.pid.as_deref()), path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The process, if known.
        pid: Option<String>,
    },
    /// It belongs to something else.
    #[error("{} is not empty and is no tidemill data directory (it holds {example:?}); name an empty or a new one with --data-dir", path.display())]
    NotADataDir {
        /// The directory.
        path: PathBuf,
        /// A name in it.
        example: String,
    },
    /// Nothing says whose it is.
    #[error("{} is no tidemill data directory: it has no file named identity", path.display())]
    NoIdentity {
        /// The directory.
        path: PathBuf,
    },
    /// Another version of tidemill made it.
    #[error("data directory {} has format version {found}, this tidemill reads and writes version {FORMAT_VERSION}; use the tidemill that made it, or name another directory with --data-dir", path.display())]
    Version {
        /// The directory.
        path: PathBuf,
        /// Its version.
        found: String,
    },
    /// Another number of shards was asked for.
    #[error("data directory {} was made for {made_for} shards and cannot be used with {asked}; start without --shards or with --shards {made_for}, or name another directory with --data-dir", path.display())]
    Shards {
        /// The directory.
        path: PathBuf,
        /// Its number of shards.
        made_for: u16,
        /// The number asked for.
        asked: u16,
    },
    /// Zero shards were asked for.
    #[error("a node has at least one shard; start with --shards 1 or more")]
    NoShards,
    /// The identity is damaged.
    #[error("{} is damaged: {what}; restore it from a backup (a node must not change its identity)", path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

fn pid_text(pid: Option<&str>) -> String {
    pid.map(|pid| format!(" (process {pid})"))
        .unwrap_or_default()
}

/// An open, locked data directory. The lock ends with it.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    identity: Identity,
    new: bool,
    _lock: LockFile,
}

/// A data directory that is only looked at. Brokers are kept away until it is dropped.
#[derive(Debug)]
pub struct LookedAt {
    /// Whose it is.
    pub identity: Identity,
    _lock: Option<LockFile>,
}

impl DataDir {
    /// Opens the data directory at `path`, or makes it for a new node of `shards` shards, else of `default_shards`.
    ///
    /// # Errors
    /// [`DataDirError`]; every message says what to do.
    pub async fn open(
        path: &Path,
        shards: Option<u16>,
        default_shards: u16,
    ) -> Result<DataDir, DataDirError> {
        if shards == Some(0) {
            return Err(DataDirError::NoShards);
        }
        fs::create_dir_all(path)
            .await
            .map_err(io_error(path, "make it"))?;
        refuse_foreign(path).await?;
        let lock = take_lock(path).await?;
        let found = read_identity(path).await?;
        let new = found.is_none();
        let identity = match found {
            Some(identity) => identity,
            None => make_identity(path, shards.unwrap_or(default_shards).max(1)).await?,
        };
        if let Some(asked) = shards
            && asked != identity.shards
        {
            return Err(DataDirError::Shards {
                path: path.to_owned(),
                made_for: identity.shards,
                asked,
            });
        }
        Ok(DataDir {
            path: path.to_owned(),
            identity,
            new,
            _lock: lock,
        })
    }

    /// Looks at the data directory at `path` without changing anything. No broker can start on it meanwhile; a copy without
    /// a lock file is looked at as it is.
    ///
    /// # Errors
    /// [`DataDirError::Locked`] while a broker runs on it; the others as [`DataDir::open`].
    pub async fn look(path: &Path) -> Result<LookedAt, DataDirError> {
        let lock = match fs::try_lock_shared(&path.join(LOCK)).await {
            Ok(Some(lock)) => Some(lock),
            Ok(None) => return Err(locked(path).await),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(io_error(path, "lock it")(e)),
        };
        match read_identity(path).await? {
            Some(identity) => Ok(LookedAt {
                identity,
                _lock: lock,
            }),
            None => Err(DataDirError::NoIdentity {
                path: path.to_owned(),
            }),
        }
    }

    /// Who this is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether this start made the identity: a new node.
    pub fn is_new(&self) -> bool {
        self.new
    }

    /// Says in the identity at `path` that a node serves from it: from then on a start refuses to go on without the log of a shard.
    ///
    /// # Errors
    /// [`DataDirError`]; the identity is then as it was.
    pub async fn mark_initialised(path: &Path) -> Result<(), DataDirError> {
        let identity = read_identity(path).await?.filter(|i| !i.initialised);
        let Some(identity) = identity else {
            return Ok(());
        };
        let marked = Identity {
            initialised: true,
            ..identity
        };
        fs::write_atomic(&path.join(IDENTITY), vec![marked.encode().into()])
            .await
            .map_err(io_error(path, "write its identity"))
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Everything of one shard.
    pub fn shard_dir(&self, shard: ShardId) -> PathBuf {
        self.path.join(format!("shard-{}", shard.0))
    }

    /// The write-ahead log of a shard.
    pub fn log_dir(&self, shard: ShardId) -> PathBuf {
        self.shard_dir(shard).join("log")
    }

    /// The checkpoint of a ring.
    pub fn checkpoint_path(&self, shard: ShardId, ring: RingId) -> PathBuf {
        self.shard_dir(shard)
            .join("rings")
            .join(format!("{ring}.checkpoint"))
    }

    /// The segments of a partition.
    pub fn partition_dir(&self, shard: ShardId, partition: PartitionId) -> PathBuf {
        self.shard_dir(shard)
            .join("partitions")
            .join(format!("{}-{}", partition.topic, partition.index))
    }

    /// Modules, named by their hash.
    pub fn modules_dir(&self) -> PathBuf {
        self.path.join("modules")
    }

    /// Machine code; can be deleted while no broker runs.
    pub fn code_cache_dir(&self) -> PathBuf {
        self.path.join("code-cache")
    }
}

fn io_error(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> DataDirError {
    let path = path.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            DataDirError::NotWritable { path, source }
        }
        _ => DataDirError::Io {
            path,
            action,
            source,
        },
    }
}

/// Nothing is made in a directory that is somebody else's.
async fn refuse_foreign(path: &Path) -> Result<(), DataDirError> {
    let names = fs::list_dir(path)
        .await
        .map_err(io_error(path, "list it"))?;
    let foreign = names.iter().find(|n| !LEFT_OVER.contains(&n.as_str()));
    match foreign {
        Some(example) if !names.iter().any(|n| n == IDENTITY) => Err(DataDirError::NotADataDir {
            path: path.to_owned(),
            example: example.clone(),
        }),
        _ => Ok(()),
    }
}

/// What is said of a directory on which a broker runs.
async fn locked(path: &Path) -> DataDirError {
    let text = fs::read(&path.join(LOCK)).await.unwrap_or_default();
    let pid = String::from_utf8_lossy(&text).trim().to_owned();
    let known = !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit());
    DataDirError::Locked {
        path: path.to_owned(),
        pid: known.then_some(pid),
    }
}

async fn take_lock(path: &Path) -> Result<LockFile, DataDirError> {
    let file = path.join(LOCK);
    let taken = fs::try_lock(&file)
        .await
        .map_err(io_error(path, "lock it"))?;
    let Some(lock) = taken else {
        return Err(locked(path).await);
    };
    let pid = format!("{}\n", std::process::id());
    let write = async {
        let file = File::open(&file, OpenMode::CreateOrOpen).await?;
        file.set_len(0).await?;
        file.write_all_at(vec![pid.into()], 0).await
    };
    match write.await {
        // The number only helps whoever finds the directory in use; a node on a full disk must start all the same.
        Err(e) if !fs::is_full(&e) => Err(io_error(path, "write its lock")(e)),
        _ => Ok(lock),
    }
}

async fn read_identity(path: &Path) -> Result<Option<Identity>, DataDirError> {
    let file = path.join(IDENTITY);
    let bytes = match fs::read(&file).await {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io_error(path, "read its identity")(e)),
    };
    let damaged = |what: String| DataDirError::Identity {
        path: file.clone(),
        what,
    };
    if bytes.len() > IDENTITY_BYTES_MAX {
        return Err(damaged("it is too long".into()));
    }
    let text = String::from_utf8(bytes).map_err(|_| damaged("it is no text".into()))?;
    match Identity::decode(&text) {
        Ok(identity) => Ok(Some(identity)),
        Err(IdentityError::Version(found)) => Err(DataDirError::Version {
            path: path.to_owned(),
            found,
        }),
        Err(IdentityError::Malformed(what)) => Err(damaged(what)),
    }
}

async fn make_identity(path: &Path, shards: u16) -> Result<Identity, DataDirError> {
    let identity = Identity::random(shards);
    // The directory's own name first: an identity that was used is never lost with it.
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        match fs::sync_dir(parent).await {
            // A parent that this user cannot open was not made by this user.
            Err(e) if e.kind() != io::ErrorKind::PermissionDenied => {
                return Err(io_error(path, "sync its parent")(e));
            }
            _ => {}
        }
    }
    fs::write_atomic(&path.join(IDENTITY), vec![identity.encode().into()])
        .await
        .map_err(io_error(path, "write its identity"))?;
    Ok(identity)
}
