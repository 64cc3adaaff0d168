//! Listeners of a Gateway.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use gateway_api::apis::experimental::gateways::{
    Gateway, GatewayListeners, GatewayListenersAllowedRoutesNamespacesFrom as From,
    GatewayListenersAllowedRoutesNamespacesSelector, GatewayListenersTls, GatewayListenersTlsMode,
};
use understudy_conf::{Certificate, Hostname, ListenerName, Protocol, TlsMode};
use understudy_crds::{LabelRequirement, TargetLabels};

use crate::cluster::{Cluster, Key, Object};
use crate::diagnostics::{Diagnostic, reasons};
use crate::graph::gateway_tls::ClientsNode;
use crate::graph::listener_sets::Part;
use crate::graph::listener_tls::Certificates;
use crate::watch::{GATEWAY_API, Kind};

/// A listener that is served.
#[derive(Debug, PartialEq)]
pub(crate) struct ListenerNode {
    pub(crate) name: ListenerName,
    /// Its field in the Gateway, or in its ListenerSet.
    pub(crate) field: String,
    pub(crate) port: u16,
    pub(crate) protocol: Protocol,
    pub(crate) hostname: Option<Hostname>,
    pub(crate) bind: Vec<SocketAddr>,
    /// Whether it ends TLS or passes it through, if its protocol is over TLS.
    pub(crate) tls_mode: Option<TlsMode>,
    /// What it shows to clients, if it ends TLS.
    pub(crate) certificates: Vec<Arc<Certificate>>,
    /// What its clients must show, if anything.
    pub(crate) clients: Option<ClientsNode>,
    /// Which routes may attach.
    pub(crate) shape: ListenerShape,
}

/// What decides which routes attach to a listener, whether it is served or not.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ListenerShape {
    /// The ListenerSet that it stands in; `None` for the Gateway itself.
    pub(crate) set: Option<Key>,
    pub(crate) name: String,
    pub(crate) port: u16,
    pub(crate) hostname: Option<Hostname>,
    namespaces: AllowedNamespaces,
    /// The kinds of routes that may attach.
    pub(crate) kinds: Vec<Kind>,
}

/// The listeners of a Gateway.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    /// Those that can be served.
    pub(crate) nodes: Vec<ListenerNode>,
    /// One for each in the specs; `None` where it says nothing that could be read.
    pub(crate) shapes: Vec<Option<ListenerShape>>,
}

#[derive(Debug, Clone, PartialEq)]
enum AllowedNamespaces {
    Same,
    All,
    Selector(TargetLabels),
}

impl ListenerShape {
    /// Whether routes of a kind may attach to this listener.
    pub(crate) fn allows_kind(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
    }

    /// Whether routes of a namespace may attach to this listener of a Gateway or ListenerSet in `own_namespace`.
    pub(crate) fn allows_namespace(&self, cluster: &Cluster, own_namespace: &str, namespace: &str) -> bool {
        match &self.namespaces {
            AllowedNamespaces::All => true,
            AllowedNamespaces::Same => own_namespace == namespace,
            AllowedNamespaces::Selector(selector) => selector.matches(&namespace_labels(cluster, namespace)),
        }
    }
}

/// The labels of a namespace. The one with its name is set by Kubernetes, so it is known without the object.
pub(crate) fn namespace_labels(cluster: &Cluster, namespace: &str) -> BTreeMap<String, String> {
    let mut labels = cluster
        .namespaces
        .get(&crate::cluster::Key::new("", namespace))
        .map(|object| (*object.labels).clone())
        .unwrap_or_default();
    labels.insert("kubernetes.io/metadata.name".to_owned(), namespace.to_owned());
    labels
}

/// Builds the listeners that can be served, without sockets: of each part the Gateway itself first, so that it has what
/// another one wants as well. What breaks a rule of the kind is reported by [`validate_gateway`].
pub(crate) fn build_listeners(
    parts: &[Part],
    certificates: Certificates<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Listeners {
    let mut merger = Merger {
        certificates,
        nodes: Vec::new(),
        owners: Vec::new(),
        seated: Vec::new(),
        claims: Vec::new(),
    };
    let mut shapes = Vec::new();
    for part in parts {
        for (index, listener) in part.object.value.spec.listeners.iter().enumerate() {
            shapes.push(merger.add(part, index, listener, diagnostics));
        }
    }
    Listeners { nodes: merger.nodes, shapes }
}

/// Merges listeners of several objects.
struct Merger<'a> {
    certificates: Certificates<'a>,
    nodes: Vec<ListenerNode>,
    /// The part of each node.
    owners: Vec<&'a Part>,
    /// Those that no protocol keeps from their port.
    seated: Vec<(&'a Part, &'a GatewayListeners)>,
    /// Of these, those that can be read, served or not.
    claims: Vec<(&'a Part, Sharing, ListenerShape)>,
}

impl<'a> Merger<'a> {
    fn add(
        &mut self,
        part: &'a Part,
        index: usize,
        listener: &'a GatewayListeners,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Option<ListenerShape> {
        let object = &part.object;
        let field = format!("spec.listeners[{index}]");
        let mut said = Vec::new();
        let shape = build_shape(part, listener, &field, &mut said);
        let sharing = Sharing::of(&listener.protocol);
        let conflict = self.seated.iter().find(|(_, earlier)| {
            earlier.port == listener.port && !sharing.is_possible_with(Sharing::of(&earlier.protocol))
        });
        if let Some((owner, earlier)) = conflict {
            let place = object.at(&format!("{field}.protocol"));
            let name = name_for(part, owner, &earlier.name);
            diagnostics.push(reasons::protocol_conflict(&place, &name, &earlier.protocol, listener.port));
            return shape;
        }
        self.seated.push((part, listener));
        if sharing == Sharing::Unknown {
            return shape;
        }
        diagnostics.append(&mut said);
        // What cannot be served for the moment is not another object's either: a Secret comes back.
        let rival = shape
            .as_ref()
            .and_then(|shape| self.rival_of(part, sharing, shape))
            .map(|(owner, name)| name_for(part, owner, name));
        self.claims.extend(shape.clone().map(|shape| (part, sharing, shape)));
        let node = shape
            .clone()
            .and_then(|shape| build_listener(object, listener, shape, self.certificates, field, diagnostics));
        let Some(node) = node else { return shape };
        if self.nodes.iter().any(|other| other.name == node.name) {
            return shape;
        }
        if let Some(name) = rival {
            diagnostics.push(reasons::hostname_conflict(&object.at(&node.field), &name, node.port));
            return shape;
        }
        let same = |other: &ListenerNode| {
            let beside = (other.protocol == Protocol::Udp) == (node.protocol == Protocol::Udp);
            beside && other.port == node.port && other.hostname == node.hostname
        };
        match self.nodes.iter().zip(&self.owners).find(|(other, _)| same(other)) {
            Some((other, owner)) => {
                let place = object.at(&node.field);
                let name = name_for(part, owner, &other.shape.name);
                diagnostics.push(reasons::hostname_conflict(&place, &name, node.port));
            }
            None => {
                self.nodes.push(node);
                self.owners.push(part);
            }
        }
        shape
    }
}

impl Merger<'_> {
    /// Another object's listener with the port and the hostname of this one.
    fn rival_of(&self, part: &Part, sharing: Sharing, shape: &ListenerShape) -> Option<(&Part, &str)> {
        let is_udp = |sharing: Sharing| sharing == Sharing::UdpAlone;
        let rival = self.claims.iter().find(|(owner, other, claim)| {
            owner.set != part.set
                && is_udp(*other) == is_udp(sharing)
                && (claim.port, &claim.hostname) == (shape.port, &shape.hostname)
        });
        rival.map(|(owner, _, claim)| (*owner, claim.name.as_str()))
    }
}

/// How a listener is called where another one is spoken of.
fn name_for(part: &Part, owner: &Part, name: &str) -> String {
    if part.set == owner.set { name.to_owned() } else { format!("{name} of {}", owner.object.label) }
}

fn build_shape(
    part: &Part,
    listener: &GatewayListeners,
    field: &str,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<ListenerShape> {
    let gateway = &part.object;
    let port = u16::try_from(listener.port).ok().filter(|port| *port != 0)?;
    let name = ListenerName::new(&listener.name).ok().filter(|name| name.as_str().len() <= 253)?;
    let hostname = match listener.hostname.as_deref() {
        None | Some("") => None,
        Some(hostname) => Some(Hostname::new(hostname).ok()?),
    };
    let allowed = listener.allowed_routes.as_ref();
    let namespaces = allowed.and_then(|allowed| allowed.namespaces.as_ref());
    let namespaces = match namespaces.and_then(|namespaces| namespaces.from.as_ref()) {
        None | Some(From::Same) => AllowedNamespaces::Same,
        Some(From::All) => AllowedNamespaces::All,
        Some(From::Selector) => AllowedNamespaces::Selector(target_labels(namespaces?.selector.as_ref()?)),
    };
    let served = kinds_of(listener);
    let mut kinds = served.to_vec();
    if let Some(asked) = allowed.and_then(|allowed| allowed.kinds.as_ref()).filter(|asked| !asked.is_empty())
    {
        let mut named = Vec::new();
        for (index, asked) in asked.iter().enumerate() {
            let group = asked.group.as_deref().unwrap_or(GATEWAY_API);
            match Kind::route_by_name(&asked.kind).filter(|kind| served.contains(kind)) {
                Some(kind) if group == GATEWAY_API => named.push(kind),
                _ => {
                    let place = gateway.at(&format!("{field}.allowedRoutes.kinds[{index}].kind"));
                    let protocol = &listener.protocol;
                    let kind = match group {
                        GATEWAY_API => asked.kind.clone(),
                        _ => format!("{}.{group}", asked.kind),
                    };
                    diagnostics.push(reasons::invalid_route_kind(&place, &kind, protocol, served));
                }
            }
        }
        kinds.retain(|kind| named.contains(kind));
    }
    let name = name.as_str().to_owned();
    Some(ListenerShape { set: part.set.clone(), name, port, hostname, namespaces, kinds })
}

/// The kinds of routes that a listener serves by its protocol. What is left where TLS ended is a TCP connection.
fn kinds_of(listener: &GatewayListeners) -> &'static [Kind] {
    match listener.protocol.as_str() {
        "HTTP" | "HTTPS" => &[Kind::HttpRoute, Kind::GrpcRoute],
        "TLS" if listener.tls.as_ref().is_some_and(|tls| mode_of(tls) == TlsMode::Terminate) => {
            &[Kind::TlsRoute, Kind::TcpRoute]
        }
        "TLS" => &[Kind::TlsRoute],
        "TCP" => &[Kind::TcpRoute],
        "UDP" => &[Kind::UdpRoute],
        _ => &[],
    }
}

/// With whom a listener can share a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    /// With others that are told apart by the host of requests.
    Hosts,
    /// With others that are told apart by the server name of TLS.
    ServerNames,
    /// With none of the same transport: nothing tells them apart.
    TcpAlone,
    /// The same; ports of UDP are others than those of TCP.
    UdpAlone,
    Unknown,
}

impl Sharing {
    fn of(protocol: &str) -> Self {
        match protocol {
            "HTTP" => Self::Hosts,
            "HTTPS" | "TLS" => Self::ServerNames,
            "TCP" => Self::TcpAlone,
            "UDP" => Self::UdpAlone,
            _ => Self::Unknown,
        }
    }

    fn is_possible_with(self, other: Self) -> bool {
        match (self, other) {
            (Self::UdpAlone, Self::UdpAlone) | (Self::TcpAlone, Self::TcpAlone) => false,
            (Self::UdpAlone, _) | (_, Self::UdpAlone) => true,
            _ => self == other,
        }
    }
}

fn build_listener(
    gateway: &Object<Gateway>,
    listener: &GatewayListeners,
    shape: ListenerShape,
    certificates: Certificates<'_>,
    field: String,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<ListenerNode> {
    // No listener of a Gateway has a slash in its name.
    let name = match &shape.set {
        None => ListenerName::new(&shape.name),
        Some(set) => ListenerName::new(format!("listenerset/{}/{}/{}", set.namespace, set.name, shape.name)),
    };
    let name = name.ok()?;
    let (port, hostname) = (shape.port, shape.hostname.clone());
    let protocol = match listener.protocol.as_str() {
        "HTTPS" => Protocol::Https,
        "TLS" => Protocol::Tls,
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        _ => Protocol::Http,
    };
    let tls_mode = match protocol {
        Protocol::Https => Some(TlsMode::Terminate),
        // Without tls, nothing says what is to become of connections; it was said when the Gateway was read.
        Protocol::Tls => Some(mode_of(listener.tls.as_ref()?)),
        Protocol::Http | Protocol::Tcp | Protocol::Udp => None,
    };
    let certificates = match tls_mode {
        Some(TlsMode::Terminate) => {
            certificates.resolve_listener(gateway, listener, hostname.as_ref(), &field, diagnostics)?
        }
        Some(TlsMode::Passthrough) => {
            let given = listener.tls.as_ref().and_then(|tls| tls.certificate_refs.as_ref());
            if given.is_some_and(|refs| !refs.is_empty()) {
                let place = gateway.at(&format!("{field}.tls.certificateRefs"));
                let message = "no certificate is shown: TLS is passed through";
                diagnostics.push(reasons::no_effect(&place, message, "Remove it, or use mode: Terminate."));
            }
            Vec::new()
        }
        None => Vec::new(),
    };
    let bind = Vec::new();
    let clients = None;
    Some(ListenerNode { name, field, port, protocol, tls_mode, certificates, clients, hostname, bind, shape })
}

fn mode_of(tls: &GatewayListenersTls) -> TlsMode {
    match tls.mode {
        Some(GatewayListenersTlsMode::Passthrough) => TlsMode::Passthrough,
        Some(GatewayListenersTlsMode::Terminate) | None => TlsMode::Terminate,
    }
}

fn target_labels(selector: &GatewayListenersAllowedRoutesNamespacesSelector) -> TargetLabels {
    let requirements = selector.match_expressions.as_ref().map(|expressions| {
        let requirement = |expression: &gateway_api::apis::experimental::gateways::GatewayListenersAllowedRoutesNamespacesSelectorMatchExpressions| LabelRequirement {
            key: expression.key.clone(),
            operator: expression.operator.clone(),
            values: expression.values.clone(),
        };
        expressions.iter().map(requirement).collect()
    });
    TargetLabels { match_labels: selector.match_labels.clone(), match_expressions: requirements }
}

/// Checks the rules of the kind.
pub(crate) fn validate_gateway(gateway: &Object<Gateway>) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let mut names = BTreeSet::new();
    let listeners = &gateway.value.spec.listeners;
    if listeners.is_empty() || listeners.len() > 64 {
        let place = gateway.at("spec.listeners");
        found.push(reasons::invalid(
            &place,
            format!("it has {} listeners", listeners.len()),
            "Give 1 to 64 listeners, each with name, port and protocol.",
        ));
    }
    for (index, listener) in listeners.iter().enumerate() {
        let at = |field: &str| gateway.at(&format!("spec.listeners[{index}]{field}"));
        if !names.insert(&listener.name) {
            let message = format!("a listener before it is called {:?} too", listener.name);
            found.push(reasons::invalid(&at(".name"), message, "Give every listener a name of its own."));
        }
        let name = &listener.name;
        if ListenerName::new(name).is_err() || name.len() > 253 || name.contains('/') {
            let remedy = "Use a word such as http, of at most 253 characters.";
            found.push(reasons::invalid(&at(".name"), "it is no name", remedy));
        }
        if !(1..=65_535).contains(&listener.port) {
            let message = format!("{} is not a port", listener.port);
            found.push(reasons::invalid(&at(".port"), message, "Use a number from 1 to 65535."));
        }
        if let Some(hostname) = listener.hostname.as_deref().filter(|hostname| !hostname.is_empty())
            && let Err(error) = Hostname::new(hostname)
        {
            found.push(reasons::invalid_hostname(&at(".hostname"), &error));
        }
        if !["HTTP", "HTTPS", "TLS", "TCP", "UDP"].contains(&listener.protocol.as_str()) {
            found.push(reasons::unsupported_protocol(&at(".protocol"), &listener.protocol));
        }
        let protocol = &listener.protocol;
        if matches!(protocol.as_str(), "HTTP" | "TCP" | "UDP") && listener.tls.is_some() {
            let message = format!("a listener of protocol {protocol} has no TLS");
            let remedy = if protocol == "TCP" { "TLS" } else { "HTTPS" };
            let remedy = match protocol.as_str() {
                "UDP" => "Remove tls.".to_owned(),
                _ => format!("Use protocol {remedy}, or remove tls."),
            };
            found.push(reasons::invalid(&at(".tls"), message, remedy));
        }
        let hostname = listener.hostname.as_deref().unwrap_or("");
        if matches!(protocol.as_str(), "TCP" | "UDP") && !hostname.is_empty() {
            let message = format!("a listener of protocol {protocol} has no hostname");
            found.push(reasons::invalid(&at(".hostname"), message, "Remove it."));
        }
        found.extend(
            validate_tls(listener)
                .map(|(field, message, remedy)| reasons::invalid(&at(field), message, remedy)),
        );
        let namespaces = listener.allowed_routes.as_ref().and_then(|allowed| allowed.namespaces.as_ref());
        if let Some(namespaces) = namespaces
            && namespaces.from == Some(From::Selector)
            && namespaces.selector.is_none()
        {
            found.push(reasons::invalid(
                &at(".allowedRoutes.namespaces.selector"),
                "from: Selector needs a selector",
                "Give selector, or use from: Same or All.",
            ));
        }
    }
    found
}

/// What a listener over TLS lacks: field, message and remedy.
fn validate_tls(listener: &GatewayListeners) -> Option<(&'static str, &'static str, &'static str)> {
    let is_https = listener.protocol == "HTTPS";
    if !is_https && listener.protocol != "TLS" {
        return None;
    }
    let refs = "Refer to Secrets of type kubernetes.io/tls in tls.certificateRefs.";
    let Some(tls) = &listener.tls else {
        return Some(match is_https {
            true => (".tls", "a listener of protocol HTTPS needs tls", refs),
            false => (".tls", "a listener of protocol TLS needs tls", "Add tls with a mode."),
        });
    };
    if mode_of(tls) == TlsMode::Passthrough {
        if !is_https {
            return None;
        }
        let remedy = "Use mode: Terminate; to pass TLS through, use protocol TLS.";
        return Some((".tls.mode", "a listener of protocol HTTPS ends TLS itself", remedy));
    }
    match tls.certificate_refs.as_ref().map_or(0, Vec::len) {
        0 => Some((".tls.certificateRefs", "it names no certificate", refs)),
        1..=64 => None,
        _ => Some((".tls.certificateRefs", "it names more than 64 certificates", "Name at most 64.")),
    }
}
