//! Backend: endpoints by name, address and path; names of Services of the manifests become their pods.

use std::collections::BTreeMap;
use std::net::IpAddr;

use understudy_conf::{BackendName, Endpoint, EndpointAddress, UpstreamProtocol};
use understudy_crds::{AppProtocol, Backend, BackendEndpoint, BackendType, FqdnEndpoint};

use crate::Options;
use crate::cluster::{Cluster, Key, Object};
use crate::diagnostics::{Diagnostic, Reason, reasons};
use crate::graph::backend_tls::{TlsNode, TlsSource};
use crate::graph::backend_tls_policy::{TlsTarget, find_tls_policy, find_unreadable};
use crate::graph::service;
use crate::watch::ENVOY;

/// A Backend as routes see it.
#[derive(Debug)]
pub(crate) struct BackendNode {
    pub(crate) name: BackendName,
    pub(crate) fallback: bool,
    /// The endpoints, or why it cannot be used.
    pub(crate) endpoints: Result<Vec<Endpoint>, Unusable>,
    pub(crate) protocol: UpstreamProtocol,
    /// How it is spoken to over TLS; without it, in clear text.
    pub(crate) tls: Option<TlsNode>,
}

/// Why a Backend cannot be used.
#[derive(Debug, Clone)]
pub(crate) struct Unusable {
    pub(crate) reason: Reason,
    pub(crate) message: String,
    pub(crate) remedy: String,
}

/// Builds all Backends.
pub(crate) fn build_backends(
    tls: TlsSource<'_>,
    options: &Options,
    diagnostics: &mut Vec<Diagnostic>,
) -> BTreeMap<Key, BackendNode> {
    let mut nodes = BTreeMap::new();
    for backend in tls.cluster.backends.values() {
        let key = &backend.key;
        let Ok(name) = BackendName::new(format!("backend/{}/{}", key.namespace, key.name)) else { continue };
        if !options.backend_api {
            let diagnostic = reasons::backend_api_off(&backend.at(""));
            let unusable = Unusable {
                reason: diagnostic.reason,
                message: format!("{} is not served: {}", backend.label, diagnostic.message),
                remedy: diagnostic.remedy.clone(),
            };
            diagnostics.push(diagnostic);
            let (fallback, endpoints) = (backend.value.is_fallback(), Err(unusable));
            let protocol = UpstreamProtocol::Http1;
            nodes.insert(key.clone(), BackendNode { name, fallback, endpoints, protocol, tls: None });
            continue;
        }
        report_not_acting(backend, diagnostics);
        let (endpoints, tls) = match resolve_tls(tls, backend, diagnostics) {
            Ok(node) => (resolve_endpoints(tls.cluster, options, backend, node.is_some()), node),
            Err(unusable) => (Err(unusable), None),
        };
        let h2c = backend.value.spec.app_protocols.iter().flatten().any(|known| *known == AppProtocol::H2c);
        let protocol = if h2c { UpstreamProtocol::H2c } else { UpstreamProtocol::Http1 };
        let fallback = backend.value.is_fallback();
        nodes.insert(key.clone(), BackendNode { name, fallback, endpoints, protocol, tls });
    }
    nodes
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
    let name = fqdn.canonical_hostname();
    let with_domain = format!(".svc.{}", options.cluster_domain);
    let service = name.strip_suffix(&with_domain).or_else(|| name.strip_suffix(".svc"))?;
    let (name, namespace) = service.split_once('.').filter(|(_, namespace)| !namespace.contains('.'))?;
    let key = Key::new(namespace, name);
    let object = cluster.services.get(&key)?;
    if service::is_external_name(&object.value) {
        return None;
    }
    let port = service::find_port(&object.value, u16::try_from(fqdn.port).ok()?)?;
    let slices = cluster.slices_of(&key);
    let unknown = slices.is_empty() && !options.live;
    (!unknown).then(|| service::resolve_endpoints(&slices, port))
}
