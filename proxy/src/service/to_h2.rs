//! Messages between the versions of HTTP: what an endpoint of HTTP/2 is sent, and what of its answer goes on. Pure.

use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Uri, Version};
use pingora_core::upstreams::peer::{HttpPeer, Peer};
use pingora_error::{Error, ErrorType, OrErr, Result};
use pingora_http::{RequestHeader, ResponseHeader};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// The request as an endpoint of HTTP/2 gets it (RFC 9113, section 8).
pub(super) fn request(header: &RequestHeader, peer: &HttpPeer) -> Result<Request<()>> {
    if !header.raw_path_is_utf8() {
        let error = Error::explain(ErrorType::InvalidHTTPHeader, "the target cannot be said in HTTP/2");
        return Err(error.into_down());
    }
    let mut parts = header.as_owned_parts();
    let scheme = if peer.is_tls() { Scheme::HTTPS } else { Scheme::HTTP };
    parts.uri = uri(scheme, authority(&parts.headers, &parts.uri, peer)?, &parts.uri)?;
    parts.version = Version::HTTP_2;
    remove_hop_by_hop(&mut parts.headers);
    parts.headers.remove(HOST);
    Ok(Request::from_parts(parts, ()))
}

fn uri(scheme: Scheme, authority: Authority, target: &Uri) -> Result<Uri> {
    let path = target.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    Uri::builder()
        .scheme(scheme)
        .authority(authority)
        .path_and_query(path)
        .build()
        .or_err(ErrorType::InvalidHTTPHeader, "the target cannot be said in HTTP/2")
        .map_err(|error: Box<Error>| error.into_down())
}

/// What a rewrite set comes first, then what the client asked for; who asked for no host gets the endpoint's address.
fn authority(headers: &HeaderMap, target: &Uri, peer: &HttpPeer) -> Result<Authority> {
    let invalid = |error: http::uri::InvalidUri| {
        Error::because(ErrorType::InvalidHTTPHeader, "the host cannot be said in HTTP/2", error).into_down()
    };
    if let Some(host) = headers.get(HOST).filter(|host| !host.is_empty()) {
        return Authority::try_from(host.as_bytes()).map_err(invalid);
    }
    match target.authority() {
        Some(authority) => Ok(authority.clone()),
        None => match peer.address().as_inet() {
            Some(address) => Authority::try_from(address.to_string()).map_err(invalid),
            None => Ok(Authority::from_static("localhost")),
        },
    }
}

/// Removes what the client says belongs to its connection (RFC 9110, section 7.6.1). Before the gateway adds anything: a
/// client must not name what is ours.
pub(super) fn remove_nominated(request: &mut RequestHeader) {
    let named: Vec<HeaderName> = request
        .headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        if name != TE {
            request.remove_header(&name);
        }
    }
    request.remove_header(&CONNECTION);
}

/// What belongs to a connection of HTTP/1.1 has no place in HTTP/2 (RFC 9113, section 8.2.2).
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    for name in [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, TRANSFER_ENCODING, UPGRADE, HTTP2_SETTINGS] {
        headers.remove(name);
    }
    let wants_trailers = headers
        .get_all(TE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| coding.trim().eq_ignore_ascii_case("trailers"));
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    } else {
        headers.remove(TE);
    }
}

/// An informational answer as a client of HTTP/1.1 gets it.
pub(super) fn interim(response: http::Response<()>) -> ResponseHeader {
    let mut header = ResponseHeader::from(response.into_parts().0);
    header.set_version(Version::HTTP_11);
    header
}

/// Whether an answer's lengths, if it has any, are one number: otherwise another version of HTTP could be made to see
/// its end elsewhere (RFC 9110, section 8.6).
pub(super) fn has_one_length(header: &ResponseHeader) -> bool {
    let mut lengths = header.headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else { return true };
    first.as_bytes().iter().all(u8::is_ascii_digit)
        && !first.is_empty()
        && lengths.all(|length| length == first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(target: &str, headers: &[(&'static str, &str)]) -> Result<Request<()>> {
        let mut header = RequestHeader::build("GET", target.as_bytes(), None).unwrap();
        for (name, value) in headers {
            header.append_header(*name, *value).unwrap();
        }
        remove_nominated(&mut header);
        super::request(&header, &HttpPeer::new("127.0.0.1:8080", false, String::new()))
    }

    #[test]
    fn the_host_becomes_the_authority() {
        let request = translated("/a?b=c", &[("host", "www.example.com:81")]).unwrap();
        assert_eq!(request.uri(), "http://www.example.com:81/a?b=c");
        assert!(!request.headers().contains_key(HOST));
        assert_eq!(translated("/a", &[]).unwrap().uri(), "http://127.0.0.1:8080/a");
        // As a client of HTTP/2 says it.
        let mut named = RequestHeader::build("GET", b"/", None).unwrap();
        named.set_uri("http://a.example/x".parse().unwrap());
        let peer = HttpPeer::new("127.0.0.1:8080", false, String::new());
        assert_eq!(super::request(&named, &peer).unwrap().uri(), "http://a.example/x");
        assert!(translated("/", &[("host", "a b")]).is_err());
    }

    #[test]
    fn what_belongs_to_the_connection_stays_behind() {
        let headers = [
            ("connection", "keep-alive, x-private"),
            ("keep-alive", "timeout=5"),
            ("x-private", "1"),
            ("upgrade", "h2c"),
            ("http2-settings", "x"),
            ("transfer-encoding", "chunked"),
            ("te", "gzip, trailers"),
            ("x-public", "2"),
        ];
        let request = translated("/", &headers).unwrap();
        let mut left: Vec<&str> = request.headers().keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["te", "x-public"]);
        assert_eq!(request.headers()["te"], "trailers");
        assert!(translated("/", &[("te", "gzip")]).unwrap().headers().is_empty());
    }

    #[test]
    fn lengths_that_differ_are_not_passed_on() {
        for (lengths, one) in [
            (&[][..], true),
            (&["5"], true),
            (&["5", "5"], true),
            (&["5", "6"], false),
            (&["5, 5"], false),
            (&["x"], false),
        ] {
            let mut header = ResponseHeader::build(200, None).unwrap();
            for length in lengths {
                header.append_header(CONTENT_LENGTH, *length).unwrap();
            }
            assert_eq!(has_one_length(&header), one, "{lengths:?}");
        }
    }
}
