//! Asking the shards of partitions.

use std::collections::BTreeMap;
use std::rc::Rc;

use tidemill_model::{PartitionId, RingId, ShardId};
use tidemill_ring::Ring;
use tidemill_rt::task;

use crate::shard::Shard;

/// Partitions looked at before other tasks have their turn.
pub(crate) const PARTITIONS_PER_TURN: usize = 256;

/// A question about a partition, and the place in the answer it is for.
#[derive(Debug)]
pub(crate) struct Question<Q> {
    pub(crate) slot: (usize, usize),
    pub(crate) ring: RingId,
    pub(crate) partition: PartitionId,
    pub(crate) asked: Q,
}

/// Answers with their places.
pub(crate) type Answered<T> = Vec<((usize, usize), T)>;

/// Has `look` answer every question on the shard of its partition. A partition that is not open there, and those of a
/// stopped shard, have no answer.
pub(crate) async fn ask<Q, T>(
    shard: &Rc<Shard>,
    questions: Vec<Question<Q>>,
    look: fn(&Ring, PartitionId, Q) -> Option<T>,
) -> Answered<T>
where
    Q: Send + 'static,
    T: Send + 'static,
{
    let mut by_shard: BTreeMap<ShardId, Vec<Question<Q>>> = BTreeMap::new();
    for question in questions {
        let target = question.ring.shard(shard.info.shards);
        by_shard.entry(target).or_default().push(question);
    }
    let mut answered = Vec::new();
    for (target, questions) in by_shard {
        let asked = shard.on(target, move |shard| async move {
            let mut out = Vec::with_capacity(questions.len());
            for (i, q) in questions.into_iter().enumerate() {
                if i % PARTITIONS_PER_TURN == PARTITIONS_PER_TURN - 1 {
                    task::yield_now().await;
                }
                let answer = shard
                    .ring(q.ring)
                    .and_then(|ring| look(ring, q.partition, q.asked));
                out.extend(answer.map(|a| (q.slot, a)));
            }
            out
        });
        answered.extend(asked.await.unwrap_or_default());
    }
    answered
}
