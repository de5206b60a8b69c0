//! Rows that compare one figure or a few of Tidemill's and its peer's: B6, B8, B11.

use super::Asked;
use super::peer::Peer;
use super::report::{Row, median, spread};
use super::sides::{self, OURS, Side, number};
use serde_json::Value;
use std::collections::BTreeMap;

/// Seconds of B6's open loop.
const B6_SECONDS: &str = "20";
/// Seconds of warm-up that are thrown away: a JVM takes a minute.
const WARM: &str = "2";
const WARM_PEER: &str = "60";
/// Megabytes that B8 reads back.
const B8_MEGABYTES: &str = "1500";
const B11_SECONDS: &str = "15";
/// What Kafka must have done before, where a topic is to be durable before it is acknowledged, as Tidemill's always are.
const DURABLE: &str = "flush.messages=1";

/// Figures by side and name, over all rounds.
#[derive(Debug, Default)]
struct Figures {
    values: BTreeMap<(&'static str, String), Vec<f64>>,
    commands: Vec<String>,
}

impl Figures {
    fn add(
        &mut self,
        side: &Side<'_>,
        (line, json): (String, Value),
        names: &[&str],
    ) -> Result<(), String> {
        for name in names {
            let value = number(&json, name)?;
            let key = (side.name(), (*name).to_owned());
            self.values.entry(key).or_default().push(value);
        }
        if !self.commands.contains(&line) {
            self.commands.push(line);
        }
        Ok(())
    }

    fn median(&self, side: &'static str, name: &str) -> Option<f64> {
        let values = self.values.get(&(side, name.to_owned()))?;
        median(&mut values.clone())
    }

    fn ours(&self, name: &str) -> f64 {
        self.median(OURS, name).unwrap_or(f64::NAN)
    }

    /// Ours divided by theirs; `None` when there is no peer.
    fn ratio(&self, name: &str) -> Option<f64> {
        Some(self.ours(name) / self.median(sides::THEIRS, name)?)
    }

    fn table(&self, names: &[&str]) -> String {
        let mut lines = vec![
            format!("| broker | {} |", names.join(" | ")),
            format!("|---|{}", "---|".repeat(names.len())),
        ];
        let mut sides: Vec<&'static str> = self.values.keys().map(|(side, _)| *side).collect();
        sides.dedup();
        sides.sort_by_key(|side| *side != OURS);
        for side in sides {
            let cells = names.iter().map(|name| {
                let mut values = self
                    .values
                    .get(&(side, (*name).to_owned()))
                    .cloned()
                    .unwrap_or_default();
                let middle = median(&mut values).unwrap_or(f64::NAN);
                format!("{middle:.2} ({})", spread(&values, ""))
            });
            lines.push(format!(
                "| {side} | {} |",
                cells.collect::<Vec<_>>().join(" | ")
            ));
        }
        lines.join("\n")
    }
}

fn warm(side: &Side<'_>) -> &'static str {
    match side {
        Side::Ours => WARM,
        Side::Theirs(_) => WARM_PEER,
    }
}

fn durable(side: &Side<'_>) -> &'static [&'static str] {
    match side {
        Side::Ours => &[],
        Side::Theirs(_) => &[DURABLE],
    }
}

fn without_peer(summary: String) -> String {
    format!("{summary}; not compared: run with --with-kafka")
}

/// B6: end-to-end latency. Both sides get the same rate: 30 % of what the peer takes at most, or of what we do where there is none.
pub(super) fn b6(asked: &Asked, peer: Option<&Peer>) -> Result<Row, String> {
    const NAMES: [&str; 5] = ["batches_per_s", "p50_ms", "p99_ms", "p999_ms", "max_ms"];
    let mut figures = Figures::default();
    for _ in 0..asked.rounds {
        let mut rate = "0".to_owned();
        // The peer first: it is the slower one, and says how much both are given.
        for side in sides::all(peer).iter().rev() {
            let mut args = vec![rate.as_str(), B6_SECONDS, warm(side)];
            args.extend(durable(side));
            let measured = side.measure("end_to_end", &args)?;
            let given = number(&measured.1, "batches_per_s")?;
            figures.add(side, measured, &NAMES)?;
            rate = given.to_string();
        }
    }
    let (p99, p999) = (figures.ours("p99_ms"), figures.ours("p999_ms"));
    let said = format!("end to end, p99 {p99:.2} ms, p99.9 {p999:.2} ms at 30 % load");
    let ratios = figures.ratio("p99_ms").zip(figures.ratio("p999_ms"));
    let (holds, summary) = match ratios {
        Some((p99, p999)) => (
            p99 <= 0.25 && p999 <= 0.1,
            format!(
                "{said}, {p99:.2} and {p999:.2} of Kafka's, both durable; target 0.25 and 0.10"
            ),
        ),
        None => (false, without_peer(said)),
    };
    Ok(figures.row("B6", (holds, summary), &NAMES))
}

/// B8: consuming.
pub(super) fn b8(asked: &Asked, peer: Option<&Peer>) -> Result<Row, String> {
    const NAMES: [&str; 4] = [
        "tail_mb_per_s",
        "tail_cpu_s_per_gb",
        "catch_up_mb_per_s",
        "catch_up_cpu_s_per_gb",
    ];
    let mut figures = Figures::default();
    for _ in 0..asked.rounds {
        for side in &sides::all(peer) {
            figures.add(side, side.measure("consume", &[B8_MEGABYTES])?, &NAMES)?;
        }
    }
    let said = format!(
        "consuming at {:.0} MB/s (tail) and {:.0} MB/s (catch-up) for {:.2} and {:.2} CPU s/GB",
        figures.ours(NAMES[0]),
        figures.ours(NAMES[2]),
        figures.ours(NAMES[1]),
        figures.ours(NAMES[3])
    );
    let ratios: Vec<f64> = NAMES
        .iter()
        .filter_map(|name| figures.ratio(name))
        .collect();
    let (holds, summary) = match ratios[..] {
        [tail, tail_cpu, catch_up, catch_up_cpu] => (
            tail >= 1.0 && catch_up >= 1.0 && tail_cpu <= 0.5 && catch_up_cpu <= 0.5,
            format!(
                "{said}; of Kafka's {tail:.2} and {catch_up:.2} of the speed for {tail_cpu:.2} and {catch_up_cpu:.2} of the CPU; target 1.0 for 0.5"
            ),
        ),
        _ => (false, without_peer(said)),
    };
    Ok(figures.row("B8", (holds, summary), &NAMES))
}

/// B11: one record each to many partitions.
pub(super) fn b11(asked: &Asked, peer: Option<&Peer>) -> Result<Row, String> {
    const NAMES: [&str; 2] = ["requests_per_s", "cpu_us_per_request"];
    let mut figures = Figures::default();
    for _ in 0..asked.rounds {
        for side in &sides::all(peer) {
            let mut args = vec![B11_SECONDS, warm(side)];
            args.extend(durable(side));
            figures.add(side, side.measure("small", &args)?, &NAMES)?;
        }
    }
    let said = format!(
        "{:.0} requests/s of one record to 1,000 partitions in turn, durable",
        figures.ours(NAMES[0])
    );
    let (holds, summary) = match figures.ratio(NAMES[0]) {
        Some(ratio) => (
            ratio >= 10.0,
            format!("{said}, {ratio:.1} times Kafka's; target 10"),
        ),
        None => (false, without_peer(said)),
    };
    Ok(figures.row("B11", (holds, summary), &NAMES))
}

impl Figures {
    fn row(&self, name: &str, (holds, summary): (bool, String), names: &[&str]) -> Row {
        Row {
            name: name.to_owned(),
            holds,
            summary,
            commands: self.commands.clone(),
            body: self.table(names),
        }
    }
}
