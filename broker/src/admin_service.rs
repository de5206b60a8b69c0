//! The admin API's questions, answered by the shards.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tidemill_controller::{Topic, configs};
use tidemill_model::topic_name;
use tidemill_rt::task;
use tidemill_rt::time::Instant;
use tidemill_wasm_host::Factory;

use crate::admin::records::{NewRecord, ReadQuery, ReadRecords};
use crate::admin::types::{
    ClusterInfo, CreateTopic, DeployCheck, DeployRequest, Deployed, LogLines, LogQuery,
    ModuleStored, Moved, PartitionDetail, Produced, RollbackRequest, SeekRequest, TopicDetail,
    TopicList, TopicSummary, TransformDetail, TransformList, TransformState, TransformStateChanged,
    VersionList,
};
use crate::admin::{AdminService, Answer, ApiError, BoxFuture};
use crate::ask::PARTITIONS_PER_TURN;
use crate::metrics::{self, Sample};
use crate::records::{api_error, gone, nothing_to_delete, topic_not_found};
use crate::shard::{NodeInfo, Shard, ShardHandle};
use crate::topics::{CONTROLLER_SHARD, NewTopic};
use crate::transforms::modules;

/// Answers the admin API from the control thread.
pub(crate) struct Service {
    handle: ShardHandle,
    info: Arc<NodeInfo>,
    factory: Factory,
}

impl Service {
    /// A service over the shards behind `handle`.
    pub(crate) fn new(handle: ShardHandle, info: Arc<NodeInfo>, factory: Factory) -> Service {
        Service {
            handle,
            info,
            factory,
        }
    }

    /// Runs `f` on shard 0.
    async fn ask<T, F, Fut>(&self, f: F) -> Result<T, ApiError>
    where
        T: Send + 'static,
        F: FnOnce(Rc<Shard>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, ApiError>> + 'static,
    {
        self.handle.on(CONTROLLER_SHARD, f).await.map_err(gone)?
    }
}

fn summary(topic: &Topic) -> TopicSummary {
    TopicSummary {
        name: topic.name.clone(),
        id: topic.id.to_string(),
        partitions: topic.partition_count(),
        replicas: topic.replicas,
        internal: topic_name::is_internal(&topic.name),
    }
}

async fn topic_detail(shard: Rc<Shard>, name: String) -> Result<TopicDetail, ApiError> {
    let topic = shard
        .image()
        .topic(&name)
        .cloned()
        .ok_or_else(|| topic_not_found(&name))?;
    let mut partitions = Vec::new();
    let standings = shard.standings(&topic).await?;
    for (index, (ring, view)) in topic.rings.iter().zip(standings).enumerate() {
        if index % PARTITIONS_PER_TURN == PARTITIONS_PER_TURN - 1 {
            task::yield_now().await;
        }
        partitions.push(PartitionDetail {
            index: index as i32,
            ring: *ring,
            shard: tidemill_model::RingId(*ring).shard(shard.info.shards).0,
            leader: shard.info.node.0,
            log_start_offset: view.log_start_offset,
            high_watermark: view.high_watermark,
            bytes: view.bytes,
        });
    }
    let all = configs::CONFIGS.iter();
    let effective = |d: &configs::ConfigDef| {
        (
            d.name.to_owned(),
            shard
                .info
                .topic_defaults
                .value(&topic.configs, d.name)
                .to_owned(),
        )
    };
    Ok(TopicDetail {
        name,
        id: topic.id.to_string(),
        configs: all.map(effective).collect::<BTreeMap<_, _>>(),
        partitions,
    })
}

impl AdminService for Service {
    fn cluster(&self) -> Answer<'_, ClusterInfo> {
        let info = self.info.clone();
        Box::pin(async move {
            Ok(ClusterInfo {
                cluster_id: info.cluster_id.clone(),
                node_id: info.node.0,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                runtime: info.engine.to_owned(),
                shards: info.shards,
                kafka_address: format!("{}:{}", info.advertised.host, info.advertised.port),
            })
        })
    }

    fn topics(&self) -> Answer<'_, TopicList> {
        Box::pin(self.ask(|shard| async move {
            let image = shard.image();
            Ok(TopicList {
                topics: image.topics().map(|t| summary(t)).collect(),
            })
        }))
    }

    fn create_topic(&self, request: CreateTopic) -> Answer<'_, TopicSummary> {
        Box::pin(self.ask(move |shard| async move {
            let new = NewTopic {
                name: request.name,
                partitions: request.partitions,
                replicas: request.replicas,
                configs: request.configs,
                beside: None,
            };
            let topic = shard.create_topic(new).await.map_err(api_error)?;
            Ok(summary(&topic))
        }))
    }

    fn topic(&self, name: String) -> Answer<'_, TopicDetail> {
        Box::pin(self.ask(move |shard| topic_detail(shard, name)))
    }

    fn delete_topic(&self, name: String) -> Answer<'_, ()> {
        Box::pin(self.ask(move |shard| async move {
            let topic = shard
                .image()
                .topic(&name)
                .cloned()
                .ok_or_else(|| nothing_to_delete(&name))?;
            shard.delete_topic(topic.id).await.map_err(api_error)
        }))
    }

    fn produce(&self, topic: String, records: Vec<NewRecord>) -> Answer<'_, Produced> {
        Box::pin(self.ask(move |shard| async move { shard.produce_records(&topic, records).await }))
    }

    fn read(&self, topic: String, query: ReadQuery) -> Answer<'_, ReadRecords> {
        Box::pin(self.ask(move |shard| async move { shard.read_records(&topic, query).await }))
    }

    fn store_module(&self, wasm: Bytes) -> Answer<'_, ModuleStored> {
        Box::pin(async move {
            let began = Instant::now();
            let hash = modules::hash(&wasm);
            let bytes = wasm.len() as u64;
            // Compiling takes long: what cannot be kept is refused before.
            self.ask(|shard| async move { refuse_without_room(&shard) })
                .await?;
            // Refused modules are not kept.
            match self.factory.load(wasm.clone()).recv().await {
                Some(Ok(_)) => {}
                Some(Err(e)) => return Err(ApiError::module_refused(e.to_string())),
                None => {
                    return Err(ApiError::unavailable(
                        "shutting_down",
                        "the broker is shutting down",
                    ));
                }
            }
            let compiled_ms = began.elapsed().as_millis() as u64;
            let name = hash.clone();
            let stored = self.ask(move |shard| async move {
                // Two uploads of one module would write the same file.
                let _turn = shard.module_changes.acquire(1).await;
                refuse_without_room(&shard)?;
                let cached = modules::store(&shard.info.modules_dir, wasm).await?;
                shard.transforms.modules.stored(&name, bytes);
                Ok(cached)
            });
            let cached = stored.await?;
            Ok(ModuleStored {
                hash,
                bytes,
                compiled_ms: if cached { 0 } else { compiled_ms },
                cached,
            })
        })
    }

    fn transforms(&self) -> Answer<'_, TransformList> {
        Box::pin(self.ask(|shard| async move {
            let transforms = shard.transform_list().await?;
            Ok(TransformList { transforms })
        }))
    }

    fn deploy(&self, name: String, request: DeployRequest) -> Answer<'_, Deployed> {
        Box::pin(self.ask(move |shard| async move { shard.deploy(name, request).await }))
    }

    fn check_deploy(&self, name: String, request: DeployRequest) -> Answer<'_, DeployCheck> {
        Box::pin(self.ask(move |shard| async move { shard.check_deploy(name, request).await }))
    }

    fn versions(&self, name: String) -> Answer<'_, VersionList> {
        Box::pin(self.ask(move |shard| async move { shard.transform_versions(name).await }))
    }

    fn rollback(&self, name: String, request: RollbackRequest) -> Answer<'_, Deployed> {
        Box::pin(self.ask(move |shard| async move { shard.rollback(name, request).await }))
    }

    fn seek(&self, name: String, request: SeekRequest) -> Answer<'_, Moved> {
        Box::pin(self.ask(move |shard| async move { shard.seek(name, request).await }))
    }

    fn transform(&self, name: String) -> Answer<'_, TransformDetail> {
        Box::pin(self.ask(move |shard| async move { shard.transform_detail(&name).await }))
    }

    fn pause(&self, name: String) -> Answer<'_, TransformStateChanged> {
        Box::pin(self.ask(move |shard| async move {
            shard.set_paused(name.clone(), true).await?;
            let state = TransformState::Paused;
            Ok(TransformStateChanged { name, state })
        }))
    }

    fn resume(&self, name: String) -> Answer<'_, TransformStateChanged> {
        Box::pin(self.ask(move |shard| async move {
            shard.set_paused(name.clone(), false).await?;
            let state = TransformState::Running;
            Ok(TransformStateChanged { name, state })
        }))
    }

    fn delete_transform(&self, name: String) -> Answer<'_, ()> {
        Box::pin(self.ask(move |shard| async move { shard.delete_transform(name).await }))
    }

    fn logs(&self, name: String, query: LogQuery) -> Answer<'_, LogLines> {
        Box::pin(self.ask(move |shard| async move { shard.transform_logs(name, query).await }))
    }

    fn metrics(&self) -> BoxFuture<'_, String> {
        Box::pin(async move {
            let parts = self.handle.on_all(|shard| {
                let mut samples = Vec::new();
                shard.collect(&mut samples);
                async move { samples }
            });
            let mut samples: Vec<Sample> = parts
                .await
                .unwrap_or_default()
                .into_iter()
                .flatten()
                .collect();
            let labels = vec![
                ("runtime", self.info.engine.to_owned()),
                ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ];
            samples.push(Sample::plain("tidemill_build_info", labels, 1.0));
            let failures = self.factory.compile_failures() as f64;
            samples.push(Sample::plain(
                "tidemill_compile_failures_total",
                Vec::new(),
                failures,
            ));
            crate::process::collect(&mut samples);
            let space = self.handle.on(CONTROLLER_SHARD, |shard| async move {
                tidemill_rt::fs::space(&shard.info.data_dir).await
            });
            if let Ok(Ok(space)) = space.await {
                let bytes = space.total_bytes as f64;
                samples.push(Sample::plain("tidemill_disk_bytes", Vec::new(), bytes));
            }
            crate::log::collect(&mut samples);
            metrics::render(samples)
        })
    }

    fn health(&self) -> BoxFuture<'_, Result<Option<String>, String>> {
        Box::pin(async move {
            let ready = self.handle.on(CONTROLLER_SHARD, |shard| async move {
                let full = shard.log().space().is_full();
                (
                    shard.is_ready(),
                    full.then(|| disk_full(shard.log().space())),
                )
            });
            match ready.await {
                Ok((true, trouble)) => Ok(trouble),
                Ok((false, _)) => Err("starting: partitions are being opened".to_owned()),
                Err(e) => Err(e.to_string()),
            }
        })
    }
}

/// Refuses what would take room on a full disk.
fn refuse_without_room(shard: &Shard) -> Result<(), ApiError> {
    match shard.log().space().is_full() {
        true => Err(ApiError::unavailable(
            "disk_full",
            disk_full(shard.log().space()),
        )),
        false => Ok(()),
    }
}

/// What is to be said of a disk that is full.
pub(crate) fn disk_full(space: &tidemill_shardlog::Space) -> String {
    format!(
        "the disk is full: {} MiB are free, {} MiB are kept for what must go on; writes are refused, reads go on. Delete topics or \
         records, shorten retention, or make the disk larger",
        space.available().unwrap_or(0) >> 20,
        space.reserve() >> 20
    )
}

impl Shard {
    /// What the write-ahead log and the disk say.
    fn collect_disk(&self, out: &mut Vec<Sample>) {
        let mut plain =
            |family, value: u64| out.push(Sample::plain(family, Vec::new(), value as f64));
        let log = self.log().stats();
        plain("tidemill_log_bytes", log.disk_bytes);
        plain("tidemill_log_appended_bytes_total", log.appended_bytes);
        plain("tidemill_log_syncs_total", log.syncs);
        plain("tidemill_log_recycled_files_total", log.recycled_files);
        plain("tidemill_log_carried_bytes_total", log.carried_bytes);
        plain("tidemill_log_full_waits_total", log.full_waits);
        let space = self.log().space();
        plain("tidemill_disk_refused_writes_total", space.refused_total());
        if self.id == CONTROLLER_SHARD {
            // All shards are on one file system, and samples of shards are added up.
            plain("tidemill_disk_full", u64::from(space.is_full()));
            plain("tidemill_disk_reserve_bytes", space.reserve());
            if let Some(available) = space.available() {
                plain("tidemill_disk_available_bytes", available);
            }
        }
        plain("tidemill_log_queued_bytes", log.queued_bytes);
        let seconds = log.write_nanos as f64 / 1e9;
        out.push(Sample::plain(
            "tidemill_log_write_seconds_total",
            Vec::new(),
            seconds,
        ));
    }

    /// Adds what the budgets of this shard allow to `out`.
    fn collect_limits(&self, out: &mut Vec<Sample>) {
        let m = &self.info.settings.memory;
        let limits = [
            ("requests", m.small_requests + m.large_requests),
            ("answers", m.answers),
            ("unflushed", m.unflushed),
            ("cache", m.cache),
            ("outbox", m.outbox),
            ("transforms", self.info.settings.transforms.memory as u64),
        ];
        for (budget, bytes) in limits {
            let labels = vec![("budget", budget.to_owned())];
            out.push(Sample::plain(
                "tidemill_memory_limit_bytes",
                labels,
                bytes as f64,
            ));
        }
    }

    /// Adds what the rings of this shard count to `out`.
    fn collect_rings(&self, out: &mut Vec<Sample>) {
        let mut plain =
            |family, value: u64| out.push(Sample::plain(family, Vec::new(), value as f64));
        for (_, ring) in self.rings() {
            let stats = ring.stats();
            plain("tidemill_outbox_bytes", stats.outbox_bytes);
            plain("tidemill_outbox_waits_total", stats.outbox_waits_total);
            plain("tidemill_checkpoints_total", stats.checkpoints_total);
            plain(
                "tidemill_segment_failures_total",
                stats.segment_failures_total,
            );
            plain(
                "tidemill_partitions_set_aside",
                stats.partitions_set_aside as u64,
            );
            plain("tidemill_segment_damage_total", stats.segment_damage_total);
            plain(
                "tidemill_checkpoint_failures_total",
                stats.checkpoint_failures_total,
            );
            plain("tidemill_files_removed_total", stats.files_removed_total);
            plain("tidemill_removals_waiting", stats.removals_waiting as u64);
            plain(
                "tidemill_removal_failures_total",
                stats.removal_failures_total,
            );
            plain(
                "tidemill_producers_evicted_total",
                stats.producers_evicted_total,
            );
            plain(
                "tidemill_unflushed_given_up_total",
                stats.writes_given_up_total,
            );
            plain("tidemill_partitions", stats.partitions as u64);
            plain("tidemill_rings", 1);
            let leaderless = !ring.leadership().borrow().leading;
            plain("tidemill_rings_without_leader", u64::from(leaderless));
        }
        if let Some((_, ring)) = self.rings().next() {
            // The rings of a shard share its budgets.
            let memory = ring.stats().memory;
            plain("tidemill_unflushed_bytes", memory.unflushed_bytes);
            plain("tidemill_unflushed_waits_total", memory.waits_total);
            plain(
                "tidemill_deliveries_refused_total",
                memory.deliveries_refused_total,
            );
            plain("tidemill_cache_bytes", memory.cached_bytes);
        }
    }

    /// Adds everything this shard counts to `out`.
    pub(crate) fn collect(&self, out: &mut Vec<Sample>) {
        self.metrics.collect(out);
        self.fetch_sessions.collect(out);
        self.collect_transforms(out);
        self.collect_modules(out);
        self.collect_disk(out);
        self.collect_limits(out);
        self.kafka_memory.collect(out);
        self.groups.collect(out);
        let mut plain =
            |family, value: u64| out.push(Sample::plain(family, Vec::new(), value as f64));
        plain(
            "tidemill_unpacking_waits_total",
            self.unpacking.waits_total(),
        );
        self.collect_rings(out);
        let image = self.image();
        for (_, ring) in self.rings() {
            for partition in ring.partitions() {
                let topic = image.topic_by_id(partition.topic);
                if let (Some(topic), Some(view)) = (topic, ring.view(partition)) {
                    let labels = vec![("topic", self.metrics.topic_label(&topic.name))];
                    out.push(Sample::plain(
                        "tidemill_topic_bytes",
                        labels,
                        view.bytes as f64,
                    ));
                }
            }
        }
    }
}
