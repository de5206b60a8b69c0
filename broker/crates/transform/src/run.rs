//! Running one stretch of input to an outcome: whole at first, in smaller pieces around a record that fails.

use std::rc::Rc;

use tidemill_model::Offset;
use tidemill_wasm_host::{CallError, CallOutput, InputBatch, OutputBatch};

use crate::dead_letter::{self, Origin};
use crate::input::{Pieces, Section, Unpacked, Unreadable};
use crate::io::{Observer, Runner};
use crate::processor::ProcessorConfig;
use crate::stats::ProcessorStats;

/// What happens to a record the function fails on, after its attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// Stop there and try again with back-off.
    Fail,
    /// Count it and go on.
    Skip,
    /// Hand it to the output of this index, with headers that say why.
    DeadLetter(u32),
    /// Hand it on unchanged to the first output.
    PassThrough,
}

/// Where a stretch ended.
#[derive(Debug)]
pub(crate) enum End {
    /// All of it is decided.
    Whole,
    /// Everything below `offset` is decided; the record there fails and the policy says to stop.
    StuckAt {
        /// The record.
        offset: Offset,
        /// What it failed with.
        message: String,
    },
    /// The guest thread is gone: the shard is stopping.
    Stopped,
}

/// Output gathered for one outcome.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    pub(crate) outputs: Vec<OutputBatch>,
    pub(crate) counts: PolicyCounts,
}

/// What policies did, counted when the outcome is committed.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct PolicyCounts {
    pub(crate) skipped: u64,
    pub(crate) dead_lettered: u64,
    pub(crate) passed_through: u64,
}

/// Records `from..to` of section `section`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    section: usize,
    from: usize,
    to: usize,
}

pub(crate) struct Stretch<'a, R> {
    pub(crate) runner: &'a R,
    pub(crate) config: &'a ProcessorConfig,
    pub(crate) stats: &'a ProcessorStats,
    pub(crate) observer: &'a Rc<dyn Observer>,
}

impl<R: Runner> Stretch<'_, R> {
    /// Runs `sections` in order. The usual case is one call; a failing call is cut up until the record that fails is
    /// alone, so its siblings are not stopped by it.
    pub(crate) async fn run(&self, sections: &[Unpacked], out: &mut Gathered) -> End {
        let readable: Vec<&Section> = sections.iter().filter_map(|s| s.as_ref().ok()).collect();
        if readable.len() == sections.len() {
            let input = readable.iter().map(|s| s.whole()).collect();
            match self.call(input).await {
                Ok(output) if output.failures.is_empty() => {
                    out.outputs.extend(output.outputs);
                    return End::Whole;
                }
                Ok(output) if self.tolerates_failures_in_place() => {
                    self.settle_failures(&readable, output, out);
                    return End::Whole;
                }
                Err(CallError::Stopped) => return End::Stopped,
                Ok(_) | Err(_) => {}
            }
        }
        for (index, section) in sections.iter().enumerate() {
            let end = match section {
                Ok(section) => match section.pieces() {
                    Ok(pieces) => self.run_in_pieces(index, pieces, out).await,
                    Err(unreadable) => self.give_up_batch(unreadable, out),
                },
                Err(unreadable) => self.give_up_batch(unreadable, out),
            };
            if !matches!(end, End::Whole) {
                return end;
            }
        }
        End::Whole
    }

    /// With these policies, and one attempt, the output of the other records stands and failures are settled beside it.
    fn tolerates_failures_in_place(&self) -> bool {
        let beside = matches!(self.config.on_error, OnError::Skip | OnError::DeadLetter(_));
        beside && self.config.attempts <= 1
    }

    async fn call(&self, input: Vec<InputBatch>) -> Result<CallOutput, CallError> {
        ProcessorStats::add(&self.stats.calls, 1);
        let result = self.runner.call(input).await;
        if let Ok(output) = &result {
            ProcessorStats::add(&self.stats.cpu_ns, output.cpu_ns);
            for line in &output.logs {
                self.observer.guest_line(line);
            }
        }
        result
    }

    fn settle_failures(&self, sections: &[&Section], output: CallOutput, out: &mut Gathered) {
        out.outputs.extend(output.outputs);
        for failure in output.failures {
            self.note(failure.offset, &failure.message);
            let place = sections.iter().find_map(|s| {
                let pieces = s.pieces().ok()?;
                Some((pieces, pieces.find(failure.offset)?))
            });
            if let Some((pieces, at)) = place {
                self.apply_policy(pieces, at, &failure.message, out);
            }
        }
    }

    /// Runs a section by halves around what fails; after a timeout by single records, since every failing half would
    /// cost a whole budget of time.
    async fn run_in_pieces(&self, index: usize, section: Pieces<'_>, out: &mut Gathered) -> End {
        let whole = Span {
            section: index,
            from: 0,
            to: section.len(),
        };
        let mut todo = vec![whole];
        while let Some(span) = todo.pop() {
            if span.from == span.to {
                continue;
            }
            let result = self.call(vec![section.input(span.from..span.to)]).await;
            let slow = matches!(result, Err(CallError::Timeout { .. }));
            let message = match result {
                Ok(output) if output.failures.is_empty() => {
                    out.outputs.extend(output.outputs);
                    continue;
                }
                Ok(output) => output
                    .failures
                    .into_iter()
                    .next()
                    .map_or_else(String::new, |f| f.message),
                Err(CallError::Stopped) => return End::Stopped,
                Err(e) => e.to_string(),
            };
            if span.to - span.from > 1 {
                cut(span, slow, &mut todo);
                continue;
            }
            let end = self.settle_single(section, span.from, message, out).await;
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
        at: usize,
        mut message: String,
        out: &mut Gathered,
    ) -> End {
        for _ in 1..self.config.attempts.max(1) {
            self.note(section.offset(at), &message);
            match self.call(vec![section.input(at..at + 1)]).await {
                Ok(output) => match output.failures.into_iter().next() {
                    None => {
                        out.outputs.extend(output.outputs);
                        return End::Whole;
                    }
                    Some(failure) => message = failure.message,
                },
                Err(CallError::Stopped) => return End::Stopped,
                Err(e) => message = e.to_string(),
            }
        }
        self.note(section.offset(at), &message);
        if self.config.on_error == OnError::Fail {
            return End::StuckAt {
                offset: section.offset(at),
                message,
            };
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
        let Some((record, timestamp)) = section.record(at) else {
            return; // `unpack` has read this very record, so it is there
        };
        match self.config.on_error {
            OnError::Fail | OnError::Skip => out.counts.skipped += 1,
            OnError::DeadLetter(output) => {
                let origin = self.origin(section.offset(at));
                let letter = dead_letter::dead_letter(
                    output,
                    Some(&record),
                    b"",
                    timestamp,
                    origin,
                    message,
                );
                out.outputs.push(letter);
                out.counts.dead_lettered += 1;
            }
            OnError::PassThrough => {
                out.outputs
                    .push(dead_letter::pass_through(0, &record, timestamp));
                out.counts.passed_through += 1;
            }
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
                let now = tidemill_rt::time::unix_ms();
                let origin = self.origin(batch.base_offset);
                let letter =
                    dead_letter::dead_letter(output, None, &batch.raw, now, origin, &message);
                out.outputs.push(letter);
                out.counts.dead_lettered += records;
            }
            OnError::Skip | OnError::PassThrough => out.counts.skipped += records,
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

/// Pushes the pieces of a failed span so that the first is popped first.
fn cut(span: Span, slow: bool, todo: &mut Vec<Span>) {
    if slow {
        todo.extend((span.from..span.to).rev().map(|at| Span {
            from: at,
            to: at + 1,
            ..span
        }));
        return;
    }
    let middle = span.from + (span.to - span.from) / 2;
    todo.push(Span {
        from: middle,
        ..span
    });
    todo.push(Span { to: middle, ..span });
}
