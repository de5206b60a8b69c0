//! The thread of a shard on `epoll` that writes its log, and nothing else: on the engine's helper threads a write would wait
//! behind every cold read that came before it.

use std::cell::RefCell;
use std::io;
use std::sync::mpsc;

use crate::mailbox::reply;
use crate::task;

type Job = Box<dyn FnOnce() + Send>;

thread_local! {
    /// The way to this shard's thread, once there is one. It ends when this goes with the shard's own.
    static WRITER: RefCell<Option<mpsc::Sender<Job>>> = const { RefCell::new(None) };
}

/// Runs `write` on the thread of the log's writes; in call order. Without threads left in the system it shares the others'.
/// Bounded by its callers: a log has one write under way.
pub(crate) async fn run<T, F>(write: F) -> T
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let Some(writer) = writer() else {
        return task::blocking(write).await;
    };
    let (tx, rx) = reply::reply();
    let job: Job = Box::new(move || tx.send(write()));
    writer
        .send(job)
        .expect("the thread lives as long as somebody can send");
    rx.recv().await.expect("a write does not panic")
}

fn writer() -> Option<mpsc::Sender<Job>> {
    WRITER.with_borrow_mut(|known| {
        if known.is_none() {
            match start() {
                Ok(started) => *known = Some(started),
                Err(error) => {
                    tracing::warn!(%error, "no thread for the log's writes alone; they share those of reads");
                }
            }
        }
        known.clone()
    })
}

fn start() -> io::Result<mpsc::Sender<Job>> {
    let (tx, jobs) = mpsc::channel::<Job>();
    let shard = std::thread::current();
    // Names of threads have 15 letters.
    let name = format!("{}-log", shard.name().unwrap_or("shard"));
    let work = move || jobs.into_iter().for_each(|job| job());
    std::thread::Builder::new().name(name).spawn(work)?;
    Ok(tx)
}
