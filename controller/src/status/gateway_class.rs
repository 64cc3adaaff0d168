//! GatewayClass: accepted, with what is supported.

use crate::CONTROLLER_NAME;
use crate::cluster::Cluster;
use crate::status::condition::{accepted, not_accepted};
use crate::status::findings::{Findings, sentences};
use crate::status::{Desired, Report};
use crate::watch::{Kind, ObjectId};

/// The features of Gateway API that act, by the names of its conformance tests, sorted.
pub(super) const FEATURES: &[&str] = &[
    "BackendTLSPolicy",
    "BackendTLSPolicySANValidation",
    "GRPCRoute",
    "GRPCRouteNamedRouteRule",
    "Gateway",
    "GatewayAddressEmpty",
    "GatewayBackendClientCertificate",
    "GatewayFrontendClientCertificateValidation",
    "GatewayFrontendClientCertificateValidationInsecureFallback",
    "GatewayHTTPListenerIsolation",
    "GatewayHTTPSListenerDetectMisdirectedRequests",
    "GatewayInfrastructure",
    "GatewayPort8080",
    "GatewayStaticAddresses",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteBackendProtocolH2C",
    "HTTPRouteBackendProtocolWebSocket",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendTimeout",
    "HTTPRouteCORS",
    "HTTPRouteDestinationPortMatching",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteNamedRouteRule",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestMirror",
    "HTTPRouteRequestMultipleMirrors",
    "HTTPRouteRequestPercentageMirror",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteRetry",
    "HTTPRouteRetryBackendTimeout",
    "HTTPRouteRetryConnectionError",
    "HTTPRouteSchemeRedirect",
    "ListenerSet",
    "ReferenceGrant",
    "TCPRoute",
    "TLSRoute",
    "TLSRouteModeMixed",
    "TLSRouteModeTerminate",
    "UDPRoute",
];

pub(super) fn build_classes(cluster: &Cluster, findings: &Findings<'_>) -> Vec<Desired> {
    let ours =
        cluster.gateway_classes.values().filter(|class| class.value.spec.controller_name == CONTROLLER_NAME);
    ours.map(|class| {
        let wrong: Vec<_> = findings.errors(&class.label).collect();
        let accepted = if wrong.is_empty() {
            accepted("Gateways of this class are served.")
        } else {
            not_accepted("InvalidParameters", sentences(&wrong))
        };
        Desired {
            id: ObjectId { kind: Kind::GatewayClass, key: class.key.clone() },
            generation: class.generation(),
            report: Report::Class { conditions: vec![accepted], features: FEATURES },
        }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::FEATURES;

    #[test]
    fn features_are_sorted_and_stand_once() {
        assert!(FEATURES.windows(2).all(|pair| pair[0] < pair[1]), "{FEATURES:?}");
    }
}
