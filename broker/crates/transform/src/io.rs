//! What a processor needs from the broker. All of it lives on the shard of the input partition.

use std::future::Future;
use std::pin::Pin;

use tidemill_model::{Batch, Offset};
use tidemill_wasm_host::{CallOutput, FailedCall, InputBatch, LogLine, OutputBatch};

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
    /// Offset after the last input that can be read now.
    fn end(&self) -> Offset;
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
    /// It cannot be decided now; it may still take effect.
    #[error("the outcome could not be committed: {0}")]
    Unavailable(String),
}

/// Takes outcomes.
pub trait Sink {
    /// Where the transform stands; `None` when it is not attached.
    fn position(&self) -> Option<Offset>;
    /// Waits until `bytes` of output have room (rule X10). The room is given back when the value is dropped.
    fn room(&self, bytes: usize) -> LocalFuture<'_, Box<dyn std::any::Any>>;
    /// Proposes an outcome: queued at the call, in call order.
    fn propose(&self, outcome: Outcome) -> LocalFuture<'static, Result<(), SinkError>>;
}

/// Runs the user's function.
pub trait Runner {
    /// One call.
    fn call(&self, input: Vec<InputBatch>) -> LocalFuture<'_, Result<CallOutput, FailedCall>>;
}

/// Takes what people want to read.
pub trait Observer {
    /// A line the function logged.
    fn guest_line(&self, line: &LogLine);
    /// Something that befell the transform.
    fn event(&self, message: &str);
}
