//! Which kinds are read, and in which versions.

use std::fmt;

/// A kind that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Namespace,
    GatewayClass,
    Gateway,
    ListenerSet,
    HttpRoute,
    GrpcRoute,
    TlsRoute,
    TcpRoute,
    UdpRoute,
    ReferenceGrant,
    BackendTlsPolicy,
    Backend,
    BackendTrafficPolicy,
    Service,
    EndpointSlice,
    Secret,
    ConfigMap,
    Node,
    ServiceCidr,
}

/// What is known of a kind.
pub(crate) struct KindInfo {
    pub(crate) kind: Kind,
    pub(crate) name: &'static str,
    pub(crate) group: &'static str,
    /// The versions that are read, the best one first.
    pub(crate) versions: &'static [&'static str],
    pub(crate) namespaced: bool,
}

const fn row(
    kind: Kind,
    name: &'static str,
    group: &'static str,
    versions: &'static [&'static str],
    namespaced: bool,
) -> KindInfo {
    KindInfo { kind, name, group, versions, namespaced }
}

pub(crate) const GATEWAY_API: &str = "gateway.networking.k8s.io";
pub(crate) const ENVOY: &str = understudy_crds::GROUP;

const KINDS: [KindInfo; 19] = [
    row(Kind::Namespace, "Namespace", "", &["v1"], false),
    row(Kind::GatewayClass, "GatewayClass", GATEWAY_API, &["v1", "v1beta1"], false),
    row(Kind::Gateway, "Gateway", GATEWAY_API, &["v1", "v1beta1"], true),
    row(Kind::ListenerSet, "ListenerSet", GATEWAY_API, &["v1"], true),
    row(Kind::HttpRoute, "HTTPRoute", GATEWAY_API, &["v1", "v1beta1"], true),
    row(Kind::GrpcRoute, "GRPCRoute", GATEWAY_API, &["v1", "v1alpha2"], true),
    row(Kind::TlsRoute, "TLSRoute", GATEWAY_API, &["v1", "v1alpha3", "v1alpha2"], true),
    row(Kind::TcpRoute, "TCPRoute", GATEWAY_API, &["v1", "v1alpha2"], true),
    row(Kind::UdpRoute, "UDPRoute", GATEWAY_API, &["v1", "v1alpha2"], true),
    row(Kind::ReferenceGrant, "ReferenceGrant", GATEWAY_API, &["v1", "v1beta1"], true),
    row(Kind::BackendTlsPolicy, "BackendTLSPolicy", GATEWAY_API, &["v1", "v1alpha3"], true),
    row(Kind::Backend, "Backend", ENVOY, &["v1alpha1"], true),
    row(Kind::BackendTrafficPolicy, "BackendTrafficPolicy", ENVOY, &["v1alpha1"], true),
    row(Kind::Service, "Service", "", &["v1"], true),
    row(Kind::EndpointSlice, "EndpointSlice", "discovery.k8s.io", &["v1"], true),
    row(Kind::Secret, "Secret", "", &["v1"], true),
    row(Kind::ConfigMap, "ConfigMap", "", &["v1"], true),
    row(Kind::Node, "Node", "", &["v1"], false),
    row(Kind::ServiceCidr, "ServiceCIDR", "networking.k8s.io", &["v1", "v1beta1"], false),
];

/// Kinds of the two gateway groups that are known and do not act.
const NOT_ACTING: [&str; 11] = [
    "XListenerSet",
    "XBackendTrafficPolicy",
    "XMesh",
    "ClientTrafficPolicy",
    "SecurityPolicy",
    "EnvoyProxy",
    "EnvoyExtensionPolicy",
    "EnvoyPatchPolicy",
    "HTTPRouteFilter",
    "EnvoyGateway",
    "BackendLBPolicy",
];

impl Kind {
    /// The kinds of routes.
    pub(crate) const ROUTES: [Self; 5] =
        [Self::HttpRoute, Self::GrpcRoute, Self::TlsRoute, Self::TcpRoute, Self::UdpRoute];

    /// The kind of route that has a name.
    pub(crate) fn route_by_name(name: &str) -> Option<Self> {
        Self::ROUTES.into_iter().find(|kind| kind.info().name == name)
    }

    /// Whether it is a kind of route.
    pub(crate) fn is_route(self) -> bool {
        Self::ROUTES.contains(&self)
    }

    /// Whether it is a kind of route that knows requests, and not just connections or datagrams.
    pub(crate) fn has_requests(self) -> bool {
        matches!(self, Self::HttpRoute | Self::GrpcRoute)
    }

    /// Whether everything else is served without it where it may not be listed: a kind that was not read by the first
    /// versions, whose ClusterRole may still stand. Others say who may do what, or how backends are spoken to.
    pub(crate) fn is_dispensable(self) -> bool {
        matches!(self, Self::ListenerSet | Self::ServiceCidr) || self.is_route() && self != Self::HttpRoute
    }

    /// Every kind that is read.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        KINDS.iter().map(|info| info.kind)
    }

    pub(crate) fn info(self) -> &'static KindInfo {
        // Every kind has its row (a test proves it), so the fallback is never taken.
        KINDS.iter().find(|info| info.kind == self).unwrap_or(&KINDS[0])
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.info().name)
    }
}

/// What `apiVersion` and `kind` of a document stand for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Recognized {
    /// A kind that is read.
    Known(Kind),
    /// A kind that is read, under another `apiVersion`: the right one.
    WrongVersion(String),
    /// A kind of the gateway groups that does not act.
    NotActing,
    /// A word near to a kind that is read.
    Misspelt(&'static str),
    /// Something else, which is passed over.
    Other,
}

pub(crate) fn recognize(api_version: &str, kind: &str) -> Recognized {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let ours = group == GATEWAY_API || group == ENVOY;
    if let Some(info) = KINDS.iter().find(|info| info.name == kind) {
        if info.group == group && info.versions.contains(&version) {
            return Recognized::Known(info.kind);
        }
        // A Service, Gateway or Backend of an unrelated group is a kind of its own.
        let distinctive = info.kind.is_route()
            || matches!(kind, "BackendTrafficPolicy" | "GatewayClass" | "ReferenceGrant");
        let core_only = group.is_empty() && !info.group.is_empty();
        if info.group == group || ours || distinctive || core_only || group.ends_with("x-k8s.io") {
            let prefix = if info.group.is_empty() { String::new() } else { format!("{}/", info.group) };
            return Recognized::WrongVersion(format!("{prefix}{}", info.versions[0]));
        }
        return Recognized::Other;
    }
    if !ours {
        return Recognized::Other;
    }
    if NOT_ACTING.contains(&kind) {
        return Recognized::NotActing;
    }
    let near = super::nearest(kind, KINDS.iter().filter(|info| info.group == group).map(|info| info.name));
    near.map_or(Recognized::Other, Recognized::Misspelt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_recognized_with_group_and_version() {
        for (api_version, kind, expected) in [
            ("gateway.networking.k8s.io/v1", "HTTPRoute", Recognized::Known(Kind::HttpRoute)),
            ("gateway.networking.k8s.io/v1beta1", "HTTPRoute", Recognized::Known(Kind::HttpRoute)),
            (
                "gateway.networking.k8s.io/v1alpha2",
                "HTTPRoute",
                Recognized::WrongVersion("gateway.networking.k8s.io/v1".into()),
            ),
            (
                "gateway.networking.k8s.io/v1alpha1",
                "Backend",
                Recognized::WrongVersion("gateway.envoyproxy.io/v1alpha1".into()),
            ),
            ("v1", "Backend", Recognized::WrongVersion("gateway.envoyproxy.io/v1alpha1".into())),
            ("v2", "Service", Recognized::WrongVersion("v1".into())),
            ("serving.knative.dev/v1", "Service", Recognized::Other),
            ("networking.istio.io/v1", "Gateway", Recognized::Other),
            ("apps/v1", "Deployment", Recognized::Other),
            ("gateway.networking.k8s.io/v1", "HttpRoute", Recognized::Misspelt("HTTPRoute")),
            (
                "gateway.envoyproxy.io/v1alpha1",
                "BackendTraficPolicy",
                Recognized::Misspelt("BackendTrafficPolicy"),
            ),
            ("gateway.networking.k8s.io/v1", "GRPCRoute", Recognized::Known(Kind::GrpcRoute)),
            ("gateway.networking.k8s.io/v1alpha3", "TLSRoute", Recognized::Known(Kind::TlsRoute)),
            ("gateway.networking.k8s.io/v1alpha2", "UDPRoute", Recognized::Known(Kind::UdpRoute)),
            ("gateway.networking.k8s.io/v1", "TcpRoute", Recognized::Misspelt("TCPRoute")),
            ("gateway.networking.k8s.io/v1", "XMesh", Recognized::NotActing),
        ] {
            assert_eq!(recognize(api_version, kind), expected, "{api_version} {kind}");
        }
    }

    #[test]
    fn every_kind_has_its_row() {
        for info in &KINDS {
            assert_eq!(info.kind.info().name, info.name);
        }
    }
}
