//! What crosses between a shard and its guest thread.

use bytes::Bytes;
use tidemill_model::Offset;
use tidemill_model::batch::Compression;

/// A transform on a guest thread; the caller gives the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransformKey(pub u64);

/// The largest [`Limits::memory_bytes`], in bytes: the engine gives no instance more.
pub const MEMORY_BYTES_MAX: usize = 512 << 20;

/// What a call may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// CPU time of one call, in ms.
    pub time_ms: u64,
    /// Memory of an instance, in bytes; at most [`MEMORY_BYTES_MAX`].
    pub memory_bytes: usize,
}

impl Default for Limits {
    /// What a deployment has that says nothing: 3,000 ms and 64 MiB.
    fn default() -> Limits {
        Limits {
            time_ms: 3000,
            memory_bytes: 64 << 20,
        }
    }
}

/// A batch of the input.
#[derive(Debug, Clone)]
pub struct InputBatch {
    /// Offset of the batch's base.
    pub base_offset: Offset,
    /// The batch's base timestamp, in ms.
    pub base_timestamp: i64,
    /// Records in it.
    pub record_count: u32,
    /// The record section, uncompressed. It need not have been checked.
    pub records: Bytes,
}

/// An output as its transform's calls see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputTopic {
    /// Bytes of the largest batch that it takes, before compression.
    pub max_bytes: usize,
    /// Its partitions; `None` where nobody knows: then any may be named, and what goes by key is not told apart.
    pub partitions: Option<u32>,
    /// How batches for it are compressed.
    pub compression: Compression,
    /// Whether records go by key that the function did not place itself.
    pub by_key: bool,
}

impl OutputTopic {
    /// One that nothing is known of but the bytes of its largest batch.
    pub fn of_max_bytes(max_bytes: usize) -> OutputTopic {
        OutputTopic {
            max_bytes,
            partitions: None,
            compression: Compression::None,
            by_key: false,
        }
    }
}

/// Which partition of its output a batch goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Destination {
    /// The input partition's number, modulo the output's partitions.
    ByInput,
    /// That of each record's key. Only where the number of partitions is not known.
    ByKey,
    /// This one.
    Partition(i32),
}

/// A batch to be appended to an output.
#[derive(Debug, Clone)]
pub struct OutputBatch {
    /// Index into the transform's outputs.
    pub output: u32,
    /// Which partition it goes to.
    pub to: Destination,
    /// Records in it.
    pub records: u32,
    /// The whole batch, magic 2, checked, base offset 0, no producer; compressed where its output asks for that and it gets smaller.
    pub batch: Bytes,
}

/// A record that the transform refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordFailure {
    /// Its offset in the input, as the guest says; at or above the first base offset of the call.
    pub offset: Offset,
    /// Why, as the guest says, at most 1 KiB.
    pub message: String,
}

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// For whoever hunts a fault.
    Debug,
    /// Worth knowing; also what the guest writes to its standard output.
    Info,
    /// Worth a look; also what the guest writes to its standard error.
    Warn,
    /// Wrong.
    Error,
}

impl LogLevel {
    /// In lower case, for people and APIs.
    pub fn name(self) -> &'static str {
        match self {
            LogLevel::Debug => "debug",
            LogLevel::Info => "info",
            LogLevel::Warn => "warn",
            LogLevel::Error => "error",
        }
    }
}

/// A line the guest wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// How much it matters.
    pub level: LogLevel,
    /// The line, at most 1 KiB.
    pub message: String,
}

/// The result of a call.
#[derive(Debug, Clone, Default)]
pub struct CallOutput {
    /// Batches for the outputs; those of one output in the order they were written.
    pub outputs: Vec<OutputBatch>,
    /// Records that the transform refused.
    pub failures: Vec<RecordFailure>,
    /// What the guest wrote to its log.
    pub logs: Vec<LogLine>,
    /// CPU time of the call, in ns.
    pub cpu_ns: u64,
    /// Memory that the instance has after the call, in bytes.
    pub memory_bytes: u64,
}

/// A call without a result, and what it left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedCall {
    /// Why it has none.
    pub error: CallError,
    /// What the guest wrote to its log before.
    pub logs: Vec<LogLine>,
    /// CPU time of the call, in ns.
    pub cpu_ns: u64,
}

impl From<CallError> for FailedCall {
    fn from(error: CallError) -> FailedCall {
        FailedCall {
            error,
            logs: Vec::new(),
            cpu_ns: 0,
        }
    }
}

/// Why a call has no result. Nothing of it may become visible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The guest trapped or panicked, or its module refused the call as a whole.
    #[error("the transform ended abruptly: {0}")]
    Trap(String),
    /// The call used up its CPU time.
    #[error(
        "the transform ran for more than {limit_ms} ms of CPU time; make it faster, or raise its limit (time_ms in transform.toml, --time-ms)"
    )]
    Timeout {
        /// What it may use, in ms.
        limit_ms: u64,
    },
    /// The guest wanted more memory than it may have.
    #[error(
        "the transform wanted {wanted_bytes} bytes of memory and may have {limit_bytes}; make it smaller, or raise its limit (memory_mb in transform.toml, --memory-mb)"
    )]
    Memory {
        /// What it would have had, in bytes.
        wanted_bytes: usize,
        /// What it may have, in bytes.
        limit_bytes: usize,
    },
    /// What the guest returned is not valid.
    #[error("the transform returned garbage: {0}; was it built with another version of the SDK?")]
    Garbage(String),
    /// The output is more than one call may put out.
    #[error("the transform put out too much at once: {0}")]
    TooMuch(String),
    /// A record of the output goes to a partition that its topic does not have.
    #[error("the transform wrote to a partition that its output topic does not have: {0}")]
    NoPartition(String),
    /// A record of the output is larger than its topic takes.
    #[error("the transform wrote a record that its output topic cannot take: {0}")]
    TooLarge(String),
    /// More calls of the transform are waiting than may.
    #[error("the transform has {0} calls waiting; try again later")]
    Busy(usize),
    /// The engine could not be started, or no instance of the module be made: the input has nothing to do with it.
    #[error("transforms cannot run here: {0}")]
    Unavailable(String),
    /// The transform was unregistered or the guest stopped meanwhile.
    #[error("the transform was stopped")]
    Stopped,
}

/// The environment of a guest as `wit/world.wit` promises it: the transform's name, input and outputs, then `user`, whose
/// variables cannot replace those three.
pub fn guest_env(
    name: &str,
    input_topic: &str,
    outputs: &[String],
    user: &[(String, String)],
) -> Vec<(String, String)> {
    let mut env = vec![
        ("TIDEMILL_TRANSFORM".to_owned(), name.to_owned()),
        ("TIDEMILL_INPUT_TOPIC".to_owned(), input_topic.to_owned()),
        ("TIDEMILL_OUTPUTS".to_owned(), outputs.join(",")),
    ];
    let reserved = env.len();
    for (key, value) in user {
        if !env[..reserved].iter().any(|(k, _)| k == key) {
            env.push((key.clone(), value.clone()));
        }
    }
    env
}
