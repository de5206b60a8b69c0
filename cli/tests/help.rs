//! The texts of `--help`, whole, against `help.txt`: what a user reads changes only on purpose.

mod common;

use common::{Folder, said, transform};

const VERBS: [&[&str]; 20] = [
    &[],
    &["init"],
    &["build"],
    &["test"],
    &["dev"],
    &["deploy"],
    &["list"],
    &["describe"],
    &["logs"],
    &["pause"],
    &["resume"],
    &["delete"],
    &["topic"],
    &["topic", "create"],
    &["topic", "list"],
    &["topic", "describe"],
    &["topic", "delete"],
    &["produce"],
    &["consume"],
    &["completions"],
];

/// Set to write the file anew: `TIDEMILL_UPDATE=1 cargo test -p transform-cli --test help`.
const UPDATE: &str = "TIDEMILL_UPDATE";

fn help(verb: &[&str]) -> String {
    let folder = Folder::new();
    let mut arguments = verb.to_vec();
    arguments.push("--help");
    let output = transform(&folder.0, &arguments);
    assert!(output.status.success(), "{verb:?}: {}", said(&output));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn help_texts_are_as_written_down() {
    let mut texts = String::new();
    for verb in VERBS {
        texts.push_str(&format!(
            "$ transform {}\n{}\n",
            [verb, &["--help"]].concat().join(" "),
            help(verb)
        ));
    }
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/help.txt");
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(file, &texts).expect("it can be written");
    }
    let expected = std::fs::read_to_string(file).expect("it is there");
    assert_eq!(
        texts, expected,
        "if this is meant, write it down with {UPDATE}=1"
    );
}

#[test]
fn every_verb_and_option_says_what_it_does() {
    for verb in VERBS {
        let text = help(verb);
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let indent = |line: &str| line.len() - line.trim_start().len();
            let entry = line.trim_start();
            let is_option =
                entry.starts_with("--") || entry.starts_with('-') && entry.contains(", --");
            let is_entry = line.starts_with("  ") && (is_option || entry.starts_with('<'));
            let said_beside = line.trim_start().split_once("  ").is_some();
            let said_below = lines
                .get(number + 1)
                .is_some_and(|next| indent(next) > indent(line));
            assert!(
                !is_entry || said_beside || said_below,
                "{verb:?} does not explain: {line}"
            );
        }
    }
}
