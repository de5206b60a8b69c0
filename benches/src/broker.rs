//! A broker under measurement: any Kafka broker, started by a command line, seen from outside.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tidemill_tests::raw::{self, Connection};
use tidemill_tests::wait;

/// When to give up on a broker.
const LIMIT: Duration = Duration::from_secs(180);
/// How long it may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(2);
/// Clock ticks in a second, as /proc counts CPU time on Linux.
const TICKS: f64 = 100.0;

/// A running broker; ended when dropped.
#[derive(Debug)]
pub struct Broker {
    child: Child,
    address: String,
    command: Vec<String>,
}

impl Broker {
    /// Starts `command` and waits until it answers at `address`; how long that took.
    ///
    /// # Errors
    /// When it cannot be started, ends, or does not answer in time.
    pub fn start(address: &str, command: &[String]) -> Result<(Broker, Duration), String> {
        let began = Instant::now();
        let mut broker = Broker {
            child: spawn(command)?,
            address: address.to_owned(),
            command: command.to_vec(),
        };
        broker.answers()?;
        Ok((broker, began.elapsed()))
    }

    /// Waits until Metadata is answered.
    fn answers(&mut self) -> Result<(), String> {
        let began = Instant::now();
        while began.elapsed() < LIMIT {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("the broker ended: {status}"));
            }
            let request = raw::metadata_of_none();
            let answered = Connection::open(&self.address)
                .and_then(|mut connection| connection.call(&request));
            if answered.is_ok() {
                return Ok(());
            }
            std::thread::sleep(PAUSE);
        }
        Err(format!("{} does not answer", self.address))
    }

    /// A connection to it.
    ///
    /// # Errors
    /// When it does not listen.
    pub fn connect(&self) -> Result<Connection, String> {
        Connection::open(&self.address).map_err(|error| format!("cannot connect: {error}"))
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// CPU time it has taken, in seconds, user and system.
    ///
    /// # Panics
    /// When the process is gone.
    #[must_use]
    pub fn cpu_seconds(&self) -> f64 {
        cpu_seconds(self.child.id())
    }

    /// Resident memory, in bytes.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        tidemill_tests::broker::resident_bytes(self.child.id())
    }

    /// SIGTERM, then the same command again; how long from there until it answers.
    ///
    /// # Errors
    /// As [`Broker::start`].
    pub fn restart(&mut self) -> Result<Duration, String> {
        self.end();
        let began = Instant::now();
        self.child = spawn(&self.command)?;
        self.answers()?;
        Ok(began.elapsed())
    }

    /// SIGTERM, and SIGKILL where that does not help.
    fn end(&mut self) {
        let _ = Command::new("sh")
            .args(["-c", &format!("kill -TERM {}", self.child.id())])
            .status();
        let ended = wait::until(STOP_LIMIT, || matches!(self.child.try_wait(), Ok(Some(_))));
        if !ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.end();
    }
}

fn spawn(command: &[String]) -> Result<Child, String> {
    let (program, words) = command.split_first().ok_or("no command was given")?;
    Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("cannot start {program}: {error}"))
}

/// CPU time of a process with all its threads, in seconds (fields 14 and 15 of /proc/PID/stat).
///
/// # Panics
/// When the process is gone.
#[must_use]
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is alive");
    // The name, in brackets, may hold blanks.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = rest
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|word| word.parse::<f64>().unwrap_or(0.0));
    ticks.sum::<f64>() / TICKS
}

/// Splits `ARGUMENTS -- COMMAND`.
///
/// # Errors
/// When there is no command.
pub fn arguments() -> Result<(Vec<String>, Vec<String>), String> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let at = args
        .iter()
        .position(|word| word == "--")
        .filter(|at| *at + 1 < args.len())
        .ok_or("a command is missing after --")?;
    Ok((args[..at].to_vec(), args[at + 1..].to_vec()))
}
