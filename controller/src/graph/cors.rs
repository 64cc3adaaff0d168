//! Filters of type CORS.

use gateway_api::apis::experimental::httproutes::HttpRouteRulesFiltersCors;
use understudy_conf::Cors;

use crate::graph::matches::is_header_name;
use crate::graph::rules::Findings;

/// What Gateway API allows in `allowMethods`, beside `*`.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
/// The most entries of each list.
const MAX_ENTRIES: usize = 64;

pub(super) fn build_cors(source: &HttpRouteRulesFiltersCors, found: &mut Findings<'_>) -> Cors {
    let is_name = |name: &str| is_header_name(&name.to_ascii_lowercase());
    let header = "Use letters, digits and '-', or \"*\".";
    let of_header = |name: &str| format!("{name:?} is not a header's name");
    let allow_origins = entries("allowOrigins", source.allow_origins.as_deref(), found, |origin| {
        let remedy =
            "Use \"*\", or an origin as in \"https://www.example.com\" or \"https://*.example.com:8443\".";
        (!is_origin(origin)).then(|| (format!("{origin:?} is not an origin"), remedy))
    });
    let allow_methods = entries("allowMethods", source.allow_methods.as_deref(), found, |method| {
        let remedy = "Use the methods of RFC 9110 in upper case, PATCH, or \"*\".";
        (!METHODS.contains(&method)).then(|| (format!("{method:?} is not a known method"), remedy))
    });
    let allow_headers = entries("allowHeaders", source.allow_headers.as_deref(), found, |name| {
        (!is_name(name)).then(|| (of_header(name), header))
    });
    let expose_headers = entries("exposeHeaders", source.expose_headers.as_deref(), found, |name| {
        (!is_name(name)).then(|| (of_header(name), header))
    });
    let allow_credentials = source.allow_credentials.unwrap_or(false);
    if allow_credentials && expose_headers.iter().any(|name| name == "*") {
        found.ignored(
            "exposeHeaders",
            "browsers know no \"*\" here for requests with credentials, so it is left out",
            "Name the headers, or remove allowCredentials.",
        );
    }
    if allow_origins.is_empty() {
        found.ignored("allowOrigins", "no origin is allowed", "Name those that are to be.");
    }
    let max_age = source.max_age.map_or(Cors::default().max_age, |seconds| {
        u32::try_from(seconds).ok().filter(|seconds| *seconds > 0).unwrap_or_else(|| {
            found.error("maxAge", format!("{seconds} is out of range"), "Use a number of seconds from 1.");
            1
        })
    });
    Cors { allow_origins, allow_methods, allow_headers, expose_headers, max_age, allow_credentials }
}

/// A list of names, of which `*` stands for all.
fn entries(
    field: &str,
    source: Option<&[String]>,
    found: &mut Findings<'_>,
    refuse: impl Fn(&str) -> Option<(String, &'static str)>,
) -> Vec<String> {
    let source = source.unwrap_or_default();
    if source.len() > MAX_ENTRIES {
        let count = source.len();
        found.error(field, format!("it has {count} entries"), format!("Use at most {MAX_ENTRIES}."));
    }
    for (index, entry) in source.iter().enumerate() {
        if entry == "*" {
            continue;
        }
        if let Some((message, remedy)) = refuse(entry) {
            found.error(&format!("{field}[{index}]"), message, remedy);
        }
    }
    if source.len() > 1 && source.iter().any(|entry| entry == "*") {
        found.ignored(field, "\"*\" stands for all the other entries", "Keep \"*\" alone, or remove it.");
    }
    source.to_vec()
}

/// `SCHEME://HOST[:PORT]`, where the host may hold `*`.
fn is_origin(text: &str) -> bool {
    let Some((scheme, authority)) = text.split_once("://") else { return false };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._*".contains(&byte);
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let good_host = match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(known),
    };
    matches!(scheme, "http" | "https")
        && good_host
        && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port != 0))
}
