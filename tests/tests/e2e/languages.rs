//! The three languages that transforms are written in, as their authors use them: a template in an empty folder is built,
//! passes its own tests, and works in the broker.

use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tidemill_tests::cli::Cli;
use tidemill_tests::{Broker, Engine, TestFolder, modules, on_both_engines, program, wait};

on_both_engines!(
    project_in_go_works_in_the_broker,
    project_in_python_works_in_the_broker
);

/// How long output may take to appear: a module of Python is large, and is compiled first.
const LIMIT: Duration = Duration::from_secs(120);

/// A project from the template of a language, built.
fn project(folder: &Path, language: &str) -> Cli {
    let cli = Cli::offline(folder);
    cli.ok(&["init", "mine", "--language", language]);
    let project = cli.within(&folder.join("mine"));
    let said = project.ok(&["build"]);
    assert!(said.contains("built target/transform/mine.wasm"), "{said}");
    project
}

/// Runs the project's own tests with the tools of its language.
fn own_tests(folder: &Path, command: &mut Command) {
    let output = command
        .current_dir(folder.join("mine"))
        .env_remove("CARGO_TARGET_DIR")
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{said}");
}

/// `transform test` shows what the template does: the address is masked, and that is all that changes.
fn try_out(project: &Cli) {
    let tried = project.run_with_input(
        &["test", "--no-build"],
        "{\"id\":7,\"email\":\"ada@example.com\"}\n",
    );
    assert!(tried.ok, "{}", tried.text());
    for part in [
        "ada@example.com",
        "***@example.com",
        "~ email: ",
        "1 record read, 1 written",
        "records/s",
    ] {
        assert!(tried.stdout.contains(part), "{part}: {}", tried.stdout);
    }
    let examples = project.ok(&["test", "--no-build", "--input", "input.jsonl"]);
    assert!(
        examples.contains("20 records read, 20 written, 0 left out, 0 failed"),
        "{examples}"
    );
}

#[test]
fn template_in_rust_builds_and_passes_its_own_tests() {
    let folder = TestFolder::new("rust");
    let project = project(folder.path(), "rust");
    own_tests(
        folder.path(),
        Command::new("cargo").args(["test", "--quiet"]),
    );
    try_out(&project);
}

#[test]
fn template_in_go_builds_and_passes_its_own_tests() {
    let folder = TestFolder::new("go");
    let project = project(folder.path(), "go");
    own_tests(folder.path(), Command::new("go").args(["vet", "./..."]));
    own_tests(folder.path(), Command::new("go").args(["test", "./..."]));
    try_out(&project);
}

#[test]
fn template_in_python_builds_and_passes_its_own_tests() {
    let folder = TestFolder::new("python");
    let project = project(folder.path(), "python");
    own_tests(
        folder.path(),
        Command::new("python3")
            .args(["-m", "unittest"])
            .env("PYTHONPATH", ".tidemill/sdk/python"),
    );
    try_out(&project);
    // Nothing changed, so nothing is built; what changed is.
    let source = folder.path().join("mine/transform.py");
    let text = std::fs::read_to_string(&source).expect("the template has it");
    std::fs::write(&source, format!("{text}\nraise ValueError('not today')\n")).expect("written");
    let said = project.refused(&["build"]);
    assert!(
        said.contains("ValueError: not today") && said.contains("transform.py"),
        "{said}"
    );
    std::fs::write(&source, format!("{text}\ndef half(:\n")).expect("written");
    let said = project.refused(&["build"]);
    assert!(
        said.contains("transform.py") && said.contains("def half(:"),
        "{said}"
    );
    std::fs::write(&source, text).expect("written");
    project.ok(&["build"]);
}

#[test]
fn what_is_missing_or_wrong_is_told_in_a_line() {
    let folder = TestFolder::new("missing");
    let cli = Cli::offline(folder.path());
    let without_tools = |project: &str| -> String {
        let output = Command::new(program("transform"))
            .arg("build")
            .current_dir(folder.path().join(project))
            .env("PATH", "/nowhere")
            .output()
            .expect("the command line runs");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    for (language, named) in [
        ("go", "https://go.dev/doc/install"),
        ("python", "Python 3.10"),
    ] {
        let name = format!("p-{language}");
        cli.ok(&["init", &name, "--language", language]);
        let said = without_tools(&name);
        assert!(said.contains(named) && said.lines().count() == 1, "{said}");
    }
    let said = cli.refused(&["init", "x", "--language", "cobol"]);
    assert!(said.contains("rust, go or python"), "{said}");
    let said = cli.refused(&["init", "x"]);
    assert!(said.contains("--language go"), "{said}");
    let said = cli.refused(&["init", "fmt", "--language", "go"]);
    assert!(said.contains("fmt-records"), "{said}");
    let source = folder.path().join("p-go/transform.go");
    std::fs::write(&source, "package main\n\nfunc main() { x := 1 }\n").expect("written");
    let project = cli.within(&folder.path().join("p-go"));
    let said = project.refused(&["build"]);
    assert!(
        said.contains("transform.go:3:15: declared and not used: x"),
        "{said}"
    );
    let _ = std::fs::remove_file(folder.path().join("p-go/transform_test.go"));
    let sdk = "import tidemill \"tidemill.dev/sdk\"\n\nvar _ = tidemill.Infof\n\n";
    for sdk in ["", sdk] {
        let text = format!("package main\n\n{sdk}func main() {{}}\n");
        std::fs::write(&source, text).expect("written");
        let said = project.refused(&["build"]);
        assert!(said.contains("registers no transform"), "{said}");
    }
}

fn works_in_the_broker(engine: Engine, language: &str) {
    let broker = Broker::start(engine);
    project(broker.folder(), language);
    let cli = Cli::new(&broker);
    cli.create_topic("in", 2);
    let module = modules::built_in(&broker.folder().join("mine"));
    cli.deploy(&module, "mine", "in", "out");
    let lines: String = (0..50)
        .map(|n| format!("k{n}\t{{\"id\":{n},\"email\":\"somebody{n}@example.com\"}}\n"))
        .collect();
    let ran = cli.run_with_input(&["produce", "in", "--key-separator", "\t"], &lines);
    assert!(ran.ok, "{}", ran.text());
    let written = || {
        let described = cli.json(&["topic", "describe", "out"]);
        let partitions = described["partitions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        partitions
            .iter()
            .filter_map(|p| p["high_watermark"].as_i64())
            .sum::<i64>()
    };
    let done = wait::until(LIMIT, || written() >= 50);
    assert!(done, "{}: {}", written(), cli.ok(&["describe", "mine"]));
    let out = cli.ok(&["consume", "out", "--from", "earliest", "--exit-at-end"]);
    assert_eq!(
        out.lines()
            .filter(|line| line.contains("***@example.com"))
            .count(),
        50,
        "{out}"
    );
    assert!(!out.contains("somebody"), "{out}");
}

fn project_in_go_works_in_the_broker(engine: Engine) {
    works_in_the_broker(engine, "go");
}

fn project_in_python_works_in_the_broker(engine: Engine) {
    works_in_the_broker(engine, "python");
}
