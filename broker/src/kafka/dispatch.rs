//! From a frame to its handler.

use std::rc::Rc;

use bytes::Bytes;
use kafka_protocol::protocol::Encodable;
use tidemill_rt::time::Instant;
use tidemill_wire::api::{self, Api};
use tidemill_wire::{WireError, header, message};

use super::answers::{Answer, Body, Counted, Pending, Running, Whose};
use super::client::Client;
use super::error_map::code;
use super::handlers;
use super::memory::{AnswerRoom, FrameRoom, SMALL_ANSWER_BYTES_MAX};
use crate::config::table::Kafka;
use crate::shard::Shard;

/// What decoding makes of a request, for each byte of it: a text of 20 bytes stays in the frame and takes 40 more, a number
/// of four stays four; only elements of a byte or two, which no honest request is made of, become more.
const DECODED_FACTOR: usize = 4;

/// A larger request is started when those ahead of it are answered, see [`in_turn`]: it holds its frame, and what was made of
/// that, until it is answered itself.
const UNORDERED_FRAME_BYTES_MAX: usize = 16 << 10;

/// A request as it came in.
pub(crate) struct Received {
    /// The frame, without its size.
    pub(crate) frame: Bytes,
    /// The memory reserved for it.
    pub(crate) memory: FrameRoom,
    /// Who sent it.
    pub(crate) client: Rc<Client>,
    /// Which of its requests it is, from 0.
    pub(crate) number: u64,
    /// When it was complete.
    pub(crate) at: Instant,
}

/// A request for a handler. Lives on the shard of its connection.
pub(crate) struct Request {
    /// That shard.
    pub(crate) shard: Rc<Shard>,
    /// The API.
    pub(crate) api: &'static Api,
    /// The version, one of those served.
    pub(crate) version: i16,
    /// The frame.
    pub(crate) frame: Bytes,
    /// The memory reserved for it.
    memory: FrameRoom,
    /// Who sent it.
    pub(crate) client: Rc<Client>,
    /// Which of its requests it is.
    number: u64,
    /// Where in it the body begins.
    pub(crate) body_at: usize,
    /// When it was complete.
    pub(crate) at: Instant,
}

impl Request {
    /// The body, decoded with the message crate.
    pub(crate) fn decode<M: kafka_protocol::protocol::Decodable>(&self) -> Result<M, WireError> {
        self.decode_as(self.version)
    }

    /// As [`Request::decode`], in the layout of `version`, for requests that the message crate does not know in their own.
    pub(crate) fn decode_as<M: kafka_protocol::protocol::Decodable>(
        &self,
        version: i16,
    ) -> Result<M, WireError> {
        message::decode(self.api.key, version, &self.frame, self.body_at)
    }

    /// What the client calls itself.
    pub(crate) fn client_id(&self) -> String {
        let header = header::parse(&self.frame).ok();
        let id = header.and_then(|h| h.client_id);
        id.unwrap_or_default().to_owned()
    }

    /// Forgets the frame and gives its memory back. Nothing that shares it may be kept.
    pub(crate) fn release(&mut self) {
        self.frame = Bytes::new();
        self.memory = FrameRoom::default();
    }

    /// Reserves memory for what decoding made of it, beyond its frame.
    pub(crate) async fn grow(&mut self, bytes: usize) {
        let budgets = &self.shard.kafka_memory;
        budgets
            .grow(&mut self.memory, self.frame.len(), bytes)
            .await;
    }

    /// Waits until all requests ahead of it are answered, before it is started: so that one of many elements holds what it
    /// needs for no longer than it takes. Says that it came too late when they take too long.
    pub(crate) async fn turn_to_start(&self) -> Result<(), Answer> {
        let limit = self.shard.info.settings.kafka.write_timeout;
        match self.client.turn_to_start(self.number, limit).await {
            true => Ok(()),
            false => Err(Answer::Close(format!(
                "a large {} waited for requests ahead of it for longer than kafka.write_timeout; send it on a connection of \
                 its own",
                self.api.name
            ))),
        }
    }

    /// Waits until it is the first of its connection that is not answered.
    pub(crate) async fn turn(&self) {
        self.client.turn(self.number).await;
    }

    /// Waits for room for an answer of about `bytes` bytes, and for its turn.
    pub(crate) async fn room(&self, bytes: usize) -> AnswerRoom {
        let (bytes, budgets) = (bytes as u64, &self.shard.kafka_memory);
        if bytes <= SMALL_ANSWER_BYTES_MAX {
            return budgets.small_answer(bytes);
        }
        self.turn().await;
        budgets.whole_answer(bytes).await
    }

    /// Waits for room for an answer of up to `bytes` bytes, or for some less where there is not so much. To be asked for in
    /// its turn.
    pub(crate) async fn some_room(&self, bytes: usize) -> AnswerRoom {
        self.shard.kafka_memory.answer(bytes as u64).await
    }

    /// `response` as an answer in the request's version. A large one waits for its turn and for room.
    pub(crate) async fn answer<M: Encodable>(&self, response: &M) -> Answer {
        let version = message::crate_version(self.api.key, self.version);
        let bytes = message::encoded_bytes(response, version).unwrap_or(0);
        let room = self.room(bytes).await;
        self.answer_within(room, response)
    }

    /// `response` as an answer in the request's version, made within `room`.
    pub(crate) fn answer_within<M: Encodable>(&self, room: AnswerRoom, response: &M) -> Answer {
        self.encoded(response, |body| Body::within(room, vec![body]))
    }

    /// `made`, a response that was encoded within `room`, as an answer.
    pub(crate) fn answer_made(&self, room: AnswerRoom, made: Result<Bytes, WireError>) -> Answer {
        self.made(made, |body| Body::within(room, vec![body]))
    }

    fn encoded<M: Encodable>(&self, response: &M, body: impl FnOnce(Bytes) -> Body) -> Answer {
        let version = message::crate_version(self.api.key, self.version);
        self.made(message::encode(response, version), body)
    }

    fn made(&self, made: Result<Bytes, WireError>, body: impl FnOnce(Bytes) -> Body) -> Answer {
        match made {
            Ok(bytes) => Answer::Body(body(bytes)),
            Err(e) => Answer::Close(format!(
                "{} version {} cannot be answered: {e}",
                self.api.name, self.version
            )),
        }
    }
}

/// Bytes that the answer to a request of this API counts for on its connection, beyond the request itself.
pub(crate) fn answer_weight(api_key: i16, limits: &Kafka) -> u64 {
    match api_key {
        // In proportion to the request, or small.
        api::PRODUCE | api::API_VERSIONS | api::INIT_PRODUCER_ID => 0,
        api::FIND_COORDINATOR | api::HEARTBEAT | api::LEAVE_GROUP => 0,
        api::OFFSET_COMMIT | api::OFFSET_DELETE | api::DELETE_GROUPS => 0,
        _ => limits.fetch_size_max as u64,
    }
}

/// Memory that a request of this API takes for each byte of its frame once it is decoded, about: many small elements are
/// larger in memory than on the wire.
pub(crate) fn memory_factor(api_key: i16) -> usize {
    match api_key {
        // Records are most of it, and stay as they are.
        api::PRODUCE => 1,
        // Decoded at once, and charged while it waits.
        api::FETCH => 1,
        _ => DECODED_FACTOR,
    }
}

/// Whether large requests of this API are started in their turn. Produce looks at what is in a request; a Fetch and what
/// members of groups say may wait for long, and give their frame back before.
fn in_turn(api_key: i16) -> bool {
    !matches!(
        api_key,
        api::PRODUCE
            | api::FETCH
            | api::JOIN_GROUP
            | api::SYNC_GROUP
            | api::HEARTBEAT
            | api::LEAVE_GROUP
    )
}

/// Starts a request: everything whose order matters has happened, or is queued in order, when this returns. What it
/// returns may be driven in any order.
///
/// # Errors
/// Why the connection must be closed: the request cannot be read, or asks for what is not served.
pub(crate) async fn start(shard: &Rc<Shard>, received: Received) -> Result<Running, String> {
    let preamble = header::preamble(&received.frame).map_err(|e| e.to_string())?;
    let unknown = || format!("API {} is not served", preamble.api_key);
    let api = api::find(preamble.api_key).ok_or_else(unknown)?;
    let counters = shard.metrics.api(api.name);
    counters.requests.add(1);
    counters.request_bytes.add(received.frame.len() as u64);
    let counted = Counted {
        counters,
        at: received.at,
    };
    let whose = Whose {
        shard: shard.clone(),
        client: received.client.clone(),
    };
    let version = preamble.api_version;
    let response_header = api.response_header_flexible(version);
    if !api.serves(version) {
        // KIP-511: the one API that answers, in the layout of version 0, whatever was asked.
        if api.key == api::API_VERSIONS {
            let body = api::api_versions_body(version, code::UNSUPPORTED_VERSION);
            let answer = std::future::ready(Answer::Body(Body::unreserved(Bytes::from(body))));
            return Ok(Running::new(
                Box::pin(answer),
                preamble.correlation_id,
                response_header,
                whose,
                counted,
            ));
        }
        return Err(format!(
            "{} version {version} is not served, only {} to {}",
            api.name, api.min, api.max
        ));
    }
    let malformed = |e: WireError| format!("malformed {} version {version}: {e}", api.name);
    let body_at = header::parse(&received.frame).map_err(malformed)?.body_at;
    let request = Request {
        shard: shard.clone(),
        api,
        version,
        frame: received.frame,
        memory: received.memory,
        client: received.client,
        number: received.number,
        body_at,
        at: received.at,
    };
    let pending = match in_turn(api.key) && request.frame.len() > UNORDERED_FRAME_BYTES_MAX {
        true => match request.turn_to_start().await {
            Ok(()) => handler(request).await.map_err(malformed)?,
            Err(late) => Box::pin(std::future::ready(late)),
        },
        false => handler(request).await.map_err(malformed)?,
    };
    Ok(Running::new(
        pending,
        preamble.correlation_id,
        response_header,
        whose,
        counted,
    ))
}

/// The table of handlers. Produce and what members of groups say have an order to keep before they are driven.
async fn handler(request: Request) -> Result<Pending, WireError> {
    match request.api.key {
        api::PRODUCE => handlers::produce::start(request).await,
        api::FETCH => handlers::fetch::start(request),
        api::LIST_OFFSETS => handlers::list_offsets::start(request),
        api::METADATA => handlers::metadata::start(request),
        api::OFFSET_COMMIT => handlers::offset_commit::start(request).await,
        api::OFFSET_FETCH => handlers::offset_fetch::start(request).await,
        api::JOIN_GROUP => handlers::join_group::start(request).await,
        api::HEARTBEAT => handlers::heartbeat::start(request).await,
        api::LEAVE_GROUP => handlers::leave_group::start(request).await,
        api::SYNC_GROUP => handlers::sync_group::start(request).await,
        api::DESCRIBE_GROUPS => handlers::describe_groups::start(request),
        api::LIST_GROUPS => handlers::list_groups::start(request),
        api::DELETE_GROUPS => handlers::delete_groups::start(request),
        api::OFFSET_DELETE => handlers::offset_delete::start(request).await,
        api::FIND_COORDINATOR => handlers::find_coordinator::start(request),
        api::API_VERSIONS => handlers::api_versions::start(request),
        api::CREATE_TOPICS => handlers::create_topics::start(request),
        api::DELETE_TOPICS => handlers::delete_topics::start(request),
        api::DELETE_RECORDS => handlers::delete_records::start(request),
        api::INIT_PRODUCER_ID => handlers::init_producer_id::start(request),
        api::DESCRIBE_CONFIGS => handlers::describe_configs::start(request),
        other => admin_handler(other, request),
    }
}

/// What tools and admin clients ask for.
fn admin_handler(api_key: i16, request: Request) -> Result<Pending, WireError> {
    match api_key {
        api::ALTER_CONFIGS => handlers::alter_configs::start(request),
        api::CREATE_PARTITIONS => handlers::create_partitions::start(request),
        api::DESCRIBE_CLUSTER => handlers::describe_cluster::start(request),
        api::DESCRIBE_LOG_DIRS => handlers::describe_log_dirs::start(request),
        api::DESCRIBE_PRODUCERS => handlers::describe_producers::start(request),
        api::DESCRIBE_TOPIC_PARTITIONS => handlers::describe_topic_partitions::start(request),
        api::ELECT_LEADERS => handlers::elect_leaders::start(request),
        api::INCREMENTAL_ALTER_CONFIGS => handlers::alter_configs::start_incremental(request),
        api::LIST_CONFIG_RESOURCES => handlers::list_config_resources::start(request),
        api::LIST_PARTITION_REASSIGNMENTS => handlers::elect_leaders::start_reassignments(request),
        api::OFFSET_FOR_LEADER_EPOCH => handlers::offset_for_leader_epoch::start(request),
        other => Err(WireError::Version {
            api: other,
            version: request.version,
        }),
    }
}
