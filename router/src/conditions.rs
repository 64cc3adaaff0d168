//! What a request must have besides host and path.

use std::sync::Arc;

use http::HeaderMap;
use http::header::HeaderName;
use regex::bytes::Regex;
use understudy_conf::{HttpMatch, StringMatch};

use crate::pattern::Patterns;
use crate::table::RequestParts;

/// Method, headers and query parameters of one match.
#[derive(Debug)]
pub(crate) struct Conditions {
    pub(crate) method: Option<Box<str>>,
    pub(crate) headers: Box<[(HeaderName, Text)]>,
    pub(crate) query: Box<[(Box<str>, Text)]>,
}

impl Conditions {
    pub(crate) fn compile(http_match: &HttpMatch, patterns: &mut Patterns) -> Result<Self, String> {
        let headers = http_match.headers.iter().map(|header| {
            let name: HeaderName =
                header.name.parse().map_err(|_| format!("{:?} is no name of a header", header.name))?;
            Ok((name, Text::compile(&header.value, patterns)?))
        });
        let headers = headers.collect::<Result<_, String>>()?;
        let query = http_match.query.iter().map(|parameter| {
            Ok((parameter.name.as_str().into(), Text::compile(&parameter.value, patterns)?))
        });
        let query = query.collect::<Result<_, String>>()?;
        let method = http_match.method.as_ref().map(|method| method.0.as_str().into());
        Ok(Self { method, headers, query })
    }

    pub(crate) fn fit(&self, request: &RequestParts<'_>) -> bool {
        self.method.as_deref().is_none_or(|method| method == request.method)
            && self.headers.iter().all(|(name, text)| text.fits_header(request.headers, name))
            && self.query.iter().all(|(name, text)| {
                first_parameter(request.query.unwrap_or_default(), name)
                    .is_some_and(|value| text.fits(value.as_bytes()))
            })
    }
}

/// The value that a header or a query parameter must have.
#[derive(Debug)]
pub(crate) enum Text {
    Exact(Box<str>),
    Regex(Arc<Regex>),
}

impl Text {
    fn compile(text: &StringMatch, patterns: &mut Patterns) -> Result<Self, String> {
        Ok(match text {
            StringMatch::Exact(text) => Self::Exact(text.as_str().into()),
            StringMatch::Regex(pattern) => Self::Regex(patterns.compile(pattern)?),
        })
    }

    fn fits(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(text) => text.as_bytes() == value,
            Self::Regex(regex) => regex.is_match(value),
        }
    }

    /// A header that stands there several times counts as one, its values joined by commas (RFC 9110, 5.3).
    fn fits_header(&self, headers: &HeaderMap, name: &HeaderName) -> bool {
        let mut values = headers.get_all(name).iter();
        match (values.next(), values.next(), self) {
            (None, _, _) => false,
            (Some(only), None, _) => self.fits(only.as_bytes()),
            (Some(_), Some(_), Self::Exact(text)) => is_joined(headers, name, text.as_bytes()),
            (Some(_), Some(_), Self::Regex(regex)) => {
                // The one place that allocates: an expression over a header that was repeated.
                let values: Vec<&[u8]> = headers.get_all(name).iter().map(|value| value.as_bytes()).collect();
                regex.is_match(&values.join(&b","[..]))
            }
        }
    }
}

fn is_joined(headers: &HeaderMap, name: &HeaderName, expected: &[u8]) -> bool {
    let mut rest = Some(expected);
    for (at, value) in headers.get_all(name).iter().enumerate() {
        rest = rest
            .and_then(|rest| if at == 0 { Some(rest) } else { rest.strip_prefix(b",") })
            .and_then(|rest| rest.strip_prefix(value.as_bytes()));
    }
    rest == Some(b"")
}

/// The value of the first parameter of that name. As in Envoy, name and value are compared as they were
/// received, without percent-decoding, and a parameter without `=` has the empty value.
fn first_parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query
        .split('&')
        .map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")))
        .find(|(found, _)| *found == name)
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_parameter_of_a_name_counts_and_is_not_decoded() {
        for (query, expected) in [
            ("a=1", Some("1")),
            ("b=2&a=1&a=3", Some("1")),
            ("a", Some("")),
            ("a=", Some("")),
            ("a=1=2", Some("1=2")),
            ("a=%31", Some("%31")),
            ("a=1+2", Some("1+2")),
            ("%61=1", None),
            ("A=1", None),
            ("", None),
            ("&&=1", None),
        ] {
            assert_eq!(first_parameter(query, "a"), expected, "{query}");
        }
    }

    #[test]
    fn a_repeated_header_counts_as_one_joined_by_commas() {
        let mut headers = HeaderMap::new();
        let name = HeaderName::from_static("x");
        let fits =
            |text: &Text, headers: &HeaderMap| text.fits_header(headers, &HeaderName::from_static("x"));
        assert!(!fits(&Text::Exact("".into()), &headers));
        headers.append(&name, "a".parse().unwrap());
        assert!(fits(&Text::Exact("a".into()), &headers));
        headers.append(&name, "b".parse().unwrap());
        assert!(fits(&Text::Exact("a,b".into()), &headers));
        for other in ["a", "b", "a, b", "a,b,", "b,a", ""] {
            assert!(!fits(&Text::Exact(other.into()), &headers), "{other}");
        }
        let regex = Patterns::default().compile("a,[b]").unwrap();
        assert!(fits(&Text::Regex(regex), &headers));
    }
}
