//! `transform test`: runs a module on records, here, in the broker's engine.

mod changes;
mod cost;
mod expect;
mod input;
mod shown;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::builtins::Choice;
use super::{once, pair, separator};
use crate::Context;
use crate::compile;
use crate::error::{CliError, CliResult};
use crate::local::{Code, Local, LocalRecord, Ran, Subject};
use crate::manifest::{Limits, Project};
use crate::output;
use crate::progress::Progress;
use cost::Costs;
use expect::Expected;
use input::Source;
use shown::{line_of, object_of};

/// Most records of a topic that are asked for.
const LAST_MAX: u64 = 10_000;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A file with a record a line [default: what is piped into standard input, else the project's input.jsonl]
    #[arg(long, value_name = "FILE", conflicts_with = "from_topic")]
    input: Option<PathBuf>,
    /// Not taken; only to say what is meant
    #[arg(hide = true)]
    stray: Option<PathBuf>,
    /// What stands between key and value in a line, `\t` for a tab; without it lines are values
    #[arg(long, value_name = "SEPARATOR", value_parser = separator, conflicts_with = "json_records")]
    key_separator: Option<String>,
    /// Lines are records with key, headers, timestamp and so on, as `transform consume --output-format json` prints them
    #[arg(long)]
    json_records: bool,
    /// Records of a topic of the broker; nothing is changed there
    #[arg(long, value_name = "TOPIC")]
    from_topic: Option<String>,
    /// How many of its newest records
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=LAST_MAX))]
    last: u64,
    /// A file with what must come out, a JSON object a line for each output record, such as {"key": "17", "value": {"a": 1}}: the
    /// members it has (topic, key, value, headers, timestamp, placement) must be equal
    #[arg(long, value_name = "FILE")]
    expect: Option<PathBuf>,
    /// A module to test, instead of the project here
    #[arg(long, value_name = "FILE", conflicts_with_all = ["dir", "no_build"])]
    module: Option<PathBuf>,
    #[command(flatten)]
    ready_made: Choice,
    /// A topic it writes; may be given several times, in the module's order [default: the project's]
    #[arg(long = "output", value_name = "TOPIC")]
    outputs: Vec<String>,
    /// An environment variable for it; may be given several times
    #[arg(long = "env", value_name = "KEY=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,
    /// CPU time of a call, milliseconds [default: the project's, else 3000]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    time_ms: Option<u64>,
    /// Memory of an instance, MiB [default: the project's, else 64]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..))]
    memory_mb: Option<u64>,
    /// The project's folder
    #[arg(
        long,
        value_name = "DIR",
        default_value = ".",
        conflicts_with = "builtin"
    )]
    dir: PathBuf,
    /// Test the module as it was built last
    #[arg(long, conflicts_with = "builtin")]
    no_build: bool,
}

#[derive(Debug, Default)]
struct Counts {
    read: u64,
    written: u64,
    dropped: u64,
    failed: u64,
}

/// Runs every record and prints before and after, and what it costs; fails where a record failed.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> CliResult {
    once("--env", &arguments.env)?;
    if let Some(file) = &arguments.stray {
        let file = file.display();
        return Err(CliError::said(format!(
            "a file with records is given as --input {file}"
        )));
    }
    let names = arguments.env.iter().map(|(name, _)| name.as_str());
    arguments.ready_made.settings_alone(names)?;
    let project = match (arguments.ready_made.builtin()?, &arguments.module) {
        (None, None) => Some(Project::find(&arguments.dir)?),
        _ => None,
    };
    if let Some(project) = project.as_ref().filter(|_| !arguments.no_build) {
        compile::compile(project)?;
    }
    let mut expected = match &arguments.expect {
        Some(file) => Some(Expected::read(file)?),
        None => None,
    };
    let subject = subject(arguments, project.as_ref())?;
    if let Some(note) = project.as_ref().and_then(|p| without_secrets(p, &subject)) {
        tell!("{note}");
    }
    let mut local = {
        let _progress = Progress::start("preparing the module");
        Local::load(&subject)?
    };
    let mut source = Source::open(arguments, project.as_ref(), context)?;
    let (mut counts, mut costs) = (Counts::default(), Costs::default());
    let progress =
        Progress::start("waiting for records on standard input (--input FILE reads a file)");
    while let Some(record) = source.next()? {
        if counts.read == 0 {
            progress.set("running");
        }
        let ran = local.run(&record)?;
        counts.add(&ran);
        if let Some(expected) = &mut expected {
            expected.compare(counts.read, &ran);
        }
        show(&counts, &record, &ran, context)?;
        costs.add(counts.read, record, &ran);
    }
    progress.set("measuring");
    let costs = costs.measured(&mut local);
    drop(progress);
    conclude(&counts, &costs, context)?;
    if counts.read == 0 {
        return Err(source.was_empty(project.as_ref()));
    }
    counts.judge()?;
    match expected {
        Some(expected) => expected.conclude(context),
        None => Ok(()),
    }
}

/// What is tested: the project's module, with what the command line says in its place.
fn subject(arguments: &Arguments, project: Option<&Project>) -> CliResult<Subject> {
    let mut subject = match (arguments.ready_made.builtin()?, project) {
        (Some(builtin), _) => Subject {
            env: BTreeMap::from([arguments.ready_made.variable()?]),
            ..alone(Code::Builtin(builtin), builtin.name)
        },
        (None, Some(project)) => Subject::of(project),
        (None, None) => alone(
            Code::File(arguments.module.clone().unwrap_or_default()),
            "test",
        ),
    };
    if let Some(topic) = &arguments.from_topic {
        subject.input.clone_from(topic);
    }
    if !arguments.outputs.is_empty() {
        subject.outputs.clone_from(&arguments.outputs);
    }
    subject.env.extend(arguments.env.iter().cloned());
    subject.limits.time_ms = arguments.time_ms.or(subject.limits.time_ms);
    subject.limits.memory_mb = arguments.memory_mb.or(subject.limits.memory_mb);
    Ok(subject)
}

/// A module without a project.
fn alone(code: Code, name: &str) -> Subject {
    Subject {
        code,
        name: name.to_owned(),
        input: "input".to_owned(),
        outputs: Vec::new(),
        env: BTreeMap::new(),
        limits: Limits::default(),
        partition_by: None,
    }
}

/// Says which secrets the project's function cannot do without but has not got here; a broker would have them.
fn without_secrets(project: &Project, subject: &Subject) -> Option<String> {
    let names = project.manifest.secrets.names().iter();
    let missing: Vec<&str> = names
        .filter(|name| !subject.env.contains_key(*name))
        .map(String::as_str)
        .collect();
    let first = missing.first()?;
    let secrets = match missing.len() {
        1 => "the secret",
        _ => "the secrets",
    };
    Some(format!(
        "note: it runs without {secrets} {}; --env {first}=VALUE gives it one for this test",
        missing.join(", ")
    ))
}

impl Counts {
    fn add(&mut self, ran: &Ran) {
        self.read += 1;
        self.written += ran.outputs.len() as u64;
        self.failed += u64::from(ran.error.is_some());
        self.dropped += u64::from(ran.error.is_none() && ran.outputs.is_empty());
    }

    /// An error where records failed.
    fn judge(&self) -> CliResult {
        match self.failed {
            0 => Ok(()),
            failed => Err(CliError::said(format!(
                "{} failed; what each said stands above",
                output::count(failed, "record")
            ))),
        }
    }
}

fn show(counts: &Counts, record: &LocalRecord, ran: &Ran, context: &mut Context) -> CliResult {
    if context.output.is_json() {
        return context.output.json_line(&as_json(counts.read, record, ran));
    }
    let number = format!("#{}", counts.read);
    let margin = " ".repeat(number.len());
    context
        .output
        .foreign_line(&format!("{number}  before  {}", line_of(record)))?;
    for output in &ran.outputs {
        let topic = if ran.several {
            format!("{}: ", output.topic)
        } else {
            String::new()
        };
        let mut lines = vec![format!("after   {topic}{}", line_of(&output.record))];
        lines.extend(
            changes::between(record, output)
                .into_iter()
                .map(|change| format!("  {change}")),
        );
        for line in lines {
            context.output.foreign_line(&format!("{margin}  {line}"))?;
        }
    }
    match &ran.error {
        Some(error) => context
            .output
            .foreign_line(&format!("{margin}  FAILED  {error}"))?,
        None if ran.outputs.is_empty() => context
            .output
            .say(&format!("{margin}  after   (nothing: it is left out)"))?,
        None => {}
    }
    for line in &ran.logs {
        context.output.foreign_line(&format!(
            "{margin}  {:<6}  {}",
            line.level,
            line.message.trim_end()
        ))?;
    }
    Ok(())
}

fn as_json(number: u64, record: &LocalRecord, ran: &Ran) -> Value {
    let logs: Vec<Value> = ran
        .logs
        .iter()
        .map(|line| json!({ "level": line.level, "message": line.message }))
        .collect();
    let outputs: Vec<Value> = ran.outputs.iter().map(shown::output).collect();
    let mut input = object_of(record);
    input.insert("partition".to_owned(), json!(record.partition));
    input.insert("offset".to_owned(), json!(record.offset));
    json!({
        "record": number, "input": input, "outputs": outputs, "error": ran.error, "logs": logs,
        "cpu_ns": ran.cpu_ns, "memory_bytes": ran.memory_bytes
    })
}

fn conclude(counts: &Counts, costs: &cost::Summary, context: &mut Context) -> CliResult {
    let Counts {
        read,
        written,
        dropped,
        failed,
    } = counts;
    if context.output.is_json() {
        context.output.json_line(&json!({
            "summary": {
                "read": read, "written": written, "dropped": dropped, "failed": failed, "cost": costs.json()
            }
        }))?;
    } else {
        let read = output::count(*read, "record");
        context.output.say(&format!(
            "\n{read} read, {written} written, {dropped} left out, {failed} failed"
        ))?;
        for line in costs.lines() {
            context.output.say(&line)?;
        }
    }
    Ok(())
}
