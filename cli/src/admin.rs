//! The broker's admin API, from the client's side.

use std::io::{self, Read};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body, Timeout};

use crate::error::{CliError, CliResult};

/// Where a broker listens when nobody says otherwise.
pub(crate) const DEFAULT_ADDRESS: &str = "127.0.0.1:9644";
const DEFAULT_PORT: u16 = 9644;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than the broker's own limit for a request, so that its answer is heard.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(150);
/// The same for an upload, which is answered when the module is compiled.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(16 * 60);
/// Bytes of an answer. Records come up to some MiB at once, but a single one may have 100 MiB, and more as JSON.
const ANSWER_MAX: u64 = 256 << 20;

/// A client of one admin address.
#[derive(Debug)]
pub(crate) struct Admin {
    agent: Agent,
    address: String,
}

impl Admin {
    /// A client of `HOST:PORT`; nothing is sent yet.
    ///
    /// # Errors
    /// Where the address is none.
    pub(crate) fn new(address: &str) -> CliResult<Admin> {
        let address = normal_address(address)?;
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(REQUEST_TIMEOUT))
            .max_redirects(0)
            // A proxy for the web is of no use on the way to one's own broker.
            .proxy(None)
            .user_agent(concat!("transform/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Admin {
            agent: config.into(),
            address,
        })
    }

    /// `GET`.
    pub(crate) fn get(&self, path: &str) -> CliResult<Value> {
        let answer = self.answer(self.agent.get(self.url(path)).call());
        answer.map_err(|error| match error {
            CliError::Lost { address, reason } => CliError::Silent { address, reason },
            error => error,
        })
    }

    /// `DELETE`.
    pub(crate) fn delete(&self, path: &str) -> CliResult<Value> {
        self.answer(self.agent.delete(self.url(path)).call())
    }

    /// `POST` without a body.
    pub(crate) fn post_empty(&self, path: &str) -> CliResult<Value> {
        self.answer(self.agent.post(self.url(path)).send_empty())
    }

    /// `POST` of JSON.
    pub(crate) fn post(&self, path: &str, body: &Value) -> CliResult<Value> {
        let request = self
            .agent
            .post(self.url(path))
            .header("content-type", "application/json");
        self.answer(request.send(body.to_string()))
    }

    /// `POST` of NDJSON.
    pub(crate) fn post_lines(&self, path: &str, lines: &[u8]) -> CliResult<Value> {
        let request = self
            .agent
            .post(self.url(path))
            .header("content-type", "application/x-ndjson");
        self.answer(request.send(lines))
    }

    /// `PUT` of JSON.
    pub(crate) fn put(&self, path: &str, body: &Value) -> CliResult<Value> {
        let request = self
            .agent
            .put(self.url(path))
            .header("content-type", "application/json");
        self.answer(request.send(body.to_string()))
    }

    /// `PUT` of a module.
    pub(crate) fn put_wasm(&self, path: &str, wasm: &[u8]) -> CliResult<Value> {
        let request = self
            .agent
            .put(self.url(path))
            .header("content-type", "application/wasm")
            .config()
            .timeout_global(Some(UPLOAD_TIMEOUT))
            .build();
        self.answer(request.send(wasm))
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What a failed question is to people: a broker that is not there, one that may have done what it was asked, or a
    /// question that cannot be asked.
    fn failed(&self, error: ureq::Error) -> CliError {
        let (address, reason) = (self.address.clone(), error.to_string());
        match error {
            ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => CliError::Unreachable {
                address,
                reason: "connecting took too long".to_owned(),
            },
            ureq::Error::Timeout(_) => CliError::Lost {
                address,
                reason: "it took too long".to_owned(),
            },
            ureq::Error::Io(error) if is_unconnected(&error) => {
                CliError::Unreachable { address, reason }
            }
            ureq::Error::Io(_) | ureq::Error::BodyStalled => CliError::Lost { address, reason },
            ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => {
                CliError::Unreachable { address, reason }
            }
            _ => CliError::said(format!("the broker at {address} cannot be asked: {reason}")),
        }
    }

    fn answer(&self, response: Result<Response<Body>, ureq::Error>) -> CliResult<Value> {
        let mut response = response.map_err(|error| self.failed(error))?;
        let status = response.status();
        let body =
            whole(response.body_mut().as_reader(), ANSWER_MAX).map_err(|error| CliError::Lost {
                address: self.address.clone(),
                reason: format!("its answer broke off: {error}"),
            })?;
        let Some(body) = body else {
            return Err(CliError::said(format!(
                "the broker's answer is longer than {ANSWER_MAX} bytes, too long for this command; \
                 ask for less, such as fewer records with --max, or use a Kafka client"
            )));
        };
        match serde_json::from_slice::<Value>(&body) {
            Ok(value) if status.is_success() => Ok(value),
            Ok(value) if value["error"]["message"].is_string() => {
                let message = value["error"]["message"].as_str().unwrap_or_default();
                Err(match status {
                    StatusCode::SERVICE_UNAVAILABLE => CliError::Busy(message.to_owned()),
                    _ => CliError::Refused(message.to_owned()),
                })
            }
            _ => Err(CliError::said(format!(
                "what answers at {} is no Tidemill broker of this version (HTTP status {status}); \
                 check --admin: it is the admin address, not the Kafka one",
                self.address
            ))),
        }
    }
}

/// Whether an error says that there was no connection yet: then nothing was asked.
fn is_unconnected(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::AddrNotAvailable
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::NotFound
    ) || error.to_string().contains("failed to lookup address")
}

/// All that `reader` gives; nothing where that is more than `max` bytes.
fn whole(reader: impl Read, max: u64) -> io::Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    reader.take(max + 1).read_to_end(&mut body)?;
    Ok((body.len() as u64 <= max).then_some(body))
}

/// `HOST:PORT` from what people write: a URL, or a host alone.
fn normal_address(text: &str) -> CliResult<String> {
    let text = text.trim();
    let rest = text
        .strip_prefix("http://")
        .unwrap_or(text)
        .trim_end_matches('/');
    let rest = if rest.is_empty() {
        DEFAULT_ADDRESS
    } else {
        rest
    };
    let is_host =
        |host: &str| !host.is_empty() && !host.contains(['/', '@', '?', '#', ' ', ':', '[', ']']);
    let fits =
        |host: &str, port: &str| is_host(host) && port.parse::<u16>().is_ok_and(|port| port != 0);
    let address = match rest.strip_prefix('[').and_then(|v6| v6.split_once(']')) {
        Some((v6, "")) if v6.parse::<std::net::Ipv6Addr>().is_ok() => {
            Some(format!("[{v6}]:{DEFAULT_PORT}"))
        }
        Some((v6, port))
            if v6.parse::<std::net::Ipv6Addr>().is_ok()
                && fits("v6", port.trim_start_matches(':')) =>
        {
            Some(rest.to_owned())
        }
        Some(_) => None,
        None => match rest.split_once(':') {
            Some((host, port)) if fits(host, port) => Some(rest.to_owned()),
            None if is_host(rest) => Some(format!("{rest}:{DEFAULT_PORT}")),
            _ => None,
        },
    };
    address.ok_or_else(|| {
        CliError::said(format!(
            "{text:?} is no admin address; give HOST:PORT, such as {DEFAULT_ADDRESS}"
        ))
    })
}

/// A name as one segment of a path (RFC 3986, unreserved characters stay).
pub(crate) fn segment(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                encoded.push(byte as char)
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// An answer as a type.
///
/// # Errors
/// Where the broker's version says it differently.
pub(crate) fn typed<T: DeserializeOwned>(value: &Value) -> CliResult<T> {
    T::deserialize(value).map_err(|error| {
        CliError::said(format!(
            "the broker's answer is not understood ({error}); use the `transform` of the broker's version"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_as_people_write_them() {
        for (text, address) in [
            ("127.0.0.1:9644", "127.0.0.1:9644"),
            ("http://broker:80/", "broker:80"),
            ("broker", "broker:9644"),
            ("[::1]:9644", "[::1]:9644"),
            ("[::1]", "[::1]:9644"),
            ("", DEFAULT_ADDRESS),
        ] {
            assert_eq!(normal_address(text).expect("an address"), address, "{text}");
        }
        for text in [
            "broker:port",
            "broker:0",
            "https://broker:1",
            "a/b",
            "::1",
            "[::1]:x",
            "a b:1",
            ":9644",
        ] {
            assert!(normal_address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn question_that_was_asked_is_not_told_as_a_broker_that_is_missing() {
        let admin = Admin::new("broker").expect("an address");
        let failed = |error| admin.failed(error);
        let io = |kind: io::ErrorKind| ureq::Error::Io(kind.into());
        for error in [
            ureq::Error::Timeout(Timeout::Connect),
            io(io::ErrorKind::ConnectionRefused),
            ureq::Error::HostNotFound,
        ] {
            let told = failed(error);
            assert!(matches!(told, CliError::Unreachable { .. }), "{told}");
        }
        for error in [
            ureq::Error::Timeout(Timeout::Global),
            ureq::Error::Timeout(Timeout::RecvResponse),
            io(io::ErrorKind::ConnectionReset),
            io(io::ErrorKind::UnexpectedEof),
        ] {
            let told = failed(error);
            assert!(matches!(told, CliError::Lost { .. }), "{told}");
            assert!(!told.to_string().contains("tidemill start"));
        }
        let told = failed(ureq::Error::BadUri("too long".to_owned()));
        assert!(matches!(told, CliError::Said(_)), "{told}");
    }

    #[test]
    fn answer_that_is_too_long_is_not_taken_for_a_shorter_one() {
        assert_eq!(
            whole(&[1; 5][..], 5).expect("read").map(|b| b.len()),
            Some(5)
        );
        assert_eq!(whole(&[1; 6][..], 5).expect("read"), None);
    }

    #[test]
    fn names_cannot_leave_their_path_segment() {
        assert_eq!(segment("a/b?c d.ä"), "a%2Fb%3Fc%20d.%C3%A4");
    }
}
