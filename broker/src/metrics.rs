//! Counters of a shard, and their exposition for Prometheus.
//!
//! Counters are plain cells on the shard's thread. A scrape mails every shard for [`Sample`]s, adds up equal ones and
//! prints them by family.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Upper bounds of latency histograms, in seconds.
const LATENCY_BOUNDS: [f64; 14] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];

/// A counter that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(Cell<u64>);

impl Counter {
    /// Adds `n`.
    pub(crate) fn add(&self, n: u64) {
        self.0.set(self.0.get().wrapping_add(n));
    }

    /// The count.
    pub(crate) fn get(&self) -> u64 {
        self.0.get()
    }
}

/// A histogram of durations.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    buckets: [Cell<u64>; LATENCY_BOUNDS.len() + 1],
    sum_nanos: Cell<u64>,
}

impl Histogram {
    /// Counts one duration.
    pub(crate) fn observe(&self, d: Duration) {
        let seconds = d.as_secs_f64();
        let at = LATENCY_BOUNDS.partition_point(|b| *b < seconds);
        self.buckets[at].set(self.buckets[at].get() + 1);
        let nanos = u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        self.sum_nanos
            .set(self.sum_nanos.get().saturating_add(nanos));
    }

    /// Adds this histogram's samples to `out`.
    pub(crate) fn collect(&self, family: &'static str, labels: &Labels, out: &mut Vec<Sample>) {
        let mut below = 0;
        for (i, bucket) in self.buckets.iter().enumerate() {
            below += bucket.get();
            let bound = LATENCY_BOUNDS
                .get(i)
                .map_or("+Inf".to_owned(), f64::to_string);
            let mut labels = labels.clone();
            labels.push(("le", bound));
            out.push(Sample::new(family, "_bucket", labels, below as f64));
        }
        out.push(Sample::new(family, "_count", labels.clone(), below as f64));
        let seconds = self.sum_nanos.get() as f64 / 1e9;
        out.push(Sample::new(family, "_sum", labels.clone(), seconds));
    }
}

/// Label names and values of a sample.
pub(crate) type Labels = Vec<(&'static str, String)>;

/// One value at a scrape. Equal samples of several shards are added up.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    family: &'static str,
    suffix: &'static str,
    labels: Labels,
    value: f64,
}

impl Sample {
    fn new(family: &'static str, suffix: &'static str, labels: Labels, value: f64) -> Sample {
        Sample {
            family,
            suffix,
            labels,
            value,
        }
    }

    /// A value without suffix.
    pub(crate) fn plain(family: &'static str, labels: Labels, value: f64) -> Sample {
        Sample::new(family, "", labels, value)
    }
}

/// A family: its type, labels and help text.
struct Family {
    name: &'static str,
    kind: &'static str,
    /// Names of its labels; a histogram has `le` besides.
    #[cfg_attr(not(test), allow(dead_code, reason = "for the page of the guide"))]
    labels: &'static [&'static str],
    help: &'static str,
}

macro_rules! families {
    ($($name:literal $kind:ident $([$($label:ident)+])? $help:literal,)*) => {
        const FAMILIES: &[Family] = &[$(Family {
            name: $name,
            kind: stringify!($kind),
            labels: &[$($(stringify!($label)),+)?],
            help: $help,
        },)*];
    };
}

families! {
    "tidemill_build_info" gauge [runtime version] "Constant 1, labelled with version and runtime engine.",
    "tidemill_connections" gauge "Open Kafka connections.",
    "tidemill_connections_refused_total" counter [reason] "Kafka connections closed at once because a limit was reached: of the node (total) or of one address (address).",
    "tidemill_fetch_sessions" gauge "Fetch sessions of consumers.",
    "tidemill_fetch_session_partitions" gauge "Partitions that fetch sessions remember.",
    "tidemill_fetch_sessions_evicted_total" counter "Fetch sessions that made room for others.",
    "tidemill_fetch_sessions_refused_total" counter "Fetch sessions that were not made because there were too many; their clients name all partitions each time.",
    "tidemill_requests_total" counter [api] "Kafka requests.",
    "tidemill_request_latency_seconds" histogram [api] "Time from a complete Kafka request to its answer being ready to be written; of Fetch, waiting for records included.",
    "tidemill_request_bytes_total" counter [api] "Bytes of Kafka requests, as they came.",
    "tidemill_answer_bytes_total" counter [api] "Bytes of answers to Kafka requests.",
    "tidemill_malformed_requests_total" counter "Kafka requests that could not be read; their connection was closed.",
    "tidemill_request_memory_bytes" gauge "Memory reserved for requests.",
    "tidemill_request_memory_waits_total" counter "Requests that had to wait for memory: the budget was full.",
    "tidemill_answer_memory_bytes" gauge "Memory reserved for answers that are being made or written.",
    "tidemill_answer_memory_waits_total" counter "Answers that had to wait for memory: the budget was full.",
    "tidemill_hurried_fetches_total" counter "Fetch requests answered without waiting for records: the budget of those that wait was full.",
    "tidemill_waiting_fetch_bytes" gauge "Memory reserved for Fetch requests that wait for records.",
    "tidemill_idle_connections_closed_total" counter "Kafka connections closed because nothing was asked or answered for long.",
    "tidemill_stalled_connections_total" counter "Kafka connections closed because a request came too slowly, or none at all, or an answer was not taken.",
    "tidemill_admin_requests_total" counter [outcome] "Requests to the admin address, by what became of them.",
    "tidemill_unpacking_waits_total" counter "Readings of the admin API that had to wait their turn to unpack a batch.",
    "tidemill_compile_failures_total" counter "Modules that could not be compiled: refused by the compiler, or beyond transforms.compile_memory or transforms.compile_time.",
    "tidemill_modules" gauge "Modules of transforms on disk.",
    "tidemill_module_bytes" gauge "Bytes of modules of transforms on disk, without their machine code.",
    "tidemill_modules_removed_total" counter "Modules removed from disk because no kept version of a transform used them for transforms.module_retention.",
    "tidemill_module_removal_failures_total" counter "Sweeps for such modules that failed and are tried again.",
    "tidemill_topic_records_in_total" counter [topic] "Records produced to a topic by clients.",
    "tidemill_topic_bytes_in_total" counter [topic] "Bytes of record batches produced to a topic by clients.",
    "tidemill_topic_records_out_total" counter [topic] "Records fetched from a topic by clients (as batches are sent).",
    "tidemill_topic_bytes_out_total" counter [topic] "Bytes of record batches fetched from a topic by clients.",
    "tidemill_topic_rejected_total" counter [topic] "Produce requests for a partition that were refused.",
    "tidemill_topic_bytes" gauge [topic] "Bytes of a topic's batches.",
    "tidemill_disk_bytes" gauge "Size of the file system that holds the data directory.",
    "tidemill_log_bytes" gauge "Bytes of write-ahead log on disk. Files are removed when everything in them is in segments.",
    "tidemill_log_appended_bytes_total" counter "Bytes appended to the write-ahead log.",
    "tidemill_log_write_seconds_total" counter "Time spent writing and syncing the write-ahead log; over tidemill_log_syncs_total it is the time of a sync.",
    "tidemill_log_syncs_total" counter "Write-ahead log fdatasyncs.",
    "tidemill_log_recycled_files_total" counter "Write-ahead log files taken up again instead of removed.",
    "tidemill_log_carried_bytes_total" counter "Bytes of log entries written once more because their file was about to go.",
    "tidemill_log_full_waits_total" counter "Writes of the write-ahead log that waited because the disk had no room at all.",
    "tidemill_disk_full" gauge "1 while writes are refused because less than the reserve is free on the disk.",
    "tidemill_disk_available_bytes" gauge "Bytes free on the file system of the data directory.",
    "tidemill_disk_reserve_bytes" gauge "Bytes of disk kept free of client writes.",
    "tidemill_disk_refused_writes_total" counter "Batches refused because the disk is full.",
    "tidemill_log_queued_bytes" gauge "Bytes waiting to be written to the write-ahead log.",
    "tidemill_unflushed_bytes" gauge "Bytes of batches that are not in segments yet.",
    "tidemill_unflushed_waits_total" counter "Appends that had to wait because too much was unflushed: the budget was full.",
    "tidemill_unflushed_given_up_total" counter "Appends that left the line for that memory because nobody waited for them any more.",
    "tidemill_deliveries_refused_total" counter "Deliveries between rings put off because their memory was full.",
    "tidemill_checkpoints_total" counter "Checkpoints of rings written.",
    "tidemill_segment_failures_total" counter "Segments that could not be written; their batches stayed in checkpoints.",
    "tidemill_partitions_set_aside" gauge "Partitions that refuse records because their files cannot be written; the log says which and why.",
    "tidemill_segment_damage_total" counter "Damage found in segments, by reads and by writes; the log says where.",
    "tidemill_checkpoint_failures_total" counter "Flushes and checkpoints that failed and are tried again.",
    "tidemill_files_removed_total" counter "Segments and folders of partitions removed: retention, deleted records, deleted topics.",
    "tidemill_removals_waiting" gauge "Partitions with files that are about to be removed.",
    "tidemill_removal_failures_total" counter "Removals of files that failed and are tried again.",
    "tidemill_producers_evicted_total" counter "Idempotent producers forgotten because a partition had too many.",
    "tidemill_memory_limit_bytes" gauge [budget] "What a memory budget allows, of all shards; see [memory] in the settings.",
    "tidemill_rings" gauge "Rings (Raft groups) on this node.",
    "tidemill_rings_without_leader" gauge "Rings that this node does not lead: their partitions take no records.",
    "tidemill_partitions" gauge "Partitions open on this node.",
    "tidemill_cache_bytes" gauge "Bytes of recent batches kept in memory.",
    "tidemill_outbox_bytes" gauge "Bytes of transform output waiting for delivery to other rings.",
    "tidemill_outbox_waits_total" counter "Transform runs that had to wait because the outbox was full.",
    "tidemill_outbox_dropped_total" counter "Records of transform output dropped because their topic was deleted.",
    "tidemill_transform_records_in_total" counter [transform] "Records a transform has read.",
    "tidemill_transform_records_out_total" counter [transform topic] "Records a transform has written, by output topic.",
    "tidemill_transform_bytes_in_total" counter [transform] "Bytes of batches a transform has read.",
    "tidemill_transform_bytes_out_total" counter [transform topic] "Bytes of batches a transform has written.",
    "tidemill_transform_records_failed_total" counter [transform outcome] "Failures of records in a transform, by what became of them.",
    "tidemill_transform_partitions" gauge [transform state] "Input partitions of a transform by state: starting, running, paused or failing; 1 while input-gone or output-gone.",
    "tidemill_transform_lag_records" gauge [transform] "Records a transform has still to read.",
    "tidemill_transform_cpu_seconds_total" counter [transform] "CPU time of a transform's calls.",
    "tidemill_transform_memory_bytes" gauge [transform] "Memory of a transform's instances.",
    "tidemill_transform_waits_total" counter [transform] "Runs of a transform that waited because as many of it ran on their shard as may.",
    "tidemill_guest_calls_waiting" gauge "Calls of transforms that wait for a guest thread.",
    "tidemill_guest_calls_given_up_total" counter "Calls of transforms given up to be begun again: they turned out longer than there was room for.",
    "tidemill_transform_latency_seconds" histogram [transform] "Time from reading a run of input to its outcome being committed.",
    "tidemill_transform_log_lines_total" counter [transform] "Lines about a transform that were written to __transform_logs.",
    "tidemill_transform_log_dropped_total" counter [transform reason] "Lines about a transform that were lost: above its rate (rate), more than the topic takes (full), not taken by the topic (unwritten).",
    "tidemill_groups" gauge [state] "Consumer groups, by state.",
    "tidemill_group_members" gauge "Members of consumer groups.",
    "tidemill_group_offsets" gauge "Offsets committed by consumer groups and kept.",
    "tidemill_group_rebalances_total" counter "Rebalances of consumer groups begun.",
    "tidemill_group_commits_total" counter "Offsets committed, one for each partition of a commit.",
    "tidemill_group_offsets_expired_total" counter "Committed offsets dropped because they were too old or their topic was deleted.",
    "tidemill_group_writes_waiting" gauge "Records of consumer groups that wait to be written.",
    "tidemill_group_writes_waiting_bytes" gauge "Memory of records of consumer groups that wait to be written, or are being written.",
    "tidemill_group_writes_refused_total" counter "Commits and joins refused because too much waited to be written: the budget was full.",
    "tidemill_group_limits_reached_total" counter "Requests refused because a group or a shard keeps as much of groups as it may.",
    "tidemill_group_memory_bytes" gauge "Memory of consumer groups and their offsets.",
    "tidemill_group_coordinators_loading" gauge "Partitions of __consumer_offsets whose groups are still being read.",
    "tidemill_group_load_seconds" histogram "Time to read the groups of a partition of __consumer_offsets.",
    "tidemill_group_unreadable_records_total" counter "Records in __consumer_offsets that could not be read and were passed over.",
    "tidemill_group_copies_total" counter "How often the live state of a partition of __consumer_offsets was written anew and what was before it dropped.",
    "process_cpu_seconds_total" counter "CPU time of the process, user and system.",
    "process_resident_memory_bytes" gauge "Resident memory of the process.",
    "process_open_fds" gauge "Open file descriptors of the process.",
    "process_max_fds" gauge "File descriptors the process may have open.",
    "process_start_time_seconds" gauge "When the process started, in seconds since the Unix epoch.",
    "process_threads" gauge "Threads of the process.",
    "tidemill_log_lines_total" counter [level] "Lines the broker has logged.",
    "tidemill_log_lines_left_out_total" counter "Lines that were not logged because the same place in the code had said enough.",
    "tidemill_mailbox_jobs" gauge "Messages waiting for a shard.",
}

/// Prints samples in the Prometheus text format, version 0.0.4. A sample of an unlisted family is a bug.
pub(crate) fn render(samples: Vec<Sample>) -> String {
    let mut families: BTreeMap<&str, Rows<'_>> = BTreeMap::new();
    for s in samples {
        debug_assert!(
            FAMILIES.iter().any(|f| f.name == s.family),
            "unlisted metric {}",
            s.family
        );
        *families
            .entry(s.family)
            .or_default()
            .entry((s.labels, s.suffix))
            .or_default() += s.value;
    }
    let mut out = String::new();
    for family in FAMILIES {
        let Some(rows) = families.get(family.name) else {
            continue;
        };
        let _ = writeln!(out, "# HELP {} {}", family.name, family.help);
        let _ = writeln!(out, "# TYPE {} {}", family.name, family.kind);
        for ((labels, suffix), value) in sort_buckets(rows) {
            let _ = writeln!(
                out,
                "{}{suffix}{} {value}",
                family.name,
                render_labels(labels)
            );
        }
    }
    out
}

/// The samples of a family, by labels and suffix.
type Rows<'a> = BTreeMap<(Vec<(&'a str, String)>, &'a str), f64>;
type Row<'a> = (&'a Vec<(&'a str, String)>, &'a str);

/// Buckets in the order of their bounds, which as text they are not.
fn sort_buckets<'a>(rows: &'a Rows<'a>) -> Vec<(Row<'a>, f64)> {
    let mut rows: Vec<_> = rows.iter().map(|((l, s), v)| ((l, *s), *v)).collect();
    rows.sort_by(|((a, sa), _), ((b, sb), _)| {
        let rest = |l: &Vec<(&str, String)>| -> Vec<(String, String)> {
            let keep = l.iter().filter(|(n, _)| *n != "le");
            keep.map(|(n, v)| ((*n).to_owned(), v.clone())).collect()
        };
        let bound = |l: &Vec<(&str, String)>| -> f64 {
            let le = l.iter().find(|(n, _)| *n == "le").map(|(_, v)| v.as_str());
            le.map_or(0.0, |v| v.parse().unwrap_or(f64::INFINITY))
        };
        let key = rest(a).cmp(&rest(b)).then(sa.cmp(sb));
        key.then(bound(a).total_cmp(&bound(b)))
    });
    rows
}

fn render_labels(labels: &[(&str, String)]) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let escape = |v: &str| {
        v.replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n")
    };
    let pairs: Vec<String> = labels
        .iter()
        .map(|(n, v)| format!("{n}=\"{}\"", escape(v)))
        .collect();
    format!("{{{}}}", pairs.join(","))
}

/// Counts of one topic on one shard.
#[derive(Debug, Default)]
pub(crate) struct TopicCounters {
    pub(crate) records_in: Counter,
    pub(crate) bytes_in: Counter,
    pub(crate) records_out: Counter,
    pub(crate) bytes_out: Counter,
    pub(crate) rejected: Counter,
}

/// Counters of one Kafka API on one shard.
#[derive(Debug, Default)]
pub(crate) struct ApiCounters {
    pub(crate) requests: Counter,
    pub(crate) request_bytes: Counter,
    pub(crate) answer_bytes: Counter,
    pub(crate) latency: Histogram,
}

/// The label under which topics are counted together that have none of their own; no topic can have this name.
const OTHER_TOPICS: &str = "(other)";

/// Which topics have labels of their own, the same on every shard: the first so many to be used. It is asked when a shard
/// counts something of a topic for the first time.
#[derive(Debug)]
pub(crate) struct TopicLabels {
    max: usize,
    names: Mutex<BTreeSet<String>>,
}

impl TopicLabels {
    /// Labels for at most `max` topics.
    pub(crate) fn new(max: usize) -> TopicLabels {
        TopicLabels {
            max,
            names: Mutex::default(),
        }
    }

    fn take(&self, name: &str) -> bool {
        let mut names = self
            .names
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        names.contains(name) || names.len() < self.max && names.insert(name.to_owned())
    }

    fn give_back(&self, name: &str) {
        let mut names = self
            .names
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        names.remove(name);
    }
}

/// Counters of one shard.
#[derive(Debug)]
pub(crate) struct ShardMetrics {
    pub(crate) connections: Cell<i64>,
    connections_refused: RefCell<BTreeMap<&'static str, u64>>,
    pub(crate) malformed_requests: Counter,
    pub(crate) stalled_connections: Counter,
    pub(crate) idle_connections: Counter,
    pub(crate) outbox_dropped: Counter,
    apis: RefCell<BTreeMap<&'static str, Rc<ApiCounters>>>,
    topics: RefCell<BTreeMap<String, Rc<TopicCounters>>>,
    /// What topics without a label of their own are counted in.
    other_topics: Rc<TopicCounters>,
    labels: Arc<TopicLabels>,
}

impl ShardMetrics {
    /// Nothing is counted yet.
    pub(crate) fn new(labels: Arc<TopicLabels>) -> ShardMetrics {
        ShardMetrics {
            connections: Cell::default(),
            connections_refused: RefCell::default(),
            malformed_requests: Counter::default(),
            stalled_connections: Counter::default(),
            idle_connections: Counter::default(),
            outbox_dropped: Counter::default(),
            apis: RefCell::default(),
            topics: RefCell::default(),
            other_topics: Rc::default(),
            labels,
        }
    }

    /// The counters of the API `name`.
    pub(crate) fn api(&self, name: &'static str) -> Rc<ApiCounters> {
        let mut apis = self.apis.borrow_mut();
        apis.entry(name).or_default().clone()
    }

    /// Counts a connection that was refused for `reason`.
    pub(crate) fn refused_connection(&self, reason: &'static str) {
        *self
            .connections_refused
            .borrow_mut()
            .entry(reason)
            .or_default() += 1;
    }

    /// The counters of topic `name`.
    pub(crate) fn topic(&self, name: &str) -> Rc<TopicCounters> {
        let mut topics = self.topics.borrow_mut();
        if let Some(counters) = topics.get(name) {
            return counters.clone();
        }
        let counters = match self.labels.take(name) {
            true => Rc::default(),
            false => self.other_topics.clone(),
        };
        topics.entry(name.to_owned()).or_insert(counters).clone()
    }

    /// The label of topic `name`: its own, or that of all others.
    pub(crate) fn topic_label(&self, name: &str) -> String {
        let own = self.labels.take(name);
        if own { name } else { OTHER_TOPICS }.to_owned()
    }

    /// Forgets the counters of topics for which `exists` says no.
    pub(crate) fn retain_topics(&self, exists: impl Fn(&str) -> bool) {
        self.topics.borrow_mut().retain(|name, _| {
            let exists = exists(name);
            if !exists {
                self.labels.give_back(name);
            }
            exists
        });
    }

    /// Adds this shard's samples to `out`.
    pub(crate) fn collect(&self, out: &mut Vec<Sample>) {
        let mut plain = |family, value: f64| out.push(Sample::plain(family, Vec::new(), value));
        plain("tidemill_connections", self.connections.get() as f64);
        plain(
            "tidemill_malformed_requests_total",
            self.malformed_requests.get() as f64,
        );
        plain(
            "tidemill_stalled_connections_total",
            self.stalled_connections.get() as f64,
        );
        plain(
            "tidemill_idle_connections_closed_total",
            self.idle_connections.get() as f64,
        );
        plain(
            "tidemill_outbox_dropped_total",
            self.outbox_dropped.get() as f64,
        );
        for (reason, count) in self.connections_refused.borrow().iter() {
            let labels = vec![("reason", (*reason).to_owned())];
            out.push(Sample::plain(
                "tidemill_connections_refused_total",
                labels,
                *count as f64,
            ));
        }
        for (api, counters) in self.apis.borrow().iter() {
            let labels = vec![("api", (*api).to_owned())];
            let mut plain = |family, counter: &Counter| {
                out.push(Sample::plain(family, labels.clone(), counter.get() as f64));
            };
            plain("tidemill_requests_total", &counters.requests);
            plain("tidemill_request_bytes_total", &counters.request_bytes);
            plain("tidemill_answer_bytes_total", &counters.answer_bytes);
            counters
                .latency
                .collect("tidemill_request_latency_seconds", &labels, out);
        }
        for (topic, counters) in self.topics.borrow().iter() {
            if !Rc::ptr_eq(counters, &self.other_topics) {
                counters.collect(topic, out);
            }
        }
        self.other_topics.collect(OTHER_TOPICS, out);
    }
}

impl TopicCounters {
    fn collect(&self, topic: &str, out: &mut Vec<Sample>) {
        let mut plain = |family, counter: &Counter| {
            let labels = vec![("topic", topic.to_owned())];
            out.push(Sample::plain(family, labels, counter.get() as f64));
        };
        plain("tidemill_topic_records_in_total", &self.records_in);
        plain("tidemill_topic_bytes_in_total", &self.bytes_in);
        plain("tidemill_topic_records_out_total", &self.records_out);
        plain("tidemill_topic_bytes_out_total", &self.bytes_out);
        plain("tidemill_topic_rejected_total", &self.rejected);
    }
}

/// The page of the guide, from the same table.
#[cfg(test)]
fn page() -> String {
    let mut out = String::from(
        "# Metrics\n\n\
         <!-- Written by `TIDEMILL_UPDATE=1 cargo test --workspace --locked --bin tidemill -- metrics::` from the table of\n\
         metrics; a test holds it equal. -->\n\n\
         `GET /metrics` of the admin address answers in the Prometheus text format. Every value is of this node, its shards added\n\
         up. Units are seconds and bytes; what ends in `_total` only grows, and begins anew with the process; what\n\
         begins with `tidemill_transform_` also with each deploy of the transform.\n\
         `rate()` and `increase()` of Prometheus know that. A counter of something that has not happened yet may be missing.\n\n\
         Label sets are bounded: `api` by Kafka's APIs, `transform` by the transforms deployed, `topic` by `metrics.topics_max`:\n\
         the first so many topics that are used have labels of their own, the others are counted together as `(other)`.\n\n\
         A dashboard for Grafana is in `deploy/grafana/tidemill.json`, alerts are in `deploy/prometheus/alerts.yml`.\n\n\
         | metric | type | labels | what it says |\n|---|---|---|---|\n",
    );
    for family in FAMILIES {
        let labels: Vec<String> = family.labels.iter().map(|l| format!("`{l}`")).collect();
        let _ = writeln!(
            out,
            "| `{}` | {} | {} | {} |",
            family.name,
            family.kind,
            labels.join(", "),
            family.help
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn render_adds_up_shards_and_orders_buckets_by_bound() {
        let shard = ShardMetrics::new(Arc::new(TopicLabels::new(10)));
        shard.topic("a\"b").records_in.add(2);
        shard
            .api("Produce")
            .latency
            .observe(Duration::from_millis(3));
        let mut samples = Vec::new();
        shard.collect(&mut samples);
        shard.collect(&mut samples);
        let text = render(samples);
        assert!(text.contains("tidemill_topic_records_in_total{topic=\"a\\\"b\"} 4"));
        assert!(
            text.contains(
                "tidemill_request_latency_seconds_bucket{api=\"Produce\",le=\"0.005\"} 2"
            )
        );
        let at = |s: &str| text.find(s).unwrap();
        assert!(at("le=\"0.0001\"") < at("le=\"0.00025\"") && at("le=\"5\"") < at("le=\"+Inf\""));
        assert!(!text.contains("le=\"0.0025\"} 2"));
    }

    #[test]
    fn topics_beyond_the_limit_are_counted_together_and_alike_on_every_shard() {
        let labels = Arc::new(TopicLabels::new(2));
        let shards = [(); 2].map(|()| ShardMetrics::new(labels.clone()));
        for (shard, names) in shards
            .iter()
            .zip([["a", "b", "c", "d"], ["d", "c", "b", "a"]])
        {
            names
                .iter()
                .for_each(|name| shard.topic(name).records_in.add(1));
        }
        let mut samples = Vec::new();
        shards.iter().for_each(|shard| shard.collect(&mut samples));
        let text = render(samples);
        for (topic, count) in [("a", 2), ("b", 2), ("(other)", 4)] {
            assert!(
                text.contains(&format!(
                    "tidemill_topic_records_in_total{{topic=\"{topic}\"}} {count}\n"
                )),
                "{text}"
            );
        }
        assert!(!text.contains("\"c\"") && !text.contains("\"d\""));
        shards
            .iter()
            .for_each(|shard| shard.retain_topics(|name| name != "a"));
        assert_eq!(shards[0].topic_label("e"), "e");
    }

    #[test]
    fn families_follow_the_conventions_and_are_listed_once() {
        let mut seen = BTreeSet::new();
        for family in FAMILIES {
            assert!(seen.insert(family.name), "{} is there twice", family.name);
            assert_eq!(
                family.name.ends_with("_total"),
                family.kind == "counter",
                "{}",
                family.name
            );
            let wrong_unit = ["_ms", "_us", "_kb", "_mb", "_nanos", "_millis"];
            assert!(
                !wrong_unit.iter().any(|unit| family.name.contains(unit)),
                "{}",
                family.name
            );
            assert!(
                family.help.ends_with('.') && !family.help.contains(['\n', '|']),
                "{}",
                family.name
            );
            let ours = family.name.starts_with("tidemill_") || family.name.starts_with("process_");
            assert!(
                ours && ["counter", "gauge", "histogram"].contains(&family.kind),
                "{}",
                family.name
            );
        }
    }

    #[test]
    fn page_of_the_guide_is_what_the_table_says() {
        crate::guide::assert_page("metrics.md", &page());
    }
}
