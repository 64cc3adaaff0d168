//! Backend: endpoints by name, address and path; names of Services of the manifests become their pods.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use understudy_conf::{BackendName, Endpoint, EndpointAddress, UpstreamProtocol};
use understudy_crds::{AppProtocol, Backend, BackendEndpoint, BackendType, FqdnEndpoint};

use crate::Options;
use crate::addresses::Transport;
use crate::changes::Changes;
use crate::cluster::{Cluster, Key, Object};
use crate::diagnostics::{Diagnostic, Reason, reasons};
use crate::graph::backend_tls::{TlsNode, TlsSource};
use crate::graph::backend_tls_policy::{TlsTarget, find_tls_policy, find_unreadable};
use crate::graph::{Graph, service};
use crate::watch::ENVOY;

/// A Backend that routes can refer to.
#[derive(Debug, PartialEq)]
pub(crate) struct BackendNode {
    pub(crate) name: BackendName,
    pub(crate) fallback: bool,
    /// The endpoints, or why it cannot be used.
    pub(crate) endpoints: Result<Vec<Endpoint>, Unusable>,
    pub(crate) protocol: UpstreamProtocol,
    /// How it is spoken to over TLS; without it, in clear text.
    pub(crate) tls: Option<TlsNode>,
    /// What was found while it was built.
    diagnostics: Vec<Diagnostic>,
    /// The Services that its names may stand for.
    services: Vec<Key>,
    /// Whether something of it has a date at which it turns bad.
    is_dated: bool,
}

impl BackendNode {
    /// What routes see of it.
    fn face(&self) -> (&BackendName, bool, UpstreamProtocol, Option<&Unusable>, bool) {
        let unusable = self.endpoints.as_ref().err();
        (&self.name, self.fallback, self.protocol, unusable, self.is_shown_certificate())
    }

    /// Whether a Gateway's certificate is shown to it.
    pub(crate) fn is_shown_certificate(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.client.is_none())
    }
}

/// All Backends, and which of them differ from the last time.
#[derive(Debug, Default)]
pub(crate) struct Backends {
    pub(crate) nodes: Arc<BTreeMap<Key, Arc<BackendNode>>>,
    pub(crate) differing: BTreeSet<Key>,
    /// Those of which routes see a difference.
    pub(crate) faces: BTreeSet<Key>,
}

/// Why a Backend cannot be used.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Unusable {
    pub(crate) reason: Reason,
    pub(crate) message: String,
    pub(crate) remedy: String,
}

/// Builds all Backends; with what there was and what differs since, those only that may differ.
pub(crate) fn build_backends(
    tls: TlsSource<'_>,
    options: &Options,
    last: Option<(&Graph, &Changes)>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Backends {
    let nodes = last.map(|(graph, _)| graph.backends.clone()).unwrap_or_default();
    let mut all = Backends { nodes, ..Backends::default() };
    let is_known = |changes: &Changes| {
        !changes.tls_policies && !changes.refused && !changes.contents && changes.grants.is_empty()
    };
    let doubtful: BTreeSet<Key> = match last {
        Some((graph, changes)) if is_known(changes) => {
            let followed = |node: &BackendNode| {
                node.is_dated || node.services.iter().any(|service| changes.endpoints.contains(service))
            };
            let following = graph.backends.iter().filter(|(_, node)| followed(node)).map(|(key, _)| key);
            following.chain(&changes.backends).cloned().collect()
        }
        _ => tls.cluster.backends.keys().chain(all.nodes.keys()).cloned().collect(),
    };
    for key in doubtful {
        let before = all.nodes.get(&key);
        let after = tls.cluster.backends.get(&key).and_then(|backend| build_backend(tls, options, backend));
        if before.map(AsRef::as_ref) == after.as_ref() {
            continue;
        }
        if before.map(|node| node.face()) != after.as_ref().map(BackendNode::face) {
            all.faces.insert(key.clone());
        }
        all.differing.insert(key.clone());
        let nodes = Arc::make_mut(&mut all.nodes);
        match after {
            Some(after) => drop(nodes.insert(key, Arc::new(after))),
            None => drop(nodes.remove(&key)),
        }
    }
    diagnostics.extend(all.nodes.values().flat_map(|node| &node.diagnostics).cloned());
    all
}

fn build_backend(source: TlsSource<'_>, options: &Options, backend: &Object<Backend>) -> Option<BackendNode> {
    let key = &backend.key;
    let name = BackendName::new(format!("backend/{}/{}", key.namespace, key.name)).ok()?;
    let spec = &backend.value.spec;
    let h2c = spec.app_protocols.iter().flatten().any(|known| *known == AppProtocol::H2c);
    let mut node = BackendNode {
        name,
        fallback: backend.value.is_fallback(),
        endpoints: Ok(Vec::new()),
        protocol: if h2c { UpstreamProtocol::H2c } else { UpstreamProtocol::Http1 },
        tls: None,
        diagnostics: Vec::new(),
        services: Vec::new(),
        is_dated: spec.tls.as_ref().is_some_and(|tls| tls.client_certificate_ref.is_some()),
    };
    if !options.backend_api {
        let diagnostic = reasons::backend_api_off(&backend.at(""));
        node.endpoints = Err(Unusable {
            reason: diagnostic.reason,
            message: format!("{} is not served: {}", backend.label, diagnostic.message),
            remedy: diagnostic.remedy.clone(),
        });
        node.protocol = UpstreamProtocol::Http1;
        node.diagnostics.push(diagnostic);
        return Some(node);
    }
    let fqdns = spec.endpoints.iter().flatten().filter_map(|endpoint| endpoint.fqdn.as_ref());
    node.services = fqdns.filter_map(|fqdn| service_name(options, fqdn)).collect();
    report_not_acting(backend, &mut node.diagnostics);
    node.endpoints = resolve_tls(source, backend, &mut node.diagnostics).and_then(|tls| {
        let endpoints = resolve_endpoints(source.cluster, options, backend, tls.is_some());
        node.tls = tls;
        endpoints
    });
    Some(node)
}

/// The TLS that a Backend is spoken to with: what a BackendTLSPolicy asks for, over its own.
fn resolve_tls(
    source: TlsSource<'_>,
    backend: &Object<Backend>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Result<Option<TlsNode>, Unusable> {
    let target = TlsTarget { group: ENVOY, kind: "Backend", key: &backend.key, section: None };
    let policy = find_tls_policy(source.cluster, target);
    let own = backend.value.spec.tls.as_ref().filter(|_| backend.is_valid);
    let broken = |place: &str| Unusable {
        reason: Reason::InvalidBackendTLS,
        message: format!(
            "the TLS of {} cannot be set up, and clear text would break its promise",
            backend.label
        ),
        remedy: format!("Correct {place}."),
    };
    let own = match own {
        None => None,
        Some(tls) => {
            let resolved = source.resolve_backend(backend, tls, policy.is_some(), diagnostics);
            Some(resolved.ok_or_else(|| broken("its spec.tls"))?)
        }
    };
    let Some(policy) = policy else {
        return match find_unreadable(source.cluster, &target) {
            Some(policy) => Err(broken(&policy.to_string())),
            None => Ok(own),
        };
    };
    let resolved = source.resolve_policy(policy, own, diagnostics);
    resolved.map(Some).ok_or_else(|| broken(&policy.label))
}

fn report_not_acting(backend: &Object<Backend>, diagnostics: &mut Vec<Diagnostic>) {
    let spec = &backend.value.spec;
    for (index, endpoint) in spec.endpoints.iter().flatten().enumerate() {
        if endpoint.zone.is_some() {
            let place = backend.at(&format!("spec.endpoints[{index}].zone"));
            diagnostics.push(reasons::not_acting_info(&place, "zones do not act yet"));
        }
    }
    if backend.is_valid && spec.endpoints.is_none() && spec.kind != Some(BackendType::DynamicResolver) {
        diagnostics.push(reasons::backend_without_endpoints(&backend.at("spec.endpoints")));
    }
}

fn resolve_endpoints(
    cluster: &Cluster,
    options: &Options,
    backend: &Object<Backend>,
    over_tls: bool,
) -> Result<Vec<Endpoint>, Unusable> {
    let unusable =
        |reason, message: String, remedy: &str| Unusable { reason, message, remedy: remedy.to_owned() };
    let spec = &backend.value.spec;
    if !backend.is_valid {
        return Err(unusable(
            Reason::Invalid,
            format!("{} is not valid", backend.label),
            &format!("Correct it ({}).", backend.location()),
        ));
    }
    if spec.kind == Some(BackendType::DynamicResolver) {
        return Err(unusable(
            Reason::UnsupportedValue,
            format!("{} is of type DynamicResolver, which is not supported", backend.label),
            "Use type Endpoints, and list the endpoints.",
        ));
    }
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for endpoint in spec.endpoints.iter().flatten() {
        for resolved in resolve_endpoint(cluster, options, endpoint, over_tls) {
            if !endpoints.iter().any(|known| known.address == resolved.address) {
                endpoints.push(resolved);
            }
        }
    }
    Ok(endpoints)
}

fn resolve_endpoint(
    cluster: &Cluster,
    options: &Options,
    endpoint: &BackendEndpoint,
    over_tls: bool,
) -> Vec<Endpoint> {
    let port = |port: i64| u16::try_from(port).unwrap_or(0);
    let address = if let Some(fqdn) = &endpoint.fqdn {
        if options.resolve_services
            && let Some(mut endpoints) = resolve_service_name(cluster, options, fqdn)
        {
            if over_tls {
                // The pods' certificates are for the name that was written, whatever it was resolved to.
                let name = endpoint.hostname.clone().unwrap_or_else(|| fqdn.canonical_hostname());
                endpoints.iter_mut().for_each(|endpoint| endpoint.hostname = Some(name.clone()));
            }
            return endpoints;
        }
        EndpointAddress::Fqdn { hostname: fqdn.canonical_hostname(), port: port(fqdn.port) }
    } else if let Some(ip) = &endpoint.ip {
        let Ok(address) = ip.address.parse::<IpAddr>() else { return Vec::new() };
        EndpointAddress::Ip { address, port: port(ip.port) }
    } else if let Some(unix) = &endpoint.unix {
        EndpointAddress::Unix { path: unix.path.clone().into() }
    } else {
        return Vec::new();
    };
    let mut built = Endpoint::at(address);
    built.hostname.clone_from(&endpoint.hostname);
    built.zone.clone_from(&endpoint.zone);
    vec![built]
}

/// The endpoints of the Service that a name stands for; `None` where the name belongs to DNS: names of no
/// Service, of an ExternalName Service or of a single pod, unknown ports, other cluster domains, and Services
/// of which manifest files hold no EndpointSlice.
fn resolve_service_name(cluster: &Cluster, options: &Options, fqdn: &FqdnEndpoint) -> Option<Vec<Endpoint>> {
    let key = service_name(options, fqdn)?;
    let object = cluster.services.get(&key)?;
    if service::is_external_name(&object.value) {
        return None;
    }
    let port = u16::try_from(fqdn.port).ok()?;
    let port = service::find_port(&object.value, Transport::Tcp, port)?;
    let slices = cluster.slices_of(&key);
    let unknown = slices.is_empty() && !options.live;
    (!unknown).then(|| service::resolve_endpoints(&slices, port))
}

/// The Service that a name would stand for, whether there is one or not.
fn service_name(options: &Options, fqdn: &FqdnEndpoint) -> Option<Key> {
    let name = fqdn.canonical_hostname();
    let with_domain = format!(".svc.{}", options.cluster_domain);
    let service = name.strip_suffix(&with_domain).or_else(|| name.strip_suffix(".svc"))?;
    let (name, namespace) = service.split_once('.').filter(|(_, namespace)| !namespace.contains('.'))?;
    Some(Key::new(namespace, name))
}
