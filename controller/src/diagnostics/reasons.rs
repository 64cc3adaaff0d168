//! One constructor for each thing that is said.

use std::net::SocketAddr;

use understudy_conf::{GatewayDuration, HostnameError, Priority, Weight};

use crate::cluster::{Key, Refused};
use crate::diagnostics::{Diagnostic, Place, Reason};
use crate::graph::{Referrer, Unusable};
use crate::watch::Kind;

/// "Did you mean X?" where something near is known, else a remedy.
fn suggest(near: Option<&str>, remedy: impl Into<String>) -> String {
    near.map_or_else(|| remedy.into(), |near| format!("Did you mean {near}?"))
}

// Reading.

pub(crate) fn unreadable(place: &Place, error: &std::io::Error) -> Diagnostic {
    place.error(
        Reason::Unreadable,
        format!("it cannot be read: {error}"),
        "Check the path and its permissions.",
    )
}

pub(crate) fn no_manifests(place: &Place) -> Diagnostic {
    place.warning(
        Reason::Unreadable,
        "the folder holds no manifest",
        "Put files that end in .yaml, .yml or .json there.",
    )
}

pub(crate) fn too_many_files(place: &Place, limit: usize) -> Diagnostic {
    place.error(
        Reason::Unreadable,
        format!("there are more than {limit} files, and the rest is not read"),
        "Join them: one file may hold many objects.",
    )
}

pub(crate) fn syntax(place: &Place, message: impl Into<String>, remedy: &str) -> Diagnostic {
    place.error(Reason::Syntax, message, remedy)
}

pub(crate) fn malformed(place: &Place, message: impl Into<String>, remedy: impl Into<String>) -> Diagnostic {
    place.error(Reason::Malformed, message, remedy)
}

pub(crate) fn unknown_field(place: &Place, field: &str, near: Option<&str>, known: &[&str]) -> Diagnostic {
    let remedy = match near {
        Some(near) => format!("Did you mean {near}?"),
        None if known.len() <= 16 => format!("Known are {}.", known.join(", ")),
        None => "Remove it: a cluster would drop it.".to_owned(),
    };
    place.error(
        Reason::UnknownField,
        format!("there is no field {:?} here", crate::watch::shortened(field)),
        remedy,
    )
}

pub(crate) fn duplicate_key(place: &Place, key: &str, first: u32) -> Diagnostic {
    place.error(
        Reason::Duplicate,
        format!("{key:?} stands twice in one mapping, first in line {first}"),
        "Remove one of the two; until then the first one counts.",
    )
}

pub(crate) fn duplicate_object(place: &Place, first: &str) -> Diagnostic {
    place.error(
        Reason::Duplicate,
        format!("the object stands twice, first in {first}"),
        "Remove or rename one of the two; until then the first one counts.",
    )
}

pub(crate) fn unsupported_version(place: &Place, kind: &str, found: &str, right: &str) -> Diagnostic {
    place.error(
        Reason::UnsupportedVersion,
        format!("{kind} is not read as {found:?}"),
        format!("Use apiVersion: {right}."),
    )
}

pub(crate) fn misspelt_kind(place: &Place, kind: &str, near: &str) -> Diagnostic {
    place.error(Reason::InvalidKind, format!("there is no kind {kind:?}"), format!("Did you mean {near}?"))
}

pub(crate) fn kind_not_acting(place: &Place, kind: &str) -> Diagnostic {
    place.warning(Reason::NotActing, format!("objects of kind {kind} do not act yet"), "")
}

pub(crate) fn last_good_file(place: &Place) -> Diagnostic {
    place.warning(
        Reason::LastGoodKept,
        "the file cannot be used as it is now, so the objects that it had before stay",
        "Correct it; what was served goes on until then.",
    )
}

pub(crate) fn last_good_object(place: &Place) -> Diagnostic {
    place.warning(
        Reason::LastGoodKept,
        "the object cannot be used as it is now, so its last good version stays",
        "Correct it; what was served goes on until then.",
    )
}

// Values.

pub(crate) fn invalid(place: &Place, message: impl Into<String>, remedy: impl Into<String>) -> Diagnostic {
    place.error(Reason::Invalid, message, remedy)
}

pub(crate) fn invalid_hostname(place: &Place, error: &HostnameError) -> Diagnostic {
    place.error(Reason::Invalid, error.to_string(), "Use a name such as www.example.com or *.example.com.")
}

pub(crate) fn unsupported_value(
    place: &Place,
    message: impl Into<String>,
    remedy: impl Into<String>,
) -> Diagnostic {
    place.error(Reason::UnsupportedValue, message, remedy)
}

pub(crate) fn no_effect(place: &Place, message: impl Into<String>, remedy: impl Into<String>) -> Diagnostic {
    place.warning(Reason::NoEffect, message, remedy)
}

pub(crate) fn not_acting(place: &Place, message: &str) -> Diagnostic {
    place.warning(Reason::NotActing, message, "It is accepted without effect: do not rely on it.")
}

pub(crate) fn not_acting_info(place: &Place, message: &str) -> Diagnostic {
    place.info(Reason::NotActing, message, "")
}

pub(crate) fn deprecated(place: &Place, successor: &str) -> Diagnostic {
    place.info(Reason::DeprecatedField, "the field is deprecated", format!("Use {successor}."))
}

// Gateways.

pub(crate) fn missing_class(place: &Place, name: &str, near: Option<&str>, controller: &str) -> Diagnostic {
    let remedy = format!("Add a GatewayClass {name} with controllerName: {controller}.");
    place.error(
        Reason::InvalidParameters,
        format!("there is no GatewayClass {name}, so the Gateway is not served"),
        suggest(near, remedy),
    )
}

pub(crate) fn refused_class(place: &Place, name: &str, location: &str) -> Diagnostic {
    place.error(
        Reason::InvalidParameters,
        format!("GatewayClass {name} could not be read ({location}), so the Gateway is not served"),
        "Correct the class.",
    )
}

pub(crate) fn foreign_class(place: &Place, name: &str, found: &str, controller: &str) -> Diagnostic {
    place.warning(
        Reason::InvalidParameters,
        format!("GatewayClass {name} belongs to {found:?}, so the Gateway is not served here"),
        format!("Use a GatewayClass with controllerName: {controller}."),
    )
}

pub(crate) fn unsupported_address(place: &Place, kind: &str, value: &str) -> Diagnostic {
    place.error(
        Reason::UnsupportedAddress,
        format!("{value:?} of type {kind} is no address that can be bound"),
        "Use type IPAddress and an address of this machine.",
    )
}

pub(crate) fn protocol_not_acting(place: &Place, listener: &str, protocol: &str) -> Diagnostic {
    place.warning(
        Reason::UnsupportedProtocol,
        format!("listener {listener} of protocol {protocol} is not served yet"),
        "Use protocol HTTP.",
    )
}

pub(crate) fn unsupported_protocol(place: &Place, protocol: &str) -> Diagnostic {
    place.error(
        Reason::UnsupportedProtocol,
        format!("protocol {protocol:?} is unknown"),
        "Use HTTP; HTTPS, TLS, TCP and UDP are known and not served yet.",
    )
}

pub(crate) fn port_out_of_range(place: &Place, port: u16, offset: u16) -> Diagnostic {
    place.error(
        Reason::PortUnavailable,
        format!("port {port} with the offset of {offset} is above 65535"),
        "Use a smaller --port-offset.",
    )
}

pub(crate) fn port_unavailable(
    place: &Place,
    socket: SocketAddr,
    taken: SocketAddr,
    owner: &Key,
) -> Diagnostic {
    place.error(
        Reason::PortUnavailable,
        format!("{socket} is not free: Gateway {owner} has {taken}"),
        "Use another port, or give each Gateway an address of its own in spec.addresses (127.0.0.2, for instance).",
    )
}

pub(crate) fn hostname_conflict(place: &Place, other: &str, port: u16) -> Diagnostic {
    place.error(
        Reason::HostnameConflict,
        format!("listener {other} has port {port} with the same hostname already, so this one is not served"),
        "Give it another hostname or port.",
    )
}

pub(crate) fn invalid_route_kind(place: &Place, kind: &str) -> Diagnostic {
    place.error(
        Reason::InvalidRouteKinds,
        format!("routes of kind {kind} cannot be served by an HTTP listener here"),
        "Use HTTPRoute.",
    )
}

// Parents of routes.

pub(crate) fn no_parents(place: &Place) -> Diagnostic {
    place.error(
        Reason::NoMatchingParent,
        "the route has no parent, so it is not served",
        "Name a Gateway in spec.parentRefs.",
    )
}

pub(crate) fn invalid_parent_kind(place: &Place, group: &str, kind: &str) -> Diagnostic {
    place.error(
        Reason::InvalidKind,
        format!("a {kind} of group {group:?} cannot be the parent of a route here"),
        "Use a Gateway.",
    )
}

pub(crate) fn missing_parent(
    place: &Place,
    key: &Key,
    near: Option<&str>,
    refused: Option<&Refused>,
) -> Diagnostic {
    if let Some(Refused { location, .. }) = refused {
        let message = format!("Gateway {key} could not be read ({location})");
        return place.error(Reason::NoMatchingParent, message, "Correct the Gateway.");
    }
    place.error(
        Reason::NoMatchingParent,
        format!("there is no Gateway {key}"),
        suggest(near, "Add it, or correct name and namespace of the parent."),
    )
}

pub(crate) fn parent_not_served(place: &Place, key: &Key) -> Diagnostic {
    place.info(
        Reason::NoMatchingParent,
        format!("Gateway {key} is not served here"),
        "See what is said of it.",
    )
}

pub(crate) fn missing_listener(
    place: &Place,
    gateway: &Key,
    section: &str,
    near: Option<&str>,
) -> Diagnostic {
    place.error(
        Reason::NoMatchingParent,
        format!("Gateway {gateway} has no listener {section}"),
        suggest(near, "Use the name of one of its listeners, or leave sectionName out."),
    )
}

pub(crate) fn no_served_listener(place: &Place, gateway: &Key, asked: bool) -> Diagnostic {
    if asked {
        let message = format!("no listener of Gateway {gateway} that is meant is served");
        return place.warning(Reason::NoMatchingParent, message, "See what is said of the Gateway.");
    }
    place.error(
        Reason::NoMatchingParent,
        format!("Gateway {gateway} has no listener on that port"),
        "Use the port of one of its listeners, or leave port out.",
    )
}

pub(crate) fn not_allowed_by_listeners(place: &Place, gateway: &Key, namespace: &str) -> Diagnostic {
    place.error(
        Reason::NotAllowedByListeners,
        format!(
            "no listener of Gateway {gateway} that is meant allows HTTPRoutes from namespace {namespace}"
        ),
        "Set allowedRoutes.namespaces.from: All, or a selector, at the listener.",
    )
}

pub(crate) fn no_matching_hostname(place: &Place, gateway: &Key) -> Diagnostic {
    place.error(
        Reason::NoMatchingListenerHostname,
        format!("no hostname of the route is one of the listeners of Gateway {gateway} that are meant"),
        "Let hostnames of route and listener overlap, or remove the listener's.",
    )
}

// Rules and references.

pub(crate) fn rule_left_out(place: &Place) -> Diagnostic {
    place.error(
        Reason::UnsupportedValue,
        "the rule is left out, because a match of it cannot act",
        "Correct the match.",
    )
}

pub(crate) fn no_backend_refs(place: &Place) -> Diagnostic {
    place.warning(
        Reason::BackendNotFound,
        "the rule refers to nothing, so it answers 500",
        "Add backendRefs, or a RequestRedirect filter.",
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

pub(crate) fn invalid_backend(place: &Place, unusable: &Unusable) -> Diagnostic {
    place.error(Reason::Invalid, &unusable.message, &unusable.remedy)
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

pub(crate) fn port_not_found(place: &Place, key: &Key, port: u16, known: &[i32]) -> Diagnostic {
    let known: Vec<_> = known.iter().map(ToString::to_string).collect();
    let remedy = if known.is_empty() {
        "Add the port to the Service.".to_owned()
    } else {
        format!("Its ports are {}.", known.join(", "))
    };
    place.error(Reason::PortNotFound, format!("Service {key} has no TCP port {port}"), remedy)
}

pub(crate) fn service_needs_tls(place: &Place, key: &Key, policy: &str) -> Diagnostic {
    place.error(
        Reason::InvalidBackendTLS,
        format!("{policy} asks for TLS to Service {key}, which is not spoken to backends yet"),
        "Remove the policy if plain text is meant, or use another Service.",
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

// Policies.

pub(crate) fn target_not_found(
    place: &Place,
    kind: Kind,
    key: &Key,
    near: Option<&str>,
    refused: Option<&Refused>,
) -> Diagnostic {
    if let Some(Refused { location, .. }) = refused {
        let message = format!("{kind} {key} could not be read ({location})");
        return place.error(Reason::TargetNotFound, message, format!("Correct the {kind}."));
    }
    place.error(
        Reason::TargetNotFound,
        format!("there is no {kind} {key}, so the policy does not act on it"),
        suggest(near, "Name an object in the policy's own namespace."),
    )
}

pub(crate) fn missing_rule(place: &Place, route: &Key, section: &str, near: Option<&str>) -> Diagnostic {
    place.error(
        Reason::TargetNotFound,
        format!("HTTPRoute {route} has no rule named {section}"),
        suggest(near, "Give the rule that name, or leave sectionName out."),
    )
}

pub(crate) fn missing_listener_target(
    place: &Place,
    gateway: &Key,
    section: &str,
    near: Option<&str>,
) -> Diagnostic {
    place.error(
        Reason::TargetNotFound,
        format!("Gateway {gateway} has no listener {section}"),
        suggest(near, "Use the name of one of its listeners, or leave sectionName out."),
    )
}

pub(crate) fn selector_without_targets(place: &Place, kind: &str) -> Diagnostic {
    place.warning(
        Reason::TargetNotFound,
        format!("the selector selects no {kind}"),
        "Compare its labels with those of the objects; another namespace needs namespaces and a ReferenceGrant.",
    )
}

pub(crate) fn policy_conflicted(place: &Place, owner: &Key, location: &str) -> Diagnostic {
    place.error(
        Reason::Conflicted,
        format!("BackendTrafficPolicy {owner} ({location}) has the same target, and was first"),
        "Join the two, or give them different targets.",
    )
}

pub(crate) fn policy_overridden(place: &Place, spot: &str, winner: &Key) -> Diagnostic {
    place.info(
        Reason::Overridden,
        format!("it does not act on {spot}, where BackendTrafficPolicy {winner} replaces it as a whole"),
        "",
    )
}

pub(crate) fn local_origin_without_split(place: &Place) -> Diagnostic {
    place.warning(
        Reason::NoEffect,
        "it has no effect without splitExternalLocalOriginErrors: local failures count as 5xx",
        "Set splitExternalLocalOriginErrors: true, or remove it.",
    )
}

pub(crate) fn first_ejection_always_allowed(place: &Place) -> Diagnostic {
    place.info(Reason::NoEffect, "the first ejection of a pool is always allowed", "Remove it.")
}

pub(crate) fn buffer_limit_capped(place: &Place) -> Diagnostic {
    place.warning(
        Reason::NotActing,
        "at most 64Ki of a request's body are kept for a retry",
        "A request with a longer body is not retried once it was read; use 64Ki or less.",
    )
}

// Failover.

pub(crate) fn fallback_without_detection(place: &Place, policy: Option<&str>) -> Diagnostic {
    let message = match policy {
        None => "nothing detects that the primary fails, so the fallback serves only when the primary has no endpoint \
                 or cannot be connected to"
            .to_owned(),
        Some(policy) => format!(
            "{policy} has no healthCheck.passive, so the fallback serves only when the primary has no endpoint or \
             cannot be connected to"
        ),
    };
    let remedy = match policy {
        None => "Add a BackendTrafficPolicy with healthCheck.passive for the route.",
        Some(_) => "Add healthCheck.passive to it.",
    };
    place.warning(Reason::FailoverImpossible, message, remedy)
}

pub(crate) fn every_detector_off(place: &Place) -> Diagnostic {
    place.warning(
        Reason::FailoverImpossible,
        "every detector is off, so no endpoint is ever ejected",
        "Set consecutive5XxErrors or consecutiveGatewayErrors to 1 or more.",
    )
}

pub(crate) fn ejection_percent_too_low(place: &Place, percent: usize, endpoints: usize) -> Diagnostic {
    place.warning(
        Reason::FailoverImpossible,
        format!("{percent} % of {endpoints} primary endpoints allow no ejection but the first"),
        "Use 100, so that the fallback can take over from a primary pool that fails as a whole.",
    )
}

pub(crate) fn weight_zero(place: &Place, priority: Priority) -> Diagnostic {
    let pool = if priority == 0 { "primary" } else { "fallback" };
    place.warning(
        Reason::NoEffect,
        format!(
            "with weight 0 the reference gets no traffic, not even when the rest of the {pool} pool fails"
        ),
        "Remove the reference, or give it a weight.",
    )
}

pub(crate) fn weight_as_share(place: &Place, primary: Weight, fallback: Weight) -> Diagnostic {
    place.warning(
        Reason::NoEffect,
        format!(
            "{primary} to {fallback} is no split: weights count only within the primary or the fallback pool"
        ),
        "Remove the weights; for a split, remove fallback: true from the Backend.",
    )
}

pub(crate) fn only_fallbacks(place: &Place) -> Diagnostic {
    place.warning(
        Reason::NoEffect,
        "all references are fallbacks, so there is no primary pool",
        "Remove fallback: true from one of the Backends.",
    )
}

pub(crate) fn request_timeout_below_connect(
    place: &Place,
    request: GatewayDuration,
    connect: GatewayDuration,
) -> Diagnostic {
    place.warning(
        Reason::FailoverImpossible,
        format!("requests end after {request}, before a connection attempt does ({connect}), so none can be retried"),
        "Set timeout.tcp.connectTimeout of a BackendTrafficPolicy well below it.",
    )
}
