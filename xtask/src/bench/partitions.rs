//! B9 (what idle partitions cost) and B10 (making 10,000 partitions until each has taken a record).

use super::peer::Peer;
use super::report::{Row, median, spread};
use super::sides::{self, Side, number};
use std::fmt::Write;

/// Partitions, and the share of a core that so many idle ones may take, in percent.
const B9: [(u32, f64); 3] = [(1_000, 0.5), (10_000, 1.0), (100_000, 2.0)];
const B9_BYTES_EACH: f64 = 4096.0;
/// Partitions up to which the peer is measured: above, it runs out of memory maps.
const PEER_MAX: u32 = 10_000;
const B10_PARTITIONS: u32 = 10_000;
const B10_TARGET_S: f64 = 5.0;
/// Seconds over which CPU time is counted.
const IDLE: &str = "30";

/// What the rounds of one side and count showed.
#[derive(Debug, Default)]
struct Figures {
    cpu: Vec<f64>,
    trickle: Vec<f64>,
    bytes: Vec<f64>,
    taken: Vec<f64>,
    restart: Vec<f64>,
}

impl Figures {
    fn line(&mut self, name: &str, count: u32) -> String {
        format!(
            "| {name} | {count} | {} | {} | {} | {} | {} |",
            cell(&mut self.cpu, "%", 2),
            cell(&mut self.trickle, "%", 2),
            cell(&mut self.bytes, "B", 0),
            cell(&mut self.taken, "s", 2),
            cell(&mut self.restart, "s", 2)
        )
    }
}

fn cell(values: &mut [f64], unit: &str, digits: usize) -> String {
    let middle = median(values).unwrap_or(f64::NAN);
    format!("{middle:.digits$} {unit} ({})", spread(values, unit))
}

/// Rows B9 and B10, as far as they are wanted.
pub(super) fn measure(
    peer: Option<&Peer>,
    rounds: usize,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<Row>, String> {
    let mut table = "| broker | partitions | CPU of one core, all idle | CPU, one takes 10 records/s | memory each | made, each with a record | start to first answer |\n|---|---|---|---|---|---|---|".to_owned();
    let (mut commands, mut rows) = (Vec::new(), Vec::new());
    let (mut holds, mut summary) = (true, Vec::new());
    let counts = B9
        .iter()
        .filter(|(n, _)| wanted("B9") || *n == B10_PARTITIONS);
    for (count, cpu_target) in counts {
        let mut figures: Vec<Figures> = Vec::new();
        let sides = sides::all(peer.filter(|_| *count <= PEER_MAX));
        sides.iter().for_each(|_| figures.push(Figures::default()));
        for _ in 0..rounds {
            for (side, figures) in sides.iter().zip(&mut figures) {
                let line = round(side, *count, figures)?;
                if !commands.contains(&line) {
                    commands.push(line);
                }
            }
        }
        for (side, figures) in sides.iter().zip(&mut figures) {
            let _ = write!(table, "\n{}", figures.line(side.name(), *count));
        }
        let ours = &mut figures[0];
        let cpu = median(&mut ours.cpu).unwrap_or(f64::INFINITY);
        let bytes = median(&mut ours.bytes).unwrap_or(f64::INFINITY);
        holds &= cpu < *cpu_target && bytes < B9_BYTES_EACH;
        summary.push(format!(
            "{count} idle: {cpu:.2} % of a core and {bytes:.0} B each"
        ));
        if *count == B10_PARTITIONS && wanted("B10") {
            rows.push(b10(&mut ours.taken));
        }
    }
    if wanted("B9") {
        rows.push(Row {
            name: "B9".to_owned(),
            holds,
            summary: format!("{}; target 0.5 %, 1 %, 2 %, 4096 B", summary.join(", ")),
            commands: Vec::new(),
            body: String::new(),
        });
    }
    for row in &mut rows {
        row.commands.clone_from(&commands);
        row.body.clone_from(&table);
    }
    Ok(rows)
}

fn round(side: &Side<'_>, count: u32, figures: &mut Figures) -> Result<String, String> {
    let (line, json) = side.measure("partitions", &[&count.to_string(), IDLE])?;
    figures.cpu.push(number(&json, "idle_cpu_percent")?);
    figures.trickle.push(number(&json, "trickle_cpu_percent")?);
    figures.bytes.push(number(&json, "bytes_each")?);
    figures.taken.push(number(&json, "taken_s")?);
    figures.restart.push(number(&json, "restart_s")?);
    Ok(line)
}

fn b10(taken: &mut [f64]) -> Row {
    let seconds = median(taken).unwrap_or(f64::INFINITY);
    Row {
        name: "B10".to_owned(),
        holds: seconds < B10_TARGET_S,
        summary: format!(
            "a topic of {B10_PARTITIONS} partitions made and each has taken a record in {seconds:.2} s ({}); target under {B10_TARGET_S:.0} s",
            spread(taken, "s")
        ),
        commands: Vec::new(),
        body: String::new(),
    }
}
