//! A check by the standard health service of gRPC, over HTTP/2 (rule H6).

use bytes::{BufMut, Bytes, BytesMut};
use h2::RecvStream;
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request};
use tokio::io::{AsyncRead, AsyncWrite};
use understudy_conf::GrpcProbe;
use understudy_engine::CheckFailure;

use super::while_driven;

const PATH: &str = "/grpc.health.v1.Health/Check";
/// Flag and length before a message.
const PREFIX: usize = 5;
/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: u64 = 1;
/// A health answer has a few bytes; trailers and frames come on top.
const MESSAGE_LIMIT: usize = 4096;

pub(super) async fn ask<S>(stream: S, probe: &GrpcProbe, scheme: &str, host: &str) -> Result<(), CheckFailure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (client, connection) = h2::client::handshake(stream).await.map_err(closed)?;
    while_driven(call(client, probe, scheme, host), connection).await
}

async fn call(
    client: SendRequest<Bytes>,
    probe: &GrpcProbe,
    scheme: &str,
    host: &str,
) -> Result<(), CheckFailure> {
    let mut client = client.ready().await.map_err(closed)?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("{scheme}://{host}{PATH}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "understudy-health-check")
        .body(())
        .map_err(|_| CheckFailure::Protocol)?;
    let (answer, mut body) = client.send_request(request, false).map_err(closed)?;
    body.send_data(message(&probe.service), true).map_err(closed)?;
    let (head, body) = answer.await.map_err(closed)?.into_parts();
    if head.status != 200 {
        return Err(CheckFailure::Status(head.status.as_u16()));
    }
    expect_ok(&head.headers)?;
    let message = read_message(body).await?;
    if serving_status(&message) == Some(SERVING) { Ok(()) } else { Err(CheckFailure::Grpc(0)) }
}

async fn read_message(mut body: RecvStream) -> Result<Vec<u8>, CheckFailure> {
    let mut message = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(closed)?;
        body.flow_control().release_capacity(data.len()).map_err(closed)?;
        message.extend_from_slice(&data);
        if message.len() > MESSAGE_LIMIT {
            return Err(CheckFailure::Protocol);
        }
    }
    if let Some(trailers) = body.trailers().await.map_err(closed)? {
        expect_ok(&trailers)?;
    }
    Ok(message)
}

fn closed(_: h2::Error) -> CheckFailure {
    CheckFailure::Closed
}

/// A gRPC status, where there is one, must be OK.
fn expect_ok(headers: &HeaderMap) -> Result<(), CheckFailure> {
    let Some(status) = headers.get("grpc-status") else { return Ok(()) };
    match status.to_str().ok().and_then(|status| status.parse().ok()) {
        Some(0) => Ok(()),
        Some(status) => Err(CheckFailure::Grpc(status)),
        None => Err(CheckFailure::Protocol),
    }
}

/// `HealthCheckRequest { service }` as a gRPC message.
fn message(service: &str) -> Bytes {
    let mut field = BytesMut::new();
    if !service.is_empty() {
        field.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            field.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        field.put_u8(length as u8);
        field.put_slice(service.as_bytes());
    }
    let mut message = BytesMut::with_capacity(PREFIX + field.len());
    message.put_u8(0);
    message.put_u32(u32::try_from(field.len()).unwrap_or(u32::MAX));
    message.put_slice(&field);
    message.freeze()
}

/// `HealthCheckResponse.status`; `None` where the message is none. A field that is left out is UNKNOWN.
fn serving_status(message: &[u8]) -> Option<u64> {
    let (0, length) = (*message.first()?, message.get(1..PREFIX)?) else { return None };
    let length = u32::from_be_bytes(length.try_into().ok()?);
    let fields = message.get(PREFIX..PREFIX.checked_add(usize::try_from(length).ok()?)?)?;
    match fields {
        [] => Some(0),
        [0x08, value @ ..] => varint(value),
        _ => None,
    }
}

fn varint(bytes: &[u8]) -> Option<u64> {
    let mut value = 0;
    for (index, byte) in bytes.iter().enumerate().take(9) {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use http::Response;

    use super::*;

    /// Asks a server that answers with this body and this gRPC status; gives what the server was asked, too.
    async fn check(service: &str, status: &str, body: &'static [u8]) -> (Result<(), CheckFailure>, Vec<u8>) {
        let (mine, theirs) = tokio::io::duplex(1 << 16);
        let status = status.to_owned();
        let server = tokio::spawn(async move {
            let mut connection = h2::server::handshake(theirs).await.unwrap();
            let (request, mut respond) = connection.accept().await.unwrap().unwrap();
            assert_eq!(request.uri().path(), PATH);
            assert_eq!(request.uri().authority().unwrap(), "shop:50051");
            assert_eq!(request.headers()["content-type"], "application/grpc");
            let answer = async move {
                let asked = read_message(request.into_body()).await.unwrap();
                let head = Response::builder().header("content-type", "application/grpc");
                let mut stream = respond.send_response(head.body(()).unwrap(), false).unwrap();
                stream.send_data(body.into(), false).unwrap();
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", status.parse().unwrap());
                stream.send_trailers(trailers).unwrap();
                asked
            };
            let (asked, _) = tokio::join!(answer, async { while connection.accept().await.is_some() {} });
            asked
        });
        let result = ask(mine, &GrpcProbe { service: service.to_owned() }, "http", "shop:50051").await;
        (result, server.await.unwrap())
    }

    #[tokio::test]
    async fn h6_a_service_that_serves_passes() {
        let (result, asked) = check("shop", "0", &[0, 0, 0, 0, 2, 8, 1]).await;
        assert_eq!(result, Ok(()));
        assert_eq!(asked, [&[0, 0, 0, 0, 6, 0x0a, 4][..], b"shop"].concat());
        let (result, asked) = check("", "0", &[0, 0, 0, 0, 2, 8, 1]).await;
        assert_eq!((result, asked), (Ok(()), vec![0; PREFIX]));
    }

    #[tokio::test]
    async fn a_service_that_does_not_serve_fails() {
        let not_serving = check("", "0", &[0, 0, 0, 0, 2, 8, 2]).await.0;
        assert_eq!(not_serving, Err(CheckFailure::Grpc(0)));
        assert_eq!(check("", "0", &[0, 0, 0, 0, 0]).await.0, Err(CheckFailure::Grpc(0)), "UNKNOWN");
        assert_eq!(check("none", "5", &[]).await.0, Err(CheckFailure::Grpc(5)), "NOT_FOUND");
    }

    #[tokio::test]
    async fn an_endpoint_that_speaks_no_http2_fails() {
        let (mine, mut theirs) = tokio::io::duplex(1 << 16);
        tokio::io::AsyncWriteExt::write_all(&mut theirs, b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        assert_eq!(ask(mine, &GrpcProbe::default(), "http", "a").await, Err(CheckFailure::Closed));
    }

    #[test]
    fn long_names_and_odd_messages_are_no_trouble() {
        let long = message(&"s".repeat(300));
        assert_eq!(long[PREFIX..PREFIX + 3], [0x0a, 0xac, 0x02]);
        for odd in [&[][..], &[1, 0, 0, 0, 0], &[0, 255, 255, 255, 255, 8], &[0, 0, 0, 0, 1, 8], &[0; 4]] {
            assert_eq!(serving_status(odd), None, "{odd:?}");
        }
        assert_eq!(serving_status(&[0, 0, 0, 0, 3, 8, 0x80, 1]), Some(128));
    }
}
