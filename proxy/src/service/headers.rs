//! Pingora's headers, for the filters and for us to change.

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use http::request::Parts;
use pingora_error::Result;
use pingora_http::{RequestHeader, ResponseHeader};
use understudy_router::HeaderEdit;

/// A message whose headers filters change.
pub(super) struct Headers<'a, T>(pub(super) &'a mut T);

/// Pingora's two kinds of headers have the same methods and no trait in common.
macro_rules! header_edits {
    ($($message:ty),*) => {$(
        impl HeaderEdit for Headers<'_, $message> {
            fn set(&mut self, name: &HeaderName, value: &HeaderValue) {
                // Both are valid already, and the number of headers is bounded by the message's own and the
                // filters'.
                let _ = self.0.insert_header(name.clone(), value.clone());
            }

            fn add(&mut self, name: &HeaderName, value: &HeaderValue) {
                let _ = self.0.append_header(name.clone(), value.clone());
            }

            fn remove(&mut self, name: &HeaderName) {
                let _ = self.0.remove_header(name);
            }

            fn headers(&self) -> &HeaderMap {
                &self.0.headers
            }
        }
    )*};
}

header_edits!(RequestHeader, ResponseHeader);

/// The first value of a header. Looking through the few that a request has is cheaper than hashing the name.
pub(super) fn first_of<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
}

/// How Pingora spells names that it has no other spelling of; all others it writes in lower case.
const SPELLED: [&str; 12] = [
    "Host",
    "Accept-Ranges",
    "Age",
    "Cache-Control",
    "Connection",
    "Content-Type",
    "Content-Encoding",
    "Content-Length",
    "Date",
    "Transfer-Encoding",
    "Server",
    "Set-Cookie",
];

/// Sets headers, whose names must not be among [`SPELLED`].
///
/// Pingora keeps how the client spelled each name in a second map, and offers no way to make room in either: each header
/// that is added to a request with few may let both grow. Where the spelling is the usual one, or the client spoke HTTP/2
/// and has none, that map says nothing. The request is taken apart then, and put together again without it.
pub(super) fn set_own<const N: usize>(
    request: &mut RequestHeader,
    own: [Option<(&'static HeaderName, HeaderValue)>; N],
) -> Result<()> {
    let own = own.into_iter().flatten();
    if !says_nothing_more(request) {
        // As text: Pingora makes a new text of a name that it is given as one.
        return own.into_iter().try_for_each(|(name, value)| request.insert_header(name.as_str(), value));
    }
    let nothing = RequestHeader::from(http::Request::new(()).into_parts().0);
    let mut parts = Parts::from(std::mem::replace(request, nothing));
    parts.headers.reserve(N);
    for (name, value) in own {
        parts.headers.insert(name, value);
    }
    *request = RequestHeader::from(parts);
    Ok(())
}

/// Whether a request can be made again of its parts, byte for byte.
fn says_nothing_more(request: &RequestHeader) -> bool {
    request.uri.path_and_query().is_some_and(|path| path.as_str().as_bytes() == request.raw_path())
        && request.send_end_stream() != Some(false)
        && request.case_header_iter().all(|(name, _)| is_usual(name.as_slice()))
}

fn is_usual(name: &[u8]) -> bool {
    match SPELLED.iter().find(|spelled| spelled.as_bytes().eq_ignore_ascii_case(name)) {
        Some(spelled) => spelled.as_bytes() == name,
        None => !name.iter().any(u8::is_ascii_uppercase),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static OWN: HeaderName = HeaderName::from_static("x-own");
    static OTHER: HeaderName = HeaderName::from_static("x-other");

    fn request(target: &[u8], names: &[&'static str]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", target, None).unwrap();
        for name in names {
            request.append_header(*name, *name).unwrap();
        }
        request
    }

    fn wire(request: &RequestHeader) -> String {
        let mut bytes = Vec::new();
        request.header_to_h1_wire(&mut bytes);
        format!("{} {}", String::from_utf8_lossy(request.raw_path()), String::from_utf8(bytes).unwrap())
    }

    /// What goes to the endpoint is the same as if the headers were inserted one by one. Says whether the request still
    /// has the client's spelling.
    fn keeps_spelling(target: &[u8], names: &[&'static str]) -> bool {
        let value = HeaderValue::from_static("1");
        let mut expected = request(target, names);
        expected.insert_header("x-own", value.clone()).unwrap();
        expected.insert_header("x-other", value.clone()).unwrap();
        let mut found = request(target, names);
        set_own(&mut found, [Some((&OWN, value.clone())), None, Some((&OTHER, value.clone()))]).unwrap();
        assert_eq!(wire(&found), wire(&expected));
        // So is what is changed afterwards.
        for header in [&mut found, &mut expected] {
            header.insert_header(http::header::CONNECTION, "close").unwrap();
            header.insert_header(http::header::HOST, "other").unwrap();
            header.append_header(http::header::UPGRADE, "x").unwrap();
        }
        assert_eq!(wire(&found), wire(&expected));
        found.has_case()
    }

    #[test]
    fn the_first_value_of_a_header_is_found() {
        let mut headers = HeaderMap::new();
        for (name, value) in [(&OTHER, "1"), (&OWN, "2"), (&OTHER, "3")] {
            headers.append(name, HeaderValue::from_static(value));
        }
        for name in [&OWN, &OTHER, &http::header::HOST] {
            assert_eq!(first_of(&headers, name), headers.get(name), "{name}");
        }
    }

    #[test]
    fn a_request_is_written_with_the_spelling_that_the_client_chose() {
        for names in [
            &[][..],
            &["Host"],
            &["Host", "accept", "Content-Type", "Date", "cookie", "cookie"],
            &["Host", "x-own", "accept", "x-own"],
        ] {
            assert!(!keeps_spelling(b"/a?b=c", names), "{names:?}");
        }
        for names in [&["host"][..], &["Host", "User-Agent"], &["Host", "X-Own"], &["Host", "age"]] {
            assert!(keeps_spelling(b"/a?b=c", names), "{names:?}");
        }
    }

    #[test]
    fn a_target_that_is_no_path_is_kept_as_it_came() {
        for target in [&b"http://a.example/x"[..], b"/\xff"] {
            assert!(keeps_spelling(target, &["Host"]), "{target:?}");
        }
        assert!(!keeps_spelling(b"*", &["Host"]));
    }

    #[test]
    fn the_usual_spelling_is_pingoras() {
        use http::header as h;
        let names = [
            h::ACCEPT,
            h::ACCEPT_RANGES,
            h::AGE,
            h::ALLOW,
            h::CACHE_CONTROL,
            h::CONNECTION,
            h::CONTENT_TYPE,
            h::CONTENT_ENCODING,
            h::CONTENT_LENGTH,
            h::COOKIE,
            h::DATE,
            h::ETAG,
            h::EXPECT,
            h::HOST,
            h::LOCATION,
            h::RANGE,
            h::REFERER,
            h::SERVER,
            h::SET_COOKIE,
            h::TE,
            h::TRANSFER_ENCODING,
            h::UPGRADE,
            h::USER_AGENT,
            h::VARY,
            h::VIA,
            OWN.clone(),
        ];
        for name in names {
            let mut response = ResponseHeader::build_no_case(200, None).unwrap();
            response.insert_header(&name, "").unwrap();
            let mut written = Vec::new();
            response.header_to_h1_wire(&mut written);
            assert!(is_usual(written.strip_suffix(b": \r\n").unwrap()), "{name}");
        }
        for spelled in SPELLED {
            let name: HeaderName = spelled.parse().unwrap();
            let mut response = ResponseHeader::build_no_case(200, None).unwrap();
            response.insert_header(&name, "").unwrap();
            let mut written = Vec::new();
            response.header_to_h1_wire(&mut written);
            assert_eq!(written, format!("{spelled}: \r\n").as_bytes());
        }
    }
}
