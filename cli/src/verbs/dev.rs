//! `transform dev`: builds and deploys a project whenever one of its files is saved, and shows what it logs meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use clap::Args;
use serde::Deserialize;

use super::{deploy, logs};
use crate::Context;
use crate::admin::{Admin, segment, typed};
use crate::error::{CliError, CliResult};
use crate::manifest::Project;

/// How often is looked for changes.
const LOOK_MS: u64 = 300;
/// A save is over when nothing has changed for this long: editors write a file in several steps.
const SETTLED: Duration = Duration::from_millis(150);
/// Most files that are watched.
const FILES_MAX: usize = 10_000;
/// Folders that builds and tools write to.
const LEFT_OUT: [&str; 7] = [
    ".git",
    ".tidemill",
    ".venv",
    "__pycache__",
    "node_modules",
    "target",
    "venv",
];

/// Set by Ctrl-C.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct Arguments {
    #[command(flatten)]
    deploy: deploy::Arguments,
}

#[derive(Debug, Deserialize)]
struct Page {
    lines: Vec<logs::Line>,
    next: i64,
}

/// When a file was written last, and its size.
type State = BTreeMap<PathBuf, (SystemTime, u64)>;

/// What is being done.
struct Watch<'a> {
    arguments: &'a Arguments,
    folder: PathBuf,
    /// The transform's name.
    name: String,
    admin: Admin,
    /// Where the log goes on.
    position: Option<i64>,
}

/// Builds, deploys and follows the log until interrupted. What does not compile or deploy is told, and waits for the next save.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> CliResult {
    let project = Project::find(arguments.deploy.folder()?)?;
    on_interrupt();
    let mut watch = Watch {
        arguments,
        name: arguments.deploy.name_of(&project),
        folder: project.folder,
        admin: context.admin()?,
        position: None,
    };
    let shown = watch.folder.display().to_string();
    context.output.say(&format!(
        "watching {shown}: every save is built and deployed; Ctrl-C ends"
    ))?;
    let mut state = look(&watch.folder)?;
    watch.renew(context)?;
    while !interrupted() {
        watch.follow(context)?;
        let now = look(&watch.folder)?;
        if now == state {
            continue;
        }
        let changed = difference(&state, &now);
        state = settled(&watch.folder, now)?;
        context
            .output
            .say(&format!("\n{} changed", relative(&changed, &watch.folder)))?;
        watch.renew(context)?;
    }
    let name = &watch.name;
    context.output.say(&format!(
        "\nno longer watching; {name} goes on as it was deployed last (`transform delete {name}` removes it)"
    ))
}

impl Watch<'_> {
    /// Builds and deploys; an error is shown.
    fn renew(&mut self, context: &mut Context) -> CliResult {
        let done = deploy::run(&self.arguments.deploy, context);
        context.output.flush()?;
        match done {
            Err(CliError::OutputClosed) => Err(CliError::OutputClosed),
            // The compiler was interrupted too.
            Err(_) if interrupted() => Ok(()),
            Err(error) => {
                tell!("error: {error}\nwaiting for the next save");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Shows what was logged since the last time; waits a little for more.
    fn follow(&mut self, context: &mut Context) -> CliResult {
        let name = segment(&self.name);
        let path = match self.position {
            Some(position) => {
                format!("/v1/transforms/{name}/logs?position={position}&wait_ms={LOOK_MS}")
            }
            // What was logged before is not shown.
            None => format!("/v1/transforms/{name}/logs?tail=0"),
        };
        let page: Page = match self.admin.get(&path).and_then(|answer| typed(&answer)) {
            Ok(page) => page,
            // Not deployed yet, or the broker is away: a save says more.
            Err(_) => {
                std::thread::sleep(Duration::from_millis(LOOK_MS));
                return Ok(());
            }
        };
        for line in &page.lines {
            context.output.foreign_line(&line.shown())?;
        }
        self.position = Some(page.next);
        context.output.flush()
    }
}

/// The files of a project.
fn look(folder: &Path) -> CliResult<State> {
    let mut state = State::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        // A folder or file that goes away while it is looked at has changed, which the next look tells.
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.is_dir() && !LEFT_OUT.iter().any(|left_out| name == *left_out) {
                folders.push(entry.path());
            } else if metadata.is_file() {
                let written = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                state.insert(entry.path(), (written, metadata.len()));
            }
        }
        if state.len() > FILES_MAX {
            return Err(CliError::said(format!(
                "there are more than {FILES_MAX} files in the project, too many to watch; move what is no source to `target`"
            )));
        }
    }
    Ok(state)
}

/// The state once it no longer changes.
fn settled(folder: &Path, mut state: State) -> CliResult<State> {
    loop {
        std::thread::sleep(SETTLED);
        let now = look(folder)?;
        if now == state || interrupted() {
            return Ok(now);
        }
        state = now;
    }
}

/// A file that was written, made or removed.
fn difference(before: &State, now: &State) -> PathBuf {
    let written = now
        .iter()
        .find(|(path, state)| before.get(*path) != Some(state));
    let removed = || before.keys().find(|path| !now.contains_key(*path));
    let path = written.map(|(path, _)| path).or_else(removed);
    path.cloned().unwrap_or_default()
}

fn relative(path: &Path, folder: &Path) -> String {
    path.strip_prefix(folder)
        .unwrap_or(path)
        .display()
        .to_string()
}

fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// From now on Ctrl-C is noted; a second one ends the process at once.
fn on_interrupt() {
    extern "C" fn note(_: libc::c_int) {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            #[allow(unsafe_code, reason = "the only end that a signal handler may make")]
            // SAFETY: `_exit` may be called in a signal handler (POSIX, async-signal-safe functions).
            unsafe {
                libc::_exit(130);
            }
        }
    }
    #[allow(unsafe_code, reason = "std does not tell of signals")]
    // SAFETY: the handler touches one atomic and calls what is async-signal-safe.
    unsafe {
        libc::signal(libc::SIGINT, note as *const () as libc::sighandler_t);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_that_was_written_made_or_removed_is_named() {
        let at = |seconds| (SystemTime::UNIX_EPOCH + Duration::from_secs(seconds), 1);
        let before = State::from([("a".into(), at(1)), ("b".into(), at(1))]);
        for (now, changed) in [
            (State::from([("a".into(), at(1)), ("b".into(), at(2))]), "b"),
            (State::from([("a".into(), at(1))]), "b"),
            (
                State::from([
                    ("a".into(), at(1)),
                    ("b".into(), at(1)),
                    ("c".into(), at(1)),
                ]),
                "c",
            ),
        ] {
            assert_eq!(difference(&before, &now), PathBuf::from(changed));
        }
    }

    #[test]
    fn what_builds_write_is_not_watched() {
        let folder = std::env::temp_dir().join(format!("watched-{}", std::process::id()));
        for file in [
            "src/lib.rs",
            "target/x",
            ".tidemill/sdk/x",
            "transform.toml",
        ] {
            let path = folder.join(file);
            fs::create_dir_all(path.parent().expect("a folder")).expect("it can be made");
            fs::write(path, "x").expect("it can be written");
        }
        let seen = look(&folder).expect("it is there");
        fs::remove_dir_all(&folder).expect("it was ours");
        let seen: Vec<String> = seen.keys().map(|path| relative(path, &folder)).collect();
        assert_eq!(seen, ["src/lib.rs", "transform.toml"]);
    }
}
