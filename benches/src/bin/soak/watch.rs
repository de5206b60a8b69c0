//! What a broker takes, at a moment.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use tidemill_tests::Broker;

const MIB: f64 = 1024.0 * 1024.0;

/// One look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Since the start.
    pub(crate) at: Duration,
    /// Records produced since the last look, per second.
    pub(crate) records_per_second: f64,
    records: f64,
    /// Resident memory in MiB.
    pub(crate) resident: f64,
    /// Open files and sockets.
    pub(crate) descriptors: f64,
    /// The data folder in MiB, as the disk counts it.
    pub(crate) disk: f64,
    /// Open Kafka connections.
    pub(crate) connections: f64,
}

impl Sample {
    /// Looks; nothing when the broker does not answer.
    pub(crate) fn take(broker: &Broker, at: Duration, last: Option<&Sample>) -> Option<Sample> {
        let (200, _) = broker.get("/metrics")? else {
            return None;
        };
        let records = broker.metric("tidemill_topic_records_in_total", "topic=\"soak");
        let (before, since) = last.map_or((0.0, Duration::ZERO), |s| (s.records, s.at));
        Some(Sample {
            at,
            records_per_second: (records - before) / (at - since).as_secs_f64(),
            records,
            resident: broker.resident_bytes() as f64 / MIB,
            descriptors: broker.descriptors() as f64,
            disk: used(&broker.data()) as f64 / MIB,
            connections: broker.metric("tidemill_connections", ""),
        })
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:4} s: {:.0} records/s, {:.0} MiB resident, {} descriptors, {:.0} MiB on disk, {} connections",
            self.at.as_secs(),
            self.records_per_second,
            self.resident,
            self.descriptors,
            self.disk,
            self.connections
        )
    }
}

/// Bytes of disk that a folder takes. Files that go meanwhile count for nothing.
fn used(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => used(&entry.path()),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    });
    bytes.sum()
}
