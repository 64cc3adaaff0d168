//! Listeners that end TLS: which configuration a connection gets.
//!
//! Purpose: find, by socket and the name in the ClientHello, what a handshake goes on with. Inputs: the gateways
//! and certificates of a [`State`]. Outputs: a [`TlsTable`], swapped in at once; what did not change keeps its
//! configuration, so that clients can resume their sessions. A connection keeps what it began with.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring::{Ticketer, default_provider};
use understudy_conf::{Certificate, GatewayName, Hostname, Listener, ListenerName, Protocol, State};

use super::certificates::{CertificateChoice, load_certificate};

/// What is offered to clients, the better one first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Every socket that speaks TLS.
#[derive(Debug, Default)]
pub struct TlsTable {
    sockets: HashMap<SocketAddr, SocketTls>,
    listeners: HashMap<(GatewayName, ListenerName), ListenerConfig>,
    /// What could not act, for the acknowledgement.
    pub degraded: Vec<String>,
}

/// A listener's configuration, and what it was built from.
#[derive(Debug, Clone)]
struct ListenerConfig {
    certificates: Vec<Arc<Certificate>>,
    config: Arc<ServerConfig>,
}

/// A listener's configuration; `None` where it has none and its clients are refused.
type Config = Option<Arc<ServerConfig>>;

/// The listeners of one socket by the names that they serve. It is there even if none of them can be served: what
/// was to be secret must never be spoken in clear text.
#[derive(Debug, Default)]
pub(super) struct SocketTls {
    exact: HashMap<Box<str>, Config>,
    /// By what stands behind `*.`.
    wildcard: HashMap<Box<str>, Config>,
    any: Option<Config>,
}

impl TlsTable {
    /// Builds the table of a state. A listener whose certificates cannot be loaded keeps those that it had.
    #[must_use]
    pub fn build(state: &State, before: &Self) -> Self {
        let mut table = Self::default();
        for gateway in state.gateways.values() {
            let https = gateway.listeners.iter().filter(|listener| listener.protocol == Protocol::Https);
            for listener in https {
                let key = (gateway.name.clone(), listener.name.clone());
                let known = before.listeners.get(&key);
                let built = table.build_listener(state, &gateway.name, listener, known);
                for address in &listener.bind {
                    let socket = table.sockets.entry(*address).or_default();
                    let config = built.as_ref().map(|built| Arc::clone(&built.config));
                    socket.insert(listener.hostname.as_ref(), config);
                }
                table.listeners.extend(built.map(|built| (key, built)));
            }
        }
        table
    }

    fn build_listener(
        &mut self,
        state: &State,
        gateway: &GatewayName,
        listener: &Listener,
        before: Option<&ListenerConfig>,
    ) -> Option<ListenerConfig> {
        let names = listener.tls.iter().flat_map(|tls| &tls.certificates);
        let certificates: Vec<_> = names.filter_map(|name| state.certificates.get(name)).cloned().collect();
        let same = |known: &&ListenerConfig| {
            known.certificates.len() == certificates.len()
                && known.certificates.iter().zip(&certificates).all(|(a, b)| Arc::ptr_eq(a, b))
        };
        if let Some(known) = before.filter(same) {
            return Some(known.clone());
        }
        let mut loaded = Vec::new();
        for certificate in &certificates {
            match load_certificate(certificate) {
                Ok(key) => loaded.push(key),
                Err(error) => self.degraded.push(format!(
                    "listener {} of {gateway} does not show {}: {error}",
                    listener.name, certificate.name
                )),
            }
        }
        if loaded.is_empty() {
            let what = if before.is_some() { "shows what it showed before" } else { "refuses its clients" };
            self.degraded.push(format!(
                "listener {} of {gateway} has no certificate that can be used, so it {what}",
                listener.name
            ));
            return before.cloned();
        }
        match build_config(CertificateChoice::new(loaded)) {
            Ok(config) => Some(ListenerConfig { certificates, config: Arc::new(config) }),
            Err(error) => {
                self.degraded.push(format!("listener {} of {gateway} has no TLS: {error}", listener.name));
                before.cloned()
            }
        }
    }

    /// What speaks TLS on a socket, by the address that was asked for; `None` where it speaks clear text.
    pub(super) fn socket(&self, bound: &SocketAddr) -> Option<&SocketTls> {
        self.sockets.get(bound)
    }
}

impl SocketTls {
    /// As in the router, the first listener keeps its hostname.
    fn insert(&mut self, hostname: Option<&Hostname>, config: Config) {
        match hostname.map(|hostname| (hostname.as_str(), hostname.wildcard_suffix())) {
            None => {
                self.any.get_or_insert(config);
            }
            Some((_, Some(suffix))) => {
                self.wildcard.entry(suffix.into()).or_insert(config);
            }
            Some((name, None)) => {
                self.exact.entry(name.into()).or_insert(config);
            }
        }
    }

    /// The configuration for a name in lower case: the exact one, then the longest wildcard, then the listener
    /// without a hostname, which also serves clients that name none.
    pub(super) fn find(&self, name: Option<&str>) -> Option<&Arc<ServerConfig>> {
        let named = name.and_then(|name| {
            let wildcard = || {
                let mut rest = name;
                std::iter::from_fn(|| {
                    rest = rest.split_once('.')?.1;
                    Some(rest)
                })
                .find_map(|suffix| self.wildcard.get(suffix))
            };
            self.exact.get(name).or_else(wildcard)
        });
        named.or(self.any.as_ref())?.as_ref()
    }
}

fn build_config(certificates: CertificateChoice) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = PROTOCOLS.iter().map(|protocol| protocol.to_vec()).collect();
    // Sessions are resumed from what the client keeps, so that nothing grows here with their number.
    config.ticketer = Ticketer::new()?;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 1;
    Ok(config)
}
