//! B3 and B4 (large batches: processor time and rate) and B5 and B7 (small requests), Tidemill and its peer in turn, and
//! the floor under both: what receiving, checking and writing the same bytes takes at least.

use super::measured;
use super::peer::Peer;
use super::report::{Row, median};
use super::sides::Side;
use crate::process::{self, program, root, target_dir};
use serde_json::Value;
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::Duration;

/// The rows measured here.
pub(super) const ROWS: [&str; 4] = ["B3", "B4", "B5", "B7"];
/// Seconds measured in a round, after some that are thrown away.
const SECONDS: &str = "seconds=5";
const WARM_UP: &str = "warm-up=2";
/// Load of each kind before the first round: a JVM takes so long to be fast, and our log goes through files that it has used
/// before only after some seconds (more would fill the disk).
const BEFORE_OURS: &str = "warm-up=15";
const BEFORE_THEIRS: &str = "warm-up=60";
const FLOOR_ADDRESS: &str = "127.0.0.1:19394";
const START_LIMIT: Duration = Duration::from_secs(60);
/// Until a broker has removed the files of a topic that was deleted: the peer waits a second before it does.
const REMOVED: Duration = Duration::from_secs(2);

/// A kind of load.
struct Shape {
    what: &'static str,
    settings: &'static [&'static str],
    /// Whether the peer syncs before it acknowledges, as we do.
    peer_syncs: bool,
    /// Requests per second of the peer in the state the targets were set against, and how many times as many are wanted: their
    /// product is the mark (docs/adr/0019).
    peer_known: f64,
    times: f64,
}

const LARGE: Shape = Shape {
    what: "120 records of 1 KB a batch, 2 connections with 5 requests in flight",
    settings: &["connections=2", "in-flight=5", "records=120"],
    peer_syncs: false,
    peer_known: 0.0,
    times: 4.0,
};
/// The peer's MB/s and CPU seconds per GB under [`LARGE`] in the state the targets were set against.
const LARGE_KNOWN: (f64, f64) = (210.0, 4.7);
/// CPU seconds per GB: a fraction of the peer's, and times the floor's.
const CPU_FRACTION: f64 = 0.2;
const CPU_TIMES_FLOOR: f64 = 3.0;

const SMALL: [Shape; 4] = [
    Shape {
        what: "64 connections, 64 partitions",
        settings: &[
            "connections=64",
            "in-flight=1",
            "records=1",
            "partitions=64",
        ],
        peer_syncs: false,
        peer_known: 5_000.0,
        times: 8.0,
    },
    Shape {
        what: "1 connection, 1 partition",
        settings: &["connections=1", "in-flight=1", "records=1"],
        peer_syncs: true,
        peer_known: 1_000.0,
        times: 1.2,
    },
    Shape {
        what: "64 connections, 1 partition",
        settings: &["connections=64", "in-flight=1", "records=1"],
        peer_syncs: true,
        peer_known: 1_500.0,
        times: 20.0,
    },
    Shape {
        what: "64 connections with 4 in flight, 256 partitions",
        settings: &[
            "connections=64",
            "in-flight=4",
            "records=1",
            "partitions=256",
        ],
        peer_syncs: true,
        peer_known: 2_300.0,
        times: 20.0,
    },
];

/// Figures of one broker under one shape over all rounds.
#[derive(Debug, Default)]
struct Figures {
    rounds: Vec<Value>,
    command: String,
}

impl Figures {
    fn all(&self, name: &str) -> Vec<f64> {
        let mut values: Vec<f64> = self
            .rounds
            .iter()
            .filter_map(|r| r[name].as_f64())
            .collect();
        values.sort_by(f64::total_cmp);
        values
    }

    fn median(&self, name: &str) -> Option<f64> {
        median(&mut self.all(name))
    }

    fn cell(&self, name: &str, unit: &str) -> String {
        let values = self.all(name);
        match (self.median(name), values.first(), values.last()) {
            (Some(middle), Some(low), Some(high)) => {
                format!("{middle:.2} ({low:.2} to {high:.2} {unit})")
            }
            _ => "not measured".to_owned(),
        }
    }

    fn line(&self, what: &str) -> String {
        let cells = [
            self.cell("requests_per_s", "/s"),
            self.cell("mb_per_s", "MB/s"),
            self.cell("cpu_s_per_gb", "s/GB"),
            self.cell("broker_cpu", "cores"),
            self.cell("client_cpu", "cores"),
            self.cell("p50_ms", "ms"),
            self.cell("p99_ms", "ms"),
        ];
        format!("| {what} | {} |", cells.join(" | "))
    }
}

const TABLE_HEAD: &str = "| | requests/s | MB/s | CPU s/GB | broker, cores | client, cores | p50, ms | p99, ms |\n|---|---|---|---|---|---|---|---|";

/// A server that is loaded; ended when dropped.
struct Server {
    child: Child,
    address: String,
    line: String,
}

impl Server {
    fn start(command: &[String], address: &str) -> Result<Server, String> {
        let (name, words) = command.split_first().ok_or("an empty command")?;
        let mut command = program(name, &words.iter().map(String::as_str).collect::<Vec<_>>());
        let line = process::shown(&command).replace(&*root().to_string_lossy(), ".");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command
            .spawn()
            .map_err(|error| format!("cannot run `{line}`: {error}"))?;
        let server = Server {
            child,
            address: address.to_owned(),
            line,
        };
        let listens = || TcpStream::connect(address).is_ok();
        match process::wait_until(START_LIMIT, listens, || false) {
            true => Ok(server),
            false => Err(format!("`{}` does not listen", server.line)),
        }
    }

    /// Loads it once.
    fn load(&self, settings: &[&str]) -> Result<(String, Value), String> {
        let pid = format!("pid={}", self.child.id());
        let mut args = vec![self.address.as_str(), SECONDS, pid.as_str()];
        args.extend(settings);
        measured("produce", &args).map(|(line, _, json)| (line, json))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        process::terminate(&mut self.child);
    }
}

/// The brokers under load.
struct Brokers {
    ours: Server,
    theirs: Option<Server>,
    rounds: usize,
}

impl Brokers {
    fn start(peer: Option<&Peer>, rounds: usize) -> Result<Brokers, String> {
        let mut command = Side::Ours.fresh()?;
        command.extend(["--shards", "1", "--runtime", "uring"].map(str::to_owned));
        let ours = Server::start(&command, &Side::Ours.address())?;
        let theirs = match peer {
            Some(peer) => Some(Server::start(&peer.fresh()?, peer.address())?),
            None => None,
        };
        let warm_up = theirs.iter().map(|server| (server, BEFORE_THEIRS));
        for (server, before) in warm_up.chain([(&ours, BEFORE_OURS)]) {
            for shape in [&LARGE, &SMALL[3]] {
                let mut settings = vec!["topic=warm-up", before];
                settings.extend(shape.settings);
                server.load(&settings)?;
                settle()?;
            }
        }
        Ok(Brokers {
            ours,
            theirs,
            rounds,
        })
    }

    /// All rounds of one shape: ours, theirs, ours ...
    fn rounds(&self, shape: &Shape) -> Result<(Figures, Figures), String> {
        let (mut ours, mut theirs) = (Figures::default(), Figures::default());
        for _ in 0..self.rounds {
            let mut settings = vec![WARM_UP];
            settings.extend(shape.settings);
            round(&self.ours, &settings, &mut ours)?;
            if let Some(server) = &self.theirs {
                if shape.peer_syncs {
                    settings.push("flush-messages=1");
                }
                round(server, &settings, &mut theirs)?;
            }
        }
        Ok((ours, theirs))
    }

    fn commands(&self) -> Vec<String> {
        let servers = std::iter::once(&self.ours).chain(&self.theirs);
        servers.map(|server| server.line.clone()).collect()
    }
}

fn round(server: &Server, settings: &[&str], into: &mut Figures) -> Result<(), String> {
    let (line, figures) = server.load(settings)?;
    into.rounds.push(figures);
    into.command = line;
    settle()
}

/// Lets the disk come to rest: what one side left in the page cache would be written back in the other's round, which halved it.
fn settle() -> Result<(), String> {
    std::thread::sleep(REMOVED);
    process::run(&mut program("sync", &[]))
}

/// Those of rows B3, B4, B5 and B7 that are `wanted`.
pub(super) fn measure(
    peer: Option<&Peer>,
    rounds: usize,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<Row>, String> {
    let floor = match wanted("B3") {
        true => Some(floor(rounds)?),
        false => None,
    };
    let brokers = Brokers::start(peer, rounds)?;
    let mut rows = Vec::new();
    if wanted("B3") || wanted("B4") {
        rows.extend(large(&brokers, floor.as_ref())?);
    }
    if wanted("B5") {
        rows.push(small(&brokers, "B5", &SMALL[..1])?);
    }
    if wanted("B7") {
        rows.push(small(&brokers, "B7", &SMALL[1..])?);
    }
    Ok(rows)
}

/// The program that does only what cannot be left out, under the same load.
fn floor(rounds: usize) -> Result<Figures, String> {
    let binary = target_dir().join("release/floor");
    let folder = target_dir().join("bench");
    std::fs::create_dir_all(&folder)
        .map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
    let file = folder.join("floor");
    let words = ["taskset", "-c", "0"].map(str::to_owned).into_iter();
    let command: Vec<String> = words
        .chain([binary.to_string_lossy().into_owned(), "produce".to_owned()])
        .chain([
            FLOOR_ADDRESS.to_owned(),
            file.to_string_lossy().into_owned(),
        ])
        .collect();
    let mut figures = Figures::default();
    {
        let server = Server::start(&command, FLOOR_ADDRESS)?;
        let mut settings = vec![WARM_UP, "exists=1"];
        settings.extend(LARGE.settings);
        for _ in 0..rounds {
            round(&server, &settings, &mut figures)?;
        }
        figures.command = format!("{}\n    {}", server.line, figures.command);
    }
    let _ = std::fs::remove_file(file);
    Ok(figures)
}

fn large(brokers: &Brokers, floor: Option<&Figures>) -> Result<[Row; 2], String> {
    let (ours, theirs) = brokers.rounds(&LARGE)?;
    let mut table = vec![TABLE_HEAD.to_owned(), ours.line("Tidemill")];
    if !theirs.rounds.is_empty() {
        table.push(theirs.line("Apache Kafka 4.3.1, not synced"));
    }
    let mut commands = brokers.commands();
    commands.push(ours.command.clone());
    if let Some(floor) = floor {
        table.push(floor.line("floor"));
        commands.push(floor.command.clone());
    }
    let value = |figures: &Figures, name: &str| figures.median(name).unwrap_or(f64::NAN);
    let (rate, cpu) = (value(&ours, "mb_per_s"), value(&ours, "cpu_s_per_gb"));
    let floor_cpu = floor
        .and_then(|f| f.median("cpu_s_per_gb"))
        .unwrap_or(f64::NAN);
    let row = |name: &str, holds: bool, summary: String| Row {
        name: name.to_owned(),
        holds,
        summary,
        commands: commands.clone(),
        body: format!("{}.\n\n{}", LARGE.what, table.join("\n")),
    };
    let within_floor = floor_cpu.is_nan() || cpu <= floor_cpu * CPU_TIMES_FLOOR;
    let (cpu_mark, rate_mark) = (LARGE_KNOWN.1 * CPU_FRACTION, LARGE_KNOWN.0 * LARGE.times);
    Ok([
        row(
            "B3",
            cpu <= cpu_mark && within_floor,
            format!(
                "{cpu:.2} CPU s per GB produced (mark {cpu_mark:.2}){}, {:.1} times the floor (target 3)",
                against(cpu, theirs.median("cpu_s_per_gb")),
                cpu / floor_cpu
            ),
        ),
        row(
            "B4",
            rate >= rate_mark,
            format!(
                "{rate:.0} MB/s produced on one core (mark {rate_mark:.0}){}",
                against(rate, theirs.median("mb_per_s"))
            ),
        ),
    ])
}

/// How a figure compares with the warm peer's in this run.
fn against(ours: f64, theirs: Option<f64>) -> String {
    match theirs {
        Some(theirs) => format!(
            ", {:.2} of warm Kafka's {theirs:.2} in this run",
            ours / theirs
        ),
        None => String::new(),
    }
}

fn small(brokers: &Brokers, name: &str, shapes: &[Shape]) -> Result<Row, String> {
    let mut table = vec![TABLE_HEAD.to_owned()];
    let mut commands = brokers.commands();
    let (mut said, mut holds) = (Vec::new(), true);
    for shape in shapes {
        let (ours, theirs) = brokers.rounds(shape)?;
        commands.push(ours.command.clone());
        table.push(ours.line(&format!("Tidemill: {}", shape.what)));
        if !theirs.rounds.is_empty() {
            let synced = match shape.peer_syncs {
                true => "flush.messages=1",
                false => "not synced",
            };
            table.push(theirs.line(&format!("Apache Kafka 4.3.1, {synced}: {}", shape.what)));
        }
        let rate = ours.median("requests_per_s").unwrap_or(0.0);
        let mark = shape.peer_known * shape.times;
        holds &= rate >= mark;
        said.push(format!(
            "{rate:.0} requests/s with {} (mark {mark:.0}){}",
            shape.what,
            against(rate, theirs.median("requests_per_s"))
        ));
    }
    Ok(Row {
        name: name.to_owned(),
        holds,
        summary: format!(
            "durable produce of one 1 KB record each: {}",
            said.join("; ")
        ),
        commands,
        body: table.join("\n"),
    })
}
