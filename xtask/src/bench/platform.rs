//! T5, T6 and T7: Python beside CPython, produce beside a transform that burns CPU, deployments to their first output.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use super::report::Row;
use super::{Asked, measured};
use crate::process::{self, program, root, target_dir};

/// Of CPython's speed, at each size.
const T5_TARGET: f64 = 0.4;
/// p99 of Produce beside the transform, of that without it.
const T6_TARGET: f64 = 1.5;
/// From the command to the first output, in s.
const T7_TARGET_S: f64 = 0.3;
/// Values that CPython is given.
const VALUES: &str = "1000";

type Measure = fn() -> Result<Row, String>;

/// The rows that are wanted.
pub(super) fn measure(asked: &Asked) -> Result<Vec<Row>, String> {
    let all: [(&str, Measure); 3] = [("T5", t5), ("T6", t6), ("T7", t7)];
    let wanted = all.into_iter().filter(|(name, _)| asked.wants(name));
    wanted.map(|(_, measure)| measure()).collect()
}

fn number(json: &Value, name: &str) -> Result<f64, String> {
    json[name]
        .as_f64()
        .filter(|number| *number > 0.0)
        .ok_or_else(|| format!("the program did not report {name}"))
}

fn row(name: &str, holds: bool, summary: String, (command, output): (String, &str)) -> Row {
    Row {
        name: name.to_owned(),
        holds,
        summary,
        commands: vec![command],
        body: format!("```\n{}\n```", output.trim_end()),
    }
}

/// The template's project in Python: its module in the engine, and its function in this machine's `python3`.
fn t5() -> Result<Row, String> {
    let folder = target_dir().join("bench/t5");
    let _ = fs::remove_dir_all(&folder);
    let told = |error: std::io::Error| format!("{}: {error}", folder.display());
    fs::create_dir_all(&folder).map_err(told)?;
    let release = target_dir().join("release");
    let command = release.join("transform");
    let (init, project) = (
        ["init", "mask", "--language", "python"],
        folder.join("mask"),
    );
    process::run(program(&command, &init).current_dir(&folder))?;
    process::run(program(&command, &["build"]).current_dir(&project))?;
    let module = project.join("target/transform/mask.wasm");
    let (line, mut output, json) = measured("t5", &[&module.to_string_lossy()])?;
    let sizes = json["value_bytes"].as_array().into_iter().flatten();
    let rates = json["records_per_s"].as_array().into_iter().flatten();
    let (mut ratios, mut told) = (Vec::new(), Vec::new());
    for (size, rate) in sizes.zip(rates) {
        let size = size.to_string();
        let values = values(&release.join("t5"), &size, &folder)?;
        let native = native(&project, &values)?;
        output.push_str(&format!("CPython, {size} B: {native}\n"));
        let native: Value = serde_json::from_str(&native).map_err(|e| e.to_string())?;
        let ratio = rate.as_f64().unwrap_or_default() / number(&native, "records_per_s")?;
        told.push(format!("{ratio:.2} ({size} B)"));
        ratios.push(ratio);
    }
    let holds = !ratios.is_empty() && ratios.iter().all(|ratio| *ratio >= T5_TARGET);
    let told = told.join(" and ");
    let summary = format!(
        "a Python transform masks JSON at {told} of CPython's speed with the same SDK; target {T5_TARGET}"
    );
    Ok(row("T5", holds, summary, (line, &output)))
}

fn values(t5: &Path, size: &str, folder: &Path) -> Result<std::path::PathBuf, String> {
    let path = folder.join(format!("values-{size}"));
    let values = process::output(&mut program(t5, &["--input", size, VALUES]))?;
    fs::write(&path, values).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
}

/// The last line of the SDK's own measurement.
fn native(project: &Path, values: &Path) -> Result<String, String> {
    let speed = root().join("transform-sdk/python/tests/speed.py");
    let input = File::open(values).map_err(|error| format!("{}: {error}", values.display()))?;
    let mut command = program("taskset", &["-c", "1", "python3"]);
    command.arg(speed).arg(project).stdin(Stdio::from(input));
    let ran = command
        .output()
        .map_err(|error| format!("python3: {error}"))?;
    if !ran.status.success() {
        return Err(String::from_utf8_lossy(&ran.stderr).into_owned());
    }
    let said = String::from_utf8_lossy(&ran.stdout);
    Ok(said.lines().last().unwrap_or_default().to_owned())
}

fn t6() -> Result<Row, String> {
    let (line, output, json) = measured("t6", &[])?;
    let ratio = number(&json, "ratio")?;
    let (with, without) = (
        number(&json, "p99_ms_with")?,
        number(&json, "p99_ms_without")?,
    );
    let summary = format!(
        "Produce beside a transform that burns CPU on its shard: p99 {with:.2} ms, {ratio:.2} times the {without:.2} ms without it; target {T6_TARGET} times"
    );
    Ok(row("T6", ratio <= T6_TARGET, summary, (line, &output)))
}

fn t7() -> Result<Row, String> {
    let (line, output, json) = measured("t7", &[])?;
    let (median, max) = (number(&json, "median_s")?, number(&json, "max_s")?);
    let summary = format!(
        "`transform deploy` of a module the broker knows to the first output: {median:.3} s, at most {max:.3} s; target {T7_TARGET_S} s"
    );
    Ok(row("T7", max < T7_TARGET_S, summary, (line, &output)))
}
