//! Hostnames of requests, and tables by hostname.

use std::sync::Arc;

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
    // Most are what they are compared with already.
    if is_normal(host) {
        return Some(host);
    }
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

/// Whether a host is a name in lower case, without port and trailing dot.
fn is_normal(host: &str) -> bool {
    let bytes = host.as_bytes();
    let is_plain = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    bytes.last().is_some_and(|last| *last != b'.') && bytes.len() <= MAX_HOST && bytes.iter().all(is_plain)
}

/// Values by hostname: exact names, wildcards, and one for every host.
#[derive(Debug, Clone)]
pub(crate) struct HostMap<T> {
    exact: AHashMap<Arc<str>, T>,
    /// By what follows `*.`.
    wildcards: AHashMap<Arc<str>, T>,
    longest_wildcard: usize,
    any: Option<T>,
}

impl<T> Default for HostMap<T> {
    fn default() -> Self {
        Self { exact: AHashMap::new(), wildcards: AHashMap::new(), longest_wildcard: 0, any: None }
    }
}

impl<T> HostMap<T> {
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

    /// The value of a hostname (`None`: of every host).
    pub(crate) fn get(&self, hostname: Option<&Hostname>) -> Option<&T> {
        let Some(hostname) = hostname else { return self.any.as_ref() };
        match hostname.wildcard_suffix() {
            Some(suffix) => self.wildcards.get(suffix),
            None => self.exact.get(hostname.as_str()),
        }
    }

    /// Gives a hostname a value, or none.
    pub(crate) fn set(&mut self, hostname: Option<&Hostname>, value: Option<T>) {
        let Some(hostname) = hostname else {
            self.any = value;
            return;
        };
        let (map, key) = match hostname.wildcard_suffix() {
            Some(suffix) => (&mut self.wildcards, suffix),
            None => (&mut self.exact, hostname.as_str()),
        };
        let is_longest = hostname.wildcard_suffix().map(str::len) == Some(self.longest_wildcard);
        match (map.get_mut(key), value) {
            (Some(known), Some(value)) => *known = value,
            (None, Some(value)) => {
                map.insert(key.into(), value);
                let length = hostname.wildcard_suffix().map_or(0, str::len);
                self.longest_wildcard = self.longest_wildcard.max(length);
            }
            (_, None) => {
                map.remove(key);
                if is_longest {
                    self.longest_wildcard =
                        self.wildcards.keys().map(|suffix| suffix.len()).max().unwrap_or(0);
                }
            }
        }
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
    fn a_value_that_was_taken_away_is_offered_no_more() {
        let mut map = HostMap::default();
        let names = [Some("a.b.c"), Some("*.b.c"), Some("*.c"), None];
        let names = names.map(|name| name.map(|name| Hostname::new(name).unwrap()));
        names.iter().for_each(|name| map.set(name.as_ref(), Some(1)));
        assert_eq!(map.longest_wildcard, 3);
        map.set(names[1].as_ref(), None);
        map.set(names[3].as_ref(), None);
        assert_eq!((map.longest_wildcard, map.get(names[1].as_ref()), map.get(None)), (1, None, None));
        assert_eq!((map.find_map(Some("x.b.c"), Some), map.find_map(Some("x"), Some)), (Some(&1), None));
        map.set(names[2].as_ref(), Some(2));
        assert_eq!(map.find_map(Some("x.b.c"), Some), Some(&2));
    }

    #[test]
    fn the_most_specific_hostname_comes_first() {
        let mut map = HostMap::default();
        for name in ["a.b.c", "*.b.c", "*.c"] {
            map.set(Some(&Hostname::new(name).unwrap()), Some(name));
        }
        map.set(None, Some("any"));
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
