//! The `transform` command line, run against a broker under test.

use crate::broker::Broker;
use crate::program;
use serde_json::Value;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// What a run of the command line printed, and whether it succeeded.
#[derive(Debug, Clone)]
pub struct Ran {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Whether the status was 0.
    pub ok: bool,
}

impl Ran {
    /// Both outputs, for messages and for looking up what a user would have seen.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// The command line, bound to a broker and a folder.
#[derive(Debug, Clone)]
pub struct Cli {
    admin: String,
    folder: std::path::PathBuf,
}

impl Cli {
    /// Runs in the broker's test folder.
    #[must_use]
    pub fn new(broker: &Broker) -> Cli {
        Cli {
            admin: broker.admin(),
            folder: broker.folder().to_path_buf(),
        }
    }

    /// Without a broker: `init`, `build` and `test` need none.
    #[must_use]
    pub fn offline(folder: &Path) -> Cli {
        Cli {
            admin: "127.0.0.1:1".to_owned(),
            folder: folder.to_path_buf(),
        }
    }

    /// The same, in another folder.
    #[must_use]
    pub fn within(&self, folder: &Path) -> Cli {
        Cli {
            admin: self.admin.clone(),
            folder: folder.to_path_buf(),
        }
    }

    /// Runs to the end.
    #[must_use]
    pub fn run(&self, args: &[&str]) -> Ran {
        self.run_with_input(args, "")
    }

    /// Runs to the end with standard input.
    ///
    /// # Panics
    /// When the program cannot be started.
    #[must_use]
    pub fn run_with_input(&self, args: &[&str], input: &str) -> Ran {
        let mut child = Command::new(program("transform"))
            .args(args)
            .current_dir(&self.folder)
            .env("TIDEMILL_ADMIN", &self.admin)
            .env_remove("CARGO_TARGET_DIR")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command line can be started");
        let mut stdin = child.stdin.take().expect("standard input is piped");
        let input = input.to_owned();
        // A program that ends without reading closes the pipe, which is its right.
        let feeder = std::thread::spawn(move || {
            let _ = stdin.write_all(input.as_bytes());
        });
        let output = child.wait_with_output().expect("a child can be waited for");
        feeder.join().expect("the feeder does not panic");
        Ran {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            ok: output.status.success(),
        }
    }

    /// Runs and must succeed; returns standard output.
    ///
    /// # Panics
    /// When it fails; what it said is in the message.
    #[allow(
        clippy::must_use_candidate,
        reason = "many commands are run for their effect"
    )]
    pub fn ok(&self, args: &[&str]) -> String {
        let ran = self.run(args);
        assert!(
            ran.ok,
            "`transform {}` failed:\n{}",
            args.join(" "),
            ran.text()
        );
        ran.stdout
    }

    /// Runs and must fail; returns what it said.
    ///
    /// # Panics
    /// When it succeeds.
    #[must_use]
    pub fn refused(&self, args: &[&str]) -> String {
        let ran = self.run(args);
        assert!(
            !ran.ok,
            "`transform {}` should have failed:\n{}",
            args.join(" "),
            ran.text()
        );
        ran.text()
    }

    /// Runs with JSON output; one value, or the values of its lines in an array.
    ///
    /// # Panics
    /// When it fails or prints something else than JSON.
    #[must_use]
    pub fn json(&self, args: &[&str]) -> Value {
        let mut all = args.to_vec();
        all.extend(["--output-format", "json"]);
        let text = self.ok(&all);
        serde_json::from_str(&text).unwrap_or_else(|_| {
            let lines: Result<Vec<Value>, _> = text
                .lines()
                .filter(|line| !line.trim().is_empty())
                .map(serde_json::from_str)
                .collect();
            lines.map_or_else(
                |error| {
                    panic!(
                        "`transform {}` printed no JSON ({error}):\n{text}",
                        all.join(" ")
                    )
                },
                Value::Array,
            )
        })
    }

    /// Makes a topic.
    pub fn create_topic(&self, name: &str, partitions: u32) {
        self.ok(&[
            "topic",
            "create",
            name,
            "--partitions",
            &partitions.to_string(),
        ]);
    }

    /// Deploys a module file.
    pub fn deploy(&self, module: &Path, name: &str, input: &str, output: &str) -> String {
        let module = module.to_string_lossy();
        self.ok(&[
            "deploy", "--module", &module, "--name", name, "--input", input, "--output", output,
        ])
    }
}
