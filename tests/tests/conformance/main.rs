//! The conformance suite: every case of `transform-sdk/conformance/`, in every language, in the broker's engine.

#![forbid(unsafe_code)]

mod cases;
mod running;

use cases::Case;
use running::Module;

/// The languages whose SDK has a module in `transform-sdk/conformance/`.
const LANGUAGES: [&str; 3] = ["go", "python", "rust"];

#[test]
fn go_passes_every_case() {
    passes_every_case("go");
}

#[test]
fn python_passes_every_case() {
    passes_every_case("python");
}

#[test]
fn rust_passes_every_case() {
    passes_every_case("rust");
}

/// The cases natively among them.
#[test]
fn python_sdk_passes_its_own_tests() {
    let ran = std::process::Command::new("python3")
        .args(["-B", "-m", "unittest", "discover", "tests"])
        .current_dir(cases::folder().with_file_name("python"))
        .output()
        .expect("there is a python3");
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{said}");
}

#[test]
fn every_language_with_a_module_is_run() {
    let suite = cases::folder();
    let mut found: Vec<String> = std::fs::read_dir(&suite)
        .expect("the suite is there")
        .flatten()
        .filter(|entry| entry.path().join("transform.toml").is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    found.sort();
    let mut run = LANGUAGES.map(str::to_owned).to_vec();
    run.sort();
    assert_eq!(found, run, "name the language in LANGUAGES, with a test");
}

/// Builds the module and runs all cases; the message names all that went wrong.
fn passes_every_case(language: &str) {
    assert!(LANGUAGES.contains(&language));
    let module = Module::build(&cases::folder().join(language));
    let cases = Case::all();
    assert!(cases.len() >= 40, "{} cases", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let expected = case.expected();
        let calls = ["one call", "one record a call"];
        for (calls, came) in calls.iter().zip(module.run(case)) {
            if let Some(difference) = expected.differs(&came, case.compares_logs()) {
                wrong.push(format!("{} ({calls}): {difference}", case.name));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{language}, {} of {} runs:\n{}",
        wrong.len(),
        2 * cases.len(),
        wrong.join("\n")
    );
}
