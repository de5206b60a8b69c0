//! Tasks on the current shard.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::chan::oneshot;
use crate::context::{self, EngineKind};
use crate::sim;

/// Task queues, from most to least urgent. On `uring` they are glommio task queues with shares and
/// latency; on `epoll` and `sim` tasks of all queues share one run queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Queue {
    /// Consensus and the write-ahead log.
    Raft,
    /// Client connections.
    Kafka,
    /// Segment writes, checkpoints, everything that can wait.
    Background,
}

/// Why a joined task has no result.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The task panicked, with this message.
    #[error("task panicked: {0}")]
    Panicked(String),
    /// The task was dropped before it ended (shutdown, or a simulated crash).
    #[error("task was dropped before it ended")]
    Dropped,
}

/// A handle on a spawned task. Dropping it detaches the task, which runs on.
#[derive(Debug)]
pub struct JoinHandle<T>(oneshot::Receiver<Result<T, String>>);

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|r| match r {
            Ok(Ok(v)) => Ok(v),
            Ok(Err(message)) => Err(JoinError::Panicked(message)),
            Err(_) => Err(JoinError::Dropped),
        })
    }
}

/// Runs `future` as a task of the current shard, in `queue`.
///
/// A panic inside it is caught (glommio aborts the process otherwise), logged, and handed to whoever joins.
pub fn spawn<T, F>(queue: Queue, future: F) -> JoinHandle<T>
where
    T: 'static,
    F: Future<Output = T> + 'static,
{
    let (tx, rx) = oneshot::channel();
    let task = async move {
        let result = CatchUnwind::new(future).await;
        if let Err(message) = &result {
            tracing::error!(%message, "task panicked");
        }
        let _ = tx.send(result);
    };
    match context::current() {
        EngineKind::Uring => crate::uring::spawn(queue, task),
        EngineKind::Epoll => drop(tokio::task::spawn_local(task)),
        EngineKind::Sim => sim::spawn(task),
    }
    JoinHandle(rx)
}

/// Lets other tasks of the shard run.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(move |cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Runs blocking `f` on a helper thread of the engine (inline under `sim`).
///
/// # Panics
/// When `f` panics.
pub async fn blocking<T, F>(f: F) -> T
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    match context::current() {
        EngineKind::Uring => crate::uring::blocking(f).await,
        EngineKind::Epoll => match tokio::task::spawn_blocking(f).await {
            Ok(v) => v,
            Err(e) => std::panic::resume_unwind(e.into_panic()),
        },
        EngineKind::Sim => f(),
    }
}

/// What a panic said.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

/// Turns a panic of the inner future into an error, so that no panic crosses a task boundary.
pub(crate) struct CatchUnwind<F>(Pin<Box<F>>);

impl<F: Future> CatchUnwind<F> {
    pub(crate) fn new(future: F) -> CatchUnwind<F> {
        CatchUnwind(Box::pin(future))
    }
}

impl<F: Future> Future for CatchUnwind<F> {
    type Output = Result<F::Output, String>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let inner = AssertUnwindSafe(|| self.0.as_mut().poll(cx));
        match std::panic::catch_unwind(inner) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(v)) => Poll::Ready(Ok(v)),
            Err(payload) => Poll::Ready(Err(panic_message(payload.as_ref()))),
        }
    }
}
