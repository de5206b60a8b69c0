//! The log on the real engines, on a real file system.

use std::path::PathBuf;
use std::rc::Rc;

use bytes::Bytes;
use tidemill_model::RingId;
use tidemill_rt::runtime::{self, EngineChoice};

use crate::{Frame, LogConfig, ShardLog};

async fn write_and_read_back(dir: PathBuf) {
    let mut config = LogConfig::new(dir, Rc::new(|e| panic!("{e}")));
    config.file_bytes = 1 << 20;
    let ring = RingId(3);
    for life in 0..3u64 {
        let (log, rings) = ShardLog::open(config.clone()).await.expect("it opens");
        let found = rings.get(&ring).map_or(0, |r| r.entries.len() as u64);
        assert_eq!(found, life * 100);
        for index in life * 100 + 1..=life * 100 + 100 {
            let data = vec![Bytes::from(vec![index as u8; 37 * index as usize])];
            log.append(ring, vec![Frame::Entry { index, data }], Box::new(|| {}));
        }
        log.barrier().await;
        log.close().await;
    }
    let (_, rings) = ShardLog::open(config).await.expect("it opens");
    for (index, data) in &rings[&ring].entries {
        assert_eq!(data.len() as u64, 37 * index);
        assert!(data.iter().all(|b| *b == *index as u8));
    }
}

fn on(engine: EngineChoice) {
    let name = format!("tidemill-log-{engine:?}-{}", std::process::id());
    // Not the temporary directory: that is often in memory, where nothing is direct.
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../../target")
        .join(name);
    let used = dir.clone();
    runtime::block_on(engine, move || write_and_read_back(used.join("log"))).expect("it runs");
    std::fs::remove_dir_all(dir).expect("it was made");
}

#[test]
fn log_round_trips_on_epoll() {
    on(EngineChoice::Epoll);
}

#[test]
fn log_round_trips_on_uring_where_it_works() {
    if runtime::resolve(EngineChoice::Uring).is_ok() {
        on(EngineChoice::Uring);
    }
}
