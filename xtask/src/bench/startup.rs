//! B1 (start to first acknowledged produce) and B2 (memory when idle), Tidemill and its peer in turn.

use super::measured;
use super::peer::Peer;
use super::report::{Row, median, spread};
use super::sides::{OURS, Side, THEIRS, number};
use serde_json::Value;

/// Seconds of idleness before memory is read.
const IDLE: &str = "10";
const B1_TARGET_MS: f64 = 100.0;
/// A fifteenth of the 343 MB measured of the peer.
const B2_TARGET_MB: f64 = 23.0;
const TOPIC: &str = "first";

/// Figures of one broker over all rounds.
#[derive(Debug, Default)]
struct Figures {
    empty_ms: Vec<f64>,
    existing_ms: Vec<f64>,
    resident_mb: Vec<f64>,
    commands: Vec<String>,
}

impl Figures {
    /// One round: first on an empty data directory (the topic is made), then on what that left.
    fn round(&mut self, address: &str, command: &[String]) -> Result<(), String> {
        let (_, empty) = first_ack(address, "0", command)?;
        let (line, existing) = first_ack(address, IDLE, command)?;
        self.empty_ms.push(number(&empty, "first_ack_ms")?);
        self.existing_ms.push(number(&existing, "first_ack_ms")?);
        self.resident_mb.push(number(&existing, "resident_mb")?);
        self.commands = vec![line];
        Ok(())
    }

    fn line(&mut self, name: &str) -> String {
        let cell = |values: &mut Vec<f64>, unit: &str| {
            let middle = median(values).unwrap_or(f64::NAN);
            format!("{middle:.0} {unit} ({})", spread(values, unit))
        };
        let existing = cell(&mut self.existing_ms, "ms");
        let empty = cell(&mut self.empty_ms, "ms");
        let memory = cell(&mut self.resident_mb, "MB");
        format!("| {name} | {existing} | {empty} | {memory} |")
    }
}

/// Rows B1 and B2.
pub(super) fn measure(peer: Option<&Peer>, rounds: usize) -> Result<Vec<Row>, String> {
    let mut ours = Figures::default();
    let mut theirs = Figures::default();
    for _ in 0..rounds {
        ours.round(&Side::Ours.address(), &Side::Ours.fresh()?)?;
        if let Some(peer) = peer {
            theirs.round(peer.address(), &peer.fresh()?)?;
        }
    }
    let mut table = vec![
        "| broker | first ack, topic exists | first ack, empty directory | resident after 10 s |"
            .to_owned(),
        "|---|---|---|---|".to_owned(),
        ours.line(OURS),
    ];
    if peer.is_some() {
        table.push(theirs.line(THEIRS));
    }
    Ok(rows(&mut ours, &theirs, &table.join("\n")))
}

fn rows(ours: &mut Figures, theirs: &Figures, table: &str) -> Vec<Row> {
    let existing = median(&mut ours.existing_ms).unwrap_or(f64::INFINITY);
    let empty = median(&mut ours.empty_ms).unwrap_or(f64::INFINITY);
    let memory = median(&mut ours.resident_mb).unwrap_or(f64::INFINITY);
    let mut commands = ours.commands.clone();
    commands.extend(theirs.commands.clone());
    let row = |name: &str, holds: bool, summary: String| Row {
        name: name.to_owned(),
        holds,
        summary,
        commands: commands.clone(),
        body: table.to_owned(),
    };
    vec![
        row(
            "B1",
            existing.max(empty) < B1_TARGET_MS,
            format!(
                "start to first acknowledged produce {existing:.0} ms, {empty:.0} ms on an empty directory; target under {B1_TARGET_MS:.0} ms"
            ),
        ),
        row(
            "B2",
            memory <= B2_TARGET_MB,
            format!("{memory:.0} MB resident, idle after 10 s; target {B2_TARGET_MB:.0} MB"),
        ),
    ]
}

fn first_ack(address: &str, idle: &str, command: &[String]) -> Result<(String, Value), String> {
    let mut args = vec![address, TOPIC, idle, "--"];
    args.extend(command.iter().map(String::as_str));
    measured("startup", &args).map(|(line, _, json)| (line, json))
}
