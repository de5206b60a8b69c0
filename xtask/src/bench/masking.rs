//! T3 and T4: masking a topic with a transform, against a client on librdkafka.

use super::report::{Row, median, spread};
use super::{Asked, measured_on};
use crate::process::{self, cargo, root, target_dir};

/// Records of the backlog.
const RECORDS: &str = "400000";
/// CPU seconds per GB, of the client's.
const T3_TARGET: f64 = 0.2;
/// Records a second, times the client's.
const T4_TARGET: f64 = 4.0;

/// Rows T3 and T4, as far as they are wanted.
pub(super) fn measure(asked: &Asked) -> Result<Vec<Row>, String> {
    let target = target_dir().join("opponent");
    let manifest = root().join("benches/opponent/Cargo.toml");
    process::run(
        cargo(&["build", "--release", "--locked", "--manifest-path"])
            .arg(&manifest)
            .arg("--target-dir")
            .arg(&target),
    )?;
    let opponent = target.join("release/opponent");
    let rounds = asked.rounds.to_string();
    let args = [&*opponent.to_string_lossy(), RECORDS, &rounds];
    // The broker and whoever works beside it share both cores.
    let (line, output, json) = measured_on("0,1", "mask", &args)?;
    let of = |name: &str| -> Vec<f64> {
        let rounds = json["rounds"].as_array().into_iter().flatten();
        rounds.filter_map(|round| round[name].as_f64()).collect()
    };
    let ratio = |of_ours: &str, of_theirs: &str| -> Result<(f64, String), String> {
        let pairs = of(of_ours).into_iter().zip(of(of_theirs));
        let mut ratios: Vec<f64> = pairs.map(|(ours, theirs)| ours / theirs).collect();
        let middle = median(&mut ratios).ok_or("mask reported no rounds")?;
        Ok((middle, spread(&ratios, "times")))
    };
    let row = |name: &str, holds: bool, summary: String| Row {
        name: name.to_owned(),
        holds,
        summary,
        commands: vec![line.clone()],
        body: format!("```\n{}\n```", output.trim_end()),
    };
    let (cpu, cpu_spread) = ratio("transform_cpu_s_per_gb", "client_cpu_s_per_gb")?;
    let (speed, speed_spread) = ratio("transform_records_per_s", "client_records_per_s")?;
    let rows = [
        row(
            "T3",
            cpu <= T3_TARGET,
            format!(
                "masking a topic takes {cpu:.2} ({cpu_spread}) of the CPU time per GB of a client on librdkafka with its broker; target {T3_TARGET}"
            ),
        ),
        row(
            "T4",
            speed >= T4_TARGET,
            format!(
                "a backlog is masked {speed:.1} times ({speed_spread}) as fast as by a client on librdkafka on the same cores; target {T4_TARGET}"
            ),
        ),
    ];
    Ok(rows
        .into_iter()
        .filter(|row| asked.wants(&row.name))
        .collect())
}
