//! Runs a module on this machine, in the engine that the broker uses.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use tidemill_model::BatchHeader;
use tidemill_model::batch::HEADER_BYTES;
use tidemill_model::record::{BatchBuilder, NewRecord, RecordRef, Records};
use tidemill_wasm_host::{
    CallOutput, Destination, Factory, HostConfig, InputBatch, Limits, LocalRunner, LogLine,
    MEMORY_BYTES_MAX, OutputBatch, OutputTopic, guest_env,
};

use crate::builtin::Builtin;
use crate::error::{CliError, CliResult};
use crate::manifest::{self, PartitionBy, Project};
use crate::when::now_ms;

/// What an output topic takes where nobody configured it: Kafka's default of `max.message.bytes`.
const OUTPUT_MAX_BYTES: usize = 1_048_588;
/// Bytes of records in one call of a batched run, about: as much as the broker hands over.
const CALL_BYTES: usize = 1 << 20;

/// Where a module is.
#[derive(Debug, Clone)]
pub(crate) enum Code {
    /// In a file.
    File(PathBuf),
    /// In this binary.
    Builtin(&'static Builtin),
}

impl Code {
    /// The module.
    ///
    /// # Errors
    /// Where its file is not there, or cannot be read.
    fn wasm(&self) -> CliResult<Cow<'static, [u8]>> {
        match self {
            Code::Builtin(builtin) => Ok(Cow::Borrowed(builtin.wasm)),
            Code::File(path) if path.is_file() => {
                let wasm = fs::read(path).map_err(CliError::file("read", path))?;
                Ok(Cow::Owned(wasm))
            }
            Code::File(path) => Err(CliError::said(format!(
                "{} is not there; run `transform build`",
                path.display()
            ))),
        }
    }

    /// As errors about it begin.
    fn called(&self) -> String {
        match self {
            Code::Builtin(builtin) => format!("the transform {}", builtin.name),
            Code::File(path) => path.display().to_string(),
        }
    }
}

/// What is to be run, and with what.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    /// The module.
    pub(crate) code: Code,
    /// The transform's name.
    pub(crate) name: String,
    /// The topic that it is told it reads.
    pub(crate) input: String,
    /// The topics it may write.
    pub(crate) outputs: Vec<String>,
    /// Its environment.
    pub(crate) env: BTreeMap<String, String>,
    /// Limits of a call.
    pub(crate) limits: manifest::Limits,
    /// Where records go whose partition it does not choose.
    pub(crate) partition_by: Option<PartitionBy>,
}

impl Subject {
    /// A project's module, with the environment and the limits it will have in the broker.
    pub(crate) fn of(project: &Project) -> Subject {
        let manifest = &project.manifest;
        Subject {
            code: Code::File(project.module()),
            name: manifest.name.clone(),
            input: manifest.input.clone().unwrap_or_else(|| "input".to_owned()),
            outputs: manifest.outputs(),
            env: manifest.env.clone(),
            limits: manifest.limits,
            partition_by: manifest.placing().partition_by,
        }
    }
}

/// A module ready to run.
pub(crate) struct Local {
    runner: LocalRunner,
    outputs: Vec<String>,
    offset: i64,
}

/// A record on its way in or out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LocalRecord {
    /// Its key.
    pub(crate) key: Option<Vec<u8>>,
    /// Its value.
    pub(crate) value: Option<Vec<u8>>,
    /// Its headers, in order.
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
    /// Its timestamp, ms since the Unix epoch.
    pub(crate) timestamp: i64,
    /// The partition it came from.
    pub(crate) partition: i32,
    /// Its offset there, where it was read from a topic.
    pub(crate) offset: Option<i64>,
}

impl LocalRecord {
    /// Bytes of its key and value.
    pub(crate) fn bytes(&self) -> usize {
        let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        length(&self.key) + length(&self.value)
    }
}

/// A record that the module wrote.
#[derive(Debug)]
pub(crate) struct LocalOutput {
    /// The topic it is for.
    pub(crate) topic: String,
    /// Which partition it goes to.
    pub(crate) to: Destination,
    /// The record.
    pub(crate) record: LocalRecord,
}

/// A line that the module logged.
#[derive(Debug)]
pub(crate) struct LocalLog {
    /// Its severity.
    pub(crate) level: &'static str,
    /// The line.
    pub(crate) message: String,
}

/// What became of a record.
#[derive(Debug)]
pub(crate) struct Ran {
    /// What was written for it.
    pub(crate) outputs: Vec<LocalOutput>,
    /// Why it failed, if it did.
    pub(crate) error: Option<String>,
    /// What was logged meanwhile.
    pub(crate) logs: Vec<LocalLog>,
    /// Whether the transform has several outputs, so that it matters which.
    pub(crate) several: bool,
    /// CPU time of the call, ns; none of a call without a result.
    pub(crate) cpu_ns: u64,
    /// Memory of the instance after it, bytes.
    pub(crate) memory_bytes: u64,
}

impl Local {
    /// Loads the module.
    ///
    /// # Errors
    /// Where the module is not there, or is none that a broker would take; where it is a ready-made one and refuses its settings.
    pub(crate) fn load(subject: &Subject) -> CliResult<Local> {
        let wasm = subject.code.wasm()?;
        let mut outputs = subject.outputs.clone();
        if outputs.is_empty() {
            outputs.push("output".to_owned());
        }
        let user: Vec<(String, String)> = subject.env.clone().into_iter().collect();
        let env = guest_env(&subject.name, &subject.input, &outputs, &user);
        let topic = OutputTopic {
            by_key: subject.partition_by == Some(PartitionBy::Key),
            ..OutputTopic::of_max_bytes(OUTPUT_MAX_BYTES)
        };
        let topics = vec![topic; outputs.len()];
        let refused = |error: String| CliError::said(format!("{}: {error}", subject.code.called()));
        // Nothing is kept on disk: a project's folder is no place from which to load machine code.
        let module = Factory::new(HostConfig::default())
            .load_here(&wasm)
            .map_err(|error| refused(error.to_string()))?;
        if let Code::Builtin(builtin) = subject.code {
            builtin.judge(&module, &outputs, &user)?;
        }
        let runner = LocalRunner::new(&module, env, limits(subject.limits)?, topics)
            .map_err(|error| refused(error.to_string()))?;
        Ok(Local {
            runner,
            outputs,
            offset: 0,
        })
    }

    /// Runs one record, in a call of its own, so that what it led to is known. A trap is the record's error.
    ///
    /// # Errors
    /// Where the engine returns what cannot be read.
    pub(crate) fn run(&mut self, record: &LocalRecord) -> CliResult<Ran> {
        let offset = record.offset.unwrap_or(self.offset);
        let batch = batch_of(std::slice::from_ref(record), offset);
        self.offset += 1;
        let several = self.outputs.len() > 1;
        match self.runner.call(record.partition, &[batch]) {
            Ok(output) => self.ran(output, several),
            Err(error) => Ok(Ran {
                outputs: Vec::new(),
                error: Some(error.to_string()),
                logs: logs(self.runner.take_logs()),
                several,
                cpu_ns: 0,
                memory_bytes: 0,
            }),
        }
    }

    /// Runs records as the broker would, many in a call. Gives the CPU time, ns, and the records that failed.
    ///
    /// # Errors
    /// Where a call has no result.
    pub(crate) fn run_together(&mut self, records: &[LocalRecord]) -> Result<(u64, usize), String> {
        let (mut cpu_ns, mut failures, mut from) = (0, 0, 0);
        while from < records.len() {
            let (mut to, mut bytes) = (from, 0);
            while to < records.len() && (to == from || bytes < CALL_BYTES) {
                bytes += records[to].bytes();
                to += 1;
            }
            let batch = batch_of(&records[from..to], 0);
            let called = self.runner.call(0, &[batch]).map_err(|e| e.to_string())?;
            cpu_ns += called.cpu_ns;
            failures += called.failures.len();
            from = to;
        }
        Ok((cpu_ns, failures))
    }

    fn ran(&self, output: CallOutput, several: bool) -> CliResult<Ran> {
        let mut outputs = Vec::new();
        for batch in &output.outputs {
            self.read(batch, &mut outputs).map_err(|error| {
                CliError::said(format!(
                    "the engine returned a batch that cannot be read ({error}); please report this"
                ))
            })?;
        }
        Ok(Ran {
            outputs,
            error: output
                .failures
                .into_iter()
                .next()
                .map(|failure| failure.message),
            logs: logs(output.logs),
            several,
            cpu_ns: output.cpu_ns,
            memory_bytes: output.memory_bytes,
        })
    }

    fn read(&self, output: &OutputBatch, into: &mut Vec<LocalOutput>) -> Result<(), String> {
        let topic = self
            .outputs
            .get(output.output as usize)
            .ok_or("no such output")?;
        let header = BatchHeader::validate(&output.batch).map_err(|error| error.to_string())?;
        for record in Records::new(&output.batch[HEADER_BYTES..], header.record_count) {
            let record = record.map_err(|error| error.to_string())?;
            into.push(LocalOutput {
                topic: topic.clone(),
                to: output.to,
                record: owned(&record, header.base_timestamp)?,
            });
        }
        Ok(())
    }
}

fn batch_of(records: &[LocalRecord], base_offset: i64) -> InputBatch {
    let mut batch = BatchBuilder::new();
    for record in records {
        let headers: Vec<(&[u8], Option<&[u8]>)> = record
            .headers
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_deref()))
            .collect();
        batch.append(NewRecord {
            timestamp: record.timestamp,
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: &headers,
        });
    }
    InputBatch {
        base_offset,
        base_timestamp: records.first().map_or_else(now_ms, |first| first.timestamp),
        record_count: records.len() as u32,
        records: batch.build().slice(HEADER_BYTES..),
    }
}

fn logs(lines: Vec<LogLine>) -> Vec<LocalLog> {
    lines
        .into_iter()
        .map(|line| LocalLog {
            level: line.level.name(),
            message: line.message,
        })
        .collect()
}

fn owned(record: &RecordRef<'_>, base_timestamp: i64) -> Result<LocalRecord, String> {
    let mut headers = Vec::new();
    for header in record.headers {
        let (name, value) = header.map_err(|error| error.to_string())?;
        headers.push((
            String::from_utf8_lossy(name).into_owned(),
            value.map(<[u8]>::to_vec),
        ));
    }
    Ok(LocalRecord {
        key: record.key.map(<[u8]>::to_vec),
        value: record.value.map(<[u8]>::to_vec),
        headers,
        timestamp: base_timestamp.saturating_add(record.timestamp_delta),
        ..LocalRecord::default()
    })
}

fn limits(asked: manifest::Limits) -> CliResult<Limits> {
    let mut limits = Limits::default();
    if let Some(time_ms) = asked.time_ms {
        limits.time_ms = time_ms;
    }
    if let Some(memory_mb) = asked.memory_mb {
        let bytes = usize::try_from(memory_mb)
            .ok()
            .and_then(|mib| mib.checked_mul(1 << 20))
            .filter(|bytes| *bytes <= MEMORY_BYTES_MAX);
        limits.memory_bytes = bytes.ok_or_else(|| {
            let max = MEMORY_BYTES_MAX >> 20;
            CliError::said(format!(
                "the memory limit is {memory_mb} MiB, it may be at most {max}"
            ))
        })?;
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_those_of_a_broker_and_more_memory_than_it_gives_is_refused() {
        let of = |memory_mb| {
            limits(manifest::Limits {
                memory_mb,
                ..manifest::Limits::default()
            })
        };
        let limits = of(None).expect("the defaults");
        assert_eq!((limits.time_ms, limits.memory_bytes), (3000, 64 << 20));
        let limits = of(Some(512)).expect("the most there is");
        assert_eq!(limits.memory_bytes, MEMORY_BYTES_MAX);
        assert!(of(Some(513)).is_err());
    }
}
