//! Peers over TLS.

use pingora_core::protocols::ALPN;
use pingora_core::upstreams::peer::HttpPeer;
use understudy_engine::{Address, TlsIdentity};

use crate::upstream_tls::UpstreamTls;

/// How to reach an address under a TLS policy, for a request or for a connection of the proxy's own. `None` where
/// Pingora cannot express it, or would verify nothing.
pub(crate) fn secure_peer(
    address: &Address,
    identity: &TlsIdentity,
    policy: &UpstreamTls,
    alpn: ALPN,
) -> Option<Box<HttpPeer>> {
    if identity.server_name.is_empty() {
        return None;
    }
    let name = identity.server_name.to_string();
    let mut peer = match address {
        Address::Socket(address) => HttpPeer::new(*address, true, name),
        Address::Unix(path) => HttpPeer::new_uds(path.to_str()?, true, name).ok()?,
        Address::Udp(_) => return None,
    };
    policy.secure(&mut peer, alpn);
    Some(Box::new(peer))
}
