//! Reading a partition of `__consumer_offsets` at start.

use std::rc::Rc;
use std::time::Duration;

use tidemill_groups::codec::{Key, TOPIC_ID_HEADER};
use tidemill_groups::store::Record;
use tidemill_model::batch::HEADER_BYTES;
use tidemill_model::record::{RecordRef, Records};
use tidemill_model::{Batch, Offset, TopicId};
use tidemill_ring::{Isolation, ReadError};
use tidemill_rt::{task, time};

use super::Coordination;
use crate::shard::Shard;

/// Bytes read at once.
const READ_BYTES: usize = 1 << 20;
/// How long is waited before a log that could not be read is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Reads the log into the machine until it is read whole, or the shard stops. Returns the bytes read.
pub(super) async fn read_log(shard: &Rc<Shard>, coordination: &Coordination) -> Option<u64> {
    lead(shard, coordination).await?;
    loop {
        let began = time::Instant::now();
        match read_once(shard, coordination).await {
            Ok(bytes) => {
                shard.groups.counters.load_time.observe(began.elapsed());
                return Some(bytes);
            }
            Err(error) => {
                let partition = coordination.partition.index;
                tracing::error!(partition, %error, "consumer groups cannot be loaded; trying again");
                coordination.step_down();
            }
        }
        if time::timeout(AGAIN, shard.stopped()).await.is_ok() {
            return None;
        }
    }
}

/// Waits until appends whose outcome is not known have landed, or never will: what is read before may miss commits that the
/// log has in the end. `None` when the shard stops.
pub(super) async fn settled(shard: &Shard, coordination: &Coordination) -> Option<()> {
    loop {
        lead(shard, coordination).await?;
        match coordination.ring.settle().await {
            Ok(()) => return Some(()),
            Err(error) => {
                let partition = coordination.partition.index;
                tracing::warn!(partition, %error, "it is not known yet what the log of consumer groups holds");
            }
        }
        if time::timeout(AGAIN, shard.stopped()).await.is_ok() {
            return None;
        }
    }
}

/// Waits until the ring may serve: everything that was committed is applied then (rule R2).
async fn lead(shard: &Shard, coordination: &Coordination) -> Option<()> {
    let mut leadership = coordination.ring.leadership();
    while !leadership.borrow().leading {
        if shard.is_stopping() || leadership.changed().await.is_err() {
            return None;
        }
    }
    Some(())
}

async fn read_once(shard: &Shard, coordination: &Coordination) -> Result<u64, ReadError> {
    let view = coordination
        .ring
        .view(coordination.partition)
        .ok_or(ReadError::UnknownPartition)?;
    let (mut at, mut bytes) = (view.log_start_offset, 0);
    while at < view.high_watermark {
        let read = coordination
            .ring
            .read(
                coordination.partition,
                at,
                READ_BYTES,
                Isolation::ReadUncommitted,
            )
            .await;
        let read = match read {
            // Groups without what one batch said are better than no groups: those it concerns fall back to older offsets.
            Err(ReadError::Segment(error)) if !error.is_shortage() => {
                shard.groups.counters.unreadable.add(1);
                let partition = coordination.partition;
                let next = coordination.ring.behind_damage(partition, at).await?;
                tracing::error!(
                    partition = partition.index, from = at, to = next, %error,
                    "records of consumer groups cannot be read and are passed over"
                );
                at = next;
                continue;
            }
            read => read?,
        };
        let before = at;
        for batch in &read.batches {
            bytes += batch.len() as u64;
            take_in(shard, coordination, batch, at);
            at = at.max(batch.header.next_offset());
        }
        if at == before {
            return Err(ReadError::UnknownPartition);
        }
        task::yield_now().await;
    }
    Ok(bytes)
}

/// Gives the records of a batch from offset `from` on to the machine. What cannot be read is counted and passed over: it
/// was not written here.
fn take_in(shard: &Shard, coordination: &Coordination, batch: &Batch, from: Offset) {
    let section = batch.bytes.slice(HEADER_BYTES..);
    let mut machine = coordination.machine.borrow_mut();
    for record in Records::new(&section, batch.header.record_count) {
        let Ok(record) = record else {
            shard.groups.counters.unreadable.add(1);
            return;
        };
        let offset = batch.header.base_offset + Offset::from(record.offset_delta);
        if offset < from {
            continue;
        }
        let taken = match convert(&record) {
            Some(Ok(record)) => machine.load(&record, offset).is_ok(),
            Some(Err(())) => false,
            None => true,
        };
        if !taken {
            shard.groups.counters.unreadable.add(1);
            tracing::warn!(
                partition = coordination.partition.index,
                offset,
                "a record of consumer groups cannot be read"
            );
        }
    }
}

/// A record as the machine takes it; nothing for kinds that say nothing of classic groups.
fn convert(record: &RecordRef<'_>) -> Option<Result<Record, ()>> {
    let key = match Key::decode(record.key.unwrap_or_default()) {
        Ok(Some(key)) => key,
        Ok(None) => return None,
        Err(_) => return Some(Err(())),
    };
    let id = record
        .headers
        .filter_map(Result::ok)
        .find(|(name, _)| *name == TOPIC_ID_HEADER);
    let id = id
        .and_then(|(_, value)| value?.try_into().ok())
        .map(TopicId);
    Some(Ok(Record {
        key,
        value: record.value.map(bytes::Bytes::copy_from_slice),
        topic_id: id,
    }))
}
