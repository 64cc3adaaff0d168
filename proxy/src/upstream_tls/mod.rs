//! TLS to endpoints: every policy of the state, parsed once, and what each connection is made with.
//!
//! Purpose: let requests, trial connections and active checks reach an endpoint under one and the same policy.
//! Inputs: the state's backends with their authorities and client certificates. Outputs: an [`UpstreamTlsTable`];
//! Pingora's peers, secured; and what a failed handshake says. Pingora's own connector does the handshakes
//! (`docs/decisions/0012-tls-to-backends.md`).

mod connect;
mod failure;
mod names;
mod policy;
mod security;

use std::collections::HashMap;
use std::sync::Arc;

use understudy_conf::{BackendName, BackendTls, State};

pub(crate) use connect::{TlsGuard, TlsProber};
pub(crate) use failure::{is_client_certificate_refused, is_client_certificate_refused_in_h2, of_handshake};
pub(crate) use policy::{Refused, UpstreamTls, alpn_of};
pub(crate) use security::SecurityLog;

use policy::Content;

/// The TLS policies of one state.
#[derive(Default)]
pub(crate) struct UpstreamTlsTable {
    by_backend: HashMap<BackendName, Arc<UpstreamTls>>,
    current: HashMap<u64, Arc<UpstreamTls>>,
    /// Those of the state before, which requests and probes under way may still need.
    former: HashMap<u64, Arc<UpstreamTls>>,
    /// The highest number that was ever given.
    last: u64,
    /// What could not be used; the backends concerned are not served.
    pub(crate) degraded: Vec<String>,
}

impl UpstreamTlsTable {
    /// Reads the policies of a state. One whose content stood in the table before keeps its number, and with it its
    /// connections and what is known of its endpoints.
    pub(crate) fn build(state: &State, before: &Self) -> Self {
        let mut table = Self { former: before.current.clone(), last: before.last, ..Self::default() };
        let mut parsed: HashMap<BackendTls, Result<Arc<UpstreamTls>, String>> = HashMap::new();
        let mut known: HashMap<Arc<Content>, Arc<UpstreamTls>> =
            before.current.values().map(|tls| (tls.content().clone(), tls.clone())).collect();
        for (name, backend) in &state.backends {
            let Some(tls) = &backend.tls else { continue };
            // The name to verify is each endpoint's, so it makes no other policy.
            let key = BackendTls { server_name: None, ..tls.clone() };
            let found = parsed.entry(key).or_insert_with(|| {
                let content = Content::read(state, tls).map_err(|error| error.to_string())?;
                if let Some(known) = known.get(&content) {
                    return Ok(known.clone());
                }
                table.last += 1;
                let content = Arc::new(content);
                let made = Arc::new(UpstreamTls::new(table.last, content.clone()));
                known.insert(content, made.clone());
                Ok(made)
            });
            match found {
                Ok(found) => {
                    table.current.insert(found.number(), found.clone());
                    table.by_backend.insert(name.clone(), found.clone());
                }
                Err(error) => table.degraded.push(format!("{name} is not served: its TLS: {error}")),
            }
        }
        table
    }

    /// The policy of a backend, unless it cannot be used.
    pub(crate) fn of_backend(&self, name: &BackendName) -> Option<&Arc<UpstreamTls>> {
        self.by_backend.get(name)
    }

    /// The backends whose policy is another one than before.
    pub(crate) fn changed_since<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = &'a BackendName> {
        let number = |table: &Self, name| table.of_backend(name).map(|policy| policy.number());
        let names = self.by_backend.keys().chain(before.by_backend.keys());
        names.filter(move |name| number(self, *name) != number(before, *name))
    }

    /// A policy by its number.
    pub(crate) fn by_number(&self, number: u64) -> Option<&Arc<UpstreamTls>> {
        self.current.get(&number).or_else(|| self.former.get(&number))
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
