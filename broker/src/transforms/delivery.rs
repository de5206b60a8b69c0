//! The outbox's way to other rings: in order for each output partition, repeated until it has arrived (rules X4 to X6).

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use tidemill_model::{PartitionId, RingId};
use tidemill_ring::{Delivered, DeliverError, Delivery, OutboxHead, Ring};
use tidemill_rt::task::{self, Queue};
use tidemill_rt::time;

use crate::shard::{Shard, ShardGone};

/// Wait before a delivery that was not taken is tried again.
const RETRY: Duration = Duration::from_millis(50);

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
            drop(task::spawn(Queue::Kafka, async move { deliver_all(&shard, &ring).await }));
        }
    }
}

async fn deliver_all(shard: &Rc<Shard>, ring: &Ring) {
    while !shard.is_stopping() {
        let changed = ring.outbox_changed().notified();
        let heads = ring.outbox_heads();
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

/// One round: what waits for each output partition, partitions side by side, each in order.
async fn deliver_heads(shard: &Rc<Shard>, ring: &Ring, heads: Vec<OutboxHead>) -> bool {
    let mut by_partition: BTreeMap<PartitionId, Vec<OutboxHead>> = BTreeMap::new();
    for head in heads {
        by_partition.entry(head.output).or_default().push(head);
    }
    let lanes = by_partition.into_iter().map(|(output, heads)| async move {
        let mut arrived = Vec::new();
        let mut dead = false;
        let mut whole = true;
        for head in heads {
            match deliver(shard, &head).await {
                Ok(Fate::Arrived) => arrived.push(head),
                Ok(Fate::TopicDeleted) => {
                    dead = true;
                    break;
                }
                Ok(Fate::Later) | Err(ShardGone) => {
                    whole = false;
                    break;
                }
            }
        }
        (output, arrived, dead, whole)
    });
    let (mut arrived, mut dead, mut whole) = (Vec::new(), BTreeSet::new(), true);
    for (output, done, is_dead, is_whole) in futures_util::future::join_all(lanes).await {
        arrived.extend(done);
        whole &= is_whole;
        if is_dead {
            dead.insert(output);
        }
    }
    if !arrived.is_empty()
        && let Err(error) = ring.outbox_arrived(&arrived).await
    {
        // They stay in the outbox and are delivered again; the receiver drops repetitions.
        tracing::warn!(%error, "cannot record what was delivered");
        return false;
    }
    for output in dead {
        match ring.drop_outbox_for(output).await {
            Ok(dropped) => shard.metrics.outbox_dropped.add(dropped),
            Err(error) => {
                tracing::warn!(%error, %output, "cannot drop output of a deleted topic");
                whole = false;
            }
        }
    }
    whole
}

async fn deliver(shard: &Rc<Shard>, head: &OutboxHead) -> Result<Fate, ShardGone> {
    let Some((ring, target)) = shard.locate(head.output) else {
        // The image of this shard may be older than the outcome; only the controller's newest says "deleted".
        return deleted_for_good(shard, head.output).await;
    };
    let (output, delivery) = (head.output, head.delivery.clone());
    shard.on(target, move |shard| async move { deliver_here(&shard, ring, output, delivery).await }).await
}

async fn deleted_for_good(shard: &Rc<Shard>, output: PartitionId) -> Result<Fate, ShardGone> {
    let exists = shard.on(crate::topics::CONTROLLER_SHARD, move |shard| async move {
        shard.controller_here().image().ring_of(output).is_some()
    });
    Ok(if exists.await? { Fate::Later } else { Fate::TopicDeleted })
}

async fn deliver_here(shard: &Rc<Shard>, ring: RingId, output: PartitionId, delivery: Delivery) -> Fate {
    let Some(ring) = shard.ring(ring) else {
        return Fate::Later;
    };
    match ring.deliver(output, delivery).await {
        Ok(Delivered::Appended { .. } | Delivered::Duplicate) => Fate::Arrived,
        Err(DeliverError::Busy) => Fate::Later,
        Err(error) => {
            tracing::debug!(%error, %output, "a delivery was not taken yet");
            Fate::Later
        }
    }
}
