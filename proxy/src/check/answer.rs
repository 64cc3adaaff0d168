//! HTTP/1.1 answers as far as a check needs them. Pure.

use httparse::Status;

use super::IMMEDIATE_FAIL;

/// An answer's head.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    /// Its length in bytes.
    pub(super) length: usize,
    pub(super) framing: Framing,
    /// The endpoint asks to be left alone (rule H7).
    pub(super) on_request: bool,
}

/// How an answer's body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// After so many bytes.
    Length(usize),
    /// With its last chunk.
    Chunked,
    /// With the connection.
    Close,
}

/// The bytes are no HTTP/1.1.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Reads a head. `None`: there is more to come. `bodiless`: the request's method has answers without a body.
pub(super) fn parse_head(bytes: &[u8], bodiless: bool) -> Result<Option<Head>, Malformed> {
    let mut headers = [httparse::EMPTY_HEADER; 128];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(bytes).map_err(|_| Malformed)? {
        Status::Complete(length) => length,
        Status::Partial => return Ok(None),
    };
    let status = response.code.ok_or(Malformed)?;
    let (mut framing, mut on_request) = (Framing::Close, false);
    for header in response.headers.iter() {
        on_request |= header.name.eq_ignore_ascii_case(IMMEDIATE_FAIL);
        let text = std::str::from_utf8(header.value).map_err(|_| Malformed);
        if header.name.eq_ignore_ascii_case("transfer-encoding") {
            if text?.to_ascii_lowercase().contains("chunked") {
                framing = Framing::Chunked;
            }
        } else if header.name.eq_ignore_ascii_case("content-length") && framing != Framing::Chunked {
            framing = Framing::Length(text?.trim().parse().map_err(|_| Malformed)?);
        }
    }
    if bodiless || status < 200 || matches!(status, 204 | 304) {
        framing = Framing::Length(0);
    }
    Ok(Some(Head { status, length, framing, on_request }))
}

/// The body in what came after the head, and whether it is whole.
pub(super) fn decode_body(bytes: &[u8], framing: Framing) -> Result<(Vec<u8>, bool), Malformed> {
    match framing {
        Framing::Length(length) => Ok((bytes[..length.min(bytes.len())].to_vec(), bytes.len() >= length)),
        Framing::Close => Ok((bytes.to_vec(), false)),
        Framing::Chunked => decode_chunks(bytes),
    }
}

fn decode_chunks(mut bytes: &[u8]) -> Result<(Vec<u8>, bool), Malformed> {
    let mut body = Vec::new();
    loop {
        let (start, size) = match httparse::parse_chunk_size(bytes).map_err(|_| Malformed)? {
            Status::Complete(found) => found,
            Status::Partial => return Ok((body, false)),
        };
        if size == 0 {
            return Ok((body, true));
        }
        let size = usize::try_from(size).map_err(|_| Malformed)?;
        let rest = &bytes[start..];
        body.extend_from_slice(&rest[..size.min(rest.len())]);
        match rest.get(size..).filter(|rest| rest.len() >= 2) {
            Some(after) if after.starts_with(b"\r\n") => bytes = &after[2..],
            Some(_) => return Err(Malformed),
            None => return Ok((body, false)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn heads_say_how_their_bodies_end() {
        let head = |text: &str| parse_head(text.as_bytes(), false).unwrap().unwrap();
        let length = head("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
        assert_eq!(length, Head { status: 200, length: 38, framing: Framing::Length(5), on_request: false });
        assert_eq!(head("HTTP/1.0 503 no\r\n\r\n").framing, Framing::Close);
        assert_eq!(head("HTTP/1.1 204 no\r\n\r\n").framing, Framing::Length(0));
        let both = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n";
        assert_eq!(head(both).framing, Framing::Chunked);
        assert_eq!(parse_head(b"HTTP/1.1 200 OK\r\n", false), Ok(None));
        assert_eq!(parse_head(b"SSH-2.0-x\r\n", false), Err(Malformed));
        assert_eq!(parse_head(b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", false), Err(Malformed));
    }

    #[test]
    fn chunks_are_joined() {
        let chunked = |text: &str| decode_body(text.as_bytes(), Framing::Chunked);
        assert_eq!(chunked("2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n"), Ok((b"hello".to_vec(), true)));
        assert_eq!(chunked("2\r\nhe\r\n3\r\nl"), Ok((b"hel".to_vec(), false)));
        assert_eq!(chunked("2\r\nheX\r\n"), Err(Malformed));
        assert_eq!(chunked("zz\r\n"), Err(Malformed));
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_much(bytes in prop::collection::vec(any::<u8>(), 0..200), bodiless: bool) {
            if let Ok(Some(head)) = parse_head(&bytes, bodiless) {
                prop_assert!(head.length <= bytes.len());
            }
            for framing in [Framing::Chunked, Framing::Close, Framing::Length(7)] {
                if let Ok((body, _)) = decode_body(&bytes, framing) {
                    prop_assert!(body.len() <= bytes.len());
                }
            }
        }
    }
}
