//! A partition's segment and its index as a disk gives them back, read and written on under the simulation.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use tidemill_model::{Batch, BatchHeader};
use tidemill_partition::codec::Reader;
use tidemill_partition::segment::{
    INDEX_INTERVAL_BYTES, IndexEntry, READ_CHUNK_BYTES, Scan, SegmentError, SegmentMeta,
    SegmentWriter, load_index,
};
use tidemill_partition::tail::Held;
use tidemill_rt::sim::Sim;

use crate::Target;
use crate::alloc::within;
use crate::choices::Choices;

/// Memory for each byte of the files ...
const FILE_FACTOR: usize = 16;
/// ... and for the simulated machine and the buffers that a file is read with.
const FILE_BYTES: usize = 4 << 20;
/// Bytes of a record of the good segment; each has a batch of its own.
const RECORD_BYTES: usize = 9_000;
/// Stretches that the index of the good segment has.
const STRETCHES: usize = 3;
/// Stretches that are looked through in a run.
const LOOKED_THROUGH: usize = 4;
const DIR: &str = "/data/partition";

pub(crate) const SEGMENT: Target = Target {
    name: "segment",
    run: run_segment,
    seeds: segment_seeds,
};

/// A segment, its index, and what a checkpoint says of them.
#[derive(Clone)]
struct Stored {
    segment: Vec<u8>,
    index: Vec<u8>,
    meta: SegmentMeta,
}

/// What is wrong with the good files; everything after says how.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Segment,
    OtherSegment,
    Index,
    OtherIndex,
    Meta,
}

const WRONG: [Wrong; 5] = [
    Wrong::Segment,
    Wrong::OtherSegment,
    Wrong::Index,
    Wrong::OtherIndex,
    Wrong::Meta,
];

fn run_segment(input: &[u8]) {
    let mut choices = Choices::new(input);
    let wrong = WRONG[choices.below(WRONG.len() as u32) as usize];
    let good = good();
    let mut stored = good.clone();
    match wrong {
        Wrong::Segment => choices.damage(&mut stored.segment),
        Wrong::OtherSegment => stored.segment = choices.rest().to_vec(),
        Wrong::Index => choices.damage(&mut stored.index),
        Wrong::OtherIndex => stored.index = choices.rest().to_vec(),
        Wrong::Meta => match SegmentMeta::decode(&mut Reader::new(choices.rest())) {
            Ok(meta) => stored.meta = meta,
            Err(_) => return,
        },
    }
    let (sim, meta) = (Sim::new(1), stored.meta);
    let bytes = stored.segment.len() + stored.index.len();
    for (path, content) in [
        (meta.path(Path::new(DIR)), stored.segment),
        (meta.index_path(Path::new(DIR)), stored.index),
    ] {
        sim.disk().put(&path, &content).expect("the path is free");
    }
    let read = within("a segment", FILE_FACTOR * bytes + FILE_BYTES, || {
        sim.block_on(read_and_write(&meta)).expect("it ends")
    });
    if matches!(wrong, Wrong::Index | Wrong::OtherIndex) {
        let index = read.expect("a damaged index is made anew");
        assert_eq!(index, good_index());
    }
}

/// Reads all of a segment, then appends to it; its index before that.
async fn read_and_write(meta: &SegmentMeta) -> Result<Vec<IndexEntry>, SegmentError> {
    let dir = Path::new(DIR);
    let index = load_index(dir, meta).await?;
    let some = index.iter().take(LOOKED_THROUGH).copied().map(Some);
    for entry in some.chain([None]) {
        scan(meta, entry).await?;
    }
    let mut writer = SegmentWriter::open(dir, meta.clone()).await?;
    writer.append(&[held(meta.next_offset)]).await?;
    writer.sync().await?;
    assert_eq!(writer.meta().next_offset, meta.next_offset.wrapping_add(1));
    Ok(index)
}

/// Reads a segment from a stretch on; its offsets are dense.
async fn scan(meta: &SegmentMeta, entry: Option<IndexEntry>) -> Result<(), SegmentError> {
    let mut scan = Scan::open(Path::new(DIR), meta, entry, READ_CHUNK_BYTES).await?;
    let mut next = entry.map_or(meta.base_offset, |e| e.offset);
    while let Some(batch) = scan.next().await? {
        assert_eq!(batch.header.base_offset, next);
        next = batch.header.next_offset();
        assert!(scan.position() <= meta.bytes);
    }
    Ok(())
}

/// A batch of one record, as a partition places it at `offset`.
fn held(offset: i64) -> Held {
    let bytes = crate::batches::of_one(&[7; RECORD_BYTES]);
    let mut header = BatchHeader::validate(&bytes).expect("well formed");
    header.base_offset = offset;
    header.leader_epoch = 3;
    Held {
        batch: Batch { header, bytes },
        starts_segment: false,
        time_ms: 1,
    }
}

thread_local! {
    static GOOD: RefCell<Option<(Stored, Vec<IndexEntry>)>> = const { RefCell::new(None) };
}

fn good() -> Stored {
    GOOD.with_borrow_mut(|made| made.get_or_insert_with(make).0.clone())
}

fn good_index() -> Vec<IndexEntry> {
    GOOD.with_borrow_mut(|made| made.get_or_insert_with(make).1.clone())
}

fn make() -> (Stored, Vec<IndexEntry>) {
    let (sim, dir) = (Sim::new(1), PathBuf::from(DIR));
    let written = sim.block_on(async {
        tidemill_rt::fs::create_dir_all(&dir)
            .await
            .expect("a new directory");
        let empty = SegmentMeta::new(40);
        let mut writer = SegmentWriter::open(&dir, empty).await.expect("it opens");
        let count = (INDEX_INTERVAL_BYTES as usize * STRETCHES).div_ceil(RECORD_BYTES);
        let batches: Vec<Held> = (40..).take(count).map(held).collect();
        writer.append(&batches).await.expect("it is written");
        writer.sync().await.expect("it is durable");
        let meta = writer.meta().clone();
        let index = load_index(&dir, &meta).await.expect("it is sound");
        (meta, index)
    });
    let (meta, index) = written.expect("nothing crashes");
    assert_eq!(index.len(), STRETCHES);
    let content = |path: PathBuf| sim.disk().read(path).expect("it was written");
    let stored = Stored {
        segment: content(meta.path(&dir)),
        index: content(meta.index_path(&dir)),
        meta,
    };
    (stored, index)
}

fn segment_seeds() -> Vec<Vec<u8>> {
    let good = good();
    let mut seeds = vec![
        [&[1], &good.segment[..1_000]].concat(),
        [&[3], &good.index[..]].concat(),
    ];
    let mut meta = vec![4];
    good.meta.encode(&mut meta);
    seeds.push(meta);
    for wrong in [0u8, 2] {
        // A change, at a place in the header of a batch, in a record, in a later stretch.
        for (high, low) in [(0u8, 9u8), (1, 200), (1, 255), (2, 90)] {
            seeds.push(vec![wrong, 3, 0, 0, high, low, 4, 0, 0, low, high]);
        }
    }
    seeds
}
