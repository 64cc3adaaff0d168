//! Listeners of a Gateway or of a ListenerSet: whether each is accepted and served.

use std::collections::BTreeMap;

use gateway_api::apis::experimental::gateways::Gateway;

use crate::cluster::{Key, Object};
use crate::diagnostics::{Diagnostic, Reason, Severity};
use crate::graph::GatewayNode;
use crate::status::ListenerReport;
use crate::status::condition::{
    Condition, accepted, not_accepted, not_programmed, programmed, resolved_refs, unresolved_refs,
};
use crate::status::findings::{Findings, field, is_below, sentences};
use crate::status::gateway_tls as tls;

/// The listeners of one object.
pub(super) struct Section<'a> {
    pub(super) findings: &'a Findings<'a>,
    /// The Gateway, or the ListenerSet in the words of one.
    pub(super) object: &'a Object<Gateway>,
    pub(super) node: &'a GatewayNode,
    /// The ListenerSet; `None` for the Gateway itself.
    pub(super) set: Option<&'a Key>,
    /// Where they begin among the Gateway's shapes.
    pub(super) first: usize,
}

impl Section<'_> {
    /// What is said of each. `parent` is whether the object as a whole is programmed.
    pub(super) fn reports(
        &self,
        gateway: &Key,
        attached: &BTreeMap<(&Key, usize), usize>,
        parent: &Condition,
    ) -> Vec<ListenerReport> {
        let mut listeners: Vec<ListenerReport> = Vec::new();
        for (index, listener) in self.object.value.spec.listeners.iter().enumerate() {
            // An API server refuses two of one name, and a status has place for one.
            if listeners.iter().any(|known| known.name == listener.name) {
                continue;
            }
            let shape = self.node.shapes.get(self.first + index).and_then(Option::as_ref);
            listeners.push(ListenerReport {
                name: listener.name.clone(),
                kinds: shape.map(|shape| shape.kinds.clone()).unwrap_or_default(),
                attached_routes: attached.get(&(gateway, self.first + index)).copied().unwrap_or(0),
                conditions: self.listener_conditions(index, parent),
            });
        }
        listeners
    }

    /// The names of those that are not served, and wait for nothing.
    pub(super) fn refused(&self) -> Vec<&str> {
        let listeners = self.object.value.spec.listeners.iter().enumerate();
        listeners
            .filter(|(index, _)| !self.is_served(*index) && self.waits(*index).is_none())
            .map(|(_, listener)| listener.name.as_str())
            .collect()
    }

    /// What the first one waits for that waits for anything.
    pub(super) fn waiting(&self) -> Option<&Diagnostic> {
        (0..self.object.value.spec.listeners.len()).find_map(|index| self.waits(index))
    }

    /// What a listener waits for that nothing is wrong with: the Service that leads to it.
    fn waits(&self, index: usize) -> Option<&Diagnostic> {
        let field = format!("spec.listeners[{index}].port");
        let all = self.findings.of(&self.object.label).iter().copied();
        all.filter(|finding| finding.severity == Severity::Info && finding.reason == Reason::PortUnavailable)
            .find(|finding| is_below(finding, &field))
    }

    fn is_served(&self, index: usize) -> bool {
        let field = format!("spec.listeners[{index}]");
        let mut listeners = self.node.listeners.iter();
        listeners.any(|listener| listener.field == field && listener.shape.set.as_ref() == self.set)
    }

    fn listener_conditions(&self, index: usize, gateway: &Condition) -> Vec<Condition> {
        let prefix = format!("spec.listeners[{index}]");
        let clients = tls::clients_field(&self.object.value, index);
        let is_about = |finding: &&Diagnostic| {
            is_below(finding, &prefix) || clients.as_ref().is_some_and(|field| is_below(finding, field))
        };
        let about: Vec<&Diagnostic> = self
            .findings
            .of(&self.object.label)
            .iter()
            .copied()
            .filter(is_about)
            // That a protocol is not served is no error in `check`, where it is said for the whole Gateway.
            .filter(|finding| finding.is_error() || finding.reason == Reason::UnsupportedProtocol)
            .collect();
        let of = |reasons: &[Reason]| -> Vec<&Diagnostic> {
            about.iter().copied().filter(|finding| reasons.contains(&finding.reason)).collect()
        };
        let conflicts = of(&[Reason::HostnameConflict, Reason::ProtocolConflict]);
        let references = of(&[
            Reason::InvalidRouteKinds,
            Reason::RefNotPermitted,
            Reason::InvalidCertificateRef,
            Reason::InvalidCACertificateRef,
            Reason::InvalidCACertificateKind,
        ]);
        let refused: Vec<_> = about
            .iter()
            .copied()
            .filter(|finding| !references.iter().any(|reference| std::ptr::eq(*reference, *finding)))
            .collect();
        let is_served = self.is_served(index);
        let overlapping = tls::overlapping(&self.object.value, index);
        let own = vec![
            match refused.first() {
                Some(first) => not_accepted(first.reason.as_str(), sentences(&refused)),
                None => accepted("The listener is accepted."),
            },
            match conflicts.first() {
                Some(first) => {
                    Condition::new("Conflicted", true, first.reason.as_str(), sentences(&conflicts))
                }
                None => {
                    Condition::new("Conflicted", false, "NoConflicts", "No other listener is in its way.")
                }
            },
            match references
                .iter()
                .find(|finding| !field(finding).ends_with("certificateRefs"))
                .or(references.first())
            {
                Some(first) => unresolved_refs(first.reason.as_str(), sentences(&references)),
                None => resolved_refs(),
            },
            match (is_served, gateway.holds) {
                (false, _) if self.waits(index).is_some() => {
                    let waits: Vec<_> = self.waits(index).into_iter().collect();
                    not_programmed("Pending", sentences(&waits))
                }
                (true, true) => programmed(),
                (true, false) => not_programmed(
                    if gateway.reason == "Invalid" { "Invalid" } else { "Pending" },
                    gateway.message.clone(),
                ),
                (false, _) => {
                    let message = "The listener is not served; see its other conditions.";
                    // ListenerSets say a conflict here as well.
                    let reason = conflicts.first().filter(|_| self.set.is_some());
                    not_programmed(reason.map_or("Invalid", |first| first.reason.as_str()), message)
                }
            },
        ];
        own.into_iter().chain(overlapping).collect()
    }
}
