//! Hostnames of requests, and tables by hostname.

use ahash::AHashMap;
use understudy_conf::Hostname;

/// DNS names are no longer; nothing longer can match a hostname.
const MAX_HOST: usize = 253;

/// Room for a hostname whose case has to be changed.
pub(crate) type HostBuffer = [u8; MAX_HOST];

/// The host of a `Host` header or authority without its port. IPv6 addresses keep their brackets.
#[must_use]
pub fn host_without_port(host: &str) -> &str {
    if host.starts_with('[') {
        return host.find(']').map_or(host, |end| &host[..=end]);
    }
    match host.split_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// The name that a `Host` header states: without port and trailing dot, in lower case. `None` if it can match
/// no hostname; then only what serves every host is left.
pub(crate) fn normalise_host<'a>(host: &'a str, buffer: &'a mut HostBuffer) -> Option<&'a str> {
    let host = host_without_port(host);
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.is_empty() || host.len() > MAX_HOST {
        return None;
    }
    if !host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Some(host);
    }
    let lower = &mut buffer[..host.len()];
    lower.copy_from_slice(host.as_bytes());
    lower.make_ascii_lowercase();
    std::str::from_utf8(lower).ok()
}

/// Values by hostname: exact names, wildcards, and one for every host.
#[derive(Debug)]
pub(crate) struct HostMap<T> {
    exact: AHashMap<Box<str>, T>,
    /// By what follows `*.`.
    wildcards: AHashMap<Box<str>, T>,
    longest_wildcard: usize,
    any: Option<T>,
}

impl<T> Default for HostMap<T> {
    fn default() -> Self {
        Self { exact: AHashMap::new(), wildcards: AHashMap::new(), longest_wildcard: 0, any: None }
    }
}

impl<T> HostMap<T> {
    /// The value of a hostname (`None`: of every host), made if need be.
    pub(crate) fn entry(&mut self, hostname: Option<&Hostname>, make: impl FnOnce() -> T) -> &mut T {
        let Some(hostname) = hostname else {
            return self.any.get_or_insert_with(make);
        };
        match hostname.wildcard_suffix() {
            Some(suffix) => {
                self.longest_wildcard = self.longest_wildcard.max(suffix.len());
                self.wildcards.entry(suffix.into()).or_insert_with(make)
            }
            None => self.exact.entry(hostname.as_str().into()).or_insert_with(make),
        }
    }

    /// Offers the values whose hostname fits, the most specific first, until one is taken.
    pub(crate) fn find_map<'a, R>(
        &'a self,
        host: Option<&str>,
        mut take: impl FnMut(&'a T) -> Option<R>,
    ) -> Option<R> {
        if let Some(host) = host {
            if let Some(taken) = self.exact.get(host).and_then(&mut take) {
                return Some(taken);
            }
            let from = host.len().saturating_sub(self.longest_wildcard + 1).max(1);
            for dot in from..host.len() {
                if host.as_bytes()[dot] == b'.'
                    && let Some(taken) = self.wildcards.get(&host[dot + 1..]).and_then(&mut take)
                {
                    return Some(taken);
                }
            }
        }
        self.any.as_ref().and_then(take)
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.exact.values_mut().chain(self.wildcards.values_mut()).chain(self.any.as_mut())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_compared_without_port_trailing_dot_and_case() {
        for (host, expected) in [
            ("example.com", Some("example.com")),
            ("Example.COM", Some("example.com")),
            ("example.com:8080", Some("example.com")),
            ("example.com.:8080", Some("example.com")),
            ("EXAMPLE.com.", Some("example.com")),
            ("example.com:", Some("example.com")),
            ("[::1]:80", Some("[::1]")),
            ("[::1", Some("[::1")),
            ("::1", Some("::1")),
            ("a:b", Some("a:b")),
            ("", None),
            (":80", None),
            (".", None),
        ] {
            assert_eq!(normalise_host(host, &mut [0; MAX_HOST]), expected, "{host}");
        }
        assert_eq!(normalise_host(&"A".repeat(254), &mut [0; MAX_HOST]), None);
        assert!(normalise_host(&"A".repeat(253), &mut [0; MAX_HOST]).is_some());
    }

    #[test]
    fn the_most_specific_hostname_comes_first() {
        let mut map = HostMap::default();
        for name in ["a.b.c", "*.b.c", "*.c"] {
            map.entry(Some(&Hostname::new(name).unwrap()), || name);
        }
        map.entry(None, || "any");
        let offered = |host: Option<&str>| {
            let mut offered = Vec::new();
            map.find_map(host, |name| -> Option<()> {
                offered.push(*name);
                None
            });
            offered
        };
        assert_eq!(offered(Some("a.b.c")), ["a.b.c", "*.b.c", "*.c", "any"]);
        assert_eq!(offered(Some("x.a.b.c")), ["*.b.c", "*.c", "any"]);
        assert_eq!(offered(Some("b.c")), ["*.c", "any"]);
        for other in [Some("c"), Some(".c"), Some("xc"), Some("é"), None] {
            assert_eq!(offered(other), ["any"], "{other:?}");
        }
    }
}
