//! Tests of the log under the simulator, and of both real engines.

mod checkpoint;
mod data_dir;
mod engines;
mod model;
mod rules;
mod torture;

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;

use crate::{LogConfig, LogError, ShardLog};

/// A small log under the simulator, which remembers what it reported as fatal.
pub(crate) fn small_config(file_bytes: u64) -> (LogConfig, Rc<RefCell<Vec<String>>>) {
    let failures = Rc::new(RefCell::new(Vec::new()));
    let seen = failures.clone();
    let config = LogConfig {
        dir: PathBuf::from("/data/shard-0/log"),
        file_bytes,
        group_bytes_max: 8 << 10,
        fatal: Rc::new(move |e: &LogError| {
            eprintln!("the log failed: {e}");
            seen.borrow_mut().push(e.to_string());
        }),
    };
    (config, failures)
}

/// A callback that counts.
pub(crate) fn count(counter: &Rc<Cell<usize>>) -> Box<dyn FnOnce()> {
    let counter = counter.clone();
    Box::new(move || counter.set(counter.get() + 1))
}

/// Opens without looking at what was recovered.
pub(crate) async fn open(config: &LogConfig) -> ShardLog {
    ShardLog::open(config.clone()).await.expect("it opens").0
}
