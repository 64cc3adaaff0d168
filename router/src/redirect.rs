//! Redirects (`RequestRedirect`).

use std::fmt::Write as _;

use understudy_conf::Redirect;

use crate::host::host_without_port;
use crate::rewrite::{replace_path, validate_host, validate_path};

/// The status of a redirect and its `Location`.
///
/// `scheme` is what the client spoke, `host` the request's host, which may have a port, and `port` the one that
/// clients of the listener see. The port of the `Location` is the redirect's own; else, if the redirect has a
/// scheme, that scheme's; else the listener's. It is left out where it is the scheme's own. Path and query stay
/// where the redirect does not say otherwise. A request without host gets a path alone.
#[must_use]
pub fn redirect_location(
    redirect: &Redirect,
    scheme: &str,
    host: &str,
    port: u16,
    path_and_query: &str,
    matched_prefix: Option<&str>,
) -> (u16, String) {
    let replaced = redirect.path.as_ref().and_then(|path| replace_path(path, path_and_query, matched_prefix));
    let path = replaced.as_deref().unwrap_or(path_and_query);
    let host = redirect.hostname.as_deref().unwrap_or_else(|| host_without_port(host));
    if host.is_empty() {
        return (redirect.status, path.to_owned());
    }
    let new_scheme = redirect.scheme.as_deref().unwrap_or(scheme);
    let of_scheme = redirect.scheme.as_deref().and_then(well_known_port);
    let port = redirect.port.or(of_scheme).unwrap_or(port);
    let mut location = String::with_capacity(new_scheme.len() + 3 + host.len() + 6 + path.len());
    location.push_str(new_scheme);
    location.push_str("://");
    location.push_str(host);
    if well_known_port(new_scheme) != Some(port) {
        // Writing to a string cannot fail.
        let _ = write!(location, ":{port}");
    }
    location.push_str(path);
    (redirect.status, location)
}

fn well_known_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

pub(crate) fn validate_redirect(redirect: &Redirect) -> Result<(), String> {
    if let Some(scheme) = &redirect.scheme
        && well_known_port(scheme).is_none()
    {
        return Err(format!("a redirect to the scheme {scheme:?} is not known; use http or https"));
    }
    redirect.hostname.as_deref().map_or(Ok(()), validate_host)?;
    redirect.path.as_ref().map_or(Ok(()), validate_path)
}

#[cfg(test)]
mod tests {
    use understudy_conf::PathRewrite;

    use super::*;

    fn redirect() -> Redirect {
        Redirect { scheme: None, hostname: None, port: None, path: None, status: 302 }
    }

    fn location(redirect: &Redirect, scheme: &str, host: &str, port: u16) -> String {
        redirect_location(redirect, scheme, host, port, "/a/b?q=1", Some("/a")).1
    }

    #[test]
    fn the_port_is_the_redirects_then_the_schemes_then_the_listeners() {
        let of =
            |scheme: Option<&str>, port| Redirect { scheme: scheme.map(str::to_owned), port, ..redirect() };
        for (redirect, scheme, listener, expected) in [
            (of(None, None), "http", 80, "http://h/a/b?q=1"),
            (of(None, None), "http", 8080, "http://h:8080/a/b?q=1"),
            (of(None, None), "https", 443, "https://h/a/b?q=1"),
            (of(None, None), "https", 80, "https://h:80/a/b?q=1"),
            (of(Some("https"), None), "http", 8080, "https://h/a/b?q=1"),
            (of(Some("http"), None), "https", 8443, "http://h/a/b?q=1"),
            (of(Some("https"), Some(8443)), "http", 80, "https://h:8443/a/b?q=1"),
            (of(Some("https"), Some(443)), "http", 80, "https://h/a/b?q=1"),
            (of(Some("http"), Some(443)), "http", 80, "http://h:443/a/b?q=1"),
            (of(None, Some(80)), "http", 8080, "http://h/a/b?q=1"),
            (of(None, Some(443)), "http", 8080, "http://h:443/a/b?q=1"),
        ] {
            assert_eq!(location(&redirect, scheme, "h:1234", listener), expected, "{redirect:?}");
        }
    }

    #[test]
    fn the_host_is_the_redirects_or_the_requests_without_its_port() {
        let named = Redirect { hostname: Some("other.example".to_owned()), ..redirect() };
        assert_eq!(location(&named, "http", "h", 80), "http://other.example/a/b?q=1");
        assert_eq!(location(&redirect(), "http", "[::1]:8080", 80), "http://[::1]/a/b?q=1");
        assert_eq!(location(&redirect(), "http", "", 80), "/a/b?q=1");
    }

    #[test]
    fn the_path_is_replaced_and_the_query_stays() {
        let full = Redirect { path: Some(PathRewrite::Full("/new".to_owned())), ..redirect() };
        assert_eq!(location(&full, "http", "h", 80), "http://h/new?q=1");
        let prefix =
            Redirect { path: Some(PathRewrite::Prefix("/x/".to_owned())), status: 301, ..redirect() };
        assert_eq!(location(&prefix, "http", "h", 80), "http://h/x/b?q=1");
        assert_eq!(redirect_location(&prefix, "http", "h", 80, "/a", None), (301, "http://h/a".to_owned()));
    }

    #[test]
    fn a_redirect_to_what_is_no_place_is_refused() {
        assert!(validate_redirect(&redirect()).is_ok());
        let scheme = Redirect { scheme: Some("ftp".to_owned()), ..redirect() };
        let host = Redirect { hostname: Some("a\r\nb".to_owned()), ..redirect() };
        let path = Redirect { path: Some(PathRewrite::Full("/\n".to_owned())), ..redirect() };
        for wrong in [scheme, host, path] {
            assert!(validate_redirect(&wrong).is_err(), "{wrong:?}");
        }
    }
}
