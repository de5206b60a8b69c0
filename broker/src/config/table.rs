//! The table of settings: everything an operator may set, in one place. Parsing, checking, `tidemill config` and
//! `docs/guide/settings.md` all come from it.
//!
//! To add a setting, add a line to a section: its doc, `key: type = kind(default, least, most);`. It is then read as
//! `settings.section.key` (on a shard: `shard.info.settings`), and must act. Write the page anew with
//! `TIDEMILL_UPDATE=1 cargo test --workspace --locked --bin tidemill -- config::`.

use std::time::Duration;

use super::kind::{
    DAY, Field, GIB, HOUR, KIB, MIB, MINUTE, MS, SECOND, Spec, TIB, Value, list, number, size,
    switch, text, time, word,
};

/// Most shards a node may have.
pub(crate) const SHARDS_MAX: u16 = 256;

/// One setting.
#[derive(Debug)]
pub(crate) struct Setting {
    /// The section (TOML table) it stands in.
    pub(crate) section: &'static str,
    /// Its name there.
    pub(crate) key: &'static str,
    /// What it takes, and its default.
    pub(crate) spec: Spec,
    /// What it does.
    pub(crate) doc: &'static str,
}

impl Setting {
    /// `section.key`.
    pub(crate) fn name(&self) -> String {
        format!("{}.{}", self.section, self.key)
    }
}

/// Settings that belong together.
#[derive(Debug)]
pub(crate) struct Section {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it is about.
    pub(crate) doc: &'static str,
    /// Its settings.
    pub(crate) settings: &'static [Setting],
}

macro_rules! settings {
    ($($(#[doc = $section_doc:literal])+ $section:ident: $Section:ident {
        $($(#[doc = $doc:literal])+ $key:ident: $type:ty = $spec:expr;)+
    })+) => {
        $(
            $(#[doc = $section_doc])+
            #[derive(Debug, Clone, PartialEq, Eq)]
            pub(crate) struct $Section {
                $($(#[doc = $doc])+ pub(crate) $key: $type,)+
            }
        )+

        /// Checked settings.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub(crate) struct Settings {
            $($(#[doc = $section_doc])+ pub(crate) $section: $Section,)+
        }

        /// Every setting, by section.
        pub(crate) const SECTIONS: &[Section] = &[$(Section {
            name: stringify!($section),
            doc: concat!($($section_doc),+),
            settings: &[$(Setting {
                section: stringify!($section),
                key: stringify!($key),
                spec: $spec,
                doc: concat!($($doc),+),
            }),+],
        }),+];

        impl Settings {
            /// Settings of the values that `of` gives for section and key.
            pub(super) fn from_values<'a>(of: impl Fn(&str, &str) -> &'a Value) -> Settings {
                Settings {
                    $($section: $Section {
                        $($key: <$type>::field(of(stringify!($section), stringify!($key)))
                            .expect("a test builds the settings from their defaults"),)+
                    },)+
                }
            }
        }
    };
}

settings! {
    /// The node: what it runs on.
    node: Node {
        /// Threads that serve data, one a core. Fixed when the data folder is made; "auto" is one a core.
        shards: Option<u16> = number("auto", 1, SHARDS_MAX as u64).or("auto");
        /// How the broker talks to the kernel: "auto" is io_uring where it works, else epoll.
        runtime: String = word("auto", &["auto", "uring", "epoll"]);
    }

    /// What is kept on disk.
    storage: Storage {
        /// Folder for all data; made if missing, locked while in use.
        data_dir: String = text("./tidemill-data", "a path");
        /// Size of a file of the write-ahead log. Each shard keeps a few of them.
        log_file_size: u64 = size("64 MiB", 4 * MIB, GIB);
        /// Bytes a ring takes in before it writes them to segments and makes a checkpoint. More means fewer, larger
        /// writes, more memory (memory.unflushed) and a longer restart.
        flush_size: u64 = size("16 MiB", 64 * KIB, GIB);
        /// Time after which that happens in any case, if anything was taken in.
        flush_interval: Duration = time("10 s", Duration::from_millis(100), HOUR);
        /// Disk kept free of client writes, for what must go on when it is full: votes, checkpoints, deletions. "auto" is
        /// 256 MiB for each shard.
        reserve: Option<u64> = size("auto", MIB, TIB).or("auto");
    }

    /// The Kafka listener and what one client may do.
    kafka: Kafka {
        /// Where Kafka clients connect.
        addr: String = text("127.0.0.1:9092", "HOST:PORT");
        /// The address Kafka clients are told, where it differs from kafka.addr.
        advertised_addr: Option<String> = text("none", "HOST:PORT").or("none");
        /// Connections the node serves; further ones are closed at once. "auto" is what a sixteenth of the memory is
        /// enough for, and what the process's limit of open files leaves.
        connections_max: Option<u64> = number("auto", 1, 10_000_000).or("auto");
        /// Connections of one address (of one /64 in IPv6); further ones are closed at once (Kafka's
        /// max.connections.per.ip). "auto" is half of all.
        connections_per_address_max: Option<u64> = number("auto", 1, 10_000_000).or("auto");
        /// A connection that has sent no request for so long after it was made is closed.
        first_request_timeout: Duration = time("30 s", SECOND, DAY);
        /// A client whose machine answers nothing for so long, not even the kernel's probes, has vanished: its connection
        /// is closed.
        peer_timeout: Duration = time("2 min", SECOND.saturating_mul(4), DAY);
        /// A connection on which nothing was asked or answered for so long is closed (Kafka's connections.max.idle.ms).
        idle_timeout: Duration = time("10 min", SECOND, DAY);
        /// Largest request (Kafka's socket.request.max.bytes). A larger one closes the connection.
        request_size_max: usize = size("100 MiB", MIB, 100 * MIB);
        /// A request must arrive whole within this time and what its bytes take at kafka.request_rate_min, or its
        /// connection is closed.
        request_timeout: Duration = time("10 s", SECOND, HOUR);
        /// Least rate at which a request must arrive, for each second.
        request_rate_min: u64 = size("256 KiB", KIB, GIB);
        /// A client that takes nothing of its answers for so long is closed.
        write_timeout: Duration = time("30 s", SECOND, HOUR);
        /// Requests of one connection that may be under way; the next is read when the first is answered.
        pipeline_max: usize = number("64", 1, 4096);
        /// Bytes of requests, and of the answers they may bring, that one connection may have under way. A larger
        /// request runs alone.
        in_flight_max: u64 = size("64 MiB", MIB, GIB);
        /// Bytes of records a Fetch answers with at most; a first batch that is larger is given alone.
        fetch_size_max: usize = size("32 MiB", MIB, 100 * MIB);
        /// Fetch sessions kept for consumers, shared out to the shards (Kafka's
        /// max.incremental.fetch.session.cache.slots). A consumer without one names all its partitions each time.
        fetch_sessions_max: usize = number("1000", 0, 1_000_000);
    }

    /// Topics: whether they are made by themselves, and what those have that say nothing else.
    topics: Topics {
        /// Whether a missing topic is made when a client asks for it (Kafka's auto.create.topics.enable).
        auto_create: bool = switch("true");
        /// Partitions of a topic that is made without saying how many (Kafka's num.partitions).
        partitions: i32 = number("1", 1, 100_000);
        /// How long records are kept, counted from the newest of their segment (Kafka's log.retention.ms, .minutes and
        /// .hours); a topic's retention.ms wins.
        retention: Option<Duration> = time("7 d", MS, DAY.saturating_mul(36_500)).or("forever");
        /// Bytes of a partition to keep (Kafka's log.retention.bytes); a topic's retention.bytes wins.
        retention_size: Option<u64> = size("unlimited", 0, 1_024 * 1_024 * TIB).or("unlimited");
        /// How often is looked for what retention removes (Kafka's log.retention.check.interval.ms, there 5 min).
        retention_interval: Duration = time("5 s", Duration::from_millis(100), DAY);
        /// Size at which a new segment is begun (Kafka's log.segment.bytes); a topic's segment.bytes wins.
        segment_size: u64 = size("1 GiB", MIB, i32::MAX as u64);
        /// Age at which a new segment is begun (Kafka's log.roll.ms and .hours); a topic's segment.ms wins.
        segment_age: Duration = time("7 d", MS, DAY.saturating_mul(36_500));
        /// Largest record batch a producer may send, its header included (Kafka's message.max.bytes); a topic's
        /// max.message.bytes wins.
        message_size_max: u64 = size("1048588 B", 1, 100 * MIB);
    }

    /// Consumer groups.
    groups: Groups {
        /// How long the first members of an empty group wait for others (Kafka's group.initial.rebalance.delay.ms). Less
        /// lets a lone consumer begin sooner, and a group that starts together rebalance more often.
        initial_rebalance_delay: Duration = time("3 s", Duration::ZERO, MINUTE.saturating_mul(10));
        /// How long committed offsets are kept after their group became empty (Kafka's offsets.retention.minutes).
        offsets_retention: Duration = time("7 d", MINUTE, DAY.saturating_mul(3_650));
        /// Partitions of __consumer_offsets, when it is made (Kafka's offsets.topic.num.partitions).
        offsets_partitions: i32 = number("50", 1, 10_000);
    }

    /// Memory of each shard: budgets that are taken as they are used. What wants more waits.
    memory: Memory {
        /// Requests of up to 1.0625 MiB, while they arrive and are worked on.
        small_requests: u64 = size("64 MiB", 2 * MIB, TIB);
        /// Larger requests; one more may grow beyond the budget, so that they cannot wait for each other.
        large_requests: u64 = size("64 MiB", 2 * MIB, TIB);
        /// Fetch requests while they wait for records. When it is full, further ones are answered without waiting.
        waiting_fetches: u64 = size("64 MiB", MIB, TIB);
        /// Answers that are made or written.
        answers: u64 = size("192 MiB", 2 * MIB, TIB);
        /// Writes that are not in segments yet.
        unflushed: u64 = size("128 MiB", 16 * MIB, TIB);
        /// Deliveries of other shards' transforms, beside memory.unflushed.
        deliveries: u64 = size("32 MiB", 16 * MIB, TIB);
        /// Consumer groups and the offsets they have committed, and an eighth of it for what of them waits to be written. When
        /// it is full, new groups and commits of more partitions are refused.
        groups: u64 = size("512 MiB", 16 * MIB, TIB);
        /// Recent batches kept for readers.
        cache: u64 = size("128 MiB", MIB, TIB);
        /// Output of transforms that waits for delivery to other shards.
        outbox: u64 = size("64 MiB", 32 * MIB, TIB);
        /// Input of transforms while it is unpacked.
        unpacking: u64 = size("128 MiB", 128 * MIB, TIB);
    }

    /// Transforms: what each may use.
    transforms: Transforms {
        /// Memory that the instances on a shard share, taken as they use it.
        memory: usize = size("1 GiB", 64 * MIB, TIB);
        /// Memory of an instance when its deployment says nothing.
        instance_memory: u64 = size("64 MiB", MIB, 512 * MIB);
        /// Most memory of an instance that a deployment may ask for.
        instance_memory_max: u64 = size("512 MiB", MIB, 512 * MIB);
        /// CPU time of a call when its deployment says nothing.
        call_time: Duration = time("3 s", MS, MINUTE.saturating_mul(10));
        /// Most CPU time of a call that a deployment may ask for.
        call_time_max: Duration = time("1 min", MS, MINUTE.saturating_mul(10));
        /// Memory that compiling a module may take, in a process of its own; two are compiled at once.
        compile_memory: u64 = size("1 GiB", 16 * MIB, TIB);
        /// CPU time that compiling a module may take; by the clock it may take fifteen times as much.
        compile_time: Duration = time("1 min", SECOND, MINUTE.saturating_mul(60));
        /// How long a module stays on disk that no kept version of a transform uses, counted anew at each start. An upload is kept as
        /// long for its deployment.
        module_retention: Duration = time("1 h", SECOND, DAY.saturating_mul(3_650));
        /// A file with the key that secrets of transforms are sealed with: 32 random bytes, or 64 hexadecimal digits, which only its
        /// owner may read. Without it, deployments with secrets are refused.
        secrets_key_file: Option<String> = text("none", "a path").or("none");
        /// Lines a second that a transform may log on each shard; more are dropped, and it is told how many.
        log_rate: u32 = number("200", 1, 1_000_000);
        /// Lines that it may log at once.
        log_burst: u32 = number("2000", 1, 1_000_000);
        /// How long __transform_logs keeps lines. Read when that topic is made, like the next two.
        log_retention: Duration = time("1 d", MINUTE, DAY.saturating_mul(3_650));
        /// Bytes that each partition of it keeps.
        log_retention_size: u64 = size("512 MiB", MIB, 1_024 * TIB);
        /// Its partitions; the lines of a transform are in one of them.
        log_partitions: i32 = number("4", 1, 1_000);
    }

    /// The admin API: HTTP for `transform`, /metrics and /health.
    admin: Admin {
        /// Where it listens.
        addr: String = text("127.0.0.1:9644", "HOST:PORT");
        /// Names by which it is asked, beside IP addresses, localhost and the name in admin.addr. Other names are
        /// refused, so that no web page can reach it.
        names: Vec<String> = list("a host name without scheme and port");
        /// Connections at once; beyond them a few more may ask for /health and /metrics, and the others wait.
        connections_max: usize = number("128", 4, 65_536);
    }

    /// Metrics.
    metrics: Metrics {
        /// Topics with metrics of their own; the others are counted together as topic "(other)". Each costs six lines of
        /// /metrics.
        topics_max: usize = number("1000", 0, 100_000);
    }

    /// What the broker says on standard error.
    log: Log {
        /// What is said: "error", "warn", "info", "debug", "trace" or "off", and by module where that is not enough:
        /// "info,tidemill_ring=debug". The environment's TIDEMILL_LOG wins.
        level: String = text("info", "a level, or levels by module separated by commas");
        /// "text" for people, "json" for machines: one object a line.
        format: String = word("text", &["text", "json"]);
    }
}

impl Default for Settings {
    fn default() -> Settings {
        super::Values::new().settings()
    }
}

/// The setting `section.key`.
pub(crate) fn find(section: &str, key: &str) -> Option<&'static Setting> {
    all().find(|s| s.section == section && s.key == key)
}

/// Every setting.
pub(crate) fn all() -> impl Iterator<Item = &'static Setting> {
    SECTIONS.iter().flat_map(|s| s.settings)
}
