//! `tidemill inspect`: what lies in a data directory or a file of one, while no broker runs on it. Writes nothing, checks every
//! checksum, and goes on behind what is damaged where that can be told from the rest.

mod checkpoints;
mod logs;
mod report;
mod segments;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use tidemill_model::{RingId, ShardId};
use tidemill_rt::fs;
use tidemill_rt::runtime::{self, EngineChoice};
use tidemill_shardlog::{DataDir, LookedAt};

use report::Report;

/// Something is damaged.
const DAMAGED: u8 = 1;
/// It could not be looked at.
const NOT_LOOKED_AT: u8 = 2;

/// What `inspect` takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct InspectArgs {
    /// A data directory, or a file of one: identity, *.log, *.checkpoint, *.segment or *.index
    #[arg(value_name = "DIR|FILE")]
    path: PathBuf,
    /// Also print every frame, batch and index entry; of a single file they are printed in any case
    #[arg(long)]
    details: bool,
    /// Also print every record of every segment, keys and values as text
    #[arg(long)]
    records: bool,
    /// Print a JSON object a line
    #[arg(long)]
    json: bool,
}

/// Runs the verb and says how it ended.
pub(crate) fn run(args: InspectArgs) -> ExitCode {
    let looked = runtime::block_on(EngineChoice::Epoll, move || {
        let args = args.clone();
        async move {
            let mut report = Report::new(args.json);
            look(&args, &mut report).await?;
            Ok::<_, String>(report.finish())
        }
    });
    let message = match looked {
        Ok(Ok(0)) => return ExitCode::SUCCESS,
        Ok(Ok(_)) => return ExitCode::from(DAMAGED),
        Ok(Err(message)) => message,
        Err(error) => error.to_string(),
    };
    eprintln!("error: {message}");
    ExitCode::from(NOT_LOOKED_AT)
}

async fn look(args: &InspectArgs, report: &mut Report) -> Result<(), String> {
    if fs::exists(&args.path.join("identity"))
        .await
        .unwrap_or(false)
    {
        let looked = DataDir::look(&args.path).await.map_err(|e| e.to_string())?;
        directory(args, &looked, report).await;
        return Ok(());
    }
    let _locked = enclosing(&args.path).await?;
    file(args, report).await
}

/// Keeps brokers away from the data directory that a file lies in, if it lies in one.
async fn enclosing(path: &Path) -> Result<Option<LookedAt>, String> {
    for folder in path.ancestors().skip(1).take(5) {
        let folder = if folder.as_os_str().is_empty() {
            Path::new(".")
        } else {
            folder
        };
        if fs::exists(&folder.join("identity")).await.unwrap_or(false) {
            return DataDir::look(folder)
                .await
                .map(Some)
                .map_err(|e| e.to_string());
        }
    }
    Ok(None)
}

/// A single file, by the end of its name.
async fn file(args: &InspectArgs, report: &mut Report) -> Result<(), String> {
    let path = &args.path;
    if !fs::exists(path)
        .await
        .map_err(|e| format!("{}: {e}", path.display()))?
    {
        return Err(format!("{} does not exist", path.display()));
    }
    if path.join("..").join("identity").is_file() && path.is_dir() {
        return Err(format!(
            "{} is a part of a data directory; name the folder above it",
            path.display()
        ));
    }
    match path.extension().and_then(|e| e.to_str()) {
        Some("log") => logs::file(path, true, report).await,
        Some("checkpoint") => {
            checkpoints::file(path, report).await;
        }
        Some("segment") => segments::file(path, args.records, report).await,
        Some("index") => segments::index(path, true, report).await,
        _ => {
            return Err(format!(
                "{} is neither a data directory (it has no file named identity) nor a file of one that can be read: \
                 *.log, *.checkpoint, *.segment, *.index",
                path.display()
            ));
        }
    }
    Ok(())
}

/// A whole data directory.
async fn directory(args: &InspectArgs, looked: &LookedAt, report: &mut Report) {
    let identity = &looked.identity;
    report.say(
        0,
        "node",
        [
            ("path", json!(args.path.display().to_string())),
            ("node_id", json!(identity.node.to_string())),
            ("cluster_id", json!(identity.cluster.to_string())),
            ("shards", json!(identity.shards)),
            ("format_version", json!(tidemill_shardlog::FORMAT_VERSION)),
        ],
    );
    let mut names = None;
    for shard in (0..identity.shards).map(ShardId) {
        let folder = args.path.join(format!("shard-{}", shard.0));
        report.say(0, "shard", [("shard", json!(shard.0))]);
        if !fs::exists(&folder).await.unwrap_or(false) {
            report.problem(1, &folder, None, "the folder is missing".to_owned());
            continue;
        }
        let removed = logs::folder(&folder.join("log"), args.details, report).await;
        for path in in_folder(&folder.join("rings"), "checkpoint", report).await {
            let read = checkpoints::file(&path, report).await;
            if let checkpoints::Checkpoint::Controller(topics) = read {
                names = Some(topics);
            } else if let checkpoints::Checkpoint::Ring(summary) = read {
                let look = segments::Look {
                    partitions: folder.join("partitions"),
                    names: names.as_ref(),
                    removals: ring_of(&path).and_then(|ring| removed.get(&ring)),
                    args,
                };
                segments::of_ring(&summary, &look, report).await;
            }
        }
    }
}

/// The files in `folder` whose names end with `.extension`, in order.
async fn in_folder(folder: &Path, extension: &str, report: &mut Report) -> Vec<PathBuf> {
    let mut names = match fs::list_dir(folder).await {
        Ok(names) => names,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(e) => {
            report.problem(1, folder, None, e.to_string());
            return Vec::new();
        }
    };
    names.sort_by_key(|name| (name.len(), name.clone()));
    let ends = format!(".{extension}");
    let wanted = names.into_iter().filter(|name| name.ends_with(&ends));
    wanted.map(|name| folder.join(name)).collect()
}

/// The ring whose checkpoint `path` is.
fn ring_of(path: &Path) -> Option<RingId> {
    let stem = path.file_stem().and_then(|s| s.to_str());
    stem.and_then(|s| s.parse().ok()).map(RingId)
}

/// Whether `path` is the checkpoint of the controller's ring.
fn is_controller(path: &Path) -> bool {
    let stem = path.file_stem().and_then(|s| s.to_str());
    stem == Some(RingId::CONTROLLER.to_string().as_str())
}
