//! Retention: looks at the partitions of a ring now and then, and proposes what is due (rule S9). The only place that reads
//! a clock for it; what an entry says is then the same wherever it is applied.

use std::ops::Bound;
use std::rc::Rc;
use std::time::Duration;

use tidemill_model::PartitionId;
use tidemill_partition::retention::{Due, due};
use tidemill_partition::{PartitionLog, PartitionState};
use tidemill_rt::{task, time};

use crate::command::{Entry, Op};
use crate::machine::Machine;
use crate::ring::{Shared, answer};

/// Partitions looked at before other tasks of the shard have their turn; also the operations of an entry at most.
const LOOK_AT_ONCE: usize = 256;
/// Least time between two looks, however often settings change.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// Looks and proposes until the ring stops.
pub(crate) async fn run(ring: Rc<Shared>) {
    loop {
        let _ = time::timeout(
            ring.config.retention_interval,
            ring.wake.retention.notified(),
        )
        .await;
        if ring.stopped.get() {
            return;
        }
        look(&ring).await;
        time::sleep(PAUSE_MIN).await;
    }
}

/// Looks at every partition once.
pub(crate) async fn look(ring: &Rc<Shared>) {
    let mut after = None;
    while !ring.stopped.get() && ring.leadership().leading {
        let now_ms = time::unix_ms();
        let (last, ops) = look_at_some(&ring.machine.borrow(), after, now_ms);
        if last.is_none() {
            return;
        }
        after = last;
        if !ops.is_empty() {
            let entry = Entry { now_ms, ops };
            if let Err(error) = answer(ring.propose(entry.into_command(), None)).await {
                tracing::debug!(ring = %ring.config.ring, %error, "retention was not taken; looking again later");
                return;
            }
        }
        task::yield_now().await;
    }
}

/// What is due at the partitions after `after`, as far as one turn goes, and the last one looked at.
fn look_at_some(
    machine: &Machine,
    after: Option<PartitionId>,
    now_ms: i64,
) -> (Option<PartitionId>, Vec<(PartitionId, Op)>) {
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    let some = machine.logs.range((from, Bound::Unbounded));
    let (mut last, mut ops) = (None, Vec::new());
    for (id, log) in some.take(LOOK_AT_ONCE) {
        last = Some(*id);
        let Some(state) = machine.state.partitions().get(id) else {
            continue;
        };
        let Due { start, seal } = look_at(state, log, now_ms);
        // One at a time: an entry takes one operation for each partition.
        if let Some(to) = start {
            ops.push((*id, Op::AdvanceStart { to }));
        } else if let Some(base_offset) = seal {
            ops.push((*id, Op::Seal { base_offset }));
        }
    }
    (last, ops)
}

fn look_at(state: &PartitionState, log: &PartitionLog, now_ms: i64) -> Due {
    if state.log_start_offset() == state.high_watermark() {
        return Due::default();
    }
    let active = state.active_segment();
    let spans = log.spans();
    due(
        state.config(),
        &spans,
        active,
        state.log_start_offset(),
        now_ms,
    )
}
