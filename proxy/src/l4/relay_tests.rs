use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;

use super::*;

struct Lab {
    client: DuplexStream,
    endpoint: DuplexStream,
    /// How often the endpoint was proven.
    proven: std::sync::Arc<AtomicUsize>,
    relay: JoinHandle<Relayed>,
}

fn lab(ahead: &[u8], idle: Option<u64>, proof: Option<u64>) -> Lab {
    let (client, mut of_client) = duplex(64);
    let (endpoint, mut of_endpoint) = duplex(64);
    let proven = std::sync::Arc::new(AtomicUsize::new(0));
    let (ahead, counter) = (ahead.to_vec(), proven.clone());
    let limits = RelayLimits { idle: idle.map(Duration::from_secs), proof: proof.map(Duration::from_secs) };
    let relay = tokio::spawn(async move {
        let proven = move || {
            counter.fetch_add(1, Ordering::SeqCst);
        };
        relay(&mut of_client, &mut of_endpoint, ahead, limits, proven).await
    });
    Lab { client, endpoint, proven, relay }
}

impl Lab {
    fn proven(&self) -> usize {
        self.proven.load(Ordering::SeqCst)
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_read_before_goes_first_and_every_byte_once() {
    let mut lab = lab(b"hello ", Some(60), None);
    let sent: Vec<u8> = (0..100_000_u32).map(|at| (at % 251) as u8).collect();
    let expected = [b"hello ", &*sent].concat();
    let (mut reader, mut writer) = tokio::io::split(lab.client);
    let writing = tokio::spawn(async move {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let mut got = Vec::new();
    lab.endpoint.read_to_end(&mut got).await.unwrap();
    assert!(got == expected);
    // The other direction goes on.
    lab.endpoint.write_all(b"answer").await.unwrap();
    lab.endpoint.shutdown().await.unwrap();
    let mut answer = Vec::new();
    reader.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"answer");
    writing.await.unwrap();
    let relayed = lab.relay.await.unwrap();
    assert_eq!(relayed, Relayed { received: 100_006, sent: 6, end: RelayEnd::Done });
}

#[tokio::test(start_paused = true)]
async fn it_ends_exactly_when_nothing_has_moved_for_so_long() {
    let begun = Instant::now();
    let mut lab = lab(b"", Some(60), None);
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(50)).await;
        lab.client.write_all(b"x").await.unwrap();
        lab.endpoint.read_u8().await.unwrap();
    }
    assert_eq!(lab.relay.await.unwrap().end, RelayEnd::Idle);
    let lasted = begun.elapsed().as_millis();
    assert!((210_000..=210_050).contains(&lasted), "{lasted} ms");
}

#[tokio::test(start_paused = true)]
async fn without_a_limit_it_lasts() {
    let lab = lab(b"", None, Some(3));
    tokio::time::sleep(Duration::from_secs(86_400)).await;
    assert!(!lab.relay.is_finished());
}

#[tokio::test(start_paused = true)]
async fn the_endpoints_first_byte_proves_it_once() {
    let mut lab = lab(b"", Some(60), Some(10));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(lab.proven(), 0);
    for _ in 0..2 {
        lab.endpoint.write_all(b"x").await.unwrap();
        lab.client.read_u8().await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(lab.proven(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_silent_endpoint_is_proven_by_time_or_by_its_end() {
    let silent = lab(b"", Some(60), Some(10));
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert_eq!(silent.proven(), 0);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(silent.proven(), 1);
    let mut ends = lab(b"", Some(60), Some(10));
    ends.client.shutdown().await.unwrap();
    ends.endpoint.shutdown().await.unwrap();
    assert_eq!((&mut ends.relay).await.unwrap().end, RelayEnd::Done);
    assert_eq!(ends.proven(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_broke_is_told_apart() {
    let mut lab_of_client = lab(b"", Some(60), None);
    drop(lab_of_client.client);
    // A dropped end is one that is closed; writing to it breaks.
    lab_of_client.endpoint.write_all(&[0; 200]).await.unwrap_or_default();
    assert_eq!(lab_of_client.relay.await.unwrap().end, RelayEnd::Client);
    let mut lab_of_endpoint = lab(b"", Some(60), None);
    drop(lab_of_endpoint.endpoint);
    lab_of_endpoint.client.write_all(&[0; 200]).await.unwrap_or_default();
    assert_eq!(lab_of_endpoint.relay.await.unwrap().end, RelayEnd::Endpoint);
    assert_eq!(lab_of_endpoint.proven.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn what_an_endpoint_said_before_it_broke_arrives_whole() {
    let mut lab = lab(b"", Some(60), None);
    lab.endpoint.write_all(&[7; 150]).await.unwrap();
    drop(lab.endpoint);
    // The client has read nothing yet, and says something that the endpoint takes no more.
    lab.client.write_all(b"x").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut got = Vec::new();
    lab.client.read_to_end(&mut got).await.unwrap();
    assert_eq!(got.len(), 150);
    assert_eq!(lab.relay.await.unwrap(), Relayed { received: 0, sent: 150, end: RelayEnd::Endpoint });
}

#[tokio::test(start_paused = true)]
async fn what_a_client_said_before_it_broke_arrives_whole() {
    let mut lab = lab(b"", Some(60), None);
    lab.client.write_all(&[7; 150]).await.unwrap();
    drop(lab.client);
    lab.endpoint.write_all(b"x").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut got = Vec::new();
    lab.endpoint.read_to_end(&mut got).await.unwrap();
    assert_eq!(got.len(), 150);
    assert_eq!(lab.relay.await.unwrap(), Relayed { received: 150, sent: 0, end: RelayEnd::Client });
}

/// Where a stream would end, it is reset.
struct Resets(DuplexStream);

impl AsyncRead for Resets {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.0).poll_read(cx, into))?;
        let is_reset = into.filled().len() == before;
        Poll::Ready(if is_reset { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) })
    }
}

impl AsyncWrite for Resets {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn what_came_before_a_reset_is_not_left_in_a_buffer_of_tls() {
    let (mut endpoint, of_endpoint) = duplex(64);
    let (mut client, of_client) = duplex(64);
    endpoint.write_all(b"the last word").await.unwrap();
    drop(endpoint);
    // As TLS does, it keeps what is written to it until it is flushed.
    let mut buffered = tokio::io::BufStream::new(of_client);
    let limits = RelayLimits { idle: Some(Duration::from_secs(60)), proof: None };
    let relayed = relay(&mut buffered, &mut Resets(of_endpoint), Vec::new(), limits, || {}).await;
    assert_eq!(relayed, Relayed { received: 0, sent: 13, end: RelayEnd::Endpoint });
    drop(buffered);
    let mut got = String::new();
    client.read_to_string(&mut got).await.unwrap();
    assert_eq!(got, "the last word");
}
