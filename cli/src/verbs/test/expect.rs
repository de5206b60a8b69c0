//! `--expect`: what must come out.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

use super::shown;
use crate::Context;
use crate::error::{CliError, CliResult};
use crate::local::Ran;
use crate::output;

/// The members of an output record, as `--output-format json` prints them.
const MEMBERS: [&str; 8] = [
    "topic",
    "key",
    "key_base64",
    "value",
    "value_base64",
    "headers",
    "timestamp",
    "placement",
];
/// Differences told, at the most.
const TOLD_MAX: usize = 20;

/// The records that are still to come, in order, and what was different so far.
#[derive(Debug)]
pub(super) struct Expected {
    records: VecDeque<(usize, Map<String, Value>)>,
    different: u64,
    told: Vec<String>,
}

impl Expected {
    /// From a file with a JSON object a line.
    ///
    /// # Errors
    /// Where it cannot be read, or a line is something else.
    pub(super) fn read(file: &Path) -> CliResult<Expected> {
        let text = fs::read_to_string(file).map_err(CliError::file("read", file))?;
        let mut records = VecDeque::new();
        let lines = text.lines().enumerate();
        for (index, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
            let wrong = |reason: String| {
                CliError::said(format!("{}, line {}: {reason}", file.display(), index + 1))
            };
            let record = serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
            check(&record).map_err(wrong)?;
            records.push_back((index + 1, record));
        }
        Ok(Expected {
            records,
            different: 0,
            told: Vec::new(),
        })
    }

    /// Compares what came of input record `number` with what was to come next.
    pub(super) fn compare(&mut self, number: u64, ran: &Ran) {
        for output in &ran.outputs {
            let got = shown::output(output);
            let Some((line, wanted)) = self.records.pop_front() else {
                self.tell(format!(
                    "#{number} led to one more record than is expected: {got}"
                ));
                continue;
            };
            for (name, value) in &wanted {
                if !is_as(value, &got[name]) {
                    let got = &got[name];
                    self.tell(format!(
                        "#{number}, expected by line {line}: {name} is {got}, not {value}"
                    ));
                }
            }
        }
    }

    fn tell(&mut self, difference: String) {
        self.different += 1;
        if self.told.len() < TOLD_MAX {
            self.told.push(difference);
        }
    }

    /// Says what was different.
    ///
    /// # Errors
    /// Where anything was.
    pub(super) fn conclude(mut self, context: &mut Context) -> CliResult {
        if let Some((line, _)) = self.records.front() {
            let missing = output::count(self.records.len() as u64, "record");
            self.tell(format!(
                "{missing} did not come, the first is expected by line {line}"
            ));
        }
        if self.different == 0 {
            return context.output.say("everything came out as expected");
        }
        let told = self.told.join("\n");
        let count = output::count(self.different, "difference");
        Err(CliError::said(format!(
            "{count} from what was expected:\n{told}"
        )))
    }
}

/// Refuses a member that no output record has: certainly the value itself stands there, not in its place.
fn check(record: &Map<String, Value>) -> Result<(), String> {
    match record.keys().find(|name| !MEMBERS.contains(&name.as_str())) {
        Some(name) => Err(format!(
            "an output record has no member `{name}`; it has {}. What its value is to be stands in `value`: {{\"value\": {{\"{name}\": ..}}}}",
            MEMBERS.join(", ")
        )),
        None => Ok(()),
    }
}

/// Whether a member is what is expected: the same, or the text of the same JSON.
fn is_as(wanted: &Value, got: &Value) -> bool {
    let parsed = || serde_json::from_str::<Value>(got.as_str()?).ok();
    wanted == got || (!wanted.is_string() && parsed().as_ref() == Some(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::{LocalOutput, LocalRecord};
    use serde_json::json;
    use tidemill_wasm_host::Destination;

    fn ran(values: &[&str]) -> Ran {
        let output = |value: &&str| LocalOutput {
            topic: "out".to_owned(),
            to: Destination::ByInput,
            record: LocalRecord {
                value: Some(value.as_bytes().to_vec()),
                ..LocalRecord::default()
            },
        };
        Ran {
            outputs: values.iter().map(output).collect(),
            error: None,
            logs: Vec::new(),
            several: false,
            cpu_ns: 0,
            memory_bytes: 0,
        }
    }

    fn expected(lines: &[Value]) -> Expected {
        let object = |(n, v): (usize, &Value)| (n + 1, v.as_object().cloned().expect("an object"));
        Expected {
            records: lines.iter().enumerate().map(object).collect(),
            different: 0,
            told: Vec::new(),
        }
    }

    #[test]
    fn members_that_are_named_must_be_equal_and_others_may_be_anything() {
        let mut all = expected(&[
            json!({"value": {"a": 1}}),
            json!({"topic": "out", "key": null}),
        ]);
        all.compare(1, &ran(&["{ \"a\": 1 }", "x"]));
        assert!(
            all.records.is_empty() && all.different == 0,
            "{:?}",
            all.told
        );
        let mut wrong = expected(&[json!({"value": "1"}), json!({"value": 1})]);
        wrong.compare(1, &ran(&["2", "1"]));
        assert_eq!(
            wrong.told,
            ["#1, expected by line 1: value is \"2\", not \"1\""]
        );
    }

    #[test]
    fn member_that_no_output_has_is_refused_with_those_there_are() {
        let refused = check(json!({"email": "***"}).as_object().expect("an object"));
        let said = refused.expect_err("there is none");
        assert!(
            said.contains("`email`") && said.contains("topic, key"),
            "{said}"
        );
        let output = shown::output(&ran(&["x"]).outputs[0]);
        assert_eq!(check(output.as_object().expect("an object")), Ok(()));
    }

    #[test]
    fn record_too_many_is_different() {
        let mut none = expected(&[]);
        none.compare(7, &ran(&["x"]));
        assert!(
            none.told[0].starts_with("#7 led to one more"),
            "{:?}",
            none.told
        );
    }
}
