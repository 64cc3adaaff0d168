//! A new state becomes what is served.
//!
//! Inputs: the state, answers of name servers, results of active checks. Output: a [`World`] that is swapped in. It is
//! served at once: a route whose new endpoints are not known yet is held back as it was, for [`PATIENCE`] at most, and
//! nothing else waits for it. Only the first world waits for all, since there is nothing to serve meanwhile.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use understudy_conf::{Dns, Protocol, State};
use understudy_engine::Instant;

use super::Server;
use crate::guard::TargetGuard;
use crate::listeners::TlsTable;
use crate::upstream_tls::UpstreamTlsTable;
use crate::world::{Addresses, Making, Outside, World, names};

/// How long the first answer of a name, or the first result of an active check, is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// How often routes that are held back are looked at, whatever happens.
const LOOK: Duration = Duration::from_millis(250);
/// Results of checks that come within this time are taken together.
const TOGETHER: Duration = Duration::from_millis(5);

/// The state that was taken last, with what belongs to it.
#[derive(Default)]
pub(super) struct Taken {
    state: Option<Arc<State>>,
    names: HashSet<(String, Dns)>,
    addresses: Arc<Addresses>,
    /// Since when names without an answer are waited for.
    asked: HashMap<(String, Dns), Instant>,
}

impl Server {
    /// Serves a new state: the world at once, then the sockets.
    pub(super) async fn take(&self, state: Arc<State>) {
        let mut taken = self.taken.lock().await;
        let asked = self.clock.now();
        let names = names(&state);
        let is_first = taken.state.is_none();
        let same_names = names == taken.names;
        if !same_names {
            // The old world's names are followed until the new one stands.
            self.resolver.watch(taken.names.union(&names).cloned());
        }
        if is_first && !self.resolver.first_round(PATIENCE).await {
            log::warn!("some names have no answer after {PATIENCE:?}; they are served as soon as they have");
            taken.asked.extend(names.iter().map(|name| (name.clone(), asked)));
        }
        self.show_certificates(&state);
        self.read_upstream_tls(&state);
        taken.state = Some(state.clone());
        taken.names = names;
        self.build(&mut taken).await;
        if !same_names {
            self.resolver.watch(taken.names.iter().cloned());
        }
        self.listeners.apply(&sockets(&state, |protocol| protocol != Protocol::Udp)).await;
        self.udp.apply(&sockets(&state, |protocol| protocol == Protocol::Udp)).await;
        self.acknowledge.notify_one();
    }

    /// From here on, handshakes use the state's certificates. This comes before its sockets are bound: none of
    /// them may take a connection for one in clear text.
    fn show_certificates(&self, state: &State) {
        let table = TlsTable::build(state, &self.tls.load());
        for problem in &table.degraded {
            log::error!("{problem}");
        }
        self.tls.store(Arc::new(table));
    }

    /// From here on, connections to endpoints can be made under the state's policies. This comes before the world:
    /// its endpoints are checked before it stands.
    fn read_upstream_tls(&self, state: &State) {
        let table = UpstreamTlsTable::build(state, &self.upstream_tls.load());
        for problem in &table.degraded {
            log::error!("{problem}");
        }
        self.upstream_tls.store(Arc::new(table));
    }

    async fn build(&self, taken: &mut Taken) {
        let Some(state) = taken.state.clone() else { return };
        let before = self.world.load_full();
        let is_first = before.version == 0;
        let now = self.clock.now();
        taken.collect_addresses(|name, dns| self.resolver.resolved(name, dns), now);
        let tls = self.upstream_tls.load_full();
        let target_guard = TargetGuard::build(state.guards.values().map(AsRef::as_ref), self.admin);
        let making = Making {
            outside: Outside { addresses: &taken.addresses, tls: &tls, guard: &target_guard },
            engine: &self.engine,
            metrics: &self.metrics,
            now,
            patience: (!is_first).then_some(PATIENCE),
        };
        let world = World::build(&state, &before, &making);
        for line in self.refusals.lock().lines(&before.refused, &world.refused, now) {
            log::warn!("{line}");
        }
        // H1: no endpoint gets a request before its check passed, so a request had better wait for the first round.
        if is_first && !self.driver.first_checks(PATIENCE).await {
            log::warn!("some endpoints have no result of their active check after {PATIENCE:?}");
        }
        for problem in world.degraded.iter().filter(|problem| !before.degraded.contains(problem)) {
            log::warn!("{problem}");
        }
        for route in world.held.keys().filter(|route| !before.held.contains_key(*route)) {
            log::info!("{route} stays as it was until the endpoints of its new version are known");
        }
        self.metrics.state_version.set(i64::try_from(world.version).unwrap_or(i64::MAX));
        let holds = !world.held.is_empty();
        let world = Arc::new(world);
        self.world.store(world.clone());
        world.adopt_pools(&self.engine);
        if holds {
            self.holds.notify_one();
        }
        drop(before);
        self.engine.forget_unused();
        self.metrics.forget_unused();
    }

    /// Builds the world anew whenever an address changes, and what routes are held back for may have come.
    pub(super) async fn follow_changes(self: Arc<Self>) {
        let mut names = self.resolver.changes();
        loop {
            let holds = !self.world.load().held.is_empty();
            tokio::select! {
                changed = names.changed() => if changed.is_err() { return },
                () = self.driver.checked(), if holds => tokio::time::sleep(TOGETHER).await,
                () = tokio::time::sleep(LOOK), if holds => {}
                // It is to be looked at again who is held.
                () = self.holds.notified(), if !holds => continue,
            }
            self.build(&mut *self.taken.lock().await).await;
            // The guard may see other addresses now.
            self.acknowledge.notify_one();
        }
    }
}

impl Taken {
    fn collect_addresses(
        &mut self,
        resolve: impl Fn(&str, &Dns) -> Option<Arc<[std::net::IpAddr]>>,
        now: Instant,
    ) {
        let Self { names, addresses, asked, .. } = self;
        asked.retain(|name, _| names.contains(name));
        let may_wait = |name: &(String, Dns)| {
            let since = *asked.entry(name.clone()).or_insert(now);
            now.since(since) < PATIENCE
        };
        *addresses = Arc::new(Addresses::collect(names, addresses, resolve, may_wait));
    }
}

/// The sockets of listeners of some protocols.
fn sockets(state: &State, is_wanted: impl Fn(Protocol) -> bool) -> Vec<SocketAddr> {
    let mut sockets: Vec<SocketAddr> = state
        .gateways
        .values()
        .flat_map(|gateway| &gateway.listeners)
        .filter(|listener| is_wanted(listener.protocol))
        .flat_map(|listener| listener.bind.iter().copied())
        .collect();
    sockets.sort();
    sockets.dedup();
    sockets
}
