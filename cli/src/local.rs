//! Runs a module on this machine, in the engine that the broker uses.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use tidemill_model::BatchHeader;
use tidemill_model::batch::HEADER_BYTES;
use tidemill_model::record::{BatchBuilder, NewRecord, RecordRef, Records};
use tidemill_wasm_host::{
    CallOutput, Factory, HostConfig, InputBatch, Limits, LocalRunner, LogLine, MEMORY_BYTES_MAX,
    OutputBatch, OutputTopic, guest_env,
};

use crate::error::{CliError, CliResult};
use crate::manifest::{Manifest, Project};

/// What an output topic takes where nobody configured it: Kafka's default of `max.message.bytes`.
const OUTPUT_MAX_BYTES: usize = 1_048_588;

/// A module ready to run.
pub(crate) struct Local {
    runner: LocalRunner,
    outputs: Vec<String>,
    offset: i64,
}

/// A record on its way in or out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LocalRecord {
    /// Its key.
    pub(crate) key: Option<Vec<u8>>,
    /// Its value.
    pub(crate) value: Option<Vec<u8>>,
    /// Its headers, in order.
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
}

/// A record that the module wrote.
#[derive(Debug)]
pub(crate) struct LocalOutput {
    /// The topic it is for.
    pub(crate) topic: String,
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
}

impl Local {
    /// Loads the project's module with the environment and the limits it will have in the broker.
    ///
    /// # Errors
    /// Where the module is not there, or is none that a broker would take.
    pub(crate) fn load(project: &Project) -> CliResult<Local> {
        let path = project.module();
        if !path.is_file() {
            return Err(CliError::said(format!(
                "{} is not there; run `transform build`",
                path.display()
            )));
        }
        let wasm = fs::read(&path).map_err(CliError::file("read", &path))?;
        let manifest = &project.manifest;
        let mut outputs = manifest.outputs();
        if outputs.is_empty() {
            outputs.push("output".to_owned());
        }
        let user: Vec<(String, String)> = manifest.env.clone().into_iter().collect();
        let input = manifest.input.as_deref().unwrap_or("input");
        let env = guest_env(&manifest.name, input, &outputs, &user);
        let topics = vec![OutputTopic::of_max_bytes(OUTPUT_MAX_BYTES); outputs.len()];
        let refused = |error: String| CliError::said(format!("{}: {error}", path.display()));
        // Nothing is kept on disk: a project's folder is no place from which to load machine code.
        let module = Factory::new(HostConfig::default())
            .load_here(&wasm)
            .map_err(|error| refused(error.to_string()))?;
        let runner = LocalRunner::new(&module, env, limits(manifest)?, topics)
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
        let batch = self.batch_of(record);
        self.offset += 1;
        let several = self.outputs.len() > 1;
        match self.runner.call(0, &[batch]) {
            Ok(output) => self.ran(output, several),
            Err(error) => {
                let logs = logs(self.runner.take_logs());
                Ok(Ran {
                    outputs: Vec::new(),
                    error: Some(error.to_string()),
                    logs,
                    several,
                })
            }
        }
    }

    fn batch_of(&self, record: &LocalRecord) -> InputBatch {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |elapsed| elapsed.as_millis() as i64);
        let headers: Vec<(&[u8], Option<&[u8]>)> = record
            .headers
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_deref()))
            .collect();
        let mut batch = BatchBuilder::new();
        batch.append(NewRecord {
            timestamp: now,
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: &headers,
        });
        let records = batch.build().slice(HEADER_BYTES..);
        InputBatch {
            base_offset: self.offset,
            base_timestamp: now,
            record_count: 1,
            records,
        }
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
        })
    }

    fn read(&self, output: &OutputBatch, into: &mut Vec<LocalOutput>) -> Result<(), String> {
        let topic = self
            .outputs
            .get(output.output as usize)
            .ok_or("no such output")?;
        let header = BatchHeader::validate(&output.batch).map_err(|error| error.to_string())?;
        for record in Records::new(&output.batch[HEADER_BYTES..], header.record_count) {
            let record = owned(&record.map_err(|error| error.to_string())?)?;
            into.push(LocalOutput {
                topic: topic.clone(),
                record,
            });
        }
        Ok(())
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

fn owned(record: &RecordRef<'_>) -> Result<LocalRecord, String> {
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
    })
}

fn limits(manifest: &Manifest) -> CliResult<Limits> {
    let mut limits = Limits::default();
    if let Some(time_ms) = manifest.limits.time_ms {
        limits.time_ms = time_ms;
    }
    if let Some(memory_mb) = manifest.limits.memory_mb {
        let bytes = usize::try_from(memory_mb)
            .ok()
            .and_then(|mib| mib.checked_mul(1 << 20))
            .filter(|bytes| *bytes <= MEMORY_BYTES_MAX);
        limits.memory_bytes = bytes.ok_or_else(|| {
            let max = MEMORY_BYTES_MAX >> 20;
            CliError::said(format!(
                "limits.memory_mb is {memory_mb}, it may be at most {max}"
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
        let of = |text: &str| {
            let manifest = format!("name = \"t\"\nlanguage = \"rust\"\n[limits]\n{text}");
            limits(&toml::from_str(&manifest).expect("a manifest"))
        };
        let limits = of("").expect("the defaults");
        assert_eq!((limits.time_ms, limits.memory_bytes), (3000, 64 << 20));
        let limits = of("memory_mb = 512").expect("the most there is");
        assert_eq!(limits.memory_bytes, MEMORY_BYTES_MAX);
        assert!(of("memory_mb = 513").is_err());
    }
}
