//! Names of endpoints become addresses, and follow them as they change.
//!
//! Purpose: rules D1–D5, by a resolver of our own, because when to look again and what a failure means is part
//! of the failover. Inputs: the names of the state with their DNS settings, and fixed answers. Outputs: the
//! addresses of each name, and a number that grows whenever one of them changes.

mod answer;
mod query;
mod replay;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;
use understudy_conf::Dns;

use answer::{merge, next_lookup};
use query::Servers;
pub use replay::replay;

/// So many names are looked up at once; the others wait for their turn.
const AT_ONCE: usize = 64;

/// Why there is no resolver.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolverError {
    /// The system's configuration cannot be used.
    #[error(
        "the system's DNS configuration (/etc/resolv.conf) cannot be used: {0}; name a server with --dns ADDR:PORT"
    )]
    System(String),
}

/// Where names are looked up.
#[derive(Debug, Clone, Default)]
pub struct ResolverOptions {
    /// Fixed answers, which never expire: a name may have several addresses.
    pub overrides: Vec<(String, IpAddr)>,
    /// The server to ask, over UDP and, for long answers, TCP; `None`: those of the system.
    pub server: Option<SocketAddr>,
}

/// Follows a set of names.
pub struct Resolver {
    inner: Arc<Inner>,
    control: Handle,
}

struct Inner {
    servers: Servers,
    overrides: HashMap<String, Arc<[IpAddr]>>,
    followed: RwLock<HashMap<Key, Followed>>,
    permits: Semaphore,
    generation: watch::Sender<u64>,
    failures: AtomicU64,
}

/// A name in lower case without a trailing dot, and how it is looked up.
type Key = (String, Dns);

struct Followed {
    found: Arc<Mutex<Found>>,
    task: AbortHandle,
}

/// What is known of a name.
#[derive(Default)]
struct Found {
    /// `None` until the first answer or failure.
    addresses: Option<Arc<[IpAddr]>>,
    error: Option<String>,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Resolver {
    /// A resolver that follows nothing yet. Its look-ups run on `control`.
    ///
    /// # Errors
    /// [`ResolverError::System`] if no server was named and the system has no usable configuration.
    pub fn new(options: ResolverOptions, control: &Handle) -> Result<Self, ResolverError> {
        let mut overrides: HashMap<String, Vec<IpAddr>> = HashMap::new();
        for (host, address) in options.overrides {
            overrides.entry(normalise(&host)).or_default().push(address);
        }
        let overrides = overrides.into_iter().map(|(host, mut addresses)| {
            addresses.sort_unstable();
            addresses.dedup();
            (host, addresses.into())
        });
        let inner = Inner {
            servers: Servers::new(options.server)?,
            overrides: overrides.collect(),
            followed: RwLock::default(),
            permits: Semaphore::new(AT_ONCE),
            generation: watch::Sender::new(0),
            failures: AtomicU64::new(0),
        };
        Ok(Self { inner: Arc::new(inner), control: control.clone() })
    }

    /// Makes `names` the names that are followed. Those that were followed before keep what is known of them.
    pub fn watch(&self, names: impl IntoIterator<Item = (String, Dns)>) {
        let wanted: HashSet<Key> = names
            .into_iter()
            .map(|(name, dns)| (normalise(&name), dns))
            .filter(|(name, _)| self.inner.fixed(name).is_none())
            .collect();
        let mut followed = self.inner.followed.write();
        followed.retain(|key, _| wanted.contains(key));
        for key in wanted {
            followed.entry(key).or_insert_with_key(|(name, dns)| {
                let found = Arc::new(Mutex::new(Found::default()));
                let follow = follow(Arc::clone(&self.inner), name.clone(), dns.clone(), Arc::clone(&found));
                Followed { found, task: self.control.spawn(follow).abort_handle() }
            });
        }
    }

    /// The addresses of a name: sorted, empty if it has none or could never be resolved. `None` if it is not
    /// followed or its first look-up is under way.
    #[must_use]
    pub fn resolved(&self, name: &str, dns: &Dns) -> Option<Arc<[IpAddr]>> {
        let name = normalise(name);
        if let Some(fixed) = self.inner.fixed(&name) {
            return Some(fixed);
        }
        self.inner.followed.read().get(&(name, dns.clone()))?.found.lock().addresses.clone()
    }

    /// Why the newest look-up of a name failed, if it did.
    #[must_use]
    pub fn error(&self, name: &str, dns: &Dns) -> Option<String> {
        let key = (normalise(name), dns.clone());
        self.inner.followed.read().get(&key)?.found.lock().error.clone()
    }

    /// Waits until each name that is followed has its first answer or failure, at most for `bound`; false if
    /// some had none by then.
    pub async fn first_round(&self, bound: Duration) -> bool {
        let mut changes = self.changes();
        tokio::time::timeout(bound, async { while self.is_waiting() && changes.changed().await.is_ok() {} })
            .await
            .is_ok()
    }

    /// A number that grows whenever the addresses of a name change, or are known for the first time.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.generation.subscribe()
    }

    /// Look-ups that failed since the start.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.inner.failures.load(Ordering::Relaxed)
    }

    fn is_waiting(&self) -> bool {
        self.inner.followed.read().values().any(|followed| followed.found.lock().addresses.is_none())
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        // The loops hold `inner`, which holds the loops.
        self.inner.followed.write().clear();
    }
}

impl Inner {
    /// Names that need no server: fixed answers and addresses.
    fn fixed(&self, name: &str) -> Option<Arc<[IpAddr]>> {
        if let Some(addresses) = self.overrides.get(name) {
            return Some(Arc::clone(addresses));
        }
        let address: IpAddr = name.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
        Some(Arc::new([address]))
    }
}

/// The loop of one name. It ends by being aborted.
async fn follow(inner: Arc<Inner>, name: String, dns: Dns, found: Arc<Mutex<Found>>) {
    let mut failures = 0_u32;
    loop {
        let round = {
            let Ok(_permit) = inner.permits.acquire().await else { return };
            inner.servers.ask(&name, dns.lookup_family).await
        };
        let failure = round.failure();
        if let Some(reason) = failure {
            failures = failures.saturating_add(1);
            inner.failures.fetch_add(1, Ordering::Relaxed);
            if failures == 1 {
                log::warn!("{name} cannot be resolved: {reason}; its old addresses stay in use");
            }
        } else {
            if failures > 0 {
                log::info!("{name} is resolved again after {failures} failures");
            }
            failures = 0;
        }
        let changed = {
            let mut found = found.lock();
            let addresses = merge(found.addresses.as_deref().unwrap_or_default(), &round);
            let changed = found.addresses.as_ref() != Some(&addresses);
            if changed && failure.is_none() {
                log::info!("{name} has the addresses {addresses:?}");
            }
            found.addresses = Some(addresses);
            found.error = failure.map(str::to_owned);
            changed
        };
        if changed {
            inner.generation.send_modify(|generation| *generation += 1);
        }
        tokio::time::sleep(next_lookup(&round, &dns, failures, fastrand::f64())).await;
    }
}

fn normalise(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}
