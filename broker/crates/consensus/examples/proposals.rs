//! Proposals per second of one ring on one shard, every one durable: `proposals DIR [epoll|uring]`.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tidemill_consensus::{AppliedAt, Group, GroupConfig, Reply, StateMachine};
use tidemill_model::{Command, NodeId, RingId};
use tidemill_rt::runtime::{EngineChoice, block_on};
use tidemill_rt::task::{self, Queue};
use tidemill_rt::time::Instant;
use tidemill_shardlog::{LogConfig, ShardLog};

const RING: RingId = RingId(1);
const RUN: Duration = Duration::from_secs(2);
const BODY_BYTES: usize = 1_000;

struct Nothing;

impl StateMachine for Nothing {
    fn apply(&mut self, _at: AppliedAt, _command: &Command) -> Reply {
        Box::new(())
    }
}

async fn open(dir: PathBuf) -> Group {
    let config = LogConfig {
        dir,
        file_bytes: 64 << 20,
        group_bytes_max: 1 << 20,
        fatal: Rc::new(|e| panic!("{e}")),
    };
    let (log, mut rings) = ShardLog::open(config).await.expect("the log opens");
    let recovered = rings.remove(&RING).unwrap_or_default();
    let config = GroupConfig::new(RING, NodeId(1));
    let started = Instant::now();
    let group = Group::open(config, log, recovered, None, Rc::new(RefCell::new(Nothing)))
        .await
        .expect("the group opens");
    println!("leading after {:?}", started.elapsed());
    group
}

async fn measure(group: &Group, writers: usize) {
    let (count, end) = (Rc::new(Cell::new(0_u64)), Instant::now() + RUN);
    let body = Bytes::from(vec![7; BODY_BYTES]);
    let mut tasks = Vec::new();
    for _ in 0..writers {
        let (group, count, body) = (group.clone(), count.clone(), body.clone());
        tasks.push(task::spawn(Queue::Kafka, async move {
            while Instant::now() < end {
                let command = Command {
                    head: Bytes::from_static(b"append"),
                    bodies: vec![body.clone()],
                };
                group.propose(command).await.expect("it is written");
                count.set(count.get() + 1);
            }
        }));
    }
    for task in tasks {
        task.await.expect("no writer panics");
    }
    println!("{writers:4} writers: {}/s", count.get() / RUN.as_secs());
    let point = group.checkpoint_point();
    group.durable(point.index).await;
    group
        .checkpoint_written(point)
        .await
        .expect("the log is purged");
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(
        arguments
            .next()
            .expect("usage: proposals DIR [epoll|uring]"),
    );
    let engine = match arguments.next().as_deref() {
        Some("uring") => EngineChoice::Uring,
        _ => EngineChoice::Epoll,
    };
    let done = block_on(engine, move || {
        let dir = dir.clone();
        async move {
            let group = open(dir).await;
            for writers in [1, 64, 256] {
                measure(&group, writers).await;
            }
            group.shutdown().await;
        }
    });
    done.expect("the engine starts");
}
