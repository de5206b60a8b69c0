//! Decoding and encoding with the `kafka-protocol` crate, safely.

use bytes::{Bytes, BytesMut};
use kafka_protocol::protocol::{Decodable, Encodable};

use crate::bounded::WireError;
use crate::{api, schema};

/// The version in which the `kafka-protocol` crate reads and writes `version` of an API: its newest one, where Kafka has one
/// more of the same layout.
pub fn crate_version(api_key: i16, version: i16) -> i16 {
    match api_key {
        // Version 11 only allows one more timestamp (KIP-1023).
        api::LIST_OFFSETS => version.min(10),
        _ => version,
    }
}

/// Decodes the request body of `api_key` that lies in `frame` from `at` on, after a bounded walk over it.
///
/// # Errors
/// [`WireError`].
pub fn decode<M: Decodable>(
    api_key: i16,
    version: i16,
    frame: &Bytes,
    at: usize,
) -> Result<M, WireError> {
    let body = frame.get(at..).ok_or(WireError::Truncated("the body"))?;
    schema::walk(api_key, version, body)?;
    let mut body = frame.slice(at..);
    M::decode(&mut body, crate_version(api_key, version))
        .map_err(|e| WireError::Codec(e.to_string()))
}

/// Bytes of a response body.
///
/// # Errors
/// As [`encode`].
pub fn encoded_bytes<M: Encodable>(message: &M, version: i16) -> Result<usize, WireError> {
    let bytes = message.compute_size(version);
    bytes.map_err(|e| WireError::Codec(e.to_string()))
}

/// Encodes a response body.
///
/// # Errors
/// [`WireError::Codec`] when a field is set that `version` does not have: a mistake of the handler.
pub fn encode<M: Encodable>(message: &M, version: i16) -> Result<Bytes, WireError> {
    let failed = |e: &dyn std::fmt::Display| WireError::Codec(e.to_string());
    let mut out = BytesMut::with_capacity(encoded_bytes(message, version)?);
    message.encode(&mut out, version).map_err(|e| failed(&e))?;
    Ok(out.freeze())
}
