//! `transform deploy`: puts a project, or a module, to work in the broker.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::builtins::Choice;
use super::{once, pair};
use crate::Context;
use crate::admin::{segment, typed};
use crate::builtin::{self, Builtin};
use crate::compile;
use crate::error::{CliError, CliResult};
use crate::manifest::{self, Compression, OnError, PartitionBy, Placing, Project};
use crate::output;
use crate::progress::Progress;
use crate::secrets;

/// Bytes of a module that the broker takes.
const MODULE_BYTES_MAX: u64 = 64 << 20;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A module to deploy, instead of the project here; needs --name, --input and --output
    #[arg(long, value_name = "FILE")]
    module: Option<PathBuf>,
    #[command(flatten)]
    ready_made: Choice,
    /// The transform's name [default: the project's]
    #[arg(long)]
    name: Option<String>,
    /// The topic it reads [default: the project's]
    #[arg(long, value_name = "TOPIC")]
    input: Option<String>,
    /// A topic it writes; may be given several times, in the module's order [default: the project's]
    #[arg(long = "output", value_name = "TOPIC")]
    outputs: Vec<String>,
    /// An environment variable for it; may be given several times
    #[arg(long = "env", value_name = "KEY=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,
    /// A secret for it, given as an environment variable, kept sealed and never shown: KEY=VALUE, KEY=@FILE, or KEY=- to read it from
    /// standard input; may be given several times. Secrets stay over later deploys
    #[arg(long = "secret", value_name = "KEY=VALUE")]
    secrets: Vec<String>,
    /// A secret it is to have no more; may be given several times
    #[arg(long = "remove-secret", value_name = "KEY")]
    remove_secrets: Vec<String>,
    /// Where a new transform begins to read: earliest, latest, @TIME (@2026-11-27T10:00:00Z, @2h for two hours ago, or ms
    /// since 1970), +N (records after the oldest) or -N (before the end) [default: latest, records written before are not read];
    /// one that is there already keeps its place
    #[arg(long, value_name = "POSITION", allow_hyphen_values = true)]
    from: Option<String>,
    /// What happens to a record it cannot handle [default: dead-letter with --dead-letter, else fail: it waits there and tries
    /// again]
    #[arg(long, value_enum, value_name = "POLICY")]
    on_error: Option<OnError>,
    /// The topic for records it cannot handle
    #[arg(long, value_name = "TOPIC")]
    dead_letter: Option<String>,
    /// Runs of a record before --on-error applies [default: 1]
    #[arg(long, value_name = "N")]
    attempts: Option<u32>,
    /// CPU time of a call, milliseconds [default: 3000]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    time_ms: Option<u64>,
    /// Memory of an instance, MiB [default: 64]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..))]
    memory_mb: Option<u64>,
    /// Compression of what it writes [default: what the output topic's compression.type says, none where that is `producer`]
    #[arg(long, value_enum, value_name = "CODEC")]
    compression: Option<Compression>,
    /// Its share of the processor compared with that of other transforms, 1 to 100 [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    weight: Option<u32>,
    /// Where records go whose partition the transform does not choose [default: input]
    #[arg(long, value_enum, value_name = "WHAT")]
    partition_by: Option<PartitionBy>,
    /// The project's folder
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Deploy the module as it was built last
    #[arg(long)]
    no_build: bool,
}

/// What is deployed.
#[derive(Debug)]
struct Deployment {
    module: PathBuf,
    name: String,
    request: Map<String, Value>,
}

/// What the broker says of a deploy that it would take.
#[derive(Debug, Deserialize)]
struct Checked {
    secrets: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Stored {
    hash: String,
}

#[derive(Debug, Deserialize)]
struct Deployed {
    version: u32,
    #[serde(default)]
    paused: bool,
    #[serde(default)]
    kept_place: bool,
    created_topics: Vec<CreatedTopic>,
}

#[derive(Debug, Deserialize)]
struct CreatedTopic {
    name: String,
    partitions: i64,
}

impl Arguments {
    /// The project's folder, where it is a project that is deployed, and can be once more.
    ///
    /// # Errors
    /// What is no project, or can be deployed once only.
    pub(super) fn folder(&self) -> CliResult<&Path> {
        if self.module.is_some() {
            return Err(CliError::said(
                "--module names a file that is built elsewhere; it is a project that is watched",
            ));
        }
        if let Some(builtin) = self.ready_made.builtin()? {
            return Err(CliError::said(format!(
                "{0} is ready-made, and there is no source to watch: `transform deploy --builtin {0}` deploys it, `transform test --builtin {0}` \
                 tries its settings",
                builtin.name
            )));
        }
        if self
            .secrets
            .iter()
            .any(|secret| secret.split_once('=').is_some_and(|(_, v)| v == "-"))
        {
            return Err(CliError::said(
                "standard input can be read once, and every save is a deploy: give secrets as KEY=@FILE, or once with `transform deploy`; \
                 they stay",
            ));
        }
        Ok(&self.dir)
    }

    /// The names of the variables and secrets that are given.
    fn variables(&self) -> impl Iterator<Item = &str> {
        let env = self.env.iter().map(|(name, _)| name.as_str());
        let secrets = self.secrets.iter();
        env.chain(secrets.filter_map(|text| Some(text.split_once('=')?.0)))
    }

    /// What the project's transform is called.
    pub(super) fn name_of(&self, project: &Project) -> String {
        self.name
            .clone()
            .unwrap_or_else(|| project.manifest.name.clone())
    }
}

/// Uploads the module, deploys it, and says what was made.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> CliResult {
    let builtin = arguments.ready_made.builtin()?;
    once("--env", &arguments.env)?;
    arguments.ready_made.settings_alone(arguments.variables())?;
    let mut deployment = match (builtin, &arguments.module) {
        (Some(builtin), _) => of_builtin(builtin, arguments)?,
        (None, Some(module)) => of_module(module, arguments)?,
        (None, None) => of_project(arguments)?,
    };
    let wasm = match builtin {
        Some(builtin) => builtin.wasm.to_vec(),
        None => read_module(&deployment.module)?,
    };
    let admin = context.admin()?;
    let input = deployment.request["input"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let path = format!("/v1/transforms/{}", segment(&deployment.name));
    // What can be refused without the module is, before it is uploaded and compiled.
    let request = Value::Object(deployment.request.clone());
    let checked: Checked = typed(&admin.post(&format!("{path}/check"), &request)?)?;
    if let Some(builtin) = builtin {
        check_builtin(builtin, &deployment.request, &checked.secrets)?;
        warn_of_key(builtin, &deployment.request);
    }
    let stored: Stored = {
        let _progress = Progress::start("uploading the module; the broker compiles it");
        typed(&admin.put_wasm("/v1/modules", &wasm)?)?
    };
    deployment
        .request
        .insert("module".to_owned(), json!(stored.hash));
    let outputs = outputs_shown(&deployment.request);
    let answer = {
        let _progress = Progress::start(format!("deploying {}", deployment.name));
        admin.put(&path, &Value::Object(deployment.request))?
    };
    if context.output.is_json() {
        return context.output.json(&answer);
    }
    let deployed: Deployed = typed(&answer)?;
    for topic in &deployed.created_topics {
        let partitions = output::count(topic.partitions.unsigned_abs(), "partition");
        context.output.say(&format!(
            "made the topic {} with {partitions}, placed beside {input}",
            topic.name
        ))?;
    }
    let size = output::size(wasm.len() as u64);
    context.output.say(&format!(
        "deployed {} version {} ({size}): {input} -> {outputs}",
        deployment.name, deployed.version
    ))?;
    if deployed.kept_place {
        context.output.say(&format!(
            "it keeps its place: --from is for new transforms; `transform seek {}` moves it",
            deployment.name
        ))?;
    }
    match deployed.paused {
        true => context.output.say(&format!(
            "it is still paused: `transform resume {}` lets it go on",
            deployment.name
        )),
        false => Ok(()),
    }
}

fn outputs_shown(request: &Map<String, Value>) -> String {
    let outputs = request["outputs"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    outputs.collect::<Vec<_>>().join(", ")
}

fn read_module(module: &Path) -> CliResult<Vec<u8>> {
    let length = fs::metadata(module)
        .map_err(CliError::file("read", module))?
        .len();
    if length > MODULE_BYTES_MAX {
        return Err(CliError::said(format!(
            "{} has {length} bytes; a module has at most {MODULE_BYTES_MAX}; build it with --release and strip it",
            module.display()
        )));
    }
    fs::read(module).map_err(CliError::file("read", module))
}

fn of_module(module: &Path, arguments: &Arguments) -> CliResult<Deployment> {
    let missing = |what: &str| CliError::said(format!("--module needs {what} too"));
    let name = arguments
        .name
        .clone()
        .ok_or_else(|| missing("--name NAME"))?;
    let input = arguments
        .input
        .clone()
        .ok_or_else(|| missing("--input TOPIC"))?;
    if arguments.outputs.is_empty() {
        return Err(missing("--output TOPIC"));
    }
    let outputs = arguments.outputs.clone();
    let request = request(
        arguments,
        Defaults {
            input,
            outputs,
            ..Defaults::default()
        },
    )?;
    deployment(module.to_owned(), name, request)
}

/// Lets a ready-made transform look at its settings. What secrets hold that the broker has is not known here: something stands for them.
fn check_builtin(builtin: &Builtin, request: &Map<String, Value>, secrets: &[String]) -> CliResult {
    let texts = |key: &str| {
        let pairs = request.get(key).and_then(Value::as_object).into_iter();
        let pairs = pairs.flatten();
        pairs.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
    };
    let unknown = secrets.iter().map(|name| (name.clone(), "*".repeat(64)));
    let all: BTreeMap<String, String> = unknown
        .chain(texts("env"))
        .chain(texts("secrets"))
        .collect();
    let outputs = request.get("outputs").and_then(Value::as_array);
    let outputs = outputs.into_iter().flatten().filter_map(Value::as_str);
    let outputs: Vec<String> = outputs.map(str::to_owned).collect();
    builtin.check(&outputs, &all.into_iter().collect::<Vec<_>>())
}

/// Says where a key is given so that it is shown.
fn warn_of_key(builtin: &Builtin, request: &Map<String, Value>) {
    let Some(env) = request.get("env").and_then(Value::as_object) else {
        return;
    };
    let config = env.get(builtin::CONFIG_VARIABLE).and_then(Value::as_str);
    let config = serde_json::from_str(config.unwrap_or_default()).unwrap_or_default();
    if let Some(name) = builtin.key_in_clear(&config, env) {
        tell!(
            "warning: with --env everybody who may ask this broker sees the key, `transform describe` shows it; give it as a secret: \
             --secret {name}=@FILE"
        );
    }
}

/// A ready-made transform.
fn of_builtin(builtin: &Builtin, arguments: &Arguments) -> CliResult<Deployment> {
    let missing = |what: &str| CliError::said(format!("--builtin needs {what} too"));
    let input = arguments
        .input
        .clone()
        .ok_or_else(|| missing("--input TOPIC"))?;
    if arguments.outputs.is_empty() {
        return Err(missing("--output TOPIC"));
    }
    if builtin.name == "mask" && arguments.on_error == Some(OnError::PassThrough) {
        return Err(CliError::said(
            "--on-error pass-through would hand on what mask could not hide; use --dead-letter TOPIC or --on-error skip",
        ));
    }
    let name = arguments.name.as_deref().unwrap_or(builtin.name);
    let outputs = arguments.outputs.clone();
    let env = BTreeMap::from([arguments.ready_made.variable()?]);
    let request = request(
        arguments,
        Defaults {
            input,
            outputs,
            env,
            ..Defaults::default()
        },
    )?;
    deployment(PathBuf::new(), name.to_owned(), request)
}

fn of_project(arguments: &Arguments) -> CliResult<Deployment> {
    let project = Project::find(&arguments.dir)?;
    let manifest = &project.manifest;
    let absent = |what: &str, flag: &str| {
        CliError::said(format!(
            "transform.toml does not say which topic is the {what}: add `{what} = \"TOPIC\"` or give {flag}"
        ))
    };
    let input = arguments
        .input
        .clone()
        .or_else(|| manifest.input.clone())
        .ok_or_else(|| absent("input", "--input"))?;
    let outputs = if arguments.outputs.is_empty() {
        manifest.outputs()
    } else {
        arguments.outputs.clone()
    };
    if outputs.is_empty() {
        return Err(absent("output", "--output"));
    }
    let defaults = Defaults {
        input,
        outputs,
        env: manifest.env.clone(),
        limits: manifest.limits,
        on_error: manifest.on_error,
        dead_letter: manifest.dead_letter.clone(),
        attempts: manifest.attempts,
        output: manifest.placing(),
        secrets: manifest.secrets.names().to_vec(),
    };
    let request = request(arguments, defaults)?;
    let module = module_of(&project, arguments.no_build)?;
    deployment(
        module,
        arguments
            .name
            .clone()
            .unwrap_or_else(|| manifest.name.clone()),
        request,
    )
}

fn module_of(project: &Project, no_build: bool) -> CliResult<PathBuf> {
    if !no_build {
        return Ok(compile::compile(project)?.module);
    }
    let module = project.module();
    if module.is_file() {
        return Ok(module);
    }
    Err(CliError::said(format!(
        "{} is not there; run `transform build`",
        module.display()
    )))
}

fn deployment(module: PathBuf, name: String, request: Map<String, Value>) -> CliResult<Deployment> {
    manifest::check_name(&name).map_err(CliError::said)?;
    Ok(Deployment {
        module,
        name,
        request,
    })
}

/// What holds where the command line says nothing.
#[derive(Debug, Default)]
struct Defaults {
    input: String,
    outputs: Vec<String>,
    env: BTreeMap<String, String>,
    limits: manifest::Limits,
    on_error: Option<OnError>,
    dead_letter: Option<String>,
    attempts: Option<u32>,
    output: Placing,
    secrets: Vec<String>,
}

/// Adds what concerns secrets; their values come from where they were said to be.
fn add_secrets(
    request: &mut Map<String, Value>,
    arguments: &Arguments,
    required: &[String],
) -> CliResult {
    let secrets = secrets::read(&arguments.secrets, &mut io::stdin().lock())?;
    for (key, value) in [
        ("secrets", Value::Object(secrets)),
        ("remove_secrets", json!(arguments.remove_secrets)),
        ("required_secrets", json!(required)),
    ] {
        let empty = value.as_array().is_some_and(Vec::is_empty)
            || value.as_object().is_some_and(Map::is_empty);
        if !empty {
            request.insert(key.to_owned(), value);
        }
    }
    Ok(())
}

/// The API's request, without the module's hash.
fn request(arguments: &Arguments, defaults: Defaults) -> CliResult<Map<String, Value>> {
    let mut env = defaults.env;
    env.extend(arguments.env.iter().cloned());
    let on_error = arguments.on_error.or(defaults.on_error);
    let dead_letter = arguments.dead_letter.clone().or(defaults.dead_letter);
    if on_error == Some(OnError::DeadLetter) && dead_letter.is_none() {
        return Err(CliError::said(
            "--on-error dead-letter needs a topic: --dead-letter TOPIC",
        ));
    }
    let mut limits = Map::new();
    if let Some(time_ms) = arguments.time_ms.or(defaults.limits.time_ms) {
        limits.insert("time_ms".to_owned(), json!(time_ms));
    }
    if let Some(memory_mb) = arguments.memory_mb.or(defaults.limits.memory_mb) {
        let bytes = memory_mb
            .checked_mul(1 << 20)
            .ok_or_else(|| CliError::said("the memory limit is too large"))?;
        limits.insert("memory_bytes".to_owned(), json!(bytes));
    }
    let mut request = Map::new();
    request.insert("input".to_owned(), json!(defaults.input));
    request.insert("outputs".to_owned(), json!(defaults.outputs));
    request.insert("env".to_owned(), json!(env));
    request.insert("limits".to_owned(), Value::Object(limits));
    add_secrets(&mut request, arguments, &defaults.secrets)?;
    let optional = [
        ("from", arguments.from.as_ref().map(|from| json!(from))),
        ("on_error", on_error.map(|policy| json!(policy.word()))),
        ("dead_letter", dead_letter.map(|topic| json!(topic))),
        (
            "attempts",
            arguments
                .attempts
                .or(defaults.attempts)
                .map(|attempts| json!(attempts)),
        ),
        (
            "compression",
            (arguments.compression.or(defaults.output.compression)).map(|codec| json!(codec)),
        ),
        (
            "weight",
            (arguments.weight.or(defaults.output.weight)).map(|weight| json!(weight)),
        ),
        (
            "partition_by",
            (arguments.partition_by.or(defaults.output.partition_by)).map(|by| json!(by)),
        ),
    ];
    for (key, value) in optional {
        if let Some(value) = value {
            request.insert(key.to_owned(), value);
        }
    }
    Ok(request)
}
