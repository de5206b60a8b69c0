//! Running one stretch of input to an outcome: whole at first, in smaller pieces around a record that fails.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tidemill_model::Offset;
use tidemill_rt::chan::watch;
use tidemill_rt::time::{self, Instant};
use tidemill_wasm_host::{CallError, CallOutput, InputBatch, OutputBatch};

use crate::dead_letter::{self, Dead, Origin};
use crate::input::{Pieces, Section, Unpacked, Unreadable};
use crate::io::{Observer, Runner};
use crate::processor::{Control, ProcessorConfig};
use crate::stats::{ProcessorStats, Tally};

/// Largest output of one call, in bytes: half of what the outbox of a ring holds, so that an outcome always fits (rule
/// X8). A call that puts out more is cut up; a record that does so alone has failed.
pub const CALL_OUTPUT_BYTES_MAX: usize = 32 << 20;
/// A stretch ends early once it has gathered this much output, in bytes.
const OUTCOME_BYTES: usize = 8 << 20;
/// Batches one call may put out; an outcome, which may gather as many again, fits into one entry.
const CALL_OUTPUT_BATCHES_MAX: usize = 16_384;
/// What a batch of output counts beside its bytes.
const BATCH_OVERHEAD_BYTES: usize = 256;
/// A stretch in pieces ends early after this time, so that what is decided by then is not lost in a crash.
const STRETCH_TIME_MAX: Duration = Duration::from_secs(10);
/// Failures of one call that are settled beside its output; with more, the input is cut up.
const FAILURES_IN_PLACE_MAX: usize = 16_384;

/// What happens to a record the function fails on, after its attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// Stop there and try again with back-off.
    Fail,
    /// Count it and go on.
    Skip,
    /// Hand it to the output of this index, with headers that say why.
    DeadLetter(u32),
    /// Hand it on unchanged to the first output. What cannot be handed on (unreadable, or too large) is skipped.
    PassThrough,
}

/// Where a stretch ended.
#[derive(Debug)]
pub(crate) enum End {
    /// All of it is decided.
    Whole,
    /// Everything below `decided` is decided, which is enough for now.
    Enough { decided: Offset },
    /// Everything below `offset` is decided; the record there fails and the policy says to stop.
    StuckAt { offset: Offset, message: String },
    /// Everything below `decided` is decided; the function cannot be run now, through no fault of any record.
    Unavailable { decided: Offset, message: String },
    /// The guest thread is gone: the shard is stopping.
    Stopped,
}

/// Output gathered for one outcome.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    pub(crate) outputs: Vec<OutputBatch>,
    pub(crate) tally: Tally,
    bytes: usize,
}

impl Gathered {
    fn extend(&mut self, outputs: Vec<OutputBatch>) {
        self.bytes += output_bytes(&outputs);
        self.outputs.extend(outputs);
    }

    fn push(&mut self, output: OutputBatch) {
        self.extend(vec![output]);
    }
}

fn output_bytes(outputs: &[OutputBatch]) -> usize {
    let bytes = |o: &OutputBatch| o.batch.len() + BATCH_OVERHEAD_BYTES;
    outputs.iter().map(bytes).sum()
}

/// Records `from..to` of a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    from: usize,
    to: usize,
    /// To be run record by record.
    singly: bool,
}

/// How a call went wrong.
enum Fault {
    /// The input is to be cut up; alone, its record has failed with this message.
    Input { message: String, slow: bool },
    /// It has nothing to do with the input.
    Other(CallError),
}

impl Fault {
    fn input(message: String) -> Fault {
        Fault::Input {
            message,
            slow: false,
        }
    }

    fn ended(error: CallError, decided: Offset) -> End {
        match error {
            CallError::Stopped => End::Stopped,
            e => End::Unavailable {
                decided,
                message: e.to_string(),
            },
        }
    }
}

impl From<CallError> for Fault {
    fn from(e: CallError) -> Fault {
        match e {
            CallError::Stopped | CallError::Busy(_) | CallError::Unavailable(_) => Fault::Other(e),
            CallError::Timeout { .. } => Fault::Input {
                message: e.to_string(),
                slow: true,
            },
            CallError::Trap(_)
            | CallError::Memory { .. }
            | CallError::Garbage(_)
            | CallError::TooMuch(_)
            | CallError::TooLarge(_) => Fault::input(e.to_string()),
        }
    }
}

pub(crate) struct Stretch<'a, R> {
    pub(crate) runner: &'a R,
    pub(crate) config: &'a ProcessorConfig,
    pub(crate) control: &'a watch::Receiver<Control>,
    pub(crate) stats: &'a ProcessorStats,
    pub(crate) observer: &'a Rc<dyn Observer>,
    /// Where it begins.
    pub(crate) first: Offset,
    pub(crate) began: Instant,
}

impl<R: Runner> Stretch<'_, R> {
    /// Runs `sections` in order. The usual case is one call; a failing call is cut up until the record that fails is
    /// alone, so its siblings are not stopped by it.
    pub(crate) async fn run(&self, sections: &[Unpacked], out: &mut Gathered) -> End {
        let readable: Vec<&Section> = sections.iter().filter_map(|s| s.as_ref().ok()).collect();
        if readable.len() == sections.len() && readable.len() > 1 {
            match self.try_sections(&readable, out).await {
                Ok(()) => return End::Whole,
                Err(Fault::Other(e)) => return Fault::ended(e, self.first),
                Err(Fault::Input { .. }) => {}
            }
        }
        for section in sections {
            let first = section
                .as_ref()
                .map_or_else(|u| u.base_offset, |s| s.first());
            if self.is_enough(first, out) {
                return End::Enough { decided: first };
            }
            let end = match section {
                Ok(section) => self.run_section(section, out).await,
                Err(unreadable) => self.give_up_batch(unreadable, out),
            };
            if !matches!(end, End::Whole) {
                return end;
            }
        }
        End::Whole
    }

    /// Whether to stop before `at`: somebody wants something else, or there is enough for one outcome.
    fn is_enough(&self, at: Offset, out: &Gathered) -> bool {
        if *self.control.borrow() != Control::Run {
            return true;
        }
        let long = out.bytes >= OUTCOME_BYTES
            || out.outputs.len() >= CALL_OUTPUT_BATCHES_MAX
            || self.began.elapsed() >= STRETCH_TIME_MAX;
        at > self.first && long
    }

    /// One call with whole sections.
    async fn try_sections(&self, sections: &[&Section], out: &mut Gathered) -> Result<(), Fault> {
        let filled = sections.iter().filter(|s| !s.is_empty());
        let input: Vec<InputBatch> = filled.map(|s| s.whole()).collect();
        if input.is_empty() {
            return Ok(());
        }
        let output = self.call(input).await?;
        let locate = |offset| {
            let at = sections.partition_point(|s| s.next() <= offset);
            let pieces = sections.get(at)?.pieces().ok()?;
            Some((pieces, pieces.find(offset)?))
        };
        self.accept(output, locate, out)
    }

    /// One call with some records of a section.
    async fn try_pieces(
        &self,
        section: Pieces<'_>,
        span: Span,
        out: &mut Gathered,
    ) -> Result<(), Fault> {
        let output = self.call(vec![section.input(span.from..span.to)]).await?;
        let locate = |offset| {
            let at = section.find(offset)?;
            (span.from..span.to).contains(&at).then_some((section, at))
        };
        self.accept(output, locate, out)
    }

    async fn call(&self, input: Vec<InputBatch>) -> Result<CallOutput, CallError> {
        ProcessorStats::add(&self.stats.calls, 1);
        let result = self.runner.call(input).await;
        // A failed call costs the instance.
        let (logs, cpu_ns, memory_bytes) = match &result {
            Ok(output) => (&output.logs, output.cpu_ns, output.memory_bytes),
            Err(failed) => (&failed.logs, failed.cpu_ns, 0),
        };
        ProcessorStats::add(&self.stats.cpu_ns, cpu_ns);
        self.stats.memory_bytes.set(memory_bytes);
        for line in logs {
            self.observer.guest_line(line);
        }
        result.map_err(|failed| failed.error)
    }

    /// Takes what a call put out, with its failures settled beside it where that can be; otherwise nothing of it counts.
    fn accept<'p>(
        &self,
        output: CallOutput,
        locate: impl Fn(Offset) -> Option<(Pieces<'p>, usize)>,
        out: &mut Gathered,
    ) -> Result<(), Fault> {
        let bytes = output_bytes(&output.outputs);
        if bytes > CALL_OUTPUT_BYTES_MAX {
            return Err(Fault::input(format!(
                "the transform put out {bytes} bytes at once, the limit is {CALL_OUTPUT_BYTES_MAX}"
            )));
        }
        if output.outputs.len() > CALL_OUTPUT_BATCHES_MAX {
            return Err(Fault::input(format!(
                "the transform put out {} batches at once, the limit is {CALL_OUTPUT_BATCHES_MAX}",
                output.outputs.len()
            )));
        }
        // What a guest says about records it was not given is no failure of a record; the call as a whole has failed.
        let mut placed = BTreeMap::new();
        for failure in &output.failures {
            let Some(place) = locate(failure.offset) else {
                return Err(Fault::input(format!(
                    "the transform reported a failure at offset {}, which it was not given: {}",
                    failure.offset, failure.message
                )));
            };
            placed
                .entry(failure.offset)
                .or_insert((place, &failure.message));
        }
        if let Some(failure) = output.failures.first()
            && !self.tolerates_in_place(&output)
        {
            return Err(Fault::input(failure.message.clone()));
        }
        for (offset, ((pieces, at), message)) in placed {
            self.note(offset, message);
            self.apply_policy(pieces, at, message, out);
        }
        out.extend(output.outputs);
        Ok(())
    }

    /// With these policies, and one attempt, the output of the other records stands and failures are settled beside it:
    /// as long as dead letters have an output to themselves, no order is disturbed.
    fn tolerates_in_place(&self, output: &CallOutput) -> bool {
        let beside = match self.config.on_error {
            OnError::Skip => true,
            OnError::DeadLetter(letters) => output.outputs.iter().all(|o| o.output != letters),
            OnError::Fail | OnError::PassThrough => false,
        };
        beside && self.config.attempts <= 1 && output.failures.len() <= FAILURES_IN_PLACE_MAX
    }

    /// Runs a section by halves around what fails; after a timeout by single records, since every failing half would
    /// cost a whole budget of time.
    async fn run_section(&self, section: &Section, out: &mut Gathered) -> End {
        let mut singly = false;
        if section.len() != 1 {
            match self.try_sections(&[section], out).await {
                Ok(()) => return End::Whole,
                Err(Fault::Other(e)) => return Fault::ended(e, section.first()),
                Err(Fault::Input { slow, .. }) => singly = slow,
            }
        }
        let pieces = match section.pieces() {
            Ok(pieces) => pieces,
            Err(unreadable) => return self.give_up_batch(unreadable, out),
        };
        let whole = Span {
            from: 0,
            to: pieces.len(),
            singly,
        };
        let mut todo = Vec::new();
        cut(whole, &mut todo);
        while let Some(span) = todo.pop() {
            let decided = pieces.offset(span.from);
            if self.is_enough(decided, out) {
                return End::Enough { decided };
            }
            if span.singly && span.to - span.from > 1 {
                cut(span, &mut todo);
                continue;
            }
            let (message, slow) = match self.try_pieces(pieces, span, out).await {
                Ok(()) => continue,
                Err(Fault::Other(e)) => return Fault::ended(e, decided),
                Err(Fault::Input { message, slow }) => (message, slow),
            };
            if span.to - span.from > 1 {
                cut(
                    Span {
                        singly: slow,
                        ..span
                    },
                    &mut todo,
                );
                continue;
            }
            let end = self.settle_single(pieces, span, message, out).await;
            if !matches!(end, End::Whole) {
                return end;
            }
        }
        End::Whole
    }

    /// A record alone has failed once: further attempts, then the policy.
    async fn settle_single(
        &self,
        section: Pieces<'_>,
        span: Span,
        mut message: String,
        out: &mut Gathered,
    ) -> End {
        let (at, offset) = (span.from, section.offset(span.from));
        for _ in 1..self.config.attempts.max(1) {
            if *self.control.borrow() != Control::Run {
                return End::Enough { decided: offset };
            }
            self.note(offset, &message);
            match self.try_pieces(section, span, out).await {
                Ok(()) => return End::Whole,
                Err(Fault::Other(e)) => return Fault::ended(e, offset),
                Err(Fault::Input { message: m, .. }) => message = m,
            }
        }
        self.note(offset, &message);
        if self.config.on_error == OnError::Fail {
            return End::StuckAt { offset, message };
        }
        self.apply_policy(section, at, &message, out);
        End::Whole
    }

    fn note(&self, offset: Offset, message: &str) {
        ProcessorStats::add(&self.stats.failed, 1);
        self.stats.error(message.to_owned(), Some(offset));
        self.observer
            .event(&format!("record at offset {offset} failed: {message}"));
    }

    fn apply_policy(&self, section: Pieces<'_>, at: usize, message: &str, out: &mut Gathered) {
        let (record, timestamp) = section
            .record(at)
            .expect("the section was told apart, so this record was read before");
        match self.config.on_error {
            OnError::Fail | OnError::Skip => out.tally.skipped += 1,
            OnError::DeadLetter(output) => {
                let origin = self.origin(section.offset(at));
                let dead = Dead::Record(&record);
                out.push(dead_letter::dead_letter(
                    output, dead, timestamp, origin, message,
                ));
                out.tally.dead_lettered += 1;
            }
            OnError::PassThrough => match dead_letter::pass_through(0, &record, timestamp) {
                Some(batch) => {
                    out.push(batch);
                    out.tally.passed_through += 1;
                }
                None => {
                    let offset = section.offset(at);
                    self.observer.event(&format!(
                        "record at offset {offset} is skipped: too large or malformed to be passed through"
                    ));
                    out.tally.skipped += 1;
                }
            },
        }
    }

    /// A batch whose records cannot be told apart: it is one failure, and one dead letter that holds its bytes.
    fn give_up_batch(&self, batch: &Unreadable, out: &mut Gathered) -> End {
        let message = format!("its batch cannot be read: {}", batch.message);
        self.note(batch.base_offset, &message);
        let records = (batch.next - batch.base_offset).max(0) as u64;
        match self.config.on_error {
            OnError::Fail => {
                return End::StuckAt {
                    offset: batch.base_offset,
                    message,
                };
            }
            OnError::DeadLetter(output) => {
                let origin = self.origin(batch.base_offset);
                let dead = Dead::Batch(&batch.raw);
                let now = time::unix_ms();
                out.push(dead_letter::dead_letter(
                    output, dead, now, origin, &message,
                ));
                out.tally.dead_lettered += records;
            }
            OnError::Skip | OnError::PassThrough => out.tally.skipped += records,
        }
        End::Whole
    }

    fn origin(&self, offset: Offset) -> Origin<'_> {
        Origin {
            transform: &self.config.name,
            version: self.config.version,
            topic: &self.config.input_topic,
            partition: self.config.partition,
            offset,
        }
    }
}

/// Pushes the two pieces of a failed span, or the one record it is, so that the first is popped first.
fn cut(span: Span, todo: &mut Vec<Span>) {
    let len = span.to - span.from;
    let middle = match (len, span.singly) {
        (0, _) => return,
        (1, _) => span.to,
        (_, true) => span.from + 1,
        (_, false) => span.from + len / 2,
    };
    if middle < span.to {
        todo.push(Span {
            from: middle,
            ..span
        });
    }
    todo.push(Span { to: middle, ..span });
}
