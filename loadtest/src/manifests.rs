//! The manifests that the gateway is measured with: the objects and values of the failover task, with endpoints
//! on loopback.

use std::net::SocketAddr;

/// Writes the manifests for a listener port and the two backends.
pub(crate) fn failover_task(listener: u16, active: SocketAddr, passive: SocketAddr) -> String {
    TEMPLATE
        .replace("LISTENER", &listener.to_string())
        .replace("ACTIVE_IP", &active.ip().to_string())
        .replace("ACTIVE_PORT", &active.port().to_string())
        .replace("PASSIVE_IP", &passive.ip().to_string())
        .replace("PASSIVE_PORT", &passive.port().to_string())
}

const TEMPLATE: &str = "\
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
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: Backend
metadata:
  name: active
  namespace: default
spec:
  endpoints:
  - ip:
      address: ACTIVE_IP
      port: ACTIVE_PORT
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: Backend
metadata:
  name: passive
  namespace: default
spec:
  fallback: true
  endpoints:
  - ip:
      address: PASSIVE_IP
      port: PASSIVE_PORT
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
    - group: gateway.envoyproxy.io
      kind: Backend
      name: active
      namespace: default
    - group: gateway.envoyproxy.io
      kind: Backend
      name: passive
      namespace: default
    matches:
    - path:
        type: PathPrefix
        value: /test
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
  healthCheck:
    passive:
      baseEjectionTime: 10s
      interval: 2s
      maxEjectionPercent: 100
      consecutive5XxErrors: 1
      consecutiveGatewayErrors: 0
      consecutiveLocalOriginFailures: 1
      splitExternalLocalOriginErrors: false
";
