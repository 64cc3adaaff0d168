//! Statuses to the API server.
//!
//! Inputs: passes, what the sidecars serve, the addresses of Gateways, and whether this sidecar leads. Outputs: merge
//! patches of `status`, each bound to the version of the object that it was made for, so that nobody's write is lost.
//! What differs is compared with the pass and, until a pass shows that, with what was written last.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::api::{Failure, StatusApi};
use super::doubts::{Doubts, written_since};
use super::pace::Pacer;
use super::{Desired, Inputs, build_statuses, has_other_manager, merge};
use crate::Sidecar;
use crate::addresses::Addresses;
use crate::cluster::Cluster;
use crate::lease::{Served, ServingSidecar};
use crate::pass::Pass;
use crate::watch::{Kind, Node, ObjectId};
use crate::writers::ended;

/// A new leader waits this long for the Leases of the others before it speaks for itself alone.
const PATIENCE: Duration = Duration::from_secs(2);
/// After a pass others are waited for.
const TOGETHER: Duration = Duration::from_millis(20);
/// After a failure of the API server nothing is written for this long, and twice as long each time.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What a writer of statuses follows.
pub(crate) struct Sources {
    pub(crate) passes: watch::Receiver<Option<Arc<Pass>>>,
    /// Whether this sidecar leads.
    pub(crate) leading: watch::Receiver<bool>,
    /// What the proxy beside serves.
    pub(crate) served: watch::Receiver<Served>,
    /// What all sidecars serve, where their Leases are known.
    pub(crate) sidecars: watch::Receiver<Option<Arc<[ServingSidecar]>>>,
    pub(crate) addresses: watch::Receiver<Arc<Addresses>>,
}

/// Writes statuses while this sidecar leads, until there are no more passes.
pub(crate) async fn run(client: Client, sidecar: Arc<Sidecar>, mut sources: Sources) {
    loop {
        tokio::select! {
            led = sources.leading.wait_for(|leading| *leading) => if led.is_err() { return },
            () = ended(sources.passes.clone()) => return,
        }
        let mut leading = sources.leading.clone();
        let writer = Writer::new(StatusApi::new(client.clone()), sidecar.clone());
        tokio::select! {
            // A request that is under way is given up; if it is carried out yet, its version keeps it harmless.
            lost = leading.wait_for(|leading| !*leading) => if lost.is_err() { return },
            () = writer.write_changes(&mut sources) => return,
        }
    }
}

/// A status that was written, as long as no pass shows it.
struct Written {
    /// The version that the pass had then.
    replaced: String,
    version: String,
    status: Value,
}

/// What everything was made of the last time.
#[derive(Default)]
struct Basis {
    pass: Option<Arc<Pass>>,
    /// The pass of which the desired statuses are.
    desired_of: Option<Arc<Pass>>,
    sidecars: Vec<ServingSidecar>,
    addresses: Arc<Addresses>,
    /// Whether another gateway writes conditions of the common names.
    other_manager: bool,
}

struct Writer {
    api: StatusApi,
    sidecar: Arc<Sidecar>,
    began: Instant,
    basis: Basis,
    desired: HashMap<ObjectId, Arc<Desired>>,
    written: HashMap<ObjectId, Written>,
    /// Objects whose status is to be compared with the desired one.
    doubtful: BTreeSet<ObjectId>,
    /// The versions of objects whose status is as desired.
    settled: HashMap<ObjectId, String>,
    pacer: Pacer,
    pause: Duration,
    paused_until: Instant,
}

impl Writer {
    fn new(api: StatusApi, sidecar: Arc<Sidecar>) -> Self {
        let now = Instant::now();
        Self {
            api,
            sidecar,
            began: now,
            basis: Basis::default(),
            desired: HashMap::new(),
            written: HashMap::new(),
            doubtful: BTreeSet::new(),
            settled: HashMap::new(),
            pacer: Pacer::new(now),
            pause: PAUSE,
            paused_until: now,
        }
    }

    async fn write_changes(mut self, sources: &mut Sources) {
        loop {
            self.refresh(sources);
            let now = Instant::now();
            let due = match self.pacer.next(now) {
                Some(Ok(_)) if self.paused_until > now => Some(self.paused_until),
                Some(Ok(id)) => {
                    self.write(&id).await;
                    if sources.passes.has_changed().is_err() {
                        return;
                    }
                    continue;
                }
                Some(Err(due)) => Some(due),
                None => None,
            };
            let patience = self.began + PATIENCE;
            let due = if self.basis.pass.is_none() {
                Some(due.map_or(patience, |due| due.min(patience)))
            } else {
                due
            };
            tokio::select! {
                changed = sources.passes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    // First the proxy beside gets what it serves, and what comes close behind is looked at together.
                    sleep(TOGETHER).await;
                }
                Ok(()) = sources.served.changed() => {}
                Ok(()) = sources.sidecars.changed() => {}
                Ok(()) = sources.addresses.changed() => {}
                () = sleep_until(due.unwrap_or(now)), if due.is_some_and(|due| due > now) => {}
            }
        }
    }

    /// Takes what is new, and finds what has to be written.
    fn refresh(&mut self, sources: &mut Sources) {
        let known = sources.sidecars.borrow_and_update().clone();
        let Some(pass) = sources.passes.borrow_and_update().clone() else { return };
        if known.is_none() && self.began.elapsed() < PATIENCE {
            return;
        }
        let sidecars =
            join(known.as_deref().unwrap_or_default(), &sources.served.borrow_and_update(), &self.sidecar);
        let addresses = sources.addresses.borrow_and_update().clone();
        let same_pass = self.basis.pass.as_ref().is_some_and(|last| Arc::ptr_eq(last, &pass));
        // A pass over the same graph differs in statuses alone.
        let same_graph = self.basis.pass.as_ref().is_some_and(|last| Arc::ptr_eq(&last.graph, &pass.graph));
        let other_manager = has_other_manager(&pass.cluster);
        let same = same_graph
            && self.basis.sidecars == sidecars
            && self.basis.addresses == addresses
            && self.basis.other_manager == other_manager;
        if same && same_pass {
            return;
        }
        let before = std::mem::take(&mut self.basis);
        self.doubtful.extend(before.pass.iter().flat_map(|last| written_since(last, &pass)));
        let desired_of = if same { before.desired_of.clone() } else { Some(pass.clone()) };
        self.basis = Basis { pass: Some(pass.clone()), desired_of, sidecars, addresses, other_manager };
        if !same {
            let last = before.desired_of;
            let doubts = last.map_or(Doubts::Everything, |last| Doubts::between(&last, &pass));
            self.desire(&pass, &doubts);
        }
        self.compare(&pass);
    }

    fn desire(&mut self, pass: &Pass, doubts: &Doubts) {
        let inputs = Inputs {
            cluster: &pass.cluster,
            graph: &pass.graph,
            diagnostics: &pass.diagnostics,
            sidecars: &self.basis.sidecars,
            addresses: &self.basis.addresses,
        };
        let mut gone: HashSet<_> = self.desired.keys().filter(|id| doubts.include(id)).cloned().collect();
        for desired in build_statuses(inputs, doubts) {
            gone.remove(&desired.id);
            if self.desired.get(&desired.id).is_some_and(|known| **known == desired) {
                continue;
            }
            self.settled.remove(&desired.id);
            // What was refused may have been the old content.
            self.pacer.forgive(&desired.id);
            self.doubtful.insert(desired.id.clone());
            self.desired.insert(desired.id.clone(), Arc::new(desired));
        }
        for id in &gone {
            self.desired.remove(id);
            self.settled.remove(id);
            self.written.remove(id);
            self.pacer.drop(id);
        }
    }

    /// Finds the objects whose status differs.
    fn compare(&mut self, pass: &Pass) {
        for id in &std::mem::take(&mut self.doubtful) {
            let Some(desired) = self.desired.get(id) else { continue };
            let Some((version, status)) = find(&pass.cluster, id) else { continue };
            if self.settled.get(id).is_some_and(|settled| settled == version) {
                continue;
            }
            if self.written.get(id).is_some_and(|written| written.replaced != version) {
                self.written.remove(id);
            }
            let present = match self.written.get(id) {
                Some(written) => Some(written.status.clone()),
                None => status.map(|status| status.to_json()),
            };
            if merge(desired, present.as_ref(), 0).is_some() {
                self.pacer.want(id);
            } else {
                self.settled.insert(id.clone(), version.to_owned());
                self.pacer.drop(id);
            }
        }
    }

    async fn write(&mut self, id: &ObjectId) {
        let now = Instant::now();
        let (Some(desired), Some(pass)) = (self.desired.get(id).cloned(), self.basis.pass.clone()) else {
            return self.pacer.drop(id);
        };
        let Some((version, status)) = find(&pass.cluster, id) else { return self.pacer.drop(id) };
        let (mut at, mut present) = match self.written.get(id) {
            Some(written) => (written.version.clone(), Some(written.status.clone())),
            None => (version.to_owned(), status.map(|status| status.to_json())),
        };
        self.pacer.begin(id, fingerprint(&desired), now);
        // Whoever wrote in between is read once; after that the next pass shows what is there.
        for attempt in 0..2 {
            let seconds = jiff::Timestamp::now().as_second();
            let Some(fields) = merge(&desired, present.as_ref(), seconds) else { break };
            match self.api.patch(id, &at, fields).await {
                Ok(object) => {
                    (at, present) = (object.version, Some(object.status));
                    self.pause = PAUSE;
                    break;
                }
                Err(Failure::Conflict) if attempt == 0 => match self.api.get(id).await {
                    // What is newer than the pass has its own pass soon.
                    Ok(object) if object.generation > desired.generation => return,
                    Ok(object) => (at, present) = (object.version, Some(object.status)),
                    Err(failure) => return self.fail(id, &failure),
                },
                Err(failure) => return self.fail(id, &failure),
            }
        }
        self.settled.insert(id.clone(), version.to_owned());
        let status = present.unwrap_or_default();
        self.written.insert(id.clone(), Written { replaced: version.to_owned(), version: at, status });
    }

    fn fail(&mut self, id: &ObjectId, failure: &Failure) {
        let now = Instant::now();
        match failure {
            // The next pass is without it. Should it not be, nobody else says that something is left to write; what is
            // written again and again is so ever less often.
            Failure::Gone => {
                log::debug!("the status of {id} cannot be written: the API server does not find it");
                self.pacer.want(id);
            }
            Failure::Conflict => {
                self.pacer.forgive(id);
                self.pacer.want(id);
            }
            Failure::Refused(error) => {
                log::warn!("the status of {id} cannot be written: {error}");
                self.pacer.refuse(id, now);
                self.pacer.want(id);
            }
            Failure::Unreachable(error) => {
                log::warn!("the status of {id} cannot be written now, and is tried again: {error}");
                self.pacer.forgive(id);
                self.pacer.want(id);
                self.paused_until = now + self.pause;
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// What all ready sidecars serve; of this one's own, what it knows itself.
fn join(known: &[ServingSidecar], own: &Served, sidecar: &Sidecar) -> Vec<ServingSidecar> {
    let own = ServingSidecar {
        node: sidecar.node.clone(),
        gateways: own.generations.gateways.clone(),
        sets: own.generations.sets.clone(),
        degraded: own.degraded.clone(),
        pools: None,
    };
    let others = known.iter().filter(|other| other.node != sidecar.node).map(|other| ServingSidecar {
        // Health comes and goes, and is no reason to look at every status.
        pools: None,
        ..other.clone()
    });
    let mut all: Vec<_> = others.chain([own]).collect();
    all.sort_by(|a, b| a.node.cmp(&b.node));
    all
}

fn fingerprint(desired: &Desired) -> u64 {
    let mut hasher = DefaultHasher::new();
    format!("{desired:?}").hash(&mut hasher);
    hasher.finish()
}

/// The version and the status of an object.
fn find<'c>(cluster: &'c Cluster, id: &ObjectId) -> Option<(&'c str, Option<Cow<'c, Node>>)> {
    macro_rules! find {
        ($map:ident) => {
            cluster.$map.get(&id.key).map(|object| (object.resource_version(), object.status()))
        };
    }
    match id.kind {
        Kind::GatewayClass => find!(gateway_classes),
        Kind::Gateway => find!(gateways),
        Kind::ListenerSet => find!(listener_sets),
        Kind::HttpRoute => find!(http_routes),
        Kind::GrpcRoute => find!(grpc_routes),
        Kind::TlsRoute => find!(tls_routes),
        Kind::TcpRoute => find!(tcp_routes),
        Kind::UdpRoute => find!(udp_routes),
        Kind::Backend => find!(backends),
        Kind::BackendTrafficPolicy => find!(policies),
        Kind::BackendTlsPolicy => find!(backend_tls_policies),
        _ => None,
    }
}

/// A request that takes longer is given up.
pub(super) async fn limited<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Failure> {
    const LIMIT: Duration = Duration::from_secs(5);
    match timeout(LIMIT, request).await {
        Ok(answer) => answer.map_err(Failure::from),
        Err(_) => Err(Failure::Unreachable(format!("no answer within {LIMIT:?}"))),
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
