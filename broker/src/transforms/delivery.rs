//! The outbox's way to other rings: in order for each output partition, repeated until it has arrived (rules X4 to X6).

use std::rc::Rc;
use std::time::Duration;

use tidemill_model::{PartitionId, RingId};
use tidemill_ring::{DeliverError, Delivered, Delivery, OutboxItem, Ring};
use tidemill_rt::task::{self, Queue};
use tidemill_rt::time;

use crate::shard::{Shard, ShardGone};

/// Wait before a delivery that was not taken is tried again.
const RETRY: Duration = Duration::from_millis(50);

/// Items of one output partition that a round delivers.
const ITEMS_MAX: usize = 64;

/// What became of a delivery.
enum Fate {
    /// It is there, now or since an earlier try.
    Arrived,
    /// Its topic was deleted.
    TopicDeleted,
    /// Not now.
    Later,
}

impl Shard {
    /// Starts carrying the outboxes of this shard's rings.
    pub(crate) fn start_delivery(self: &Rc<Shard>) {
        for (_, ring) in self.rings() {
            let (shard, ring) = (self.clone(), ring.clone());
            drop(task::spawn(Queue::Kafka, async move {
                deliver_all(&shard, &ring).await
            }));
        }
    }
}

async fn deliver_all(shard: &Rc<Shard>, ring: &Ring) {
    while !shard.is_stopping() {
        let changed = ring.outbox_changed().notified();
        let heads = ring.outbox_heads(ITEMS_MAX);
        if heads.is_empty() {
            changed.await;
            continue;
        }
        let all_arrived = deliver_heads(shard, ring, heads).await;
        if !all_arrived {
            time::sleep(RETRY).await;
        }
    }
}

/// What became of everything that waited for one output partition.
struct Lane {
    output: PartitionId,
    /// Ticket of the last item that arrived.
    arrived: Option<u64>,
    /// Its topic is gone.
    dead: bool,
    /// Nothing has to be tried again.
    whole: bool,
}

/// One round: what waits for each output partition, partitions side by side, each in order.
async fn deliver_heads(
    shard: &Rc<Shard>,
    ring: &Ring,
    heads: Vec<(PartitionId, Vec<OutboxItem>)>,
) -> bool {
    let lanes = heads
        .into_iter()
        .map(|(output, items)| deliver_lane(shard, output, items));
    let lanes = futures_util::future::join_all(lanes).await;
    let mut whole = lanes.iter().all(|lane| lane.whole);
    let arrived: Vec<(PartitionId, u64)> = lanes
        .iter()
        .filter_map(|lane| Some((lane.output, lane.arrived?)))
        .collect();
    if !arrived.is_empty()
        && let Err(error) = ring.outbox_arrived(arrived).await
    {
        // They stay in the outbox and are delivered again; the receiver drops repetitions.
        tracing::warn!(%error, "cannot record what was delivered");
        return false;
    }
    for lane in lanes.iter().filter(|lane| lane.dead) {
        match ring.drop_outbox_for(lane.output).await {
            Ok(dropped) => shard.metrics.outbox_dropped.add(dropped),
            Err(error) => {
                tracing::warn!(%error, output = %lane.output, "cannot drop output of a deleted topic");
                whole = false;
            }
        }
    }
    whole
}

async fn deliver_lane(shard: &Rc<Shard>, output: PartitionId, items: Vec<OutboxItem>) -> Lane {
    let mut lane = Lane {
        output,
        arrived: None,
        dead: false,
        whole: true,
    };
    for item in items {
        match deliver(shard, output, &item).await {
            Ok(Fate::Arrived) => lane.arrived = Some(item.ticket),
            Ok(Fate::TopicDeleted) => {
                lane.dead = true;
                break;
            }
            Ok(Fate::Later) | Err(ShardGone) => {
                lane.whole = false;
                break;
            }
        }
    }
    lane
}

async fn deliver(
    shard: &Rc<Shard>,
    output: PartitionId,
    item: &OutboxItem,
) -> Result<Fate, ShardGone> {
    let Some((ring, target)) = shard.locate(output) else {
        // The image of this shard may be older than the outcome; only the controller's newest says "deleted".
        return deleted_for_good(shard, output).await;
    };
    let delivery = Delivery {
        sender: item.sender,
        sequence: item.sequence,
        previous: item.previous,
        batches: item.batches.clone(),
    };
    shard
        .on(target, move |shard| async move {
            deliver_here(&shard, ring, output, delivery).await
        })
        .await
}

async fn deleted_for_good(shard: &Rc<Shard>, output: PartitionId) -> Result<Fate, ShardGone> {
    let exists = shard.on(crate::topics::CONTROLLER_SHARD, move |shard| async move {
        shard.controller_here().image().ring_of(output).is_some()
    });
    Ok(if exists.await? {
        Fate::Later
    } else {
        Fate::TopicDeleted
    })
}

async fn deliver_here(
    shard: &Rc<Shard>,
    ring: RingId,
    output: PartitionId,
    delivery: Delivery,
) -> Fate {
    let Some(ring) = shard.ring(ring) else {
        return Fate::Later;
    };
    match ring.deliver(output, delivery).await {
        Ok(Delivered::Taken | Delivered::Duplicate) => Fate::Arrived,
        Err(DeliverError::Busy) => Fate::Later,
        Err(error) => {
            tracing::debug!(%error, %output, "a delivery was not taken yet");
            Fate::Later
        }
    }
}
