//! Outputs of transforms that wait to be delivered: to partitions of other rings, in order for each (rule X4).

use std::collections::{BTreeMap, VecDeque};

use bytes::{BufMut, Bytes};
use tidemill_model::{BatchHeader, Incarnation, PartitionId};
use tidemill_partition::SenderId;
use tidemill_partition::codec::{DecodeError, Reader, put_count, put_partition};

/// What one outcome put out for one partition of another ring.
#[derive(Debug, Clone)]
pub struct OutboxItem {
    /// Its number in this ring, ascending.
    pub ticket: u64,
    /// Who sends.
    pub sender: SenderId,
    /// The sender's sequence for this partition.
    pub sequence: u64,
    /// The sequence before it, 0 for none.
    pub previous: u64,
    /// The batches.
    pub batches: Vec<Bytes>,
}

impl OutboxItem {
    /// Bytes of its batches.
    pub fn bytes(&self) -> u64 {
        self.batches.iter().map(|b| b.len() as u64).sum()
    }

    fn records(&self) -> u64 {
        let count = |b: &Bytes| BatchHeader::parse(b).map_or(0, |h| h.record_count.max(0) as u64);
        self.batches.iter().map(count).sum()
    }
}

/// Everything that waits, by output partition.
#[derive(Debug, Clone, Default)]
pub struct Outbox {
    queues: BTreeMap<PartitionId, VecDeque<OutboxItem>>,
    bytes: u64,
    next_ticket: u64,
    dropped_records: u64,
}

impl Outbox {
    /// Whether something waits for `to`.
    pub fn waits_for(&self, to: PartitionId) -> bool {
        self.queues.contains_key(&to)
    }

    /// Whether something of this life of a transform waits.
    pub fn waits_of(&self, incarnation: Incarnation) -> bool {
        let mut items = self.queues.values().flatten();
        items.any(|item| item.sender.incarnation == incarnation)
    }

    /// Adds an item for `to`; its ticket is given here.
    pub fn push(&mut self, to: PartitionId, mut item: OutboxItem) {
        item.ticket = self.next_ticket;
        self.next_ticket += 1;
        self.bytes += item.bytes();
        self.queues.entry(to).or_default().push_back(item);
    }

    /// Removes what waits for `to` up to `ticket`: it has arrived.
    pub fn arrived(&mut self, to: PartitionId, ticket: u64) {
        let Some(queue) = self.queues.get_mut(&to) else {
            return;
        };
        while queue.front().is_some_and(|item| item.ticket <= ticket) {
            self.bytes -= queue.pop_front().map_or(0, |item| item.bytes());
        }
        if queue.is_empty() {
            self.queues.remove(&to);
        }
    }

    /// Drops what waits for `to`; gives back the number of records.
    pub fn drop_for(&mut self, to: PartitionId) -> u64 {
        let items = self.queues.remove(&to).unwrap_or_default();
        self.bytes -= items.iter().map(OutboxItem::bytes).sum::<u64>();
        let records = items.iter().map(OutboxItem::records).sum();
        self.dropped_records += records;
        records
    }

    /// The output partitions for which something waits, with the first `items_max` items of each.
    pub fn heads(&self, items_max: usize) -> Vec<(PartitionId, Vec<OutboxItem>)> {
        let head = |queue: &VecDeque<OutboxItem>| queue.iter().take(items_max).cloned().collect();
        self.queues
            .iter()
            .map(|(to, queue)| (*to, head(queue)))
            .collect()
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Items that wait.
    pub fn items(&self) -> usize {
        self.queues.values().map(VecDeque::len).sum()
    }

    /// Records dropped because their partition is gone, ever.
    pub fn dropped_records(&self) -> u64 {
        self.dropped_records
    }

    /// Appends the stored form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.next_ticket);
        out.put_u64(self.dropped_records);
        put_count(out, self.items());
        for (to, item) in self
            .queues
            .iter()
            .flat_map(|(to, q)| q.iter().map(move |i| (to, i)))
        {
            put_partition(out, *to);
            out.put_u64(item.ticket);
            item.sender.encode(out);
            out.put_u64(item.sequence);
            out.put_u64(item.previous);
            put_count(out, item.batches.len());
            for batch in &item.batches {
                put_count(out, batch.len());
                out.put_slice(batch);
            }
        }
    }

    /// Reads the stored form; batches are copied out of it.
    ///
    /// # Errors
    /// [`DecodeError`] for anything else.
    pub fn decode(r: &mut Reader<'_>) -> Result<Outbox, DecodeError> {
        let mut this = Outbox {
            next_ticket: r.u64()?,
            dropped_records: r.u64()?,
            ..Outbox::default()
        };
        for _ in 0..r.count(76)? {
            let to = r.partition()?;
            let mut item = OutboxItem {
                ticket: r.u64()?,
                sender: SenderId::decode(r)?,
                sequence: r.u64()?,
                previous: r.u64()?,
                batches: Vec::new(),
            };
            for _ in 0..r.count(4)? {
                let len = r.u32()? as usize;
                item.batches.push(Bytes::copy_from_slice(r.bytes(len)?));
            }
            this.bytes += item.bytes();
            this.queues.entry(to).or_default().push_back(item);
        }
        Ok(this)
    }
}
