//! How Pingora is told to reach an endpoint.
//!
//! Purpose: one place where an endpoint's address, its protocol and the policy's settings of connections become an
//! [`HttpPeer`]. Inputs: a member of a pool, and the pool's settings. Outputs: the peer; what depends on the attempt
//! (its time limits) is added by the caller.

use std::time::Duration;

use pingora_core::protocols::l4::ext::TcpKeepalive;
use pingora_core::upstreams::peer::HttpPeer;
use understudy_engine::{Address, MemberSpec};

use crate::world::PoolTable;

/// Builds the peer of a member; `None` if its address cannot be used.
pub(super) fn build_peer(member: &MemberSpec, table: &PoolTable) -> Option<Box<HttpPeer>> {
    let mut peer = peer_of(&member.identity.address)?;
    set_connection(&mut peer, table);
    Some(peer)
}

fn peer_of(address: &Address) -> Option<Box<HttpPeer>> {
    match address {
        Address::Socket(address) => Some(Box::new(HttpPeer::new(*address, false, String::new()))),
        Address::Unix(path) => HttpPeer::new_uds(path.to_str()?, false, String::new()).ok().map(Box::new),
    }
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
