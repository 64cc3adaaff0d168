//! Listeners of TLS: which configuration a connection gets, and whether it gets one.
//!
//! Purpose: find, by socket and the name in the ClientHello, what a handshake goes on with. Inputs: the gateways
//! and certificates of a [`State`]. Outputs: a [`TlsTable`], swapped in at once; what did not change keeps its
//! configuration, so that clients can resume their sessions. A connection keeps what it began with.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring::{Ticketer, default_provider};
use rustls::server::danger::ClientCertVerifier;
use understudy_conf::{
    CaBundle, Certificate, ClientValidationMode, GatewayName, Hostname, Listener, ListenerName, Protocol,
    State, TlsMode,
};

use super::certificates::{CertificateChoice, load_certificate};
use super::clients::build_verifier;
use super::raw::TlsListener;

/// What is offered to clients of HTTPS, the better one first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Every socket that speaks something else than HTTP in clear text.
#[derive(Debug, Default)]
pub struct TlsTable {
    sockets: HashMap<SocketAddr, SocketTls>,
    /// Sockets of which the bytes are nobody's business, unless they speak TLS, too.
    tcp: HashSet<SocketAddr>,
    listeners: HashMap<(GatewayName, ListenerName), ListenerConfig>,
    /// What could not act, for the acknowledgement.
    pub degraded: Vec<String>,
}

/// A listener's configuration, and what it was built from.
#[derive(Debug, Clone)]
struct ListenerConfig {
    certificates: Vec<Arc<Certificate>>,
    /// With HTTP inside.
    http: bool,
    authorities: Option<Authorities>,
    terms: Arc<Terms>,
}

/// What a socket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spoken {
    /// HTTP in clear text.
    Http,
    /// TLS. `passes`: some of it is passed through as it came.
    Tls { passes: bool },
    /// Anything.
    Tcp,
}

/// What becomes of the clients of one listener.
#[derive(Debug, Clone)]
pub(super) struct Chosen {
    /// `None` where it has none: its clients are refused, unless they are passed through.
    pub(super) terms: Option<Arc<Terms>>,
    /// `None`: HTTP is inside.
    pub(super) raw: Option<Arc<TlsListener>>,
}

/// What clients' certificates are verified by.
#[derive(Debug, Clone)]
struct Authorities {
    bundles: Vec<Arc<CaBundle>>,
    mode: ClientValidationMode,
}

impl Authorities {
    fn of(state: &State, listener: &Listener) -> Option<Self> {
        let validation = listener.tls.as_ref()?.client_validation.as_ref()?;
        let bundles = validation.bundles.iter().filter_map(|name| state.ca_bundles.get(name)).cloned();
        Some(Self { bundles: bundles.collect(), mode: validation.mode })
    }

    fn is_same(&self, other: &Self) -> bool {
        self.mode == other.mode && are_same(&self.bundles, &other.bundles)
    }
}

fn are_same<T>(some: &[Arc<T>], others: &[Arc<T>]) -> bool {
    some.len() == others.len() && some.iter().zip(others).all(|(a, b)| Arc::ptr_eq(a, b))
}

/// What a handshake goes on with.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) config: Arc<ServerConfig>,
    /// What a client has proved that got through the handshake, if anything (see
    /// [`understudy_conf::ListenerTls::client_demand`]).
    pub(super) demand: Option<String>,
}

/// The listeners of one socket by the names that they serve. It is there even if none of them can be served: what
/// was to be secret must never be spoken in clear text.
#[derive(Debug, Default)]
pub(super) struct SocketTls {
    exact: HashMap<Box<str>, Chosen>,
    /// By what stands behind `*.`.
    wildcard: HashMap<Box<str>, Chosen>,
    any: Option<Chosen>,
    /// Some listener passes TLS through.
    passes: bool,
}

impl TlsTable {
    /// Builds the table of a state. A listener whose certificates cannot be loaded keeps those that it had, as long as it
    /// asks the same of clients as before. What is asked is never less than what the state says: a listener whose clients
    /// cannot be verified has none.
    #[must_use]
    pub fn build(state: &State, before: &Self) -> Self {
        let mut table = Self::default();
        for gateway in state.gateways.values() {
            let of_tls = gateway.listeners.iter().filter(|listener| is_tls(listener));
            for listener in of_tls {
                let key = (gateway.name.clone(), listener.name.clone());
                let known = before.listeners.get(&key);
                let raw = raw_listener(&gateway.name, listener);
                let built = match &raw {
                    Some(raw) if raw.passthrough => None,
                    _ => table.build_listener(state, &gateway.name, listener, known),
                };
                for address in &listener.bind {
                    let terms = built.as_ref().map(|built| Arc::clone(&built.terms));
                    let chosen = Chosen { terms, raw: raw.clone() };
                    let socket = table.sockets.entry(*address).or_default();
                    socket.insert(listener.hostname.as_ref(), chosen);
                }
                table.listeners.extend(built.map(|built| (key, built)));
            }
        }
        let all = state.gateways.values().flat_map(|gateway| &gateway.listeners);
        let of_tcp = all.filter(|listener| listener.protocol == Protocol::Tcp);
        table.tcp = of_tcp.flat_map(|listener| listener.bind.iter().copied()).collect();
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
        let authorities = Authorities::of(state, listener);
        let http = listener.protocol == Protocol::Https;
        let asks_the_same = |known: &&ListenerConfig| match (&known.authorities, &authorities) {
            _ if known.http != http => false,
            (None, None) => true,
            (Some(known), Some(now)) => known.is_same(now),
            _ => false,
        };
        let before = before.filter(asks_the_same);
        if let Some(known) = before.filter(|known| are_same(&known.certificates, &certificates)) {
            return Some(known.clone());
        }
        let clients =
            authorities.as_ref().map(|known| build_verifier(&known.bundles, known.mode)).transpose();
        let clients = match clients {
            Ok(clients) => clients,
            Err(error) => {
                self.degraded.push(format!(
                    "listener {} of {gateway} cannot verify its clients, so it refuses them: {error}",
                    listener.name
                ));
                return None;
            }
        };
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
        match build_config(CertificateChoice::new(loaded), clients, http) {
            Ok(config) => {
                let demand = listener.tls.as_ref().and_then(|tls| tls.client_demand());
                let terms = Arc::new(Terms { config: Arc::new(config), demand });
                Some(ListenerConfig { certificates, http, authorities, terms })
            }
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

    /// What a socket speaks, by the address that was asked for.
    pub(super) fn spoken(&self, bound: &SocketAddr) -> Spoken {
        match self.sockets.get(bound) {
            Some(tls) => Spoken::Tls { passes: tls.passes },
            None if !self.tcp.is_empty() && self.tcp.contains(bound) => Spoken::Tcp,
            None => Spoken::Http,
        }
    }
}

impl SocketTls {
    /// As in the router, the first listener keeps its hostname.
    fn insert(&mut self, hostname: Option<&Hostname>, chosen: Chosen) {
        self.passes |= chosen.raw.as_ref().is_some_and(|raw| raw.passthrough);
        match hostname.map(|hostname| (hostname.as_str(), hostname.wildcard_suffix())) {
            None => {
                self.any.get_or_insert(chosen);
            }
            Some((_, Some(suffix))) => {
                self.wildcard.entry(suffix.into()).or_insert(chosen);
            }
            Some((name, None)) => {
                self.exact.entry(name.into()).or_insert(chosen);
            }
        }
    }

    /// What becomes of a client that asks for a name in lower case: the exact one, then the longest wildcard, then the listener
    /// without a hostname, which also serves clients that name none.
    pub(super) fn find(&self, name: Option<&str>) -> Option<&Chosen> {
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
        named.or(self.any.as_ref())
    }
}

fn is_tls(listener: &Listener) -> bool {
    matches!(listener.protocol, Protocol::Https | Protocol::Tls)
}

/// What stands for a listener with anything inside; `None`: HTTP is inside.
fn raw_listener(gateway: &GatewayName, listener: &Listener) -> Option<Arc<TlsListener>> {
    let passthrough = listener.tls.as_ref().is_some_and(|tls| tls.mode == TlsMode::Passthrough);
    (listener.protocol == Protocol::Tls)
        .then(|| Arc::new(TlsListener { gateway: gateway.clone(), name: listener.name.clone(), passthrough }))
}

fn build_config(
    certificates: CertificateChoice,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    http: bool,
) -> Result<ServerConfig, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?;
    let builder = match clients {
        Some(clients) => builder.with_client_cert_verifier(clients),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(certificates));
    // What is inside of other listeners only client and endpoint know.
    let protocols: &[&[u8]] = if http { &PROTOCOLS } else { &[] };
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    // Sessions are resumed from what the client keeps, so that nothing grows here with their number. Each configuration
    // has keys of its own: what was agreed on under one, a client's certificate included, is nothing under another.
    config.ticketer = Ticketer::new()?;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 1;
    Ok(config)
}
