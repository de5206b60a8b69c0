//! What Kafka clients send: frames, headers, and the body of every request in the table.

use bytes::Bytes;
use kafka_protocol::messages::{ApiKey, RequestKind};
use tidemill_wire::{api, fetch, frame, header, produce, schema};

use crate::alloc::within;
use crate::choices::Choices;
use crate::mutate::Numbers;
use crate::{Target, read_marked};

/// Bytes of memory that a decoded request may take for each byte of it. A key of FindCoordinator is one byte on the
/// wire and a 32-byte text in a vector that doubles while the old one still stands.
pub(crate) const REQUEST_FACTOR: usize = 128;
/// And so many for errors and the like.
pub(crate) const REQUEST_BYTES: usize = 4 << 10;

fn allowed(bytes: usize) -> usize {
    REQUEST_FACTOR * bytes + REQUEST_BYTES
}

pub(crate) const FRAME: Target = Target {
    name: "frame",
    run: run_frame,
    seeds: frame_seeds,
};

fn run_frame(input: &[u8]) {
    within("a frame's head", REQUEST_BYTES, || {
        let Some((size, frame)) = input.split_first_chunk() else {
            return;
        };
        let _ = frame::check_size(*size, frame::FRAME_BYTES_MAX);
        let _ = header::preamble(frame);
        if let Ok(header) = header::parse(frame) {
            assert!(header.body_at <= frame.len());
        }
    });
}

fn frame_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for api in api::APIS {
        for version in [api.min, api.max] {
            let mut frame = vec![0, 0, 0, 20];
            frame.extend(api.key.to_be_bytes());
            frame.extend(version.to_be_bytes());
            frame.extend([0, 0, 0, 7, 0, 4]);
            frame.extend(b"name");
            frame.extend([1, 0, 2, 9, 9]);
            seeds.push(frame);
        }
    }
    seeds
}

pub(crate) const REQUEST: Target = Target {
    name: "request",
    run: run_request,
    seeds: request_seeds,
};

/// How an input of `request` says its body.
const RAW: u8 = 0;

/// API, version, form; then the body itself, or choices of which a valid body is made.
fn run_request(input: &[u8]) {
    let mut choices = Choices::new(input);
    let api = api::APIS[choices.below(api::APIS.len() as u32) as usize];
    let versions = u32::from(api.max.abs_diff(api.min)) + 1;
    let version = api.min + choices.below(versions) as i16;
    let body = match choices.byte() {
        RAW => choices.rest().to_vec(),
        _ => {
            let mut choose = |below: u32| choices.below(below);
            let Some(body) = schema::specimen(api.key, version, &mut choose) else {
                return;
            };
            let walked = schema::walk(api.key, version, &body);
            assert_eq!(walked, Ok(body.len()), "{} {version}", api.name);
            let mut body = body;
            choices.damage(&mut body);
            body
        }
    };
    let body = Bytes::from(body);
    within(api.name, allowed(body.len()), || {
        decode(api.key, version, &body)
    });
}

/// As the broker does: walked first, then decoded by the message crate.
fn decode(key: i16, version: i16, body: &Bytes) {
    if schema::walk(key, version, body).is_err() {
        return;
    }
    let known = ApiKey::try_from(key).expect("the table holds Kafka's APIs only");
    let _ = RequestKind::decode(known, &mut body.clone(), version);
}

fn request_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (index, api) in api::APIS.iter().enumerate() {
        for version in api.min..=api.max {
            let at = version.abs_diff(api.min) as u8;
            for seed in 0..3 {
                let mut numbers = Numbers::new(seed + 1);
                let mut choose = |below: u32| numbers.below(below as usize) as u32;
                let body = schema::specimen(api.key, version, &mut choose).unwrap_or_default();
                seeds.push([&[index as u8, at, RAW], &body[..]].concat());
            }
        }
        let choices: Vec<u8> = (1..60u8).map(|n| n.wrapping_mul(37)).collect();
        seeds.push([&[index as u8, 0, 1], &choices[..]].concat());
    }
    seeds
}

pub(crate) const PRODUCE: Target = Target {
    name: "produce",
    run: run_produce,
    seeds: produce_seeds,
};

fn run_produce(input: &[u8]) {
    let decoded = |frame: &Bytes, version| {
        let Ok(request) = produce::decode(frame, 0, version) else {
            return;
        };
        for partition in request.topics.iter().flat_map(|t| &t.partitions) {
            assert!(partition.records.as_ref().map_or(0, Bytes::len) <= frame.len());
        }
    };
    read_versioned("Produce", input, decoded);
}

/// Reads a frame that is all body, behind a byte that says its version.
fn read_versioned(what: &str, input: &[u8], read: impl FnOnce(&Bytes, i16)) {
    read_marked(input, |version, body| {
        let frame = Bytes::copy_from_slice(body);
        within(what, allowed(frame.len()), || {
            read(&frame, i16::from(version))
        });
    });
}

fn produce_seeds() -> Vec<Vec<u8>> {
    let batch = crate::batches::plain();
    let mut seeds = Vec::new();
    for version in 0u8..=13 {
        let mut body = vec![version];
        let flexible = version >= 9;
        match version {
            0..=2 => {}
            9.. => body.push(0),
            _ => body.extend([0xff, 0xff]),
        }
        body.extend([0xff, 0xff, 0, 0, 0x75, 0x30]);
        count(&mut body, flexible, 1);
        match version {
            13.. => body.extend([9; 16]),
            9.. => body.extend([2, b't']),
            _ => body.extend([0, 1, b't']),
        }
        count(&mut body, flexible, 2);
        for index in 0..2u8 {
            body.extend([0, 0, 0, index]);
            count(&mut body, flexible, batch.len() as u32);
            body.extend(&batch[..]);
            if flexible {
                body.push(0);
            }
        }
        if flexible {
            body.extend([0, 0]);
        }
        seeds.push(body);
    }
    seeds
}

fn count(out: &mut Vec<u8>, flexible: bool, count: u32) {
    match flexible {
        true => tidemill_model::varint::write_u64(out, u64::from(count) + 1),
        false => out.extend(count.to_be_bytes()),
    }
}

pub(crate) const FETCH: Target = Target {
    name: "fetch",
    run: run_fetch,
    seeds: fetch_seeds,
};

fn run_fetch(input: &[u8]) {
    read_versioned("Fetch", input, |frame, version| {
        let _ = fetch::decode(frame, 0, version);
    });
}

fn fetch_seeds() -> Vec<Vec<u8>> {
    use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
    use kafka_protocol::messages::{FetchRequest, TopicName};
    use kafka_protocol::protocol::{Encodable, StrBytes};
    let name = || TopicName(StrBytes::from_static_str("topic"));
    let mut seeds = Vec::new();
    for version in 4i16..=18 {
        let partition = FetchPartition::default()
            .with_partition(1)
            .with_fetch_offset(7)
            .with_partition_max_bytes(1 << 20);
        let mut topic = FetchTopic::default().with_partitions(vec![partition.clone(), partition]);
        let mut forgotten = ForgottenTopic::default().with_partitions(vec![1, 2, 3]);
        if version < 13 {
            topic = topic.with_topic(name());
            forgotten = forgotten.with_topic(name());
        }
        let mut request = FetchRequest::default()
            .with_max_wait_ms(500)
            .with_min_bytes(1)
            .with_topics(vec![topic]);
        if version >= 7 {
            request = request.with_forgotten_topics_data(vec![forgotten]);
        }
        let mut body = bytes::BytesMut::from(&[version as u8][..]);
        request
            .encode(&mut body, version)
            .expect("every version has these fields");
        seeds.push(body.to_vec());
    }
    seeds
}
