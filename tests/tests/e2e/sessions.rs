//! Fetch sessions (KIP-227), said byte by byte: what an answer leaves out, and what is refused.

use std::time::{Duration, Instant};

use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use kafka_protocol::messages::{FetchRequest, FetchResponse, MetadataRequest, TopicName};
use tidemill_tests::cli::Cli;
use tidemill_tests::raw::{self, Connection};
use tidemill_tests::{Broker, Engine, on_both_engines};

use crate::messages::{Messages, text};

on_both_engines!(
    session_answers_only_what_is_new,
    session_of_many_partitions_answers_only_those_that_moved,
    broken_sessions_are_refused_by_kafkas_codes,
);

/// Long enough for anything that happens at all.
const LONG_MS: i32 = 30_000;

/// Kafka's codes.
const NOT_FOUND: i16 = 70;
const WRONG_EPOCH: i16 = 71;
const WRONG_TOPIC_IDS: i16 = 106;

fn produce(broker: &Broker, partition: i32) {
    let mut connection = Connection::open(&broker.kafka()).expect("the broker listens");
    let batch = raw::batch(&[(b"k", b"v")], raw::now_ms());
    let answer = connection.call(&raw::produce("t", partition, &batch));
    let produced = raw::produced(&answer.expect("produce is answered"), "t");
    assert_eq!(produced.expect("a produce answer").0, 0);
}

/// A Fetch of a session: partitions with offsets to fetch from, and partitions to forget.
struct Fetch<'a> {
    session: (i32, i32),
    partitions: &'a [(i32, i64)],
    forgotten: &'a [i32],
    wait_ms: i32,
}

impl Fetch<'_> {
    fn request(&self) -> FetchRequest {
        let partition = |(index, offset): &(i32, i64)| {
            FetchPartition::default()
                .with_partition(*index)
                .with_fetch_offset(*offset)
                .with_partition_max_bytes(1 << 20)
        };
        let topic = FetchTopic::default()
            .with_topic(TopicName(text("t")))
            .with_partitions(self.partitions.iter().map(partition).collect());
        let forgotten = ForgottenTopic::default()
            .with_topic(TopicName(text("t")))
            .with_partitions(self.forgotten.to_vec());
        let some = |is_empty: bool| usize::from(!is_empty);
        FetchRequest::default()
            .with_max_wait_ms(self.wait_ms)
            .with_min_bytes(1)
            .with_max_bytes(1 << 20)
            .with_session_id(self.session.0)
            .with_session_epoch(self.session.1)
            .with_topics(vec![topic; some(self.partitions.is_empty())])
            .with_forgotten_topics_data(vec![forgotten; some(self.forgotten.is_empty())])
    }

    fn call(&self, messages: &mut Messages) -> FetchResponse {
        messages.call(12, &self.request())
    }
}

/// Partitions of an answer, each with the number of its record bytes.
fn told(response: &FetchResponse) -> Vec<(i32, usize)> {
    assert_eq!(response.error_code, 0);
    let partitions = response.responses.iter().flat_map(|t| &t.partitions);
    partitions
        .map(|p| {
            assert_eq!(p.error_code, 0, "partition {}", p.partition_index);
            (
                p.partition_index,
                p.records.as_ref().map_or(0, bytes::Bytes::len),
            )
        })
        .collect()
}

fn named(response: &FetchResponse) -> Vec<i32> {
    told(response).into_iter().map(|(index, _)| index).collect()
}

fn session_answers_only_what_is_new(engine: Engine) {
    let broker = Broker::start(engine);
    Cli::new(&broker).create_topic("t", 4);
    produce(&broker, 0);
    let mut messages = Messages::open(&broker.kafka());
    let mut fetch = |session, partitions: &[(i32, i64)], forgotten: &[i32], wait_ms| {
        let fetch = Fetch {
            session,
            partitions,
            forgotten,
            wait_ms,
        };
        fetch.call(&mut messages)
    };
    let all = [(0, 1), (1, 0), (2, 0), (3, 0)];
    let made = fetch((0, 0), &all, &[], 0);
    let id = made.session_id;
    assert!(id > 0);
    assert_eq!(
        named(&made),
        [0, 1, 2, 3],
        "the first answer names everything"
    );
    let quiet = fetch((id, 1), &[], &[], 0);
    assert_eq!((quiet.session_id, named(&quiet)), (id, vec![]));
    produce(&broker, 2);
    let news = fetch((id, 2), &[], &[], LONG_MS);
    assert_eq!(named(&news), [2]);
    assert!(told(&news)[0].1 > 0);
    let again = fetch((id, 3), &[], &[], LONG_MS);
    assert!(told(&again)[0].1 > 0, "what was not taken is given again");
    let taken = fetch((id, 4), &[(2, 1)], &[], 0);
    assert_eq!(named(&taken), [0; 0]);
    // Somebody who waits is woken, whichever shard the partition is on.
    for (epoch, partition) in [(5, 0), (7, 1), (9, 2), (11, 3)] {
        let offset = if partition == 0 || partition == 2 {
            2
        } else {
            1
        };
        let began = Instant::now();
        let woken = std::thread::scope(|scope| {
            let late = scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(100));
                produce(&broker, partition);
            });
            let woken = fetch((id, epoch), &[], &[], LONG_MS);
            late.join().expect("it was produced");
            woken
        });
        assert_eq!(named(&woken), [partition]);
        assert!(
            began.elapsed() < Duration::from_secs(25),
            "it was not the time that ran out"
        );
        let taken = fetch((id, epoch + 1), &[(partition, offset)], &[], 0);
        assert_eq!(named(&taken), [0; 0]);
    }
    let forgotten = fetch((id, 13), &[], &[3], 0);
    assert_eq!(named(&forgotten), [0; 0]);
    produce(&broker, 3);
    produce(&broker, 1);
    let others = fetch((id, 14), &[], &[], LONG_MS);
    assert_eq!(named(&others), [1], "3 is not fetched any more");
    let back = fetch((id, 15), &[(1, 2), (3, 1)], &[], LONG_MS);
    assert_eq!(named(&back), [3]);
}

fn session_of_many_partitions_answers_only_those_that_moved(engine: Engine) {
    const COUNT: i32 = 2_000;
    let broker = Broker::start(engine);
    Cli::new(&broker).create_topic("t", 2_000);
    let mut messages = Messages::open(&broker.kafka());
    let all: Vec<(i32, i64)> = (0..COUNT).map(|index| (index, 0)).collect();
    let mut fetch = |session, partitions: &[(i32, i64)]| {
        let fetch = Fetch {
            session,
            partitions,
            forgotten: &[],
            wait_ms: if session.1 == 0 { 0 } else { LONG_MS },
        };
        fetch.call(&mut messages)
    };
    let made = fetch((0, 0), &all);
    assert_eq!(named(&made).len(), all.len());
    let mut taken = Vec::new();
    for (epoch, partition) in [(1, 7), (2, 1_999), (3, 0), (4, 1_000)] {
        produce(&broker, partition);
        let news = fetch((made.session_id, epoch), &taken);
        assert_eq!(named(&news), [partition]);
        taken = vec![(partition, 1)];
    }
    let (_, metrics) = broker.get("/metrics").expect("metrics are answered");
    for line in [
        "tidemill_fetch_sessions 1",
        "tidemill_fetch_session_partitions 2000",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line}");
    }
}

fn broken_sessions_are_refused_by_kafkas_codes(engine: Engine) {
    let broker = Broker::start(engine);
    let cli = Cli::new(&broker);
    cli.create_topic("t", 2);
    let mut messages = Messages::open(&broker.kafka());
    let session = |session, partitions| Fetch {
        session,
        partitions,
        forgotten: &[],
        wait_ms: 0,
    };
    let id = session((0, 0), &[(0, 0)]).call(&mut messages).session_id;
    assert_eq!(
        session((id, 2), &[]).call(&mut messages).error_code,
        WRONG_EPOCH
    );
    assert_eq!(session((id, 1), &[]).call(&mut messages).error_code, 0);
    assert_eq!(
        session((id, 1), &[]).call(&mut messages).error_code,
        WRONG_EPOCH
    );
    let by_id = messages.call(13, &session((id, 2), &[]).request());
    assert_eq!(by_id.error_code, WRONG_TOPIC_IDS);
    assert_eq!(
        session((id ^ 4, 1), &[]).call(&mut messages).error_code,
        NOT_FOUND
    );
    let closed = session((id, -1), &[(1, 0)]).call(&mut messages);
    assert_eq!((closed.session_id, named(&closed)), (0, vec![1]));
    assert_eq!(
        session((id, 2), &[]).call(&mut messages).error_code,
        NOT_FOUND
    );
    // By id, with one that is not there beside one that is.
    let topic = messages
        .call(12, &MetadataRequest::default().with_topics(None))
        .topics[0]
        .topic_id;
    let mut request = session((0, 0), &[(0, 0), (1, 0)]).request();
    request.topics[0].topic_id = topic;
    let mut unknown = request.topics[0].clone();
    unknown.topic_id = Default::default();
    request.topics.push(unknown);
    let made = messages.call(18, &request);
    let codes = |r: &FetchResponse| -> Vec<i16> {
        let partitions = r.responses.iter().flat_map(|t| &t.partitions);
        partitions.map(|p| p.error_code).collect()
    };
    assert_eq!((made.error_code, codes(&made)), (0, vec![0, 0, 100, 100]));
    let again = messages.call(18, &session((made.session_id, 1), &[]).request());
    assert_eq!(codes(&again), [100, 100], "what is wrong is said each time");
    // A topic that goes is told, once it has gone.
    cli.ok(&["topic", "delete", "t"]);
    let request = session((made.session_id, 2), &[]).request();
    let gone = messages.call(18, &request.with_max_wait_ms(LONG_MS));
    assert!(
        codes(&gone).len() >= 2 && codes(&gone).iter().all(|c| *c != 0),
        "{gone:?}"
    );
}
