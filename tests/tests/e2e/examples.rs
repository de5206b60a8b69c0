//! Each example, as its README says it is run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, fs};

use tidemill_tests::cli::Cli;
use tidemill_tests::{Broker, Engine, on_both_engines, program, wait};

on_both_engines!(every_example_runs_as_its_readme_says);

const LIMIT: Duration = Duration::from_secs(60);
/// Folders that builds make.
const MADE: [&str; 4] = ["target", ".tidemill", "__pycache__", ".git"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Copies what a user would have checked out.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the test folder can be written");
    for entry in fs::read_dir(from).expect("it is there").flatten() {
        let name = entry.file_name();
        let made = MADE.iter().any(|made| name.to_str() == Some(made));
        let (from, to) = (entry.path(), to.join(&name));
        if from.is_dir() && !made {
            copy(&from, &to);
        } else if from.is_file() {
            fs::copy(&from, &to).expect("a file can be copied");
        }
    }
}

/// The commands of a README, with their comments.
fn commands(readme: &str) -> Vec<String> {
    let blocks = readme.split("```sh\n").skip(1);
    let lines = blocks.flat_map(|block| block.split("```").next().unwrap_or_default().lines());
    let lines = lines.filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

/// Runs a line in a shell that finds our programs; what it printed.
fn run(line: &str, folder: &Path, broker: &Broker) -> String {
    let programs = program("transform");
    let programs = programs.parent().expect("a program is in a folder");
    let path = env::var("PATH").unwrap_or_default();
    let ran = Command::new("sh")
        .args(["-ec", line])
        .current_dir(folder)
        .env("PATH", format!("{}:{path}", programs.display()))
        .env("TIDEMILL_ADMIN", broker.admin())
        .env_remove("CARGO_TARGET_DIR")
        .output()
        .expect("there is a shell");
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    let complained = String::from_utf8_lossy(&ran.stderr);
    assert!(
        ran.status.success(),
        "{}: `{line}` failed:\n{said}{complained}",
        folder.display()
    );
    said
}

/// Whoever tries them one after the other on one broker finds no example's records in another's topics.
#[test]
fn no_topic_belongs_to_two_examples() {
    let examples = fs::read_dir(root().join("examples")).expect("there are examples");
    let mut owners = BTreeMap::new();
    for example in examples.flatten() {
        let manifest = fs::read_to_string(example.path().join("transform.toml"));
        let manifest = manifest.expect("an example is a project");
        let topics = ["input", "output", "outputs", "dead_letter"];
        let lines = manifest.lines().filter_map(|line| line.split_once(" = "));
        let names = lines
            .filter(|(key, _)| topics.contains(key))
            .flat_map(|(_, value)| value.split('"').skip(1).step_by(2));
        for topic in names {
            let other = owners.insert(topic.to_owned(), example.file_name());
            assert_eq!(other, None, "{topic} is also of {:?}", example.file_name());
        }
    }
    assert!(owners.len() > 12, "{owners:?}");
}

fn every_example_runs_as_its_readme_says(engine: Engine) {
    let names = fs::read_dir(root().join("examples")).expect("there are examples");
    let mut names: Vec<_> = names.flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    for name in names {
        let name = name.to_string_lossy().into_owned();
        // A broker and a checkout of its own for each, so that none needs what another made.
        let broker = Broker::start(engine);
        let checkout = broker.folder().join("checkout");
        copy(
            &root().join("transform-sdk"),
            &checkout.join("transform-sdk"),
        );
        let folder = checkout.join("examples").join(&name);
        copy(&root().join("examples").join(&name), &folder);
        let readme = fs::read_to_string(folder.join("README.md"));
        let readme = readme.unwrap_or_else(|e| panic!("the README of {name}: {e}"));
        let commands = commands(&readme);
        assert!(
            commands
                .iter()
                .any(|line| line.starts_with("transform deploy")),
            "the README of {name} deploys it"
        );
        commands.iter().for_each(|line| {
            run(line, &folder, &broker);
        });
        let cli = Cli::new(&broker);
        let worked = || {
            let list = cli.json(&["list"]);
            let mut transforms = list["transforms"].as_array().into_iter().flatten();
            transforms.any(|t| t["records_out"].as_i64() > Some(0) && t["lag"].as_i64() == Some(0))
        };
        assert!(
            wait::until(LIMIT, worked),
            "{name} writes: {}",
            cli.ok(&["list"])
        );
    }
}
