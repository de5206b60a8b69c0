//! Files as a disk gives them back: a shard's write-ahead log and a checkpoint, read under the simulation.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;
use tidemill_model::RingId;
use tidemill_rt::sim::Sim;
use tidemill_shardlog::{Frame, LogConfig, ShardLog, checkpoint};

use crate::Target;
use crate::alloc::within;
use crate::choices::Choices;

/// Memory for each byte of a file ...
const FILE_FACTOR: usize = 64;
/// ... and for the simulated machine, the buffer that a file is read with and the new file of a log that is opened.
const FILE_BYTES: usize = 8 << 20;
/// Size of the files of a log.
const LOG_FILE_BYTES: u64 = 64 << 10;

const LOG_DIR: &str = "/data/log";
const CHECKPOINT: &str = "/data/rings/0.checkpoint";

pub(crate) const FILE: Target = Target {
    name: "file",
    run: run_file,
    seeds: file_seeds,
};

/// Which file, then whether its content follows or changes to a good one.
fn run_file(input: &[u8]) {
    let mut choices = Choices::new(input);
    let kind = choices.below(2);
    let raw = choices.below(2) == 0;
    let good = if kind == 0 {
        good_log()
    } else {
        good_checkpoint()
    };
    let file = choices.below(good.len() as u32) as usize;
    let mut files = good;
    match raw {
        true => files[file].1 = choices.rest().to_vec(),
        false => choices.damage(&mut files[file].1),
    }
    let bytes: usize = files.iter().map(|(_, content)| content.len()).sum();
    let sim = Sim::new(1);
    for (path, content) in &files {
        sim.disk().put(path, content).expect("the path is free");
    }
    let read = async {
        match kind {
            0 => drop(ShardLog::open(log_config()).await),
            _ => drop(checkpoint::read(Path::new(CHECKPOINT)).await),
        }
    };
    within("reading a file", FILE_FACTOR * bytes + FILE_BYTES, || {
        sim.block_on(read).expect("reading ends");
    });
}

fn log_config() -> LogConfig {
    LogConfig {
        file_bytes: LOG_FILE_BYTES,
        group_bytes_max: 8 << 10,
        ..LogConfig::new(PathBuf::from(LOG_DIR), Rc::new(|_| {}))
    }
}

type Files = Vec<(PathBuf, Vec<u8>)>;

thread_local! {
    static LOG: RefCell<Option<Files>> = const { RefCell::new(None) };
}

/// The files of a log in which there is some of everything.
fn good_log() -> Files {
    LOG.with_borrow_mut(|made| made.get_or_insert_with(make_log).clone())
}

fn make_log() -> Files {
    let sim = Sim::new(1);
    let written = sim.block_on(async {
        let (log, _) = ShardLog::open(log_config()).await.expect("an empty log");
        for index in 1..=40u64 {
            let data = vec![
                Bytes::from(vec![index as u8; 900]),
                Bytes::from_static(b"tail"),
            ];
            log.append(
                RingId(1),
                vec![Frame::Entry { index, data }],
                Box::new(|| {}),
            );
            if index % 16 == 0 {
                let data = Bytes::from_static(b"vote");
                log.append(RingId(2), vec![Frame::Vote { data }], Box::new(|| {}));
                log.barrier().await;
            }
        }
        let truncate = Frame::Truncate { after: 38 };
        log.append(RingId(1), vec![truncate], Box::new(|| {}));
        let data = Bytes::from_static(b"purged");
        log.append(
            RingId(1),
            vec![Frame::Purge { upto: 2, data }],
            Box::new(|| {}),
        );
        log.barrier().await;
        log.close().await;
    });
    written.expect("nothing crashes");
    contents(&sim)
}

fn good_checkpoint() -> Files {
    let sim = Sim::new(1);
    let written = sim.block_on(async {
        let path = Path::new(CHECKPOINT);
        let parts = vec![Bytes::from_static(b"some"), Bytes::from(vec![7; 300])];
        tidemill_rt::fs::create_dir_all(Path::new("/data/rings"))
            .await
            .expect("a new directory");
        checkpoint::write(path, parts).await.expect("it is written");
    });
    written.expect("nothing crashes");
    contents(&sim)
}

fn contents(sim: &Sim) -> Files {
    let disk = sim.disk();
    let read = |path: PathBuf| {
        let content = disk.read(&path).expect("it was listed");
        (path, content)
    };
    disk.files().into_iter().map(read).collect()
}

fn file_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (kind, files) in [(0u8, good_log()), (1, good_checkpoint())] {
        for (file, (_, content)) in files.iter().enumerate() {
            // Short heads: a whole log is long, and changes to it are what the other form says.
            let head = &content[..content.len().min(1_200)];
            seeds.push([&[kind, 0, file as u8], head].concat());
            for at in [3u8, 40, 200] {
                seeds.push(vec![kind, 1, file as u8, 3, 0, 0, at, at, 4, 0, 0, 1, at]);
            }
        }
    }
    seeds
}
