//! Routes: bound to listeners, with their references resolved.

use std::collections::BTreeMap;
use std::sync::Arc;

use gateway_api::apis::experimental::httproutes::HttpRoute;
use understudy_conf::{
    BackendName, Hostname, HttpFilter, HttpMatch, Priority, Redirect, Retry, RuleTimeouts, Weight,
};

use crate::addresses::Transport;
use crate::cluster::{Cluster, Key, Object};
use crate::diagnostics::{Diagnostic, reasons};
use crate::graph::backend_tls::{TlsNode, TlsSource};
use crate::graph::parents::ParentNode;
use crate::graph::reads::Reads;
use crate::graph::rules::{BuiltRule, Outcome, build_rules};
use crate::graph::{BackendNode, GatewayNode};
use crate::watch::ObjectId;

/// What came of a route.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BuiltRoute {
    /// `None` if it is attached to nothing.
    pub(crate) node: Option<RouteNode>,
    /// What came of its parents.
    pub(crate) parents: Vec<ParentNode>,
    pub(crate) trace: Trace,
}

/// What was found while a route was built.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Trace {
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// The ports of Services that it refers to, each once.
    pub(crate) ports: Vec<PortUse>,
    pub(crate) reads: Reads,
}

/// A port of a Service as a route uses it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PortUse {
    pub(crate) name: BackendName,
    pub(crate) service: Key,
    pub(crate) port: u16,
    pub(crate) transport: Transport,
    /// Whether its endpoints are spoken to by HTTP/2 though the Service does not say so: gRPC is nothing else.
    pub(crate) is_h2: bool,
    /// How it is spoken to over TLS, which is the same for every route.
    pub(crate) tls: Option<TlsNode>,
    /// Where the route refers to it first.
    pub(crate) field: String,
}

/// A route that is attached to at least one listener.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RouteNode {
    pub(crate) id: ObjectId,
    pub(crate) created: i64,
    pub(crate) attachments: Vec<AttachmentNode>,
    pub(crate) rules: Vec<RuleNode>,
    /// Whether any rule acts as it is written. Where none does, no parent accepts the route.
    pub(crate) acts: bool,
}

/// A route on a listener.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AttachmentNode {
    pub(crate) gateway: Key,
    /// The ListenerSet that the listener stands in; `None` for the Gateway itself.
    pub(crate) set: Option<Key>,
    /// The listener's place among the gateway's.
    pub(crate) listener: usize,
    pub(crate) hostnames: Vec<Hostname>,
}

/// A rule with its references.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RuleNode {
    /// Its place in the route, which names its pool.
    pub(crate) index: usize,
    pub(crate) name: Option<String>,
    pub(crate) matches: Vec<HttpMatch>,
    pub(crate) filters: Vec<HttpFilter>,
    pub(crate) mirrors: Vec<MirrorNode>,
    pub(crate) timeouts: Option<RuleTimeouts>,
    pub(crate) retry: Option<Retry>,
    pub(crate) action: RuleAction,
}

impl RuleNode {
    /// The references that it forwards to.
    pub(crate) fn refs(&self) -> &[RefNode] {
        match &self.action {
            RuleAction::Forward(refs) => refs,
            RuleAction::Redirect(_) | RuleAction::Respond(_) => &[],
        }
    }
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum RuleAction {
    Redirect(Redirect),
    Forward(Vec<RefNode>),
    Respond(u16),
}

/// A reference of a rule.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RefNode {
    pub(crate) target: RefTargetNode,
    pub(crate) priority: Priority,
    pub(crate) weight: Weight,
    pub(crate) filters: Vec<HttpFilter>,
    pub(crate) mirrors: Vec<MirrorNode>,
}

/// Who gets a copy of requests.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MirrorNode {
    /// Never an invalid one: such a mirror is left out.
    pub(crate) target: RefTargetNode,
    pub(crate) numerator: u32,
    pub(crate) denominator: u32,
}

/// What a reference refers to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum RefTargetNode {
    Backend(Key),
    /// A Backend that does not say so, spoken to by HTTP/2: gRPC is nothing else.
    H2Backend(Key),
    Service(BackendName),
    /// Nothing that can be served; the text says why.
    Invalid(String),
}

impl RefTargetNode {
    /// The Backend that is referred to.
    pub(crate) fn backend(&self) -> Option<&Key> {
        match self {
            Self::Backend(key) | Self::H2Backend(key) => Some(key),
            Self::Service(_) | Self::Invalid(_) => None,
        }
    }
}

/// Follows the references of routes.
pub(crate) struct Resolver<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) tls: TlsSource<'a>,
    pub(crate) gateways: &'a BTreeMap<Key, GatewayNode>,
    pub(crate) backends: &'a BTreeMap<Key, Arc<BackendNode>>,
}

impl Resolver<'_> {
    /// Builds a route.
    pub(crate) fn build_route(&self, route: &Object<HttpRoute>) -> BuiltRoute {
        let mut trace = Trace::default();
        let (attachments, parents) = self.bind_parents(route, &mut trace.diagnostics);
        let mut rules = Vec::new();
        let built = build_rules(route).0;
        let acts =
            built.iter().any(|rule| rule.matches.is_some() && !matches!(rule.outcome, Outcome::Refused));
        for (index, rule) in built.into_iter().enumerate() {
            rules.extend(self.build_rule(route, index, rule, &mut trace));
        }
        let (id, created) = (route.id(), route.created);
        let node = (!attachments.is_empty()).then_some(RouteNode { id, created, attachments, rules, acts });
        BuiltRoute { node, parents, trace }
    }

    fn build_rule(
        &self,
        route: &Object<HttpRoute>,
        index: usize,
        built: BuiltRule,
        trace: &mut Trace,
    ) -> Option<RuleNode> {
        let field = format!("spec.rules[{index}]");
        let Some(matches) = built.matches else {
            trace.diagnostics.push(reasons::rule_left_out(&route.at(&field)));
            return None;
        };
        let action = match built.outcome {
            Outcome::Redirect(redirect) => RuleAction::Redirect(redirect),
            Outcome::Refused => RuleAction::Respond(500),
            Outcome::Forward(filters) => {
                let rules = route.value.spec.rules.as_deref().unwrap_or_default();
                let refs = rules.get(index).and_then(|rule| rule.backend_refs.as_deref()).unwrap_or_default();
                let refs: Vec<_> = refs
                    .iter()
                    .zip(filters)
                    .enumerate()
                    .map(|(number, (reference, filters))| {
                        let field = format!("{field}.backendRefs[{number}]");
                        self.build_ref(route, reference, &field, filters, trace)
                    })
                    .collect();
                if refs.is_empty() {
                    let place = route.at(&format!("{field}.backendRefs"));
                    trace.diagnostics.push(reasons::no_backend_refs(&place, route.kind));
                    RuleAction::Respond(500)
                } else {
                    RuleAction::Forward(refs)
                }
            }
        };
        let BuiltRule { name, filters, mirrors, timeouts, retry, .. } = built;
        let mirrors = self.build_mirrors(route, mirrors, &field, trace);
        Some(RuleNode { index, name, matches, filters, mirrors, timeouts, retry, action })
    }
}
