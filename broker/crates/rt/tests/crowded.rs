//! Shards whose processor is taken away at any moment: whatever the timing, nothing that can run is left lying.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use tidemill_rt::mailbox;
use tidemill_rt::runtime::{self, EngineChoice, RuntimeConfig};
use tidemill_rt::task::{Queue, blocking, spawn, yield_now};
use tidemill_rt::time;

/// Rounds of starting shards.
const STARTS: usize = 20;
/// Shards that start at once.
const SHARDS: u16 = 16;
/// Threads that only burn, beside the shard.
const BURNERS: usize = 8;
/// Far more than a start takes when the machine is crowded.
const PATIENCE: Duration = Duration::from_secs(60);

/// Burns until dropped.
struct Crowd(Arc<AtomicBool>);

impl Crowd {
    fn gather() -> Crowd {
        let stop = Arc::new(AtomicBool::new(false));
        for _ in 0..BURNERS {
            let stop = stop.clone();
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        Crowd(stop)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Something of everything that wakes a task.
async fn errands() {
    let (tx, mut rx) = mailbox::channel(1);
    let sender = std::thread::spawn(move || tx.try_send(7).is_ok());
    let tasks = [Queue::Raft, Queue::Kafka, Queue::Background].map(|queue| {
        spawn(queue, async {
            yield_now().await;
            time::sleep(Duration::from_micros(300)).await;
            blocking(|| ()).await;
        })
    });
    assert_eq!(rx.recv().await, Some(7));
    for task in tasks {
        task.await.unwrap();
    }
    assert!(sender.join().unwrap());
}

#[test]
fn shard_whose_processor_is_taken_away_leaves_no_task_lying() {
    let _crowd = Crowd::gather();
    for engine in [EngineChoice::Epoll, EngineChoice::Auto] {
        for start in 0..STARTS {
            let (done, ended) = channel();
            std::thread::spawn(move || {
                let config = RuntimeConfig {
                    engine,
                    shards: SHARDS,
                    pin: false,
                };
                let shards = runtime::start(&config, |_| errands()).unwrap();
                shards.join().unwrap();
                done.send(()).unwrap();
            });
            match ended.recv_timeout(PATIENCE) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => panic!("{engine:?} hangs at start {start}"),
                Err(RecvTimeoutError::Disconnected) => panic!("{engine:?} failed at start {start}"),
            }
        }
    }
}
