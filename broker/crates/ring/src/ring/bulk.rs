//! Many partitions at once: one entry opens or drops a thousand, so that a topic of many partitions costs the log few entries.

use tidemill_model::PartitionId;
use tidemill_partition::PartitionConfig;
use tidemill_rt::time;

use super::Ring;
use crate::command::{Entry, Op};
use crate::error::ChangeError;

/// Partitions that one entry opens or drops: as many as are applied in a fraction of a millisecond.
const AT_ONCE: usize = 1_024;

impl Ring {
    /// Opens partitions; one that is open stays as it is. `epoch_base` is what their leader epochs count from.
    ///
    /// # Errors
    /// [`ChangeError`] for the first entry that was not taken; partitions of earlier ones are open.
    pub async fn open_partitions(
        &self,
        partitions: &[(PartitionId, PartitionConfig)],
        epoch_base: i32,
    ) -> Result<(), ChangeError> {
        for some in partitions.chunks(AT_ONCE) {
            let open = |config| Op::Open { config, epoch_base };
            let ops = some.iter().map(|(id, config)| (*id, open(*config)));
            self.change_many(ops.collect()).await?;
        }
        Ok(())
    }

    /// Drops partitions with their records; one that is not open is no error.
    ///
    /// # Errors
    /// [`ChangeError`] for the first entry that was not taken; partitions of earlier ones are dropped.
    pub async fn drop_partitions(&self, partitions: &[PartitionId]) -> Result<(), ChangeError> {
        for some in partitions.chunks(AT_ONCE) {
            let ops = some.iter().map(|id| (*id, Op::Drop));
            self.change_many(ops.collect()).await?;
        }
        Ok(())
    }

    async fn change_many(&self, ops: Vec<(PartitionId, Op)>) -> Result<(), ChangeError> {
        let now_ms = time::unix_ms();
        self.propose(Entry { now_ms, ops }, None).await.map(drop)
    }
}
