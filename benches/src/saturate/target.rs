//! The topic of a load.

use std::io;
use std::time::{Duration, Instant};

use tidemill_tests::raw::{self, Connection, Header};

use super::{LoadError, batch};
use crate::kafka;

/// When to give up on a topic.
const TOPIC_LIMIT: Duration = Duration::from_secs(60);
/// API key of DeleteTopics.
const DELETE_TOPICS: i16 = 20;
const PAUSE: Duration = Duration::from_millis(5);

/// Makes a topic, with settings, and waits until every partition takes a record. One that exists stays as it is.
///
/// # Errors
/// When the broker closes the connection, or with [`LoadError::Refused`] and the last error when that takes longer than a minute.
pub fn create_topic(
    address: &str,
    topic: &str,
    partitions: u32,
    settings: &[(String, String)],
) -> Result<(), LoadError> {
    let count = i32::try_from(partitions).unwrap_or(i32::MAX);
    let mut connection = Connection::open(address)?;
    connection.call(&kafka::create_topic(topic, count, settings))?;
    let batch = batch(1, 10);
    let began = Instant::now();
    for partition in 0..count {
        let request = raw::produce(topic, partition, &batch);
        loop {
            let answer = connection.call(&request)?;
            let (error, _) = raw::produced(&answer, topic).ok_or(LoadError::Answer)?;
            if error == 0 {
                break;
            }
            if began.elapsed() > TOPIC_LIMIT {
                return Err(LoadError::Refused(error));
            }
            std::thread::sleep(PAUSE);
        }
    }
    Ok(())
}

/// Deletes a topic with its records: a minute of load fills a disk.
///
/// # Errors
/// When the broker closes the connection.
pub fn delete_topic(address: &str, topic: &str) -> io::Result<()> {
    let mut body = 1i32.to_be_bytes().to_vec();
    body.extend((topic.len() as u16).to_be_bytes());
    body.extend(topic.as_bytes());
    body.extend(30_000i32.to_be_bytes());
    let request = raw::frame(DELETE_TOPICS, 3, Header::Plain, &body);
    Connection::open(address)?.call(&request).map(|_| ())
}
