//! Bytes that no honest client sends: each ends with its error, and the broker stays as it was.

use tidemill_tests::cli::Cli;
use tidemill_tests::raw::{self, Connection, Header, api};
use tidemill_tests::{Broker, Engine, on_both_engines};

on_both_engines!(
    truncated_frame_is_dropped_with_its_connection,
    frame_longer_than_the_limit_closes_the_connection,
    batch_with_bad_crc_is_answered_corrupt_message,
    unknown_version_of_api_versions_is_answered_with_error_35,
    unknown_version_of_another_api_closes_the_connection,
    array_that_claims_two_billion_elements_moves_no_memory,
    attributes_that_are_the_brokers_to_set_are_refused,
    batch_that_is_sent_again_is_counted_once,
    name_too_long_to_repeat_is_answered_with_its_error,
);

/// How much resident memory may move by chance while a connection is refused, in bytes.
const NOISE_BYTES: u64 = 4 << 20;
const TWO_BILLION: i32 = 2_000_000_000;
const CORRUPT_MESSAGE: i16 = 2;
const UNSUPPORTED_VERSION: i16 = 35;
const INVALID_TOPIC_EXCEPTION: i16 = 17;
const INVALID_TIMESTAMP: i16 = 32;
const INVALID_RECORD: i16 = 87;

fn connect(broker: &Broker) -> Connection {
    Connection::open(&broker.kafka()).expect("the broker listens")
}

/// A good request on a new connection is answered, and the process is the same.
fn assert_unmoved(broker: &mut Broker) {
    assert!(broker.running(), "the broker ended:\n{}", broker.log());
    let batch = raw::batch(&[(b"k", b"v")], raw::now_ms());
    let answer = connect(broker)
        .call(&raw::produce("t", 0, &batch))
        .expect("produce is answered");
    assert_eq!(raw::produced(&answer, "t").map(|(error, _)| error), Some(0));
    assert!(broker.healthy());
}

fn broker_with_topic(engine: Engine) -> Broker {
    let broker = Broker::start(engine);
    Cli::new(&broker).create_topic("t", 1);
    broker
}

fn truncated_frame_is_dropped_with_its_connection(engine: Engine) {
    let mut broker = broker_with_topic(engine);
    let whole = raw::produce("t", 0, &raw::batch(&[(b"k", &[7; 500])], raw::now_ms()));
    for cut in [1, 3, 4, 6, 14, 40, whole.len() - 1] {
        let mut connection = connect(&broker);
        connection.send(&whole[..cut]).expect("the broker reads");
        connection.finish_writing().expect("the connection is open");
        assert!(
            connection.is_closed_by_peer(),
            "cut after {cut} bytes: an answer came"
        );
    }
    let answer = connect(&broker)
        .call(&raw::fetch("t", 0, 0, 10, 1 << 20))
        .expect("fetch is answered");
    assert_eq!(
        raw::fetched(&answer).map(|fetched| fetched.high_watermark),
        Some(0)
    );
    assert_unmoved(&mut broker);
}

fn frame_longer_than_the_limit_closes_the_connection(engine: Engine) {
    let mut broker = broker_with_topic(engine);
    for length in [i32::MAX, i32::MIN, -1, 1 << 30] {
        let mut connection = connect(&broker);
        connection
            .send(&length.to_be_bytes())
            .expect("the broker reads");
        assert!(
            connection.is_closed_by_peer(),
            "a frame of {length} bytes was answered"
        );
    }
    assert_unmoved(&mut broker);
}

fn batch_with_bad_crc_is_answered_corrupt_message(engine: Engine) {
    let mut broker = broker_with_topic(engine);
    let mut batch = raw::batch(&[(b"k", b"value")], raw::now_ms());
    let last = batch.len() - 2;
    batch[last] ^= 1;
    let answer = connect(&broker)
        .call(&raw::produce("t", 0, &batch))
        .expect("produce is answered");
    assert_eq!(
        raw::produced(&answer, "t").map(|(error, _)| error),
        Some(CORRUPT_MESSAGE)
    );
    assert_unmoved(&mut broker);
}

fn unknown_version_of_api_versions_is_answered_with_error_35(engine: Engine) {
    let mut broker = broker_with_topic(engine);
    let mut connection = connect(&broker);
    let answer = connection.call(&raw::frame(
        api::API_VERSIONS,
        99,
        Header::Flexible,
        &[0, 0, 0],
    ));
    let answer = answer.expect("ApiVersions is answered");
    assert_eq!(
        i16::from_be_bytes([answer[4], answer[5]]),
        UNSUPPORTED_VERSION
    );
    // The same connection goes on with a version the broker named (KIP-35).
    let answer = connection.call(&raw::frame(api::API_VERSIONS, 0, Header::Plain, &[]));
    assert_eq!(answer.expect("ApiVersions is answered")[4..6], [0, 0]);
    assert_unmoved(&mut broker);
}

fn unknown_version_of_another_api_closes_the_connection(engine: Engine) {
    let mut broker = broker_with_topic(engine);
    for (key, version) in [
        (api::METADATA, 99),
        (api::PRODUCE, 99),
        (api::FETCH, -1),
        (9_999, 0),
        (-1, 0),
    ] {
        let mut connection = connect(&broker);
        connection
            .send(&raw::frame(key, version, Header::Flexible, &[0; 16]))
            .expect("the broker reads");
        assert!(
            connection.is_closed_by_peer(),
            "API {key} version {version} was answered"
        );
    }
    assert_unmoved(&mut broker);
}

fn array_that_claims_two_billion_elements_moves_no_memory(engine: Engine) {
    let mut broker = broker_with_topic(engine);
    assert_unmoved(&mut broker);
    let before = broker.resident_bytes();
    for (what, frame) in huge_arrays() {
        let mut connection = connect(&broker);
        connection.send(&frame).expect("the broker reads");
        assert!(connection.is_closed_by_peer(), "{what} was answered");
    }
    let after = broker.resident_bytes();
    assert!(
        after < before + NOISE_BYTES,
        "memory went from {before} to {after} bytes"
    );
    assert_unmoved(&mut broker);
}

/// Small requests whose array lengths (or, as varints, compact array lengths) lie.
fn huge_arrays() -> Vec<(&'static str, Vec<u8>)> {
    let lie = TWO_BILLION.to_be_bytes();
    let compact = [0x80, 0xa8, 0xd6, 0xb9, 0x07];
    let mut fetch = raw::fetch("t", 0, 0, 0, 1);
    let topics = fetch.len() - (4 + 2 + 1 + 4 + 4 + 8 + 4);
    fetch[topics..topics + 4].copy_from_slice(&lie);
    let mut produce = vec![0, 0xff, 0xff, 0, 0, 0x75, 0x30];
    produce.extend(compact);
    vec![
        (
            "Metadata v4",
            raw::frame(api::METADATA, 4, Header::Plain, &lie),
        ),
        (
            "Metadata v12",
            raw::frame(api::METADATA, 12, Header::Flexible, &compact),
        ),
        (
            "CreateTopics v2",
            raw::frame(api::CREATE_TOPICS, 2, Header::Plain, &lie),
        ),
        (
            "CreateTopics v7",
            raw::frame(api::CREATE_TOPICS, 7, Header::Flexible, &compact),
        ),
        ("Fetch v4", fetch),
        (
            "Produce v9",
            raw::frame(api::PRODUCE, 9, Header::Flexible, &produce),
        ),
    ]
}

/// `batch` with other bytes at `at`, and the checksum of that.
fn changed(mut batch: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    let sum = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&sum.to_be_bytes());
    batch
}

fn attributes_that_are_the_brokers_to_set_are_refused(engine: Engine) {
    let mut broker = broker_with_topic(engine);
    let mut connection = connect(&broker);
    // Append time, delete horizon, and bits that mean nothing.
    for (attributes, error) in [
        (0x08i16, INVALID_TIMESTAMP),
        (0x40, INVALID_RECORD),
        (0x80, INVALID_RECORD),
        (i16::MIN, INVALID_RECORD),
    ] {
        let batch = raw::batch(&[(b"k", b"v")], raw::now_ms());
        let batch = changed(batch, 21, &attributes.to_be_bytes());
        let answer = connection.call(&raw::produce("t", 0, &batch));
        let answer = answer.expect("produce is answered");
        let produced = raw::produced(&answer, "t").map(|(error, _)| error);
        assert_eq!(produced, Some(error), "{attributes:x}");
    }
    assert_unmoved(&mut broker);
}

fn batch_that_is_sent_again_is_counted_once(engine: Engine) {
    let broker = broker_with_topic(engine);
    let mut connection = connect(&broker);
    let batch = raw::batch(&[(b"k", b"v")], raw::now_ms());
    // Producer 7 of epoch 0, sequence 0.
    let producer = [0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0];
    let batch = changed(batch, 43, &producer);
    for _ in 0..3 {
        let answer = connection.call(&raw::produce("t", 0, &batch));
        let answer = answer.expect("produce is answered");
        assert_eq!(raw::produced(&answer, "t"), Some((0, 0)));
    }
    let counted = broker.metric("tidemill_topic_records_in_total", "topic=\"t\"");
    assert_eq!(counted, 1.0);
}

fn name_too_long_to_repeat_is_answered_with_its_error(engine: Engine) {
    let mut broker = broker_with_topic(engine);
    // CreateTopics v4: a topic of one partition.
    let name = [b'n'; 32_700];
    let mut body = 1i32.to_be_bytes().to_vec();
    body.extend((name.len() as i16).to_be_bytes());
    body.extend(name);
    body.extend(1i32.to_be_bytes());
    body.extend(1i16.to_be_bytes());
    body.extend([0; 8]);
    body.extend(1_000i32.to_be_bytes());
    body.push(0);
    let frame = raw::frame(api::CREATE_TOPICS, 4, Header::Plain, &body);
    let answer = connect(&broker).call(&frame).expect("it is answered");
    // Correlation id, throttle time, one result, the name.
    let at = 4 + 4 + 4 + 2 + name.len();
    let error = i16::from_be_bytes([answer[at], answer[at + 1]]);
    assert_eq!(error, INVALID_TOPIC_EXCEPTION);
    assert_unmoved(&mut broker);
}
