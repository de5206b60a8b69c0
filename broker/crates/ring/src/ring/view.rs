//! Looking at partitions and reading them.

use tidemill_model::{Offset, PartitionId};
use tidemill_partition::log::Bounds;
use tidemill_partition::producers::ActiveProducer;
use tidemill_partition::segment::SegmentError;
use tidemill_partition::{
    Isolation, PartitionConfig, PartitionLog, PartitionState, Read, ReadError,
};
use tidemill_rt::chan::notify::Notify;
use tidemill_rt::chan::watch;

use super::Ring;

/// A partition as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionView {
    /// First offset that can be read.
    pub log_start_offset: Offset,
    /// Offset after the last committed record.
    pub high_watermark: Offset,
    /// Offset below which no transaction is open.
    pub last_stable_offset: Offset,
    /// Kafka's leader epoch.
    pub leader_epoch: i32,
    /// Bytes of its batches, those below the log start included while their segment is kept.
    pub bytes: u64,
    /// Its settings.
    pub config: PartitionConfig,
}

fn bounds(state: &PartitionState) -> Bounds {
    Bounds {
        log_start_offset: state.log_start_offset(),
        high_watermark: state.high_watermark(),
        last_stable_offset: state.last_stable_offset(),
    }
}

impl Ring {
    /// The partitions open in this ring, in order.
    pub fn partitions(&self) -> Vec<PartitionId> {
        let machine = self.0.machine.borrow();
        machine.state.partitions().keys().copied().collect()
    }

    /// Whether this node leads the ring and may serve (rule R2); closed when the ring stops.
    pub fn leadership(&self) -> watch::Receiver<tidemill_consensus::Leadership> {
        self.0.leadership.clone()
    }

    /// A partition as it stands.
    pub fn view(&self, id: PartitionId) -> Option<PartitionView> {
        let machine = self.0.machine.borrow();
        let (state, log) = machine.partition(id)?;
        Some(PartitionView {
            log_start_offset: state.log_start_offset(),
            high_watermark: state.high_watermark(),
            last_stable_offset: state.last_stable_offset(),
            leader_epoch: state.leader_epoch(self.0.leadership.borrow().term),
            bytes: log.bytes(),
            config: *state.config(),
        })
    }

    /// Notified when the high watermark or the log start of a partition moves, or when it goes away.
    pub fn changed(&self, id: PartitionId) -> Option<Notify> {
        let machine = self.0.machine.borrow();
        machine.logs.get(&id).map(|log| log.changed().clone())
    }

    fn log(&self, id: PartitionId) -> Result<(Bounds, PartitionLog), ReadError> {
        let machine = self.0.machine.borrow();
        let (state, log) = machine.partition(id).ok_or(ReadError::UnknownPartition)?;
        Ok((bounds(state), log.clone()))
    }

    /// Reads whole batches from the one that holds `from` on: at most `max_bytes` bytes, but at least one batch if any is
    /// there; nothing beyond what `isolation` allows. May return less than there is.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read(
        &self,
        id: PartitionId,
        from: Offset,
        max_bytes: usize,
        isolation: Isolation,
    ) -> Result<Read, ReadError> {
        let (bounds, log) = self.log(id)?;
        let read = log.read(bounds, from, max_bytes, isolation).await;
        let read = self.unless_gone(id, from, read)?;
        self.check_epochs(id, &log, &read)?;
        Ok(read)
    }

    /// A file that is missing because its partition went away meanwhile, or the records at `from`, is no damage.
    fn unless_gone<T>(
        &self,
        id: PartitionId,
        from: Offset,
        read: Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        let Err(ReadError::Segment(_)) = &read else {
            return read;
        };
        let (bounds, _) = self.log(id)?;
        match from < bounds.log_start_offset {
            true => Err(ReadError::OffsetOutOfRange {
                from,
                log_start_offset: bounds.log_start_offset,
                high_watermark: bounds.high_watermark,
            }),
            false => {
                if let Err(ReadError::Segment(error)) = &read {
                    self.note_unreadable(id, from, error);
                }
                read
            }
        }
    }

    fn note_unreadable(&self, id: PartitionId, from: Offset, error: &SegmentError) {
        let ring = self.id();
        if error.is_shortage() {
            tracing::warn!(%ring, partition = %id, from, %error, "records cannot be read now");
            return;
        }
        let damage = &self.0.segment_damage;
        damage.set(damage.get() + 1);
        tracing::error!(%ring, partition = %id, from, %error, "acknowledged records cannot be read");
    }

    /// Where reading may go on behind a batch at `from` that cannot be read; at most the high watermark.
    ///
    /// # Errors
    /// [`ReadError::UnknownPartition`].
    pub async fn behind_damage(&self, id: PartitionId, from: Offset) -> Result<Offset, ReadError> {
        let (bounds, log) = self.log(id)?;
        Ok(log.behind_damage(from).await.min(bounds.high_watermark))
    }

    /// Leader epochs stand outside the batches' checksums: in files they are held against what the state remembers.
    fn check_epochs(
        &self,
        id: PartitionId,
        log: &PartitionLog,
        read: &Read,
    ) -> Result<(), ReadError> {
        let machine = self.0.machine.borrow();
        let Some(state) = machine.state.partitions().get(&id) else {
            return Ok(());
        };
        for batch in &read.batches {
            let offset = batch.header.base_offset;
            let known = state.epoch_at(offset);
            if known.is_some_and(|epoch| epoch != batch.header.leader_epoch) {
                return Err(log.wrong_epoch(offset, batch.header.leader_epoch).into());
            }
        }
        Ok(())
    }

    /// Looks for a record, anew when segments went meanwhile.
    async fn look_for<F>(
        &self,
        id: PartitionId,
        look: impl Fn(Bounds, PartitionLog) -> F,
    ) -> Result<Option<(Offset, i64)>, ReadError>
    where
        F: Future<Output = Result<Option<(Offset, i64)>, ReadError>>,
    {
        loop {
            let (bounds, log) = self.log(id)?;
            let found = look(bounds, log).await;
            match self.unless_gone(id, bounds.log_start_offset, found) {
                Err(ReadError::OffsetOutOfRange { .. }) => {}
                found => return found,
            }
        }
    }

    /// The first record with a timestamp of at least `timestamp` ms, with its timestamp.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn offset_for_timestamp(
        &self,
        id: PartitionId,
        timestamp: i64,
    ) -> Result<Option<(Offset, i64)>, ReadError> {
        let look = |bounds, log: PartitionLog| async move {
            log.offset_for_timestamp(bounds, timestamp).await
        };
        self.look_for(id, look).await
    }

    /// The first record that has the largest timestamp, with it.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn max_timestamp(&self, id: PartitionId) -> Result<Option<(Offset, i64)>, ReadError> {
        let look = |bounds, log: PartitionLog| async move {
            let max = {
                let machine = self.0.machine.borrow();
                let state = machine.state.partitions().get(&id);
                state.and_then(PartitionState::max_timestamp)
            };
            match max {
                Some(max) => log.max_timestamp(bounds, max).await,
                None => Ok(None),
            }
        };
        self.look_for(id, look).await
    }

    /// The largest leader epoch not above `epoch` in which something was appended, and the offset after its last record; see
    /// [`PartitionState::epoch_end`]. `None` when the partition is not open.
    pub fn epoch_end(&self, id: PartitionId, epoch: i32) -> Option<(i32, Offset)> {
        let machine = self.0.machine.borrow();
        let state = machine.state.partitions().get(&id)?;
        Some(state.epoch_end(epoch))
    }

    /// Bytes of a partition's batches on disk and of those that are in no segment yet.
    pub fn stored_bytes(&self, id: PartitionId) -> Option<u64> {
        let machine = self.0.machine.borrow();
        machine.logs.get(&id).map(PartitionLog::stored_bytes)
    }

    /// The idempotent producers a partition remembers at `now_ms`.
    pub fn producers(&self, id: PartitionId, now_ms: i64) -> Option<Vec<ActiveProducer>> {
        let machine = self.0.machine.borrow();
        let state = machine.state.partitions().get(&id)?;
        Some(state.producers().active(now_ms).collect())
    }
}
