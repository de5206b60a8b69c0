//! The one writer of a partition of `__consumer_offsets`: appends what was decided, in order, and tells the machine, in the
//! same order, what became of it. It also keeps the machine's time, and copies the live state forward.

use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, LocalBoxFuture, select};
use futures_util::stream::{FuturesOrdered, Stream};
use tidemill_consensus::ProposeError;
use tidemill_groups::GroupError;
use tidemill_groups::copy::Copy;
use tidemill_groups::limits::WRITE_BYTES;
use tidemill_groups::request::Then;
use tidemill_groups::store::Record;
use tidemill_model::record::{BatchBuilder, NewRecord};
use tidemill_model::{BatchHeader, Offset, TopicId};
use tidemill_ring::{AppendError, Appended};
use tidemill_rt::task;
use tidemill_rt::time::{self, Instant};

use super::coordination::{Coordination, Queued};
use super::{load, now};
use crate::shard::Shard;

/// Appends that may be under way; writes beyond wait in the queue and share a batch.
const APPENDS_MAX: usize = 16;
/// The log is copied forward when it has grown by so many bytes ...
const COPY_BYTES_MIN: u64 = 16 << 20;
/// ... and by so many times what is alive.
const COPY_FACTOR: u64 = 4;
/// How long is waited after a copy that failed.
const COPY_AGAIN: Duration = Duration::from_secs(60);

/// Writes that went into one batch, and what became of it.
struct Landed {
    writes: Vec<Queued>,
    bytes: u64,
    appended: Result<Appended, AppendError>,
}

type Append = LocalBoxFuture<'static, Landed>;

/// Serves a partition until its shard stops.
pub(super) async fn run(shard: Rc<Shard>, coordination: Rc<Coordination>) {
    while let Some(bytes) = load::read_log(&shard, &coordination).await {
        coordination.serve(&shard);
        let mut writer = Writer {
            shard: shard.clone(),
            coordination: coordination.clone(),
            appends: FuturesOrdered::new(),
            grown: bytes,
            copying: None,
            copy_not_before: Instant::now(),
        };
        writer.serve().await;
        coordination.step_down();
        if shard.is_stopping() {
            return;
        }
        tracing::warn!(
            partition = coordination.partition.index,
            "it is not known whether a write of consumer groups succeeded; reading their log again"
        );
        // What waits for memory is not written once nobody waits for it.
        drop(writer);
        if load::settled(&shard, &coordination).await.is_none() {
            break;
        }
    }
    coordination.step_down();
}

/// A copy under way.
struct Copying {
    copy: Copy,
    /// Its last piece is written.
    complete: bool,
}

struct Writer {
    shard: Rc<Shard>,
    coordination: Rc<Coordination>,
    appends: FuturesOrdered<Append>,
    /// Bytes in the log since its start, about.
    grown: u64,
    copying: Option<Copying>,
    copy_not_before: Instant,
}

/// What a wait ended with.
enum Event {
    Landed(Landed),
    Other,
}

impl Writer {
    /// Until the shard stops or it is not known what the log holds.
    async fn serve(&mut self) {
        while !self.shard.is_stopping() {
            let work = self.coordination.work.notified();
            self.fire();
            if self.sweep() {
                // There is more to look at; others have their turn.
                self.coordination.work.notify_all();
                task::yield_now().await;
            }
            // What waits may follow a piece of a copy; the next piece wants everything to have landed.
            let behind_piece = self.advance_copy().await;
            let drains = self.copying.is_some() || self.copy_due();
            if behind_piece || !drains || self.appends.is_empty() {
                self.append_queued();
            }
            if self.is_overdue() {
                // Others have their turn before what is due next.
                task::yield_now().await;
            }
            match self.wait(work).await {
                Event::Other => {}
                Event::Landed(landed) => {
                    if self.landed(landed).is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Waits for the first of: an append, more work, something due, the end.
    async fn wait(&mut self, work: impl Future<Output = ()> + Unpin) -> Event {
        let due = self.coordination.machine.borrow().next_due();
        let due = due.map(|ms| Instant::from_nanos(ms.saturating_mul(1_000_000)));
        let sleeping = async {
            match due {
                Some(at) => time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let (sleeping, stopped) = (
            std::pin::pin!(sleeping),
            std::pin::pin!(self.shard.stopped()),
        );
        let idle = select(work, select(sleeping, stopped));
        let appends = &mut self.appends;
        let landed = std::future::poll_fn(move |cx| match Pin::new(&mut *appends).poll_next(cx) {
            std::task::Poll::Ready(Some(landed)) => std::task::Poll::Ready(landed),
            // Nothing is under way.
            std::task::Poll::Ready(None) | std::task::Poll::Pending => std::task::Poll::Pending,
        });
        match select(landed, idle).await {
            Either::Left((landed, _)) => Event::Landed(landed),
            Either::Right(_) => Event::Other,
        }
    }

    /// Whether something is due already, so that waiting would end at once.
    fn is_overdue(&self) -> bool {
        let due = self.coordination.machine.borrow().next_due();
        due.is_some_and(|due| due <= now().mono_ms)
    }

    fn fire(&self) {
        let fired = self.coordination.machine.borrow_mut().fire(now());
        if fired.sweep {
            self.coordination.sweep.set(true);
        }
        if !fired.effects.is_empty() {
            self.coordination.act(fired.effects);
        }
    }

    /// Looks for what is too old, if it is time to. Whether there is more.
    fn sweep(&self) -> bool {
        if !self.coordination.sweep.get() || !self.coordination.is_quiet() {
            return false;
        }
        let image = self.shard.image();
        let exists = |name: &str, id: TopicId| {
            let topic = image.topic(name);
            topic.is_some_and(|topic| id == TopicId::NONE || topic.id == id)
        };
        let swept = self.coordination.machine.borrow_mut().sweep(now(), &exists);
        self.coordination.sweep.set(swept.more);
        if !swept.effects.is_empty() {
            self.coordination.act(swept.effects);
        }
        swept.more
    }

    /// Appends what waits.
    fn append_queued(&mut self) {
        while self.appends.len() < APPENDS_MAX {
            let (mut writes, mut bytes) = (Vec::new(), 0);
            while bytes < WRITE_BYTES {
                let Some(queued) = self.coordination.dequeue() else {
                    break;
                };
                bytes += queued.bytes;
                writes.push(queued);
            }
            if writes.is_empty() {
                return;
            }
            self.append(writes);
        }
    }

    fn append(&mut self, writes: Vec<Queued>) {
        let unix_ms = now().unix_ms;
        let batch = batch(writes.iter().flat_map(|q| &q.write.records), unix_ms);
        let header = BatchHeader::parse(&batch).expect("a batch that was made here can be read");
        let bytes = batch.len() as u64;
        let c = &self.coordination;
        let append = c.ring.append(c.partition, header, batch, unix_ms);
        self.appends.push_back(Box::pin(async move {
            Landed {
                writes,
                bytes,
                appended: append.await,
            }
        }));
    }

    /// Tells the machine, and whoever waits.
    ///
    /// # Errors
    /// When it is not known what the log holds.
    fn landed(&mut self, landed: Landed) -> Result<(), ()> {
        let unknown = matches!(
            landed.appended,
            Err(AppendError::Propose(
                ProposeError::Unknown | ProposeError::Stopped
            ))
        );
        if unknown {
            // Waiters are told by their channels, which close.
            return Err(());
        }
        if let Err(error) = &landed.appended {
            tracing::warn!(partition = self.coordination.partition.index, %error, "consumer groups could not be written");
            if self.copying.take().is_some() {
                self.copy_not_before = Instant::now() + COPY_AGAIN;
            }
        }
        let mut next = landed.appended.as_ref().ok().map(|a| a.base_offset);
        let copied = landed.writes.iter().any(|q| q.write.then == Then::Copied);
        // A copy is no reason for the next one.
        if next.is_some() && !copied {
            self.grown += landed.bytes;
        }
        for queued in landed.writes {
            let Queued { write, done, .. } = queued;
            let records = write.records.len() as Offset;
            let effects = self
                .coordination
                .machine
                .borrow_mut()
                .written(write, next, now());
            self.coordination.act(effects);
            if let Some(done) = done {
                let result = next.map(|_| ()).ok_or(GroupError::CoordinatorNotAvailable);
                let _ = done.send(result);
            }
            next = next.map(|offset| offset + records);
        }
        Ok(())
    }

    /// Begins a copy when the log has grown, and goes on with one whenever nothing is under way. Whether it appended a piece.
    async fn advance_copy(&mut self) -> bool {
        if self.copying.is_none() {
            self.begin_copy();
        }
        let Some(copying) = self.copying.as_mut().filter(|_| self.appends.is_empty()) else {
            return false;
        };
        if copying.complete {
            self.drop_before_copy().await;
            return false;
        }
        let machine = &self.coordination.machine;
        let (write, last) = machine
            .borrow_mut()
            .copy_piece(&mut copying.copy, WRITE_BYTES);
        copying.complete = last;
        if write.records.is_empty() {
            // Nothing of it was left to copy: the next turn goes on.
            self.coordination.work.notify_all();
            return false;
        }
        debug_assert_eq!(write.then, Then::Copied);
        self.append(vec![self.coordination.queued(write, None)]);
        true
    }

    /// Whether the log has grown so much that it is time for a copy.
    fn copy_due(&self) -> bool {
        let alive = self.coordination.machine.borrow().store().log_bytes() as u64;
        let enough = self.grown > COPY_BYTES_MIN.max(alive.saturating_mul(COPY_FACTOR));
        enough && Instant::now() >= self.copy_not_before
    }

    fn begin_copy(&mut self) {
        if !self.appends.is_empty() || !self.copy_due() {
            return;
        }
        let Some(view) = self.coordination.ring.view(self.coordination.partition) else {
            return;
        };
        self.grown = 0;
        let copy = Copy::new(view.high_watermark);
        self.copying = Some(Copying {
            copy,
            complete: false,
        });
    }

    /// The copy is durable: what is before it goes.
    async fn drop_before_copy(&mut self) {
        let Some(Copying { copy, .. }) = self.copying.take() else {
            return;
        };
        let c = &self.coordination;
        match c.ring.delete_records(c.partition, copy.from()).await {
            Ok(_) => self.shard.groups.counters.copies.add(1),
            Err(error) => {
                tracing::warn!(partition = c.partition.index, %error, "old records of consumer groups are still there");
                self.copy_not_before = Instant::now() + COPY_AGAIN;
            }
        }
    }
}

/// The batch of `records`.
fn batch<'a>(records: impl Iterator<Item = &'a Record>, unix_ms: i64) -> Bytes {
    let mut builder = BatchBuilder::new();
    for record in records {
        let key = record.key.encode();
        let header = record
            .topic_id
            .as_ref()
            .map(|id| [(tidemill_groups::codec::TOPIC_ID_HEADER, Some(&id.0[..]))]);
        builder.append(NewRecord {
            timestamp: unix_ms,
            key: Some(&key),
            value: record.value.as_deref(),
            headers: header.as_ref().map_or(&[], |h| &h[..]),
        });
    }
    builder.build()
}
