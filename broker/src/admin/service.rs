//! What the admin API asks of the broker, and how it is told that something went wrong.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;

use super::records::{NewRecord, ReadQuery, ReadRecords};
use super::types::{
    ClusterInfo, CreateTopic, DeployCheck, DeployRequest, Deployed, LogLines, LogQuery,
    ModuleStored, Moved, Produced, RollbackRequest, SeekRequest, TopicDetail, TopicList,
    TopicSummary, TransformDetail, TransformList, TransformStateChanged, VersionList,
};

/// A future that the control thread runs.
pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A future of an answer.
pub(crate) type Answer<'a, T> = BoxFuture<'a, Result<T, ApiError>>;

/// Why a request was refused or failed, as the client is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub(crate) struct ApiError {
    /// HTTP status.
    pub(crate) status: u16,
    /// A stable word for programs, such as `topic_not_found`.
    pub(crate) code: Cow<'static, str>,
    /// A sentence for people: what is wrong and what to do.
    pub(crate) message: String,
}

impl ApiError {
    /// An error with any status.
    pub(crate) fn new(
        status: u16,
        code: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) -> ApiError {
        ApiError {
            status,
            code: code.into(),
            message: message.into(),
        }
    }

    /// 400: the request makes no sense.
    pub(crate) fn bad_request(code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError::new(400, code, message)
    }

    /// 404: what it names is not there.
    pub(crate) fn not_found(code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError::new(404, code, message)
    }

    /// 409: what is there stands against it.
    pub(crate) fn conflict(code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError::new(409, code, message)
    }

    /// 422 `module_refused`: the module is not one that can run.
    pub(crate) fn module_refused(message: impl Into<String>) -> ApiError {
        ApiError::new(422, "module_refused", message)
    }

    /// 503: not now; the client may try again.
    pub(crate) fn unavailable(code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError::new(503, code, message)
    }

    /// 500: a fault of the broker.
    pub(crate) fn internal(message: impl Into<String>) -> ApiError {
        ApiError::new(500, "internal", message)
    }
}

/// The broker as the admin API sees it: one method for each route.
///
/// Called on the control thread; the futures run there too and must not block it. A future may be dropped
/// before it is done (the client went away, the request timed out): what it had begun then ends either way.
pub(crate) trait AdminService: Send + Sync {
    /// `GET /v1/cluster`.
    fn cluster(&self) -> Answer<'_, ClusterInfo>;
    /// `GET /v1/topics`.
    fn topics(&self) -> Answer<'_, TopicList>;
    /// `POST /v1/topics`.
    fn create_topic(&self, request: CreateTopic) -> Answer<'_, TopicSummary>;
    /// `GET /v1/topics/{name}`.
    fn topic(&self, name: String) -> Answer<'_, TopicDetail>;
    /// `DELETE /v1/topics/{name}`.
    fn delete_topic(&self, name: String) -> Answer<'_, ()>;
    /// `POST /v1/topics/{name}/records`. All records of a partition are written in the order given.
    fn produce(&self, topic: String, records: Vec<NewRecord>) -> Answer<'_, Produced>;
    /// `GET /v1/topics/{name}/records`.
    fn read(&self, topic: String, query: ReadQuery) -> Answer<'_, ReadRecords>;
    /// `PUT /v1/modules`.
    fn store_module(&self, wasm: Bytes) -> Answer<'_, ModuleStored>;
    /// `GET /v1/transforms`.
    fn transforms(&self) -> Answer<'_, TransformList>;
    /// `PUT /v1/transforms/{name}`.
    fn deploy(&self, name: String, request: DeployRequest) -> Answer<'_, Deployed>;
    /// `POST /v1/transforms/{name}/check`.
    fn check_deploy(&self, name: String, request: DeployRequest) -> Answer<'_, DeployCheck>;
    /// `GET /v1/transforms/{name}/versions`.
    fn versions(&self, name: String) -> Answer<'_, VersionList>;
    /// `POST /v1/transforms/{name}/rollback`.
    fn rollback(&self, name: String, request: RollbackRequest) -> Answer<'_, Deployed>;
    /// `POST /v1/transforms/{name}/seek`.
    fn seek(&self, name: String, request: SeekRequest) -> Answer<'_, Moved>;
    /// `GET /v1/transforms/{name}`.
    fn transform(&self, name: String) -> Answer<'_, TransformDetail>;
    /// `POST /v1/transforms/{name}/pause`.
    fn pause(&self, name: String) -> Answer<'_, TransformStateChanged>;
    /// `POST /v1/transforms/{name}/resume`.
    fn resume(&self, name: String) -> Answer<'_, TransformStateChanged>;
    /// `DELETE /v1/transforms/{name}`.
    fn delete_transform(&self, name: String) -> Answer<'_, ()>;
    /// `GET /v1/transforms/{name}/logs`.
    fn logs(&self, name: String, query: LogQuery) -> Answer<'_, LogLines>;
    /// `GET /metrics`: the whole text in Prometheus' exposition format 0.0.4.
    fn metrics(&self) -> BoxFuture<'_, String>;
    /// `GET /health`: `Ok` while clients are served, with what limits that; else why they are not.
    fn health(&self) -> BoxFuture<'_, Result<Option<String>, String>>;
}
