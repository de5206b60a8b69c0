//! Clients that ask for more than their share, or promise more than they send: others are served as if they were not
//! there.

use std::time::{Duration, Instant};
use tidemill_tests::cli::Cli;
use tidemill_tests::raw::{self, Connection, Header, api};
use tidemill_tests::{Broker, Engine, Options, on_both_engines, wait};

on_both_engines!(
    requests_that_are_only_announced_delay_nobody,
    uploads_that_stall_are_cut_off_while_others_wait,
    fetch_that_waits_ends_when_its_client_leaves,
    fetch_keeps_nothing_of_topics_of_which_it_asks_nothing,
    partition_asked_for_first_is_served_first,
    one_metadata_request_makes_a_bounded_number_of_topics,
);

/// What is answered at once, with much to spare on a loaded machine; far below every limit that a greedy client meets.
const AT_ONCE: Duration = Duration::from_secs(5);
const ANNOUNCED: i32 = 100 << 20;
const INVALID_REQUEST: i16 = 42;

fn connect(broker: &Broker) -> Connection {
    Connection::open(&broker.kafka()).expect("the broker listens")
}

fn broker_with_topic(engine: Engine, partitions: u32) -> Broker {
    let broker = Broker::start(engine);
    Cli::new(&broker).create_topic("t", partitions);
    broker
}

/// Metadata with `bytes` bytes behind it that nobody looks at.
fn padded_metadata(bytes: usize) -> Vec<u8> {
    let mut body = (-1i32).to_be_bytes().to_vec();
    body.push(0);
    body.resize(body.len() + bytes, 0);
    raw::frame(api::METADATA, 4, Header::Plain, &body)
}

fn requests_that_are_only_announced_delay_nobody(engine: Engine) {
    let broker = broker_with_topic(engine, 1);
    let mut greedy = Vec::new();
    for sent in [0, 2, 1 << 10, 100 << 10, 3 << 20].repeat(4) {
        let mut connection = connect(&broker);
        let mut bytes = ANNOUNCED.to_be_bytes().to_vec();
        bytes.resize(bytes.len() + sent, 0);
        connection.send(&bytes).expect("the broker reads");
        greedy.push(connection);
    }
    std::thread::sleep(Duration::from_millis(300));
    let began = Instant::now();
    // On several connections, which are on all shards.
    for _ in 0..4 {
        let batch = raw::batch(&[(b"k", &[7; 500_000])], raw::now_ms());
        let mut honest = connect(&broker);
        let answer = honest.call(&raw::produce("t", 0, &batch));
        let answer = answer.expect("produce is answered");
        assert_eq!(raw::produced(&answer, "t").map(|(error, _)| error), Some(0));
        let answer = honest.call(&raw::fetch("t", 0, 0, 0, 1 << 20));
        let fetched = raw::fetched(&answer.expect("fetch is answered")).expect("it is whole");
        assert!(!fetched.batches.is_empty());
        for bytes in [60 << 10, 70 << 10, 900 << 10, 5 << 20] {
            let answer = honest.call(&padded_metadata(bytes));
            answer.expect("a large request that comes whole is answered");
        }
    }
    assert!(began.elapsed() < AT_ONCE, "it took {:?}", began.elapsed());
}

fn uploads_that_stall_are_cut_off_while_others_wait(engine: Engine) {
    let broker = Options::new(engine)
        .shards(1)
        .settings("[memory]\nsmall_requests = \"2 MiB\"\n[kafka]\nrequest_timeout = \"1 h\"")
        .start();
    Cli::new(&broker).create_topic("t", 1);
    // Together they have sent what there is memory for.
    let stalled = (0..6).map(|_| {
        let mut connection = connect(&broker);
        let whole = padded_metadata(1 << 20);
        connection
            .send(&whole[..700 << 10])
            .expect("the broker reads");
        connection
    });
    let stalled: Vec<Connection> = stalled.collect();
    let held = || broker.metric("tidemill_request_memory_bytes", "") > f64::from(1 << 20);
    assert!(wait::until(AT_ONCE, held), "they hold what there is");
    let mut honest = connect(&broker);
    let batch = raw::batch(&[(b"k", b"v")], raw::now_ms());
    let answer = honest.call(&raw::produce("t", 0, &batch));
    let answer = answer.expect("produce is answered");
    assert_eq!(raw::produced(&answer, "t").map(|(error, _)| error), Some(0));
    drop(stalled);
}

fn fetch_that_waits_ends_when_its_client_leaves(engine: Engine) {
    let broker = broker_with_topic(engine, 1);
    let began = Instant::now();
    for _ in 0..2 {
        let mut connection = connect(&broker);
        connection
            .send(&raw::fetch("t", 0, 0, 60_000, 1 << 20))
            .expect("the broker reads");
        std::thread::sleep(Duration::from_millis(200));
        connection.finish_writing().expect("the connection is open");
        let answer = connection.receive().expect("what was asked is answered");
        assert_eq!(raw::fetched(&answer).map(|f| f.error), Some(0));
    }
    assert!(began.elapsed() < AT_ONCE, "it took {:?}", began.elapsed());
}

fn fetch_keeps_nothing_of_topics_of_which_it_asks_nothing(engine: Engine) {
    let broker = broker_with_topic(engine, 1);
    let mut body = (-1i32).to_be_bytes().to_vec();
    for number in [100i32, 1, 1 << 20] {
        body.extend(number.to_be_bytes());
    }
    body.push(0);
    body.extend(100_001i32.to_be_bytes());
    for _ in 0..100_000 {
        // A name of one letter, no partitions.
        body.extend([0, 1, b'e', 0, 0, 0, 0]);
    }
    body.extend([0, 1, b't', 0, 0, 0, 1]);
    body.extend(0i32.to_be_bytes());
    body.extend(0i64.to_be_bytes());
    body.extend((1i32 << 20).to_be_bytes());
    let frame = raw::frame(api::FETCH, 4, Header::Plain, &body);
    let answer = connect(&broker).call(&frame).expect("fetch is answered");
    // Correlation id, throttle time, one topic, its name.
    assert_eq!(answer[8..15], [0, 0, 0, 1, 0, 1, b't']);
    assert_eq!(raw::fetched(&answer).map(|f| f.error), Some(0));
}

/// Fetch v4 of several partitions of `t` from offset 0, with room for hardly anything.
fn fetch_of(partitions: &[i32]) -> Vec<u8> {
    let mut body = (-1i32).to_be_bytes().to_vec();
    for number in [0i32, 1, 1] {
        body.extend(number.to_be_bytes());
    }
    body.push(0);
    body.extend(1i32.to_be_bytes());
    body.extend([0, 1, b't']);
    body.extend((partitions.len() as i32).to_be_bytes());
    for partition in partitions {
        body.extend(partition.to_be_bytes());
        body.extend(0i64.to_be_bytes());
        body.extend((1i32 << 20).to_be_bytes());
    }
    raw::frame(api::FETCH, 4, Header::Plain, &body)
}

/// Partition, error and bytes of records of each partition in the answer to [`fetch_of`].
fn partitions_of(answer: &[u8]) -> Vec<(i32, i16, i32)> {
    // Correlation id, throttle time, one topic, its name, the count of partitions.
    let mut rest = &answer[4 + 4 + 4 + 3 + 4..];
    let mut found = Vec::new();
    while !rest.is_empty() {
        let number = |at: usize| {
            i32::from_be_bytes(rest[at..at + 4].try_into().expect("four bytes are four"))
        };
        let error = i16::from_be_bytes([rest[4], rest[5]]);
        // Partition, error, two offsets; then aborted transactions (none, or null) and the records.
        let bytes = number(26);
        found.push((number(0), error, bytes));
        rest = &rest[30 + bytes.max(0) as usize..];
    }
    found
}

fn partition_asked_for_first_is_served_first(engine: Engine) {
    let broker = broker_with_topic(engine, 4);
    let mut connection = connect(&broker);
    for partition in 0..4 {
        let batch = raw::batch(&[(b"k", &[7; 5_000])], raw::now_ms());
        let answer = connection.call(&raw::produce("t", partition, &batch));
        let answer = answer.expect("produce is answered");
        assert_eq!(raw::produced(&answer, "t").map(|(error, _)| error), Some(0));
    }
    for order in [[0, 1, 2, 3], [1, 2, 3, 0], [2, 3, 0, 1], [3, 2, 1, 0]] {
        let answer = connection.call(&fetch_of(&order));
        let found = partitions_of(&answer.expect("fetch is answered"));
        assert_eq!(found.iter().map(|f| f.0).collect::<Vec<_>>(), order);
        assert!(found[0].2 > 5_000, "{found:?}");
        assert!(found[1..].iter().all(|f| f.2 <= 0), "{found:?}");
    }
    let answer = connection.call(&fetch_of(&[2, 2]));
    let found = partitions_of(&answer.expect("fetch is answered"));
    assert!(
        found[0].1 == 0 && found[1].1 == INVALID_REQUEST,
        "{found:?}"
    );
}

fn one_metadata_request_makes_a_bounded_number_of_topics(engine: Engine) {
    let broker = Broker::start(engine);
    let mut body = 150i32.to_be_bytes().to_vec();
    for number in 0..150 {
        body.extend([0, 4]);
        body.extend(format!("n{number:03}").as_bytes());
    }
    body.push(1);
    let frame = raw::frame(api::METADATA, 4, Header::Plain, &body);
    connect(&broker).call(&frame).expect("metadata is answered");
    let made = |broker: &Broker| {
        let topics = Cli::new(broker).json(&["topic", "list"]);
        topics["topics"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(made(&broker), 100);
    // What is missing is made when it is asked for again.
    connect(&broker).call(&frame).expect("metadata is answered");
    assert_eq!(made(&broker), 150);
}
