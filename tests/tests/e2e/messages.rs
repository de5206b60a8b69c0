//! Any request in any version, built and read with the `kafka-protocol` crate, over the raw connection.

use bytes::{Bytes, BytesMut};
use kafka_protocol::protocol::{Decodable, HeaderVersion, Request, StrBytes};
use tidemill_tests::raw::{self, Connection, Header};

/// A connection for messages.
pub(crate) struct Messages(Connection);

impl Messages {
    pub(crate) fn open(kafka: &str) -> Messages {
        Messages(Connection::open(kafka).expect("the broker listens"))
    }

    /// Sends a request and reads its answer, to the last byte.
    pub(crate) fn call<Q: Request>(&mut self, version: i16, request: &Q) -> Q::Response {
        self.send(version, request);
        self.receive::<Q>(version)
    }

    /// Sends a request whose answer is read later: answers come in the order of requests.
    pub(crate) fn send<Q: Request>(&mut self, version: i16, request: &Q) {
        self.send_often(version, request, 1);
    }

    /// Sends a request several times at once.
    pub(crate) fn send_often<Q: Request>(&mut self, version: i16, request: &Q, times: usize) {
        let mut body = BytesMut::new();
        request
            .encode(&mut body, version)
            .expect("a request of this version");
        let header = match Q::header_version(version) {
            2 => Header::Flexible,
            _ => Header::Plain,
        };
        let frame = raw::frame(Q::KEY, version, header, &body);
        self.0.send(&frame.repeat(times)).expect("the broker reads");
    }

    /// The next answer, which is one to a `Q`.
    pub(crate) fn receive<Q: Request>(&mut self, version: i16) -> Q::Response {
        let mut answer = Bytes::from(self.0.receive().expect("the broker answers"));
        let head = match Q::Response::header_version(version) {
            1 => 5,
            _ => 4,
        };
        let _ = answer.split_to(head);
        let read = Q::Response::decode(&mut answer, version).expect("an answer of this version");
        assert!(
            answer.is_empty(),
            "bytes are left of API {} version {version}",
            Q::KEY
        );
        read
    }
}

/// A text for a message.
pub(crate) fn text(s: &str) -> StrBytes {
    StrBytes::from_string(s.to_owned())
}
