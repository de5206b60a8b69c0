//! ApiVersions: which APIs are served, in which versions.

use bytes::Bytes;
use kafka_protocol::messages::ApiVersionsRequest;
use tidemill_wire::{WireError, api};

use super::super::answers::{Answer, Body, Pending};
use super::super::dispatch::Request;
use super::super::error_map::code;

/// First version in which the client says what it is (KIP-511).
const SOFTWARE_NAMES_FROM: i16 = 3;

pub(in super::super) fn start(request: Request) -> Result<Pending, WireError> {
    let body: ApiVersionsRequest = request.decode()?;
    let named = is_name(&body.client_software_name) && is_name(&body.client_software_version);
    let error = match request.version {
        SOFTWARE_NAMES_FROM.. if !named => code::INVALID_REQUEST,
        _ => code::NONE,
    };
    let body = Bytes::from(api::api_versions_body(request.version, error));
    Ok(Box::pin(std::future::ready(Answer::Body(
        Body::unreserved(body),
    ))))
}

/// Letters, digits, and inside also '-' and '.'.
fn is_name(name: &str) -> bool {
    let alphanumeric = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    let inside = bytes
        .iter()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'));
    alphanumeric(bytes.first()) && alphanumeric(bytes.last()) && inside
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_names_follow_the_pattern_of_kip_511() {
        assert!(is_name("apache-kafka-java") && is_name("4.1.0") && is_name("a"));
        assert!(!is_name("") && !is_name("-a") && !is_name("a.") && !is_name("a b"));
    }
}
