//! A processor's source, sink and runner: the ring of its input partition and the shard's guest thread.

use std::cell::Cell;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use tidemill_controller::TransformSpec;
use tidemill_model::{Offset, PartitionId};
use tidemill_ring::{Isolation, OutboxRoom, OutcomeError, ReadError, Ring};
use tidemill_transform::io::LocalFuture;
use tidemill_transform::{InputRun, Outcome, Room, Runner, Sink, SinkError, Source, SourceError};
use tidemill_wasm_host::{CallOutput, Destination, FailedCall, Guest, InputBatch, TransformKey};

use crate::shard::Shard;

/// Committed input of one partition.
#[derive(Debug)]
pub(crate) struct RingSource {
    pub(crate) ring: Ring,
    pub(crate) partition: PartitionId,
}

impl RingSource {
    async fn read_now(
        &self,
        from: Offset,
        max_bytes: usize,
    ) -> Result<Option<InputRun>, SourceError> {
        let read = self
            .ring
            .read(self.partition, from, max_bytes, Isolation::ReadCommitted)
            .await;
        let read = match read {
            Ok(read) => read,
            Err(ReadError::OffsetOutOfRange {
                log_start_offset, ..
            }) if log_start_offset > from => {
                return Err(SourceError::Deleted { log_start_offset });
            }
            Err(ReadError::UnknownPartition) => return Err(SourceError::Gone),
            Err(e) => return Err(SourceError::Unavailable(e.to_string())),
        };
        let Some(last) = read.batches.last() else {
            return Ok(None);
        };
        let next = last.header.next_offset();
        let data = |b: &tidemill_model::Batch| !b.header.is_control();
        Ok(Some(InputRun {
            batches: read.batches.into_iter().filter(data).collect(),
            next,
        }))
    }
}

impl Source for RingSource {
    fn read(
        &self,
        from: Offset,
        max_bytes: usize,
    ) -> LocalFuture<'_, Result<InputRun, SourceError>> {
        Box::pin(async move {
            loop {
                // Asked for before the read, so that a commit in between is not missed.
                let changed = self
                    .ring
                    .changed(self.partition)
                    .ok_or(SourceError::Gone)?
                    .notified();
                if let Some(run) = self.read_now(from, max_bytes).await? {
                    return Ok(run);
                }
                changed.await;
            }
        })
    }
}

/// Proposes outcomes in the ring of the input partition.
#[derive(Debug)]
pub(crate) struct RingSink {
    pub(crate) shard: Weak<Shard>,
    pub(crate) ring: Ring,
    pub(crate) partition: PartitionId,
    pub(crate) spec: Arc<TransformSpec>,
    /// How often the transform had been moved by a seek when its position was asked for last: what is proposed from then on was made
    /// from there.
    pub(crate) moves: Cell<u32>,
}

impl RingSink {
    /// The partition that a batch of output `index` goes to.
    fn target(
        &self,
        shard: &Rc<Shard>,
        index: u32,
        to: Destination,
    ) -> Result<PartitionId, SinkError> {
        let gone = |name: &str| SinkError::OutputGone(name.to_owned());
        let output = self
            .spec
            .outputs
            .get(index as usize)
            .ok_or_else(|| gone(&format!("number {index}")))?;
        let image = shard.image();
        let topic = image
            .topic_by_id(output.id)
            .ok_or_else(|| gone(&output.name))?;
        let partition = match to {
            Destination::ByInput => self.partition.index % topic.partition_count(),
            Destination::Partition(index) if index < topic.partition_count() => index,
            // The topic is another one now, and the function has not been told yet.
            Destination::Partition(index) => {
                let message = format!("'{}' has no partition {index}", output.name);
                return Err(SinkError::Unavailable(message));
            }
            Destination::ByKey => {
                let message = format!("the partitions of '{}' are not known", output.name);
                return Err(SinkError::Unavailable(message));
            }
        };
        Ok(topic.partition(partition))
    }

    /// The partitions that outputs go to, as far as their topics are there.
    fn targets(&self) -> Vec<PartitionId> {
        let Some(shard) = self.shard.upgrade() else {
            return Vec::new();
        };
        let outputs = 0..self.spec.outputs.len() as u32;
        outputs
            .filter_map(|index| self.target(&shard, index, Destination::ByInput).ok())
            .collect()
    }

    fn outcome(&self, outcome: Outcome) -> Result<tidemill_ring::Outcome, SinkError> {
        let shard = self.shard.upgrade().ok_or(SinkError::Detached)?;
        let mut outputs = Vec::with_capacity(outcome.outputs.len());
        for output in outcome.outputs {
            outputs.push((self.target(&shard, output.output, output.to)?, output.batch));
        }
        Ok(tidemill_ring::Outcome {
            input: self.partition,
            incarnation: self.spec.incarnation(),
            moves: self.moves.get(),
            version: self.spec.version,
            first: outcome.first,
            next: outcome.next,
            outputs,
        })
    }
}

/// Room in the outbox of the ring.
#[derive(Debug)]
struct RingRoom(OutboxRoom);

impl Room for RingRoom {
    fn bytes(&self) -> usize {
        self.0.bytes() as usize
    }

    fn resize(&mut self, bytes: usize) -> bool {
        self.0.resize(bytes as u64)
    }
}

impl Sink for RingSink {
    fn position(&self) -> Option<Offset> {
        let standing = self
            .ring
            .standing(self.partition, self.spec.incarnation())?;
        self.moves.set(standing.moves);
        Some(standing.position)
    }

    fn outcome_bytes_max(&self) -> usize {
        self.ring.outcome_bytes_max() as usize
    }

    fn ready(&self) -> LocalFuture<'_, ()> {
        Box::pin(async move {
            self.ring.disk_room().await;
            for target in self.targets() {
                self.ring.writable(target).await;
            }
        })
    }

    fn room(&self, bytes: usize) -> LocalFuture<'_, Box<dyn Room>> {
        Box::pin(async move {
            let room: Box<dyn Room> = Box::new(RingRoom(self.ring.outbox_room(bytes as u64).await));
            room
        })
    }

    fn propose(&self, outcome: Outcome) -> LocalFuture<'static, Result<(), SinkError>> {
        let outcome = match self.outcome(outcome) {
            Ok(outcome) => outcome,
            Err(e) => return Box::pin(async move { Err(e) }),
        };
        let proposed = self.ring.propose_outcome(outcome);
        Box::pin(async move {
            match proposed.await {
                Ok(_) => Ok(()),
                Err(OutcomeError::Stale { stands_at }) => Err(SinkError::Stale { stands_at }),
                Err(OutcomeError::NotAttached) => Err(SinkError::Detached),
                Err(OutcomeError::TooLarge { bytes, max_bytes }) => {
                    Err(SinkError::TooLarge { bytes, max_bytes })
                }
                Err(e) => Err(SinkError::Unavailable(e.to_string())),
            }
        })
    }
}

/// Calls the function in the shard's guest thread.
#[derive(Debug)]
pub(crate) struct GuestRunner {
    pub(crate) guest: Guest,
    pub(crate) key: TransformKey,
    /// The input partition's number.
    pub(crate) partition: i32,
}

impl Runner for GuestRunner {
    fn call(&self, input: Vec<InputBatch>) -> LocalFuture<'_, Result<CallOutput, FailedCall>> {
        Box::pin(self.guest.call(self.key, self.partition, input))
    }
}
