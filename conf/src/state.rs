//! The consistent world at one version.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{
    Action, Backend, BackendName, CaBundle, CaBundleName, Certificate, CertificateName, Gateway, GatewayName,
    Guard, GuardName, HttpFilter, Policy, PolicyName, Pool, PoolName, RefTarget, Route, RouteName, Trust,
    changes,
};

/// Everything that the proxy serves, at one version. Objects are shared: two versions hold the same [`Arc`]
/// where nothing changed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// Grows with each change that is written.
    pub version: u64,
    /// Gateways by name.
    pub gateways: BTreeMap<GatewayName, Arc<Gateway>>,
    /// Routes by name.
    pub routes: BTreeMap<RouteName, Arc<Route>>,
    /// Pools by name.
    pub pools: BTreeMap<PoolName, Arc<Pool>>,
    /// Policies by name.
    pub policies: BTreeMap<PolicyName, Arc<Policy>>,
    /// Backends by name.
    pub backends: BTreeMap<BackendName, Arc<Backend>>,
    /// Authorities by name.
    pub ca_bundles: BTreeMap<CaBundleName, Arc<CaBundle>>,
    /// Certificates by name.
    pub certificates: BTreeMap<CertificateName, Arc<Certificate>>,
    /// Target guards by name; none at all: endpoints may be anywhere.
    pub guards: BTreeMap<GuardName, Arc<Guard>>,
}

/// A reference to something that is not in the state. A state with one is never served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{from} refers to {to}, which is not in the state")]
pub struct DanglingReference {
    /// The object that refers.
    pub from: String,
    /// The object that is missing.
    pub to: String,
}

fn dangling(from: &str, to: &str) -> Result<(), DanglingReference> {
    Err(DanglingReference { from: from.to_owned(), to: to.to_owned() })
}

impl State {
    /// Checks that every reference resolves.
    ///
    /// # Errors
    /// The first [`DanglingReference`] found.
    pub fn validate_references(&self) -> Result<(), DanglingReference> {
        self.gateways.values().try_for_each(|gateway| self.validate_gateway(gateway))?;
        self.backends.values().try_for_each(|backend| self.validate_backend(backend))?;
        self.routes.values().try_for_each(|route| self.validate_route(route))?;
        self.pools.values().try_for_each(|pool| self.validate_pool(pool))
    }

    /// The same after `before`, every reference of which resolves: then only what changed is looked at.
    ///
    /// # Errors
    /// A [`DanglingReference`], if there is one.
    pub fn validate_references_since(&self, before: Option<&Self>) -> Result<(), DanglingReference> {
        let Some(before) = before else { return self.validate_references() };
        // What is gone, and every listener of a gateway that changed, may still be referred to by anything.
        if changes(&before.gateways, &self.gateways).next().is_some()
            || loses(&before.certificates, &self.certificates)
            || loses(&before.ca_bundles, &self.ca_bundles)
            || loses(&before.backends, &self.backends)
            || loses(&before.policies, &self.policies)
            || loses(&before.pools, &self.pools)
        {
            return self.validate_references();
        }
        let mut backends = changes(&before.backends, &self.backends).filter_map(|change| change.after);
        backends.try_for_each(|backend| self.validate_backend(backend))?;
        let mut routes = changes(&before.routes, &self.routes).filter_map(|change| change.after);
        routes.try_for_each(|route| self.validate_route(route))?;
        let mut pools = changes(&before.pools, &self.pools).filter_map(|change| change.after);
        pools.try_for_each(|pool| self.validate_pool(pool))
    }

    fn validate_gateway(&self, gateway: &Gateway) -> Result<(), DanglingReference> {
        let mut certificates =
            gateway.listeners.iter().filter_map(|l| l.tls.as_ref()).flat_map(|tls| &tls.certificates);
        if let Some(certificate) =
            certificates.find(|certificate| !self.certificates.contains_key(*certificate))
        {
            return dangling(gateway.name.as_str(), certificate.as_str());
        }
        let validations = gateway.listeners.iter().filter_map(|l| l.tls.as_ref()?.client_validation.as_ref());
        match validations.flat_map(|v| &v.bundles).find(|bundle| !self.ca_bundles.contains_key(*bundle)) {
            Some(bundle) => dangling(gateway.name.as_str(), bundle.as_str()),
            None => Ok(()),
        }
    }

    fn validate_backend(&self, backend: &Backend) -> Result<(), DanglingReference> {
        let Some(tls) = &backend.tls else { return Ok(()) };
        if let Some(certificate) = &tls.client_certificate
            && !self.certificates.contains_key(certificate)
        {
            return dangling(backend.name.as_str(), certificate.as_str());
        }
        let Trust::Bundles(bundles) = &tls.trust else { return Ok(()) };
        match bundles.iter().find(|bundle| !self.ca_bundles.contains_key(*bundle)) {
            Some(bundle) => dangling(backend.name.as_str(), bundle.as_str()),
            None => Ok(()),
        }
    }

    fn validate_route(&self, route: &Route) -> Result<(), DanglingReference> {
        for attachment in &route.attachments {
            let listener = self
                .gateways
                .get(&attachment.gateway)
                .and_then(|gateway| gateway.listeners.iter().find(|l| l.name == attachment.listener));
            if listener.is_none() {
                return dangling(
                    route.name.as_str(),
                    &format!("{} listener {}", attachment.gateway, attachment.listener),
                );
            }
        }
        for rule in &route.rules {
            if let Action::Forward(pool) = &rule.action
                && !self.pools.contains_key(pool)
            {
                return dangling(route.name.as_str(), pool.as_str());
            }
            if let Some(pool) = self.missing_mirror(&rule.filters) {
                return dangling(route.name.as_str(), pool.as_str());
            }
        }
        Ok(())
    }

    fn validate_pool(&self, pool: &Pool) -> Result<(), DanglingReference> {
        if let Some(policy) = &pool.policy
            && !self.policies.contains_key(policy)
        {
            return dangling(pool.name.as_str(), policy.as_str());
        }
        for reference in &pool.refs {
            if let RefTarget::Backend(backend) = &reference.target
                && !self.backends.contains_key(backend)
            {
                return dangling(pool.name.as_str(), backend.as_str());
            }
            if let Some(missing) = self.missing_mirror(&reference.filters) {
                return dangling(pool.name.as_str(), missing.as_str());
            }
        }
        Ok(())
    }

    fn missing_mirror<'a>(&self, filters: &'a [HttpFilter]) -> Option<&'a PoolName> {
        let mut mirrors = filters.iter().filter_map(|filter| match filter {
            HttpFilter::RequestMirror(mirror) => Some(&mirror.pool),
            _ => None,
        });
        mirrors.find(|pool| !self.pools.contains_key(*pool))
    }
}

/// Whether an object is gone.
fn loses<N: Ord, T>(before: &BTreeMap<N, Arc<T>>, after: &BTreeMap<N, Arc<T>>) -> bool {
    changes(before, after).any(|change| change.after.is_none())
}
