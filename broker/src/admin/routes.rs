//! The routes of the admin API: each checks its input, asks the service, renders the answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Bytes, HttpBody as _};
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Query, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use bytes::BytesMut;
use futures_util::stream::StreamExt;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::connection::Place;
use super::guard::Guard;
use super::records::{ReadQuery, parse_lines};
use super::service::{AdminService, Answer, ApiError};
use super::types::{LogLevel, LogQuery};

/// Bytes of a module.
pub(super) const MODULE_BYTES_MAX: usize = 64 << 20;
/// Bytes of a request that writes records.
pub(super) const RECORDS_BYTES_MAX: usize = 16 << 20;
/// Bytes of a request that reads records: it may say a position for each of 100,000 partitions.
const POSITIONS_BYTES_MAX: usize = 4 << 20;
/// Bytes of any other request.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Requests under way at once; more are refused with 503.
pub(super) const REQUESTS_MAX: usize = 64;
/// Of these, requests that may wait for records or log lines; more are refused with 503, so that there is room for those
/// that do not wait.
pub(super) const WAITING_MAX: usize = 32;
/// Paths that whoever watches over the broker asks: they are answered however many other requests there are.
const WATCHED_PATHS: [&str; 2] = ["/health", "/metrics"];
/// Modules and records under way at once; more wait their turn, so that bodies cannot fill the memory.
const LARGE_REQUESTS_MAX: usize = 3;
/// Other bodies that arrive at once and are, or may be, larger than what every connection may have.
const ARRIVING_MAX: usize = 16;
/// Bytes of a body that every connection may have at any time.
const SMALL_BODY_BYTES_MAX: u64 = 64 << 10;
/// A body must arrive within this time and what its bytes take at the least rate, as requests of Kafka's clients must.
const BODY_TIME: Duration = Duration::from_secs(10);
const BODY_BYTES_PER_SECOND_MIN: u64 = 256 << 10;
/// A request that takes longer is given up.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// An upload is answered when its module is compiled, which a machine with other work does slowly.
pub(super) const UPLOAD_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// The longest wait a client may ask for, milliseconds.
const WAIT_MS_MAX: u64 = 30_000;
/// Records of one reading, at most and where none is said.
const READ_MAX: usize = 10_000;
const READ_DEFAULT: usize = 500;
/// Bytes of one reading.
const READ_BYTES_MAX: usize = 8 << 20;
/// Log lines of one reading, at most and where none is said.
const LOGS_MAX: usize = 1_000;
const LOGS_DEFAULT: usize = 200;
/// Characters of a transform's name.
const NAME_MAX: usize = 128;

struct Shared {
    guard: Guard,
    service: Arc<dyn AdminService>,
    requests: Semaphore,
    waiting: Semaphore,
    large: Semaphore,
    arriving: Semaphore,
    counts: Counts,
}

/// What happened to requests since the start.
#[derive(Default)]
struct Counts {
    served: AtomicU64,
    refused: AtomicU64,
    full: AtomicU64,
    timed_out: AtomicU64,
}

type App = State<Arc<Shared>>;
type Reply = Result<Response, ApiError>;
type Body = Result<Bytes, BytesRejection>;

/// Every route behind the guard and the limits.
pub(super) fn router(guard: Guard, service: Arc<dyn AdminService>) -> Router {
    let shared = Arc::new(Shared {
        guard,
        service,
        requests: Semaphore::new(REQUESTS_MAX),
        waiting: Semaphore::new(WAITING_MAX),
        large: Semaphore::new(LARGE_REQUESTS_MAX),
        arriving: Semaphore::new(ARRIVING_MAX),
        counts: Counts::default(),
    });
    let records = get(read)
        .post(produce)
        .layer(DefaultBodyLimit::max(RECORDS_BYTES_MAX));
    let positions = post(read_from).layer(DefaultBodyLimit::max(POSITIONS_BYTES_MAX));
    let modules = put(store_module).layer(DefaultBodyLimit::max(MODULE_BYTES_MAX));
    Router::new()
        .route("/v1/cluster", get(cluster))
        .route("/v1/topics", get(topics).post(create_topic))
        .route("/v1/topics/{name}", get(topic).delete(delete_topic))
        .route("/v1/topics/{name}/records", records)
        .route("/v1/topics/{name}/records/read", positions)
        .route("/v1/modules", modules)
        .route("/v1/transforms", get(transforms))
        .route(
            "/v1/transforms/{name}",
            put(deploy).get(transform).delete(delete_transform),
        )
        .route("/v1/transforms/{name}/check", post(check_deploy))
        .route("/v1/transforms/{name}/versions", get(versions))
        .route("/v1/transforms/{name}/rollback", post(rollback))
        .route("/v1/transforms/{name}/seek", post(seek))
        .route("/v1/transforms/{name}/pause", post(pause))
        .route("/v1/transforms/{name}/resume", post(resume))
        .route("/v1/transforms/{name}/logs", get(logs))
        .route("/metrics", get(metrics))
        .route("/health", get(health))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(shared.clone(), admit))
        .with_state(shared)
}

/// Guard, bounded concurrency and timeout around every request.
async fn admit(State(shared): App, request: Request, next: Next) -> Response {
    let reserved = is_reserved(&request);
    let mut response = match admitted(&shared, request, next).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    };
    let headers = response.headers_mut();
    if reserved {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(
        "cross-origin-resource-policy",
        HeaderValue::from_static("same-origin"),
    );
    response
}

/// Whether the request came on a connection that is kept for the watched paths.
fn is_reserved(request: &Request) -> bool {
    let place = request.extensions().get::<ConnectInfo<Place>>();
    place.is_some_and(|ConnectInfo(place)| *place == Place::Reserved)
}

async fn admitted(shared: &Shared, request: Request, next: Next) -> Reply {
    if let Err(error) = shared
        .guard
        .check(request.method(), request.uri(), request.headers())
    {
        shared.counts.refused.fetch_add(1, Ordering::Relaxed);
        return Err(error);
    }
    check_length(&request)?;
    let limit = time_limit(request.uri().path());
    match tokio::time::timeout(limit, served(shared, request, next)).await {
        Ok(reply) => reply,
        Err(_) => {
            shared.counts.timed_out.fetch_add(1, Ordering::Relaxed);
            Err(ApiError::unavailable(
                "timed_out",
                format!(
                    "no answer within {} s; what was asked may still happen, look before asking again",
                    limit.as_secs()
                ),
            ))
        }
    }
}

fn time_limit(path: &str) -> Duration {
    match path {
        "/v1/modules" => UPLOAD_TIMEOUT,
        _ => REQUEST_TIMEOUT,
    }
}

/// A request takes its place only when its body is there: those that do not come keep nobody out.
async fn served(shared: &Shared, request: Request, next: Next) -> Reply {
    if WATCHED_PATHS.contains(&request.uri().path()) {
        shared.counts.served.fetch_add(1, Ordering::Relaxed);
        return Ok(next.run(request).await);
    }
    if is_reserved(&request) {
        shared.counts.full.fetch_add(1, Ordering::Relaxed);
        return Err(ApiError::unavailable(
            "too_many_connections",
            "all connections of the admin API are in use; close some, raise admin.connections_max, or try again",
        ));
    }
    let (request, _turn) = arrived(shared, request).await?;
    let _place = shared.place(&shared.requests, REQUESTS_MAX)?;
    shared.counts.served.fetch_add(1, Ordering::Relaxed);
    Ok(next.run(request).await)
}

/// The request with its body whole, and the turn of a large one, which lasts until it is answered.
async fn arrived(
    shared: &Shared,
    request: Request,
) -> Result<(Request, Option<SemaphorePermit<'_>>), ApiError> {
    let limit = body_limit(request.uri().path());
    let small = request
        .body()
        .size_hint()
        .upper()
        .is_some_and(|most| most <= SMALL_BODY_BYTES_MAX);
    if small {
        return Ok((whole(request, limit).await?, None));
    }
    let turns = match limit {
        MODULE_BYTES_MAX | RECORDS_BYTES_MAX => &shared.large,
        _ => &shared.arriving,
    };
    let turn = turns.acquire().await.expect("it is never closed");
    let request = whole(request, limit).await?;
    // Once it is there, places bound how many small ones there are.
    let turn = (limit >= RECORDS_BYTES_MAX).then_some(turn);
    Ok((request, turn))
}

async fn whole(request: Request, limit: usize) -> Result<Request, ApiError> {
    let (head, body) = request.into_parts();
    let bytes = collect(body, limit, BODY_TIME).await?;
    Ok(Request::from_parts(head, axum::body::Body::from(bytes)))
}

/// All of `body`, if it has no more than `limit` bytes and arrives within `time` and what its bytes take at the least rate.
pub(super) async fn collect(
    body: axum::body::Body,
    limit: usize,
    time: Duration,
) -> Result<Bytes, ApiError> {
    let began = Instant::now();
    let mut body = body.into_data_stream();
    let mut whole = BytesMut::new();
    loop {
        let of_bytes = whole.len() as u64 * 1000 / BODY_BYTES_PER_SECOND_MIN;
        let due = began + time + Duration::from_millis(of_bytes);
        match tokio::time::timeout_at(due.into(), body.next()).await {
            Ok(None) => return Ok(whole.freeze()),
            Ok(Some(Ok(bytes))) if whole.len() + bytes.len() > limit => {
                return Err(body_too_large());
            }
            Ok(Some(Ok(bytes))) => whole.extend_from_slice(&bytes),
            Ok(Some(Err(_))) | Err(_) => return Err(body_incomplete()),
        }
    }
}

impl Shared {
    /// One of the `max` places of `places`, if one is free.
    fn place<'a>(
        &self,
        places: &'a Semaphore,
        max: usize,
    ) -> Result<SemaphorePermit<'a>, ApiError> {
        places.try_acquire().map_err(|_| {
            self.counts.full.fetch_add(1, Ordering::Relaxed);
            ApiError::unavailable(
                "too_many_requests",
                format!("{max} admin requests like this one are under way; try again in a moment"),
            )
        })
    }

    /// A place for a request that may wait `wait_ms`, if it needs one.
    fn place_to_wait(&self, wait_ms: u64) -> Result<Option<SemaphorePermit<'_>>, ApiError> {
        match wait_ms {
            0 => Ok(None),
            _ => self.place(&self.waiting, WAITING_MAX).map(Some),
        }
    }
}

/// Refuses a body that says it is too large before a byte of it is read; the extractors stop one that does not say.
fn check_length(request: &Request) -> Result<(), ApiError> {
    let length = request
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    match length {
        Some(length) if length > body_limit(request.uri().path()) as u64 => Err(body_too_large()),
        _ => Ok(()),
    }
}

/// Bytes that the body of a request for `path` may have.
fn body_limit(path: &str) -> usize {
    match path {
        "/v1/modules" => MODULE_BYTES_MAX,
        path if path.ends_with("/records") => RECORDS_BYTES_MAX,
        path if path.ends_with("/records/read") => POSITIONS_BYTES_MAX,
        _ => BODY_BYTES_MAX,
    }
}

fn body_incomplete() -> ApiError {
    ApiError::bad_request("body_incomplete", "the request's body did not arrive whole")
}

fn body_too_large() -> ApiError {
    ApiError::new(
        413,
        "body_too_large",
        format!(
            "a module may have {MODULE_BYTES_MAX} bytes, records {RECORDS_BYTES_MAX}, anything else {BODY_BYTES_MAX}"
        ),
    )
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: ErrorDetail<'a>,
}

#[derive(Serialize)]
struct ErrorDetail<'a> {
    code: &'a str,
    message: &'a str,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        json(
            status,
            &ErrorBody {
                error: ErrorDetail {
                    code: &self.code,
                    message: &self.message,
                },
            },
        )
    }
}

fn json<T: Serialize>(status: StatusCode, value: &T) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => (status, [(CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => {
            tracing::error!(%error, "an admin answer could not be written as JSON");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn answered<T: Serialize>(answer: Answer<'_, T>) -> Reply {
    Ok(json(StatusCode::OK, &answer.await?))
}

fn body(body: Body) -> Result<Bytes, ApiError> {
    body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => body_too_large(),
        _ => body_incomplete(),
    })
}

fn parsed<T: DeserializeOwned>(raw: Body) -> Result<T, ApiError> {
    let bytes = body(raw)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| ApiError::bad_request("invalid_json", error.to_string()))
}

fn query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, ApiError> {
    match query {
        Ok(Query(value)) => Ok(value),
        Err(rejection) => Err(ApiError::bad_request(
            "invalid_query",
            rejection.body_text(),
        )),
    }
}

async fn cluster(State(app): App) -> Reply {
    answered(app.service.cluster()).await
}

async fn topics(State(app): App) -> Reply {
    answered(app.service.topics()).await
}

async fn create_topic(State(app): App, raw: Body) -> Reply {
    let topic = app.service.create_topic(parsed(raw)?).await?;
    Ok(json(StatusCode::CREATED, &topic))
}

async fn topic(State(app): App, Path(name): Path<String>) -> Reply {
    answered(app.service.topic(name)).await
}

#[derive(Serialize)]
struct Deleted {
    name: String,
    deleted: bool,
}

async fn delete_topic(State(app): App, Path(name): Path<String>) -> Reply {
    app.service.delete_topic(name.clone()).await?;
    Ok(json(
        StatusCode::OK,
        &Deleted {
            name,
            deleted: true,
        },
    ))
}

async fn produce(State(app): App, Path(name): Path<String>, raw: Body) -> Reply {
    let bytes = body(raw)?;
    let records = parse_lines(&bytes)?;
    drop(bytes);
    answered(app.service.produce(name, records)).await
}

/// Where a reading begins that does not say it.
fn latest() -> String {
    "latest".to_owned()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadParameters {
    #[serde(default = "latest")]
    from: String,
    #[serde(default)]
    positions: String,
    max: Option<usize>,
    #[serde(default)]
    wait_ms: u64,
}

async fn read(
    State(app): App,
    Path(name): Path<String>,
    parameters: Result<Query<ReadParameters>, QueryRejection>,
) -> Reply {
    let parameters = query(parameters)?;
    let query = ReadQuery {
        from: parameters.from,
        positions: parse_positions(&parameters.positions)?,
        max: parameters.max.unwrap_or(READ_DEFAULT).clamp(1, READ_MAX),
        max_bytes: READ_BYTES_MAX,
        wait_ms: parameters.wait_ms.min(WAIT_MS_MAX),
    };
    let _place = app.place_to_wait(query.wait_ms)?;
    answered(app.service.read(name, query)).await
}

/// As [`ReadParameters`], in a body: positions of many partitions are too long for an address.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadBody {
    #[serde(default = "latest")]
    from: String,
    #[serde(default)]
    positions: BTreeMap<i32, i64>,
    max: Option<usize>,
    #[serde(default)]
    wait_ms: u64,
}

async fn read_from(State(app): App, Path(name): Path<String>, raw: Body) -> Reply {
    let asked: ReadBody = parsed(raw)?;
    if let Some((partition, offset)) = asked.positions.iter().find(|(p, o)| **p < 0 || **o < 0) {
        return Err(ApiError::bad_request(
            "invalid_positions",
            format!("partition {partition} and offset {offset} cannot be: neither is below 0"),
        ));
    }
    let query = ReadQuery {
        from: asked.from,
        positions: asked.positions,
        max: asked.max.unwrap_or(READ_DEFAULT).clamp(1, READ_MAX),
        max_bytes: READ_BYTES_MAX,
        wait_ms: asked.wait_ms.min(WAIT_MS_MAX),
    };
    let _place = app.place_to_wait(query.wait_ms)?;
    answered(app.service.read(name, query)).await
}

/// Positions as `PARTITION:OFFSET,...`.
fn parse_positions(text: &str) -> Result<BTreeMap<i32, i64>, ApiError> {
    let mut positions = BTreeMap::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let pair = part.split_once(':').and_then(|(partition, offset)| {
            let partition: i32 = partition.parse().ok().filter(|partition| *partition >= 0)?;
            let offset: i64 = offset.parse().ok().filter(|offset| *offset >= 0)?;
            Some((partition, offset))
        });
        let Some((partition, offset)) = pair else {
            return Err(ApiError::bad_request(
                "invalid_query",
                format!("`positions` is PARTITION:OFFSET,..., such as 0:5,1:7; {part:?} is not"),
            ));
        };
        if positions.insert(partition, offset).is_some() {
            return Err(ApiError::bad_request(
                "invalid_query",
                format!("`positions` names partition {partition} twice"),
            ));
        }
    }
    Ok(positions)
}

async fn store_module(State(app): App, raw: Body) -> Reply {
    answered(app.service.store_module(body(raw)?)).await
}

async fn transforms(State(app): App) -> Reply {
    answered(app.service.transforms()).await
}

async fn deploy(State(app): App, Path(name): Path<String>, raw: Body) -> Reply {
    check_transform_name(&name)?;
    answered(app.service.deploy(name, parsed(raw)?)).await
}

async fn check_deploy(State(app): App, Path(name): Path<String>, raw: Body) -> Reply {
    check_transform_name(&name)?;
    answered(app.service.check_deploy(name, parsed(raw)?)).await
}

async fn versions(State(app): App, Path(name): Path<String>) -> Reply {
    answered(app.service.versions(name)).await
}

async fn rollback(State(app): App, Path(name): Path<String>, raw: Body) -> Reply {
    answered(app.service.rollback(name, parsed(raw)?)).await
}

async fn seek(State(app): App, Path(name): Path<String>, raw: Body) -> Reply {
    answered(app.service.seek(name, parsed(raw)?)).await
}

fn check_transform_name(name: &str) -> Result<(), ApiError> {
    let fits = name.len() <= NAME_MAX
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if fits {
        return Ok(());
    }
    Err(ApiError::bad_request(
        "invalid_transform_name",
        format!(
            "a transform's name has 1 to {NAME_MAX} letters, digits, `-`, `_` and `.`, the first a letter or digit"
        ),
    ))
}

async fn transform(State(app): App, Path(name): Path<String>) -> Reply {
    answered(app.service.transform(name)).await
}

async fn delete_transform(State(app): App, Path(name): Path<String>) -> Reply {
    app.service.delete_transform(name.clone()).await?;
    Ok(json(
        StatusCode::OK,
        &Deleted {
            name,
            deleted: true,
        },
    ))
}

async fn pause(State(app): App, Path(name): Path<String>) -> Reply {
    answered(app.service.pause(name)).await
}

async fn resume(State(app): App, Path(name): Path<String>) -> Reply {
    answered(app.service.resume(name)).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogParameters {
    position: Option<i64>,
    limit: Option<usize>,
    tail: Option<usize>,
    since: Option<i64>,
    level: Option<LogLevel>,
    partition: Option<i32>,
    #[serde(default)]
    wait_ms: u64,
}

async fn logs(
    State(app): App,
    Path(name): Path<String>,
    parameters: Result<Query<LogParameters>, QueryRejection>,
) -> Reply {
    let parameters = query(parameters)?;
    let query = LogQuery {
        position: parameters.position.map(|position| position.max(0)),
        limit: parameters.limit.unwrap_or(LOGS_DEFAULT).clamp(1, LOGS_MAX),
        tail: parameters.tail.map(|tail| tail.min(LOGS_MAX)),
        since: parameters.since,
        level: parameters.level,
        partition: parameters.partition,
        wait_ms: parameters.wait_ms.min(WAIT_MS_MAX),
    };
    let _place = app.place_to_wait(query.wait_ms)?;
    answered(app.service.logs(name, query)).await
}

async fn metrics(State(app): App) -> Response {
    let mut text = app.service.metrics().await;
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    app.counts.render(&mut text);
    (
        [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        text,
    )
        .into_response()
}

impl Counts {
    fn render(&self, text: &mut String) {
        use std::fmt::Write as _;
        text.push_str("# HELP tidemill_admin_requests_total Requests to the admin address, by what became of them.\n");
        text.push_str("# TYPE tidemill_admin_requests_total counter\n");
        let counts = [
            ("served", &self.served),
            ("refused", &self.refused),
            ("full", &self.full),
            ("timed_out", &self.timed_out),
        ];
        for (outcome, count) in counts {
            let count = count.load(Ordering::Relaxed);
            writeln!(
                text,
                "tidemill_admin_requests_total{{outcome=\"{outcome}\"}} {count}"
            )
            .expect("a string takes what is written");
        }
    }
}

#[derive(Serialize)]
struct HealthBody {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

async fn health(State(app): App) -> Response {
    match app.service.health().await {
        // 200 also where writes are refused: ending the process would help nobody and take the reads away.
        Ok(reason) => json(
            StatusCode::OK,
            &HealthBody {
                status: if reason.is_none() { "ok" } else { "limited" },
                reason,
            },
        ),
        Err(reason) => json(
            StatusCode::SERVICE_UNAVAILABLE,
            &HealthBody {
                status: "unavailable",
                reason: Some(reason),
            },
        ),
    }
}

async fn no_such_path() -> ApiError {
    ApiError::not_found(
        "no_such_path",
        "the admin API has no such path; it lives under /v1, beside /metrics and /health",
    )
}

async fn no_such_method() -> ApiError {
    ApiError::new(405, "no_such_method", "this path does not take that method")
}
