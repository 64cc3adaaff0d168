//! About routes: their parents, rules and references.

use super::suggest;
use crate::cluster::{Key, Refused};
use crate::diagnostics::{Diagnostic, Place, Reason};
use crate::graph::{Referrer, Unusable};
use crate::watch::{Kind, ObjectId};

pub(crate) fn no_parents(place: &Place) -> Diagnostic {
    place.error(
        Reason::NoMatchingParent,
        "the route has no parent, so it is not served",
        "Name a Gateway or a ListenerSet in spec.parentRefs.",
    )
}

pub(crate) fn invalid_parent_kind(place: &Place, group: &str, kind: &str) -> Diagnostic {
    place.error(
        Reason::InvalidKind,
        format!("a {kind} of group {group:?} cannot be the parent of a route here"),
        "Use a Gateway or a ListenerSet.",
    )
}

pub(crate) fn missing_parent(
    place: &Place,
    parent: &ObjectId,
    near: Option<&str>,
    refused: Option<&Refused>,
) -> Diagnostic {
    if let Some(Refused { location, .. }) = refused {
        let message = format!("{parent} could not be read ({location})");
        return place.error(Reason::NoMatchingParent, message, format!("Correct the {}.", parent.kind));
    }
    place.error(
        Reason::NoMatchingParent,
        format!("there is no {parent}"),
        suggest(near, "Add it, or correct name and namespace of the parent."),
    )
}

pub(crate) fn parent_not_served(place: &Place, parent: &ObjectId) -> Diagnostic {
    place.info(Reason::NoMatchingParent, format!("{parent} is not served here"), "See what is said of it.")
}

/// A route has a ListenerSet as its parent that its Gateway does not allow.
pub(crate) fn parent_not_allowed(place: &Place, set: &Key, gateway: &Key) -> Diagnostic {
    place.error(
        Reason::NoMatchingParent,
        format!("Gateway {gateway} does not allow ListenerSet {set}, so none of its listeners is served"),
        "Set allowedListeners.namespaces.from: All, Same or a selector, at the Gateway.",
    )
}

pub(crate) fn missing_listener(
    place: &Place,
    parent: &ObjectId,
    section: &str,
    near: Option<&str>,
) -> Diagnostic {
    place.error(
        Reason::NoMatchingParent,
        format!("{parent} has no listener {section}"),
        suggest(near, "Use the name of one of its listeners, or leave sectionName out."),
    )
}

pub(crate) fn no_served_listener(place: &Place, parent: &ObjectId, asked: bool) -> Diagnostic {
    if asked {
        let message = format!("no listener of {parent} that is meant is served");
        return place.warning(Reason::NoMatchingParent, message, "See what is said of it.");
    }
    place.error(
        Reason::NoMatchingParent,
        format!("{parent} has no listener on that port"),
        "Use the port of one of its listeners, or leave port out.",
    )
}

pub(crate) fn kind_not_allowed_by_listeners(place: &Place, parent: &ObjectId, kind: Kind) -> Diagnostic {
    let protocols = match kind {
        Kind::TlsRoute => "TLS",
        Kind::TcpRoute => "TCP, or TLS with mode: Terminate",
        Kind::UdpRoute => "UDP",
        _ => "HTTP or HTTPS",
    };
    place.error(
        Reason::NotAllowedByListeners,
        format!("no listener of {parent} that is meant allows {kind}s"),
        format!(
            "Use a listener of protocol {protocols}, and let its allowedRoutes.kinds, if any, name {kind}."
        ),
    )
}

pub(crate) fn not_allowed_by_listeners(
    place: &Place,
    parent: &ObjectId,
    kind: Kind,
    namespace: &str,
) -> Diagnostic {
    place.error(
        Reason::NotAllowedByListeners,
        format!("no listener of {parent} that is meant allows {kind}s from namespace {namespace}"),
        "Set allowedRoutes.namespaces.from: All, or a selector, at the listener.",
    )
}

pub(crate) fn no_matching_hostname(place: &Place, parent: &ObjectId) -> Diagnostic {
    place.error(
        Reason::NoMatchingListenerHostname,
        format!("no hostname of the route is one of the listeners of {parent} that are meant"),
        "Let hostnames of route and listener overlap, or remove the listener's.",
    )
}

pub(crate) fn rule_left_out(place: &Place) -> Diagnostic {
    place.error(
        Reason::UnsupportedValue,
        "the rule is left out, because a match of it cannot act",
        "Correct the match.",
    )
}

pub(crate) fn no_backend_refs(place: &Place, kind: Kind) -> Diagnostic {
    let (message, remedy) = match kind {
        Kind::HttpRoute => {
            ("the rule refers to nothing, so it answers 500", "Add backendRefs, or a RequestRedirect filter.")
        }
        Kind::GrpcRoute => ("the rule refers to nothing, so it answers 500", "Add backendRefs."),
        Kind::UdpRoute => ("the rule refers to nothing, so its datagrams are dropped", "Add backendRefs."),
        _ => ("the rule refers to nothing, so its connections are closed", "Add backendRefs."),
    };
    place.warning(Reason::BackendNotFound, message, remedy)
}

pub(crate) fn idle_on_listener(place: &Place, gateway: &Key, listener: &str, owner: &ObjectId) -> Diagnostic {
    place.warning(
        Reason::NoEffect,
        format!(
            "nothing reaches them from listener {listener} of Gateway {gateway}: {owner} is older, or first by name"
        ),
        "Give the route a listener of its own, or remove one of the two.",
    )
}

pub(crate) fn host_taken(place: &Place, gateway: &Key, other: &str) -> Diagnostic {
    place.error(
        Reason::HostnameConflict,
        format!(
            "{other} is older, or first by name, and has hostnames of the route on every listener of Gateway {gateway} \
             that is meant: one listener serves a host by HTTPRoutes or by GRPCRoutes, not by both"
        ),
        "Give the routes hostnames of their own, or move all rules into routes of one kind.",
    )
}

pub(crate) fn backend_not_found(place: &Place, kind: Kind, key: &Key, near: Option<&str>) -> Diagnostic {
    place.error(
        Reason::BackendNotFound,
        format!("there is no {kind} {key}"),
        suggest(near, format!("Add the {kind}, or correct name and namespace.")),
    )
}

pub(crate) fn backend_refused(place: &Place, kind: Kind, key: &Key, location: &str) -> Diagnostic {
    place.error(
        Reason::BackendNotFound,
        format!("{kind} {key} could not be read"),
        format!("Correct the {kind} ({location})."),
    )
}

pub(crate) fn unusable_backend(place: &Place, unusable: &Unusable) -> Diagnostic {
    place.error(unusable.reason, &unusable.message, &unusable.remedy)
}

pub(crate) fn backend_api_off(place: &Place) -> Diagnostic {
    place.error(
        Reason::UnsupportedValue,
        "Backends are switched off in this cluster",
        "Whoever administers it can allow them: extensionApis.enableBackend: true under the key understudy.yaml of \
         ConfigMap understudy-config in the namespace of the installation.",
    )
}

pub(crate) fn backend_without_endpoints(place: &Place) -> Diagnostic {
    place.warning(
        Reason::EndpointsNotFound,
        "the Backend has no endpoints, so nothing can be served from it",
        "Add spec.endpoints.",
    )
}

pub(crate) fn invalid_ref_kind(place: &Place, group: &str, kind: &str) -> Diagnostic {
    let remedy = match kind {
        "Backend" => "Add group: gateway.envoyproxy.io.",
        "Service" => "Remove the group: Services are of the core group.",
        _ => "Use a Service, or a Backend of group gateway.envoyproxy.io.",
    };
    place.error(Reason::InvalidKind, format!("a {kind} of group {group:?} cannot be referred to"), remedy)
}

pub(crate) fn ref_not_permitted(
    place: &Place,
    from: &Referrer<'_>,
    group: &str,
    kind: &str,
    key: &Key,
) -> Diagnostic {
    let (name, namespace) = (&key.name, &key.namespace);
    place.error(
        Reason::RefNotPermitted,
        format!("{kind} {key} is in another namespace, and no ReferenceGrant there allows it"),
        format!(
            "Add a ReferenceGrant to namespace {namespace}, from group {}, kind {}, namespace {}, to group {group:?}, \
             kind {kind}, name {name}.",
            from.group, from.kind, from.namespace
        ),
    )
}

pub(crate) fn external_name_service(place: &Place, key: &Key) -> Diagnostic {
    place.error(
        Reason::UnsupportedValue,
        format!("Service {key} is of type ExternalName"),
        "Refer to a Backend with an fqdn endpoint of that name.",
    )
}

pub(crate) fn port_not_specified(place: &Place, key: &Key) -> Diagnostic {
    place.error(
        Reason::PortNotSpecified,
        format!("a reference to Service {key} needs a port"),
        "Add the port of the Service.",
    )
}

pub(crate) fn port_not_found(
    place: &Place,
    key: &Key,
    protocol: &str,
    port: u16,
    known: &[i32],
) -> Diagnostic {
    let known: Vec<_> = known.iter().map(ToString::to_string).collect();
    let remedy = if known.is_empty() {
        "Add the port to the Service.".to_owned()
    } else {
        format!("Its ports are {}.", known.join(", "))
    };
    place.error(Reason::PortNotFound, format!("Service {key} has no {protocol} port {port}"), remedy)
}

pub(crate) fn service_needs_tls(place: &Place, key: &Key, policy: &str) -> Diagnostic {
    place.error(
        Reason::InvalidBackendTLS,
        format!("{policy} asks for TLS to Service {key} that cannot be set up, and clear text would break its promise"),
        format!("Correct {policy}."),
    )
}

pub(crate) fn service_without_slices(place: &Place, key: &Key) -> Diagnostic {
    place.warning(
        Reason::EndpointsNotFound,
        format!("no EndpointSlice says where Service {key} runs, so it has no endpoints"),
        format!(
            "Add an EndpointSlice with the label kubernetes.io/service-name: {}, or refer to a Backend with an \
             fqdn endpoint.",
            key.name
        ),
    )
}

pub(crate) fn service_port_without_slices(place: &Place, key: &Key, port: u16) -> Diagnostic {
    place.warning(
        Reason::EndpointsNotFound,
        format!("no EndpointSlice of Service {key} has a port that belongs to its port {port}"),
        "Give the slice's port the name of the Service's port.",
    )
}
