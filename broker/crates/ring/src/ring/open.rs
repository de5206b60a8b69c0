//! Opening a ring: checkpoint, then the log behind it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::Bytes;
use tidemill_consensus::{Group, GroupConfig, StateMachine};
use tidemill_model::PartitionId;
use tidemill_partition::segment::SegmentError;
use tidemill_rt::chan::notify::Notify;
use tidemill_rt::fs;
use tidemill_shardlog::{RecoveredRing, ShardLog, checkpoint as file};

use super::{Ring, RingConfig, Shared};
use crate::checkpoint;
use crate::command::Copying;
use crate::error::RingError;
use crate::machine::{Machine, Wake};
use crate::room::Rooms;
use crate::sweep::Sweeper;

impl Ring {
    /// Opens a ring from its checkpoint and what the shard log recovered; returns when it leads and everything is applied.
    ///
    /// # Errors
    /// [`RingError`] when checkpoint or log cannot be used.
    pub async fn open(
        config: RingConfig,
        log: ShardLog,
        recovered: RecoveredRing,
    ) -> Result<Ring, RingError> {
        let partitions_dir = config.shard_dir.join("partitions");
        prepare_folders(&config).await?;
        let wake = Wake {
            dirty: Notify::new(),
            full: config.memory.pressure(),
            flush_bytes: config.flush_bytes,
            retention: Notify::new(),
            outbox: Notify::new(),
            rooms: Rooms::new(config.outbox_bytes),
        };
        let mut machine = Machine::new(partitions_dir, config.memory.clone(), wake.clone());
        let point = load(&config, &mut machine).await?;
        let left_behind: Vec<PartitionId> = machine.dropped.iter().copied().collect();
        wake.rooms.set_used(machine.state.outbox().bytes());
        let machine = Rc::new(RefCell::new(machine));
        let driven: Rc<RefCell<dyn StateMachine>> = machine.clone();
        let space = log.space().clone();
        let group = GroupConfig::new(config.ring, config.node);
        let group = Group::open(group, log, recovered, point, driven).await?;
        machine.borrow_mut().copying = Copying::Never;
        let ring = Ring(Rc::new(Shared {
            leadership: group.leadership(),
            space,
            config,
            group,
            machine,
            wake,
            closing: Cell::new(false),
            checkpointed: Cell::new(0),
            checkpoints: Cell::new(0),
            checkpoint_failures: Cell::new(0),
            segment_failures: Cell::new(0),
            segment_damage: Cell::new(0),
            checkpoint_bytes: Cell::new(0),
            sweeper: Sweeper::new(),
            stopped: Cell::new(false),
            line: RefCell::default(),
            gathering: RefCell::default(),
            flusher: RefCell::new(None),
            helpers: RefCell::default(),
        }));
        ring.sweep_left_behind(left_behind);
        ring.start_flusher();
        ring.start_helpers();
        Ok(ring)
    }

    /// Goes on removing what the checkpoint said was to go. What was dropped behind it waits for the next one.
    fn sweep_left_behind(&self, dropped: Vec<PartitionId>) {
        self.0.sweeper.take_folders(dropped);
        for (id, log) in &self.0.machine.borrow().logs {
            self.0.sweeper.take_segments(*id, log);
        }
    }
}

async fn prepare_folders(config: &RingConfig) -> Result<(), RingError> {
    let make = async {
        fs::create_dir_all(&config.shard_dir.join("partitions")).await?;
        fs::create_dir_all(&config.shard_dir.join("rings")).await?;
        fs::sync_dir(&config.shard_dir).await
    };
    make.await.map_err(|error| {
        RingError::Segment(SegmentError::Io {
            path: config.shard_dir.clone(),
            error,
        })
    })
}

async fn load(config: &RingConfig, machine: &mut Machine) -> Result<Option<Bytes>, RingError> {
    let path = checkpoint::path(&config.shard_dir, config.ring);
    let content = file::read(&path).await.map_err(|e| RingError::Checkpoint {
        ring: config.ring,
        path: path.clone(),
        message: e.to_string(),
    })?;
    let Some(content) = content else {
        return Ok(None);
    };
    let point = checkpoint::load(&content, machine);
    point.map(Some).map_err(|source| RingError::Decode {
        ring: config.ring,
        source,
    })
}
