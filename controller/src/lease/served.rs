//! What the proxy beside this controller serves.
//!
//! Inputs: passes, and the proxy's acknowledgement in the state's folder. Outputs: the Gateways and
//! ListenerSets with the generation of each that is served. The proxy acknowledges versions, and each controller counts its own: that is why versions
//! are turned into generations here, where both are known.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use understudy_conf::Acknowledgement;
use understudy_conf::store::read_acknowledgement;

use crate::cluster::Key;
use crate::pass::Pass;

/// How often the acknowledgement is read: a small file in memory.
const LOOK: Duration = Duration::from_millis(250);
/// Passes that are known: the one that is served, and those that wait for their acknowledgement. Of more of these the
/// oldest are forgotten.
const MAX_WAITING: usize = 64;

/// What the proxy beside this controller serves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Served {
    pub(crate) generations: Arc<Generations>,
    /// What of the state could not act, in sentences.
    pub(crate) degraded: Vec<String>,
}

/// What is served, with the generation of each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Generations {
    pub(crate) gateways: BTreeMap<Key, i64>,
    /// ListenerSets.
    pub(crate) sets: BTreeMap<Key, i64>,
}

impl Generations {
    fn of(pass: &Pass) -> Self {
        let gateways = pass.graph.gateways.keys().filter_map(|key| pass.cluster.gateways.get(key));
        // Anybody may name a Gateway. Of those that it does not take nobody asks what is served, and they would take the
        // room of those that it does.
        let sets = pass.graph.gateways.values().flat_map(|node| &node.sets);
        let sets = sets.filter(|set| set.shapes.is_some());
        let sets = sets.filter_map(|set| pass.cluster.listener_sets.get(&set.key));
        Self {
            gateways: gateways.map(|gateway| (gateway.key.clone(), gateway.generation())).collect(),
            sets: sets.map(|set| (set.key.clone(), set.generation())).collect(),
        }
    }
}

/// Follows passes and acknowledgements until there are no more passes.
pub(crate) async fn run(
    folder: PathBuf,
    mut passes: watch::Receiver<Option<Arc<Pass>>>,
    served: watch::Sender<Served>,
) {
    let mut history = History::default();
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            changed = passes.changed() => if changed.is_err() { return },
            _ = looks.tick() => {}
        }
        if let Some(pass) = passes.borrow_and_update().as_ref() {
            history.add(pass.version, Generations::of(pass));
        }
        let Some(acknowledgement) = read(&folder).await else { continue };
        let now = history.served(&acknowledgement);
        served.send_if_modified(|known| {
            let changed = *known != now;
            *known = now;
            changed
        });
    }
}

async fn read(folder: &Path) -> Option<Acknowledgement> {
    let folder = folder.to_owned();
    match tokio::task::spawn_blocking(move || read_acknowledgement(folder)).await {
        Ok(Ok(acknowledgement)) => Some(acknowledgement.unwrap_or_default()),
        Ok(Err(error)) => {
            log::debug!("the proxy's acknowledgement cannot be read: {error}");
            None
        }
        Err(_) => None,
    }
}

/// The passes that may be served.
#[derive(Debug, Default)]
struct History(VecDeque<(u64, Arc<Generations>)>);

impl History {
    /// Adds a pass. One with the version of the last one is served as soon as that is: nothing else differs.
    fn add(&mut self, version: u64, generations: Generations) {
        match self.0.back_mut() {
            Some((last, known)) if *last == version => {
                if **known != generations {
                    *known = generations.into();
                }
            }
            _ => self.0.push_back((version, generations.into())),
        }
        while self.0.len() > MAX_WAITING {
            // The first one is served.
            self.0.remove(1);
        }
    }

    fn served(&mut self, acknowledgement: &Acknowledgement) -> Served {
        let mut degraded = acknowledgement.degraded.clone();
        let refused = acknowledgement.refused.as_ref();
        degraded.extend(refused.map(|refused| format!("the newest state is not served: {}", refused.reason)));
        let Some(serving) = acknowledgement.serving else { return Served { degraded, ..Served::default() } };
        while self.0.get(1).is_some_and(|(version, _)| *version <= serving) {
            self.0.pop_front();
        }
        let first = self.0.front().filter(|(version, _)| *version <= serving);
        Served { generations: first.map(|(_, known)| known.clone()).unwrap_or_default(), degraded }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Loader, Settling};
    use crate::{Options, Source};

    #[test]
    fn listener_sets_that_no_gateway_takes_are_not_named() {
        let set = |namespace: &str| {
            format!(
                "---
apiVersion: gateway.networking.k8s.io/v1
kind: ListenerSet
metadata: {{name: set, namespace: {namespace}}}
spec:
  parentRef: {{name: eg, namespace: a}}
  listeners: [{{name: http, protocol: HTTP, port: 8080}}]
"
            )
        };
        let text = format!(
            "---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{name: ours}}
spec: {{controllerName: {}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: eg, namespace: a}}
spec:
  gatewayClassName: ours
  allowedListeners: {{namespaces: {{from: Same}}}}
  listeners: [{{name: http, protocol: HTTP, port: 80}}]
{}{}",
            crate::CONTROLLER_NAME,
            set("a"),
            set("b")
        );
        let mut loader = Loader::default();
        loader.take_stdin(Ok(text));
        loader.refresh(&[Source::Stdin], Settling::TakeAll);
        let loaded = loader.load();
        let graph = crate::graph::build_graph(&loaded.cluster, &Options::default(), 0, &mut Vec::new());
        let pass = Pass { cluster: Arc::new(loaded.cluster), graph, diagnostics: Arc::new([]), version: 1 };
        let sets: Vec<_> = Generations::of(&pass).sets.into_keys().collect();
        assert_eq!(sets, [Key::new("a", "set")]);
    }

    fn serving(history: &mut History, version: Option<u64>) -> Vec<i64> {
        let acknowledgement = Acknowledgement { serving: version, ..Acknowledgement::default() };
        history.served(&acknowledgement).generations.gateways.values().copied().collect()
    }

    fn add(history: &mut History, version: u64, generation: i64) {
        let gateways = [(Key::new("default", "eg"), generation)].into();
        history.add(version, Generations { gateways, ..Generations::default() });
    }

    #[test]
    fn a_generation_is_served_when_its_version_is_acknowledged() {
        let mut history = History::default();
        add(&mut history, 1, 1);
        assert_eq!(serving(&mut history, None), [0; 0]);
        assert_eq!(serving(&mut history, Some(0)), [0; 0]);
        assert_eq!(serving(&mut history, Some(1)), [1]);
        add(&mut history, 2, 2);
        add(&mut history, 3, 3);
        assert_eq!(serving(&mut history, Some(1)), [1]);
        assert_eq!(serving(&mut history, Some(2)), [2]);
        assert_eq!(serving(&mut history, Some(7)), [3]);
    }

    #[test]
    fn a_generation_that_changes_nothing_is_served_with_the_version_before() {
        let mut history = History::default();
        add(&mut history, 1, 1);
        add(&mut history, 1, 2);
        assert_eq!(serving(&mut history, Some(1)), [2]);
    }

    #[test]
    fn a_proxy_that_never_answers_makes_nothing_grow() {
        let mut history = History::default();
        (0..1000).for_each(|version| add(&mut history, version, 1));
        assert_eq!(history.0.len(), MAX_WAITING);
    }

    #[test]
    fn what_is_served_stays_known_however_many_versions_wait() {
        let mut history = History::default();
        for version in 1..=1000 {
            add(&mut history, version, 7 + i64::try_from(version).unwrap());
            assert_eq!(serving(&mut history, Some(1)), [8]);
        }
        assert_eq!(history.0.len(), MAX_WAITING);
        // Of what was forgotten, the version before it is known.
        assert_eq!(serving(&mut history, Some(500)), [8]);
        assert_eq!(serving(&mut history, Some(999)), [1006]);
    }

    #[test]
    fn a_refused_state_is_said() {
        let mut history = History::default();
        let refused = understudy_conf::Refusal { version: Some(2), reason: "a file is broken".into() };
        let acknowledgement = Acknowledgement { refused: Some(refused), ..Acknowledgement::default() };
        assert_eq!(
            history.served(&acknowledgement).degraded,
            ["the newest state is not served: a file is broken"]
        );
    }
}
