//! Building a module and running cases in the engine, as a broker does: a call that ends is run again record by record.

use crate::cases::{Came, Case, Item};
use std::path::Path;
use tidemill_model::BatchHeader;
use tidemill_model::batch::HEADER_BYTES;
use tidemill_model::record::{BatchBuilder, NewRecord, Records};
use tidemill_tests::cli::Cli;
use tidemill_tests::modules;
use tidemill_wasm_host::{
    CallOutput, Destination, Factory, HostConfig, InputBatch, Limits, LocalRunner, OutputTopic,
    guest_env,
};

/// Kafka's default of `max.message.bytes`.
const OUTPUT_MAX_BYTES: usize = 1_048_588;
/// A call of the suite may be slow on a busy machine; an interpreter needs more memory than the default.
const LIMITS: Limits = Limits {
    time_ms: 60_000,
    memory_bytes: 256 << 20,
};

/// A module of the suite.
#[derive(Debug)]
pub(crate) struct Module(tidemill_wasm_host::Module);

impl Module {
    /// Builds the project in `folder` with the command line.
    pub(crate) fn build(folder: &Path) -> Module {
        Cli::offline(folder).ok(&["build"]);
        let wasm = std::fs::read(modules::built_in(folder)).expect("the module can be read");
        let module = Factory::new(HostConfig::default()).load_here(&wasm);
        Module(module.unwrap_or_else(|error| panic!("{}: {error}", folder.display())))
    }

    /// What the function `random` of a new instance draws for each of so many records.
    pub(crate) fn draws(&self, records: usize) -> Vec<Vec<String>> {
        let environment = [("CONFORMANCE_FUNCTION".to_owned(), "random".to_owned())];
        let env = guest_env("conformance", "input", &["out".to_owned()], &environment);
        let topics = vec![OutputTopic::of_max_bytes(OUTPUT_MAX_BYTES)];
        let mut runner = LocalRunner::new(&self.0, env, LIMITS, topics).expect("the engine starts");
        let item = Item {
            key: None,
            value: None,
            headers: Vec::new(),
            timestamp: 0,
        };
        let records: Vec<(i64, Item)> = (0..records as i64).map(|n| (n, item.clone())).collect();
        let output = runner.call(0, &batches(&records)).expect("it draws");
        assert!(output.failures.is_empty(), "{:?}", output.failures);
        let items = output.outputs.iter().flat_map(|batch| read(&batch.batch));
        let text = |item: Item| String::from_utf8(item.value.unwrap_or_default()).expect("text");
        items
            .map(|item| text(item).split(' ').map(str::to_owned).collect())
            .collect()
    }

    /// Runs `case` in one call of all records, and then in a call for each.
    pub(crate) fn run(&self, case: &Case) -> [Came; 2] {
        let outputs = case.outputs();
        let names: Vec<String> = outputs.iter().map(|o| o.name.clone()).collect();
        let topics = outputs.iter().map(|o| OutputTopic {
            partitions: o.partitions,
            ..OutputTopic::of_max_bytes(OUTPUT_MAX_BYTES)
        });
        let env = guest_env("conformance", "input", &names, &case.environment());
        let runner = LocalRunner::new(&self.0, env, LIMITS, topics.collect());
        let mut run = Run {
            runner: runner.expect("the engine starts"),
            partition: case.partition(),
            names,
            came: Came::default(),
        };
        let records = case.records();
        [records.len(), 1].map(|at_once| {
            records.chunks(at_once).for_each(|chunk| run.call(chunk));
            std::mem::take(&mut run.came)
        })
    }
}

struct Run {
    runner: LocalRunner,
    partition: i32,
    names: Vec<String>,
    came: Came,
}

impl Run {
    fn call(&mut self, records: &[(i64, Item)]) {
        match self.runner.call(self.partition, &batches(records)) {
            Ok(output) => self.add(output),
            Err(error) => {
                self.runner.take_logs();
                if let [(offset, _)] = records {
                    self.came.ended.insert(*offset, error.to_string());
                } else {
                    records.chunks(1).for_each(|one| self.call(one));
                }
            }
        }
    }

    fn add(&mut self, output: CallOutput) {
        for batch in output.outputs {
            let to = match batch.to {
                Destination::ByInput => "by-input".to_owned(),
                Destination::ByKey => "by-key".to_owned(),
                Destination::Partition(partition) => partition.to_string(),
            };
            let topic = self.names[batch.output as usize].clone();
            let items = self.came.outputs.entry((topic, to)).or_default();
            items.extend(read(&batch.batch));
        }
        for failure in output.failures {
            self.came.failures.insert(failure.offset, failure.message);
        }
        let lines = output.logs.into_iter();
        let lines = lines.map(|line| (line.level.name().to_owned(), line.message));
        self.came.logs.extend(lines);
    }
}

/// Batches of `records`: one for as many as differences of offsets and timestamps can say.
fn batches(records: &[(i64, Item)]) -> Vec<InputBatch> {
    let fits = |a: &(i64, Item), b: &(i64, Item)| b.0 == a.0 + 1;
    records
        .chunk_by(fits)
        .map(|run| {
            let mut batch = BatchBuilder::new();
            for (_, item) in run {
                let headers: Vec<(&[u8], Option<&[u8]>)> = item
                    .headers
                    .iter()
                    .map(|(key, value)| (&key[..], value.as_deref()))
                    .collect();
                batch.append(NewRecord {
                    timestamp: item.timestamp,
                    key: item.key.as_deref(),
                    value: item.value.as_deref(),
                    headers: &headers,
                });
            }
            let (section, count, base_timestamp, _) = batch.into_section();
            InputBatch {
                base_offset: run[0].0,
                base_timestamp,
                record_count: count as u32,
                records: section.into(),
            }
        })
        .collect()
}

fn read(batch: &[u8]) -> Vec<Item> {
    let header = BatchHeader::validate(batch).expect("the engine makes valid batches");
    let records = Records::new(&batch[HEADER_BYTES..], header.record_count);
    let item = |record: tidemill_model::record::RecordRef<'_>| Item {
        key: record.key.map(<[u8]>::to_vec),
        value: record.value.map(<[u8]>::to_vec),
        headers: record
            .headers
            .map(|header| header.expect("a valid header"))
            .map(|(key, value)| (key.to_vec(), value.map(<[u8]>::to_vec)))
            .collect(),
        timestamp: header.base_timestamp.wrapping_add(record.timestamp_delta),
    };
    records
        .map(|record| item(record.expect("a valid record")))
        .collect()
}
