//! Rewriting of host and path (`URLRewrite`, and the paths of redirects).

use http::header::HeaderValue;
use http::uri::{Authority, PathAndQuery};
use understudy_conf::{PathRewrite, UrlRewrite};

/// A rewrite whose parts are known to be valid.
#[derive(Debug, Clone)]
pub struct CompiledRewrite {
    hostname: Option<HeaderValue>,
    path: Option<PathRewrite>,
}

impl CompiledRewrite {
    pub(crate) fn build(rewrite: &UrlRewrite) -> Result<Self, String> {
        if let Some(hostname) = &rewrite.hostname {
            validate_host(hostname)?;
        }
        if let Some(path) = &rewrite.path {
            validate_path(path)?;
        }
        let hostname = rewrite.hostname.as_deref().map(HeaderValue::from_str).transpose();
        let hostname = hostname.map_err(|error| format!("the hostname of URLRewrite: {error}"))?;
        Ok(Self { hostname, path: rewrite.path.clone() })
    }

    /// The new `Host`, if it changes.
    #[must_use]
    pub fn hostname(&self) -> Option<&HeaderValue> {
        self.hostname.as_ref()
    }

    /// The new path with the query that the request had; `None` if the path stays. `matched_prefix` is that of
    /// the [`RuleMatch`](crate::RuleMatch): without one, a prefix cannot be replaced, and the path stays.
    #[must_use]
    pub fn rewrite_path(&self, path_and_query: &str, matched_prefix: Option<&str>) -> Option<String> {
        replace_path(self.path.as_ref()?, path_and_query, matched_prefix)
    }
}

/// The path that a rewrite makes of a request's, with the query that it had. `None` if it does not fit.
///
/// A replaced prefix is a run of whole elements: where it meets the rest there is exactly one slash, and what
/// is empty then becomes `/`.
pub(crate) fn replace_path(
    rewrite: &PathRewrite,
    path_and_query: &str,
    matched_prefix: Option<&str>,
) -> Option<String> {
    let end = path_and_query.find('?').unwrap_or(path_and_query.len());
    let (path, query) = path_and_query.split_at(end);
    let (replacement, rest) = match rewrite {
        PathRewrite::Full(full) => (full.as_str(), ""),
        PathRewrite::Prefix(prefix) => {
            let matched = matched_prefix?.trim_end_matches('/');
            let rest = path.strip_prefix(matched).filter(|rest| rest.is_empty() || rest.starts_with('/'))?;
            (prefix.trim_end_matches('/'), rest)
        }
    };
    let mut new = String::with_capacity(1 + replacement.len() + rest.len() + query.len());
    let first = if replacement.is_empty() { rest } else { replacement };
    if !first.starts_with('/') {
        new.push('/');
    }
    new.push_str(replacement);
    new.push_str(rest);
    new.push_str(query);
    Some(new)
}

pub(crate) fn validate_path(rewrite: &PathRewrite) -> Result<(), String> {
    let (PathRewrite::Full(path) | PathRewrite::Prefix(path)) = rewrite;
    let valid = !path.contains(['?', '#']) && format!("/{path}").parse::<PathAndQuery>().is_ok();
    if valid { Ok(()) } else { Err(format!("{path:?} is no path that a request can get")) }
}

pub(crate) fn validate_host(host: &str) -> Result<(), String> {
    match host.parse::<Authority>() {
        Ok(authority) if authority.host() == host => Ok(()),
        _ => Err(format!("{host:?} is no hostname that a request can get")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replace_prefix(path: &str, matched: &str, replacement: &str) -> String {
        let rewrite = UrlRewrite { hostname: None, path: Some(PathRewrite::Prefix(replacement.to_owned())) };
        CompiledRewrite::build(&rewrite).unwrap().rewrite_path(path, Some(matched)).unwrap()
    }

    #[test]
    fn a_prefix_is_replaced_as_the_table_of_gateway_api_says() {
        for (path, matched, replacement, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo/bar", "/foo", "/", "/bar"),
            // A rule with the prefix `/` matches the empty prefix.
            ("/foo", "", "/xyz", "/xyz/foo"),
            ("/foo", "/", "/xyz/", "/xyz/foo"),
            ("/", "", "/xyz", "/xyz/"),
            ("/foo//bar", "/foo", "/", "//bar"),
        ] {
            assert_eq!(
                replace_prefix(path, matched, replacement),
                expected,
                "{path} {matched} {replacement}"
            );
            let query = replace_prefix(&format!("{path}?a=/foo"), matched, replacement);
            assert_eq!(query, format!("{expected}?a=/foo"));
        }
    }

    #[test]
    fn a_full_path_replaces_all_but_the_query() {
        for (full, expected) in [("/new", "/new?q=1"), ("", "/?q=1"), ("new/", "/new/?q=1"), ("/", "/?q=1")] {
            let rewrite = PathRewrite::Full(full.to_owned());
            assert_eq!(replace_path(&rewrite, "/old/path?q=1", None).as_deref(), Some(expected));
        }
        assert_eq!(replace_path(&PathRewrite::Full("/n".to_owned()), "*", None).as_deref(), Some("/n"));
    }

    #[test]
    fn a_prefix_that_did_not_match_leaves_the_path() {
        let rewrite = PathRewrite::Prefix("/xyz".to_owned());
        assert_eq!(replace_path(&rewrite, "/foo", None), None);
        assert_eq!(replace_path(&rewrite, "/foobar", Some("/foo")), None);
        assert_eq!(replace_path(&rewrite, "/bar", Some("/foo")), None);
    }

    #[test]
    fn a_rewrite_to_what_is_no_host_or_path_is_refused() {
        for bad in ["/a?b", "/a#b", "/a b", "/a\nb"] {
            let path = Some(PathRewrite::Full(bad.to_owned()));
            assert!(CompiledRewrite::build(&UrlRewrite { hostname: None, path }).is_err(), "{bad}");
        }
        for bad in ["", "a b", "a/b", "u@a", "a:80", "a\n"] {
            let hostname = Some(bad.to_owned());
            assert!(CompiledRewrite::build(&UrlRewrite { hostname, path: None }).is_err(), "{bad}");
        }
        let good = UrlRewrite { hostname: Some("www.example.com".to_owned()), path: None };
        let rewrite = CompiledRewrite::build(&good).unwrap();
        assert_eq!(rewrite.hostname().unwrap(), "www.example.com");
        assert_eq!(rewrite.rewrite_path("/a", Some("")), None);
    }
}
