//! What belongs to the client's connection and goes no further (RFC 9110, section 7.6.1).
//!
//! Pingora removes it from every request, one search for each of ten names. Most requests have none of them, and one
//! look at what they do have is cheaper.

use http::HeaderMap;
use pingora_core::upstreams::peer::HttpUpstreamRequestPolicy;

/// How Pingora has to clean a request with these headers.
pub(super) fn policy_of(headers: &HeaderMap) -> HttpUpstreamRequestPolicy {
    if headers.keys().any(|name| is_hop_by_hop(name.as_str())) {
        HttpUpstreamRequestPolicy::standard()
    } else {
        HttpUpstreamRequestPolicy::preserve()
    }
}

/// The names that Pingora's standard policy looks for, in lower case.
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "http2-settings"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(names: &[&'static str]) -> HeaderMap {
        names.iter().map(|name| (name.parse().unwrap(), HeaderValue::from_static("x"))).collect()
    }

    #[test]
    fn every_field_of_the_connection_is_left_for_pingora_to_remove() {
        for name in [
            "Connection",
            "HTTP2-Settings",
            "Keep-Alive",
            "Proxy-Authenticate",
            "Proxy-Authorization",
            "Proxy-Connection",
            "TE",
            "Trailer",
            "Transfer-Encoding",
            "Upgrade",
        ] {
            let policy = policy_of(&headers(&["host", name, "accept"]));
            assert_eq!(policy, HttpUpstreamRequestPolicy::standard(), "{name}");
        }
    }

    #[test]
    fn a_request_with_none_of_them_is_passed_on_as_it_is() {
        let policy = policy_of(&headers(&["host", "accept", "te-x", "content-length", "x-trailer"]));
        assert_eq!(policy, HttpUpstreamRequestPolicy::preserve());
    }
}
