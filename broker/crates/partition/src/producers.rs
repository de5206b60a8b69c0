//! Idempotent producers of one partition (KIP-98): which sequences were appended, and where.
//!
//! The rules are those of Kafka's `ProducerAppendInfo`: the last five batches of a producer are remembered, an exact
//! duplicate of one of them is answered with its original offset, the next batch must follow the last one, a higher
//! epoch starts at 0, and a producer that is not known may start anywhere.

use std::collections::{BTreeMap, VecDeque};

use bytes::BufMut;
use tidemill_model::{BatchHeader, Offset};

use crate::codec::{DecodeError, Reader, put_count};

/// Batches remembered per producer: Kafka's `NUM_BATCHES_TO_RETAIN`, as many as a client has in flight.
pub const BATCHES_REMEMBERED: usize = 5;
/// A producer idle for so long is forgotten: Kafka's default of `producer.id.expiration.ms`, in ms.
pub const PRODUCER_EXPIRY_MS: i64 = 24 * 60 * 60 * 1000;
/// Most producers one partition remembers; the least recently used one makes room. 64 K of them take about 20 MB.
pub const PRODUCERS_MAX: usize = 65_536;

/// A batch that was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Remembered {
    first: i32,
    last: i32,
    base_offset: Offset,
    log_append_time_ms: i64,
}

#[derive(Debug, Clone)]
struct Producer {
    epoch: i16,
    last_ms: i64,
    touched: u64,
    batches: VecDeque<Remembered>,
}

/// Why a batch of an idempotent producer is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SequenceError {
    /// It neither follows the last batch nor repeats one of the last five.
    #[error("out of order sequence of producer {producer_id}: expected {expected}, got {got}")]
    OutOfOrderSequence {
        /// The producer.
        producer_id: i64,
        /// The sequence that would have been right.
        expected: i32,
        /// The sequence that came.
        got: i32,
    },
    /// A newer instance of this producer has written here.
    #[error("producer {producer_id} has epoch {current}, this batch is of epoch {got}")]
    InvalidProducerEpoch {
        /// The producer.
        producer_id: i64,
        /// The epoch known here.
        current: i16,
        /// The epoch that came.
        got: i16,
    },
}

/// What to do with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Append it.
    New,
    /// It is there already.
    Duplicate {
        /// Where it is.
        base_offset: Offset,
        /// The append time it got, in ms; -1 where the producer's timestamps count.
        log_append_time_ms: i64,
    },
}

/// A producer as people are told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActiveProducer {
    /// Its id.
    pub producer_id: i64,
    /// Its epoch.
    pub epoch: i16,
    /// Sequence of its last record, -1 when it has none in this epoch.
    pub last_sequence: i32,
    /// When its last batch came, in ms since the Unix epoch.
    pub last_ms: i64,
}

/// The producers of one partition.
#[derive(Debug, Clone, Default)]
pub struct Producers {
    by_id: BTreeMap<i64, Producer>,
    /// Least recently used first.
    by_touch: BTreeMap<u64, i64>,
    next_touch: u64,
    evicted_total: u64,
}

/// The sequence `delta` after `first`, wrapping from 2^31-1 to 0.
pub fn sequence_after(first: i32, delta: i32) -> i32 {
    ((i64::from(first) + i64::from(delta)) & i64::from(i32::MAX)) as i32
}

impl Producers {
    /// Decides about a batch of an idempotent producer at `now_ms`.
    ///
    /// # Errors
    /// [`SequenceError`].
    pub fn check(&self, header: &BatchHeader, now_ms: i64) -> Result<Admission, SequenceError> {
        let producer_id = header.producer_id;
        let Some(known) = self.by_id.get(&producer_id).filter(|p| !p.expired(now_ms)) else {
            return Ok(Admission::New);
        };
        let (epoch, first) = (header.producer_epoch, header.base_sequence);
        if epoch < known.epoch {
            return Err(SequenceError::InvalidProducerEpoch {
                producer_id,
                current: known.epoch,
                got: epoch,
            });
        }
        let expected = if epoch > known.epoch {
            0
        } else {
            let last = sequence_after(first, header.last_offset_delta);
            if let Some(b) = known
                .batches
                .iter()
                .find(|b| b.first == first && b.last == last)
            {
                return Ok(Admission::Duplicate {
                    base_offset: b.base_offset,
                    log_append_time_ms: b.log_append_time_ms,
                });
            }
            known
                .batches
                .back()
                .map_or(0, |b| sequence_after(b.last, 1))
        };
        if first != expected {
            return Err(SequenceError::OutOfOrderSequence {
                producer_id,
                expected,
                got: first,
            });
        }
        Ok(Admission::New)
    }

    /// Remembers a batch that [`Producers::check`] admitted as new, and forgets producers that are idle or too many.
    pub fn appended(
        &mut self,
        header: &BatchHeader,
        base_offset: Offset,
        log_append_time_ms: i64,
        now_ms: i64,
    ) {
        self.expire(now_ms);
        let touched = self.next_touch;
        self.next_touch += 1;
        let epoch = header.producer_epoch;
        let producer = self
            .by_id
            .entry(header.producer_id)
            .or_insert_with(|| Producer {
                epoch,
                last_ms: now_ms,
                touched,
                batches: VecDeque::new(),
            });
        self.by_touch.remove(&producer.touched);
        self.by_touch.insert(touched, header.producer_id);
        if producer.epoch != epoch {
            producer.batches.clear();
            producer.epoch = epoch;
        }
        producer.touched = touched;
        producer.last_ms = now_ms;
        producer.batches.push_back(Remembered {
            first: header.base_sequence,
            last: sequence_after(header.base_sequence, header.last_offset_delta),
            base_offset,
            log_append_time_ms,
        });
        if producer.batches.len() > BATCHES_REMEMBERED {
            producer.batches.pop_front();
        }
        if self.by_id.len() > PRODUCERS_MAX {
            self.forget_oldest();
            self.evicted_total += 1;
        }
    }

    fn expire(&mut self, now_ms: i64) {
        while let Some((_, id)) = self.by_touch.first_key_value() {
            if !self.by_id.get(id).is_some_and(|p| p.expired(now_ms)) {
                return;
            }
            self.forget_oldest();
        }
    }

    /// Forgets the least recently used producer to make room for those of other partitions, but never the last one; whether
    /// it did.
    pub fn make_room(&mut self) -> bool {
        if self.by_id.len() <= 1 {
            return false;
        }
        self.forget_oldest();
        self.evicted_total += 1;
        true
    }

    fn forget_oldest(&mut self) {
        if let Some((_, id)) = self.by_touch.pop_first() {
            self.by_id.remove(&id);
        }
    }

    /// The producers that are not expired at `now_ms`, by id.
    pub fn active(&self, now_ms: i64) -> impl Iterator<Item = ActiveProducer> + '_ {
        let live = self.by_id.iter().filter(move |(_, p)| !p.expired(now_ms));
        live.map(|(id, p)| ActiveProducer {
            producer_id: *id,
            epoch: p.epoch,
            last_sequence: p.batches.back().map_or(-1, |b| b.last),
            last_ms: p.last_ms,
        })
    }

    /// Producers remembered now.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Producers that were forgotten because there were too many: the metric for "full".
    pub fn evicted_total(&self) -> u64 {
        self.evicted_total
    }

    /// Appends the binary form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.evicted_total);
        put_count(out, self.by_id.len());
        // In order of use, so that reading back gives the same order without storing it.
        for id in self.by_touch.values() {
            let p = &self.by_id[id];
            out.put_i64(*id);
            out.put_i16(p.epoch);
            out.put_i64(p.last_ms);
            out.put_u8(p.batches.len() as u8);
            for b in &p.batches {
                out.put_i32(b.first);
                out.put_i32(b.last);
                out.put_i64(b.base_offset);
                out.put_i64(b.log_append_time_ms);
            }
        }
    }

    /// Reads the binary form.
    ///
    /// # Errors
    /// [`DecodeError`] for anything else.
    pub fn decode(r: &mut Reader<'_>) -> Result<Producers, DecodeError> {
        let mut this = Producers {
            evicted_total: r.u64()?,
            ..Producers::default()
        };
        for touched in 0..r.count(19)? as u64 {
            let id = r.i64()?;
            let mut p = Producer {
                epoch: r.i16()?,
                last_ms: r.i64()?,
                touched,
                batches: VecDeque::new(),
            };
            for _ in 0..r.u8()? {
                p.batches.push_back(Remembered {
                    first: r.i32()?,
                    last: r.i32()?,
                    base_offset: r.i64()?,
                    log_append_time_ms: r.i64()?,
                });
            }
            this.by_touch.insert(touched, id);
            this.next_touch = touched + 1;
            if this.by_id.insert(id, p).is_some() {
                return Err(DecodeError("a producer is there twice"));
            }
        }
        Ok(this)
    }
}

impl Producer {
    fn expired(&self, now_ms: i64) -> bool {
        now_ms.saturating_sub(self.last_ms) >= PRODUCER_EXPIRY_MS
    }
}
