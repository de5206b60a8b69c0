//! What a processor needs from the broker. All of it lives on the shard of the input partition.

use std::future::Future;
use std::pin::Pin;

use tidemill_model::{Batch, Offset};
use tidemill_wasm_host::{CallOutput, FailedCall, InputBatch, LogLevel, LogLine, OutputBatch};

/// A future on one shard.
pub type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Committed input.
#[derive(Debug)]
pub struct InputRun {
    /// Batches in order; the first may begin before the offset asked for.
    pub batches: Vec<Batch>,
    /// Where to read next: past the last batch, and past what was left out (aborted batches, control batches).
    pub next: Offset,
}

/// Why there is no input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// What was asked for has been deleted by retention; reading goes on at `log_start_offset`.
    #[error("input up to offset {log_start_offset} was deleted before it was read")]
    Deleted {
        /// The oldest offset kept.
        log_start_offset: Offset,
    },
    /// The input partition is gone.
    #[error("the input topic was deleted")]
    Gone,
    /// It cannot be read now.
    #[error("input cannot be read: {0}")]
    Unavailable(String),
}

/// Input below the last stable offset, without aborted and control batches (rule X9).
pub trait Source {
    /// The run of input at `from`, about `max_bytes` long, at least one batch. Waits until there is some; woken by
    /// commits, never by polling. Dropping the future loses nothing.
    fn read(
        &self,
        from: Offset,
        max_bytes: usize,
    ) -> LocalFuture<'_, Result<InputRun, SourceError>>;
}

/// What a run of input came to: decided once, by one entry.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// First input offset it decides; must be where the transform stands.
    pub first: Offset,
    /// Offset after the last.
    pub next: Offset,
    /// Complete record batches, by output index, in order.
    pub outputs: Vec<OutputBatch>,
}

/// Why an outcome was not taken. It has no effect then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// The transform stands elsewhere.
    #[error("the transform stands at offset {stands_at}")]
    Stale {
        /// There.
        stands_at: Offset,
    },
    /// The transform is not attached to the partition (any more).
    #[error("the transform is not attached to this partition")]
    Detached,
    /// An output topic is gone.
    #[error(
        "output topic '{0}' does not exist any more; deploy the transform again with another output"
    )]
    OutputGone(String),
    /// It puts out more than one outcome may: it is to be cut up.
    #[error("the outcome has {bytes} bytes of output, the limit is {max_bytes}")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        max_bytes: u64,
    },
    /// It cannot be decided now; it may still take effect.
    #[error("the outcome could not be committed: {0}")]
    Unavailable(String),
}

/// Room for output, given back when it is dropped.
pub trait Room: std::fmt::Debug {
    /// Bytes there is room for.
    fn bytes(&self) -> usize;
    /// Makes it `bytes` large. `false`, and nothing changes, when it would have to wait for that.
    fn resize(&mut self, bytes: usize) -> bool;
}

/// Takes outcomes.
pub trait Sink {
    /// Where the transform stands; `None` when it is not attached.
    fn position(&self) -> Option<Offset>;
    /// Bytes of output that an outcome may have at most; as much has room when nobody else has any.
    fn outcome_bytes_max(&self) -> usize;
    /// Waits while outputs cannot be written, whatever room there is: the disk is full, or one of them was set aside. To be awaited before
    /// anything is taken that others wait for; ready at once where nothing is in the way.
    fn ready(&self) -> LocalFuture<'_, ()>;
    /// Waits until `bytes` of output have room (rule X10); more than [`Sink::outcome_bytes_max`] is cut to that.
    fn room(&self, bytes: usize) -> LocalFuture<'_, Box<dyn Room>>;
    /// Proposes an outcome, which is no larger than the room held for it (rule X8): queued at the call, in call order.
    fn propose(&self, outcome: Outcome) -> LocalFuture<'static, Result<(), SinkError>>;
}

/// Runs the user's function.
pub trait Runner {
    /// One call.
    fn call(&self, input: Vec<InputBatch>) -> LocalFuture<'_, Result<CallOutput, FailedCall>>;
}

/// Something that befell a transform, in words for people.
#[derive(Debug, Clone, Copy)]
pub struct Happening<'a> {
    /// How much it matters.
    pub level: LogLevel,
    /// The input offset it is about, where it is about one.
    pub offset: Option<Offset>,
    /// What happened.
    pub message: &'a str,
}

/// Takes what people want to read. Must not block.
pub trait Observer {
    /// A line the function logged; `offset` is known where the call was about one record.
    fn guest_line(&self, line: &LogLine, offset: Option<Offset>);
    /// Something that befell the transform.
    fn event(&self, happening: Happening<'_>);
}
