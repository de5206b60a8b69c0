//! The loop of one transform on one input partition.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tidemill_model::Offset;
use tidemill_rt::chan::semaphore::{Permit, Semaphore};
use tidemill_rt::chan::watch;
use tidemill_rt::task::{self, JoinHandle, Queue};
use tidemill_rt::time::{self, Instant};
use tidemill_wasm_host::{LogLevel, OutputBatch};

use crate::input::{self, Unpacked, bytes_of, unpack, unpacked_bytes};
use crate::io::{
    Happening, InputRun, Observer, Outcome, Room, Runner, Sink, SinkError, Source, SourceError,
};
use crate::run::{Bounds, End, Gathered, OnError, Stretch};
use crate::stats::{ProcessorState, ProcessorStats, Tally};

/// Uncompressed bytes of input a call carries, about; one batch may be more.
pub const CALL_BYTES: usize = 1 << 20;
/// Stretches of input that the processors of one transform on a shard run at once: memory for input and room for output are taken for no
/// more, so that a transform with many partitions leaves both to others, and its calls do not queue up before theirs.
pub const STRETCHES_MAX: u64 = 4;
/// Outcomes under way at once.
const IN_FLIGHT_MAX: usize = 4;
/// Input without output is gathered up to this many records ...
const GATHER_RECORDS_MAX: i64 = 100_000;
/// ... and for at most this long, before progress is recorded.
const GATHER_TIME_MAX: Duration = Duration::from_millis(200);
/// First wait after a failure; it doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest wait after a failure.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Runs for whose output there was no room, although it was taken in the size of the output of the one before, after which
/// all room there is is taken: the function puts out something else every time.
const FULL_RUNS_MAX: u32 = 2;
/// Outcomes are not cut up below this many bytes of output because of a sink that finds them too large.
const OUTCOME_BYTES_MIN: usize = 64 << 10;

/// What a processor is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Work.
    Run,
    /// Stand still at a batch boundary.
    Pause,
    /// End at a batch boundary.
    Stop,
}

/// Why a processor ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// It was told to.
    Told,
    /// Its input is gone, or it is not attached to it any more.
    Detached,
}

/// What a processor works with.
#[derive(Debug, Clone)]
pub struct ProcessorConfig {
    /// Name of the transform.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// Name of the input topic.
    pub input_topic: String,
    /// Input partition.
    pub partition: i32,
    /// What happens to a record it fails on.
    pub on_error: OnError,
    /// Attempts before that.
    pub attempts: u32,
    /// Partitions of the first output, where records that nobody placed go by their key there: those passed through do, too.
    pub by_key: Option<u32>,
    /// Memory for unpacked input, in bytes: [`input::UNPACKED_BYTES_MAX`], shared by the processors of a shard.
    pub unpacking: Semaphore,
    /// [`STRETCHES_MAX`], shared by the transform's processors on a shard.
    pub stretches: Semaphore,
}

/// An outcome under way: a task, so that it gives its room back whatever the processor is waiting for meanwhile.
type InFlight = JoinHandle<Result<(), SinkError>>;

/// Input ready to be run.
struct Loaded {
    sections: Vec<Unpacked>,
    /// Offset after it.
    next: Offset,
    /// What was read beyond it.
    rest: Option<InputRun>,
    /// Kept as long as the sections.
    memory: Option<Permit>,
}

/// What a run came to.
struct Ran {
    gathered: Gathered,
    end: End,
    room: Box<dyn Room>,
}

/// What woke the processor.
enum Event {
    Control,
    /// Nobody is left who could tell it anything.
    Abandoned,
    Input(Result<InputRun, SourceError>),
    Settled(Result<(), SinkError>),
    GatheredLongEnough,
}

/// A transform at work on one input partition. Lives on the partition's shard.
pub struct Processor<S, K, R> {
    source: S,
    sink: K,
    runner: R,
    config: ProcessorConfig,
    control: watch::Receiver<Control>,
    stats: Rc<ProcessorStats>,
    observer: Rc<dyn Observer>,
    /// First offset no outcome has been proposed for.
    proposed: Offset,
    /// First offset not read; above `proposed` while progress without output is gathered.
    position: Offset,
    gathering_since: Option<Instant>,
    /// What was decided from `proposed` to `position`.
    tally: Tally,
    /// Input at `position` that was read and is more than one call carries.
    rest: Option<InputRun>,
    in_flight: VecDeque<InFlight>,
    backoff: Duration,
    /// Bytes that the output of what comes next is known to need, 0 when nothing is known.
    room_needed: usize,
    /// Bytes of output in one outcome, below the sink's own bound after it found one too large.
    outcome_max: usize,
}

impl<S, K, R> std::fmt::Debug for Processor<S, K, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Processor({} on {}/{})",
            self.config.name, self.config.input_topic, self.config.partition
        )
    }
}

impl<S: Source, K: Sink, R: Runner> Processor<S, K, R> {
    /// A processor that has done nothing yet.
    pub fn new(
        (source, sink, runner): (S, K, R),
        config: ProcessorConfig,
        control: watch::Receiver<Control>,
        stats: Rc<ProcessorStats>,
        observer: Rc<dyn Observer>,
    ) -> Self {
        Processor {
            source,
            sink,
            runner,
            config,
            control,
            stats,
            observer,
            proposed: 0,
            position: 0,
            gathering_since: None,
            tally: Tally::default(),
            rest: None,
            in_flight: VecDeque::new(),
            backoff: BACKOFF_MIN,
            room_needed: 0,
            outcome_max: usize::MAX,
        }
    }

    /// Works until told to stop or detached.
    pub async fn run(mut self) -> Stopped {
        let Some(stands_at) = self.sink.position() else {
            return Stopped::Detached;
        };
        self.restart_at(stands_at);
        loop {
            if let Some(stopped) = self.obey().await {
                return stopped;
            }
            self.stats.state.set(ProcessorState::Running);
            let result = match self.next_event().await {
                Event::Control => Ok(()),
                Event::Abandoned => {
                    self.settle_all().await;
                    return Stopped::Told;
                }
                Event::Input(Ok(run)) => self.handle(run).await,
                Event::Input(Err(e)) => self.without_input(e).await,
                Event::Settled(result) => self.settled(result),
                Event::GatheredLongEnough => {
                    self.flush();
                    Ok(())
                }
            };
            match result {
                Ok(()) => {}
                Err(SinkError::Detached) => {
                    self.drain().await;
                    return Stopped::Detached;
                }
                Err(e) => {
                    if self.recover(e).await.is_none() {
                        return Stopped::Detached;
                    }
                }
            }
        }
    }

    /// Follows the control: waits while paused; says so when it is time to end. Either way what was read and is
    /// undecided is simply read again later; what is under way is waited for, so that whoever comes next finds it decided.
    async fn obey(&mut self) -> Option<Stopped> {
        let mut settled = false;
        loop {
            let control = *self.control.borrow_and_update();
            if control == Control::Run {
                return None;
            }
            if !settled {
                self.settle_all().await;
                settled = true;
            }
            if control == Control::Stop {
                return Some(Stopped::Told);
            }
            self.stats.state.set(ProcessorState::Paused);
            if self.control.changed().await.is_err() {
                return Some(Stopped::Told);
            }
            match self.sink.position() {
                Some(stands_at) => self.restart_at(stands_at),
                None => return Some(Stopped::Detached),
            }
        }
    }

    /// Records progress gathered so far and waits for everything under way, whatever comes of it.
    async fn settle_all(&mut self) {
        self.flush();
        while let Some(outcome) = self.in_flight.pop_front() {
            match joined(outcome.await) {
                Ok(()) | Err(SinkError::Stale { .. }) => {}
                Err(e) => self.stats.error(e.to_string(), None),
            }
        }
    }

    /// Waits for everything under way, as long as it is taken.
    async fn settle(&mut self) -> Result<(), SinkError> {
        while let Some(outcome) = self.in_flight.pop_front() {
            let result = joined(outcome.await);
            self.settled(result)?;
        }
        Ok(())
    }

    /// Waits for everything under way, whatever comes of it.
    async fn drain(&mut self) {
        while let Some(outcome) = self.in_flight.pop_front() {
            let _ = outcome.await;
        }
    }

    /// Progress is what ends a series of failures, so the back-off begins anew.
    fn settled(&mut self, result: Result<(), SinkError>) -> Result<(), SinkError> {
        result?;
        self.backoff = BACKOFF_MIN;
        self.outcome_max = usize::MAX;
        Ok(())
    }

    fn restart_at(&mut self, stands_at: Offset) {
        self.in_flight.clear();
        self.gathering_since = None;
        self.tally = Tally::default();
        self.rest = None;
        self.proposed = stands_at;
        self.position = stands_at;
    }

    async fn next_event(&mut self) -> Event {
        if self.in_flight.len() >= IN_FLIGHT_MAX {
            let oldest = self
                .in_flight
                .pop_front()
                .expect("its length was just checked");
            return Event::Settled(joined(oldest.await));
        }
        if let Some(rest) = self.rest.take() {
            return Event::Input(Ok(rest));
        }
        let mut read = self.source.read(self.position, CALL_BYTES);
        let mut changed = Box::pin(self.control.changed());
        let mut timer = self
            .gathering_since
            .map(|since| time::sleep_until(since + GATHER_TIME_MAX));
        let in_flight = &mut self.in_flight;
        poll_fn(move |cx| {
            match changed.as_mut().poll(cx) {
                Poll::Ready(Ok(())) => return Poll::Ready(Event::Control),
                Poll::Ready(Err(watch::Closed)) => return Poll::Ready(Event::Abandoned),
                Poll::Pending => {}
            }
            if let Some(oldest) = in_flight.front_mut()
                && let Poll::Ready(result) = Pin::new(oldest).poll(cx)
            {
                in_flight.pop_front();
                return Poll::Ready(Event::Settled(joined(result)));
            }
            if let Some(timer) = &mut timer
                && Pin::new(timer).poll(cx).is_ready()
            {
                return Poll::Ready(Event::GatheredLongEnough);
            }
            read.as_mut().poll(cx).map(Event::Input)
        })
        .await
    }

    /// Runs one stretch of input and proposes what came of it.
    async fn handle(&mut self, run: InputRun) -> Result<(), SinkError> {
        let began = Instant::now();
        let Some(turn) = self.turn().await else {
            return Ok(());
        };
        let Some(loaded) = self.unpack(run).await else {
            return Ok(());
        };
        let Some(mut ran) = self.run_with_room(&loaded.sections, began).await else {
            return Ok(());
        };
        let decided = match &ran.end {
            End::Stopped => return Err(SinkError::Detached),
            End::Whole => loaded.next,
            End::Enough { decided } | End::Full { decided, .. } => *decided,
            End::Unavailable { decided, .. } => *decided,
            End::StuckAt { offset, .. } => *offset,
        };
        for section in &loaded.sections {
            count_below(section, decided, &mut ran.gathered.tally);
        }
        self.position = decided;
        self.propose_or_gather(ran.gathered, ran.room, began);
        self.room_needed = 0;
        // Neither the memory of the input nor the turn is kept through a back-off.
        let rest = loaded.rest;
        drop(loaded.sections);
        drop(loaded.memory);
        drop(turn);
        match ran.end {
            End::StuckAt { offset, message } => {
                let what = format!("record at offset {offset} failed: {message}");
                let hint = ". To go on without such records, deploy with --on-error skip or --dead-letter TOPIC";
                self.hold(&what, Some(offset), hint).await
            }
            End::Unavailable { message, .. } => {
                self.stats.error(message.clone(), Some(decided));
                self.hold(&message, None, "").await
            }
            End::Whole => {
                self.rest = rest;
                Ok(())
            }
            End::Full { bytes, .. } => {
                self.room_needed = bytes;
                Ok(())
            }
            End::Enough { .. } | End::Stopped => Ok(()),
        }
    }

    /// The turn to run a stretch. Who cannot write what would come of it leaves it to the transform's other partitions. `None` when the
    /// control changed before.
    async fn turn(&self) -> Option<Permit> {
        loop {
            self.unless_told(self.sink.ready()).await?;
            let turn = Box::pin(self.config.stretches.acquire(1));
            let turn = self.unless_told(turn).await?;
            // The turn may have been long in coming.
            let mut ready = self.sink.ready();
            if poll_fn(|cx| Poll::Ready(ready.as_mut().poll(cx).is_ready())).await {
                return Some(turn);
            }
        }
    }

    /// As much of `run` as one call carries. Compressed input may be a hundred times as large as it looks, so it is what
    /// comes out that counts; memory for the worst is taken before, and kept for what it came to. `None` when the control
    /// changed before there was any.
    async fn unpack(&self, run: InputRun) -> Option<Loaded> {
        let worst = input::unpacking_bytes_max(&run.batches, CALL_BYTES);
        let mut memory = None;
        if worst > 0 {
            let taken = Box::pin(self.config.unpacking.acquire(worst));
            memory = Some(self.unless_told(taken).await?);
        }
        let taken = unpack(run.batches, self.position, CALL_BYTES).await;
        if let Some(memory) = &mut memory {
            memory.settle(taken.sections.iter().map(unpacked_bytes).sum());
        }
        let (mut next, mut rest) = (run.next, None);
        if !taken.rest.is_empty() {
            next = taken.sections.last().map_or(self.position, next_of);
            rest = Some(InputRun {
                batches: taken.rest,
                next: run.next,
            });
        }
        Some(Loaded {
            sections: taken.sections,
            next,
            rest,
            memory,
        })
    }

    /// Runs `sections`, with room for their output taken before (rule X10): about as large as the input, unless more is known.
    /// Where they put out more and that is not free at once, nothing is kept and they run again with room of that size: who
    /// holds room never waits for more. `None` when the control changed before there was any.
    async fn run_with_room(&self, sections: &[Unpacked], began: Instant) -> Option<Ran> {
        let input_bytes: usize = sections.iter().map(bytes_of).sum();
        let outcome_max = self.outcome_max.min(self.sink.outcome_bytes_max());
        let mut wanted = input_bytes.max(self.room_needed);
        for full_runs in 0_u32.. {
            if full_runs >= FULL_RUNS_MAX {
                wanted = outcome_max;
            }
            let room = RefCell::new(self.unless_told(self.sink.room(wanted)).await?);
            let mut gathered = Gathered::default();
            let stretch = Stretch {
                runner: &self.runner,
                config: &self.config,
                control: &self.control,
                stats: &self.stats,
                observer: &self.observer,
                bounds: Bounds::within(outcome_max),
                room: &room,
                first: self.position,
                began,
            };
            let end = stretch.run(sections, &mut gathered).await;
            match end {
                End::Full { decided, bytes } if decided <= self.position => wanted = bytes,
                end => {
                    let room = room.into_inner();
                    return Some(Ran {
                        gathered,
                        end,
                        room,
                    });
                }
            }
        }
        None
    }

    /// What `wait` comes to; `None` when the control changed before, since the wait may be long.
    async fn unless_told<T>(
        &self,
        mut wait: Pin<Box<impl Future<Output = T> + ?Sized>>,
    ) -> Option<T> {
        // A clone: the change itself is looked at by `obey`.
        let mut control = self.control.clone();
        let mut changed = Box::pin(control.changed());
        poll_fn(|cx| {
            if let Poll::Ready(value) = wait.as_mut().poll(cx) {
                return Poll::Ready(Some(value));
            }
            changed.as_mut().poll(cx).map(|_| None)
        })
        .await
    }

    fn propose_or_gather(&mut self, gathered: Gathered, mut room: Box<dyn Room>, began: Instant) {
        self.tally += gathered.tally;
        let since = *self.gathering_since.get_or_insert(began);
        let little = self.position - self.proposed < GATHER_RECORDS_MAX;
        if gathered.outputs.is_empty() && little && since.elapsed() < GATHER_TIME_MAX {
            return;
        }
        // What is too much goes back; nothing was gathered beyond it.
        room.resize(gathered.bytes);
        self.propose(gathered.outputs, Some(room), began);
    }

    /// Proposes progress gathered without output.
    fn flush(&mut self) {
        self.propose(Vec::new(), None, Instant::now());
    }

    /// Proposes everything from `proposed` to `position` with its output. The room is kept until it is decided.
    fn propose(&mut self, outputs: Vec<OutputBatch>, room: Option<Box<dyn Room>>, began: Instant) {
        self.gathering_since = None;
        if self.position <= self.proposed {
            return;
        }
        let written: Vec<(u32, u64, u64)> = outputs
            .iter()
            .map(|o| (o.output, u64::from(o.records), o.batch.len() as u64))
            .collect();
        let outcome = Outcome {
            first: self.proposed,
            next: self.position,
            outputs,
        };
        self.proposed = self.position;
        let tally = std::mem::take(&mut self.tally);
        let (committed, stats) = (self.sink.propose(outcome), self.stats.clone());
        let under_way = async move {
            let committed = committed.await;
            drop(room);
            committed?;
            stats.decided(tally);
            if !written.is_empty() {
                stats.latency(began.elapsed());
            }
            for (output, records, bytes) in written {
                stats.wrote(output, records, bytes);
            }
            Ok(())
        };
        self.in_flight
            .push_back(task::spawn(Queue::Kafka, under_way));
    }

    /// Stands still for the back-off; what was decided before is recorded first, and room is given back.
    async fn hold(
        &mut self,
        what: &str,
        offset: Option<Offset>,
        hint: &str,
    ) -> Result<(), SinkError> {
        self.flush();
        self.settle().await?;
        let wait = self.backoff.as_millis();
        self.report(offset, &format!("{what}; trying again in {wait} ms{hint}"));
        self.pause_for_backoff().await;
        Ok(())
    }

    fn report(&self, offset: Option<Offset>, message: &str) {
        self.observer.event(Happening {
            level: LogLevel::Error,
            offset,
            message,
        });
    }

    async fn without_input(&mut self, e: SourceError) -> Result<(), SinkError> {
        match e {
            SourceError::Gone => Err(SinkError::Detached),
            SourceError::Deleted { log_start_offset } if log_start_offset > self.position => {
                let missed = (log_start_offset - self.position) as u64;
                self.tally.missed += missed;
                self.report(None, &format!("{e}: records missed: {missed}"));
                self.position = log_start_offset;
                self.flush();
                Ok(())
            }
            SourceError::Deleted { .. } | SourceError::Unavailable(_) => {
                self.stats.error(e.to_string(), Some(self.position));
                self.hold(&e.to_string(), None, "").await
            }
        }
    }

    /// After an outcome that was not taken: everything under way falls, and the sink says where to begin again.
    async fn recover(&mut self, e: SinkError) -> Option<()> {
        // What is still under way may yet be taken; the position is asked for when all of it is decided.
        self.drain().await;
        if let SinkError::TooLarge { max_bytes, .. } = &e {
            // Run again, the input is cut up until its outcomes are small enough.
            let max = *max_bytes as usize;
            let smaller = match self.outcome_max <= max {
                true => self.outcome_max / 2,
                false => max,
            };
            self.outcome_max = smaller.max(OUTCOME_BYTES_MIN);
        }
        if !matches!(e, SinkError::Stale { .. }) {
            self.stats.error(e.to_string(), self.sink.position());
            self.report(None, &e.to_string());
            self.pause_for_backoff().await;
        }
        let stands_at = self.sink.position()?;
        self.restart_at(stands_at);
        Some(())
    }

    /// Waits the back-off, or until the control changes.
    async fn pause_for_backoff(&mut self) {
        self.stats.state.set(ProcessorState::Failing);
        let wait = self.backoff;
        self.backoff = (wait * 2).min(BACKOFF_MAX);
        let mut changed = self.control.clone();
        // The change itself is looked at by `obey`; here it only ends the wait.
        let _ = time::timeout(wait, changed.changed()).await;
    }
}

fn joined(result: Result<Result<(), SinkError>, task::JoinError>) -> Result<(), SinkError> {
    result.unwrap_or_else(|e| Err(SinkError::Unavailable(e.to_string())))
}

fn next_of(section: &Unpacked) -> Offset {
    match section {
        Ok(section) => section.next(),
        Err(unreadable) => unreadable.next,
    }
}

fn count_below(section: &Unpacked, decided: Offset, tally: &mut Tally) {
    let (records, next) = match section {
        Ok(section) => (section.count_below(decided), section.next()),
        Err(batch) if batch.next <= decided => {
            ((batch.next - batch.base_offset).max(0) as u64, batch.next)
        }
        Err(batch) => (0, batch.next),
    };
    tally.records_in += records;
    if next <= decided {
        tally.bytes_in += bytes_of(section) as u64;
    }
}
