//! The identifier by which a request is found again, in the logs of all that it passes.

use http::{HeaderName, HeaderValue};
use pingora_error::{ErrorType, OrErr, Result};
use pingora_http::RequestHeader;

use super::headers::first_of;

/// The header that carries it.
pub(super) static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A client's own identifier is kept up to this length.
const LONGEST: usize = 128;

/// An identifier of ours: a version 4 UUID (RFC 9562, section 5.4) as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestId([u8; 36]);

impl RequestId {
    /// A new one. It needs to differ from others, not to be secret.
    pub(super) fn new() -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let bits = fastrand::u128(..) & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
        /// Where the two digits of each byte stand.
        const PLACES: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
        let mut text = [b'-'; 36];
        for (byte, place) in bits.to_be_bytes().into_iter().zip(PLACES) {
            text[place] = DIGITS[usize::from(byte >> 4)];
            text[place + 1] = DIGITS[usize::from(byte & 0xf)];
        }
        Self(text)
    }

    pub(crate) fn as_str(&self) -> &str {
        // It is made of ASCII.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    pub(super) fn to_value(self) -> Result<HeaderValue> {
        HeaderValue::from_bytes(&self.0).or_err(ErrorType::InvalidHTTPHeader, "x-request-id")
    }
}

/// The identifier that a request brings, if it is usable.
pub(super) fn own_request_id(request: &RequestHeader) -> Option<&str> {
    let own = first_of(&request.headers, &X_REQUEST_ID)?.to_str().ok()?;
    (!own.is_empty() && own.len() <= LONGEST).then_some(own)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn an_identifier_of_ours_is_a_version_4_uuid() {
        let id = RequestId::new();
        let groups: Vec<usize> = id.as_str().split('-').map(str::len).collect();
        assert_eq!(groups, [8, 4, 4, 4, 12], "{id:?}");
        assert!(id.as_str().bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit()));
        assert_eq!(&id.as_str()[14..15], "4");
        assert!("89ab".contains(&id.as_str()[19..20]), "{id:?}");
        assert_ne!(RequestId::new(), id);
    }

    #[test]
    fn a_clients_own_identifier_is_kept_unless_it_is_unusable() {
        let mut own = RequestHeader::build("GET", b"/", None).unwrap();
        assert_eq!(own_request_id(&own), None);
        own.insert_header(&X_REQUEST_ID, "abc").unwrap();
        assert_eq!(own_request_id(&own), Some("abc"));
        let odd = HeaderValue::from_bytes(b"a\xffb").unwrap();
        for unusable in [HeaderValue::from_str(&"x".repeat(129)).unwrap(), HeaderValue::from_static(""), odd]
        {
            own.insert_header(&X_REQUEST_ID, unusable).unwrap();
            assert_eq!(own_request_id(&own), None);
        }
    }
}
