//! A check by a request of HTTP/2, for endpoints that speak it (rules H2, H6).

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite};
use understudy_conf::{HttpProbe, Payload};
use understudy_engine::CheckFailure;

use super::http::judge_status;
use super::{ANSWER_LIMIT, IMMEDIATE_FAIL, contains, while_driven};

pub(super) async fn ask<S>(stream: S, probe: &HttpProbe, scheme: &str, host: &str) -> Result<(), CheckFailure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (client, connection) = h2::client::handshake(stream).await.map_err(failure)?;
    while_driven(call(client, probe, scheme, host), connection).await
}

async fn call(
    client: SendRequest<Bytes>,
    probe: &HttpProbe,
    scheme: &str,
    host: &str,
) -> Result<(), CheckFailure> {
    let mut client = client.ready().await.map_err(failure)?;
    let body = probe.request_body.as_ref().map(Payload::as_bytes).filter(|body| !body.is_empty());
    let request = Request::builder()
        .method(probe.method.as_str())
        .uri(format!("{scheme}://{host}{}", probe.path))
        .header("user-agent", "understudy-health-check")
        .header("accept", "*/*")
        .body(())
        .map_err(|_| CheckFailure::Protocol)?;
    let (answer, mut sending) = client.send_request(request, body.is_none()).map_err(failure)?;
    if let Some(body) = body {
        sending.send_data(Bytes::copy_from_slice(body), true).map_err(failure)?;
    }
    let (head, mut body) = answer.await.map_err(failure)?.into_parts();
    if head.headers.contains_key(IMMEDIATE_FAIL) {
        return Err(CheckFailure::OnRequest);
    }
    judge_status(probe, head.status.as_u16())?;
    let Some(wanted) = &probe.expected_response else { return Ok(()) };
    let mut read = Vec::new();
    while read.len() < ANSWER_LIMIT
        && let Some(piece) = body.data().await
    {
        let piece = piece.map_err(failure)?;
        body.flow_control().release_capacity(piece.len()).map_err(failure)?;
        read.extend_from_slice(&piece);
    }
    if contains(&read, wanted.as_bytes()) { Ok(()) } else { Err(CheckFailure::Response) }
}

#[allow(clippy::needless_pass_by_value, reason = "it stands where errors are mapped")]
fn failure(error: h2::Error) -> CheckFailure {
    // We found that what it said is no HTTP/2.
    if error.is_library() { CheckFailure::Protocol } else { CheckFailure::Closed }
}

#[cfg(test)]
mod tests {
    use http::Response;

    use super::*;

    /// What a check makes of an answer, and the method, target and body that it sent.
    async fn check(probe: &HttpProbe, status: u16, text: &'static str) -> (Result<(), CheckFailure>, String) {
        let (mine, theirs) = tokio::io::duplex(1 << 16);
        let server = tokio::spawn(async move {
            let mut connection = h2::server::handshake(theirs).await.unwrap();
            let (request, mut respond) = connection.accept().await.unwrap().unwrap();
            let driver = tokio::spawn(async move { while connection.accept().await.is_some() {} });
            let (head, mut body) = request.into_parts();
            let mut seen = format!("{} {} ", head.method, head.uri);
            while let Some(piece) = body.data().await {
                seen.push_str(std::str::from_utf8(&piece.unwrap()).unwrap());
            }
            let answer = Response::builder().status(status).body(()).unwrap();
            let mut sending = respond.send_response(answer, false).unwrap();
            // The check may be over with the headers.
            let _ = sending.send_data(text.into(), true);
            (seen, driver)
        });
        let result = ask(mine, probe, "http", "shop.example.com").await;
        let (seen, driver) = server.await.unwrap();
        driver.abort();
        (result, seen)
    }

    #[tokio::test]
    async fn h6_a_request_as_the_policy_says_and_its_answer_is_looked_at() {
        let probe = HttpProbe::get("/healthz");
        let (result, seen) = check(&probe, 200, "").await;
        assert_eq!((result, seen.as_str()), (Ok(()), "GET http://shop.example.com/healthz "));
        assert_eq!(check(&probe, 503, "").await.0, Err(CheckFailure::Status(503)));
        let probe = HttpProbe {
            method: "POST".to_owned(),
            request_body: Some(Payload::Text("ping".to_owned())),
            expected_response: Some(Payload::Text("pong".to_owned())),
            retriable_statuses: [503].into(),
            ..HttpProbe::get("/")
        };
        let (result, seen) = check(&probe, 200, "a pong").await;
        assert_eq!((result, seen.as_str()), (Ok(()), "POST http://shop.example.com/ ping"));
        assert_eq!(check(&probe, 200, "a ping").await.0, Err(CheckFailure::Response));
        assert_eq!(check(&probe, 503, "").await.0, Err(CheckFailure::RetriableStatus(503)));
    }
}
