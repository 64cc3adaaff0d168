//! A connection to an endpoint: over TCP, a Unix socket, or TLS on either.

use std::io;
use std::pin::pin;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use understudy_engine::{Address, ConnectFailure, Member};

use crate::service::of_io;
use crate::upstream_tls::{TlsProber, alpn_of};
use crate::world::PoolTable;

/// How often a connection that takes long is asked whether it is still wanted.
const LOOK: Duration = Duration::from_millis(100);

/// A connection to an endpoint.
pub(super) trait Endpoint: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Endpoint for T {}

/// Connects to a member of a pool, as long as it is one. With `secure` its TLS policy is followed, if it has one; the
/// stream of a client that speaks TLS with the endpoint itself goes as it came. The caller bounds the time.
pub(super) async fn connect(
    member: &Member,
    table: &PoolTable,
    tls: &TlsProber,
    secure: bool,
) -> Result<Box<dyn Endpoint>, ConnectFailure> {
    let departure = member.departure();
    let mut connecting = pin!(dial(member, table, tls, secure));
    loop {
        match timeout(LOOK, &mut connecting).await {
            Ok(connected) => return connected,
            // A pod that ended neither accepts nor refuses.
            Err(_) if departure.has_left() => return Err(ConnectFailure::Left),
            Err(_) => {}
        }
    }
}

async fn dial(
    member: &Member,
    table: &PoolTable,
    tls: &TlsProber,
    secure: bool,
) -> Result<Box<dyn Endpoint>, ConnectFailure> {
    let identity = &member.spec.identity;
    if let Some(policy) = identity.tls.as_ref().filter(|_| secure) {
        let alpn = alpn_of(identity.protocol);
        let stream = tls.connect_for_long(&identity.address, policy, alpn, table.tcp_keepalive).await?;
        return Ok(Box::new(stream));
    }
    let failed = |error: io::Error| of_io(&error);
    match &identity.address {
        Address::Socket(address) => {
            let stream = TcpStream::connect(address).await.map_err(failed)?;
            // Without either it merely works less well.
            let _ = stream.set_nodelay(true);
            if let Some(keepalive) = table.tcp_keepalive {
                let settings = TcpKeepalive::new()
                    .with_time(keepalive.idle_time.into())
                    .with_interval(keepalive.interval.into())
                    .with_retries(keepalive.probes);
                let _ = SockRef::from(&stream).set_tcp_keepalive(&settings);
            }
            Ok(Box::new(stream))
        }
        Address::Unix(path) => Ok(Box::new(UnixStream::connect(path).await.map_err(failed)?)),
        Address::Udp(_) => Err(ConnectFailure::Other),
    }
}
