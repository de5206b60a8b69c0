//! Batches that are encoded once and sent again and again, and readers that look at headers only: clients that cost
//! next to nothing, so that the broker is what is measured.

use std::time::{Duration, Instant};
use tidemill_tests::raw::{self, Connection};
use tidemill_tests::wait;

use crate::broker::Broker;
use crate::kafka;

/// How long a broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(120);

/// A batch of records of `bytes` each.
#[must_use]
pub fn batch(records: usize, bytes: usize) -> Vec<u8> {
    let value = vec![b'x'; bytes];
    let records: Vec<(&[u8], &[u8])> = (0..records).map(|_| (&b""[..], &value[..])).collect();
    raw::batch(&records, raw::now_ms())
}

/// Makes a topic; `configs` are `key=value`.
///
/// # Errors
/// What the broker says against it.
pub fn create(
    broker: &Broker,
    topic: &str,
    partitions: i32,
    configs: &[String],
) -> Result<(), String> {
    let configs: Vec<(String, String)> = configs
        .iter()
        .filter_map(|word| word.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let request = kafka::create_topic(topic, partitions, &configs);
    let mut connection = broker.connect()?;
    let answer = connection
        .set_patience(PATIENCE)
        .and_then(|()| connection.call(&request))
        .map_err(|error| format!("CreateTopics is not answered: {error}"))?;
    match kafka::created(&answer, topic) {
        Some(0) => Ok(()),
        code => Err(format!("CreateTopics answers {code:?}")),
    }
}

/// Waits until every partition of a topic is served: Kafka refuses requests for a while after a topic was made, and after a start.
///
/// # Errors
/// When one is not served within [`PATIENCE`].
pub fn serves(broker: &Broker, topic: &str, partitions: i32) -> Result<(), String> {
    for partition in 0..partitions {
        let request = kafka::fetch_up_to(topic, &[(partition, 0)], (0, 1, 1));
        let served = || {
            let answer = broker.connect().ok()?.call(&request).ok()?;
            let parts = kafka::fetched_from(&answer)?;
            Some(parts.iter().all(|part| part.error == 0) && !parts.is_empty())
        };
        if !wait::until(PATIENCE, || served() == Some(true)) {
            return Err(format!("partition {partition} of {topic} is not served"));
        }
    }
    Ok(())
}

/// Takes the answer of a Produce request on one partition.
///
/// # Errors
/// When there is none, or it is an error.
pub fn acknowledged(connection: &mut Connection, topic: &str) -> Result<(), String> {
    let answer = connection
        .receive()
        .map_err(|error| format!("Produce is not answered: {error}"))?;
    match raw::produced(&answer, topic) {
        Some((0, _)) => Ok(()),
        other => Err(format!("Produce answers {other:?}")),
    }
}

/// Sends `requests` in turn, `in_flight` at a time, until `enough` says so of their number and the time; how many.
///
/// # Errors
/// As [`acknowledged`].
pub fn closed_loop(
    connection: &mut Connection,
    topic: &str,
    requests: &[Vec<u8>],
    in_flight: usize,
    enough: impl Fn(usize, Duration) -> bool,
) -> Result<usize, String> {
    let began = Instant::now();
    let (mut sent, mut answered) = (0, 0);
    while !enough(sent, began.elapsed()) {
        let request = &requests[sent % requests.len()];
        let written = connection.send(request);
        written.map_err(|error| format!("cannot send: {error}"))?;
        sent += 1;
        if sent - answered >= in_flight {
            acknowledged(connection, topic)?;
            answered += 1;
        }
    }
    while answered < sent {
        acknowledged(connection, topic)?;
        answered += 1;
    }
    Ok(sent)
}
