//! A check by a connection, with optional bytes (rule H6).

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use understudy_conf::TcpProbe;
use understudy_engine::CheckFailure;

use super::{ANSWER_LIMIT, contains, read_more};

pub(super) async fn ask<S>(mut stream: S, probe: &TcpProbe) -> Result<(), CheckFailure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if let Some(send) = &probe.send {
        stream.write_all(send.as_bytes()).await.map_err(|_| CheckFailure::Closed)?;
    }
    let Some(wanted) = &probe.receive else { return Ok(()) };
    let mut bytes = Vec::new();
    while !contains(&bytes, wanted.as_bytes()) {
        if bytes.len() >= ANSWER_LIMIT {
            return Err(CheckFailure::Protocol);
        }
        if !read_more(&mut stream, &mut bytes).await {
            return Err(CheckFailure::Closed);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use understudy_conf::Payload;

    use super::*;

    async fn check(probe: &TcpProbe, answer: &[u8]) -> (Result<(), CheckFailure>, Vec<u8>) {
        let (mine, mut theirs) = tokio::io::duplex(1 << 20);
        theirs.write_all(answer).await.unwrap();
        theirs.shutdown().await.unwrap();
        let result = ask(mine, probe).await;
        let mut sent = Vec::new();
        theirs.read_to_end(&mut sent).await.unwrap();
        (result, sent)
    }

    #[tokio::test]
    async fn h6_a_connection_is_enough_where_nothing_is_to_be_received() {
        assert_eq!(check(&TcpProbe::default(), b"").await, (Ok(()), Vec::new()));
    }

    #[tokio::test]
    async fn h6_what_is_sent_and_what_must_come_back() {
        let probe = TcpProbe {
            send: Some(Payload::Text("PING".to_owned())),
            receive: Some(Payload::Binary(vec![0xff, 0x01])),
        };
        assert_eq!(check(&probe, &[7, 0xff, 0x01, 9]).await, (Ok(()), b"PING".to_vec()));
        assert_eq!(check(&probe, &[7, 0xff]).await.0, Err(CheckFailure::Closed));
        assert_eq!(check(&probe, &[7; 2 * ANSWER_LIMIT]).await.0, Err(CheckFailure::Protocol));
    }
}
