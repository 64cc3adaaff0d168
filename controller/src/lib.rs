//! The controller: manifests in, pool state and diagnostics out.
//!
//! Purpose: decide what the proxy serves. Inputs: Kubernetes manifests ([`Source`]) and [`Options`]. Outputs: a
//! [`State`], published into a folder, and [`Diagnostic`]s. A change flows through five stages:
//!
//! 1. `watch`: sources become typed objects with file and line.
//! 2. `cluster`: plain maps of these objects, each once.
//! 3. `graph`: objects are validated, bound and resolved.
//! 4. `translate`: the graph becomes a state; pure.
//! 5. `publish`: what changed is written.
//!
//! [`check`] ends after the fourth, [`follow`] repeats all of them with every change.

mod addresses;
mod bridge;
mod changes;
mod cluster;
mod diagnostics;
#[cfg(test)]
mod fake_api;
mod follow;
mod follow_cluster;
mod graph;
mod guard;
mod health;
#[cfg(test)]
mod incremental_tests;
mod lease;
mod load;
mod pass;
mod placement;
mod publish;
mod status;
mod translate;
mod visible;
mod watch;
mod writers;

use std::sync::Arc;

use understudy_conf::State;

pub use addresses::HeldPorts;
pub use diagnostics::{Diagnostic, Reason, Severity};
pub use follow::{FollowError, follow};
pub use follow_cluster::{ClusterOptions, ConnectError, connect, follow_cluster};
pub use guard::{GuardOptions, OwnNode};
pub use health::{Health, bind_health, serve_health};
pub use placement::{Families, GatewayMode, GatewayModeError, ListenOptions, Placement};
pub use watch::Source;

/// The `controllerName` of a GatewayClass whose Gateways are served here.
pub const CONTROLLER_NAME: &str = "understudy.dev/gateway-controller";

/// How manifests are translated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Where listeners are bound.
    pub listen: ListenOptions,
    /// Whether names of the manifests' own Services are served from their EndpointSlices instead of DNS.
    pub resolve_services: bool,
    /// The cluster's domain, which may stand behind `NAME.NAMESPACE.svc`.
    pub cluster_domain: String,
    /// Whether Backends are served. In a cluster that is for its administrator to say.
    pub backend_api: bool,
    /// Whether a Service without any EndpointSlice is known to be empty, as in a cluster. From files it is unknown, and
    /// DNS decides.
    pub live: bool,
    /// The container ports that Gateways with Services serve on by now. Whoever follows a cluster keeps them.
    pub held: HeldPorts,
    /// Which endpoints the proxy has to refuse; `None`: it refuses none, as suits manifests from files.
    pub guard: Option<GuardOptions>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: ListenOptions::default(),
            resolve_services: true,
            cluster_domain: "cluster.local".to_owned(),
            backend_api: true,
            live: false,
            held: HeldPorts::default(),
            guard: None,
        }
    }
}

/// Who a controller is in its cluster: a sidecar of one pod of the DaemonSet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sidecar {
    /// The namespace of the installation, where Leases and the ConfigMap `understudy-config` are.
    pub namespace: String,
    /// The name of the pod.
    pub pod: String,
    /// The name of the node.
    pub node: String,
}

/// What manifests come to.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// What was found, sorted by file and line.
    pub diagnostics: Vec<Diagnostic>,
    /// What is served. Its version is 0: versions are given when it is published.
    pub state: Arc<State>,
}

impl Report {
    /// Whether anything is wrong, warnings aside.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(Diagnostic::is_error)
    }
}

/// Reads and translates manifests once.
#[must_use]
pub fn check(sources: &[Source], options: &Options) -> Report {
    let mut loader = load::Loader::default();
    loader.refresh(sources, load::Settling::TakeAll);
    build_report(loader.load(), options)
}

/// Translates one manifest, as if it came from standard input.
#[must_use]
pub fn check_text(text: String, options: &Options) -> Report {
    let mut loader = load::Loader::default();
    loader.take_stdin(Ok(text));
    loader.refresh(&[Source::Stdin], load::Settling::TakeAll);
    build_report(loader.load(), options)
}

fn build_report(loaded: load::Loaded, options: &Options) -> Report {
    let load::Loaded { cluster, mut diagnostics } = loaded;
    let mut builder = Builder::default();
    let (_, state) = builder.build(&cluster, options, &mut diagnostics);
    Report { diagnostics, state }
}

/// The third and fourth stage, with a memory of what they made of the last cluster.
#[derive(Debug, Default)]
struct Builder {
    graph: graph::GraphBuilder,
    translator: translate::Translator,
}

impl Builder {
    /// Builds graph and state of a cluster, and puts diagnostics into their order.
    fn build(
        &mut self,
        cluster: &cluster::Cluster,
        options: &Options,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> (Arc<graph::Graph>, Arc<State>) {
        let now = jiff::Timestamp::now().as_second();
        let graph = self.graph.build(cluster, options, now, diagnostics);
        let guards = guard::build_guards(cluster, options);
        let state = self.translator.translate(&graph, guards);
        diagnostics::sort(diagnostics);
        (graph, state)
    }
}
