//! Routes.
//!
//! A pool has one policy, and shows its backends one certificate. A route whose rules have different policies on different
//! listeners, or whose backends are shown different Gateways' certificates, is therefore written once for each of them,
//! under its name with the gateway's, and where need be the listener's, behind an `@`.

use std::collections::BTreeMap;

use understudy_conf::{
    Action, Attachment, CertificateName, HttpFilter, Pool, PoolName, Route, RouteKind, RouteName, Rule,
};

use crate::cluster::Key;
use crate::graph::{AttachmentNode, Graph, ListenerNode, MirrorNode, PolicyNode, RouteNode, RuleAction};
use crate::translate::pools::{add_mirrors, build_pool, shows_certificate};
use crate::watch::Kind;

/// Listeners of a route on which each of its rules has one effect.
pub(super) struct Group {
    /// What is appended to names: empty, `@gateway/NAMESPACE/NAME[/LISTENER]`, or for a listener of a ListenerSet
    /// `@listenerset/NAMESPACE/NAME/LISTENER`.
    suffix: String,
    attachments: Vec<AttachmentNode>,
    effect: Effect,
}

/// What a listener makes of a route.
#[derive(Debug, Clone, Default, PartialEq)]
struct Effect {
    /// The policy of each rule.
    policies: Vec<Option<Key>>,
    /// What backends over TLS are shown.
    certificate: Option<CertificateName>,
}

/// A listener of a route, with what it makes of it.
type Attached<'a> = (&'a AttachmentNode, Effect);

/// Splits a route's listeners by what they make of it.
pub(super) fn build_groups(graph: &Graph, route: &RouteNode) -> Vec<Group> {
    let mut by_gateway: BTreeMap<&Key, Vec<Attached<'_>>> = BTreeMap::new();
    for attachment in &route.attachments {
        let policies = effective_policies(graph, route, attachment);
        let effect = Effect { policies, certificate: shown_certificate(graph, route, attachment) };
        by_gateway.entry(&attachment.gateway).or_default().push((attachment, effect));
    }
    let mut all = by_gateway.values().flatten();
    let first = all.next().map(|(_, effect)| effect.clone()).unwrap_or_default();
    if all.all(|(_, effect)| *effect == first) {
        let attachments = route.attachments.clone();
        return vec![Group { suffix: String::new(), attachments, effect: first }];
    }
    let mut groups = Vec::new();
    for (gateway, attached) in by_gateway {
        let suffix = format!("@gateway/{}/{}", gateway.namespace, gateway.name);
        let uniform = attached.windows(2).all(|pair| pair[0].1 == pair[1].1);
        if uniform {
            let effect = attached.first().map(|(_, effect)| effect.clone()).unwrap_or_default();
            let attachments = attached.into_iter().map(|(attachment, _)| attachment.clone()).collect();
            groups.push(Group { suffix, attachments, effect });
            continue;
        }
        for (attachment, effect) in attached {
            // A ListenerSet has one Gateway, so its listener's name says all; with both, it could be too long.
            let listener = listener_name(graph, attachment);
            let suffix = match attachment.set {
                Some(_) => format!("@{listener}"),
                None => format!("{suffix}/{listener}"),
            };
            groups.push(Group { suffix, attachments: vec![attachment.clone()], effect });
        }
    }
    groups
}

/// Translates the route for one group of its listeners, with the pools of its rules.
pub(super) fn build_route(graph: &Graph, route: &RouteNode, group: Group) -> Option<(Route, Vec<Pool>)> {
    let (prefix, kind) = kind_of(route.id.kind)?;
    let base = format!("{prefix}/{}/{}", route.id.key.namespace, route.id.key.name);
    let mut pools = Vec::new();
    let mut rules = Vec::new();
    let certificate = group.effect.certificate.as_ref();
    for (rule, policy) in route.rules.iter().zip(&group.effect.policies) {
        let policy: Option<&PolicyNode> = policy.as_ref().and_then(|key| graph.policies.nodes.get(key));
        let mut filters = rule.filters.clone();
        let action = match &rule.action {
            RuleAction::Redirect(redirect) => Action::Redirect(redirect.clone()),
            RuleAction::Respond(status) => Action::Respond(*status),
            // A policy that breaks its own rules says nothing that could be relied on.
            RuleAction::Forward(_) if policy.is_some_and(|policy| policy.policy.is_none()) => {
                Action::Respond(500)
            }
            RuleAction::Forward(refs) => {
                let name = PoolName::new(format!("{base}/rule/{}{}", rule.index, group.suffix));
                match name.ok().and_then(|name| build_pool(graph, name, policy, certificate, refs)) {
                    Some(mut pool) => {
                        let name = pool.name.clone();
                        let policy = pool.policy.clone();
                        let mut add = |mirrors: &[MirrorNode], base: &str, filters: &mut Vec<HttpFilter>| {
                            add_mirrors(
                                graph,
                                mirrors,
                                base,
                                (policy.as_ref(), certificate),
                                filters,
                                &mut pools,
                            );
                        };
                        add(&rule.mirrors, name.as_str(), &mut filters);
                        for (index, (node, built)) in refs.iter().zip(&mut pool.refs).enumerate() {
                            add(&node.mirrors, &format!("{name}/ref/{index}"), &mut built.filters);
                        }
                        pools.push(pool);
                        Action::Forward(name)
                    }
                    None => Action::Respond(500),
                }
            }
        };
        rules.push(Rule {
            name: rule.name.clone(),
            matches: rule.matches.clone(),
            filters,
            timeouts: rule.timeouts,
            retry: rule.retry.clone(),
            action,
        });
    }
    let attachments =
        group.attachments.iter().filter_map(|attachment| build_attachment(graph, attachment)).collect();
    // Names of Kubernetes are at most 253 long each, so that this one is below the limit of 1024.
    let name = RouteName::new(format!("{base}{}", group.suffix)).ok()?;
    Some((Route { name, kind, created: route.created, attachments, rules }, pools))
}

/// What a kind of route is called in names, and in the state.
fn kind_of(kind: Kind) -> Option<(&'static str, RouteKind)> {
    match kind {
        Kind::HttpRoute => Some(("httproute", RouteKind::Http)),
        Kind::GrpcRoute => Some(("grpcroute", RouteKind::Grpc)),
        Kind::TlsRoute => Some(("tlsroute", RouteKind::Tls)),
        Kind::TcpRoute => Some(("tcproute", RouteKind::Tcp)),
        Kind::UdpRoute => Some(("udproute", RouteKind::Udp)),
        _ => None,
    }
}

fn build_attachment(graph: &Graph, attachment: &AttachmentNode) -> Option<Attachment> {
    let gateway = graph.gateways.get(&attachment.gateway)?;
    let listener = gateway.listeners.get(attachment.listener)?;
    Some(Attachment {
        gateway: gateway.name.clone(),
        listener: listener.name.clone(),
        hostnames: attachment.hostnames.clone(),
    })
}

/// The certificate that the Gateway of a listener shows to backends of a route, if any of them is shown one.
fn shown_certificate(
    graph: &Graph,
    route: &RouteNode,
    attachment: &AttachmentNode,
) -> Option<CertificateName> {
    let certificate = graph.gateways.get(&attachment.gateway)?.client_certificate.as_ref()?;
    let shows = route.rules.iter().any(|rule| shows_certificate(graph, rule));
    shows.then(|| certificate.name.clone())
}

fn effective_policies(graph: &Graph, route: &RouteNode, attachment: &AttachmentNode) -> Vec<Option<Key>> {
    let listener = listener_of(graph, attachment);
    let effective =
        |rule: Option<&str>| graph.policies.effective(&route.id, rule, &attachment.gateway, &listener?.shape);
    let rules = route.rules.iter().map(|rule| effective(rule.name.as_deref()));
    rules.map(|policy| policy.map(|(key, _)| key.clone())).collect()
}

fn listener_of<'a>(graph: &'a Graph, attachment: &AttachmentNode) -> Option<&'a ListenerNode> {
    graph.gateways.get(&attachment.gateway)?.listeners.get(attachment.listener)
}

fn listener_name<'a>(graph: &'a Graph, attachment: &AttachmentNode) -> &'a str {
    listener_of(graph, attachment).map_or("", |listener| listener.name.as_str())
}

#[cfg(test)]
mod tests {
    use understudy_conf::Attachment;

    use crate::{Options, check_text};

    #[test]
    fn however_long_the_names_are_a_route_is_served_on_every_listener() {
        let (namespace, long) = ("n".repeat(63), |letter: &str| letter.repeat(253));
        let (gateway, set, listener, route) = (long("g"), long("s"), long("l"), long("r"));
        let text = format!(
            "apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{name: understudy}}
spec: {{controllerName: understudy.dev/gateway-controller}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {gateway}, namespace: {namespace}}}
spec:
  gatewayClassName: understudy
  allowedListeners: {{namespaces: {{from: Same}}}}
  listeners: [{{name: http, protocol: HTTP, port: 8080}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: ListenerSet
metadata: {{name: {set}, namespace: {namespace}}}
spec:
  parentRef: {{name: {gateway}}}
  listeners: [{{name: {listener}, protocol: HTTP, port: 8081}}, {{name: other, protocol: HTTP, port: 8082}}]
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: BackendTrafficPolicy
metadata: {{name: policy, namespace: {namespace}}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: ListenerSet, name: {set}, sectionName: {listener}}}]
  retry: {{numRetries: 1}}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: Backend
metadata: {{name: web, namespace: {namespace}}}
spec: {{endpoints: [{{ip: {{address: 10.0.0.1, port: 80}}}}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {route}, namespace: {namespace}}}
spec:
  parentRefs: [{{name: {gateway}}}, {{kind: ListenerSet, name: {set}}}]
  rules: [{{backendRefs: [{{group: gateway.envoyproxy.io, kind: Backend, name: web}}]}}]
"
        );
        let state = check_text(text, &Options::default()).state;
        let attachments: Vec<&Attachment> =
            state.routes.values().flat_map(|route| &route.attachments).collect();
        assert_eq!((attachments.len(), state.routes.len(), state.pools.len()), (3, 3, 3));
    }
}
