//! `cargo xtask bench`: builds release programs, runs the measurement programs, writes the report.
//!
//! What each row measures and its target: T1 and T2 are about transforms, B1 and B2 about the broker. Rows that
//! are not run keep what the report had.

mod peer;
mod report;
mod startup;

use crate::process::{self, cargo, program, root, target_dir};
use crate::setup;
use report::{Report, Row};
use serde_json::Value;

const ROWS: [&str; 4] = ["T1", "T2", "B1", "B2"];
/// p99 from append of input to visibility of output, in ms.
const T2_TARGET_MS: f64 = 10.0;

/// Runs the named rows, or all.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let with_kafka = args.iter().any(|arg| arg == "--with-kafka");
    let named: Vec<String> = args
        .iter()
        .filter(|arg| *arg != "--with-kafka")
        .map(|arg| arg.to_uppercase())
        .collect();
    if let Some(unknown) = named.iter().find(|row| !ROWS.contains(&row.as_str())) {
        return Err(format!(
            "there is no row {unknown}; there are {}",
            ROWS.join(", ")
        ));
    }
    let wanted = |row: &str| named.is_empty() || named.iter().any(|name| name == row);
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
    if wanted("T1") {
        report.put(t1()?);
    }
    if wanted("T2") {
        report.put(t2()?);
    }
    if wanted("B1") || wanted("B2") {
        let peer = if with_kafka {
            Some(peer::Peer::install()?)
        } else {
            None
        };
        let rows = startup::measure(peer.as_ref())?;
        rows.into_iter()
            .filter(|row| wanted(&row.name))
            .for_each(|row| report.put(row));
    }
    let path = root().join("benches/results/latest.md");
    report.write(&path)?;
    println!("\n{}\nwritten to {}", report.headlines(), path.display());
    Ok(())
}

/// Runs a measurement program on core 1 (brokers run on core 0); its whole output and its last line as JSON.
fn measured(name: &str, args: &[&str]) -> Result<(String, String, Value), String> {
    let binary = target_dir().join("release").join(name);
    let mut command = program("taskset", &["-c", "1"]);
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
fn t1() -> Result<Row, String> {
    let (line, output, json) = measured("t1", &[])?;
    Ok(Row {
        name: "T1".to_owned(),
        holds: json["holds"].as_bool().unwrap_or(false),
        summary: json["summary"].as_str().unwrap_or("see below").to_owned(),
        commands: vec![line],
        body: format!("```\n{}\n```", output.trim_end()),
    })
}

fn t2() -> Result<Row, String> {
    let (line, output, json) = measured("t2", &[])?;
    let rounds = json["rounds"].as_array().cloned().unwrap_or_default();
    let mut p99: Vec<f64> = rounds
        .iter()
        .filter_map(|round| round["p99_ms"].as_f64())
        .collect();
    let median = report::median(&mut p99).ok_or("t2 reported no rounds")?;
    Ok(Row {
        name: "T2".to_owned(),
        holds: median < T2_TARGET_MS,
        summary: format!(
            "input appended to output visible, p99 {median:.2} ms ({}) at 30 % load; target under {T2_TARGET_MS} ms",
            report::spread(&p99, "ms")
        ),
        commands: vec![line],
        body: format!("```\n{}\n```", output.trim_end()),
    })
}
