//! How Pingora is told to reach an endpoint.
//!
//! Purpose: one place where an endpoint's address, its protocol and the policy's settings of connections become an
//! [`HttpPeer`]. Inputs: a member of a pool, and the pool's settings. Outputs: the peer; what depends on the attempt
//! (its time limits) is added by the caller.

use std::time::Duration;

use pingora_core::protocols::l4::ext::TcpKeepalive;
use pingora_core::upstreams::peer::HttpPeer;
use understudy_conf::UpstreamProtocol;
use understudy_engine::{Address, MemberSpec};

use crate::world::PoolTable;

/// Builds the peer of a member; `None` if its address cannot be used.
pub(super) fn build_peer(member: &MemberSpec, table: &PoolTable) -> Option<Box<HttpPeer>> {
    let mut peer = peer_of(&member.identity.address)?;
    set_protocol(&mut peer, member.identity.protocol);
    set_connection(&mut peer, table);
    Some(peer)
}

fn peer_of(address: &Address) -> Option<Box<HttpPeer>> {
    match address {
        Address::Socket(address) => Some(Box::new(HttpPeer::new(*address, false, String::new()))),
        Address::Unix(path) => HttpPeer::new_uds(path.to_str()?, false, String::new()).ok().map(Box::new),
    }
}

/// HTTP/1.1 is what a peer has by itself. It is one or the other: connections of HTTP/2 are ours to make (see
/// [`crate::upstream_h2`]), and what could be both would be Pingora's.
fn set_protocol(peer: &mut HttpPeer, protocol: UpstreamProtocol) {
    match protocol {
        UpstreamProtocol::Http1 => {}
        UpstreamProtocol::H2c => peer.options.set_http_version(2, 2),
    }
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
        peer.options.tcp_keepalive = Some(TcpKeepalive {
            idle: keepalive.idle_time.into(),
            interval: keepalive.interval.into(),
            count: keepalive.probes as usize,
            #[cfg(target_os = "linux")]
            user_timeout: Duration::ZERO,
        });
    }
}
