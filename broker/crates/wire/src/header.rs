//! Request and response headers.

use crate::bounded::{Flexible, Reader, WireError};
use crate::{api, frame};

/// The first fields of every request, which tell how the rest is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preamble {
    /// The API key.
    pub api_key: i16,
    /// The version of the request.
    pub api_version: i16,
    /// What the response repeats.
    pub correlation_id: i32,
}

/// A request header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHeader<'a> {
    /// What every request begins with.
    pub preamble: Preamble,
    /// What the client calls itself.
    pub client_id: Option<&'a str>,
    /// Where in the frame the body begins, in bytes.
    pub body_at: usize,
}

/// Reads the preamble of a frame.
///
/// # Errors
/// [`WireError::Truncated`].
pub fn preamble(frame: &[u8]) -> Result<Preamble, WireError> {
    let mut r = Reader::new(frame);
    Ok(Preamble {
        api_key: r.i16("the request header")?,
        api_version: r.i16("the request header")?,
        correlation_id: r.i32("the request header")?,
    })
}

/// Reads the header of a frame, version 1 or, for flexible versions, 2 (where the client id keeps its 16-bit length).
///
/// # Errors
/// [`WireError`]; [`WireError::Version`] when the API is not served in that version.
pub fn parse(frame: &[u8]) -> Result<RequestHeader<'_>, WireError> {
    let preamble = preamble(frame)?;
    let unserved = WireError::Version {
        api: preamble.api_key,
        version: preamble.api_version,
    };
    let api = api::find(preamble.api_key)
        .filter(|api| api.serves(preamble.api_version))
        .ok_or(unserved)?;
    let mut r = Reader::new(&frame[frame::FRAME_BYTES_MIN..]);
    let client_id = r.nullable_string(Flexible::No, "the client id")?;
    r.skip_tagged(api.flexible(preamble.api_version))?;
    let body_at = frame.len() - r.remaining();
    Ok(RequestHeader {
        preamble,
        client_id,
        body_at,
    })
}

/// Size, correlation id and, for flexible versions, the tagged fields: what goes in front of a response body of
/// `body_bytes` bytes. `None` when the size is more than the number of 31 bits that says it.
pub fn response(correlation_id: i32, flexible: Flexible, body_bytes: usize) -> Option<Vec<u8>> {
    let header_bytes = if flexible == Flexible::Yes { 5 } else { 4 };
    let size = i32::try_from(body_bytes.checked_add(header_bytes)?).ok()?;
    let mut out = Vec::with_capacity(4 + header_bytes);
    out.extend_from_slice(&size.to_be_bytes());
    out.extend_from_slice(&correlation_id.to_be_bytes());
    if flexible == Flexible::Yes {
        out.push(0);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use kafka_protocol::messages::{RequestHeader as Theirs, ResponseHeader};
    use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn headers_of_every_api_are_read_as_the_message_crate_writes_them() {
        for api in api::APIS {
            for version in api.min..=api.max {
                let id = (version % 2 == 0).then(|| StrBytes::from_static_str("it"));
                let theirs = Theirs::default()
                    .with_request_api_key(api.key)
                    .with_request_api_version(version)
                    .with_correlation_id(77)
                    .with_client_id(id.clone());
                let flexible = api.flexible(version) == Flexible::Yes;
                let mut frame = BytesMut::new();
                theirs
                    .encode(&mut frame, if flexible { 2 } else { 1 })
                    .unwrap();
                let at = frame.len();
                frame.extend_from_slice(b"body");
                let header = parse(&frame).unwrap();
                assert_eq!((header.preamble.correlation_id, header.body_at), (77, at));
                assert_eq!(header.client_id, id.as_deref());
                assert!(parse(&frame[..at - 1]).is_err());
            }
        }
    }

    #[test]
    fn response_headers_are_read_by_the_message_crate() {
        for (flexible, version) in [(Flexible::No, 0), (Flexible::Yes, 1)] {
            let mut out = Bytes::from(response(9, flexible, 3).unwrap());
            assert_eq!(bytes::Buf::get_i32(&mut out) as usize, out.len() + 3);
            assert_eq!(
                ResponseHeader::decode(&mut out, version)
                    .unwrap()
                    .correlation_id,
                9
            );
            assert!(out.is_empty());
        }
    }

    #[test]
    fn size_that_no_header_can_say_has_no_header() {
        let most = i32::MAX as usize - 5;
        assert!(response(9, Flexible::Yes, most).is_some());
        assert!(response(9, Flexible::Yes, most + 1).is_none());
        assert!(response(9, Flexible::No, usize::MAX).is_none());
    }

    proptest! {
        #[test]
        fn rubbish_never_panics(frame in proptest::collection::vec(any::<u8>(), 0..64), key in 0i16..40, version in 0i16..20) {
            let _ = parse(&frame);
            let mut frame = frame;
            if frame.len() >= 4 {
                frame[..2].copy_from_slice(&key.to_be_bytes());
                frame[2..4].copy_from_slice(&version.to_be_bytes());
            }
            let _ = parse(&frame);
        }
    }
}
