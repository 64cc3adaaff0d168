//! The objects of the measurement. Pure.

use serde_json::{Value, json};

/// The namespace of the Gateway, its policy and the controller's Leases; those of the routes follow its name.
pub(super) const NAMESPACE: &str = "understudy-scale";

/// How many objects there are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) routes: usize,
    pub(super) services: usize,
    pub(super) namespaces: usize,
    pub(super) pods: usize,
}

/// An object with the collection that it belongs to.
pub(super) struct Object {
    pub(super) collection: String,
    pub(super) content: Value,
}

impl Object {
    fn new(collection: impl Into<String>, content: Value) -> Self {
        Self { collection: collection.into(), content }
    }

    /// Where it is once it was created.
    pub(super) fn path(&self) -> String {
        format!("{}/{}", self.collection, self.content["metadata"]["name"].as_str().unwrap_or_default())
    }
}

pub(super) const CLASSES: &str = "/apis/gateway.networking.k8s.io/v1/gatewayclasses";
pub(super) const NAMESPACES: &str = "/api/v1/namespaces";

/// Where the Gateway is.
pub(super) fn gateway_path() -> String {
    format!("{}/{NAMESPACE}", gateways())
}

fn gateways() -> String {
    format!("/apis/gateway.networking.k8s.io/v1/namespaces/{NAMESPACE}/gateways")
}

pub(super) fn namespace_name(number: usize) -> String {
    format!("{NAMESPACE}-{number}")
}

/// The collections that fill a namespace.
pub(super) fn collections_of(namespace: &str) -> [String; 3] {
    [
        format!("/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/httproutes"),
        format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"),
        format!("/api/v1/namespaces/{namespace}/services"),
    ]
}

pub(super) fn count(size: &Size) -> usize {
    size.routes + 2 * size.services + size.namespaces + 4
}

/// What comes before everything: namespace, class, Gateway on this port, policy.
pub(super) fn base(port: u16) -> Vec<Object> {
    let policies =
        format!("/apis/gateway.envoyproxy.io/v1alpha1/namespaces/{NAMESPACE}/backendtrafficpolicies");
    vec![
        namespace(NAMESPACE),
        Object::new(
            CLASSES,
            json!({
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
                "metadata": { "name": NAMESPACE },
                "spec": { "controllerName": understudy_controller::CONTROLLER_NAME },
            }),
        ),
        Object::new(
            gateways(),
            json!({
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
                "metadata": { "name": NAMESPACE, "namespace": NAMESPACE },
                "spec": {
                    "gatewayClassName": NAMESPACE,
                    "listeners": [{
                        "name": "http", "protocol": "HTTP", "port": port,
                        "allowedRoutes": { "namespaces": { "from": "All" } },
                    }],
                },
            }),
        ),
        Object::new(
            policies,
            json!({
                "apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "BackendTrafficPolicy",
                "metadata": { "name": "failover", "namespace": NAMESPACE },
                "spec": {
                    "targetRefs": [{ "group": "gateway.networking.k8s.io", "kind": "Gateway", "name": NAMESPACE }],
                    "retry": { "numRetries": 2, "retryOn": { "triggers": ["connect-failure", "retriable-status-codes"],
                        "httpStatusCodes": [503] } },
                    "healthCheck": { "passive": {
                        "baseEjectionTime": "10s", "interval": "2s", "maxEjectionPercent": 100,
                        "consecutive5XxErrors": 1, "consecutiveGatewayErrors": 0,
                    } },
                },
            }),
        ),
    ]
}

/// Namespaces, then Services with their slices, then routes: each step needs the one before only.
pub(super) fn all(size: Size) -> [Vec<Object>; 3] {
    let namespaces = (0..size.namespaces).map(|number| namespace(&namespace_name(number))).collect();
    let services =
        (0..size.services).flat_map(|number| [service(number, size), slice(number, 0, size)]).collect();
    let routes = (0..size.routes).map(|number| route(number, "/api", size)).collect();
    [namespaces, services, routes]
}

/// A route that differs from what it was before the edit.
pub(super) fn edited_route(number: usize, edit: usize, size: Size) -> Object {
    route(number, &format!("/edit/{edit}"), size)
}

/// The slice that changes with the `change`th change: one of its pods is another one.
pub(super) fn churned_slice(change: usize, size: Size) -> Object {
    slice(change % size.services, change / size.services + 1, size)
}

/// The state's name of the backend that a change concerns, and the last pod's UID in it.
pub(super) fn churned_backend(change: usize, size: Size) -> (String, String) {
    let number = change % size.services;
    let backend = format!("service/{}/s{number}/80", namespace_name(number % size.namespaces));
    (backend, uid(number, 0, change / size.services + 1))
}

fn namespace(name: &str) -> Object {
    Object::new(NAMESPACES, json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } }))
}

fn service(number: usize, size: Size) -> Object {
    let namespace = namespace_name(number % size.namespaces);
    let [.., services] = collections_of(&namespace);
    Object::new(
        services,
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": format!("s{number}"), "namespace": namespace },
            "spec": { "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] },
        }),
    )
}

/// The UID of a pod; each round of churn replaces the first one of a Service.
fn uid(service: usize, pod: usize, round: usize) -> String {
    let round = if pod == 0 { round } else { 0 };
    format!("5f0b6a1e-{round:04x}-4000-8000-{service:06}{pod:06}")
}

fn slice(number: usize, round: usize, size: Size) -> Object {
    let namespace = namespace_name(number % size.namespaces);
    let [_, slices, _] = collections_of(&namespace);
    let pods = (0..size.pods).map(|pod| {
        // Two addresses in turn: a new pod has the address of the one before the last.
        let net = if pod == 0 { round % 2 + 100 } else { pod };
        json!({
            "addresses": [format!("10.{}.{}.{}", net, number / 250, number % 250 + 1)],
            "nodeName": format!("node-{}", pod % 3),
            "targetRef": { "kind": "Pod", "name": format!("s{number}-{pod}"), "namespace": namespace,
                "uid": uid(number, pod, round) },
            "conditions": { "ready": true, "serving": true, "terminating": false },
        })
    });
    let pods: Vec<Value> = pods.collect();
    Object::new(
        slices,
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": { "name": format!("s{number}-1"), "namespace": namespace,
                "labels": { "kubernetes.io/service-name": format!("s{number}") } },
            "addressType": "IPv4",
            "ports": [{ "name": "http", "port": 8080 }],
            "endpoints": pods,
        }),
    )
}

fn route(number: usize, path: &str, size: Size) -> Object {
    let service = number % size.services;
    let namespace = namespace_name(service % size.namespaces);
    let [routes, ..] = collections_of(&namespace);
    Object::new(
        routes,
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": { "name": format!("r{number}"), "namespace": namespace },
            "spec": {
                "parentRefs": [{ "name": NAMESPACE, "namespace": NAMESPACE }],
                "hostnames": [format!("r{number}.scale.example")],
                "rules": [{
                    "matches": [{ "path": { "type": "PathPrefix", "value": path } }],
                    "filters": [{ "type": "RequestHeaderModifier", "requestHeaderModifier": {
                        "set": [{ "name": "x-route", "value": format!("r{number}") }] } }],
                    "backendRefs": [{ "name": format!("s{service}"), "port": 80 }],
                }],
            },
        }),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const SIZE: Size = Size { routes: 50, services: 10, namespaces: 5, pods: 3 };

    #[test]
    fn there_are_as_many_objects_as_asked_for_each_with_its_own_path() {
        let all: Vec<Object> = base(80).into_iter().chain(all(SIZE).into_iter().flatten()).collect();
        let paths: HashSet<String> = all.iter().map(Object::path).collect();
        assert_eq!((all.len(), paths.len()), (count(&SIZE), count(&SIZE)));
    }

    #[test]
    fn each_round_of_churn_replaces_one_pod_of_each_service() {
        let uids = |object: &Object| {
            let endpoints = object.content["endpoints"].as_array().unwrap();
            endpoints.iter().map(|pod| pod["targetRef"]["uid"].clone()).collect::<Vec<_>>()
        };
        let (first, second) = (uids(&slice(3, 0, SIZE)), uids(&churned_slice(3, SIZE)));
        assert_ne!(first[0], second[0]);
        assert_eq!(first[1..], second[1..]);
        let (backend, uid) = churned_backend(13, SIZE);
        assert_eq!(backend, "service/understudy-scale-3/s3/80");
        assert_eq!(uids(&churned_slice(13, SIZE))[0], uid);
    }
}
