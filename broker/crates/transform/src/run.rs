//! Running one stretch of input to an outcome: whole at first, in smaller pieces around a record that fails.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tidemill_model::Offset;
use tidemill_rt::chan::watch;
use tidemill_rt::task;
use tidemill_rt::time::{self, Instant};
use tidemill_wasm_host::{CallError, CallOutput, FailedCall, InputBatch, LogLevel, OutputBatch};

use crate::dead_letter::{self, Dead, HANDED_ON_BYTES_MAX, Origin};
use crate::input::{Pieces, Section, Unpacked, Unreadable};
use crate::io::{Happening, Observer, Room, Runner};
use crate::processor::{Control, ProcessorConfig};
use crate::stats::{ProcessorStats, Tally};

/// Largest output of one call, dead letters among it, in bytes. A call that puts out more is cut up; a record that does so
/// alone has failed.
pub const CALL_OUTPUT_BYTES_MAX: usize = 32 << 20;
/// A stretch ends early once it has gathered this much output, in bytes.
const OUTCOME_BYTES: usize = 8 << 20;
/// Batches one call may put out, dead letters among them; an outcome, which may gather as many again, fits into one entry.
const CALL_OUTPUT_BATCHES_MAX: usize = 16_384;
/// What a batch of output counts beside its bytes: no less than what a ring counts.
const BATCH_OVERHEAD_BYTES: usize = 256;
/// A stretch in pieces ends early after this time, so that what is decided by then is not lost in a crash.
const STRETCH_TIME_MAX: Duration = Duration::from_secs(10);
/// Failures of one call that are looked at one by one; with more, the input is cut up by halves.
const FAILURES_MAX: usize = 16_384;
/// Failures of one call that are told one by one; of the rest only how many there are.
const FAILURES_TOLD_MAX: usize = 8;
/// Failures after which the shard's other tasks have a turn ...
const FAILURES_PER_TURN: usize = 256;
/// ... or bytes of dead letters.
const LETTER_BYTES_PER_TURN: usize = 1 << 20;

/// How much output there may be, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Of one call.
    call: usize,
    /// With so much a stretch ends early.
    enough: usize,
    /// Largest record or unreadable batch handed on.
    handed_on: usize,
}

impl Bounds {
    /// Those that keep every outcome within `outcome` bytes (rule X8): what is enough, and one call or one record on top.
    pub(crate) fn within(outcome: usize) -> Bounds {
        Bounds {
            call: CALL_OUTPUT_BYTES_MAX.min(outcome / 2),
            enough: OUTCOME_BYTES.min(outcome / 8),
            handed_on: HANDED_ON_BYTES_MAX.min(outcome / 4),
        }
    }
}

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
    /// Everything below `decided` is decided; what came next puts out `bytes` bytes, for which there is no room now.
    Full { decided: Offset, bytes: usize },
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
    /// Bytes of the outputs, as a ring counts them or more.
    pub(crate) bytes: usize,
}

impl Gathered {
    fn push(&mut self, output: OutputBatch) {
        self.bytes += output_bytes(std::slice::from_ref(&output));
        self.outputs.push(output);
    }

    fn append(&mut self, other: Gathered) {
        self.bytes += other.bytes;
        self.tally += other.tally;
        self.outputs.extend(other.outputs);
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

impl Span {
    fn len(self) -> usize {
        self.to - self.from
    }
}

/// How a call went wrong.
enum Fault {
    /// The input is to be cut up; alone, its record has failed with this message.
    Input { message: String, cut: Cut },
    /// It puts out this many bytes, for which there is no room now.
    Full { bytes: usize },
    /// The processor was told to stop meanwhile.
    Told,
    /// It has nothing to do with the input.
    Other(CallError),
}

/// How a span that failed is cut up.
enum Cut {
    /// In two.
    Halves,
    /// Record by record: every failing half would cost a whole budget of time.
    Singly,
    /// At the records that the function refused, ascending: those by themselves, what lies between them whole.
    At(Vec<Offset>),
}

impl Fault {
    fn input(message: String) -> Fault {
        let cut = Cut::Halves;
        Fault::Input { message, cut }
    }

    /// The end of a stretch of which everything below `decided` is decided; the cut, where there is one to be made.
    fn ended(self, decided: Offset) -> Result<(String, Cut), End> {
        match self {
            Fault::Input { message, cut } => Ok((message, cut)),
            Fault::Full { bytes } => Err(End::Full { decided, bytes }),
            Fault::Told => Err(End::Enough { decided }),
            Fault::Other(CallError::Stopped) => Err(End::Stopped),
            Fault::Other(e) => Err(End::Unavailable {
                decided,
                message: e.to_string(),
            }),
        }
    }
}

impl From<CallError> for Fault {
    fn from(e: CallError) -> Fault {
        match e {
            CallError::Stopped | CallError::Busy(_) | CallError::Unavailable(_) => Fault::Other(e),
            CallError::Timeout { .. } => Fault::Input {
                message: e.to_string(),
                cut: Cut::Singly,
            },
            CallError::Trap(_)
            | CallError::Memory { .. }
            | CallError::Garbage(_)
            | CallError::TooMuch(_)
            | CallError::NoPartition(_)
            | CallError::TooLarge(_) => Fault::input(e.to_string()),
        }
    }
}

/// What a call was given.
#[derive(Clone, Copy)]
enum Given<'a> {
    Sections(&'a [&'a Section]),
    Span(Pieces<'a>, Span),
}

impl<'a> Given<'a> {
    fn input(self) -> Vec<InputBatch> {
        match self {
            Given::Sections(sections) => {
                let filled = sections.iter().filter(|s| !s.is_empty());
                filled.map(|s| s.whole()).collect()
            }
            Given::Span(pieces, span) => vec![pieces.input(span.from..span.to)],
        }
    }

    /// The offset of the record, where one alone was given.
    fn only_offset(self) -> Option<Offset> {
        match self {
            Given::Sections([section]) if section.len() == 1 => Some(section.first()),
            Given::Span(pieces, span) if span.len() == 1 => Some(pieces.offset(span.from)),
            Given::Sections(_) | Given::Span(..) => None,
        }
    }

    /// The record at `offset`; `None` when it was not given.
    async fn locate(self, offset: Offset) -> Option<(Pieces<'a>, usize)> {
        match self {
            Given::Sections(sections) => {
                let at = sections.partition_point(|s| s.next() <= offset);
                let pieces = sections.get(at)?.told_apart().await.ok()?;
                Some((pieces, pieces.find(offset)?))
            }
            Given::Span(pieces, span) => {
                let at = pieces.find(offset)?;
                (span.from..span.to).contains(&at).then_some((pieces, at))
            }
        }
    }
}

/// A record that the function refused.
struct Refusal<'a> {
    offset: Offset,
    pieces: Pieces<'a>,
    at: usize,
    message: &'a str,
}

pub(crate) struct Stretch<'a, R> {
    pub(crate) runner: &'a R,
    pub(crate) config: &'a ProcessorConfig,
    pub(crate) control: &'a watch::Receiver<Control>,
    pub(crate) stats: &'a ProcessorStats,
    pub(crate) observer: &'a Rc<dyn Observer>,
    pub(crate) bounds: Bounds,
    /// What is gathered never takes more than this, so that nothing is proposed without room (rule X8).
    pub(crate) room: &'a RefCell<Box<dyn Room>>,
    /// Where it begins.
    pub(crate) first: Offset,
    pub(crate) began: Instant,
}

impl<R: Runner> Stretch<'_, R> {
    /// Runs `sections` in order. The usual case is one call; a failing call is cut up until the record that fails is
    /// alone, so its siblings are not stopped by it.
    pub(crate) async fn run(&self, sections: &[Unpacked], out: &mut Gathered) -> End {
        let readable: Vec<&Section> = sections.iter().filter_map(|s| s.as_ref().ok()).collect();
        let mut refused = Vec::new();
        if readable.len() == sections.len() && readable.len() > 1 {
            match self.call(Given::Sections(&readable), out).await {
                Ok(()) => return End::Whole,
                Err(fault) => match fault.ended(self.first) {
                    Ok((_, Cut::At(offsets))) => refused = offsets,
                    Ok(_) => {}
                    Err(end) => return end,
                },
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
                Ok(section) => {
                    let from = refused.partition_point(|o| *o < section.first());
                    let to = refused.partition_point(|o| *o < section.next());
                    self.run_section(section, &refused[from..to], out).await
                }
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
        let long = out.bytes >= self.bounds.enough
            || out.outputs.len() >= CALL_OUTPUT_BATCHES_MAX
            || self.began.elapsed() >= STRETCH_TIME_MAX;
        at > self.first && long
    }

    /// One call. Its output is taken, with its failures settled beside it where that can be; otherwise nothing of it counts.
    async fn call(&self, given: Given<'_>, out: &mut Gathered) -> Result<(), Fault> {
        let input = given.input();
        if input.is_empty() {
            return Ok(());
        }
        ProcessorStats::add(&self.stats.calls, 1);
        let answer = self.answer(input).await.ok_or(Fault::Told)?;
        let (cpu_ns, logs) = match &answer {
            Ok(output) => {
                self.stats.memory_bytes.set(output.memory_bytes);
                (output.cpu_ns, &output.logs)
            }
            Err(failed) => (failed.cpu_ns, &failed.logs),
        };
        ProcessorStats::add(&self.stats.cpu_ns, cpu_ns);
        for line in logs {
            self.observer.guest_line(line, given.only_offset());
        }
        let output = answer.map_err(|failed| failed.error)?;
        self.accept(output, given, out).await
    }

    /// What the function answers; `None` when the processor was told to stop before. Who is told so does not wait: a call
    /// may be queued behind many others, and nothing of it is visible yet.
    async fn answer(&self, input: Vec<InputBatch>) -> Option<Result<CallOutput, FailedCall>> {
        let mut control = self.control.clone();
        let mut told = pin!(control.wait_for(|c| *c == Control::Stop));
        let mut answer = self.runner.call(input);
        poll_fn(|cx| {
            // Told, or nobody is left who could say so.
            if told.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            answer.as_mut().poll(cx).map(Some)
        })
        .await
    }

    async fn accept(
        &self,
        output: CallOutput,
        given: Given<'_>,
        out: &mut Gathered,
    ) -> Result<(), Fault> {
        let batches = output.outputs.len() + output.failures.len();
        if output.failures.len() > FAILURES_MAX {
            let message = output.failures.into_iter().next().map(|f| f.message);
            return Err(Fault::input(message.unwrap_or_default()));
        }
        let refusals = self.refusals(&output, given).await?;
        if let Some(failure) = output.failures.first()
            && !self.tolerates_in_place(&output)
        {
            return Err(Fault::Input {
                message: failure.message.clone(),
                cut: Cut::At(refusals.iter().map(|r| r.offset).collect()),
            });
        }
        if batches > CALL_OUTPUT_BATCHES_MAX {
            return Err(Fault::input(format!(
                "the transform put out {batches} batches at once, the limit is {CALL_OUTPUT_BATCHES_MAX}"
            )));
        }
        let bytes = output_bytes(&output.outputs);
        let mut all = Gathered::default();
        self.settle_beside(&refusals, bytes, &mut all).await?;
        self.admit(out, all.bytes + bytes)?;
        self.tell(&refusals);
        all.bytes += bytes;
        all.outputs.extend(output.outputs);
        out.append(all);
        Ok(())
    }

    /// The records refused, ascending, each once with the first message about it.
    async fn refusals<'p>(
        &self,
        output: &'p CallOutput,
        given: Given<'p>,
    ) -> Result<Vec<Refusal<'p>>, Fault> {
        let mut refusals = Vec::with_capacity(output.failures.len());
        for (n, failure) in output.failures.iter().enumerate() {
            if n % FAILURES_PER_TURN == FAILURES_PER_TURN - 1 {
                task::yield_now().await;
            }
            let (offset, message) = (failure.offset, failure.message.as_str());
            // What a guest says about records it was not given is no failure of a record; the call as a whole has failed.
            let Some((pieces, at)) = given.locate(offset).await else {
                return Err(Fault::input(format!(
                    "the transform reported a failure at offset {offset}, which it was not given: {message}"
                )));
            };
            refusals.push(Refusal {
                offset,
                pieces,
                at,
                message,
            });
        }
        refusals.sort_by_key(|r| r.offset);
        refusals.dedup_by_key(|r| r.offset);
        Ok(refusals)
    }

    /// Applies the policy to records refused by a call that put out `bytes` bytes beside.
    async fn settle_beside(
        &self,
        refusals: &[Refusal<'_>],
        bytes: usize,
        out: &mut Gathered,
    ) -> Result<(), Fault> {
        let (mut count, mut bytes_before) = (0, 0);
        let limit = self.bounds.call;
        for refusal in refusals {
            if bytes + out.bytes > limit {
                break;
            }
            self.apply_policy(refusal.pieces, refusal.at, refusal.message, out);
            count += 1;
            if count >= FAILURES_PER_TURN || out.bytes - bytes_before >= LETTER_BYTES_PER_TURN {
                (count, bytes_before) = (0, out.bytes);
                task::yield_now().await;
            }
        }
        let bytes = bytes + out.bytes;
        match bytes > limit {
            true => Err(Fault::input(format!(
                "the transform put out {bytes} bytes at once, dead letters counted; the limit is {limit}"
            ))),
            false => Ok(()),
        }
    }

    /// Whether there is room for `bytes` more than what is gathered; taken if it is free, never waited for.
    fn admit(&self, out: &Gathered, bytes: usize) -> Result<(), Fault> {
        let mut room = self.room.borrow_mut();
        let wanted = out.bytes + bytes;
        match wanted <= room.bytes() || room.resize(wanted) {
            true => Ok(()),
            false => Err(Fault::Full { bytes }),
        }
    }

    /// With these policies, and one attempt, the output of the other records stands and failures are settled beside it:
    /// as long as dead letters have an output to themselves, no order is disturbed.
    fn tolerates_in_place(&self, output: &CallOutput) -> bool {
        let beside = match self.config.on_error {
            OnError::Skip => true,
            OnError::DeadLetter(letters) => output.outputs.iter().all(|o| o.output != letters),
            OnError::Fail | OnError::PassThrough => false,
        };
        beside && self.config.attempts <= 1
    }

    /// Runs a section around what fails: at the records the function refused, where it says which, else by halves; after a
    /// timeout by single records. Of `refused` that is known already.
    async fn run_section(&self, section: &Section, refused: &[Offset], out: &mut Gathered) -> End {
        let mut first = match refused {
            [] => Cut::Halves,
            refused => Cut::At(refused.to_vec()),
        };
        if section.len() != 1 && refused.is_empty() {
            match self.call(Given::Sections(&[section]), out).await {
                Ok(()) => return End::Whole,
                Err(fault) => match fault.ended(section.first()) {
                    Ok((_, cut)) => first = cut,
                    Err(end) => return end,
                },
            }
        }
        let pieces = match section.told_apart().await {
            Ok(pieces) => pieces,
            Err(unreadable) => return self.give_up_batch(unreadable, out),
        };
        let (from, to, singly) = (0, pieces.len(), false);
        let mut todo = Vec::new();
        cut_up(Span { from, to, singly }, &first, pieces, &mut todo);
        while let Some(span) = todo.pop() {
            let decided = pieces.offset(span.from);
            if self.is_enough(decided, out) {
                return End::Enough { decided };
            }
            if span.singly && span.len() > 1 {
                cut_up(span, &Cut::Singly, pieces, &mut todo);
                continue;
            }
            let (message, cut) = match self.call(Given::Span(pieces, span), out).await {
                Ok(()) => continue,
                Err(fault) => match fault.ended(decided) {
                    Ok(cut) => cut,
                    Err(end) => return end,
                },
            };
            if span.len() > 1 {
                cut_up(span, &cut, pieces, &mut todo);
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
            match self.call(Given::Span(section, span), out).await {
                Ok(()) => return End::Whole,
                Err(fault) => match fault.ended(offset) {
                    Ok((m, _)) => message = m,
                    Err(end) => return end,
                },
            }
        }
        if self.config.on_error == OnError::Fail {
            // Who stands still there tells it, together with when it is tried again.
            self.count(offset, &message);
            return End::StuckAt { offset, message };
        }
        self.note(offset, &message);
        let mut handed_on = Gathered::default();
        self.apply_policy(section, at, &message, &mut handed_on);
        self.hand_on(handed_on, offset, out)
    }

    /// Takes what became of a failure in, where there is room for it.
    fn hand_on(&self, handed_on: Gathered, decided: Offset, out: &mut Gathered) -> End {
        let bytes = handed_on.bytes;
        if self.admit(out, bytes).is_err() {
            return End::Full { decided, bytes };
        }
        out.append(handed_on);
        End::Whole
    }

    /// Tells of records refused by one call, of the first ones by name.
    fn tell(&self, refusals: &[Refusal<'_>]) {
        let told = &refusals[..refusals.len().min(FAILURES_TOLD_MAX)];
        for refusal in told {
            self.note(refusal.offset, refusal.message);
        }
        let rest = &refusals[told.len()..];
        if let Some(last) = rest.last() {
            ProcessorStats::add(&self.stats.failed, rest.len() as u64);
            self.stats.error(last.message.to_owned(), Some(last.offset));
            let message = format!(
                "{} more records failed, up to offset {}",
                rest.len(),
                last.offset
            );
            self.report(LogLevel::Error, last.offset, &message);
        }
    }

    fn count(&self, offset: Offset, message: &str) {
        ProcessorStats::add(&self.stats.failed, 1);
        self.stats.error(message.to_owned(), Some(offset));
    }

    fn note(&self, offset: Offset, message: &str) {
        self.count(offset, message);
        let message = format!("record at offset {offset} failed: {message}");
        self.report(LogLevel::Error, offset, &message);
    }

    fn report(&self, level: LogLevel, offset: Offset, message: &str) {
        self.observer.event(Happening {
            level,
            offset: Some(offset),
            message,
        });
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
                let bytes_max = self.bounds.handed_on;
                out.push(dead_letter::dead_letter(
                    output, dead, timestamp, origin, message, bytes_max,
                ));
                out.tally.dead_lettered += 1;
            }
            OnError::PassThrough => {
                let bytes_max = self.bounds.handed_on;
                let to = (0, self.config.by_key);
                match dead_letter::pass_through(to, &record, timestamp, bytes_max) {
                    Some(batch) => {
                        out.push(batch);
                        out.tally.passed_through += 1;
                    }
                    None => {
                        let offset = section.offset(at);
                        let message = format!(
                            "record at offset {offset} is skipped: too large or malformed to be passed through"
                        );
                        self.report(LogLevel::Error, offset, &message);
                        out.tally.skipped += 1;
                    }
                }
            }
        }
    }

    /// A batch whose records cannot be told apart: it is one failure, and one dead letter that holds its bytes.
    fn give_up_batch(&self, batch: &Unreadable, out: &mut Gathered) -> End {
        let message = format!("its batch cannot be read: {}", batch.message);
        match self.config.on_error {
            OnError::Fail => self.count(batch.base_offset, &message),
            _ => self.note(batch.base_offset, &message),
        }
        let records = (batch.next - batch.base_offset).max(0) as u64;
        let mut handed_on = Gathered::default();
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
                let (now, bytes_max) = (time::unix_ms(), self.bounds.handed_on);
                handed_on.push(dead_letter::dead_letter(
                    output, dead, now, origin, &message, bytes_max,
                ));
                handed_on.tally.dead_lettered += records;
            }
            OnError::Skip | OnError::PassThrough => handed_on.tally.skipped += records,
        }
        self.hand_on(handed_on, batch.base_offset, out)
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

/// Pushes the pieces of a failed span, or the one record it is, so that the first is popped first. Each is smaller than the
/// span, unless that is one record.
fn cut_up(span: Span, how: &Cut, pieces: Pieces<'_>, todo: &mut Vec<Span>) {
    if span.len() == 0 {
        return;
    }
    let mut ends = Vec::new();
    match how {
        Cut::Halves if span.len() > 1 => ends.push(span.from + span.len() / 2),
        Cut::Singly if span.len() > 1 => ends.push(span.from + 1),
        Cut::Halves | Cut::Singly => {}
        Cut::At(offsets) => {
            for at in offsets.iter().filter_map(|o| pieces.find(*o)) {
                ends.extend([at, at + 1]);
            }
        }
    }
    ends.push(span.to);
    let singly = matches!(how, Cut::Singly);
    let (mut from, first) = (span.from, todo.len());
    for to in ends {
        if from < to && to <= span.to {
            todo.push(Span { from, to, singly });
            from = to;
        }
    }
    todo[first..].reverse();
}
