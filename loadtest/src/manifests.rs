//! The manifests that the gateway is measured with: the failover task's objects, with a case's policy and endpoints on
//! loopback. Pure.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

/// The name that [`FallbackKind::Fqdn`] gives the fallback; the drill's own DNS server knows it.
pub(crate) const FALLBACK_NAME: &str = "passive.drill.example";

/// What stands before the backends in a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setup {
    /// Backends of the primary pool.
    pub(crate) primaries: usize,
    pub(crate) primary: PrimaryKind,
    pub(crate) fallback: FallbackKind,
    /// Fields of the `BackendTrafficPolicy`'s spec as YAML, indented by two; without any there is no policy.
    pub(crate) policy: String,
    /// How long a backend takes for an answer.
    pub(crate) delay: Duration,
}

impl Setup {
    /// One primary and one fallback backend by address.
    pub(crate) fn task(policy: impl Into<String>) -> Self {
        Self {
            primaries: 1,
            primary: PrimaryKind::Backend,
            fallback: FallbackKind::Address,
            policy: policy.into(),
            delay: Duration::ZERO,
        }
    }
}

/// What the route refers to first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PrimaryKind {
    /// A Backend with addresses.
    Backend,
    /// A Service without a single endpoint, as one that is scaled to zero.
    EmptyService,
    /// A Backend that does not exist.
    Missing,
}

/// How the fallback is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FallbackKind {
    /// With an address.
    Address,
    /// With a name.
    Fqdn,
}

/// Writes the manifests.
pub(crate) fn render(setup: &Setup, listener: u16, primaries: &[SocketAddr], fallback: SocketAddr) -> String {
    let mut text = HEAD.replace("LISTENER", &listener.to_string());
    match setup.primary {
        PrimaryKind::Backend => {
            text.push_str(ACTIVE);
            for address in primaries {
                endpoint(&mut text, *address);
            }
        }
        PrimaryKind::EmptyService => text.push_str(EMPTY_SERVICE),
        PrimaryKind::Missing => {}
    }
    text.push_str(PASSIVE);
    match setup.fallback {
        FallbackKind::Address => endpoint(&mut text, fallback),
        FallbackKind::Fqdn => {
            // Writing to a String cannot fail.
            let _ =
                write!(text, "  - fqdn:\n      hostname: {FALLBACK_NAME}\n      port: {}\n", fallback.port());
        }
    }
    text.push_str(&ROUTE.replace(
        "ACTIVE_REF",
        match setup.primary {
            PrimaryKind::EmptyService => SERVICE_REF,
            PrimaryKind::Backend | PrimaryKind::Missing => BACKEND_REF,
        },
    ));
    if !setup.policy.is_empty() {
        text.push_str(POLICY);
        text.push_str(&setup.policy);
    }
    text
}

fn endpoint(text: &mut String, address: SocketAddr) {
    let _ = write!(text, "  - ip:\n      address: {}\n      port: {}\n", address.ip(), address.port());
}

const HEAD: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata:
  name: understudy
spec:
  controllerName: understudy.dev/gateway-controller
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: eg
  namespace: default
spec:
  gatewayClassName: understudy
  listeners:
  - name: http
    protocol: HTTP
    port: LISTENER
";

const ACTIVE: &str = "\
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: Backend
metadata:
  name: active
  namespace: default
spec:
  endpoints:
";

const EMPTY_SERVICE: &str = "\
---
apiVersion: v1
kind: Service
metadata:
  name: active
  namespace: default
spec:
  selector:
    app: active
  ports:
  - name: http
    port: 3000
    targetPort: 3000
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: active-1
  namespace: default
  labels:
    kubernetes.io/service-name: active
addressType: IPv4
ports:
- name: http
  port: 3000
  protocol: TCP
endpoints: []
";

const PASSIVE: &str = "\
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: Backend
metadata:
  name: passive
  namespace: default
spec:
  fallback: true
  endpoints:
";

const ROUTE: &str = "\
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: ha-example
  namespace: default
spec:
  hostnames:
  - www.example.com
  parentRefs:
  - group: gateway.networking.k8s.io
    kind: Gateway
    name: eg
    namespace: default
  rules:
  - backendRefs:
ACTIVE_REF    - group: gateway.envoyproxy.io
      kind: Backend
      name: passive
    matches:
    - path:
        type: PathPrefix
        value: /test
";

// Not after a line continuation, which would swallow the indentation.
const BACKEND_REF: &str = "    - group: gateway.envoyproxy.io
      kind: Backend
      name: active
";

const SERVICE_REF: &str = "    - kind: Service
      name: active
      port: 3000
";

const POLICY: &str = "\
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: BackendTrafficPolicy
metadata:
  name: passive-health-check
  namespace: default
spec:
  targetRefs:
  - group: gateway.networking.k8s.io
    kind: HTTPRoute
    name: ha-example
";

/// The failover task's detection with another base ejection time, interval and share.
pub(crate) fn passive(base: &str, interval: &str, percent: u32) -> String {
    passive_with(base, interval, percent, "consecutive5XxErrors: 1\n      consecutiveGatewayErrors: 0")
}

/// Detection with these counters, more than one parted by a line break and six spaces.
pub(crate) fn passive_with(base: &str, interval: &str, percent: u32, counters: &str) -> String {
    format!(
        "  healthCheck:
    passive:
      baseEjectionTime: {base}
      interval: {interval}
      maxEjectionPercent: {percent}
      {counters}
"
    )
}

/// The failover task's own detection.
pub(crate) fn task_passive() -> String {
    passive("10s", "2s", 100)
}

/// Envoy Gateway's default retries, asked for by an empty object.
pub(crate) const RETRY: &str = "  retry: {}\n";

/// The default, and requests whose connection was reset.
pub(crate) const RETRY_RESET: &str = "  retry:
    retryOn:
      httpStatusCodes: [503]
      triggers: [connect-failure, refused-stream, unavailable, cancelled, retriable-status-codes, reset]
";

/// The default, with the next pool at the second attempt.
pub(crate) const RETRY_PRIORITY: &str = "  retry:\n    numAttemptsPerPriority: 1\n";

/// Timeouts of a connection and of the whole request.
pub(crate) fn timeouts(connect: &str, request: &str) -> String {
    format!(
        "  timeout:
    tcp:
      connectTimeout: {connect}
    http:
      requestTimeout: {request}
"
    )
}
