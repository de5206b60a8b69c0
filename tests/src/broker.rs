//! A broker as a process: started on free ports, killed, started again, ended.
//!
//! When it is dropped, a test fails if the broker logged an ERROR that the test did not announce.

use crate::disk::SmallDisk;
use crate::folder::TestFolder;
use crate::{ports, program, wait};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// How long a broker may take to answer, with eight others on a loaded machine.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long it may take to end after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// The engines of the runtime that run real brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// io_uring.
    Uring,
    /// epoll.
    Epoll,
    /// Whatever the broker picks.
    Auto,
}

impl Engine {
    /// The value of `--runtime`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Engine::Uring => "uring",
            Engine::Epoll => "epoll",
            Engine::Auto => "auto",
        }
    }
}

/// How to start a broker.
#[derive(Debug, Clone)]
pub struct Options {
    engine: Engine,
    shards: u16,
    cpu: Option<u16>,
    extra: Vec<String>,
    settings: Option<String>,
    disk_bytes: Option<u64>,
    env: Vec<(String, String)>,
}

impl Options {
    /// Two shards, so that messages cross between them wherever they can.
    #[must_use]
    pub fn new(engine: Engine) -> Options {
        Options {
            engine,
            shards: 2,
            cpu: None,
            extra: Vec::new(),
            settings: None,
            disk_bytes: None,
            env: Vec::new(),
        }
    }

    /// A settings file with this content.
    #[must_use]
    pub fn settings(mut self, toml: &str) -> Options {
        self.settings = Some(toml.to_owned());
        self
    }

    /// Number of shards.
    #[must_use]
    pub fn shards(mut self, shards: u16) -> Options {
        self.shards = shards;
        self
    }

    /// Pins the broker to one core with `taskset`.
    #[must_use]
    pub fn cpu(mut self, cpu: u16) -> Options {
        self.cpu = Some(cpu);
        self
    }

    /// Arguments appended to the command line.
    #[must_use]
    pub fn extra(mut self, words: &[&str]) -> Options {
        self.extra
            .extend(words.iter().map(|word| (*word).to_owned()));
        self
    }

    /// Gives its data directory a file system of this size.
    #[must_use]
    pub fn disk_bytes(mut self, bytes: u64) -> Options {
        self.disk_bytes = Some(bytes);
        self
    }

    /// Environment variables added to the process.
    #[must_use]
    pub fn env(mut self, variables: Vec<(String, String)>) -> Options {
        self.env.extend(variables);
        self
    }

    /// Starts a broker in a data directory of its own and waits until it is healthy.
    ///
    /// # Panics
    /// When it ends or does not answer in time; its log is in the message.
    #[must_use]
    pub fn start(self) -> Broker {
        let folder = TestFolder::new("broker");
        let at = folder.path().join("disk");
        let disk = self.disk_bytes.map(|bytes| SmallDisk::mount(&at, bytes));
        let mut broker = Broker {
            options: self,
            disk,
            folder,
            kafka_port: ports::free_port(),
            admin_port: ports::free_port(),
            child: None,
            expected_errors: Vec::new(),
        };
        broker.restart();
        broker
    }
}

/// A broker process and its data directory.
#[derive(Debug)]
pub struct Broker {
    options: Options,
    /// Unmounted before the folder is removed.
    disk: Option<SmallDisk>,
    folder: TestFolder,
    kafka_port: u16,
    admin_port: u16,
    child: Option<Child>,
    expected_errors: Vec<String>,
}

impl Broker {
    /// A broker with the default options of tests.
    #[must_use]
    pub fn start(engine: Engine) -> Broker {
        Options::new(engine).start()
    }

    /// Address for Kafka clients.
    #[must_use]
    pub fn kafka(&self) -> String {
        format!("127.0.0.1:{}", self.kafka_port)
    }

    /// Address of the admin API.
    #[must_use]
    pub fn admin(&self) -> String {
        format!("127.0.0.1:{}", self.admin_port)
    }

    /// Its data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        match &self.disk {
            Some(_) => self.folder.path().join("disk/data"),
            None => self.folder.path().join("data"),
        }
    }

    /// The file system of its own, if it was given one.
    #[must_use]
    pub fn disk(&self) -> Option<&SmallDisk> {
        self.disk.as_ref()
    }

    /// A folder of the test's own, removed with the broker's.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The command that starts it.
    #[must_use]
    pub fn command(&self) -> Command {
        let options = &self.options;
        let mut words = Vec::new();
        if let Some(cpu) = options.cpu {
            words.extend(["taskset".to_owned(), "-c".to_owned(), cpu.to_string()]);
        }
        words.push(program("tidemill").to_string_lossy().into_owned());
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .arg("start")
            .arg("--data-dir")
            .arg(self.data());
        command.args(["--kafka-addr", &self.kafka(), "--admin-addr", &self.admin()]);
        command.args([
            "--runtime",
            options.engine.name(),
            "--shards",
            &options.shards.to_string(),
        ]);
        command.args(&options.extra);
        if options.settings.is_some() {
            command.arg("--config").arg(self.settings_path());
        }
        command.envs(options.env.iter().cloned());
        command
    }

    /// What its settings file holds from the next start on.
    pub fn set_settings(&mut self, toml: &str) {
        self.options.settings = Some(toml.to_owned());
    }

    /// Starts it (again) in the same data directory, on the same ports, and waits until it is healthy.
    ///
    /// # Panics
    /// When it ends or does not answer in time; its log is in the message.
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "the broker runs already");
        if let Some(settings) = &self.options.settings {
            std::fs::write(self.settings_path(), settings).expect("the test's folder is writable");
        }
        let path = self.log_path();
        let log: File = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .unwrap_or_else(|error| panic!("cannot open {}: {error}", path.display()));
        let errors = log.try_clone().expect("a file can be cloned");
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        self.child = Some(command.spawn().expect("the broker can be started"));
        let healthy = wait::until(START_LIMIT, || self.healthy() || !self.running());
        if !healthy || !self.running() {
            panic!("the broker did not come up:\n{}", self.log());
        }
    }

    /// Whether the process is alive.
    pub fn running(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Whether `GET /health` answers 200.
    #[must_use]
    pub fn healthy(&self) -> bool {
        self.get("/health").is_some_and(|(status, _)| status == 200)
    }

    /// Status and body of a `GET` on the admin address; `None` when nobody answers.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.admin_port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.admin()
        );
        stream.write_all(head.as_bytes()).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let answer = String::from_utf8_lossy(&answer);
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        Some((status, body.to_owned()))
    }

    /// `kill -9`.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill9(&mut self) {
        let mut child = self.child.take().expect("the broker runs");
        child.kill().expect("a child can be killed");
        child.wait().expect("a child can be waited for");
    }

    /// SIGTERM; the status with which it ended.
    ///
    /// # Panics
    /// When it does not run, or does not end in time.
    pub fn stop(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the broker runs");
        terminate(&child);
        let ended = wait::until(STOP_LIMIT, || matches!(child.try_wait(), Ok(Some(_))));
        if !ended {
            let _ = child.kill();
            let _ = child.wait();
            panic!(
                "the broker did not end within {STOP_LIMIT:?} of SIGTERM:\n{}",
                self.log()
            );
        }
        child.wait().expect("a child can be waited for")
    }

    /// Waits until the process has ended by itself; its status.
    ///
    /// # Panics
    /// When it does not run, or does not end in time.
    pub fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the broker runs");
        let ended = wait::until(STOP_LIMIT, || matches!(child.try_wait(), Ok(Some(_))));
        if !ended {
            let _ = child.kill();
        }
        let status = child.wait().expect("a child can be waited for");
        assert!(ended, "the broker goes on:\n{}", self.log());
        status
    }

    /// Its process id.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the broker runs").id()
    }

    /// Resident memory, in bytes.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        resident_bytes(self.pid())
    }

    /// The most resident memory it ever had, in bytes.
    #[must_use]
    pub fn peak_resident_bytes(&self) -> u64 {
        status_bytes(self.pid(), "VmHWM:")
    }

    /// All it has logged, over all its lives.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read(self.log_path()).map_or_else(
            |_| String::new(),
            |text| String::from_utf8_lossy(&text).into_owned(),
        )
    }

    /// Announces that log lines with this text may be errors.
    pub fn expect_error(&mut self, text: &str) {
        self.expected_errors.push(text.to_owned());
    }

    /// Open files and sockets of the process.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, Iterator::count)
    }

    /// The sum of a metric over its labels, of those samples whose labels contain `labels`; 0 when there is none.
    #[must_use]
    pub fn metric(&self, name: &str, labels: &str) -> f64 {
        let (_, text) = self.get("/metrics").unwrap_or_default();
        let samples = text.lines().filter_map(|line| {
            let (sample, value) = line.rsplit_once(' ')?;
            let family = sample.split('{').next()?;
            (family == name && sample.contains(labels)).then(|| value.parse::<f64>().ok())?
        });
        samples.sum()
    }

    fn settings_path(&self) -> PathBuf {
        self.folder.path().join("settings.toml")
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("broker.log")
    }

    fn unexpected_errors(&self) -> Vec<String> {
        let is_unexpected = |line: &&str| {
            let is_bad = line.contains("ERROR") || line.contains("panicked at");
            is_bad && !self.expected_errors.iter().any(|text| line.contains(text))
        };
        self.log()
            .lines()
            .filter(is_unexpected)
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let errors = self.unexpected_errors();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "end of the broker's log:\n{}",
                lines[lines.len().saturating_sub(30)..].join("\n")
            );
        } else if !errors.is_empty() {
            panic!("the broker logged errors:\n{}", errors.join("\n"));
        }
    }
}

/// Sends SIGTERM. The standard library only knows SIGKILL; every POSIX shell has `kill` built in.
fn terminate(child: &Child) {
    let status = Command::new("sh")
        .args(["-c", &format!("kill -TERM {}", child.id())])
        .status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "SIGTERM cannot be sent"
    );
}

/// Resident memory of a process, in bytes (`VmRSS` of proc(5)).
///
/// # Panics
/// When the process is gone.
#[must_use]
pub fn resident_bytes(pid: u32) -> u64 {
    status_bytes(pid, "VmRSS:")
}

fn status_bytes(pid: u32, name: &str) -> u64 {
    let status =
        std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is alive");
    let line = status.lines().find(|line| line.starts_with(name));
    let kib: u64 = line
        .expect("a live process has it")
        .split_whitespace()
        .nth(1)
        .and_then(|word| word.parse().ok())
        .expect("it is a number of KiB");
    kib * 1024
}
