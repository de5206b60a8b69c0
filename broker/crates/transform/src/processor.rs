//! The loop of one transform on one input partition.

use std::any::Any;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tidemill_model::Offset;
use tidemill_rt::chan::watch;
use tidemill_rt::time::{self, Instant};

use crate::input::{Unpacked, unpack};
use crate::io::{
    InputRun, LocalFuture, Observer, Outcome, Runner, Sink, SinkError, Source, SourceError,
};
use crate::run::{End, Gathered, OnError, PolicyCounts, Stretch};
use crate::stats::{ProcessorState, ProcessorStats};

/// Bytes of input a call carries, about; one batch may be more.
pub const CALL_BYTES: usize = 1 << 20;
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
}

type InFlight = LocalFuture<'static, Result<(), SinkError>>;

/// What woke the processor.
enum Event {
    Control,
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
    in_flight: VecDeque<InFlight>,
    backoff: Duration,
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
            in_flight: VecDeque::new(),
            backoff: BACKOFF_MIN,
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
                Event::Input(Ok(run)) => self.handle(run).await,
                Event::Input(Err(e)) => self.without_input(e).await,
                Event::Settled(result) => result,
                Event::GatheredLongEnough => {
                    self.propose(Gathered::default(), Instant::now());
                    Ok(())
                }
            };
            match result {
                Ok(()) => {}
                Err(SinkError::Detached) => return Stopped::Detached,
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
        if self.position > self.proposed {
            self.propose(Gathered::default(), Instant::now());
        }
        while let Some(outcome) = self.in_flight.pop_front() {
            if let Err(e) = outcome.await {
                self.stats.error(e.to_string(), None);
            }
        }
    }

    fn restart_at(&mut self, stands_at: Offset) {
        self.in_flight.clear();
        self.gathering_since = None;
        self.proposed = stands_at;
        self.position = stands_at;
    }

    async fn next_event(&mut self) -> Event {
        if self.in_flight.len() >= IN_FLIGHT_MAX {
            let oldest = self
                .in_flight
                .pop_front()
                .expect("its length was just checked");
            return Event::Settled(oldest.await);
        }
        let mut read = self.source.read(self.position, CALL_BYTES);
        let mut changed = Box::pin(self.control.changed());
        let mut timer = self
            .gathering_since
            .map(|since| time::sleep_until(since + GATHER_TIME_MAX));
        let in_flight = &mut self.in_flight;
        poll_fn(move |cx| {
            if changed.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Event::Control);
            }
            if let Some(oldest) = in_flight.front_mut()
                && let Poll::Ready(result) = oldest.as_mut().poll(cx)
            {
                in_flight.pop_front();
                return Poll::Ready(Event::Settled(result));
            }
            if let Some(timer) = &mut timer
                && std::pin::Pin::new(timer).poll(cx).is_ready()
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
        let bytes: usize = run.batches.iter().map(tidemill_model::Batch::len).sum();
        let mut sections: Vec<Unpacked> = Vec::with_capacity(run.batches.len());
        for batch in &run.batches {
            sections.push(unpack(batch, self.position).await);
        }
        // Room for the output is taken before the run (rule X10). Outputs are about as large as inputs; what is larger
        // overdraws by one run.
        let room = self.sink.room(bytes).await;
        let mut gathered = Gathered::default();
        let end = {
            let stretch = Stretch {
                runner: &self.runner,
                config: &self.config,
                stats: &self.stats,
                observer: &self.observer,
            };
            stretch.run(&sections, &mut gathered).await
        };
        let (decided, stuck) = match end {
            End::Stopped => return Err(SinkError::Detached),
            End::Whole => (run.next, None),
            End::StuckAt { offset, message } => (offset, Some((offset, message))),
        };
        let counted = sections
            .iter()
            .map(|s| count_below(s, decided))
            .sum::<u64>();
        ProcessorStats::add(&self.stats.records_in, counted);
        ProcessorStats::add(&self.stats.bytes_in, bytes as u64);
        self.position = decided;
        self.propose_or_gather(gathered, room, began);
        match stuck {
            None => {
                self.backoff = BACKOFF_MIN;
                Ok(())
            }
            Some((offset, message)) => self.wait_at(offset, &message).await,
        }
    }

    fn propose_or_gather(&mut self, gathered: Gathered, room: Box<dyn Any>, began: Instant) {
        self.count(gathered.counts);
        let gathered_records = self.position - self.proposed;
        if gathered.outputs.is_empty() && gathered_records < GATHER_RECORDS_MAX {
            self.gathering_since.get_or_insert(began);
            return;
        }
        self.propose(gathered, began);
        drop(room);
    }

    fn count(&self, counts: PolicyCounts) {
        ProcessorStats::add(&self.stats.skipped, counts.skipped);
        ProcessorStats::add(&self.stats.dead_lettered, counts.dead_lettered);
        ProcessorStats::add(&self.stats.passed_through, counts.passed_through);
    }

    /// Proposes everything from `proposed` to `position` with `gathered`'s output.
    fn propose(&mut self, gathered: Gathered, began: Instant) {
        self.gathering_since = None;
        if self.position <= self.proposed {
            return;
        }
        let written: Vec<(u32, u64, u64)> = gathered
            .outputs
            .iter()
            .map(|o| (o.output, u64::from(o.records), o.batch.len() as u64))
            .collect();
        let outcome = Outcome {
            first: self.proposed,
            next: self.position,
            outputs: gathered.outputs,
        };
        self.proposed = self.position;
        let (committed, stats) = (self.sink.propose(outcome), self.stats.clone());
        self.in_flight.push_back(Box::pin(async move {
            committed.await?;
            stats.latency(began.elapsed());
            for (output, records, bytes) in written {
                stats.wrote(output, records, bytes);
            }
            Ok(())
        }));
    }

    /// Stuck at a record: what came before it is decided, then it is tried again after a wait.
    async fn wait_at(&mut self, offset: Offset, message: &str) -> Result<(), SinkError> {
        if self.position > self.proposed {
            self.propose(Gathered::default(), Instant::now());
        }
        while let Some(outcome) = self.in_flight.pop_front() {
            outcome.await?;
        }
        let wait = self.backoff;
        self.observer.event(&format!(
            "stopped at offset {offset} ({message}); trying again in {} ms. To go on without such records, deploy with \
             --on-error skip or --dead-letter TOPIC",
            wait.as_millis()
        ));
        self.pause_for_backoff().await;
        Ok(())
    }

    async fn without_input(&mut self, e: SourceError) -> Result<(), SinkError> {
        match e {
            SourceError::Gone => Err(SinkError::Detached),
            SourceError::Deleted { log_start_offset } => {
                let missed = (log_start_offset - self.position).max(0) as u64;
                ProcessorStats::add(&self.stats.missed, missed);
                self.observer
                    .event(&format!("{e}: {missed} records were missed"));
                self.position = log_start_offset;
                self.propose(Gathered::default(), Instant::now());
                Ok(())
            }
            SourceError::Unavailable(_) => {
                self.stats.error(e.to_string(), None);
                self.pause_for_backoff().await;
                Ok(())
            }
        }
    }

    /// After an outcome that was not taken: everything under way falls, and the sink says where to begin again.
    async fn recover(&mut self, e: SinkError) -> Option<()> {
        if !matches!(e, SinkError::Stale { .. }) {
            self.stats.error(e.to_string(), Some(self.proposed));
            self.observer.event(&e.to_string());
            self.pause_for_backoff().await;
        }
        // What is still under way may yet be taken; the position is asked for when all of it is decided.
        while let Some(outcome) = self.in_flight.pop_front() {
            let _ = outcome.await;
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

fn count_below(section: &Unpacked, decided: Offset) -> u64 {
    match section {
        Ok(section) => section.count_below(decided),
        Err(unreadable) if unreadable.next <= decided => {
            (unreadable.next - unreadable.base_offset).max(0) as u64
        }
        Err(_) => 0,
    }
}
