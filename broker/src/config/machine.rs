//! What settings ask for and this machine cannot give.

use std::path::Path;

use tidemill_rt::runtime::EngineChoice;
use tidemill_rt::{fs, memory, net, runtime};

use super::kind::rough_size;
use super::sources::Values;
use super::table::Settings;

/// What a machine has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Machine {
    /// Cores this process may use.
    pub(super) cores: usize,
    /// Memory this process may use in bytes.
    pub(super) memory: u64,
    /// Connections of one shard that the limit of open files leaves room for, were there one shard.
    pub(super) connections: u64,
    /// Bytes that may still be written where the data is to be, if that is known.
    pub(super) disk: Option<u64>,
}

/// Files of its write-ahead log that a shard has when there is little to do.
const LOG_FILES_FEW: u64 = 3;

impl Machine {
    /// This machine. Raises the process's limit of open files as a start would.
    pub(super) fn here() -> Machine {
        // What cannot be raised stays as it is, and is what a start would get.
        let _ = net::raise_descriptor_limit();
        let cores = runtime::allowed_cpus().len().max(1);
        Machine {
            cores,
            memory: memory::available(),
            connections: net::connections_max(1) as u64,
            disk: None,
        }
    }

    /// The same, with the room where `data_dir` is or is to be made.
    pub(super) fn with_disk(self, data_dir: &Path) -> Machine {
        Machine {
            disk: usable_disk(data_dir),
            ..self
        }
    }

    /// Makes the budgets of memory fit it.
    pub(super) fn fit(self, values: &mut Values) {
        let shards = values.settings().node.shards;
        values.fit(self.memory, shards.map_or(self.cores as u64, u64::from));
    }

    /// What `settings` ask for beyond it, in words.
    pub(super) fn warnings(self, settings: &Settings) -> Vec<String> {
        let mut out = Vec::new();
        let shards = settings.node.shards.map_or(self.cores, usize::from);
        if shards > self.cores {
            out.push(format!(
                "node.shards = {shards}, and this process may use {} cores: shards will take turns, and each is slower",
                self.cores
            ));
        }
        if let Some(connections) = settings.kafka.connections_max
            && connections > self.connections
        {
            out.push(format!(
                "kafka.connections_max = {connections}, and the limit of open files leaves room for {}: raise it (ulimit -Hn, \
                 LimitNOFILE= of systemd)",
                self.connections
            ));
        }
        let log = settings
            .storage
            .log_file_size
            .saturating_mul(LOG_FILES_FEW * shards as u64);
        if let Some(disk) = self.disk
            && log > disk
        {
            out.push(format!(
                "the write-ahead logs of {shards} shards take {} at least, and storage.data_dir has room for {}: choose another \
                 disk, or a smaller storage.log_file_size",
                rough_size(log),
                rough_size(disk)
            ));
        }
        let most = most_memory(settings, shards);
        if most > self.memory {
            out.push(format!(
                "the budgets of [memory] and transforms.memory add up to {} with {shards} shards, and this process may use {}: \
                 when all are full it is killed; lower them",
                rough_size(most),
                rough_size(self.memory)
            ));
        }
        out
    }
}

/// Bytes that all budgets together allow.
fn most_memory(settings: &Settings, shards: usize) -> u64 {
    let m = &settings.memory;
    let largest = settings.kafka.request_size_max as u64;
    let of_shard = [
        m.small_requests,
        m.large_requests,
        largest,
        m.waiting_fetches,
        m.answers,
        m.unflushed,
        m.deliveries,
        m.groups,
        m.cache,
        m.outbox,
        m.unpacking,
        settings.transforms.memory as u64,
    ];
    let sum = of_shard.iter().fold(0u64, |sum, n| sum.saturating_add(*n));
    sum.saturating_mul(shards as u64)
}

/// What may still be written where `data_dir` is, or is to be made.
fn usable_disk(data_dir: &Path) -> Option<u64> {
    let path = data_dir.to_owned();
    let found = runtime::block_on(EngineChoice::Epoll, move || {
        let path = path.clone();
        async move {
            for folder in path.ancestors() {
                let folder = if folder.as_os_str().is_empty() {
                    Path::new(".")
                } else {
                    folder
                };
                if let Ok(space) = fs::space(folder).await {
                    return Some(space.usable_bytes);
                }
            }
            None
        }
    });
    found.ok()?.and_then(|bytes| u64::try_from(bytes).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warnings(file: &str) -> Vec<String> {
        let mut values = Values::new();
        values.file(file);
        assert_eq!(values.problems(), []);
        let machine = Machine {
            cores: 4,
            memory: 64 << 30,
            connections: 1_000,
            disk: Some(2 << 30),
        };
        machine.warnings(&values.settings())
    }

    #[test]
    fn machine_that_has_enough_is_not_spoken_of() {
        assert!(warnings("").is_empty());
        assert!(warnings("[node]\nshards = 4\n[kafka]\nconnections_max = 1000").is_empty());
    }

    #[test]
    fn what_the_machine_lacks_is_told_with_both_numbers() {
        let told = warnings(
            "[node]\nshards = 8\n[kafka]\nconnections_max = 5000\n[memory]\ncache = \"9 GiB\"\n\
             [storage]\nlog_file_size = \"1 GiB\"",
        );
        assert_eq!(told.len(), 4, "{told:?}");
        for (line, texts) in told.iter().zip([
            ["8", "4 cores"],
            ["5000", "1000"],
            ["24.0 GiB", "2.0 GiB"],
            ["8 shards", "64.0 GiB"],
        ]) {
            assert!(texts.iter().all(|t| line.contains(t)), "{line}");
        }
    }
}
