//! Origins of pages, and the patterns that they are compared with.

/// An origin that is allowed: `*`, or `SCHEME://HOST[:PORT]` with wildcards in the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OriginPattern {
    Any,
    Of {
        /// In lower case.
        scheme: String,
        /// The host's pieces in lower case; between two of them may stand anything that a host can hold.
        host: Vec<String>,
        port: Port,
    },
}

/// The port of an origin; two spellings of a scheme's own port are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Port {
    /// The scheme's own.
    OfScheme,
    Number(u16),
}

impl OriginPattern {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let refuse = |why: &str| format!("{text:?} is no origin: {why}");
        let lower = text.to_ascii_lowercase();
        let (scheme, host, port) =
            split(&lower).ok_or_else(|| refuse("write SCHEME://HOST or SCHEME://HOST:PORT"))?;
        if !matches!(scheme, "http" | "https") {
            return Err(refuse("its scheme is neither http nor https"));
        }
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._*[]:".contains(&byte);
        if host.is_empty() || !host.bytes().all(known) {
            return Err(refuse("its host is not a DNS name with wildcards"));
        }
        let host = host.split('*').map(str::to_owned).collect();
        Ok(Self::Of { scheme: scheme.to_owned(), host, port })
    }

    /// Whether a page of this origin is meant. Case does not count.
    pub(crate) fn matches(&self, origin: &[u8]) -> bool {
        let Self::Of { scheme, host, port } = self else { return true };
        let Ok(origin) = std::str::from_utf8(origin) else { return false };
        split(origin).is_some_and(|(of_origin, name, number)| {
            of_origin.eq_ignore_ascii_case(scheme) && number == *port && matches_host(host, name)
        })
    }
}

/// Scheme, host and port.
fn split(origin: &str) -> Option<(&str, &str, Port)> {
    let (scheme, authority) = origin.split_once("://")?;
    // The colons of an IPv6 address are no port's.
    let name_end = authority.rfind(']').map_or(0, |end| end + 1);
    let (host, port) = match authority[name_end..].rfind(':') {
        None => (authority, Port::OfScheme),
        Some(colon) => {
            let (host, port) = authority.split_at(name_end + colon);
            let digits = port.strip_prefix(':').filter(|port| port.bytes().all(|b| b.is_ascii_digit()))?;
            (host, Port::Number(digits.parse().ok().filter(|port| *port != 0)?))
        }
    };
    let own = if scheme.eq_ignore_ascii_case("https") { 443 } else { 80 };
    Some((scheme, host, if port == Port::Number(own) { Port::OfScheme } else { port }))
}

/// Whether the host is made of the pieces in their order, each wildcard between them standing for at least one
/// character.
fn matches_host(pieces: &[String], host: &str) -> bool {
    let [first, middle @ .., last] = pieces else {
        return pieces.first().is_some_and(|whole| whole.eq_ignore_ascii_case(host));
    };
    let host = host.as_bytes();
    let starts = |rest: &[u8], piece: &str| {
        rest.get(..piece.len()).is_some_and(|start| start.eq_ignore_ascii_case(piece.as_bytes()))
    };
    if !starts(host, first) {
        return false;
    }
    let mut rest = &host[first.len()..];
    for piece in middle {
        // The leftmost place leaves most for the pieces that follow.
        let Some(at) = (1..rest.len()).find(|at| starts(&rest[*at..], piece)) else { return false };
        rest = &rest[at + piece.len()..];
    }
    rest.len() > last.len() && starts(&rest[rest.len() - last.len()..], last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, origin: &str) -> bool {
        OriginPattern::parse(pattern).unwrap().matches(origin.as_bytes())
    }

    #[test]
    fn an_origin_is_compared_with_scheme_host_and_port() {
        for (pattern, origin, expected) in [
            ("https://www.foo.com", "https://www.foo.com", true),
            ("https://www.foo.com", "https://WWW.foo.com", true),
            ("https://www.foo.com", "http://www.foo.com", false),
            ("https://www.foo.com", "https://foo.com", false),
            ("https://www.foo.com", "https://www.foo.com.evil.com", false),
            ("https://www.foo.com", "https://www.foo.com:8443", false),
            ("https://www.foo.com", "https://www.foo.com:443", true),
            ("http://foo.com:80", "http://foo.com", true),
            ("http://foo.com:8080", "http://foo.com:8080", true),
            ("http://foo.com:443", "http://foo.com", false),
            ("http://[::1]:3000", "http://[::1]:3000", true),
            ("http://[::1]", "http://[::1]", true),
            ("https://foo.com", "null", false),
            ("https://foo.com", "https://foo.com:99999", false),
            ("*", "null", true),
            ("*", "capacitor://localhost", true),
        ] {
            assert_eq!(matches(pattern, origin), expected, "{pattern} {origin}");
        }
    }

    #[test]
    fn a_wildcard_stands_for_any_labels_to_its_left() {
        for (pattern, origin, expected) in [
            ("https://*.bar.com", "https://www.bar.com", true),
            ("https://*.bar.com", "https://xpto.www.bar.com", true),
            ("https://*.bar.com", "https://bar.com", false),
            ("https://*.bar.com", "https://.bar.com", false),
            ("https://*.bar.com", "https://evilbar.com", false),
            ("https://*.bar.com", "https://www.bar.com.evil.com", false),
            ("https://*.bar.com", "https://www.bar.com:8443", false),
            ("https://*.bar.com:8443", "https://www.bar.com:8443", true),
            ("https://*", "https://anything.example", true),
            ("https://*", "http://anything.example", false),
            ("https://shop-*.bar.com", "https://shop-1.eu.bar.com", true),
            ("https://shop-*.bar.com", "https://shop-.bar.com", false),
            ("https://*.a.*.com", "https://x.a.y.a.z.com", true),
            ("https://*.a.*.com", "https://a.a.com", false),
        ] {
            assert_eq!(matches(pattern, origin), expected, "{pattern} {origin}");
        }
    }

    #[test]
    fn what_is_no_origin_is_refused_with_a_reason() {
        for wrong in
            ["", "foo.com", "ftp://foo.com", "https://", "https://foo.com/", "https://a b", "https://foo:0"]
        {
            let reason = OriginPattern::parse(wrong).unwrap_err();
            assert!(reason.starts_with(&format!("{wrong:?} is no origin: ")), "{reason}");
        }
    }
}
