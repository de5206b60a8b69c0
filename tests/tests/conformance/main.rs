//! The conformance suite: every case of `transform-sdk/conformance/`, in every language, in the broker's engine.

#![forbid(unsafe_code)]

mod cases;
mod running;

use std::collections::BTreeSet;
use std::sync::OnceLock;

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

/// What a module drew while it was built is in its memory when an instance begins.
#[test]
fn python_instances_draw_different_random_numbers() {
    let python = module("python");
    // Two records in each of three instances.
    let drawn: Vec<Vec<String>> = (0..3).flat_map(|_| python.draws(2)).collect();
    assert_eq!(drawn.len(), 6);
    let ways = drawn[0].len();
    assert_eq!(ways, 4, "{drawn:?}");
    for way in 0..ways {
        let different: BTreeSet<&str> = drawn.iter().map(|record| record[way].as_str()).collect();
        assert_eq!(different.len(), drawn.len(), "{different:?} of {drawn:?}");
    }
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

/// The module of a language, built once.
fn module(language: &str) -> &'static Module {
    static BUILT: [OnceLock<Module>; LANGUAGES.len()] =
        [const { OnceLock::new() }; LANGUAGES.len()];
    let at = LANGUAGES.iter().position(|known| *known == language);
    BUILT[at.expect("it is one of LANGUAGES")]
        .get_or_init(|| Module::build(&cases::folder().join(language)))
}

/// Runs all cases; the message names all that went wrong.
fn passes_every_case(language: &str) {
    let module = module(language);
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
