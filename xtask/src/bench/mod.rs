//! `cargo xtask bench`: builds release programs, runs the measurement programs, writes the report.
//!
//! What each row measures and its target: rows with a T are about transforms, rows with a B about the broker. Rows that
//! are not run keep what the report had.

mod compared;
mod masking;
mod partitions;
mod peer;
mod platform;
mod produce;
mod report;
mod sides;
mod startup;

use crate::process::{self, cargo, program, root, target_dir};
use crate::setup;
use report::{Report, Row};
use serde_json::Value;

const ROWS: [&str; 18] = [
    "T1", "T2", "T3", "T4", "T5", "T6", "T7", "B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B9",
    "B10", "B11",
];
/// Rounds of each measurement, unless `--rounds` says otherwise.
const ROUNDS: usize = 5;
/// p99 from append of input to visibility of output, in ms.
const T2_TARGET_MS: f64 = 10.0;

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    with_kafka: bool,
    rounds: usize,
    rows: Vec<String>,
}

impl Asked {
    fn parse(args: &[String]) -> Result<Asked, String> {
        let mut asked = Asked {
            with_kafka: false,
            rounds: ROUNDS,
            rows: Vec::new(),
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--with-kafka" => asked.with_kafka = true,
                "--rounds" => {
                    let rounds = args.next().and_then(|n| n.parse().ok());
                    asked.rounds = rounds
                        .filter(|n| *n > 0)
                        .ok_or("--rounds needs a number from 1 on")?;
                }
                row => asked.rows.push(row.to_uppercase()),
            }
        }
        match asked.rows.iter().find(|row| !ROWS.contains(&row.as_str())) {
            Some(unknown) => Err(format!(
                "there is no row {unknown}; there are {}",
                ROWS.join(", ")
            )),
            None => Ok(asked),
        }
    }

    fn wants(&self, row: &str) -> bool {
        self.rows.is_empty() || self.rows.iter().any(|name| name == row)
    }
}

/// Runs the named rows, or all.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let asked = Asked::parse(args)?;
    setup::writable_target()?;
    setup::wasm_target()?;
    process::run(&mut cargo(&[
        "build",
        "--release",
        "--workspace",
        "--bins",
        "--locked",
    ]))?;
    let mut report = Report::load();
    let path = root().join("benches/results/latest.md");
    for measure in MEASUREMENTS {
        for row in measure(&asked)? {
            report.put(row);
        }
        // After each, so that what was measured is kept when a later one fails.
        report.write(&path)?;
    }
    println!("\n{}\nwritten to {}", report.headlines(), path.display());
    Ok(())
}

/// Measures the rows it knows, as far as they are wanted.
type Measurement = fn(&Asked) -> Result<Vec<Row>, String>;

const MEASUREMENTS: [Measurement; 10] = [
    t1,
    t2,
    masking_topics,
    platform::measure,
    start_and_memory,
    produce_load,
    end_to_end,
    consuming,
    many_partitions,
    small_requests,
];

fn peer(asked: &Asked) -> Result<Option<peer::Peer>, String> {
    asked.with_kafka.then(peer::Peer::install).transpose()
}

fn start_and_memory(asked: &Asked) -> Result<Vec<Row>, String> {
    if !asked.wants("B1") && !asked.wants("B2") {
        return Ok(Vec::new());
    }
    let rows = startup::measure(peer(asked)?.as_ref(), asked.rounds)?;
    let wanted = rows.into_iter().filter(|row| asked.wants(&row.name));
    Ok(wanted.collect())
}

fn produce_load(asked: &Asked) -> Result<Vec<Row>, String> {
    if !produce::ROWS.iter().any(|row| asked.wants(row)) {
        return Ok(Vec::new());
    }
    let rows = produce::measure(peer(asked)?.as_ref(), asked.rounds, |row| asked.wants(row))?;
    let wanted = rows.into_iter().filter(|row| asked.wants(&row.name));
    Ok(wanted.collect())
}

fn many_partitions(asked: &Asked) -> Result<Vec<Row>, String> {
    if !asked.wants("B9") && !asked.wants("B10") {
        return Ok(Vec::new());
    }
    partitions::measure(peer(asked)?.as_ref(), asked.rounds, |row| asked.wants(row))
}

fn masking_topics(asked: &Asked) -> Result<Vec<Row>, String> {
    match asked.wants("T3") || asked.wants("T4") {
        true => masking::measure(asked),
        false => Ok(Vec::new()),
    }
}

/// A row that is measured by itself, if it is wanted.
fn compared(
    asked: &Asked,
    name: &str,
    measure: fn(&Asked, Option<&peer::Peer>) -> Result<Row, String>,
) -> Result<Vec<Row>, String> {
    match asked.wants(name) {
        true => Ok(vec![measure(asked, peer(asked)?.as_ref())?]),
        false => Ok(Vec::new()),
    }
}

fn end_to_end(asked: &Asked) -> Result<Vec<Row>, String> {
    compared(asked, "B6", compared::b6)
}

fn consuming(asked: &Asked) -> Result<Vec<Row>, String> {
    compared(asked, "B8", compared::b8)
}

fn small_requests(asked: &Asked) -> Result<Vec<Row>, String> {
    compared(asked, "B11", compared::b11)
}

/// Runs a measurement program on core 1 (brokers run on core 0); its whole output and its last line as JSON.
fn measured(name: &str, args: &[&str]) -> Result<(String, String, Value), String> {
    measured_on("1", name, args)
}

/// As [`measured`], on these cores.
fn measured_on(cores: &str, name: &str, args: &[&str]) -> Result<(String, String, Value), String> {
    let binary = target_dir().join("release").join(name);
    let mut command = program("taskset", &["-c", cores]);
    command.arg(&binary).args(args);
    let line = process::shown(&command).replace(&*root().to_string_lossy(), ".");
    println!("$ {line}");
    let output = process::output(&mut command)?;
    print!("{output}");
    let last = output.lines().last().unwrap_or_default();
    let json = serde_json::from_str(last)
        .map_err(|error| format!("{name} ended with no JSON line: {error}"))?;
    Ok((line, output, json))
}

/// T1 is judged by the program itself: its last line has `holds` and `summary`.
fn t1(asked: &Asked) -> Result<Vec<Row>, String> {
    if !asked.wants("T1") {
        return Ok(Vec::new());
    }
    let (line, output, json) = measured("t1", &[])?;
    Ok(vec![Row {
        name: "T1".to_owned(),
        holds: json["holds"].as_bool().unwrap_or(false),
        summary: json["summary"].as_str().unwrap_or("see below").to_owned(),
        commands: vec![line],
        body: format!("```\n{}\n```", output.trim_end()),
    }])
}

fn t2(asked: &Asked) -> Result<Vec<Row>, String> {
    if !asked.wants("T2") {
        return Ok(Vec::new());
    }
    let (line, output, json) = measured("t2", &[])?;
    let rounds = json["rounds"].as_array().cloned().unwrap_or_default();
    let mut p99: Vec<f64> = rounds
        .iter()
        .filter_map(|round| round["p99_ms"].as_f64())
        .collect();
    let median = report::median(&mut p99).ok_or("t2 reported no rounds")?;
    Ok(vec![Row {
        name: "T2".to_owned(),
        holds: median < T2_TARGET_MS,
        summary: format!(
            "input appended to output visible, p99 {median:.2} ms ({}) at 30 % load; target under {T2_TARGET_MS} ms",
            report::spread(&p99, "ms")
        ),
        commands: vec![line],
        body: format!("```\n{}\n```", output.trim_end()),
    }])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Asked, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Asked::parse(&words)
    }

    #[test]
    fn rows_and_rounds_are_taken_in_any_order_and_unknown_ones_refused() {
        let asked = parse("b9 --rounds 3 --with-kafka T2").unwrap();
        assert!(asked.with_kafka && asked.rounds == 3);
        assert!(asked.wants("B9") && asked.wants("T2") && !asked.wants("T1"));
        assert!(parse("").unwrap().wants("T1"));
        assert!(
            parse("B77").is_err() && parse("--rounds 0").is_err() && parse("--rounds").is_err()
        );
    }
}
