//! Matches of a rule of an HTTPRoute or GRPCRoute.

use gateway_api::apis::experimental::httproutes::{
    HttpRouteRulesMatches, HttpRouteRulesMatchesHeadersType as HeaderType,
    HttpRouteRulesMatchesMethod as Method, HttpRouteRulesMatchesPath,
    HttpRouteRulesMatchesPathType as PathType, HttpRouteRulesMatchesQueryParamsType as QueryType,
};
use understudy_conf::{HeaderMatch, HttpMatch, HttpMethod, PathMatch, QueryMatch, StringMatch};

use crate::graph::rules::Findings;
use crate::watch::Kind;

/// A regular expression larger than this when compiled is refused.
const REGEX_BYTES: usize = 1 << 20;

/// The match of a rule without any.
pub(crate) fn match_everything() -> HttpMatch {
    HttpMatch { path: PathMatch::Prefix("/".into()), method: None, headers: Vec::new(), query: Vec::new() }
}

/// Builds a match; `None`, with a finding, if it cannot be.
pub(crate) fn build_match(
    kind: Kind,
    source: &HttpRouteRulesMatches,
    found: &mut Findings<'_>,
) -> Option<HttpMatch> {
    let path = match kind {
        Kind::GrpcRoute => build_method(source.path.as_ref(), &mut found.at("method")),
        _ => build_path(source.path.as_ref(), &mut found.at("path")),
    };
    let mut headers: Vec<HeaderMatch> = Vec::new();
    let mut whole = path.is_some();
    for (index, header) in source.headers.iter().flatten().enumerate() {
        let mut found = found.at(&format!("headers[{index}]"));
        let name = header.name.to_ascii_lowercase();
        if !is_header_name(&name) {
            found.error(
                "name",
                format!("{:?} is not a header's name", header.name),
                "Use letters, digits and '-'.",
            );
            whole = false;
        } else if headers.iter().any(|known| known.name == name) {
            found.no_effect("name", format!("{name} is matched by an earlier entry already"));
            continue;
        }
        let regex = header.r#type == Some(HeaderType::RegularExpression);
        match build_string(&header.value, regex, &mut found) {
            Some(value) => headers.push(HeaderMatch { name, value }),
            None => whole = false,
        }
    }
    let mut query: Vec<QueryMatch> = Vec::new();
    for (index, parameter) in source.query_params.iter().flatten().enumerate() {
        let mut found = found.at(&format!("queryParams[{index}]"));
        if parameter.name.is_empty() {
            found.error("name", "it is empty", "Name the query parameter.");
            whole = false;
        } else if query.iter().any(|known| known.name == parameter.name) {
            found.no_effect("name", format!("{} is matched by an earlier entry already", parameter.name));
            continue;
        }
        let regex = parameter.r#type == Some(QueryType::RegularExpression);
        match build_string(&parameter.value, regex, &mut found) {
            Some(value) => query.push(QueryMatch { name: parameter.name.clone(), value }),
            None => whole = false,
        }
    }
    let method = source.method.as_ref().map(|method| HttpMethod(method_name(method).to_owned()));
    if whole { Some(HttpMatch { path: path?, method, headers, query }) } else { None }
}

fn build_path(source: Option<&HttpRouteRulesMatchesPath>, found: &mut Findings<'_>) -> Option<PathMatch> {
    let value = source.and_then(|path| path.value.as_deref()).unwrap_or("/");
    let kind = source.and_then(|path| path.r#type.as_ref()).unwrap_or(&PathType::PathPrefix);
    if value.len() > 1024 {
        found.error("value", format!("it has {} bytes", value.len()), "At most 1024 are allowed.");
        return None;
    }
    if *kind == PathType::RegularExpression {
        return check_regex(value, found).then(|| PathMatch::Regex(value.to_owned()));
    }
    if let Some((message, remedy)) = path_problem(value) {
        found.error("value", message, remedy);
        return None;
    }
    Some(match kind {
        PathType::Exact => PathMatch::Exact(value.to_owned()),
        // A trailing slash of a prefix has no meaning in Gateway API.
        _ => {
            let trimmed = value.trim_end_matches('/');
            PathMatch::Prefix(if trimmed.is_empty() { "/".to_owned() } else { trimmed.to_owned() })
        }
    })
}

/// The path of a method of gRPC.
fn build_method(source: Option<&HttpRouteRulesMatchesPath>, found: &mut Findings<'_>) -> Option<PathMatch> {
    let Some(HttpRouteRulesMatchesPath { value: Some(path), r#type: Some(kind) }) = source else {
        return Some(PathMatch::Prefix("/".into()));
    };
    if path.len() > 2048 {
        found.error("", format!("service and method have {} bytes", path.len()), "At most 2047 are allowed.");
        return None;
    }
    if *kind == PathType::RegularExpression {
        return check_regex_at("", path, found).then(|| PathMatch::Regex(path.clone()));
    }
    let names = path.strip_prefix('/').unwrap_or(path);
    let (service, method) = match kind {
        PathType::Exact => {
            names.rsplit_once('/').map_or((names, None), |(service, method)| (service, Some(method)))
        }
        _ => (names, None),
    };
    let is_word = |word: &str| {
        word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && !word.starts_with(|c: char| c.is_ascii_digit())
    };
    let is_name = |name: &str| !name.is_empty() && is_word(name);
    if !service.strip_prefix('.').unwrap_or(service).split('.').all(is_name) {
        let message = format!("{service:?} is not the name of a service");
        found.error("service", message, "Write it as in \"shop.v1.Cart\", or use type RegularExpression.");
        return None;
    }
    if let Some(method) = method.filter(|method| !is_name(method)) {
        let message = format!("{method:?} is not the name of a method");
        found.error("method", message, "Write it as in \"AddItem\", or use type RegularExpression.");
        return None;
    }
    Some(match method {
        Some(_) => PathMatch::Exact(path.clone()),
        None => PathMatch::Prefix(path.clone()),
    })
}

/// What is wrong with a path that is matched literally.
fn path_problem(path: &str) -> Option<(String, &'static str)> {
    if !path.starts_with('/') {
        return Some((format!("{path:?} does not begin with a slash"), "Begin it with \"/\"."));
    }
    let upper = path.to_ascii_uppercase();
    let part = ["//", "/./", "/../", "%2F", "#"].into_iter().find(|part| upper.contains(part));
    let end = ["/..", "/."].into_iter().find(|end| path.ends_with(end));
    if let Some(part) = part.or(end) {
        return Some((
            format!("{path:?} holds {part:?}, which no normal path has"),
            "Write the path as requests have it, or use type RegularExpression.",
        ));
    }
    path.contains(|c: char| c.is_ascii_control() || c == ' ' || c == '?').then(|| {
        (
            format!("{path:?} holds a character that no path has"),
            "Escape it, as in %20; query parameters have their own matches.",
        )
    })
}

fn build_string(value: &str, regex: bool, found: &mut Findings<'_>) -> Option<StringMatch> {
    if value.len() > 4096 {
        found.error("value", format!("it has {} bytes", value.len()), "At most 4096 are allowed.");
        return None;
    }
    if !regex {
        return Some(StringMatch::Exact(value.to_owned()));
    }
    check_regex(value, found).then(|| StringMatch::Regex(value.to_owned()))
}

fn check_regex(pattern: &str, found: &mut Findings<'_>) -> bool {
    check_regex_at("value", pattern, found)
}

fn check_regex_at(field: &str, pattern: &str, found: &mut Findings<'_>) -> bool {
    let anchored = format!("^(?:{pattern})$");
    match regex::RegexBuilder::new(&anchored).size_limit(REGEX_BYTES).build() {
        Ok(_) => true,
        Err(error) => {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            let message = format!("{:?} is no regular expression: {last}", crate::watch::shortened(pattern));
            found.unsupported(
                field,
                message,
                "Use RE2 syntax; look-around and back-references do not exist there.",
            );
            false
        }
    }
}

/// Whether a text is a header's name (a token of RFC 9110).
pub(crate) fn is_header_name(name: &str) -> bool {
    (1..=256).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

fn method_name(method: &Method) -> &'static str {
    match method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Connect => "CONNECT",
        Method::Options => "OPTIONS",
        Method::Trace => "TRACE",
        Method::Patch => "PATCH",
    }
}
