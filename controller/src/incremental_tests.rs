//! A builder with a memory builds what one without builds, whatever happened to the cluster in between.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use proptest::prelude::*;
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};

use crate::addresses::{Addresses, HeldPorts};
use crate::cluster::Key;
use crate::diagnostics::Diagnostic;
use crate::graph::Graph;
use crate::pass::Pass;
use crate::status::{Desired, Doubts, Inputs, build_statuses};
use crate::watch::kubernetes::{Content, Event, Store};
use crate::watch::{ENVOY, GATEWAY_API, Kind, ObjectId};
use crate::{Builder, CONTROLLER_NAME, GuardOptions, Options, Placement};

/// A certificate and its key, in base64 as Secrets hold them.
static PAIR: LazyLock<(String, String, String)> = LazyLock::new(|| {
    let key = KeyPair::generate().unwrap();
    let pem = CertificateParams::new(["a.example".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
    (base64(&pem), base64(&key.serialize_pem()), pem)
});

fn base64(text: &str) -> String {
    let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let groups = text.as_bytes().chunks(3).map(|chunk| {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        let digit = |at: usize| match at <= chunk.len() {
            true => char::from(digits[(bits >> (18 - 6 * at) & 63) as usize]),
            false => '=',
        };
        (0..4).map(digit).collect::<String>()
    });
    groups.collect()
}

/// What is done to one object: it is made, changed, given another status, or removed.
#[derive(Debug, Clone)]
struct Edit {
    kind: Kind,
    name: u8,
    other_namespace: bool,
    /// Chooses among what the object may say.
    choices: [u8; 6],
    is_removal: bool,
}

fn edit() -> impl Strategy<Value = Edit> {
    let kinds = [
        (1, Kind::GatewayClass),
        (3, Kind::Gateway),
        (3, Kind::ListenerSet),
        (2, Kind::Namespace),
        (8, Kind::HttpRoute),
        (4, Kind::GrpcRoute),
        (2, Kind::TlsRoute),
        (3, Kind::TcpRoute),
        (2, Kind::UdpRoute),
        (3, Kind::ReferenceGrant),
        (5, Kind::Backend),
        (4, Kind::BackendTrafficPolicy),
        (3, Kind::BackendTlsPolicy),
        (4, Kind::Service),
        (5, Kind::EndpointSlice),
        (2, Kind::Secret),
        (2, Kind::ConfigMap),
        (1, Kind::Node),
        (1, Kind::ServiceCidr),
    ];
    let kind = prop::sample::select(
        kinds.iter().flat_map(|(weight, kind)| vec![*kind; *weight]).collect::<Vec<_>>(),
    );
    (kind, 0..3_u8, any::<bool>(), any::<[u8; 6]>(), 0..5_u8).prop_map(
        |(kind, name, other_namespace, choices, removal)| Edit {
            kind,
            name,
            other_namespace,
            choices,
            is_removal: removal == 0,
        },
    )
}

/// A Gateway with a route that fails over, so that edits meet something that works.
fn base() -> impl Iterator<Item = Edit> {
    let objects = [
        (Kind::GatewayClass, [0; 6]),
        (Kind::Gateway, [0; 6]),
        // From a Service to a Backend.
        (Kind::HttpRoute, [0, 6, 2, 1, 0, 1]),
        // On the Gateway, where it ejects one of two endpoints.
        (Kind::BackendTrafficPolicy, [3, 1, 1, 0, 0, 0]),
        (Kind::Service, [0; 6]),
        (Kind::EndpointSlice, [2, 1, 0, 0, 0, 0]),
        (Kind::Backend, [0, 0, 3, 0, 0, 0]),
    ];
    objects.into_iter().map(|(kind, choices)| Edit {
        kind,
        name: 0,
        other_namespace: false,
        choices,
        is_removal: false,
    })
}

impl Edit {
    /// A choice among a number of things.
    fn choose(&self, choice: usize, of: u8) -> u8 {
        self.choices[choice] % of
    }

    fn pick<T: Clone>(&self, choice: usize, of: &[T]) -> T {
        of[usize::from(self.choices[choice]) % of.len()].clone()
    }

    fn key(&self) -> Key {
        let namespace = match self.kind {
            Kind::GatewayClass | Kind::Namespace | Kind::Node | Kind::ServiceCidr => "",
            // One Gateway's namespace is enough.
            Kind::Gateway | Kind::Secret => "a",
            Kind::Service if self.gateway_of_service().is_some() => "a",
            _ if self.other_namespace => "b",
            _ => "a",
        };
        let name = match self.kind {
            Kind::GatewayClass => "ours".to_owned(),
            Kind::Namespace => self.pick(0, &["a", "b"]).to_owned(),
            Kind::Secret => self.pick(0, &["cert", "ca"]).to_owned(),
            Kind::ConfigMap => self.pick(2, &["ca", "ca", "parameters"]).to_owned(),
            Kind::Gateway | Kind::BackendTlsPolicy => format!("x{}", self.name % 2),
            Kind::Service => match self.gateway_of_service() {
                Some(gateway) => format!("understudy-{gateway}"),
                None => format!("x{}", self.name),
            },
            _ => format!("x{}", self.name),
        };
        Key::new(namespace, &name)
    }

    fn object(&self, version: u64) -> Value {
        let key = self.key();
        let mut object = self.content(&key.namespace);
        let metadata = json!({
            "name": &*key.name, "namespace": &*key.namespace, "resourceVersion": version.to_string(),
            "creationTimestamp": format!("2026-01-01T00:00:{:02}Z", self.choose(5, 4)),
        });
        let own = object["metadata"].take();
        object["metadata"] = metadata;
        if let (Value::Object(all), Value::Object(own)) = (&mut object["metadata"], own) {
            all.extend(own);
        }
        if key.namespace.is_empty() {
            object["metadata"].as_object_mut().unwrap().remove("namespace");
        }
        object
    }

    /// The Gateway that a Service was made for.
    fn gateway_of_service(&self) -> Option<&'static str> {
        (self.name == 2).then(|| self.pick(4, &["x0", "x1"]))
    }

    fn content(&self, namespace: &str) -> Value {
        let team = json!({ "team": self.pick(1, &["x", "y"]) });
        match self.kind {
            Kind::GatewayClass => {
                json!({"spec": {"controllerName": self.pick(0, &[CONTROLLER_NAME, CONTROLLER_NAME, "else/where"])}})
            }
            Kind::Namespace => json!({"metadata": {"labels": team}}),
            Kind::Gateway => self.gateway(team),
            Kind::ListenerSet => self.listener_set(team),
            Kind::HttpRoute | Kind::GrpcRoute | Kind::TlsRoute | Kind::TcpRoute | Kind::UdpRoute => {
                self.route(namespace, team)
            }
            Kind::ReferenceGrant => json!({"spec": {
                "from": [{"group": GATEWAY_API, "kind": "HTTPRoute", "namespace": self.pick(0, &["a", "b"])},
                    {"group": GATEWAY_API, "kind": self.pick(3, &Kind::ROUTES).info().name, "namespace": "a"},
                    {"group": ENVOY, "kind": "BackendTrafficPolicy", "namespace": "a"},
                    {"group": GATEWAY_API, "kind": "ListenerSet", "namespace": "b"}],
                "to": [{"group": self.pick(1, &["", ENVOY]), "kind": self.pick(1, &["Service", "Backend"])},
                    {"group": "", "kind": self.pick(2, &["Secret", "ConfigMap"])},
                    {"group": GATEWAY_API, "kind": "HTTPRoute"},
                    {"group": GATEWAY_API, "kind": "TCPRoute"}],
            }}),
            Kind::Backend => self.backend(),
            Kind::BackendTrafficPolicy => self.policy(),
            Kind::BackendTlsPolicy => json!({"spec": {
                "targetRefs": [self.pick(0, &[
                    json!({"group": "", "kind": "Service", "name": "x0"}),
                    json!({"group": "", "kind": "Service", "name": "x1", "sectionName": "http"}),
                    json!({"group": ENVOY, "kind": "Backend", "name": "x0"}),
                    json!({"group": ENVOY, "kind": "Backend", "name": "missing"}),
                ])],
                "validation": {"hostname": "a.example", "subjectAltNames": self.pick(2, &[
                    json!([]),
                    json!([{"type": "Hostname", "hostname": "b.example"}]),
                    json!([{"type": "URI", "uri": "none"}]),
                ]), "caCertificateRefs": [
                    {"group": "", "kind": self.pick(1, &["ConfigMap", "Secret"]), "name": "ca"}]},
            }}),
            Kind::Service if self.gateway_of_service().is_some() => json!({
                "metadata": {"labels": {"app.kubernetes.io/managed-by": "understudy.dev"}},
                // Two Gateways may get one container port.
                "spec": {"ports": [
                    {"name": "h", "port": 80, "targetPort": self.pick(0, &[10_000, 10_000, 10_001])},
                    {"name": "s", "port": 443, "targetPort": self.pick(1, &[10_000, 10_002])},
                    {"name": "t", "port": 9000, "targetPort": 10_003},
                    {"name": "u", "port": 9000, "protocol": "UDP", "targetPort": self.pick(1, &[10_003, 10_004])}]},
            }),
            Kind::Service => json!({
                "spec": {"type": self.pick(2, &["ClusterIP", "ClusterIP", "ExternalName"]), "externalName": "e",
                    "ports": [{"name": "http", "port": self.pick(0, &[80, 80, 81]), "targetPort": 8080,
                        "appProtocol": self.pick(1, &["http", "kubernetes.io/h2c"])},
                        {"name": "dns", "port": 80, "protocol": "UDP"}]},
                "status": {"loadBalancer": {"ingress": [{"ip": format!("10.1.0.{}", self.choices[3])}]}},
            }),
            Kind::EndpointSlice => {
                let addresses: Vec<_> = (0..self.choose(0, 4))
                    .map(|n| {
                        json!({"addresses": [format!("10.0.{}.{n}", self.name)],
                        "conditions": {"ready": self.choose(1, 4) > 0}})
                    })
                    .collect();
                json!({
                    "metadata": {"labels": {"kubernetes.io/service-name": format!("x{}", self.choose(2, 3))}},
                    "addressType": "IPv4", "endpoints": addresses,
                    "ports": [{"name": self.pick(3, &["http", "http", "other"]), "port": 8080},
                        {"name": "dns", "port": 53, "protocol": "UDP"}],
                })
            }
            Kind::Secret => {
                let (chain, key, _) = &*PAIR;
                let chain = if self.choose(1, 4) == 0 { "YQ==" } else { chain };
                json!({"type": "kubernetes.io/tls", "data": {"tls.crt": chain, "tls.key": key, "ca.crt": chain}})
            }
            Kind::ConfigMap if self.pick(2, &[false, false, true]) => {
                json!({"data": {"serviceType": self.pick(1, &["LoadBalancer", "ClusterIP", "NodePort", "none"])}})
            }
            Kind::ConfigMap => {
                json!({"data": {"ca.crt": if self.choose(1, 4) == 0 { "none" } else { &PAIR.2 }}})
            }
            Kind::ServiceCidr => {
                json!({"spec": {"cidrs": [self.pick(0, &["10.96.0.0/16", "10.97.0.0/16"])]}})
            }
            Kind::Node => json!({"status": {"addresses": [
                {"type": "InternalIP", "address": format!("192.0.2.{}", self.choose(0, 4))}]}}),
        }
    }

    fn listener_set(&self, team: Value) -> Value {
        let from = self.pick(0, &[json!({"from": "All"}), json!({"from": "Same"})]);
        let listener = |name: &str, port: u16, protocol: &str| json!({"name": name, "protocol": protocol, "port": port, "allowedRoutes": {"namespaces": from}});
        let mut one = listener("h", self.pick(1, &[80, 81, 82]), "HTTP");
        one["hostname"] = self.pick(2, &["", "*.example", "set.example"]).into();
        let mut other = listener("s", 443, "HTTPS");
        other["tls"] = json!({"certificateRefs": [{"name": "cert", "namespace": "a"}]});
        let third = listener("t", self.pick(2, &[9000, 9001]), "TCP");
        let mut passed = listener("p", 443, "TLS");
        passed["hostname"] = "a.example".into();
        passed["tls"] = json!({"mode": "Passthrough"});
        let listeners =
            self.pick(3, &[vec![one.clone()], vec![one.clone(), other], vec![third, one], vec![passed]]);
        json!({"metadata": {"labels": team}, "status": {"seen": self.choices[5]}, "spec": {
            "parentRef": {"name": self.pick(4, &["x0", "x0", "x1", "x3"]), "namespace": "a"},
            "listeners": listeners}})
    }

    fn gateway(&self, team: Value) -> Value {
        let from = self.pick(
            0,
            &[
                json!({"from": "All"}),
                json!({"from": "All"}),
                json!({"from": "Same"}),
                json!({"from": "Selector", "selector": {"matchLabels": {"team": "x"}}}),
            ],
        );
        let https = json!({"name": "s", "protocol": "HTTPS", "port": 443,
            "tls": {"certificateRefs": [{"name": "cert"}]}, "allowedRoutes": {"namespaces": from}});
        let http = json!({"name": "h", "protocol": "HTTP", "port": self.pick(2, &[80, 81]),
            "hostname": self.pick(3, &["", "*.example"]), "allowedRoutes": {"namespaces": from}});
        let passed = json!({"name": "p", "protocol": "TLS", "port": 443, "hostname": "*.example",
            "tls": {"mode": "Passthrough"}, "allowedRoutes": {"namespaces": from}});
        let ended = json!({"name": "e", "protocol": "TLS", "port": 443, "hostname": "a.example",
            "tls": {"certificateRefs": [{"name": "cert"}]}, "allowedRoutes": {"namespaces": from}});
        let of = |name: &str, protocol: &str| json!({"name": name, "protocol": protocol, "port": 9000, "allowedRoutes": {"namespaces": from}});
        let (tcp, udp) = (of("t", "TCP"), of("u", "UDP"));
        let listeners = match self.choose(4, 4) {
            0 => vec![http],
            1 => vec![http, https],
            2 => vec![http, passed, tcp, udp],
            _ => vec![https, http, passed, ended, udp, tcp],
        };
        let addresses = self.pick(1, &[json!([]), json!([]), json!([{"value": "10.96.0.1"}])]);
        let mut spec = json!({"gatewayClassName": "ours", "listeners": listeners, "addresses": addresses});
        let allowed = self.pick(
            2,
            &[
                json!({"from": "All"}),
                json!({"from": "Same"}),
                json!({"from": "Selector", "selector": {"matchLabels": {"team": "x"}}}),
                json!({}),
            ],
        );
        spec["allowedListeners"] = json!({"namespaces": allowed});
        if self.choose(3, 4) == 0 {
            spec["infrastructure"] =
                json!({"parametersRef": {"group": "", "kind": "ConfigMap", "name": "parameters"}});
        }
        let shown = json!({"clientCertificateRef": {"name": self.pick(2, &["cert", "ca", "ca"])}});
        let asked = json!({"caCertificateRefs": [
            {"group": "", "kind": self.pick(3, &["ConfigMap", "Secret"]), "name": "ca",
                "namespace": self.pick(5, &["a", "a", "b"])}]});
        match self.choose(1, 5) {
            0 => spec["tls"] = json!({"backend": shown}),
            1 => spec["tls"] = json!({"frontend": {"default": {"validation": asked}}}),
            2 => {
                let of_port = json!({"port": 443, "tls": {"validation": asked}});
                spec["tls"] = json!({"backend": shown, "frontend": {"default": {}, "perPort": [of_port]}});
            }
            _ => {}
        }
        json!({"metadata": {"labels": team}, "spec": spec, "status": {"seen": self.choices[5]}})
    }

    fn route(&self, namespace: &str, team: Value) -> Value {
        let target = |choice: u8| match choice % 8 {
            0 => json!({"name": "x0", "port": 80}),
            1 => json!({"name": format!("x{}", choice / 8 % 3), "port": 80}),
            2 => json!({"name": "x1", "port": 81, "namespace": "b"}),
            3 => json!({"name": "x3", "port": 80}),
            4 => json!({"group": ENVOY, "kind": "Backend", "name": "x0", "namespace": "a"}),
            5 => json!({"group": ENVOY, "kind": "Backend", "name": "x3"}),
            _ => json!({"group": ENVOY, "kind": "Backend", "name": format!("x{}", choice / 8 % 3)}),
        };
        let mut refs = vec![target(self.choices[0]), target(self.choices[1])];
        refs.truncate(usize::from(self.choose(2, 3)));
        if let Some(reference) = refs.first_mut() {
            reference["weight"] = self.pick(5, &[1, 1, 1, 0]).into();
        }
        let mirror =
            json!([{"type": "RequestMirror", "requestMirror": {"backendRef": target(self.choices[3])}}]);
        let mut parents = vec![json!({"name": format!("x{}", self.choose(4, 3)), "namespace": "a"})];
        if self.choose(5, 3) == 0 {
            parents.push(
                json!({"name": "x0", "namespace": "a", "sectionName": self.pick(1, &["h", "t", "u", "p"])}),
            );
        }
        if self.choose(5, 2) == 0 {
            let namespace = self.pick(2, &["a", "b"]);
            let mut set = json!({"kind": "ListenerSet", "name": format!("x{}", self.choose(0, 3)), "namespace": namespace});
            if self.choose(3, 2) == 0 {
                set["sectionName"] = "h".into();
            }
            parents.push(set);
        }
        let mut rule = json!({"name": "one", "backendRefs": refs});
        if self.kind.has_requests() && self.choose(3, 3) == 0 {
            rule["filters"] = mirror;
        }
        if self.kind == Kind::GrpcRoute && self.choose(2, 5) == 0 {
            // No rule of it acts.
            rule["filters"] = json!([{"type": "ExtensionRef",
                "extensionRef": {"group": "example", "kind": "Thing", "name": "a"}}]);
        }
        if self.kind == Kind::HttpRoute {
            rule["timeouts"] = json!({"request": self.pick(5, &["1ms", "1s"])});
        }
        if self.kind == Kind::GrpcRoute {
            rule["matches"] =
                json!([{"method": {"service": self.pick(3, &["a.B", "a.B", "-"]), "method": "C"}}]);
        }
        let mut spec = json!({"parentRefs": parents, "rules": [rule]});
        if self.kind.has_requests() || self.kind == Kind::TlsRoute {
            let host = format!("{namespace}.example");
            spec["hostnames"] = if self.choose(4, 2) == 0 { json!([]) } else { json!([host]) };
        }
        json!({"metadata": {"labels": team}, "spec": spec, "status": {"parents": self.pick(5, &[
            json!([]),
            json!([{"parentRef": {"name": "x0"}, "controllerName": CONTROLLER_NAME, "conditions": []}]),
        ]), "seen": self.choices[5]}})
    }

    fn backend(&self) -> Value {
        let endpoint = self.pick(
            0,
            &[
                json!({"ip": {"address": "10.2.0.1", "port": 80}}),
                json!({"fqdn": {"hostname": "x0.a.svc.cluster.local", "port": 80}}),
                json!({"fqdn": {"hostname": "x1.b.svc", "port": 80}}),
                json!({"ip": {"address": "nowhere", "port": 80}}),
            ],
        );
        let mut spec = json!({"fallback": self.choose(1, 2) == 0, "endpoints": [endpoint]});
        match self.choose(2, 6) {
            0 => {
                spec["tls"] = json!({"sni": "a.example",
                "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ca"}]})
            }
            1 => {
                spec["tls"] = json!({"sni": "a.example", "wellKnownCACertificates": "System",
                "clientCertificateRef": {"name": "cert", "namespace": "a"}})
            }
            2 => spec["type"] = "DynamicResolver".into(),
            _ => {}
        }
        json!({"spec": spec, "status": {"seen": self.choices[5]}})
    }

    fn policy(&self) -> Value {
        let target = self.pick(0, &[
            json!({"targetRefs": [{"group": GATEWAY_API, "kind": "HTTPRoute", "name": "x0"}]}),
            json!({"targetRefs": [{"group": GATEWAY_API, "kind": "HTTPRoute", "name": "x1", "sectionName": "one"}]}),
            json!({"targetRefs": [{"group": GATEWAY_API, "kind": "HTTPRoute", "name": "x3"}]}),
            json!({"targetRefs": [{"group": GATEWAY_API, "kind": "GRPCRoute", "name": "x0"}]}),
            json!({"targetRefs": [{"group": GATEWAY_API, "kind": "TCPRoute", "name": "x1"}]}),
            json!({"targetSelectors": [{"group": GATEWAY_API, "kind": "UDPRoute", "matchLabels": {"team": "x"}}]}),
            json!({"targetRefs": [{"group": GATEWAY_API, "kind": "Gateway", "name": "x0"}]}),
            json!({"targetRefs": [{"group": GATEWAY_API, "kind": "Gateway", "name": "x1", "sectionName": "s"}]}),
            json!({"targetRefs": [{"group": GATEWAY_API, "kind": "ListenerSet", "name": "x0", "sectionName": "h"}]}),
            json!({"targetRefs": [{"group": GATEWAY_API, "kind": "ListenerSet", "name": "x1"}]}),
            json!({"targetSelectors": [{"group": GATEWAY_API, "kind": "HTTPRoute", "matchLabels": {"team": "x"},
                "namespaces": {"from": "All"}}]}),
            json!({"targetSelectors": [{"group": GATEWAY_API, "kind": "HTTPRoute", "namespaces":
                {"from": "Selector", "selector": {"matchLabels": {"team": "x"}}}}]}),
        ]);
        let mut spec = target;
        spec["healthCheck"] = json!({"passive": {"maxEjectionPercent": self.pick(1, &[10, 50, 100, 130])}});
        if self.choose(2, 2) == 0 {
            spec["mergeType"] = "StrategicMerge".into();
        }
        json!({"metadata": {"annotations": {"understudy.dev/overflow": self.pick(3, &["Fallback", "Never"])}},
            "spec": spec, "status": {"seen": self.choices[5]}})
    }
}

/// A cluster that is edited.
struct World {
    store: Store,
    version: u64,
    /// What Secrets and ConfigMaps hold.
    contents: BTreeMap<ObjectId, Value>,
}

impl World {
    fn new() -> Self {
        let mut store = Store::new("understudy-system");
        for kind in Kind::all() {
            store.take(Event::Listed(kind, BTreeSet::new()));
        }
        Self { store, version: 0, contents: BTreeMap::new() }
    }

    fn edit(&mut self, edit: &Edit) {
        self.version += 1;
        let object = edit.object(self.version);
        let id = ObjectId { kind: edit.kind, key: edit.key() };
        let raw = serde_json::from_value(object.clone()).unwrap();
        if edit.is_removal {
            self.contents.remove(&id);
            self.store.take(Event::Deleted(edit.kind, raw));
        } else {
            self.contents.insert(id, object);
            self.store.take(Event::Applied(edit.kind, raw));
        }
        for id in self.store.take_questions() {
            let content = match self.contents.get(&id) {
                Some(object) => Content::Found(serde_json::from_value(object.clone()).unwrap()),
                None => Content::Refused("it is not there".to_owned()),
            };
            self.store.take(Event::Content(id, content));
        }
    }

    /// Builds with the memory of the worlds before, and without.
    fn check(&self, memory: &mut Memory, options: &Options) -> Result<Arc<Graph>, TestCaseError> {
        let cluster = self.store.cluster();
        let (mut said, mut said_anew) = (self.store.diagnostics(), self.store.diagnostics());
        let (graph, state) = memory.builder.build(&cluster, options, &mut said);
        let mut fresh = Builder::default();
        let (fresh_graph, fresh_state) = fresh.build(&cluster, options, &mut said_anew);
        prop_assert_eq!(&state, &fresh_state);
        prop_assert_eq!(state.validate_references(), Ok(()));
        let texts = |said: &[Diagnostic]| said.iter().map(ToString::to_string).collect::<Vec<_>>();
        prop_assert_eq!(texts(&said), texts(&said_anew));
        prop_assert_eq!(&said, &said_anew);
        prop_assert_eq!(&graph.gateways, &fresh_graph.gateways);
        prop_assert_eq!(&graph.routes, &fresh_graph.routes);
        prop_assert_eq!(&graph.backends, &fresh_graph.backends);
        prop_assert_eq!(&graph.services, &fresh_graph.services);
        prop_assert_eq!(&graph.policies, &fresh_graph.policies);
        memory.check_statuses(Pass {
            cluster,
            graph: graph.clone(),
            diagnostics: said.into(),
            version: 0,
        })?;
        Ok(graph)
    }
}

/// In a pod with one address.
fn pod() -> Placement {
    crate::GatewayMode::Service.in_pod(&[])
}

/// Now and then an option is another one. Container ports are held as whoever follows a cluster does it.
fn turn(options: &mut Options, graph: &Graph, flip: u8) {
    match flip {
        0 => options.backend_api ^= true,
        1 => {
            let guard = options.guard.get_or_insert_default();
            guard.own_sockets.push(([10, 0, 0, 1], 9000).into());
        }
        2 => options.guard = None,
        3 => {
            options.listen.placement =
                if options.listen.placement == pod() { Placement::Local } else { pod() }
        }
        4 => options.listen.port_offset ^= 8000,
        5 => options.resolve_services ^= true,
        6 => options.live ^= true,
        7 => options.cluster_domain = "elsewhere".to_owned(),
        _ if options.listen.placement == pod() => options.held = HeldPorts::of(graph),
        _ => {}
    }
}

/// What is kept from pass to pass.
#[derive(Default)]
struct Memory {
    builder: Builder,
    last: Option<Pass>,
    statuses: BTreeMap<ObjectId, Desired>,
}

impl Memory {
    fn check_statuses(&mut self, pass: Pass) -> Result<(), TestCaseError> {
        let inputs = Inputs {
            cluster: &pass.cluster,
            graph: &pass.graph,
            diagnostics: &pass.diagnostics,
            sidecars: &[],
            addresses: &Addresses::new(),
        };
        let doubts = self.last.as_ref().map_or(Doubts::Everything, |last| Doubts::between(last, &pass));
        self.statuses.retain(|id, _| !doubts.include(id));
        let by_id = |desired: Desired| (desired.id.clone(), desired);
        self.statuses.extend(build_statuses(inputs, &doubts).into_iter().map(by_id));
        let all: BTreeMap<_, _> =
            build_statuses(inputs, &Doubts::Everything).into_iter().map(by_id).collect();
        prop_assert_eq!(&self.statuses, &all);
        self.last = Some(pass);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn an_incremental_build_equals_one_from_scratch(
        start in prop::collection::vec(edit(), 0..40),
        edits in prop::collection::vec((prop::collection::vec(edit(), 1..4), 0..32_u8), 1..30),
        in_pod in any::<bool>(),
    ) {
        let mut world = World::new();
        let mut memory = Memory::default();
        let mut options = Options { live: true, guard: Some(GuardOptions::default()), ..Options::default() };
        if in_pod {
            options.listen.placement = pod();
        }
        start.iter().filter(|edit| !edit.is_removal).for_each(|edit| world.edit(edit));
        base().for_each(|edit| world.edit(&edit));
        let mut graph = world.check(&mut memory, &options)?;
        for (edits, flip) in edits {
            edits.iter().for_each(|edit| world.edit(edit));
            turn(&mut options, &graph, flip);
            graph = world.check(&mut memory, &options)?;
        }
    }
}

#[test]
fn another_guard_and_other_held_ports_cost_no_memory() {
    let mut world = World::new();
    base().for_each(|edit| world.edit(&edit));
    // With a container port to hold.
    world.edit(&Edit {
        kind: Kind::Service,
        name: 2,
        other_namespace: false,
        choices: [0; 6],
        is_removal: false,
    });
    let mut memory = Memory::default();
    let mut options = Options { live: true, ..Options::default() };
    options.listen.placement = pod();
    let graph = world.check(&mut memory, &options).unwrap();
    assert!(!graph.routes.is_empty() && !graph.backends.is_empty());
    for flip in [1, 1, 2, 31] {
        let before = options.clone();
        turn(&mut options, &graph, flip);
        assert_ne!(options, before);
        let now = world.check(&mut memory, &options).unwrap();
        assert!(Arc::ptr_eq(&now.routes, &graph.routes) && Arc::ptr_eq(&now.backends, &graph.backends));
    }
}
