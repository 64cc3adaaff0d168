//! Where the API server has the objects of a kind.

use crate::watch::Kind;

/// A kind in one of its versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) kind: Kind,
    pub(crate) version: &'static str,
}

impl Target {
    /// A kind that every API server has.
    pub(crate) fn built_in(kind: Kind) -> Option<Self> {
        let info = kind.info();
        matches!(info.group, "" | "discovery.k8s.io").then(|| Self { kind, version: info.versions[0] })
    }

    /// The path of all its objects.
    pub(crate) fn path(self) -> String {
        format!("{}/{}", self.root(), plural(self.kind))
    }

    /// The path of the objects of a namespace.
    pub(crate) fn path_in(self, namespace: &str) -> String {
        format!("{}/namespaces/{namespace}/{}", self.root(), plural(self.kind))
    }

    fn root(self) -> String {
        match self.kind.info().group {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        }
    }

    /// Whether objects are listed without their contents, which may be secret, or large.
    pub(crate) fn is_metadata_only(self) -> bool {
        matches!(self.kind, Kind::Secret | Kind::ConfigMap)
    }
}

fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::Namespace => "namespaces",
        Kind::GatewayClass => "gatewayclasses",
        Kind::Gateway => "gateways",
        Kind::ListenerSet => "listenersets",
        Kind::HttpRoute => "httproutes",
        Kind::GrpcRoute => "grpcroutes",
        Kind::TlsRoute => "tlsroutes",
        Kind::TcpRoute => "tcproutes",
        Kind::UdpRoute => "udproutes",
        Kind::ReferenceGrant => "referencegrants",
        Kind::BackendTlsPolicy => "backendtlspolicies",
        Kind::Backend => "backends",
        Kind::BackendTrafficPolicy => "backendtrafficpolicies",
        Kind::Service => "services",
        Kind::EndpointSlice => "endpointslices",
        Kind::Secret => "secrets",
        Kind::ConfigMap => "configmaps",
        Kind::Node => "nodes",
        Kind::ServiceCidr => "servicecidrs",
    }
}
