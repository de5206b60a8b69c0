//! The world around a processor: a log, a ring that decides outcomes, a function, and what goes wrong with each.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tidemill_model::batch::Compression;
use tidemill_model::record::{BatchBuilder, NewRecord, Records};
use tidemill_model::{Batch, BatchHeader, Offset};
use tidemill_rt::chan::notify::Notify;
use tidemill_rt::chan::semaphore::{Permit, Semaphore};
use tidemill_rt::chan::{oneshot, watch};
use tidemill_rt::sim::Sim;
use tidemill_rt::task::{self, JoinHandle, Queue};
use tidemill_rt::{rand, time};
use tidemill_wasm_host::{
    CallError, CallOutput, Destination, FailedCall, InputBatch, LogLine, OutputBatch, RecordFailure,
};

use crate::io::{
    Happening, InputRun, LocalFuture, Observer, Outcome, Room, Runner, Sink, SinkError, Source,
    SourceError,
};
use crate::processor::STRETCHES_MAX;
use crate::{Control, OnError, Processor, ProcessorConfig, ProcessorStats, Stopped};

/// Output of the function for every record that is not quiet.
pub(super) const MAIN: u32 = 0;
/// Output of the function for every third record.
pub(super) const THIRDS: u32 = 1;
/// Output of dead letters.
pub(super) const LETTERS: u32 = 2;

/// Timestamp of the first record; each further one is 1 ms later.
pub(super) const FIRST_MS: i64 = 1_700_000_000_000;

/// Chances in 1,000 of what goes wrong.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Faults {
    /// A call traps.
    pub(super) trap: u64,
    /// The guest thread is busy.
    pub(super) busy: u64,
    /// A read fails.
    pub(super) read: u64,
    /// An outcome is lost.
    pub(super) lost: u64,
    /// An outcome takes effect, and whoever proposed it hears the contrary.
    pub(super) denied: u64,
    /// The same, and hears it before.
    pub(super) denied_early: u64,
}

struct Pending {
    outcome: Outcome,
    reply: oneshot::Sender<Result<(), SinkError>>,
    lost: bool,
    denied: bool,
}

/// A record of an output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) value: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) timestamp: i64,
}

#[derive(Default)]
pub(super) struct Log {
    pub(super) batches: RefCell<Vec<Batch>>,
    pub(super) start: Cell<Offset>,
    pub(super) end: Cell<Offset>,
    /// Above the batches: what the source leaves out.
    pub(super) left_out: Cell<i64>,
    gone: Cell<bool>,
    grown: Notify,
}

/// Everything a processor sees.
pub(super) struct World {
    pub(super) log: Log,
    pub(super) faults: Cell<Faults>,
    pub(super) stands_at: Cell<Option<Offset>>,
    /// First and next offset of every outcome taken.
    pub(super) decided: RefCell<Vec<(Offset, Offset)>>,
    pub(super) proposals: Cell<u64>,
    pub(super) out: RefCell<BTreeMap<u32, Vec<Written>>>,
    moved: Notify,
    queue: RefCell<VecDeque<Pending>>,
    queued: Notify,
    /// While it is set nothing is decided.
    pub(super) frozen: Cell<bool>,
    pub(super) output_gone: Cell<bool>,
    /// While it is set no output can be written.
    pub(super) unwritable: Cell<bool>,
    pub(super) writable: Notify,
    pub(super) room: Semaphore,
    /// Bytes of outcomes proposed and undecided, now and at most.
    undecided_bytes: Cell<u64>,
    pub(super) undecided_bytes_max: Cell<u64>,
    /// The ring takes no outcome above this many bytes, whatever it says.
    pub(super) refused_above: Cell<usize>,
    /// Memory for unpacked input.
    pub(super) unpacking: Semaphore,
    pub(super) stretches: Semaphore,
    /// Offsets given to the function, call by call.
    pub(super) calls: RefCell<Vec<Vec<Offset>>>,
    pub(super) call_bytes: RefCell<Vec<usize>>,
    pub(super) called: Notify,
    /// The version of the function that fails on nothing.
    pub(super) fixed: Cell<bool>,
    pub(super) call_time: Cell<Duration>,
    pub(super) events: RefCell<Vec<(time::Instant, String)>>,
}

/// Room for output in bytes, unless a test wants less.
pub(super) const ROOM_BYTES: u64 = 64 << 20;

/// Runs `test` in a simulation.
pub(super) fn simulate<T, F: Future<Output = T>>(
    seed: u64,
    test: impl FnOnce(Rc<World>) -> F,
) -> T {
    simulate_with_room(seed, ROOM_BYTES, test)
}

/// The same with so many bytes of room for output.
pub(super) fn simulate_with_room<T, F: Future<Output = T>>(
    seed: u64,
    room: u64,
    test: impl FnOnce(Rc<World>) -> F,
) -> T {
    let sim = Sim::new(seed);
    sim.block_on(async {
        let world = World::new(room);
        let applied = world.clone();
        drop(task::spawn(Queue::Raft, async move {
            applied.decide_outcomes().await
        }));
        test(world).await
    })
    .unwrap_or_else(|stopped| panic!("{stopped}"))
}

pub(super) fn chance(per_mille: u64) -> bool {
    rand::below(1000) < per_mille
}

impl World {
    fn new(room: u64) -> Rc<World> {
        Rc::new(World {
            log: Log::default(),
            faults: Cell::default(),
            stands_at: Cell::new(Some(0)),
            decided: RefCell::default(),
            proposals: Cell::default(),
            out: RefCell::default(),
            moved: Notify::new(),
            queue: RefCell::default(),
            queued: Notify::new(),
            frozen: Cell::default(),
            output_gone: Cell::default(),
            unwritable: Cell::default(),
            writable: Notify::new(),
            room: Semaphore::new(room),
            undecided_bytes: Cell::default(),
            undecided_bytes_max: Cell::default(),
            refused_above: Cell::new(usize::MAX),
            unpacking: Semaphore::new(crate::input::UNPACKED_BYTES_MAX),
            stretches: Semaphore::new(STRETCHES_MAX),
            calls: RefCell::default(),
            call_bytes: RefCell::default(),
            called: Notify::new(),
            fixed: Cell::default(),
            call_time: Cell::new(Duration::from_millis(1)),
            events: RefCell::default(),
        })
    }

    /// Appends a batch of these values.
    pub(super) fn append(&self, values: &[&str]) {
        self.append_with(values, Compression::None);
    }

    pub(super) fn append_with(&self, values: &[&str], codec: Compression) {
        let mut builder = BatchBuilder::new();
        for (n, value) in values.iter().enumerate() {
            builder.append(NewRecord {
                timestamp: FIRST_MS + self.log.end.get() + n as i64,
                key: None,
                value: Some(value.as_bytes()),
                headers: &[(b"from", Some(b"test"))],
            });
        }
        self.append_bytes(builder.build_compressed(codec).unwrap());
    }

    /// Appends a batch as it is.
    pub(super) fn append_bytes(&self, bytes: Bytes) {
        let mut header = BatchHeader::parse(&bytes).unwrap();
        header.base_offset = self.log.end.get();
        self.log.end.set(header.next_offset());
        self.log.batches.borrow_mut().push(Batch { header, bytes });
        self.log.grown.notify_all();
    }

    /// Appends something that the source leaves out: a marker, or an aborted batch.
    pub(super) fn append_left_out(&self, records: i64) {
        self.log.end.set(self.log.end.get() + records);
        self.log.left_out.set(records);
        self.log.grown.notify_all();
    }

    /// Retention deletes what lies below `start`.
    pub(super) fn delete_below(&self, start: Offset) {
        self.log.start.set(start);
        self.log
            .batches
            .borrow_mut()
            .retain(|b| b.header.next_offset() > start);
    }

    pub(super) fn delete_topic(&self) {
        self.log.gone.set(true);
        self.log.grown.notify_all();
    }

    /// Waits until everything below `offset` is decided.
    pub(super) async fn decided_to(&self, offset: Offset) {
        while self.stands_at.get().is_none_or(|at| at < offset) {
            self.moved.notified().await;
        }
    }

    pub(super) async fn all_decided(&self) {
        self.decided_to(self.log.end.get()).await;
    }

    pub(super) fn thaw(&self) {
        self.frozen.set(false);
        self.queued.notify_all();
    }

    /// Values of an output.
    pub(super) fn values(&self, output: u32) -> Vec<String> {
        let out = self.out.borrow();
        let written = out.get(&output).map(Vec::as_slice).unwrap_or_default();
        written.iter().map(|w| w.value.clone()).collect()
    }

    /// Whether some event so far holds `text`.
    pub(super) fn told(&self, text: &str) -> bool {
        self.events.borrow().iter().any(|(_, e)| e.contains(text))
    }

    /// Decides outcomes in the order they were proposed, as a ring's log does.
    async fn decide_outcomes(self: Rc<World>) {
        loop {
            let queued = self.queued.notified();
            let next = if self.frozen.get() {
                None
            } else {
                self.queue.borrow_mut().pop_front()
            };
            let Some(pending) = next else {
                queued.await;
                continue;
            };
            time::sleep(Duration::from_micros(rand::below(3000))).await;
            let undecided = self.undecided_bytes.get() - bytes_of(&pending.outcome);
            self.undecided_bytes.set(undecided);
            let result = if pending.lost {
                Err(SinkError::Unavailable("lost".to_owned()))
            } else {
                self.apply(pending.outcome)
            };
            let denied = Err(SinkError::Unavailable("nobody knows".to_owned()));
            let _ = pending
                .reply
                .send(if pending.denied { denied } else { result });
        }
    }

    fn apply(&self, outcome: Outcome) -> Result<(), SinkError> {
        let stands_at = self.stands_at.get().ok_or(SinkError::Detached)?;
        assert!(outcome.next > outcome.first, "an outcome decides something");
        if outcome.first != stands_at {
            return Err(SinkError::Stale { stands_at });
        }
        self.stands_at.set(Some(outcome.next));
        self.decided
            .borrow_mut()
            .push((outcome.first, outcome.next));
        for output in outcome.outputs {
            let header = BatchHeader::validate(&output.batch).unwrap();
            assert_eq!(header.record_count as u32, output.records);
            let written = records(&output.batch);
            self.out
                .borrow_mut()
                .entry(output.output)
                .or_default()
                .extend(written);
        }
        self.moved.notify_all();
        Ok(())
    }
}

fn records(batch: &Bytes) -> Vec<Written> {
    let header = BatchHeader::parse(batch).unwrap();
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    let section = Records::new(
        &batch[tidemill_model::batch::HEADER_BYTES..],
        header.record_count,
    );
    section
        .map(|r| {
            let r = r.unwrap();
            let headers = r.headers.map(|h| {
                h.map(|(k, v)| (text(k), text(v.unwrap_or_default())))
                    .unwrap()
            });
            Written {
                value: text(r.value.unwrap_or_default()),
                headers: headers.collect(),
                timestamp: header.base_timestamp + r.timestamp_delta,
            }
        })
        .collect()
}

/// A handle on the world.
#[derive(Clone)]
pub(super) struct Hand(pub(super) Rc<World>);

impl Source for Hand {
    fn read(
        &self,
        from: Offset,
        max_bytes: usize,
    ) -> LocalFuture<'_, Result<InputRun, SourceError>> {
        Box::pin(async move {
            let log = &self.0.log;
            loop {
                let grown = log.grown.notified();
                if log.gone.get() {
                    return Err(SourceError::Gone);
                }
                if chance(self.0.faults.get().read) {
                    return Err(SourceError::Unavailable("a disk is slow".to_owned()));
                }
                if from < log.start.get() {
                    let log_start_offset = log.start.get();
                    return Err(SourceError::Deleted { log_start_offset });
                }
                if from < log.end.get() {
                    return Ok(self.0.run_at(from, max_bytes));
                }
                grown.await;
            }
        })
    }
}

impl World {
    fn run_at(&self, from: Offset, max_bytes: usize) -> InputRun {
        let mut batches = Vec::new();
        let mut bytes = 0;
        for batch in self
            .log
            .batches
            .borrow()
            .iter()
            .filter(|b| b.header.next_offset() > from)
        {
            if bytes > 0 && bytes + batch.len() > max_bytes {
                break;
            }
            bytes += batch.len();
            batches.push(batch.clone());
        }
        let last = batches
            .last()
            .map_or(from, |b: &Batch| b.header.next_offset());
        let left_out = self.log.end.get() - self.log.left_out.get();
        let next = if last >= left_out {
            self.log.end.get()
        } else {
            last
        };
        InputRun { batches, next }
    }
}

impl Sink for Hand {
    fn position(&self) -> Option<Offset> {
        self.0.stands_at.get()
    }

    fn outcome_bytes_max(&self) -> usize {
        self.0.room.total() as usize
    }

    fn ready(&self) -> LocalFuture<'_, ()> {
        Box::pin(async move {
            while self.0.unwritable.get() {
                self.0.writable.notified().await;
            }
        })
    }

    fn room(&self, bytes: usize) -> LocalFuture<'_, Box<dyn Room>> {
        Box::pin(async move {
            let permit = self.0.room.acquire(bytes as u64).await;
            let room: Box<dyn Room> = Box::new(WorldRoom(self.0.room.clone(), permit));
            room
        })
    }

    fn propose(&self, outcome: Outcome) -> LocalFuture<'static, Result<(), SinkError>> {
        self.0.proposals.set(self.0.proposals.get() + 1);
        if self.0.output_gone.get() {
            return Box::pin(async { Err(SinkError::OutputGone("there".to_owned())) });
        }
        let bytes = bytes_of(&outcome);
        let max_bytes = self.0.refused_above.get() as u64;
        if bytes > max_bytes {
            return Box::pin(async move { Err(SinkError::TooLarge { bytes, max_bytes }) });
        }
        let undecided = self.0.undecided_bytes.get() + bytes;
        self.0.undecided_bytes.set(undecided);
        let most = self.0.undecided_bytes_max.get().max(undecided);
        self.0.undecided_bytes_max.set(most);
        let faults = self.0.faults.get();
        let (reply, answer) = oneshot::channel();
        let pending = Pending {
            outcome,
            reply,
            lost: chance(faults.lost),
            denied: chance(faults.denied),
        };
        self.0.queue.borrow_mut().push_back(pending);
        self.0.queued.notify_all();
        let early = chance(faults.denied_early);
        Box::pin(async move {
            if early {
                return Err(SinkError::Unavailable("nobody knows yet".to_owned()));
            }
            answer.await.unwrap()
        })
    }
}

/// Room in the world.
#[derive(Debug)]
struct WorldRoom(Semaphore, Permit);

impl Room for WorldRoom {
    fn bytes(&self) -> usize {
        self.1.amount() as usize
    }

    fn resize(&mut self, bytes: usize) -> bool {
        let (bytes, before) = (bytes as u64, self.1.amount());
        if bytes > before && bytes - before > self.0.available() {
            return false;
        }
        self.1.settle(bytes);
        true
    }
}

fn bytes_of(outcome: &Outcome) -> u64 {
    outcome.outputs.iter().map(|o| o.batch.len() as u64).sum()
}

impl Observer for Hand {
    fn guest_line(&self, line: &LogLine, offset: Option<Offset>) {
        self.event(Happening {
            level: line.level,
            offset,
            message: &line.message,
        });
    }

    fn event(&self, happening: Happening<'_>) {
        self.0
            .events
            .borrow_mut()
            .push((time::Instant::now(), happening.message.to_owned()));
    }
}

impl Runner for Hand {
    fn call(&self, input: Vec<InputBatch>) -> LocalFuture<'_, Result<CallOutput, FailedCall>> {
        Box::pin(async move {
            let world = &self.0;
            assert!(
                world.room.available() < world.room.total(),
                "room is taken before the run"
            );
            let given: Vec<Given> = input.iter().flat_map(given).collect();
            let offsets = given.iter().map(|g| g.offset).collect();
            world.calls.borrow_mut().push(offsets);
            world
                .call_bytes
                .borrow_mut()
                .push(input.iter().map(|i| i.records.len()).sum());
            world.called.notify_all();
            time::sleep(world.call_time.get()).await;
            if chance(world.faults.get().busy) {
                return Err(CallError::Busy(1).into());
            }
            if chance(world.faults.get().trap) {
                return Err(CallError::Trap("by chance".to_owned()).into());
            }
            Ok(function(&given, world.fixed.get())?)
        })
    }
}

/// A record as the function sees it.
struct Given {
    offset: Offset,
    timestamp: i64,
    value: String,
}

fn given(input: &InputBatch) -> Vec<Given> {
    let given = |r: tidemill_model::record::RecordRef<'_>| Given {
        offset: input.base_offset + i64::from(r.offset_delta),
        timestamp: input.base_timestamp.wrapping_add(r.timestamp_delta),
        value: String::from_utf8_lossy(r.value.unwrap_or_default()).into_owned(),
    };
    let records = Records::new(&input.records, input.record_count as i32);
    let broken = || Given {
        offset: input.base_offset,
        timestamp: 0,
        value: "trap: this is no record".to_owned(),
    };
    records
        .map(|r| r.map_or_else(|_| broken(), given))
        .collect()
}

/// What the function does: `main V` for each value V, `third V` for every third offset, and as the value says.
fn function(given: &[Given], fixed: bool) -> Result<CallOutput, CallError> {
    let mut outputs: BTreeMap<u32, BatchBuilder> = BTreeMap::new();
    let mut failures = Vec::new();
    let mut put = |output: u32, at: &Given, value: &[u8]| {
        outputs.entry(output).or_default().append(NewRecord {
            timestamp: at.timestamp,
            value: Some(value),
            ..NewRecord::default()
        });
    };
    for record in given {
        let how = record.value.split(':').next().unwrap_or_default();
        let failure = |offset| RecordFailure {
            offset,
            message: format!("refused {}", record.value),
        };
        match how {
            "trap" if !fixed => return Err(CallError::Trap(record.value.clone())),
            "slow" if !fixed => return Err(CallError::Timeout { limit_ms: 1000 }),
            "garbage" if !fixed => return Err(CallError::Garbage(record.value.clone())),
            "fail" if !fixed => failures.push(failure(record.offset)),
            "twice" if !fixed => failures.extend([failure(record.offset), failure(record.offset)]),
            "elsewhere" if !fixed => failures.push(failure(1_000_000)),
            "huge" if !fixed => put(MAIN, record, &vec![b'x'; crate::run::CALL_OUTPUT_BYTES_MAX]),
            "loud" => put(MAIN, record, &loud(&record.value)),
            "large" => put(
                MAIN,
                record,
                &[record.value.as_bytes(), &[b'x'; 12 << 20]].concat(),
            ),
            "quiet" => {}
            _ => {
                put(MAIN, record, format!("main {}", record.value).as_bytes());
                if record.offset % 3 == 0 {
                    put(THIRDS, record, format!("third {}", record.value).as_bytes());
                }
            }
        }
    }
    let batch = |(output, builder): (u32, BatchBuilder)| OutputBatch {
        output,
        to: Destination::ByInput,
        records: builder.len() as u32,
        batch: builder.build(),
    };
    Ok(CallOutput {
        outputs: outputs.into_iter().map(batch).collect(),
        failures,
        ..CallOutput::default()
    })
}

/// Bytes that the function puts out for a loud record.
pub(super) const LOUD_BYTES: usize = 100 << 10;

/// What the function makes of a loud record: a hundred times as much.
pub(super) fn loud(value: &str) -> Vec<u8> {
    let mut loud = value.as_bytes().to_vec();
    loud.resize(LOUD_BYTES, b'!');
    loud
}

/// A processor at work.
pub(super) struct Running {
    pub(super) control: watch::Sender<Control>,
    pub(super) stats: Rc<ProcessorStats>,
    pub(super) task: JoinHandle<Option<Stopped>>,
    kill: Notify,
}

impl Running {
    pub(super) async fn stop(self) -> Stopped {
        let _ = self.control.send(Control::Stop);
        self.task.await.unwrap().unwrap()
    }

    /// Ends it where it stands, as the end of its shard would.
    pub(super) async fn kill(self) {
        self.kill.notify_all();
        assert_eq!(self.task.await.unwrap(), None);
    }
}

pub(super) fn config(on_error: OnError) -> ProcessorConfig {
    ProcessorConfig {
        name: "mask".to_owned(),
        version: 7,
        input_topic: "orders".to_owned(),
        partition: 3,
        on_error,
        attempts: 1,
        by_key: None,
        unpacking: Semaphore::new(crate::input::UNPACKED_BYTES_MAX),
        stretches: Semaphore::new(STRETCHES_MAX),
    }
}

pub(super) fn start(world: &Rc<World>, mut config: ProcessorConfig) -> Running {
    config.unpacking = world.unpacking.clone();
    config.stretches = world.stretches.clone();
    let hand = Hand(world.clone());
    let (control, receiver) = watch::channel(Control::Run);
    let stats = Rc::new(ProcessorStats::default());
    let parts = (hand.clone(), hand.clone(), hand.clone());
    let processor = Processor::new(parts, config, receiver, stats.clone(), Rc::new(hand));
    let kill = Notify::new();
    let killed = kill.notified();
    let task = task::spawn(Queue::Kafka, async move {
        let mut killed = Box::pin(killed);
        let mut run = Box::pin(processor.run());
        poll_fn(|cx| {
            if killed.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            run.as_mut().poll(cx).map(Some)
        })
        .await
    });
    Running {
        control,
        stats,
        task,
        kill,
    }
}
