//! How Pingora is told to reach an endpoint.
//!
//! Purpose: one place where an endpoint's address, its protocol, its TLS policy and the policy's settings of connections
//! become an [`HttpPeer`]. Inputs: a member of a pool, and the pool's settings. Outputs: the peer; what depends on the
//! attempt (its time limits) is added by the caller.

use std::time::Duration;

use pingora_core::protocols::l4::ext::TcpKeepalive;
use pingora_core::upstreams::peer::HttpPeer;
use understudy_conf::UpstreamProtocol;
use understudy_engine::{Address, Instant};

use super::age::Era;
use super::peer_tls::secure_peer;
use crate::upstream_tls::alpn_of;
use crate::world::PoolTable;

/// Builds the peer of a member. `None` where Pingora cannot express it, and where TLS is asked for and cannot be had:
/// never clear text in its place.
pub(super) fn build_peer(index: usize, table: &PoolTable, now: Instant) -> Option<Box<HttpPeer>> {
    let member = table.pool.members().get(index)?;
    let identity = &member.spec.identity;
    let mut peer = match &identity.tls {
        Some(tls) => {
            let policy = table.tls.get(member.reference)?.as_deref()?;
            secure_peer(&identity.address, tls, policy, alpn_of(identity.protocol))?
        }
        None => in_clear_text(&identity.address, identity.protocol)?,
    };
    set_connection(&mut peer, table);
    // A connection of HTTP/2 is made for the requests of other pools, too.
    if let Address::Socket(_) = identity.address
        && !speaks_h2(&peer)
    {
        peer.options.custom_l4 = table.connectors.of(index, member).map(|connecting| connecting as _);
    }
    // Connections of HTTP/2 know their age (see [`crate::upstream_h2`]).
    if let Some(longest) = table.limits.max_connection.filter(|_| !speaks_h2(&peer)) {
        let era = Era::of(&identity.address, longest, now);
        peer.group_key ^= era.group;
        let idle = peer.options.idle_timeout.unwrap_or(Duration::MAX);
        peer.options.idle_timeout = Some(idle.min(era.rest));
    }
    Some(peer)
}

/// HTTP/1.1 is what a peer has by itself. It is one or the other: connections of HTTP/2 are ours to make (see
/// [`crate::upstream_h2`]), and what could be both would be Pingora's.
fn in_clear_text(address: &Address, protocol: UpstreamProtocol) -> Option<Box<HttpPeer>> {
    let mut peer = match address {
        Address::Socket(address) => Box::new(HttpPeer::new(*address, false, String::new())),
        Address::Unix(path) => Box::new(HttpPeer::new_uds(path.to_str()?, false, String::new()).ok()?),
        Address::Udp(_) => return None,
    };
    match protocol {
        UpstreamProtocol::Http1 => {}
        UpstreamProtocol::H2c => peer.options.set_http_version(2, 2),
    }
    Some(peer)
}

/// Whether an endpoint is spoken to in HTTP/2.
pub(super) fn speaks_h2(peer: &HttpPeer) -> bool {
    peer.options.alpn.get_min_http_version() == 2
}

/// What the policy says of connections.
fn set_connection(peer: &mut HttpPeer, table: &PoolTable) {
    if !table.limits.connection_idle.is_zero() {
        peer.options.idle_timeout = Some(table.limits.connection_idle);
    }
    if let Some(keepalive) = table.tcp_keepalive {
        peer.options.tcp_keepalive = Some(keepalive_of(keepalive));
    }
}

/// How Pingora says when a silent connection is asked whether it still stands.
pub(crate) fn keepalive_of(keepalive: understudy_conf::TcpKeepalive) -> TcpKeepalive {
    TcpKeepalive {
        idle: keepalive.idle_time.into(),
        interval: keepalive.interval.into(),
        count: keepalive.probes as usize,
        #[cfg(target_os = "linux")]
        user_timeout: Duration::ZERO,
    }
}
