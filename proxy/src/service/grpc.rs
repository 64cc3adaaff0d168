//! Calls of gRPC: how they are told from other requests, and what they are answered.

use http::header::{CONTENT_TYPE, HeaderName};
use pingora_error::Result;
use pingora_http::{RequestHeader, ResponseHeader};
use understudy_engine::GrpcStatus;

use super::reply::Reply;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC: &[u8] = b"application/grpc";

/// Whether a request is a call of gRPC. Other types that begin alike, such as the web's, are not.
pub(super) fn is_call(request: &RequestHeader) -> bool {
    let Some(kind) = request.headers.get(CONTENT_TYPE) else { return false };
    let kind = kind.as_bytes();
    kind.len() >= GRPC.len()
        && kind[..GRPC.len()].eq_ignore_ascii_case(GRPC)
        && matches!(kind.get(GRPC.len()), None | Some(b'+' | b';'))
}

/// The status of gRPC in an answer's headers. One that stands in trailers comes too late for a decision (rule O2).
pub(super) fn status_of(response: &ResponseHeader) -> Option<GrpcStatus> {
    let status = response.headers.get(GRPC_STATUS)?.to_str().ok()?;
    // What is no number is no status that anybody knows.
    Some(status.parse().map_or(GrpcStatus::UNKNOWN, GrpcStatus))
}

/// The whole of an answer without a message.
pub(super) fn trailers_only(reply: Reply) -> Result<ResponseHeader> {
    let mut header = ResponseHeader::build(200, Some(4))?;
    header.insert_header(CONTENT_TYPE, "application/grpc")?;
    header.insert_header(GRPC_STATUS, GrpcStatus::of_http(reply.status).to_string())?;
    // Our texts have no character that would have to be escaped.
    if !reply.text.is_empty() {
        header.insert_header(GRPC_MESSAGE, reply.text)?;
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(kind: Option<&str>) -> bool {
        let mut request = RequestHeader::build("POST", b"/a.B/C", None).unwrap();
        if let Some(kind) = kind {
            request.insert_header(CONTENT_TYPE, kind).unwrap();
        }
        is_call(&request)
    }

    #[test]
    fn a_call_is_known_by_its_type() {
        for kind in
            ["application/grpc", "application/grpc+proto", "application/grpc; x=y", "Application/GRPC"]
        {
            assert!(call(Some(kind)), "{kind}");
        }
        for kind in ["application/grpc-web", "application/json", "application/grp"] {
            assert!(!call(Some(kind)), "{kind}");
        }
        assert!(!call(None));
    }

    #[test]
    fn r14_an_answer_of_ours_to_a_call_has_the_status_of_grpc_in_its_headers() {
        let header = trailers_only(Reply::TIMEOUT).unwrap();
        assert_eq!(header.status, 200);
        assert_eq!(status_of(&header), Some(GrpcStatus::UNAVAILABLE));
        assert_eq!(header.headers["grpc-message"], "upstream request timeout");
        assert_eq!(status_of(&trailers_only(Reply::NO_ROUTE).unwrap()), Some(GrpcStatus::UNIMPLEMENTED));
    }

    #[test]
    fn our_texts_need_no_escaping() {
        for reply in [Reply::NO_ROUTE, Reply::BAD_REQUEST, Reply::IDLE, Reply::INTERNAL, Reply::OVERFLOW] {
            assert!(reply.text.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b'%'));
        }
    }
}
