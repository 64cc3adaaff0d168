//! Active checks on the wire: connect, ask, judge the answer.
//!
//! Inputs: an endpoint and what to ask. Outputs: a [`CheckResult`]. Each check has a connection of its own, so that
//! a listener that is closed is noticed though old connections live on. What is read is bounded, and so is the
//! time.

mod answer;
mod grpc;
mod http;
mod http2;
mod tcp;

use std::io;

use pingora_core::protocols::ALPN;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use understudy_conf::{ActiveProbe, UpstreamProtocol};
use understudy_engine::{Address, CheckFailure, CheckProbe, CheckResult, CheckSpec};

use crate::service::of_io;
use crate::upstream_tls::{TlsProber, alpn_of};

/// Bytes of an answer that are read at most.
const ANSWER_LIMIT: usize = 64 * 1024;

/// Rule H7: the header by which an endpoint says that it wants no traffic, in lower case.
pub(crate) const IMMEDIATE_FAIL: &str = "x-envoy-immediate-health-check-fail";

/// Runs a check, under the endpoint's TLS policy if it has one.
pub(crate) async fn run(probe: &CheckProbe, tls: &TlsProber) -> CheckResult {
    let asking = Box::pin(ask(probe, tls));
    match tokio::time::timeout(probe.spec().settings.timeout.into(), asking).await {
        Ok(Ok(())) => CheckResult::Passed,
        Ok(Err(failure)) => CheckResult::Failed(failure),
        Err(_elapsed) => CheckResult::Failed(CheckFailure::Timeout),
    }
}

async fn ask(probe: &CheckProbe, prober: &TlsProber) -> Result<(), CheckFailure> {
    let address = &probe.address();
    if let Some(tls) = probe.tls() {
        let alpn = match &probe.spec().settings.probe {
            ActiveProbe::Grpc(_) => ALPN::H2,
            ActiveProbe::Http(_) | ActiveProbe::Tcp(_) => alpn_of(probe.protocol()),
        };
        let stream = prober.connect(address, tls, alpn).await.map_err(CheckFailure::Connect)?;
        return converse(stream, probe, "https").await;
    }
    match address {
        Address::Socket(address) | Address::Udp(address) => {
            let stream = TcpStream::connect(address).await.map_err(connect_failure)?;
            // Without it the check merely takes longer.
            let _ = stream.set_nodelay(true);
            converse(stream, probe, "http").await
        }
        Address::Unix(path) => {
            converse(UnixStream::connect(path).await.map_err(connect_failure)?, probe, "http").await
        }
    }
}

async fn converse<S>(stream: S, asked: &CheckProbe, scheme: &str) -> Result<(), CheckFailure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let spec: &CheckSpec = asked.spec();
    match &spec.settings.probe {
        ActiveProbe::Http(probe) if asked.protocol() == UpstreamProtocol::H2c => {
            http2::ask(stream, probe, scheme, &spec.host).await
        }
        ActiveProbe::Http(probe) => http::ask(stream, probe, &spec.host).await,
        ActiveProbe::Tcp(probe) => tcp::ask(stream, probe).await,
        ActiveProbe::Grpc(probe) => grpc::ask(stream, probe, scheme, &spec.host).await,
    }
}

/// Waits for an answer over HTTP/2 while its connection is driven, which ends only when the endpoint ends it. What came
/// before the end counts.
async fn while_driven(
    call: impl Future<Output = Result<(), CheckFailure>>,
    connection: impl Future,
) -> Result<(), CheckFailure> {
    let mut call = std::pin::pin!(call);
    tokio::select! {
        biased;
        result = &mut call => return result,
        _ = connection => {}
    }
    call.await
}

fn connect_failure(error: io::Error) -> CheckFailure {
    CheckFailure::Connect(of_io(&error))
}

/// Reads more. False at the end; an error of the connection is one.
async fn read_more<S: AsyncRead + Unpin>(stream: &mut S, bytes: &mut Vec<u8>) -> bool {
    matches!(stream.read_buf(bytes).await, Ok(count) if count > 0)
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || bytes.windows(wanted.len()).any(|window| window == wanted)
}
