//! Routing, limits and the guard, over real connections and a fake service.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Mutex;

use bytes::Bytes;
use tidemill_controller::image::PartitionBy;

use super::super::records::{NewRecord, ReadQuery, ReadRecord, ReadRecords};
use super::super::routes::{MODULE_BYTES_MAX, REQUESTS_MAX, WAITING_MAX, collect};
use super::super::service::{Answer, ApiError, BoxFuture};
use super::super::types::*;
use super::*;

/// Connections the server under test takes.
const CONNECTIONS_MAX: usize = 128;

/// Remembers what it was asked. `logs` answers only when the semaphore lets it.
struct Fake {
    calls: Mutex<Vec<String>>,
    gate: tokio::sync::Semaphore,
}

impl Fake {
    fn note(&self, call: String) {
        self.calls.lock().expect("not poisoned").push(call);
    }

    fn answer<T: Send + 'static>(&self, call: String, value: T) -> Answer<'_, T> {
        self.note(call);
        Box::pin(std::future::ready(Ok(value)))
    }

    fn taken(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().expect("not poisoned"))
    }
}

fn summary(name: &str) -> TransformSummary {
    TransformSummary {
        name: name.to_owned(),
        version: 1,
        state: TransformState::Running,
        input: "in".to_owned(),
        outputs: vec!["out".to_owned()],
        dead_letter: None,
        lag: 0,
        records_in: 1,
        records_out: 1,
        failed: 0,
        last_error: None,
    }
}

fn topic(name: String) -> TopicSummary {
    TopicSummary {
        name,
        id: "id".to_owned(),
        partitions: 3,
        replicas: 1,
        internal: false,
    }
}

impl AdminService for Fake {
    fn cluster(&self) -> Answer<'_, ClusterInfo> {
        let info = ClusterInfo {
            cluster_id: "c".to_owned(),
            node_id: 1,
            version: "0".to_owned(),
            runtime: "epoll".to_owned(),
            shards: 2,
            kafka_address: "127.0.0.1:9092".to_owned(),
        };
        self.answer("cluster".to_owned(), info)
    }

    fn topics(&self) -> Answer<'_, TopicList> {
        self.answer(
            "topics".to_owned(),
            TopicList {
                topics: vec![topic("t".to_owned())],
            },
        )
    }

    fn create_topic(&self, request: CreateTopic) -> Answer<'_, TopicSummary> {
        self.answer(format!("create {request:?}"), topic(request.name))
    }

    fn topic(&self, name: String) -> Answer<'_, TopicDetail> {
        self.note(format!("topic {name}"));
        Box::pin(std::future::ready(Err(ApiError::not_found(
            "topic_not_found",
            "there is no such topic; create it",
        ))))
    }

    fn delete_topic(&self, name: String) -> Answer<'_, ()> {
        self.answer(format!("delete topic {name}"), ())
    }

    fn produce(&self, topic: String, records: Vec<NewRecord>) -> Answer<'_, Produced> {
        let range = OffsetRange {
            first: 0,
            last: records.len() as i64 - 1,
        };
        let produced = Produced {
            written: records.len() as u64,
            partitions: BTreeMap::from([(0, range)]),
        };
        self.answer(format!("produce {topic} {}", records.len()), produced)
    }

    fn read(&self, topic: String, query: ReadQuery) -> Answer<'_, ReadRecords> {
        let record = ReadRecord {
            partition: 0,
            offset: 5,
            timestamp: 1,
            key: None,
            value: Some(Bytes::from_static(b"v")),
            headers: Vec::new(),
        };
        let call = format!(
            "read {topic} {:?} {:?} {} {}",
            query.from, query.positions, query.max, query.wait_ms
        );
        self.answer(
            call,
            ReadRecords {
                records: vec![record],
                next: BTreeMap::from([(0, 6)]),
                unreadable: Vec::new(),
            },
        )
    }

    fn store_module(&self, wasm: Bytes) -> Answer<'_, ModuleStored> {
        self.note(format!("module {}", wasm.len()));
        Box::pin(std::future::ready(Err(ApiError::module_refused(
            "this is not WebAssembly",
        ))))
    }

    fn transforms(&self) -> Answer<'_, TransformList> {
        self.answer(
            "transforms".to_owned(),
            TransformList {
                transforms: vec![summary("mask")],
            },
        )
    }

    fn deploy(&self, name: String, request: DeployRequest) -> Answer<'_, Deployed> {
        let call = format!(
            "deploy {name} {:?} {:?} {:?}",
            request.from, request.on_error, request.limits.time_ms
        );
        self.answer(
            call,
            Deployed {
                name,
                version: 1,
                incarnation: 7,
                paused: false,
                kept_place: false,
                content_of: None,
                replaced: None,
                created_topics: Vec::new(),
            },
        )
    }

    fn transform(&self, name: String) -> Answer<'_, TransformDetail> {
        let detail = TransformDetail {
            summary: summary(&name),
            incarnation: 7,
            module: "ab".to_owned(),
            env: BTreeMap::new(),
            limits: LimitsSpec::default(),
            on_error: OnError::DeadLetter,
            attempts: 3,
            compression: None,
            weight: 1,
            partition_by: PartitionBy::Input,
            secrets: Vec::new(),
            deployed_ms: 0,
            content_of: None,
            notes: Vec::new(),
            partitions: Vec::new(),
        };
        self.answer(format!("transform {name}"), detail)
    }

    fn check_deploy(&self, name: String, request: DeployRequest) -> Answer<'_, DeployCheck> {
        self.answer(
            format!("check {name} {:?}", request.from),
            DeployCheck {
                version: 2,
                missing_topics: Vec::new(),
                secrets: Vec::new(),
            },
        )
    }

    fn versions(&self, name: String) -> Answer<'_, VersionList> {
        let versions = Vec::new();
        self.answer(format!("versions {name}"), VersionList { name, versions })
    }

    fn rollback(&self, name: String, request: RollbackRequest) -> Answer<'_, Deployed> {
        self.answer(
            format!("rollback {name} {:?}", request.to),
            Deployed {
                name,
                version: 3,
                incarnation: 7,
                paused: false,
                kept_place: false,
                content_of: None,
                replaced: None,
                created_topics: Vec::new(),
            },
        )
    }

    fn seek(&self, name: String, request: SeekRequest) -> Answer<'_, Moved> {
        let partitions = Vec::new();
        self.answer(
            format!("seek {name} {} {:?}", request.to, request.partition),
            Moved { name, partitions },
        )
    }

    fn pause(&self, name: String) -> Answer<'_, TransformStateChanged> {
        self.answer(
            format!("pause {name}"),
            TransformStateChanged {
                name,
                state: TransformState::Paused,
            },
        )
    }

    fn resume(&self, name: String) -> Answer<'_, TransformStateChanged> {
        self.answer(
            format!("resume {name}"),
            TransformStateChanged {
                name,
                state: TransformState::Running,
            },
        )
    }

    fn delete_transform(&self, name: String) -> Answer<'_, ()> {
        self.answer(format!("delete {name}"), ())
    }

    fn logs(&self, name: String, query: LogQuery) -> Answer<'_, LogLines> {
        self.note(format!(
            "logs {name} {:?} {} {} {:?}",
            query.position, query.limit, query.wait_ms, query.level
        ));
        Box::pin(async {
            self.gate.acquire().await.expect("not closed").forget();
            Ok(LogLines::none(0))
        })
    }

    fn metrics(&self) -> BoxFuture<'_, String> {
        Box::pin(std::future::ready("tidemill_up 1".to_owned()))
    }

    fn health(&self) -> BoxFuture<'_, Result<Option<String>, String>> {
        Box::pin(std::future::ready(Err("the disk is full".to_owned())))
    }
}

struct Fixture {
    fake: Arc<Fake>,
    address: SocketAddr,
    server: AdminServer,
}

fn fixture() -> Fixture {
    let fake = Arc::new(Fake {
        calls: Mutex::default(),
        gate: tokio::sync::Semaphore::new(0),
    });
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let server = start(
        listener,
        Guard::new(IpAddr::from([127, 0, 0, 1]), []),
        fake.clone(),
        CONNECTIONS_MAX,
    )
    .expect("starts");
    Fixture {
        fake,
        address,
        server,
    }
}

impl Fixture {
    fn send(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).expect("it listens");
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
        );
        stream.write_all(head.as_bytes()).expect("head goes out");
        // A refused body may be cut off by the server.
        let _ = stream.write_all(body);
        stream
    }

    /// Status and body.
    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let headers = format!(
            "host: {}\r\ncontent-type: application/json\r\n",
            self.address
        );
        answer(self.send(method, path, &headers, body.as_bytes()))
    }
}

fn answer(mut stream: TcpStream) -> (u16, String) {
    let mut text = Vec::new();
    // What came before a reset still counts: the server may close on a body it does not want.
    let _ = stream.read_to_end(&mut text);
    let text = String::from_utf8(text).expect("text");
    let status = text
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or_default();
    (
        status,
        text.split_once("\r\n\r\n")
            .map(|(_, body)| body.to_owned())
            .unwrap_or_default(),
    )
}

#[test]
fn every_route_reaches_its_method() {
    let f = fixture();
    f.fake.gate.add_permits(1);
    let deploy = r#"{"module":"ab","input":"a","outputs":["b"],"from":"earliest","limits":{"time_ms":5},"on_error":"dead-letter"}"#;
    for (method, path, body, status, call) in [
        ("GET", "/v1/cluster", "", 200, "cluster"),
        ("GET", "/v1/topics", "", 200, "topics"),
        (
            "POST",
            "/v1/topics",
            r#"{"name":"t","partitions":3}"#,
            201,
            r#"create CreateTopic { name: "t", partitions: Some(3), replicas: None, configs: {} }"#,
        ),
        ("GET", "/v1/topics/a%2Fb", "", 404, "topic a/b"),
        ("DELETE", "/v1/topics/t", "", 200, "delete topic t"),
        (
            "POST",
            "/v1/topics/t/records",
            "{\"value\":\"1\"}\n{\"value\":\"2\"}\n",
            200,
            "produce t 2",
        ),
        (
            "GET",
            "/v1/topics/t/records?from=earliest&positions=0:5,1:7&max=9&wait_ms=99999999",
            "",
            200,
            "read t \"earliest\" {0: 5, 1: 7} 9 30000",
        ),
        (
            "POST",
            "/v1/topics/t/records/read",
            r#"{"from":"earliest","positions":{"0":5,"1":7},"max":9,"wait_ms":99999999}"#,
            200,
            "read t \"earliest\" {0: 5, 1: 7} 9 30000",
        ),
        ("PUT", "/v1/modules", "1234", 422, "module 4"),
        ("GET", "/v1/transforms", "", 200, "transforms"),
        (
            "PUT",
            "/v1/transforms/m",
            deploy,
            200,
            "deploy m Some(\"earliest\") Some(DeadLetter) Some(5)",
        ),
        ("GET", "/v1/transforms/m", "", 200, "transform m"),
        ("POST", "/v1/transforms/m/pause", "", 200, "pause m"),
        ("POST", "/v1/transforms/m/resume", "", 200, "resume m"),
        ("DELETE", "/v1/transforms/m", "", 200, "delete m"),
        (
            "GET",
            "/v1/transforms/m/logs?position=4&limit=2&wait_ms=10&level=warn",
            "",
            200,
            "logs m Some(4) 2 10 Some(Warn)",
        ),
    ] {
        let (got, text) = f.ask(method, path, body);
        assert_eq!(
            (got, f.fake.taken()),
            (status, vec![call.to_owned()]),
            "{method} {path}: {text}"
        );
    }
    f.server.stop();
}

#[test]
fn every_route_of_deployments_reaches_its_method() {
    let f = fixture();
    for (method, path, body, status, call) in [
        (
            "POST",
            "/v1/transforms/m/check",
            r#"{"input":"a","outputs":["b"],"from":"+3"}"#,
            200,
            "check m Some(\"+3\")",
        ),
        ("GET", "/v1/transforms/m/versions", "", 200, "versions m"),
        (
            "POST",
            "/v1/transforms/m/rollback",
            r#"{"to":2}"#,
            200,
            "rollback m Some(2)",
        ),
        (
            "POST",
            "/v1/transforms/m/seek",
            r#"{"to":"@0","partition":1}"#,
            200,
            "seek m @0 Some(1)",
        ),
    ] {
        let (got, text) = f.ask(method, path, body);
        let taken = f.fake.taken();
        assert_eq!((got, taken), (status, vec![call.to_owned()]), "{text}");
    }
    f.server.stop();
}

#[test]
fn answers_have_the_shape_of_the_contract() {
    let f = fixture();
    let read = f.ask("GET", "/v1/topics/t/records", "").1;
    assert_eq!(
        read,
        r#"{"records":[{"partition":0,"offset":5,"timestamp":1,"key":null,"value":"v","headers":[]}],"next":{"0":6}}"#
    );
    let produced = f.ask("POST", "/v1/topics/t/records", "{}").1;
    assert_eq!(
        produced,
        r#"{"written":1,"partitions":{"0":{"first":0,"last":0}}}"#
    );
    let detail = f.ask("GET", "/v1/transforms/m", "").1;
    assert!(
        detail.contains(r#""name":"m""#) && detail.contains(r#""on_error":"dead-letter""#),
        "{detail}"
    );
    let missing = f.ask("GET", "/v1/topics/t", "").1;
    assert_eq!(
        missing,
        r#"{"error":{"code":"topic_not_found","message":"there is no such topic; create it"}}"#
    );
    assert_eq!(
        f.ask("GET", "/health", ""),
        (
            503,
            r#"{"status":"unavailable","reason":"the disk is full"}"#.to_owned()
        )
    );
    let metrics = f.ask("GET", "/metrics", "").1;
    assert!(
        metrics.starts_with("tidemill_up 1\n# HELP tidemill_admin_requests_total"),
        "{metrics}"
    );
    f.server.stop();
}

#[test]
fn requests_that_make_no_sense_are_refused_and_reach_nothing() {
    let f = fixture();
    for (method, path, body, status, code) in [
        ("GET", "/v2/topics", "", 404, "no_such_path"),
        ("PATCH", "/v1/topics", "", 405, "no_such_method"),
        ("POST", "/v1/topics", "{", 400, "invalid_json"),
        (
            "POST",
            "/v1/topics",
            r#"{"name":"t","partitons":3}"#,
            400,
            "invalid_json",
        ),
        ("POST", "/v1/topics/t/records", "no", 400, "invalid_record"),
        (
            "GET",
            "/v1/topics/t/records?positions=0",
            "",
            400,
            "invalid_query",
        ),
        (
            "GET",
            "/v1/topics/t/records?positions=0:1,0:2",
            "",
            400,
            "invalid_query",
        ),
        (
            "GET",
            "/v1/transforms/m/logs?limits=1",
            "",
            400,
            "invalid_query",
        ),
        (
            "PUT",
            "/v1/transforms/a%20b",
            "{}",
            400,
            "invalid_transform_name",
        ),
    ] {
        let (got, text) = f.ask(method, path, body);
        assert_eq!(got, status, "{method} {path}: {text}");
        assert!(
            text.contains(&format!(r#""code":"{code}""#)),
            "{method} {path}: {text}"
        );
    }
    assert_eq!(f.fake.taken(), Vec::<String>::new());
    f.server.stop();
}

#[test]
fn web_pages_reach_no_route() {
    let f = fixture();
    let host = format!("host: {}\r\n", f.address);
    for (headers, status) in [
        ("host: evil.example\r\n".to_owned(), 403),
        (format!("{host}origin: http://evil.example\r\n"), 403),
        (format!("{host}content-type: text/plain\r\n"), 415),
    ] {
        let (got, text) = answer(f.send("POST", "/v1/topics", &headers, br#"{"name":"t"}"#));
        assert_eq!(got, status, "{headers}: {text}");
    }
    assert_eq!(
        answer(f.send("GET", "/metrics", "host: evil.example\r\n", b"")).0,
        403
    );
    assert_eq!(
        answer(f.send("GET", "/nowhere", "host: evil.example\r\n", b"")).0,
        403
    );
    assert_eq!(f.fake.taken(), Vec::<String>::new());
    f.server.stop();
}

#[test]
fn body_above_its_limit_is_refused_unread() {
    let f = fixture();
    let head = |path: &str, length: usize| {
        let host = f.address;
        let mut stream = TcpStream::connect(host).expect("it listens");
        let head = format!(
            "PUT {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-type: application/wasm\r\ncontent-length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).expect("head goes out");
        answer(stream)
    };
    let (status, text) = head("/v1/modules", MODULE_BYTES_MAX + 1);
    assert_eq!(status, 413, "{text}");
    assert!(text.contains("body_too_large"), "{text}");
    assert_eq!(head("/v1/transforms/m", (1 << 20) + 1).0, 413);
    let mut unsaid = TcpStream::connect(f.address).expect("it listens");
    let host = f.address;
    let chunks = format!(
        "PUT /v1/transforms/m HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n100001\r\n"
    );
    unsaid.write_all(chunks.as_bytes()).expect("head goes out");
    unsaid
        .write_all(&vec![b' '; 0x10_0001])
        .expect("the body goes out");
    assert_eq!(answer(unsaid).0, 413);
    assert_eq!(f.fake.taken(), Vec::<String>::new());
    f.server.stop();
}

#[test]
fn requests_above_the_limit_are_told_to_come_back() {
    let f = fixture();
    let headers = format!("host: {}\r\n", f.address);
    let held: Vec<TcpStream> = (0..REQUESTS_MAX)
        .map(|_| f.send("GET", "/v1/transforms/m/logs", &headers, b""))
        .collect();
    while f.fake.calls.lock().expect("not poisoned").len() < REQUESTS_MAX {
        std::thread::yield_now();
    }
    let (status, text) = f.ask("GET", "/v1/topics", "");
    assert_eq!(status, 503, "{text}");
    assert!(text.contains("too_many_requests"), "{text}");
    // Whoever watches the broker is answered all the same.
    assert!(f.ask("GET", "/health", "").1.contains("the disk is full"));
    assert_eq!(f.ask("GET", "/metrics", "").0, 200);
    f.fake.gate.add_permits(REQUESTS_MAX);
    for stream in held {
        assert_eq!(answer(stream).0, 200);
    }
    assert_eq!(f.ask("GET", "/v1/topics", "").0, 200);
    f.server.stop();
}

#[test]
fn requests_that_wait_leave_room_for_those_that_do_not() {
    let f = fixture();
    let headers = format!("host: {}\r\n", f.address);
    let path = "/v1/transforms/m/logs?wait_ms=1000";
    let held: Vec<TcpStream> = (0..WAITING_MAX)
        .map(|_| f.send("GET", path, &headers, b""))
        .collect();
    while f.fake.calls.lock().expect("not poisoned").len() < WAITING_MAX {
        std::thread::yield_now();
    }
    assert_eq!(f.ask("GET", path, "").0, 503);
    assert_eq!(f.ask("GET", "/v1/topics", "").0, 200);
    f.fake.gate.add_permits(WAITING_MAX);
    for stream in held {
        assert_eq!(answer(stream).0, 200);
    }
    f.server.stop();
}

#[test]
fn stop_lets_a_request_under_way_end() {
    let f = fixture();
    let headers = format!("host: {}\r\n", f.address);
    let waiting = f.send("GET", "/v1/transforms/m/logs", &headers, b"");
    while f.fake.calls.lock().expect("not poisoned").is_empty() {
        std::thread::yield_now();
    }
    let stopping = std::thread::spawn(move || f.server.stop());
    f.fake.gate.add_permits(1);
    assert_eq!(answer(waiting).0, 200);
    stopping.join().expect("no panic");
    assert!(TcpStream::connect(f.address).is_err());
}

#[test]
fn body_that_stops_coming_ends_and_one_that_comes_is_passed_on() {
    use std::time::Duration;

    use axum::body::Body;
    use futures_util::stream::{StreamExt, iter, pending};

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let pieces = || iter([Ok::<_, std::io::Error>(Bytes::from("ab")), Ok("cd".into())]);
        let time = Duration::from_secs(60);
        let whole = collect(Body::from_stream(pieces()), 4, time).await;
        assert_eq!(whole.expect("it is whole"), "abcd");
        let large = collect(Body::from_stream(pieces()), 3, time).await;
        assert_eq!(large.expect_err("it is too large").status, 413);
        let stalled = Body::from_stream(pieces().chain(pending()));
        let ended = collect(stalled, 4, Duration::from_millis(20)).await;
        assert_eq!(ended.expect_err("it ended").code, "body_incomplete");
    });
}

/// A connection whose request the server reads: it was told to go on with the body, which does not come.
fn without_body(f: &Fixture, method: &str, path: &str, length: usize) -> TcpStream {
    let mut stream = TcpStream::connect(f.address).expect("it listens");
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         expect: 100-continue\r\n\r\n",
        f.address
    );
    stream.write_all(head.as_bytes()).expect("head goes out");
    let mut said = [0; 12];
    stream.read_exact(&mut said).expect("it is told to go on");
    assert_eq!(&said, b"HTTP/1.1 100");
    stream
}

#[test]
fn bodies_that_do_not_come_keep_nobody_out() {
    let f = fixture();
    let mut held: Vec<TcpStream> = (0..REQUESTS_MAX)
        .map(|_| without_body(&f, "POST", "/v1/topics", 1000))
        .collect();
    held.push(without_body(&f, "PUT", "/v1/modules", 1 << 20));
    assert_eq!(f.ask("GET", "/v1/topics", "").0, 200);
    assert_eq!(f.ask("POST", "/v1/transforms/m/pause", "").0, 200);
    drop(held);
    f.server.stop();
}
