//! T5, T6 and T7: Python beside CPython and Go beside native Go, produce beside a transform that burns CPU, deployments to their first output.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::report::{Row, median};
use super::{Asked, measured};
use crate::process::{self, program, root, target_dir};

/// Of CPython's speed, at each size.
const T5_TARGET: f64 = 0.4;
/// Of native Go's speed, at each size.
const T5_GO_TARGET: f64 = 0.3;
/// p99 of Produce beside the transform, of that without it.
const T6_TARGET: f64 = 1.5;
/// From the command to the first output, in s.
const T7_TARGET_S: f64 = 0.3;
/// Bytes of the values that `t5` measures, in its order.
const T5_SIZES: [&str; 2] = ["250", "1024"];
/// Turns of each side.
const T5_ROUNDS: usize = 3;

type Measure = fn() -> Result<Row, String>;

/// The rows that are wanted.
pub(super) fn measure(asked: &Asked) -> Result<Vec<Row>, String> {
    let all: [(&str, Measure); 4] = [("T5", t5_python), ("T5", t5_go), ("T6", t6), ("T7", t7)];
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

/// A language, its `transform` in the sandbox, and the same function run by the language itself.
struct Language {
    row: &'static str,
    name: &'static str,
    /// What `t5` prints for the native side.
    input: &'static str,
    native: fn(&Path, &Path) -> Result<String, String>,
    target: f64,
    /// In the row's sentence: whose speed.
    against: &'static str,
}

fn t5_python() -> Result<Row, String> {
    t5(&Language {
        row: "T5",
        name: "python",
        input: "--input",
        native: cpython,
        target: T5_TARGET,
        against: "CPython's speed",
    })
}

fn t5_go() -> Result<Row, String> {
    t5(&Language {
        row: "T5-Go",
        name: "go",
        input: "--call",
        native: native_go,
        target: T5_GO_TARGET,
        against: "native Go's speed",
    })
}

/// The template's project: its module in the engine, and its function in the language's own way on this machine, by turns.
fn t5(language: &Language) -> Result<Row, String> {
    let (folder, project) = made(language.name)?;
    let t5 = target_dir().join("release/t5");
    let module = project.join("target/transform/mask.wasm");
    let (mut line, mut output) = (String::new(), String::new());
    let mut ratios = [Vec::new(), Vec::new()];
    for _ in 0..T5_ROUNDS {
        let (ran, said, json) = measured("t5", &[&module.to_string_lossy()])?;
        line = ran;
        output.push_str(&said);
        for ((size, at), ratios) in T5_SIZES.into_iter().zip(0..).zip(&mut ratios) {
            let rate = json["records_per_s"][at].as_f64().unwrap_or_default();
            let input = written(&t5, &[language.input, size], &folder)?;
            let native = (language.native)(&project, &input)?;
            output.push_str(&format!("{} natively, {size} B: {native}\n", language.name));
            let native: Value = serde_json::from_str(&native).map_err(|e| e.to_string())?;
            ratios.push(rate / number(&native, "records_per_s")?);
        }
    }
    let medians = ratios
        .each_mut()
        .map(|ratios| median(ratios).unwrap_or(0.0));
    let told = |n: usize| {
        let (low, high) = (ratios[n][0], ratios[n][T5_ROUNDS - 1]);
        let size = T5_SIZES[n];
        format!("{:.2} ({size} B; {low:.2} to {high:.2})", medians[n])
    };
    let summary = format!(
        "a transform in {} masks JSON at {} and {} of {} with the same SDK; target {}",
        language.name,
        told(0),
        told(1),
        language.against,
        language.target
    );
    let holds = medians.iter().all(|ratio| *ratio >= language.target);
    Ok(row(language.row, holds, summary, (line, &output)))
}

/// A folder of this language, and the template's project in it, built.
fn made(language: &str) -> Result<(PathBuf, PathBuf), String> {
    let folder = target_dir().join("bench/t5").join(language);
    let _ = fs::remove_dir_all(&folder);
    let told = |error: std::io::Error| format!("{}: {error}", folder.display());
    fs::create_dir_all(&folder).map_err(told)?;
    let command = target_dir().join("release/transform");
    let init = ["init", "mask", "--language", language];
    let project = folder.join("mask");
    process::run(program(&command, &init).current_dir(&folder))?;
    process::run(program(&command, &["build"]).current_dir(&project))?;
    Ok((folder, project))
}

/// The file with what `t5` prints of these arguments.
fn written(t5: &Path, args: &[&str], folder: &Path) -> Result<PathBuf, String> {
    let path = folder.join(args.concat());
    let told = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = File::create(&path).map_err(told)?;
    process::run(program(t5, args).stdout(Stdio::from(file)))?;
    Ok(path)
}

/// The last line of the SDK's own measurement.
fn cpython(project: &Path, values: &Path) -> Result<String, String> {
    let speed = root().join("transform-sdk/python/tests/speed.py");
    let mut command = program("taskset", &["-c", "1", "python3"]);
    let said = fed(command.arg(speed).arg(project), values)?;
    Ok(said.lines().last().unwrap_or_default().to_owned())
}

/// The line of `benches/go/speed_test.go`, compiled with the project.
fn native_go(project: &Path, call: &Path) -> Result<String, String> {
    let native = project.join("target/native.test");
    if !native.exists() {
        let test = root().join("benches/go/speed_test.go");
        fs::copy(test, project.join("speed_test.go")).map_err(|error| error.to_string())?;
        let edit = ["mod", "edit", "-module", "tidemill.dev/sdk/mask"];
        process::run(program("go", &edit).current_dir(project))?;
        let build = ["test", "-c", "-o", "target/native.test"];
        process::run(program("go", &build).current_dir(project))?;
    }
    let mut command = program("taskset", &["-c", "1"]);
    let said = fed(command.arg(native).args(["-test.run", "TestSpeed"]), call)?;
    let line = said.lines().find(|line| line.starts_with('{'));
    Ok(line.unwrap_or_default().to_owned())
}

/// What `command` says when the file `input` is its standard input.
fn fed(command: &mut Command, input: &Path) -> Result<String, String> {
    let file = File::open(input).map_err(|error| format!("{}: {error}", input.display()))?;
    let line = process::shown(command);
    let ran = command.stdin(Stdio::from(file)).output();
    let ran = ran.map_err(|error| format!("`{line}`: {error}"))?;
    let (said, failed) = (ran.stdout, ran.stderr);
    match ran.status.success() {
        true => Ok(String::from_utf8_lossy(&said).into_owned()),
        false => {
            let told = [said, failed].concat();
            Err(format!("`{line}`: {}", String::from_utf8_lossy(&told)))
        }
    }
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
