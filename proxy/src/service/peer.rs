//! From an endpoint to Pingora's description of it.

use std::time::Duration;

use pingora_core::protocols::l4::ext::TcpKeepalive;
use pingora_core::upstreams::peer::HttpPeer;
use understudy_engine::{Address, Identity, Instant};

use super::age::Era;
use super::peer_tls::secure_peer;
use crate::upstream_tls::alpn_of;
use crate::world::PoolTable;

/// How to reach the endpoint of a member. `None` where Pingora cannot express it, and where TLS is asked for and
/// cannot be had: never clear text in its place.
pub(super) fn peer_of(identity: &Identity, table: &PoolTable, reference: usize) -> Option<Box<HttpPeer>> {
    if let Some(tls) = &identity.tls {
        let policy = table.tls.get(reference)?.as_deref()?;
        return secure_peer(&identity.address, tls, policy, alpn_of(identity.protocol));
    }
    match &identity.address {
        Address::Socket(address) => Some(Box::new(HttpPeer::new(*address, false, String::new()))),
        Address::Unix(path) => HttpPeer::new_uds(path.to_str()?, false, String::new()).ok().map(Box::new),
    }
}

/// Sets what a pool's policy says of its connections.
pub(super) fn set_options(peer: &mut HttpPeer, address: &Address, table: &PoolTable, now: Instant) {
    if !table.limits.connection_idle.is_zero() {
        peer.options.idle_timeout = Some(table.limits.connection_idle);
    }
    if let Some(longest) = table.limits.max_connection {
        let era = Era::of(address, longest, now);
        peer.group_key ^= era.group;
        let idle = peer.options.idle_timeout.unwrap_or(Duration::MAX);
        peer.options.idle_timeout = Some(idle.min(era.rest));
    }
    if let Some(keepalive) = table.tcp_keepalive {
        peer.options.tcp_keepalive = Some(TcpKeepalive {
            idle: keepalive.idle_time.into(),
            interval: keepalive.interval.into(),
            count: keepalive.probes as usize,
            #[cfg(target_os = "linux")]
            user_timeout: Duration::ZERO,
        });
    }
}
