//! The hash of a request, where its pool's balancer hashes: what of it counts, and the cookie that it may lack.
//!
//! Inputs: the policy's [`HashKey`], a request. Outputs: a hash without any allocation, and the Set-Cookie of a
//! client that has none yet.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::{COOKIE, HeaderName, HeaderValue};
use understudy_conf::{GatewayDuration, HashCookie, HashKey, LoadBalancer};

/// What of a pool's requests is hashed.
#[derive(Debug)]
pub(crate) enum RequestHash {
    SourceIp,
    Headers(Vec<HeaderName>),
    Query(Vec<String>),
    Cookie(CookieHash),
}

/// A cookie that is hashed, and set where it is missing.
#[derive(Debug)]
pub(crate) struct CookieHash {
    name: String,
    /// What follows the value in a Set-Cookie; `None`: the cookie is never set.
    attributes: Option<String>,
}

/// What was found in a request.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Hashed {
    /// `None`: the request has nothing of what is hashed.
    pub(super) hash: Option<u64>,
    /// To be added to the answer.
    pub(super) set_cookie: Option<HeaderValue>,
}

impl RequestHash {
    /// What a balancer hashes, if it does.
    pub(crate) fn build(balancer: &LoadBalancer) -> Option<Self> {
        let LoadBalancer::ConsistentHash(hash) = balancer else { return None };
        Some(match &hash.by {
            HashKey::SourceIp => Self::SourceIp,
            // A name that is none matches no header.
            HashKey::Headers(names) => {
                Self::Headers(names.iter().filter_map(|name| name.parse().ok()).collect())
            }
            HashKey::QueryParams(names) => Self::Query(names.clone()),
            HashKey::Cookie(cookie) => Self::Cookie(CookieHash {
                name: cookie.name.clone(),
                attributes: cookie.ttl.map(|ttl| attributes_of(cookie, ttl)),
            }),
        })
    }

    /// Hashes a connection, of which nothing is known but the client's address.
    pub(crate) fn of_client(&self, client: IpAddr) -> Option<u64> {
        match self {
            Self::SourceIp => self.hash(Some(client), &HeaderMap::new(), None).hash,
            Self::Headers(_) | Self::Query(_) | Self::Cookie(_) => None,
        }
    }

    /// Hashes a request.
    pub(super) fn hash(&self, client: Option<IpAddr>, headers: &HeaderMap, query: Option<&str>) -> Hashed {
        let hash = match self {
            Self::SourceIp => client.map(|address| match address {
                IpAddr::V4(address) => understudy_engine::hash(&address.octets()),
                IpAddr::V6(address) => understudy_engine::hash(&address.octets()),
            }),
            Self::Headers(names) => {
                joined(names.iter().flat_map(|name| headers.get_all(name)).map(HeaderValue::as_bytes))
            }
            Self::Query(names) => joined(names.iter().filter_map(|name| parameter(query?, name))),
            Self::Cookie(cookie) => match cookie_value(headers, &cookie.name) {
                Some(value) => Some(understudy_engine::hash(value)),
                None => return cookie.give(),
            },
        };
        Hashed { hash, set_cookie: None }
    }
}

impl CookieHash {
    /// A new cookie for a client that has none.
    fn give(&self) -> Hashed {
        let Some(attributes) = &self.attributes else { return Hashed::default() };
        let value = format!("{:016x}", fastrand::u64(..));
        Hashed {
            hash: Some(understudy_engine::hash(value.as_bytes())),
            set_cookie: HeaderValue::try_from(format!("{}=\"{value}\"{attributes}", self.name)).ok(),
        }
    }
}

/// As Envoy writes them: Max-Age unless the cookie is the session's, the policy's attributes, HttpOnly.
fn attributes_of(cookie: &HashCookie, ttl: GatewayDuration) -> String {
    let mut text = String::new();
    if !ttl.is_zero() {
        text += &format!("; Max-Age={}", ttl.as_millis().div_ceil(1000));
    }
    for (name, value) in &cookie.attributes {
        text += "; ";
        text += name;
        if !value.is_empty() {
            text += "=";
            text += value;
        }
    }
    if !cookie.attributes.keys().any(|name| name.eq_ignore_ascii_case("HttpOnly")) {
        text += "; HttpOnly";
    }
    text
}

/// One hash of several values, in their order; `None` of none.
fn joined<'a>(values: impl Iterator<Item = &'a [u8]>) -> Option<u64> {
    values.fold(None, |hash: Option<u64>, value| {
        Some(hash.unwrap_or_default().rotate_left(1) ^ understudy_engine::hash(value))
    })
}

/// The first value of a query parameter, as it is written.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a [u8]> {
    query.split('&').find_map(|pair| match pair.split_once('=') {
        Some((key, value)) => (key == name).then_some(value.as_bytes()),
        None => (pair == name).then_some(&b""[..]),
    })
}

/// A cookie's value without its quotes; an empty one counts as none.
fn cookie_value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let cookies =
        headers.get_all(COOKIE).into_iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    let value = cookies.map(<[u8]>::trim_ascii).find_map(|pair| {
        let rest = pair.strip_prefix(name.as_bytes())?.trim_ascii_start();
        Some(rest.strip_prefix(b"=")?.trim_ascii_start())
    })?;
    let bare = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
    (!bare.is_empty()).then_some(bare)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use understudy_conf::ConsistentHash;

    use super::*;

    fn build(by: HashKey) -> RequestHash {
        RequestHash::build(&LoadBalancer::ConsistentHash(ConsistentHash { by, table_size: 11 })).unwrap()
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    fn of_headers(by: &RequestHash, lines: &[(&'static str, &str)]) -> Option<u64> {
        by.hash(None, &headers(lines), None).hash
    }

    fn cookie(ttl: Option<u64>, attributes: &[(&str, &str)]) -> RequestHash {
        build(HashKey::Cookie(HashCookie {
            name: "session".to_owned(),
            ttl: ttl.map(GatewayDuration::from_millis),
            attributes: attributes
                .iter()
                .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
                .collect::<BTreeMap<_, _>>(),
        }))
    }

    #[test]
    fn other_balancers_hash_nothing() {
        for balancer in [LoadBalancer::LeastRequest, LoadBalancer::RoundRobin, LoadBalancer::Random] {
            assert!(RequestHash::build(&balancer).is_none());
        }
    }

    #[test]
    fn l5_the_clients_address_counts_without_its_port() {
        let by = build(HashKey::SourceIp);
        let of = |address: &str| by.hash(address.parse().ok(), &HeaderMap::new(), None).hash;
        assert_eq!(of("192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8::2"));
        assert_eq!(of(""), None, "a Unix socket has none");
    }

    #[test]
    fn l5_headers_count_with_all_their_values_and_those_that_are_missing_do_not() {
        let by = build(HashKey::Headers(vec!["x-user".to_owned(), "x-shop".to_owned()]));
        let both = of_headers(&by, &[("x-user", "a"), ("x-shop", "b"), ("x-other", "1")]);
        assert_eq!(both, of_headers(&by, &[("x-shop", "b"), ("x-other", "2"), ("x-user", "a")]));
        assert_ne!(both, of_headers(&by, &[("x-user", "b"), ("x-shop", "a")]), "not interchangeable");
        assert!(of_headers(&by, &[("x-user", "a")]).is_some());
        assert_eq!(of_headers(&by, &[("x-other", "1")]), None);
        let mut twice = headers(&[("x-user", "a")]);
        twice.append("x-user", HeaderValue::from_static("b"));
        assert_ne!(by.hash(None, &twice, None).hash, of_headers(&by, &[("x-user", "a")]));
    }

    #[test]
    fn l5_query_parameters_count_by_their_first_value() {
        let by = build(HashKey::QueryParams(vec!["user".to_owned()]));
        let of = |query: &str| by.hash(None, &HeaderMap::new(), Some(query)).hash;
        assert_eq!(of("user=a&x=1"), of("x=2&user=a&user=b"));
        assert_ne!(of("user=a"), of("user=b"));
        assert_eq!(of("User=a"), None, "names have their case");
        assert_eq!(by.hash(None, &HeaderMap::new(), None).hash, None);
    }

    #[test]
    fn l5_a_cookie_is_found_among_others_and_quotes_do_not_count() {
        let by = cookie(None, &[]);
        let expected = Some(understudy_engine::hash(b"abc"));
        for line in
            ["session=abc", "a=b; session=abc", "xsession=1; session=\"abc\"; session2=2", "a;session = abc"]
        {
            assert_eq!(of_headers(&by, &[("cookie", line)]), expected, "{line}");
        }
        for line in ["", "session", "session=", "session=\"\"", "Session=abc"] {
            assert_eq!(of_headers(&by, &[("cookie", line)]), None, "{line}");
        }
    }

    #[test]
    fn l5_a_client_without_the_cookie_gets_one_that_hashes_to_the_same() {
        let by = cookie(Some(90_500), &[("Path", "/"), ("Secure", "")]);
        let given = by.hash(None, &HeaderMap::new(), None);
        let line = given.set_cookie.unwrap();
        let (pair, attributes) = line.to_str().unwrap().split_once("; ").unwrap();
        assert_eq!(attributes, "Max-Age=91; Path=/; Secure; HttpOnly");
        let back = by.hash(None, &headers(&[("cookie", pair)]), None);
        assert_eq!(back, Hashed { hash: given.hash, set_cookie: None });
        assert_ne!(by.hash(None, &HeaderMap::new(), None).hash, given.hash, "each client has its own");
    }

    #[test]
    fn l5_without_a_ttl_no_cookie_is_set_and_with_zero_it_is_the_sessions() {
        assert_eq!(cookie(None, &[]).hash(None, &HeaderMap::new(), None), Hashed::default());
        let line = cookie(Some(0), &[]).hash(None, &HeaderMap::new(), None).set_cookie.unwrap();
        assert!(line.to_str().unwrap().ends_with("\"; HttpOnly"), "{line:?}");
    }
}
