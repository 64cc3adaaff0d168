//! The target guard: which addresses no endpoint may have.
//!
//! Purpose: whoever may write a Backend must not reach through the proxy what only the proxy's own machine, the cloud
//! or the cluster's control plane should reach. Inputs: the state's [`Guard`]s, the admin address, and each address
//! after it was resolved. Outputs: why it is refused, if it is. Decided when addresses are set, never per request:
//! what is refused is no endpoint. Pure, but for the question whether an address is this machine's.

mod embedded;
mod reserved;
mod said;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use understudy_conf::{Guard, Network};
use understudy_engine::Address;

pub(crate) use said::{RefusalLog, degraded};

/// Judges addresses. Without a [`Guard`] in the state it lets everything pass.
pub(crate) struct TargetGuard {
    /// `None`: nothing is refused.
    rules: Option<Rules>,
}

struct Rules {
    /// Targets of one address, which may be as many as the cluster has nodes.
    single: HashMap<IpAddr, Vec<Denied>>,
    networks: Vec<(Network, Denied)>,
    reserved: Vec<(Network, Denied)>,
    /// Not reserved after all.
    allowed: Vec<Network>,
    unix_folders: Vec<PathBuf>,
    admin: Option<SocketAddr>,
    is_own: fn(IpAddr) -> bool,
}

#[derive(Clone)]
struct Denied {
    what: Arc<str>,
    /// Empty: all.
    ports: Arc<[u16]>,
}

impl Denied {
    fn covers(&self, port: u16) -> bool {
        self.ports.is_empty() || self.ports.contains(&port)
    }
}

impl TargetGuard {
    /// A guard of these rules. `admin` is where this proxy's own admin server listens.
    pub(crate) fn build<'a>(guards: impl Iterator<Item = &'a Guard>, admin: Option<SocketAddr>) -> Self {
        Self::build_with(guards, admin, is_own_address)
    }

    fn build_with<'a>(
        guards: impl Iterator<Item = &'a Guard>,
        admin: Option<SocketAddr>,
        is_own: fn(IpAddr) -> bool,
    ) -> Self {
        let mut rules: Option<Rules> = None;
        for guard in guards {
            let rules = rules.get_or_insert_with(|| Rules {
                single: HashMap::new(),
                networks: Vec::new(),
                reserved: reserved(),
                allowed: Vec::new(),
                unix_folders: Vec::new(),
                admin,
                is_own,
            });
            rules.unix_folders.extend(guard.unix_folder.clone());
            rules.allowed.extend(&guard.allow);
            for targets in &guard.deny {
                let denied =
                    Denied { what: targets.what.as_str().into(), ports: targets.ports.as_slice().into() };
                for network in &targets.networks {
                    match network.single() {
                        Some(address) => {
                            rules.single.entry(address.to_canonical()).or_default().push(denied.clone());
                        }
                        None => rules.networks.push((*network, denied.clone())),
                    }
                }
            }
        }
        Self { rules }
    }

    /// Why nothing may be sent to an address; `None`: it may.
    pub(crate) fn refusal(&self, address: &Address) -> Option<String> {
        let rules = self.rules.as_ref()?;
        match address {
            Address::Socket(socket) | Address::Udp(socket) => rules.refuse_socket(*socket),
            Address::Unix(path) => rules.refuse_path(path),
        }
    }
}

fn reserved() -> Vec<(Network, Denied)> {
    let all: Arc<[u16]> = Arc::default();
    let rows = reserved::RESERVED.iter().filter_map(|(network, what)| {
        // A test proves that every row is a network.
        Some((network.parse().ok()?, Denied { what: (*what).into(), ports: all.clone() }))
    });
    rows.collect()
}

impl Rules {
    fn refuse_socket(&self, socket: SocketAddr) -> Option<String> {
        if let Some(what) = self.refuse_address(socket.ip(), socket.port()) {
            return Some(what.to_string());
        }
        // An address of IPv6 that stands for one of IPv4 is refused as that one.
        embedded::v4_in(socket.ip()).into_iter().find_map(|inner| {
            let what = self.refuse_address(inner.into(), socket.port())?;
            Some(format!("{what}: it stands for {inner}"))
        })
    }

    fn refuse_address(&self, address: IpAddr, port: u16) -> Option<Arc<str>> {
        if self.is_admin(address, port) {
            return Some("this proxy's own admin address".into());
        }
        let is_allowed = self.allowed.iter().any(|network| network.contains(address));
        let reserved = self.reserved.iter().filter(|_| !is_allowed);
        let networks = self.networks.iter().chain(reserved).filter(|(network, _)| network.contains(address));
        let single = self.single.get(&address).into_iter().flatten();
        let mut denied = single.chain(networks.map(|(_, denied)| denied));
        denied.find(|denied| denied.covers(port)).map(|denied| denied.what.clone())
    }

    fn is_admin(&self, address: IpAddr, port: u16) -> bool {
        let Some(admin) = self.admin.filter(|admin| admin.port() == port) else { return false };
        // Where it listens on every address, each address of this machine is one.
        admin.ip().to_canonical() == address || (admin.ip().is_unspecified() && (self.is_own)(address))
    }

    fn refuse_path(&self, path: &Path) -> Option<String> {
        let plain = path.is_absolute() && path.components().all(|part| part != Component::ParentDir);
        let inside = |folder: &PathBuf| path.starts_with(folder) && path != folder;
        if plain && self.unix_folders.iter().any(inside) {
            return None;
        }
        Some(match self.unix_folders.first() {
            Some(folder) => format!("a Unix socket outside of {}", folder.display()),
            None => "a Unix socket, and no folder is allowed for them".to_owned(),
        })
    }
}

/// Whether this machine has an address: only then can a socket be bound to it.
fn is_own_address(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}
