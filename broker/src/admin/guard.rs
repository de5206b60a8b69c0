//! Keeps web pages away from the admin API: checks of `Host`, `Origin` and content type.
//!
//! A browser on the operator's machine reaches whatever listens on loopback, on behalf of any page it
//! shows. A page can send simple requests across origins (Fetch standard, "CORS-safelisted"), and, by
//! letting a name of its own resolve to 127.0.0.1 (DNS rebinding), requests of any kind. The first always
//! carry an `Origin` that is not ours or a content type that a form can send; the second carry the page's
//! name in `Host`. No CORS header is ever sent.

use std::net::IpAddr;

use axum::http::header::{
    CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, ORIGIN, TRANSFER_ENCODING,
};
use axum::http::{Method, Uri};

use super::service::ApiError;

/// Content types that a state-changing request may have: none of them can be sent by a form.
const CONTENT_TYPES: [&str; 4] = [
    "application/json",
    "application/x-ndjson",
    "application/wasm",
    "application/octet-stream",
];

/// Knows the names this broker answers to.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    bound: IpAddr,
    names: Vec<String>,
}

impl Guard {
    /// A guard for a server bound to `bound`. `names` are host names from the configuration.
    pub(crate) fn new(bound: IpAddr, names: impl IntoIterator<Item = String>) -> Guard {
        let names = names.into_iter().map(|name| normal_name(&name)).collect();
        Guard { bound, names }
    }

    /// Checks a request before anything of it is acted upon.
    ///
    /// # Errors
    /// `host_refused` (403, or 400 where it is missing or no host), `origin_refused` (403) and
    /// `content_type_refused` (415).
    pub(crate) fn check(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<(), ApiError> {
        let host = self.check_host(uri, headers)?;
        check_origin(host, headers)?;
        if !matches!(*method, Method::GET | Method::HEAD) {
            check_fetch_site(headers)?;
            check_content_type(headers)?;
        }
        Ok(())
    }

    fn check_host<'a>(&self, uri: &Uri, headers: &'a HeaderMap) -> Result<&'a str, ApiError> {
        let mut values = headers.get_all(HOST).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(ApiError::bad_request(
                "host_refused",
                "send exactly one Host header",
            ));
        };
        let Ok(host) = value.to_str() else {
            return Err(ApiError::bad_request(
                "host_refused",
                "the Host header is not a host",
            ));
        };
        let target = uri.authority().map(|authority| authority.as_str());
        for authority in std::iter::once(host).chain(target) {
            if !self.answers_to(authority) {
                return Err(ApiError::new(
                    403,
                    "host_refused",
                    format!(
                        "this admin address does not answer to the host {authority:?}; use an IP address of the \
                         broker or localhost, or start the broker with --admin-name and this name"
                    ),
                ));
            }
        }
        Ok(host)
    }

    /// Whether `authority` (`HOST` or `HOST:PORT`) names this broker. The port is free: it may be forwarded.
    fn answers_to(&self, authority: &str) -> bool {
        let Some(host) = host_of(authority) else {
            return false;
        };
        match host.parse::<IpAddr>() {
            // A name is what rebinding needs; on a wildcard address any literal may be one of ours.
            Ok(ip) => {
                ip.to_canonical().is_loopback() || ip == self.bound || self.bound.is_unspecified()
            }
            Err(_) => {
                let name = normal_name(host);
                name == "localhost" || self.names.contains(&name)
            }
        }
    }
}

fn normal_name(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// The host in `HOST`, `HOST:PORT` or `[V6]:PORT`, without brackets.
fn host_of(authority: &str) -> Option<&str> {
    if authority.contains('@') {
        return None;
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            (
                host,
                if port.is_empty() {
                    None
                } else {
                    Some(port.strip_prefix(':')?)
                },
            )
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port_is_one = port.is_none_or(|port| port.parse::<u16>().is_ok());
    (!host.is_empty() && port_is_one).then_some(host)
}

fn check_origin(host: &str, headers: &HeaderMap) -> Result<(), ApiError> {
    for origin in headers.get_all(ORIGIN) {
        let authority = origin
            .to_str()
            .ok()
            .and_then(|origin| origin.split_once("://"))
            .map(|(_, rest)| rest);
        if !authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host)) {
            return Err(origin_refused());
        }
    }
    Ok(())
}

/// Fetch metadata, where a browser sends it (W3C Fetch Metadata): only our own page, or no page, may change things.
fn check_fetch_site(headers: &HeaderMap) -> Result<(), ApiError> {
    match headers.get("sec-fetch-site").map(|value| value.as_bytes()) {
        None | Some(b"same-origin" | b"none") => Ok(()),
        Some(_) => Err(origin_refused()),
    }
}

fn origin_refused() -> ApiError {
    ApiError::new(
        403,
        "origin_refused",
        "web pages of another origin may not use the admin API",
    )
}

fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let has_body = headers.contains_key(TRANSFER_ENCODING)
        || headers
            .get(CONTENT_LENGTH)
            .is_some_and(|length| length.as_bytes() != b"0");
    let kind = headers.get(CONTENT_TYPE).map(|kind| {
        let kind = kind.to_str().unwrap_or_default();
        kind.split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase()
    });
    match kind {
        None if !has_body => Ok(()),
        Some(kind) if CONTENT_TYPES.contains(&kind.as_str()) => Ok(()),
        _ => Err(ApiError::new(
            415,
            "content_type_refused",
            "send a Content-Type that no web form can send: application/json, application/x-ndjson or application/wasm",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn check(bound: &str, method: Method, headers: &[(&'static str, &str)]) -> Result<(), u16> {
        let guard = Guard::new(
            bound.parse().expect("an address"),
            ["Broker.example.".to_owned()],
        );
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).expect("a header value"));
        }
        guard
            .check(&method, &Uri::from_static("/v1/topics"), &map)
            .map_err(|error| error.status)
    }

    #[test]
    fn loopback_and_configured_hosts_are_answered() {
        for host in [
            "127.0.0.1:9644",
            "localhost",
            "LOCALHOST:1",
            "[::1]:9644",
            "127.9.9.9",
            "broker.example:9644",
        ] {
            assert_eq!(
                check("127.0.0.1", Method::GET, &[("host", host)]),
                Ok(()),
                "{host}"
            );
        }
        assert_eq!(
            check("10.0.0.5", Method::GET, &[("host", "10.0.0.5:9644")]),
            Ok(())
        );
        assert_eq!(
            check("0.0.0.0", Method::GET, &[("host", "192.168.1.9:9644")]),
            Ok(())
        );
    }

    #[test]
    fn rebound_and_malformed_hosts_are_refused() {
        for host in [
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example:9644",
            "x@127.0.0.1",
            "10.0.0.5",
        ] {
            assert_eq!(
                check("127.0.0.1", Method::GET, &[("host", host)]),
                Err(403),
                "{host}"
            );
        }
        for host in ["", ":80", "127.0.0.1:port", "[::1", "[::1]x"] {
            assert_eq!(
                check("127.0.0.1", Method::GET, &[("host", host)]),
                Err(403),
                "{host}"
            );
        }
        assert_eq!(
            check("0.0.0.0", Method::GET, &[("host", "evil.example")]),
            Err(403)
        );
        assert_eq!(check("127.0.0.1", Method::GET, &[]), Err(400));
        assert_eq!(
            check(
                "127.0.0.1",
                Method::GET,
                &[("host", "localhost"), ("host", "localhost")]
            ),
            Err(400)
        );
    }

    #[test]
    fn refused_host_is_told_the_flag_that_admits_it() {
        let guard = Guard::new(IpAddr::from([0, 0, 0, 0]), ["broker.example".to_owned()]);
        let told = |host: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("host", HeaderValue::from_static(host));
            guard.check(&Method::GET, &Uri::from_static("/health"), &headers)
        };
        assert_eq!(told("BROKER.example:9644"), Ok(()));
        let refused = told("other.example").expect_err("another name");
        assert!(refused.message.contains("--admin-name"), "{refused}");
    }

    #[test]
    fn absolute_target_must_name_this_broker_too() {
        let guard = Guard::new(IpAddr::from([127, 0, 0, 1]), []);
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("localhost"));
        let uri = Uri::from_static("http://evil.example/v1/topics");
        assert_eq!(
            guard
                .check(&Method::GET, &uri, &headers)
                .map_err(|error| error.status),
            Err(403)
        );
    }

    #[test]
    fn foreign_origin_is_refused_and_own_origin_is_not() {
        let host = ("host", "localhost:9644");
        for origin in [
            "http://evil.example",
            "null",
            "http://localhost:3000",
            "http://localhost",
            "file://",
        ] {
            assert_eq!(
                check("127.0.0.1", Method::GET, &[host, ("origin", origin)]),
                Err(403),
                "{origin}"
            );
        }
        assert_eq!(
            check(
                "127.0.0.1",
                Method::GET,
                &[host, ("origin", "http://localhost:9644")]
            ),
            Ok(())
        );
    }

    #[test]
    fn change_from_another_site_is_refused() {
        let host = ("host", "localhost:9644");
        assert_eq!(
            check(
                "127.0.0.1",
                Method::DELETE,
                &[host, ("sec-fetch-site", "cross-site")]
            ),
            Err(403)
        );
        assert_eq!(
            check(
                "127.0.0.1",
                Method::DELETE,
                &[host, ("sec-fetch-site", "same-origin")]
            ),
            Ok(())
        );
        assert_eq!(check("127.0.0.1", Method::DELETE, &[host]), Ok(()));
    }

    #[test]
    fn content_types_of_forms_are_refused_for_changes() {
        let base = [("host", "localhost"), ("content-length", "2")];
        for kind in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "",
        ] {
            let headers = [base[0], base[1], ("content-type", kind)];
            assert_eq!(
                check("127.0.0.1", Method::POST, &headers),
                Err(415),
                "{kind}"
            );
        }
        assert_eq!(
            check("127.0.0.1", Method::POST, &base),
            Err(415),
            "a body without a type"
        );
        assert_eq!(
            check("127.0.0.1", Method::POST, &base[..1]),
            Ok(()),
            "no body"
        );
        let json = [
            base[0],
            base[1],
            ("content-type", "application/json; charset=utf-8"),
        ];
        assert_eq!(check("127.0.0.1", Method::POST, &json), Ok(()));
    }
}
