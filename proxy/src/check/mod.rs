//! Active checks on the wire: connect, ask, judge the answer.
//!
//! Inputs: an address, what is spoken there and what to ask. Outputs: a [`CheckResult`]. Each check has a connection of its own, so that
//! a listener that is closed is noticed though old connections live on. What is read is bounded, and so is the
//! time.

mod answer;
mod grpc;
mod http;
mod http2;
mod tcp;

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use understudy_conf::{ActiveProbe, UpstreamProtocol};
use understudy_engine::{Address, CheckFailure, CheckResult, CheckSpec, ConnectFailure};

/// Bytes of an answer that are read at most.
const ANSWER_LIMIT: usize = 64 * 1024;

/// Runs a check.
pub(crate) async fn run(address: &Address, protocol: UpstreamProtocol, spec: &CheckSpec) -> CheckResult {
    let asked = Box::pin(ask(address, protocol, spec));
    match tokio::time::timeout(spec.settings.timeout.into(), asked).await {
        Ok(Ok(())) => CheckResult::Passed,
        Ok(Err(failure)) => CheckResult::Failed(failure),
        Err(_elapsed) => CheckResult::Failed(CheckFailure::Timeout),
    }
}

async fn ask(address: &Address, protocol: UpstreamProtocol, spec: &CheckSpec) -> Result<(), CheckFailure> {
    match address {
        Address::Socket(address) => {
            let stream = TcpStream::connect(address).await.map_err(connect_failure)?;
            // Without it the check merely takes longer.
            let _ = stream.set_nodelay(true);
            converse(stream, protocol, spec).await
        }
        Address::Unix(path) => {
            let stream = UnixStream::connect(path).await.map_err(connect_failure)?;
            converse(stream, protocol, spec).await
        }
    }
}

async fn converse<S>(stream: S, protocol: UpstreamProtocol, spec: &CheckSpec) -> Result<(), CheckFailure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    match &spec.settings.probe {
        ActiveProbe::Http(probe) if protocol == UpstreamProtocol::H2c => {
            http2::ask(stream, probe, &spec.host).await
        }
        ActiveProbe::Http(probe) => http::ask(stream, probe, &spec.host).await,
        ActiveProbe::Tcp(probe) => tcp::ask(stream, probe).await,
        ActiveProbe::Grpc(probe) => grpc::ask(stream, probe, &spec.host).await,
    }
}

fn connect_failure(error: io::Error) -> CheckFailure {
    use io::ErrorKind as Kind;
    CheckFailure::Connect(match error.kind() {
        Kind::ConnectionRefused | Kind::NotFound => ConnectFailure::Refused,
        Kind::ConnectionReset | Kind::ConnectionAborted => ConnectFailure::Reset,
        Kind::TimedOut => ConnectFailure::TimedOut,
        Kind::NetworkUnreachable | Kind::HostUnreachable => ConnectFailure::Unreachable,
        _ => ConnectFailure::Other,
    })
}

/// Reads more. False at the end; an error of the connection is one.
async fn read_more<S: AsyncRead + Unpin>(stream: &mut S, bytes: &mut Vec<u8>) -> bool {
    matches!(stream.read_buf(bytes).await, Ok(count) if count > 0)
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || bytes.windows(wanted.len()).any(|window| window == wanted)
}
