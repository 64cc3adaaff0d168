//! A check by an HTTP/1.1 request (rules H2, H6).

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use understudy_conf::{HttpProbe, Payload};
use understudy_engine::CheckFailure;

use super::answer::{Framing, Head, decode_body, parse_head};
use super::{ANSWER_LIMIT, contains, read_more};

pub(super) async fn ask<S>(mut stream: S, probe: &HttpProbe, host: &str) -> Result<(), CheckFailure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(&request(probe, host)).await.map_err(|_| CheckFailure::Closed)?;
    let mut bytes = Vec::new();
    let head = read_head(&mut stream, &mut bytes, probe.method == "HEAD").await?;
    if head.on_request {
        return Err(CheckFailure::OnRequest);
    }
    judge_status(probe, head.status)?;
    let body = read_body(&mut stream, bytes, head.framing).await?;
    match &probe.expected_response {
        Some(wanted) if !contains(&body, wanted.as_bytes()) => Err(CheckFailure::Response),
        _ => Ok(()),
    }
}

pub(super) fn judge_status(probe: &HttpProbe, status: u16) -> Result<(), CheckFailure> {
    match status {
        expected if probe.expected_statuses.contains(&expected) => Ok(()),
        retriable if probe.retriable_statuses.contains(&retriable) => {
            Err(CheckFailure::RetriableStatus(retriable))
        }
        other => Err(CheckFailure::Status(other)),
    }
}

fn request(probe: &HttpProbe, host: &str) -> Vec<u8> {
    let body = probe.request_body.as_ref().map(Payload::as_bytes);
    let mut request = format!(
        "{} {} HTTP/1.1\r\nhost: {host}\r\nuser-agent: understudy-health-check\r\naccept: */*\r\nconnection: close\r\n",
        probe.method, probe.path,
    )
    .into_bytes();
    if let Some(body) = body {
        request.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
    }
    request.extend_from_slice(b"\r\n");
    request.extend_from_slice(body.unwrap_or_default());
    request
}

/// Reads the final answer's head; what came after it stays in `bytes`.
async fn read_head<S: AsyncRead + Unpin>(
    stream: &mut S,
    bytes: &mut Vec<u8>,
    bodiless: bool,
) -> Result<Head, CheckFailure> {
    loop {
        match parse_head(bytes, bodiless).map_err(|_| CheckFailure::Protocol)? {
            Some(head) => {
                bytes.drain(..head.length);
                if head.status >= 200 || head.status == 101 {
                    return Ok(head);
                }
            }
            None if bytes.len() >= ANSWER_LIMIT => return Err(CheckFailure::Protocol),
            None if !read_more(stream, bytes).await => return Err(CheckFailure::Closed),
            None => {}
        }
    }
}

/// Reads to the body's end, or as much of it as is looked at.
async fn read_body<S: AsyncRead + Unpin>(
    stream: &mut S,
    mut bytes: Vec<u8>,
    framing: Framing,
) -> Result<Vec<u8>, CheckFailure> {
    loop {
        let (body, whole) = decode_body(&bytes, framing).map_err(|_| CheckFailure::Protocol)?;
        if whole || bytes.len() >= ANSWER_LIMIT {
            return Ok(body);
        }
        if !read_more(stream, &mut bytes).await {
            return if framing == Framing::Close { Ok(body) } else { Err(CheckFailure::Closed) };
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    /// What a check makes of an answer, and the request that it sent.
    async fn check(probe: &HttpProbe, answer: &[u8]) -> (Result<(), CheckFailure>, String) {
        let (mine, mut theirs) = tokio::io::duplex(1 << 20);
        theirs.write_all(answer).await.unwrap();
        theirs.shutdown().await.unwrap();
        let result = ask(mine, probe, "shop.example.com").await;
        let mut request = String::new();
        theirs.read_to_string(&mut request).await.unwrap();
        (result, request)
    }

    async fn verdict(probe: &HttpProbe, answer: &str) -> Result<(), CheckFailure> {
        check(probe, answer.as_bytes()).await.0
    }

    #[tokio::test]
    async fn h6_a_get_of_the_path_with_the_host() {
        let (result, request) =
            check(&HttpProbe::get("/healthz"), b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(result, Ok(()));
        assert!(request.starts_with("GET /healthz HTTP/1.1\r\nhost: shop.example.com\r\n"), "{request}");
        assert!(request.ends_with("\r\n\r\n") && !request.contains("content-length"), "{request}");
    }

    #[tokio::test]
    async fn a_body_is_sent_with_its_length() {
        let probe = HttpProbe {
            method: "POST".to_owned(),
            request_body: Some(Payload::Text("ping".to_owned())),
            ..HttpProbe::get("/")
        };
        let (_, request) = check(&probe, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        assert!(request.starts_with("POST / HTTP/1.1\r\n"), "{request}");
        assert!(request.ends_with("content-length: 4\r\n\r\nping"), "{request}");
    }

    #[tokio::test]
    async fn h2_statuses_are_expected_retriable_or_final() {
        let probe = HttpProbe {
            expected_statuses: [200, 204].into(),
            retriable_statuses: [503].into(),
            ..HttpProbe::get("/")
        };
        assert_eq!(verdict(&probe, "HTTP/1.1 204 none\r\n\r\n").await, Ok(()));
        assert_eq!(verdict(&probe, "HTTP/1.1 503 no\r\n\r\n").await, Err(CheckFailure::RetriableStatus(503)));
        assert_eq!(verdict(&probe, "HTTP/1.1 500 no\r\n\r\n").await, Err(CheckFailure::Status(500)));
        let after_interim = "HTTP/1.1 103 early\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(verdict(&probe, after_interim).await, Ok(()));
    }

    #[tokio::test]
    async fn h7_an_answer_that_asks_for_no_traffic_fails_whatever_its_status() {
        let answer =
            "HTTP/1.1 200 OK\r\nX-Envoy-Immediate-Health-Check-Fail: true\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(verdict(&HttpProbe::get("/"), answer).await, Err(CheckFailure::OnRequest));
    }

    #[tokio::test]
    async fn the_body_must_hold_what_is_expected_however_it_is_framed() {
        let wanted = Payload::Text("\"ready\":true".to_owned());
        let probe = HttpProbe { expected_response: Some(wanted), ..HttpProbe::get("/") };
        for good in [
            "HTTP/1.1 200 OK\r\ncontent-length: 16\r\n\r\n {\"ready\":true} ",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n\"read\r\n7\r\ny\":true\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n{\"ready\":true}",
        ] {
            assert_eq!(verdict(&probe, good).await, Ok(()), "{good}");
        }
        let bad = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(verdict(&probe, bad).await, Err(CheckFailure::Response));
        let binary =
            HttpProbe { expected_response: Some(Payload::Binary(vec![0xff, 0])), ..HttpProbe::get("/") };
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\na\xff\x00";
        assert_eq!(check(&binary, answer).await.0, Ok(()));
    }

    #[tokio::test]
    async fn an_answer_that_is_cut_or_no_http_fails() {
        let probe = HttpProbe::get("/");
        for cut in ["", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab"] {
            assert_eq!(verdict(&probe, cut).await, Err(CheckFailure::Closed), "{cut:?}");
        }
        assert_eq!(verdict(&probe, "SSH-2.0-x\r\n").await, Err(CheckFailure::Protocol));
    }

    #[tokio::test]
    async fn what_is_read_is_bounded() {
        let probe = HttpProbe::get("/");
        let head = "HTTP/1.1 200 OK\r\nx: ".to_owned() + &"y".repeat(2 * ANSWER_LIMIT);
        assert_eq!(verdict(&probe, &head).await, Err(CheckFailure::Protocol));
        let body = "HTTP/1.1 200 OK\r\n\r\n".to_owned() + &"y".repeat(4 * ANSWER_LIMIT);
        assert_eq!(verdict(&probe, &body).await, Ok(()));
    }
}
